"""print(graph) states facts that can be counted on the dense matrix."""

import re
import statistics

import torch
from hypothesis import given

from graphattn.graph import AttentionGraph
from graphattn.graph.summary import density, in_degrees, summarize
from tests.strategies import dense, graphs


@given(graphs(heads=False))
def test_in_degrees_are_row_sums_and_no_block_is_listed(graph: AttentionGraph) -> None:
    assert in_degrees(graph).tolist() == dense(graph).sum(1).tolist()
    assert "listed" not in graph._cache


@given(graphs())
def test_print_states_what_can_be_counted(graph: AttentionGraph) -> None:
    text = str(graph)
    mask = dense(graph)
    mask = mask if mask.dim() == 2 else mask.any(0)
    degrees = mask.sum(1).tolist()
    assert text == summarize(graph)
    assert text.splitlines()[0] == repr(graph)
    assert f", {int(mask.sum())} edges" in text
    assert f" in {graph.num_graphs} graph" in text
    if degrees:
        assert f"min {min(degrees)}, median {statistics.median_low(degrees)}, max {max(degrees)}; " in text
        assert f"{degrees.count(0)} empty rows" in text
    assert ("kinds: " + ", ".join(graph.kinds) in text) == bool(graph.kinds)
    assert "in 1 graphs" not in text


@given(graphs())
def test_density_counts_the_pairs_inside_graphs_and_is_never_negative(graph: AttentionGraph) -> None:
    sizes = zip(torch.diff(graph.src_ptr).tolist(), torch.diff(graph.dst_ptr).tolist())
    num_pairs = sum(a * b for a, b in sizes)
    assert density(graph) == (graph.num_edges / num_pairs if num_pairs else 0)
    assert 0 <= density(graph) <= 1
    shown = re.search(r"density (\S+)% of", str(graph))
    assert shown is not None
    assert abs(float(shown[1]) / 100 - density(graph)) <= 1e-3 * density(graph)  # four digits are shown
