"""Shapes of programs: how one is chosen with a timer of ours, what is kept, and that results do not depend on it."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("numba")
pytest.importorskip("triton", reason="Triton, which the CUDA kernels need, is not installed")

from graphattn.ops._impl.triton import launch, tuning
from graphattn.ops._impl.triton.tuning import Tile
from tests.ops.test_fused_kernels import EXACT, GRAPHS, TERMS, check_against_reference, make_inputs, run_fused
from tests.ops.test_triton_kernels import fused_on_cuda  # noqa: F401  lets every test here reach the CUDA kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
GRAPH = GRAPHS["ragged"]


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tunes calls of every size, and keeps what is found in a folder that does not exist yet."""
    monkeypatch.setenv("GRAPHATTN_TUNE", "1")
    monkeypatch.setenv("GRAPHATTN_COSTS", str(tmp_path / "cache" / "costs.json"))
    tuning.forget()
    yield tmp_path / "cache" / "tiles.json"
    tuning.forget()


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[Tile]:
    """Every shape that is timed; the third of each class is the fastest."""
    seen: list[Tile] = []
    counted = {"of class": 0}
    fastest = tuning._fastest

    def starts(default, run, device):
        counted["of class"] = 0
        return fastest(default, run, device)

    def seconds(run, device):
        run()
        seen.append(run.args[0])
        counted["of class"] += 1
        return 1.0 if counted["of class"] == 3 else 2.0

    monkeypatch.setattr(tuning, "_fastest", starts)
    monkeypatch.setattr(tuning, "seconds", seconds)
    return seen


def used(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Tile]]:
    """The shape of each run over rows that follows."""
    found, choose = [], tuning.chosen

    def chosen(kernel, settings, rows, default, run):
        tile = choose(kernel, settings, rows, default, run)
        found.append((kernel.fn.__name__, tile))
        return tile

    monkeypatch.setattr(tuning, "chosen", chosen)
    return found


def test_shapes_to_try_hold_no_more_numbers_than_the_first() -> None:
    for default in (Tile(8, 16, 4), Tile(1, 1, 1), Tile(64, 32, 8), Tile(1, 32, 4)):
        tried = tuning.candidates(default)
        assert tried[0] == default and len(set(tried)) == len(tried) > 1
        assert all(tile.lanes * tile.block <= default.lanes * default.block for tile in tried)
        assert all(min(tile) >= 1 and tile.block <= tuning.MAX_BLOCK for tile in tried)


def test_each_class_is_timed_once_and_its_fastest_shape_is_run(
    timed: list[Tile], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs(GRAPH, TERMS["plain"])
    shapes = used(monkeypatch)
    check_against_reference(GRAPH, inputs, **EXACT)
    kept = json.loads(path.read_text())
    assert {"attention", "target_gradients", "weighted_sums"} == {name for name, _ in shapes}
    assert kept["format"] == tuning.FORMAT and {tuple(tile) for tile in kept["tiles"].values()} == {
        tile for _, tile in shapes
    }
    assert all(tile in timed for _, tile in shapes)
    number, before = len(timed), list(shapes)
    shapes.clear()
    check_against_reference(GRAPH, inputs, **EXACT)
    assert shapes == before and len(timed) == number
    tuning.forget()  # as another process would find them
    shapes.clear()
    check_against_reference(GRAPH, inputs, **EXACT)
    assert shapes == before and len(timed) == number
    assert list(path.parent.iterdir()) == [path]  # nothing unfinished is left


def test_another_width_dtype_term_or_degree_is_another_class(timed: list[Tile]) -> None:
    def key(graph="ragged", terms="plain", dtype=torch.float64):
        found, choose = [], tuning.class_of
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(tuning, "class_of", lambda *call: (found.append(choose(*call)), found[-1])[1])
            run_fused(GRAPHS[graph], make_inputs(GRAPHS[graph], TERMS[terms], dtype=dtype))
        return found[0]

    one = key()
    assert one == key() and one.startswith("attention BIAS_HEADS=0 ") and one.endswith("value=torch.float64")
    assert len({one, key(terms="all"), key(dtype=torch.float32), key(graph="hub and lonely")}) == 4


def test_results_depend_on_the_shape_by_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(GRAPH, TERMS["all"])
    for tile in tuning.candidates(Tile(8, 8, 4)):
        monkeypatch.setattr(tuning, "_fastest", lambda default, run, device, tile=tile: tile)
        tuning.forget()
        tuning.path().unlink(missing_ok=True)
        check_against_reference(GRAPH, inputs, **EXACT)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"format": "graphattn.tiles.1", "versions": {}, "tiles": {}}', b"\xff", None]
)
def test_a_broken_file_costs_nothing_but_the_tuning(text, timed: list[Tile], path: Path) -> None:
    path.parent.mkdir()
    if text is None:
        path.mkdir()  # can neither be read nor replaced
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    check_against_reference(GRAPH, make_inputs(GRAPH, TERMS["plain"]), **EXACT)
    number = len(timed)
    assert number > 0
    tuning.forget()
    check_against_reference(GRAPH, make_inputs(GRAPH, TERMS["plain"]), **EXACT)
    assert (len(timed) == number) == (text is not None)  # what was written replaced it
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("numbers", [[3, 5, 4], [0, 4, 4], [-4, 4, 4], [4, 4], [float("inf")] * 3])
def test_numbers_in_the_file_that_are_no_shape_are_left_out(
    numbers: list[float], timed: list[Tile], path: Path
) -> None:
    run_fused(GRAPH, make_inputs(GRAPH, TERMS["plain"]))
    record = json.loads(path.read_text())
    record["tiles"] = dict.fromkeys(record["tiles"], numbers)
    path.write_text(json.dumps(record))
    tuning.forget()
    number = len(timed)
    run_fused(GRAPH, make_inputs(GRAPH, TERMS["plain"]))
    assert len(timed) > number


def test_a_shape_that_does_not_fit_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(run, device):
        if run.args[0].warps != 2:
            raise launch.triton.OutOfResources(1, 0, "shared memory")
        return 1.0

    monkeypatch.setattr(tuning, "seconds", seconds)
    shapes = used(monkeypatch)
    run_fused(GRAPH, make_inputs(GRAPH, TERMS["plain"]))
    assert shapes and all(tile.warps == 2 for _, tile in shapes)


@pytest.mark.parametrize("setting", ["0", None])
def test_it_is_off_where_told_so_and_by_itself_in_the_interpreter(
    setting: str | None, timed: list[Tile], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setting is None:
        monkeypatch.delenv("GRAPHATTN_TUNE")
    else:
        monkeypatch.setenv("GRAPHATTN_TUNE", setting)
    out, *_ = run_fused(GRAPH, make_inputs(GRAPH, TERMS["plain"]))
    assert timed == [] and not path.exists()
    monkeypatch.setenv("GRAPHATTN_TUNE", "1")
    assert_close(run_fused(GRAPH, make_inputs(GRAPH, TERMS["plain"]))[0], out, **EXACT)
    assert timed


def test_the_timer_leaves_out_the_run_that_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, *(x for run in range(tuning.TIMED_RUNS) for x in (1000.0 * run, 1000.0 * run + 3.0))])
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: next(clock))
    assert tuning.seconds(lambda: None, torch.device("cpu")) == 3.0
