"""Recordings: examples of a batch, and files that are whole, checked, or refused."""

import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphattn.connectivity import full, global_tokens, sliding_window
from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.viz.recording import Recording, Step, offsets_of, part_of
from tests.ops.graphs import GRAPHS, with_heads


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def step_over(graph: AttentionGraph, name: str = "layer", num_heads: int = 3, **changes: Any) -> Step:
    """A step with every tensor there can be, its numbers at random."""
    listed = graph.enumerate()
    step = Step(
        name=name,
        call=0,
        kind="attention",
        graph=listed,
        alpha=drawn(listed.num_edges, num_heads),
        head=torch.arange(num_heads) * 2,
        edge_gate=drawn(listed.num_edges, num_heads),
        head_gate=drawn(num_heads),
        value_norm=drawn(listed.num_src_nodes, num_heads),
        gradient=drawn(listed.num_edges, num_heads),
        kept=drawn(listed.num_dst_nodes, num_heads),
    )
    return replace(step, **changes)


def same(left: Recording, right: Recording) -> bool:
    def parts(recording: Recording) -> list[Any]:
        found: list[Any] = []
        for step in recording.steps:
            graph = step.graph
            found += [step.name, step.call, step.kind, graph.kinds, graph.origin, graph.num_graphs]
            found += [step.alpha, step.head, step.edge_gate, step.head_gate, step.value_norm, step.gradient, step.kept]
            found += [graph.edge_index, graph._edge_kind, graph.head_mask, graph.src_ptr, graph.dst_ptr]
        return found

    return len(left.steps) == len(right.steps) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or a == b
        for a, b in zip(parts(left), parts(right))
    )


# --- what it says --------------------------------------------------------------------------------------------------


def test_it_lists_weights_and_graphs_and_says_how_much_it_holds() -> None:
    graph = sliding_window(11, 2)
    recording = Recording([step_over(graph), step_over(graph, "other", num_heads=1)])
    assert [alpha.shape for alpha in recording.alphas()] == [(49, 3), (49, 1)]
    assert recording.graphs()[0] is recording.graphs()[1]
    # edges of the graph once; 3 numbers per edge, 1 per source, per target and of its own per head; numbers of heads
    num_bytes = 49 * 16 + (3 * 49 + 11 + 11 + 1) * 4 * (3 + 1) + (3 + 1) * 8
    assert repr(recording) == f"Recording(2 steps, 98 edges, 1–3 heads, {round(num_bytes / 1e3)} kB)"
    assert repr(recording.steps[1]) == "Step('other', call 0, attention: 49 edges, 1 heads)"
    assert repr(Recording()) == "Recording(0 steps, 0 edges, 1 kB)" and Recording().num_examples == 0


# --- examples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_heads", [False, True])
def test_examples_are_numbered_from_zero_and_keep_what_is_theirs(has_heads: bool) -> None:
    parts = [sliding_window(5, 1), full(0), full(3).enumerate(), sliding_window(4, 2)]
    graph = disjoint_union(parts).enumerate()
    graph = with_heads(graph) if has_heads else graph
    graph = AttentionGraph(graph.edge_index, 12, src_ptr=torch.tensor([0, 5, 5, 8, 12]), head_mask=graph.head_mask)
    step = step_over(graph)
    recording = Recording([step])
    assert recording.num_examples == 4
    edge = node = 0
    for number, part in enumerate(parts):
        [own] = recording.example(number).steps
        assert torch.equal(own.graph.edge_index, part.edge_index)
        assert (own.graph.num_src_nodes, own.graph.num_graphs) == (part.num_src_nodes, 1)
        edges, nodes = slice(edge, edge + part.num_edges), slice(node, node + part.num_src_nodes)
        for name in ("alpha", "edge_gate", "gradient"):
            assert torch.equal(getattr(own, name), getattr(step, name)[edges])
        for name in ("value_norm", "kept"):
            assert torch.equal(getattr(own, name), getattr(step, name)[nodes])
        assert torch.equal(own.head, step.head) and torch.equal(own.head_gate, step.head_gate)
        if graph.head_mask is not None:
            assert torch.equal(own.graph.head_mask, graph.head_mask[edges])
        edge, node = edge + part.num_edges, node + part.num_src_nodes


