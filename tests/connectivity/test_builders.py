"""What all builders promise alike: canonical edges, batches without crossing edges, empty graphs, devices, advice."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from graphattn.connectivity import (
    axial,
    bigbird,
    block_diagonal,
    chunked,
    clusters,
    curve_windows,
    document,
    expander,
    fixed,
    full,
    global_tokens,
    grid,
    hops,
    knn,
    log_sparse,
    longformer,
    neighborhood,
    per_head,
    prefix_lm,
    radius,
    random_regular,
    routing,
    shifted_windows,
    sliding_window,
    strided,
    tree,
)
from graphattn.graph import AttentionGraph, disjoint_union

Builder = Callable[[int | Tensor], AttentionGraph]


def seeded(device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(7)


def line(sizes: int | Tensor) -> tuple[int] | Tensor:
    """The shape of grids of one axis."""
    return sizes[:, None] if isinstance(sizes, Tensor) else (sizes,)


def place(sizes: int | Tensor) -> Tensor:
    """The position of each node in its graph."""
    sizes = sizes if isinstance(sizes, Tensor) else torch.tensor([sizes])
    first = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    return torch.arange(first.numel(), device=sizes.device) - first


def batch_of(sizes: int | Tensor) -> Tensor | None:
    return sizes if isinstance(sizes, Tensor) else None


def device_of(sizes: int | Tensor) -> torch.device:
    return sizes.device if isinstance(sizes, Tensor) else torch.device("cpu")


PLAIN: dict[str, Builder] = {  # which take the sizes as they are
    "full": full,
    "sliding_window": lambda sizes: sliding_window(sizes, radius=3),
    "dilated": lambda sizes: sliding_window(sizes, radius=2, dilation=3),
    "global_tokens": lambda sizes: global_tokens(sizes, [0, -1]),
    "block_diagonal": lambda sizes: block_diagonal(sizes, 3),
    "chunked": lambda sizes: chunked(sizes, 2, before=1),
    "strided": lambda sizes: strided(sizes, 7),
    "strided_heads": lambda sizes: strided(sizes, 7, num_heads=2),
    "fixed": lambda sizes: fixed(sizes, 4, 2),
    "fixed_heads": lambda sizes: fixed(sizes, 5, 2, num_heads=4),
    "log_sparse": lambda sizes: log_sparse(sizes, radius=2, restart=11),
    "longformer": lambda sizes: longformer(sizes, radius=2),
    "prefix_lm": lambda sizes: prefix_lm(sizes, 0),
    "per_head": lambda sizes: per_head([sliding_window(sizes, 1), block_diagonal(sizes, 4)]),
}
MADE: dict[str, Builder] = {  # which take other things that are made of them
    "grid": lambda sizes: grid(line(sizes), radius=2),
    "neighborhood": lambda sizes: neighborhood(line(sizes), kernel_size=1),
    "shifted_windows": lambda sizes: shifted_windows(line(sizes), 4, 1),
    "curve_windows": lambda sizes: curve_windows(line(sizes), 3),
    "axial": lambda sizes: axial(line(sizes)),
    "clusters": lambda sizes: clusters(sizes, place(sizes) % 3),
    "routing": lambda sizes: routing(sizes, place(sizes) % 3, place(sizes) % 4),
    "document": lambda sizes: document(ids=place(sizes) // 5, sizes=batch_of(sizes)),
    "tree": lambda sizes: tree(torch.where(place(sizes) > 0, (place(sizes) - 1) // 2, -1), batch_of(sizes)),
    "hops": lambda sizes: hops(sliding_window(sizes, 1), 2),
    "knn": lambda sizes: knn(place(sizes)[:, None], 3, batch_of(sizes)),
    "radius": lambda sizes: radius(place(sizes)[:, None], 2, batch_of(sizes)),
}
EXACT = PLAIN | MADE
RANDOM: dict[str, Builder] = {
    "random_regular": lambda sizes: random_regular(sizes, 3, generator=seeded(device_of(sizes))),
    "expander": lambda sizes: expander(sizes, 4, generator=seeded(device_of(sizes))),
    "bigbird": lambda sizes: bigbird(sizes, 1, 2, generator=seeded(device_of(sizes))),
}
BUILDERS = EXACT | RANDOM
KINDS = {
    "full": ("full",), "sliding_window": ("window",), "dilated": ("window",), "global_tokens": ("global",),
    "block_diagonal": ("block",), "chunked": ("chunk",), "strided": ("local", "stride"),
    "strided_heads": ("local", "stride"), "fixed": ("summary", "local"), "fixed_heads": ("summary", "local"),
    "log_sparse": ("log",), "longformer": ("window", "global"), "prefix_lm": ("prefix",),
    "per_head": ("window", "block"), "grid": ("grid",), "neighborhood": ("neighborhood",), "shifted_windows": ("box",),
    "curve_windows": ("curve",), "axial": ("axial",), "clusters": ("cluster",), "routing": ("routing",),
    "document": ("document",), "tree": ("tree",), "hops": ("hop",), "knn": ("knn",), "radius": ("radius",),
    "random_regular": ("random",), "expander": ("expander",), "bigbird": ("window", "global", "random"),
}  # fmt: skip
SIZES = torch.tensor([5, 0, 1, 31, 2, 0, 11])

builders = pytest.mark.parametrize("name", BUILDERS)


@builders
@pytest.mark.parametrize("sizes", [13, SIZES], ids=["single", "batch"])
def test_edges_are_canonical_and_carry_their_kind(name: str, sizes: int | Tensor) -> None:
    graph = BUILDERS[name](sizes)
    assert graph.edge_index.dtype == torch.int64
    assert graph.num_edges > 0
    checked = AttentionGraph(  # the constructor checks what builders skip
        graph.edge_index, graph.num_src_nodes, src_ptr=graph.src_ptr, head_mask=graph.head_mask, blocks=graph.blocks
    )
    assert checked == graph
    assert graph.kinds == KINDS[name]
    assert int(graph.edge_kind.min()) >= 1  # some builder made each edge
    assert all(bool((graph.edge_kind & (1 << bit)).any()) for bit in range(len(graph.kinds)))


@builders
def test_a_batch_keeps_its_graphs_apart(name: str) -> None:
    graph = BUILDERS[name](SIZES)
    ptr = torch.cat([SIZES.new_zeros(1), SIZES.cumsum(0)])
    torch.testing.assert_close(graph.src_ptr, ptr)
    torch.testing.assert_close(graph.dst_ptr, ptr)
    src, dst = graph.edge_index
    batch = torch.repeat_interleave(SIZES)
    torch.testing.assert_close(batch[src], batch[dst])


@pytest.mark.parametrize("name", EXACT)
def test_a_batch_is_the_disjoint_union_of_its_graphs(name: str) -> None:
    singles = disjoint_union([EXACT[name](size) for size in SIZES.tolist()])
    batch = EXACT[name](SIZES)
    assert batch == singles
    torch.testing.assert_close(batch.edge_index, singles.edge_index)
    torch.testing.assert_close(batch.src_ptr, singles.src_ptr)


@builders
def test_a_batch_of_one_is_the_single_graph(name: str) -> None:
    single, batch = BUILDERS[name](17), BUILDERS[name](torch.tensor([17]))
    assert single == batch
    assert single.num_graphs == batch.num_graphs == 1


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "neighborhood"])  # here it has self edges alone
def test_the_sum_of_the_sizes_makes_one_graph_that_does_not_join_their_batch(name: str) -> None:
    batch = sliding_window(SIZES, radius=1)
    assert (BUILDERS[name](SIZES) | batch).num_graphs == SIZES.numel()
    with pytest.raises(ValueError, match=r"of the batch. An edge must join nodes of one graph: build it from"):
        BUILDERS[name](int(SIZES.sum())) | batch


@builders
@pytest.mark.parametrize("sizes", [0, torch.tensor([0, 0, 0]), torch.tensor([], dtype=torch.int64)], ids=str)
def test_nothing_makes_a_graph_without_edges(name: str, sizes: int | Tensor) -> None:
    graph = BUILDERS[name](sizes)
    assert (graph.num_src_nodes, graph.num_dst_nodes, graph.num_edges) == (0, 0, 0)
    assert graph.num_graphs == (1 if isinstance(sizes, int) else sizes.numel())
    assert graph.edge_index.shape == (2, 0)


@builders
def test_a_graph_of_one_node_has_its_self_edge_unless_it_is_an_expander(name: str) -> None:
    assert BUILDERS[name](1).edge_index.T.tolist() == ([] if name == "expander" else [[0, 0]])


ORIGINS = {
    "dilated": "sliding_window(", "strided_heads": "strided(", "fixed_heads": "fixed(",
    "longformer": "sliding_window(", "bigbird": "sliding_window(", "per_head": "per_head([sliding_window(",
}  # fmt: skip


@builders
def test_repr_says_how_the_graph_was_made(name: str) -> None:
    origin = re.escape(ORIGINS.get(name, f"{name}("))
    assert re.match(rf"AttentionGraph\({origin}\(?(ids of )?13\b", repr(BUILDERS[name](13)))
    shown = {"document": "ids of 50 tokens, 7 rows", "hops": "50 nodes"}.get(name, "7 graphs")
    assert re.match(rf"AttentionGraph\({origin}{shown}", repr(BUILDERS[name](SIZES)))


@builders
def test_sizes_are_left_as_they_were(name: str) -> None:
    sizes = SIZES.clone()
    BUILDERS[name](sizes)
    torch.testing.assert_close(sizes, SIZES)


@pytest.mark.parametrize("name", [*EXACT, "random_regular"])  # an expander loses a random number of edges
def test_many_small_graphs_have_as_many_edges_as_one_times_their_number(name: str) -> None:
    assert BUILDERS[name](torch.full((10_007,), 7)).num_edges == 10_007 * BUILDERS[name](7).num_edges


# of few nodes, or of as many edges as these settings ask for: a line is one axis, and a stride of 7 reads every 7th
QUADRATIC = ("axial", "strided", "strided_heads", "fixed_heads")


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in QUADRATIC])
def test_large_graphs_are_never_passed_through_all_pairs(name: str) -> None:
    graph = BUILDERS[name](200_003)  # all pairs would take 37 GiB of bool
    assert graph.num_src_nodes == 200_003
    assert graph.explicit_edges.shape[1] <= 18 * 200_003


@builders
def test_tensors_are_made_where_the_sizes_are_whatever_the_default_device(name: str) -> None:
    expected = BUILDERS[name](SIZES)
    with torch.device("meta"):  # anything made on the default device could not be combined with the sizes
        graph = BUILDERS[name](SIZES)
    assert graph.device == SIZES.device
    assert graph == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@builders
def test_sizes_on_a_gpu_make_a_graph_on_that_gpu(name: str) -> None:
    graph = BUILDERS[name](SIZES.cuda())
    assert graph.device.type == graph.src_ptr.device.type == "cuda"
    assert AttentionGraph(graph.edge_index, graph.num_src_nodes) == graph
    if name in EXACT:
        assert graph.to("cpu") == EXACT[name](SIZES)


@pytest.mark.parametrize("name", [*PLAIN, *RANDOM])
@pytest.mark.parametrize(
    ("sizes", "error", "advice"),
    [
        (3.0, TypeError, "sizes must be an int or an int64 tensor [num_graphs], got float. Pass torch.tensor("),
        (torch.tensor([3], dtype=torch.int32), TypeError, "got torch.int32. Call sizes.long() first."),
        (torch.tensor([[3]]), ValueError, "got [1, 1]. Pass one size per graph."),
        (torch.tensor([3, -2]), ValueError, "got -2. An empty graph has size 0."),
        (-1, ValueError, "got -1. An empty graph has size 0."),
    ],
    ids=["float", "int32", "matrix", "negative in a batch", "negative"],
)
def test_wrong_sizes_are_refused_with_advice(name: str, sizes: int, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        BUILDERS[name](sizes)


@pytest.mark.parametrize("builder", [random_regular, expander])
@pytest.mark.parametrize("generator", [None, 0])
def test_random_builders_ask_for_a_generator(builder: Callable[..., AttentionGraph], generator: object) -> None:
    with pytest.raises(TypeError, match=re.escape("Pass generator=torch.Generator().manual_seed(0)")):
        builder(5, 2, generator=generator)
    with pytest.raises(TypeError, match="generator"):
        builder(5, 2)


@pytest.mark.parametrize("builder", [random_regular, expander])
def test_a_generator_on_another_device_is_refused_with_advice(builder: Callable[..., AttentionGraph]) -> None:
    advice = "device of sizes, meta, got cpu. Make it with torch.Generator('meta'), or move the sizes."
    with pytest.raises(ValueError, match=re.escape(advice)):
        builder(torch.tensor([5], device="meta"), 2, generator=seeded())


@pytest.mark.parametrize("builder", [random_regular, expander])
def test_the_state_of_the_generator_decides_the_graph(builder: Callable[..., AttentionGraph]) -> None:
    sizes = torch.tensor([41, 0, 7, 3])
    first = builder(sizes, 4, generator=torch.Generator().manual_seed(0))
    assert builder(sizes, 4, generator=torch.Generator().manual_seed(0)) == first
    assert builder(sizes, 4, generator=torch.Generator().manual_seed(1)) != first
    generator = torch.Generator().manual_seed(0)
    assert builder(sizes, 4, generator=generator) == first
    assert builder(sizes, 4, generator=generator) != first  # the state went on
    state = torch.get_rng_state()
    builder(sizes, 4, generator=generator)
    torch.testing.assert_close(torch.get_rng_state(), state)  # and torch's own did not
