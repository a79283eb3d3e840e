"""A saved graph comes back whole; files that are foreign, cut off or altered are refused, and say what to do."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.testing import assert_close

from graphattn.graph import AttentionGraph, bicliques
from tests.strategies import dense, graphs, kinds_at

EDGES = torch.tensor([[0, 2, 1], [0, 0, 1]])
SUFFIXES = (".safetensors", ".npz")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graphs(), st.sampled_from(SUFFIXES))
def test_a_saved_graph_comes_back_whole(tmp_path: Path, graph: AttentionGraph, suffix: str) -> None:
    path = tmp_path / f"graph{suffix}"
    graph.save(path)
    again = AttentionGraph.load(path)
    assert again == graph
    assert repr(again) == repr(graph)
    assert (again.blocks is None) == (graph.blocks is None or suffix == ".npz")
    assert kinds_at(again) == kinds_at(graph)
    assert again.kinds == graph.kinds
    assert_close((again.src_ptr, again.dst_ptr), (graph.src_ptr, graph.dst_ptr))
    assert_close(again.head_mask, graph.head_mask)
    assert os.listdir(tmp_path) == [path.name]  # no half file beside it
    graph.save(str(path))  # over itself
    path.unlink()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graphs(heads=False))
def test_npz_is_what_scipy_writes_and_reads(tmp_path: Path, graph: AttentionGraph) -> None:
    path = tmp_path / "graph.npz"
    graph.save(path)
    if graph.num_src_nodes and graph.num_dst_nodes:
        assert_close(torch.from_numpy(scipy.sparse.load_npz(path).toarray()), dense(graph))
    scipy.sparse.save_npz(path, graph.to_scipy().astype(float))
    again = AttentionGraph.load(path)
    assert again == graph
    assert "load(graph.npz)" in repr(again)


def example() -> AttentionGraph:
    ptr, node = torch.tensor([0, 40]), torch.arange(40)
    return AttentionGraph(EDGES + 40, 50, 50, blocks=bicliques(ptr, node, ptr, node), kinds=("full",))


def saved(path: Path) -> bytes:
    example().save(path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("length", [0, 7, 100, -8])
def test_a_truncated_file_is_refused(length: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"graph{suffix}"
    path.write_bytes(saved(path)[:length])
    with pytest.raises(ValueError, match=rf"graph{suffix} is not a readable {suffix[1:]} file .* Save the graph again"):
        AttentionGraph.load(path)


def test_a_file_with_damaged_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "graph.safetensors"
    content = bytearray(saved(path))
    content[-400:] = bytes(255 for _ in range(400))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"graph.safetensors is damaged \(.* must .*\). Save the graph again"):
        AttentionGraph.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_altered_byte_gives_a_clear_refusal_or_a_valid_graph(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"graph{suffix}"
    content = saved(path)
    for at in torch.randint(len(content), (150,), generator=torch.Generator().manual_seed(0)).tolist():
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            graph = AttentionGraph.load(path)
        except ValueError as error:
            assert path.name in str(error)
        else:
            assert_close(graph.to_mask(), dense(graph))


@pytest.mark.parametrize(
    ("tensors", "header", "advice"),
    [
        ({"weight": EDGES}, None, r"must be a graph of format graphattn.AttentionGraph.1, got None. Write it with"),
        (
            {"weight": EDGES},
            {"format": "pt"},
            "must be a graph of format .*, got 'pt'. Write it with AttentionGraph.save",
        ),
        ({"weight": EDGES}, {"format": "graphattn.AttentionGraph.1"}, r"lacks \['edge_index'\]. Save the graph again"),
        (
            {"edge_index": EDGES, "blocks.dst": EDGES[0].clone()},
            {"format": "graphattn.AttentionGraph.1"},
            r"lacks \['blocks.dst_ptr', 'blocks.kind', .*\]. Save the graph again",
        ),
        (
            {"edge_index": EDGES},
            {"format": "graphattn.AttentionGraph.1"},
            "has a damaged header .*num_src_nodes.* Save",
        ),
        (
            {"edge_index": EDGES.float()},
            {
                "format": "graphattn.AttentionGraph.1",
                "num_src_nodes": "3",
                "num_dst_nodes": "2",
                "kinds": "[]",
                "origin": "",
            },
            r"is damaged \(edge_index must have dtype torch.int64, got torch.float32.*\). Save the graph again",
        ),
    ],
)
def test_a_foreign_or_incomplete_file_is_refused(
    tensors: dict[str, torch.Tensor], header: dict[str, str] | None, advice: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "other.safetensors", metadata=header)
    with pytest.raises(ValueError, match=rf"other.safetensors {advice}"):
        AttentionGraph.load(tmp_path / "other.safetensors")


ARRAYS = {
    "format": np.array("csr"),
    "shape": np.array([2, 3]),
    "indptr": np.array([0, 2, 3]),
    "indices": np.array([0, 2, 1]),
    "data": np.ones(3),
}


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"indptr": None}, r"lacks \['indptr'\]. Write it with graph.save or save_npz of scipy"),
        ({"format": np.array("csc")}, r"is damaged \(the format must be 'csr', got 'csc'; call matrix.tocsr\(\)"),
        ({"indptr": np.array([0, 3])}, "indptr must rise from 0 to 3 in 3 entries"),
        ({"indptr": np.array([0, 4, 3])}, "indptr must rise from 0 to 3 in 3 entries"),
        ({"indptr": np.array([0.0, 2.0, 3.0])}, "indptr must be a flat array of integers, got float64"),
        ({"indices": np.array([0, 3, 1])}, r"edge_index\[0\] must lie in \[0, num_src_nodes\) = \[0, 3\), got 3"),
        ({"indices": np.array([2, 0, 1])}, "edge_index is not sorted by"),
        ({"data": np.ones(2)}, r"data must have 3 entries, got \[2\]"),
        ({"shape": np.array([2, 3, 4])}, "is damaged .*too many values"),
        ({"head_mask": np.ones((3, 2))}, r"head_mask must be bool \[num_edges, num_heads\]"),
        ({"edge_kind": np.array([4, 4, 4])}, "edge_kind must lie in .* Name every bit"),
        ({"edge_kind": np.array(["a", "b", "c"])}, "is damaged"),
        ({"data": np.array([object()] * 3)}, "is not a readable npz file .*allow_pickle"),
    ],
)
def test_an_npz_with_wrong_fields_is_refused(changes: dict[str, Any], advice: str, tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, **{name: array for name, array in (ARRAYS | changes).items() if array is not None})
    with pytest.raises(ValueError, match=rf"other.npz .*{advice}"):
        AttentionGraph.load(path)
    np.savez(path, **ARRAYS)
    assert AttentionGraph.load(path) == AttentionGraph(torch.tensor([[0, 2, 1], [0, 0, 1]]), 3, 2)


def test_a_lone_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "array.npz"
    with open(path, "wb") as stream:
        np.save(stream, np.ones(3))
    with pytest.raises(
        ValueError, match=r"array.npz is not a readable npz file \(it holds one array without a name\). Save the"
    ):
        AttentionGraph.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_is_no_graph(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"notes{suffix}"
    path.write_text("not a graph at all, and long enough to hold a header")
    with pytest.raises(ValueError, match=rf"notes{suffix} is not a readable {suffix[1:]} file .* Save the graph again"):
        AttentionGraph.load(path)


@pytest.mark.parametrize("name", ["graph", "graph.txt", "graph.npz.bak"])
def test_an_unknown_format_is_refused_with_those_known(name: str, tmp_path: Path) -> None:
    for action in (lambda: AttentionGraph.load(tmp_path / name), lambda: example().save(tmp_path / name)):
        with pytest.raises(
            ValueError, match=r"path must end in .safetensors or .npz, got '.*graph.*'. .safetensors keeps"
        ):
            action()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_saved_graph_may_be_read_by_whom_the_umask_lets(suffix: str, tmp_path: Path) -> None:
    plain, saved = tmp_path / "plain", tmp_path / f"graph{suffix}"
    plain.touch()
    AttentionGraph(EDGES, 3).save(saved)
    assert saved.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_file_says_how_to_write_one(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file: .*missing.*. Write one with graph.save\(path\)"):
        AttentionGraph.load(tmp_path / f"missing{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no such file: .*"):
        AttentionGraph.load(tmp_path / f"folder{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_save_leaves_the_old_file_and_nothing_else(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"(?i)no such file"):
        example().save(tmp_path / "no" / f"folder{suffix}")
    (tmp_path / f"taken{suffix}").mkdir()
    with pytest.raises(OSError, match=r"(?i)directory"):
        example().save(tmp_path / f"taken{suffix}")
    assert os.listdir(tmp_path) == [f"taken{suffix}"]


def test_blocks_too_large_to_list_fit_into_safetensors_only(tmp_path: Path) -> None:
    node, ptr = torch.arange(10**5), torch.tensor([0, 10**5])
    graph = AttentionGraph.trusted(None, 10**5, blocks=bicliques(ptr, node, ptr, node))
    graph.save(tmp_path / "graph.safetensors")
    assert AttentionGraph.load(tmp_path / "graph.safetensors") == graph
    with pytest.raises(ValueError, match=r"would hold 10,000,000,000 edges .* Keep it as blocks"):
        graph.save(tmp_path / "graph.npz")