def test_steps_that_share_a_graph_share_its_examples() -> None:
    graph = full(torch.tensor([2, 3])).enumerate()
    graphs = Recording([step_over(graph), step_over(graph, "other")]).example(1).graphs()
    assert graphs[0] is graphs[1] and graphs[0] == full(3)


def test_kinds_of_edges_stay_with_their_example() -> None:
    graph = sliding_window(torch.tensor([3, 4]), 1) | global_tokens(torch.tensor([3, 4]), [0])
    second = Recording([step_over(graph)]).example(1).steps[0].graph
    of_example = graph.edge_index[1] >= 3
    assert second.kinds == graph.kinds and torch.equal(second.edge_kind, graph.edge_kind[of_example])


def test_pooled_levels_split_by_their_own_offsets() -> None:
    sizes, pooled = torch.tensor([5, 3]), torch.tensor([2, 1])
    steps = [step_over(full(sizes)), step_over(full(sizes, dst_sizes=pooled), kind="pool"), step_over(full(pooled))]
    last = Recording(steps).example(1)
    shapes = [(step.graph.num_src_nodes, step.graph.num_dst_nodes) for step in last.steps]
    assert shapes == [(3, 3), (3, 1), (1, 1)]
    assert torch.equal(last.steps[1].alpha, steps[1].alpha[10:])


@pytest.mark.parametrize("index", [-1, 2, True, 0.0])
def test_an_example_that_is_not_there_is_refused(index: Any) -> None:
    recording = Recording([step_over(full(torch.tensor([2, 3])))])
    with pytest.raises(IndexError, match=re.escape("index must lie in [0, num_examples) = [0, 2), got")):
        recording.example(index)


def test_a_graph_that_knows_of_no_batch_is_named() -> None:
    recording = Recording([step_over(full(torch.tensor([2, 3]))), step_over(full(5), "late")])
    with pytest.raises(ValueError, match="graph of 'late' does not tell examples apart: it holds 1, others"):
        recording.example(0)


def test_several_examples_stay_a_batch() -> None:
    graph = sliding_window(torch.tensor([3, 2, 4]), 1)
    part = part_of(graph, offsets_of(graph), torch.tensor([0, 2]))
    assert part.graph == sliding_window(torch.tensor([3, 4]), 1) and part.graph.dst_ptr.tolist() == [0, 3, 7]
    assert part.src.tolist() == part.dst.tolist() == [0, 1, 2, 5, 6, 7, 8]
    assert part.edge.tolist() == [*range(7), *range(11, 21)]


# --- files ---------------------------------------------------------------------------------------------------------


def bare(step: Step) -> Step:
    return replace(step, edge_gate=None, head_gate=None, value_norm=None, gradient=None)


