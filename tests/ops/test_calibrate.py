"""Constants measured here: what is written, who reads it, and what is ignored with advice."""

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from graphattn.connectivity import sliding_window
from graphattn.ops import _dispatch as dispatch
from graphattn.ops import calibrate as calibration_module
from graphattn.ops import capability, explain
from graphattn.ops._costs import FORMAT, NAMES, SHIPPED, constants_for, costs_file, device_class
from graphattn.ops._impl import fused
from graphattn.ops.calibrate import CASES, HEADS, Calibration, calibrate, disproof, make_graph, save, table
from graphattn.ops.memory_floor import floor_bytes

TINY = (("window", 16, 8), ("random", 32, 4), ("random", 64, 16), ("cliques", 32, 8), ("molecules", 32, 8))
SIZES = dispatch.Sizes(3, 5, 5, torch.float32, torch.device("cpu"))
ADVICE = r"and takes those that ship: .* Run `graphattn info --calibrate` to measure again, or delete the file"


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where constants are kept during a test: in a folder that does not exist yet."""
    monkeypatch.setenv("GRAPHATTN_COSTS", str(tmp_path / "cache" / "costs.json"))
    constants_for.cache_clear()
    yield tmp_path / "cache" / "costs.json"
    constants_for.cache_clear()


def favoring(impl: str) -> Calibration:
    costs = {name: dict.fromkeys(names, 1.0 if name == impl else 1e6) for name, names in NAMES.items()}
    return Calibration("cpu", costs, dict.fromkeys(NAMES, (1.1, 1.5)), 7, {}, None)


def test_every_constant_of_every_implementation_is_measured() -> None:
    lines: list[str] = []
    calibration = calibrate(TINY, seconds=0.001, report=lines.append)
    assert len(lines) == len(TINY) and lines[0] == "measuring 1 of 5: window, 16 nodes, 8 keys"
    for impl, names in NAMES.items():
        assert tuple(calibration.costs[impl]) == names
        assert all(constant >= 0 for constant in calibration.costs[impl].values())
        assert any(constant > 0 for constant in calibration.costs[impl].values())
        median, worst = calibration.off[impl]
        assert 1 <= median <= worst
    assert calibration.num_measured >= 2 * len(TINY) * len(HEADS)  # all serve dense and fused
    *of_impls, copied = table(calibration).splitlines()
    assert [line.split()[0] for line in of_impls] == list(NAMES) and copied.startswith("a large copy reads and writes")
    assert calibration.proved == {}  # on the CPU nothing waits for a proof
    assert 1e8 < calibration.bytes_per_second < 1e13


def test_measured_constants_decide_once_they_are_saved(path: Path) -> None:
    graph = sliding_window(67, 3)
    for favored in ("dense", "scatter", "fused"):
        assert save(favoring(favored)) == path
        assert dispatch.choose(graph, SIZES, False) == favored
    record = json.loads(path.read_text())
    assert record["format"] == FORMAT and record["device"] == "cpu"
    assert record["num_threads"] == torch.get_num_threads()
    assert set(record["versions"]) >= {"graphattn", "torch", "numba"}
    assert list(path.parent.iterdir()) == [path]  # nothing unfinished is left


def test_a_file_is_read_once(path: Path) -> None:
    save(favoring("scatter"))
    graph = sliding_window(67, 3)
    assert dispatch.choose(graph, SIZES, False) == "scatter"
    path.unlink()
    assert dispatch.choose(graph, SIZES, False) == "scatter"


def test_explain_names_the_file_and_its_date_or_says_that_constants_shipped(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explain(torch.zeros(67, 3, 5), sliding_window(67, 3))
    assert "  constants: shipped for cpu" in capsys.readouterr().out
    save(favoring("dense"))
    explain(torch.zeros(67, 3, 5), sliding_window(67, 3))
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(rf"  constants: {re.escape(str(path))}, measured \d{{4}}-\d\d-\d\d on \d+ threads?", last)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "graphattn.costs.0"}, "its format must be 'graphattn.costs.2', got 'graphattn.costs.0'"),
        ({"device": "cuda"}, "it was measured for 'cuda', and this call runs on 'cpu'"),
        ({"costs": {}}, "numbers of at least 0 for dense: fixed"),
        ({"costs": None}, "numbers of at least 0 for dense: fixed"),
        ({"costs": SHIPPED["cpu"] | {"fused": {"fixed": -1}}}, "numbers of at least 0 for fused: fixed"),
        ({"date": ...}, "it must have a date"),
        ({"bytes_per_second": "fast"}, "its bytes_per_second must be a positive number, got 'fast'"),
        ({"bytes_per_second": 0}, "its bytes_per_second must be a positive number, got 0"),
        ({"proved": ["fused"]}, "it must have a date"),
        (
            {"costs": {name: SHIPPED["cpu"][name] for name in ("dense", "scatter")}, "proved": {"gather": True}},
            "gather:",
        ),
        ("{", "it is no JSON"),
        ("[]", "its format must be 'graphattn.costs.2', got 'list'"),
        (b"\xff\xfe", "it cannot be read"),
        (None, "it cannot be read"),  # a folder
    ],
)
def test_a_file_that_is_foreign_or_broken_is_ignored_with_one_warning(path: Path, change, reason: str) -> None:
    save(favoring("scatter"))
    if isinstance(change, dict):
        record = json.loads(path.read_text()) | change
        path.write_text(json.dumps({name: value for name, value in record.items() if value is not ...}))
    elif change is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(change if isinstance(change, bytes) else change.encode())
    with pytest.warns(UserWarning, match=ADVICE) as caught:
        assert constants_for("cpu").by_impl == SHIPPED["cpu"]
    assert len(caught) == 1 and str(path) in str(caught[0].message) and reason in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dispatch.choose(sliding_window(67, 3), SIZES, False)


def test_constants_of_a_gpu_stand_beside_those_of_the_cpu(path: Path) -> None:
    graph = sliding_window(67, 3)
    save(favoring("scatter"))
    saved = save(favoring("gather")._replace(device="cuda"))
    assert saved == path.with_name("costs.cuda.json") and path.exists()
    assert json.loads(saved.read_text())["device"] == "cuda"
    on_gpu = SIZES._replace(device=torch.device("cuda"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dispatch.choose(graph, SIZES, False) == "scatter"
        assert dispatch.estimate("dense", graph, on_gpu) > dispatch.estimate("scatter", graph, on_gpu) > 1e6
        assert constants_for("cuda").source.startswith(f"{saved}, measured")


# --- proofs --------------------------------------------------------------------------------------------------------

ON_CUDA = SIZES._replace(device=torch.device("cuda"))


def test_auto_takes_on_cuda_what_was_proved_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(capability._DEVICES, "fused", ("cpu", "cuda"))
    graph = sliding_window(67, 3)
    for proved in ({}, {"fused": False, "sdpa": False}, {"fused": True}):
        save(favoring("fused")._replace(device="cuda", proved=proved))
        is_taken = proved.get("fused", False)
        assert capability.is_proved("fused", "cuda") == is_taken and not capability.is_proved("sdpa", "cuda")
        assert (dispatch.choose(graph, ON_CUDA, False) == "fused") == is_taken
        assert dispatch.resolve("fused", graph, ON_CUDA, False) == "fused"
    save(favoring("sdpa")._replace(device="cuda", proved={"sdpa": True}))
    assert dispatch.choose(graph, ON_CUDA, False) == "sdpa" and dispatch.choose(graph, ON_CUDA, True) != "fused"
    assert not capability.is_proved("flex", "cuda")


def test_a_file_from_before_proofs_and_copies_is_read(path: Path) -> None:
    saved = save(favoring("gather")._replace(device="cuda"))
    record = json.loads(saved.read_text())
    del record["proved"], record["bytes_per_second"]
    saved.write_text(json.dumps(record))
    constants_for.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = constants_for("cuda")
    assert found.by_impl == record["costs"] and (found.proved, found.bytes_per_second) == (frozenset(), None)


def test_a_compiled_region_takes_what_was_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(capability._UNPROVED, "fused", ("cpu",))
    graph = sliding_window(67, 3)
    graph.plan()

    def chosen(x: torch.Tensor) -> torch.Tensor:
        return x + len(dispatch.choose(graph, SIZES, False))

    for proved, wanted in (({}, "scatter"), ({"fused": True}, "fused")):
        save(favoring("dense")._replace(proved=proved))
        torch._dynamo.reset()
        assert int(torch.compile(chosen, fullgraph=True, backend="eager")(torch.zeros(1))) == len(wanted)
    torch._dynamo.reset()


@pytest.mark.parametrize("impl", ["fused", "sdpa", "blocks", "gather"])
def test_what_is_right_passes_its_proof(impl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_module, "PROOFS", (("window", 32, 8), ("random", 48, 16), ("molecules", 64, 16)))
    assert disproof(impl, torch.device("cpu")) is None


def test_what_is_wrong_is_told_and_neither_timed_nor_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_module, "PROOFS", (("window", 32, 8),))
    monkeypatch.setitem(capability._UNPROVED, "fused", ("cpu",))
    monkeypatch.setitem(capability._UNPROVED, "sdpa", ("cpu",))
    right = fused.attention

    def wrong(*arguments, **options):
        out, *others = right(*arguments, **options)
        return out * (1 + 1e-3 * (options.get("edge_gate") is not None)), *others

    monkeypatch.setattr(fused, "attention", wrong)
    with pytest.warns(
        UserWarning, match="impl='fused' is left out on cpu: window, 32 nodes, 8 keys, all but features, torch"
    ):
        calibration = calibrate(TINY, seconds=0.001)
    assert calibration.proved == {"fused": False, "sdpa": True} and "fused" not in calibration.costs
    assert "fused    is not proved here" in table(calibration) and "sdpa     is proved here" in table(calibration)
    save(calibration)
    assert "fused" not in constants_for("cpu").by_impl and not capability.is_proved("fused", "cpu")
    assert capability.is_proved("sdpa", "cpu")
    assert dispatch.choose(sliding_window(4096, 16), SIZES, False) != "fused"


def test_explain_tells_the_share_of_the_floor_and_who_was_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(capability._DEVICES, "fused", ("cpu", "cuda"))
    favored = favoring("scatter")
    del favored.costs["fused"]
    save(favored._replace(proved={"fused": False}, bytes_per_second=2e9))
    graph = sliding_window(67, 3)
    explain(torch.zeros(67, 3, 5), graph)
    printed = capsys.readouterr().out
    floor = floor_bytes(graph, leaves=3 * 67 * 15 * 4, others=0, out=67 * 15 * 4, num_heads=3)
    share = 1e6 * floor.both / 2e9 / dispatch.estimate("scatter", graph, SIZES)
    assert f"at the 2 GB/s of a large copy; the choice is expected to reach {share:.0%} of that floor" in printed
    assert "  fused    can, if it is named: it was not right when this machine was calibrated" in printed
    explain(torch.zeros(67, 3, 5), graph, reads_edges=True)
    assert "each byte once, beside what is told per edge: " in capsys.readouterr().out


def test_a_file_that_does_not_exist_is_no_reason_to_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert constants_for("cpu").by_impl == SHIPPED["cpu"]


def test_a_compiled_region_reads_no_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("{")
    graph = sliding_window(67, 3)
    graph.plan()

    def chosen(x: torch.Tensor) -> torch.Tensor:
        return x + len(dispatch.choose(graph, SIZES, False))

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert int(torch.compile(chosen, fullgraph=True, backend="eager")(torch.zeros(1))) == len("fused")
    torch._dynamo.reset()


def test_constants_live_in_the_users_cache_unless_a_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRAPHATTN_COSTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert costs_file() == tmp_path / "graphattn" / "costs.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert costs_file() == tmp_path / ".cache" / "graphattn" / "costs.json"


def test_what_ships_has_every_constant_for_its_class_of_device() -> None:
    for costs in SHIPPED.values():
        assert {impl: set(constants) for impl, constants in costs.items()} == {
            impl: set(names) for impl, names in NAMES.items()
        }
    assert device_class("cpu") == device_class("mps") == "cpu"


@pytest.mark.parametrize("kind", ["window", "random", "cliques", "molecules"])
def test_graphs_are_of_the_kind_that_they_are_called(kind: str) -> None:
    graph = make_graph(kind, 64, 16)
    degree = graph.enumerate().plan().target_ptr.diff()
    assert (degree == 16).all() == (kind != "molecules")
    assert 8 <= degree.min() and degree.max() <= 24
    in_ranges = 0 if kind == "random" else graph.num_edges
    assert graph.plan().num_ranged == in_ranges
    assert (graph.blocks is not None) == (kind in ("cliques", "molecules"))


def test_the_graphs_that_are_measured_can_be_made() -> None:
    assert all(degree <= num_nodes for _, num_nodes, degree in CASES)
    assert {kind for kind, _, _ in CASES} == {"window", "random", "cliques", "molecules"}


def test_blocks_are_timed_padded_where_their_unpadded_way_is_not_proved(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration_module, "PROOFS", (("molecules", 64, 16),))
    monkeypatch.setitem(capability._UNPROVED, "varlen", ("cpu",))
    with pytest.warns(UserWarning, match="the unpadded way of blocks is left out on cpu: it serves no call there"):
        calibration = calibrate(TINY, seconds=0.001)
    assert calibration.proved == {"varlen": False} and "blocks" in calibration.costs
    save(calibration)
    assert "blocks" in constants_for("cpu").by_impl and not capability.is_proved("varlen", "cpu")