RECORDINGS = {
    "every graph": Recording([step_over(graph, name, call=7) for name, graph in GRAPHS.items()]),
    "nothing that need not be": Recording([bare(step_over(full(torch.tensor([2, 3])), kind="pool"))]),
    "kinds": Recording([step_over(global_tokens(torch.tensor([3, 2]), [0]) | sliding_window(torch.tensor([3, 2]), 1))]),
    "no head": Recording([step_over(full(3), num_heads=0)]),
    "nothing": Recording(),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_file_brings_back_what_was_saved(name: str, tmp_path: Path) -> None:
    recording = RECORDINGS[name]
    path = recording.save(tmp_path / "record.safetensors")
    assert path == tmp_path / "record.safetensors" and os.listdir(tmp_path) == ["record.safetensors"]
    loaded = Recording.load(str(path))
    assert same(loaded, recording) and not same(loaded, Recording([step_over(full(3))]))
    assert repr(loaded) == repr(recording)


def test_a_graph_that_steps_share_is_in_the_file_once_and_shared_again(tmp_path: Path) -> None:
    graph = sliding_window(500, 4).enumerate()
    one, twelve = Recording([step_over(graph)]), Recording([step_over(graph, str(number)) for number in range(12)])
    sizes = [recording.save(tmp_path / "record.safetensors").stat().st_size for recording in (one, twelve)]
    of_graph = graph.edge_index.numel() * 8
    assert abs(sizes[1] - 12 * sizes[0] + 11 * of_graph) < 0.02 * sizes[1]
    assert len({id(graph) for graph in Recording.load(tmp_path / "record.safetensors").graphs()}) == 1


def test_views_are_saved_as_what_they_show(tmp_path: Path) -> None:
    alpha = drawn(3, 9).T
    step = bare(step_over(full(3), alpha=alpha, kept=alpha[:3]))
    Recording([step]).save(tmp_path / "record.safetensors")
    assert_close(Recording.load(tmp_path / "record.safetensors").alphas()[0], alpha)


def test_a_failed_save_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = RECORDINGS["kinds"].save(tmp_path / "record.safetensors")

    def full_disk(*names: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        RECORDINGS["every graph"].save(path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["record.safetensors"] and same(Recording.load(path), RECORDINGS["kinds"])


def test_where_nothing_can_be_written_that_is_said(tmp_path: Path) -> None:
    recording = RECORDINGS["kinds"]
    with pytest.raises(FileNotFoundError, match="Make it first"):
        recording.save(tmp_path / "missing" / "record.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        recording.save(tmp_path / "file" / "record.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(OSError):
        recording.save(tmp_path / "folder.safetensors")
    for use in (recording.save, Recording.load):
        with pytest.raises(ValueError, match=re.escape("path must end in .safetensors, got 'record.json'")):
            use(tmp_path / "record.json")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.safetensors"]


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape("recording.save(path)")):
        Recording.load(tmp_path / "record.safetensors")


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the JSON header of a safetensors file: its length in 8 bytes, then itself, then the tensors."""
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    change(header)
    made = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(made)) + made + whole[8 + length :])


def in_json(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def changed(header: dict[str, Any]) -> None:
        about = json.loads(header["__metadata__"][name])
        header["__metadata__"][name] = json.dumps(change(about))

    return changed


def metadata(**values: str) -> Callable[[dict[str, Any]], None]:
    return lambda header: header["__metadata__"].update(values)


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    return lambda header: header.update({new: header.pop(old)})


@pytest.mark.parametrize(
    "change, advice",
    [
        (metadata(format="graphattn.Recording.2", graphattn="9.9"), "by graphattn 9.9 in version 2 of its format"),
        (
            metadata(format="graphattn.AttentionGraph.1"),
            "must be a record, got the format 'graphattn.AttentionGraph.1'",
        ),
        (metadata(format=""), "must be a record, got the format ''"),
        (metadata(steps="[{"), "is damaged"),
        (metadata(graphs="3"), "is damaged"),
        (in_json("steps", lambda steps: [steps[0] | {"kind": "pooling"}]), "kind must be one of"),
        (in_json("steps", lambda steps: [steps[0] | {"graph": 1}]), "is damaged"),
        (in_json("steps", lambda steps: [steps[0] | {"call": None}]), "is damaged"),
        (in_json("steps", lambda steps: steps + steps), "is damaged"),
        (in_json("graphs", lambda graphs: [graphs[0] | {"sizes": [3, 3]}]), "is damaged"),
        (in_json("graphs", lambda graphs: [graphs[0] | {"sizes": [6, 6]}]), "is damaged"),
        (renamed("step.0.alpha", "step.1.alpha"), "step 0 lacks alpha"),
        (renamed("graph.0.edge_index", "graph.1.edge_index"), "is damaged"),
        (
            lambda header: header["step.0.value_norm"].update(shape=[3, 5]),
            "value_norm of step 0 must be float32 [5, 3]",
        ),
        (lambda header: header["step.0.alpha"].update(dtype="I32"), "alpha of step 0 must be float32"),
        (lambda header: header["step.0.head"].update(dtype="F64"), "head of step 0 must be int64"),
        (lambda header: header["step.0.alpha"].update(shape=[1000, 3]), "not a readable safetensors file"),
    ],
)
def test_a_file_of_another_version_or_a_damaged_one_is_refused(
    change: Callable[[dict[str, Any]], None], advice: str, tmp_path: Path
) -> None:
    path = RECORDINGS["kinds"].save(tmp_path / "record.safetensors")
    rewritten(path, change)
    with pytest.raises(ValueError, match=re.escape(advice)) as caught:
        Recording.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_file_cut_off_is_refused(kept: int, tmp_path: Path) -> None:
    path = RECORDINGS["kinds"].save(tmp_path / "record.safetensors")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        Recording.load(path)


def test_a_graph_is_no_record(tmp_path: Path) -> None:
    full(3).save(tmp_path / "graph.safetensors")
    with pytest.raises(ValueError, match=re.escape("a graph is read by AttentionGraph.load")):
        Recording.load(tmp_path / "graph.safetensors")
