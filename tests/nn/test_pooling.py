"""Pooling with a learned score: against the operator, between layers, as a readout, and in recordings."""

import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from graphattn.connectivity import block_diagonal, full, sliding_window
from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.nn import GraphAttention, PoolReadout, SuccessiveHalvingPool
from graphattn.ops import Assignment, graph_attention, successive_halving_topk
from graphattn.viz import Recording, pathways, record

SIZES = torch.tensor([11, 0, 1, 7, 2])
NUM_NODES, EMBED_DIM = 21, 6


def made(**options: object) -> SuccessiveHalvingPool:
    torch.manual_seed(0)
    pool = SuccessiveHalvingPool(EMBED_DIM, **options)  # type: ignore[arg-type]
    return pool.double()


def rows(seed: int = 0) -> Tensor:
    return torch.randn(NUM_NODES, EMBED_DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix_of(assignment: Assignment) -> Tensor:
    graph = assignment.graph
    matrix = assignment.weight.new_zeros(graph.num_dst_nodes, graph.num_src_nodes)
    return matrix.index_put((graph.edge_index[1], graph.edge_index[0]), assignment.weight)


# --- the pool ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["soft", "straight_through", "hard"])
def test_it_is_the_operator_on_the_score_of_a_linear_layer(mode: str) -> None:
    pool, x = made(k=3, base=7.0, mode=mode), rows()
    pooled, graph, assignment = pool(x, sliding_window(SIZES, 1), full)
    logit = x @ pool.scorer.weight[0] + pool.scorer.bias
    score = 1e-5 + (1 - 1e-5) / (1 + torch.exp(-logit))
    expected, kept = successive_halving_topk(x, score, 3, 7.0, ptr=torch.tensor([0, 11, 11, 12, 19, 21]), mode=mode)
    assert torch.equal(assignment.kept, kept)
    assert_close(pooled, expected)
    assert graph == full(torch.tensor([3, 0, 1, 3, 2])) and graph.dst_ptr.tolist() == [0, 3, 3, 4, 7, 9]
    assert_close(pooled, matrix_of(assignment) @ x)


def test_a_batch_is_the_loop_over_its_graphs() -> None:
    pool, x, connect = made(k=2), rows(), partial(sliding_window, radius=1)
    pooled, graph, _ = pool(x, full(SIZES), connect)
    parts = [pool(part, full(len(part)), connect) for part in x.split(SIZES.tolist())]
    assert_close(pooled, torch.cat([part[0] for part in parts]))
    assert graph == disjoint_union([part[1] for part in parts])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_scores_never_leave_their_range(dtype: torch.dtype) -> None:
    pool = made(k=1).to(dtype)
    x = torch.cat(
        [
            torch.full((1, EMBED_DIM), 1e6),
            torch.full((1, EMBED_DIM), -1e6),
            torch.linspace(-9, 30, 997)[:, None].expand(-1, EMBED_DIM),
        ]
    ).to(dtype)
    nn.init.constant_(pool.scorer.weight, 1.0)
    score = pool.score(x)
    assert_close(score[:2], torch.tensor([1.0, 1e-5], dtype=dtype))
    assert bool(((score > 0) & (score <= 1)).all())


@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.5, [6, 0, 1, 4, 1]), (1.0, [11, 0, 1, 7, 2]), (0.01, [1, 0, 1, 1, 1])]
)
def test_a_ratio_keeps_a_share_of_each_graph_rounded_up(ratio: float, expected: list[int]) -> None:
    pooled, graph, assignment = made(ratio=ratio)(rows(), full(SIZES), full)
    assert torch.diff(graph.dst_ptr).tolist() == expected and len(pooled) == sum(expected)
    if ratio == 1.0:
        assert torch.equal(pooled, rows()) and torch.equal(assignment.kept, torch.arange(NUM_NODES))


def test_a_share_that_is_whole_is_not_rounded_up_by_the_last_bit() -> None:
    pool = SuccessiveHalvingPool(1, ratio=0.07)  # 0.07 · 100 is 7.000000000000001
    assert pool(torch.randn(100, 1), full(100), full)[0].shape == (7, 1)


def test_gradients_reach_the_features_and_the_scorer() -> None:
    pool, x = made(k=2, base=5.0), rows().requires_grad_()
    weight, bias = pool.scorer.weight, pool.scorer.bias

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parameters = {"scorer.weight": weight, "scorer.bias": bias}
        return torch.func.functional_call(pool, parameters, (x, full(SIZES), full))[0]

    assert torch.autograd.gradcheck(run, (x, weight, bias))
    for grad in torch.autograd.grad(run(x, weight, bias).square().sum(), (x, weight, bias)):
        assert bool((grad != 0).all())


def test_training_and_evaluation_may_choose_differently() -> None:
    x, graph = rows(), full(SIZES)
    pool, soft, hard = made(k=2, eval_mode="hard"), made(k=2), made(k=2, mode="hard")
    assert_close(pool.train()(x, graph, full)[0], soft(x, graph, full)[0])
    in_evaluation = pool.eval()(x, graph, full)
    assert torch.equal(in_evaluation[0], hard(x, graph, full)[0])
    assert torch.equal(in_evaluation[0], x[in_evaluation[2].kept])
    assert torch.equal(soft.eval()(x, graph, full)[0], soft.train()(x, graph, full)[0])  # nothing else differs
    assert not in_evaluation[2].weight.requires_grad and pool.train().assign(x, graph).weight.requires_grad


# --- who attends to whom after it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("graph", [sliding_window(SIZES, 1), full(SIZES), sliding_window(NUM_NODES, 2)])
def test_without_a_builder_edges_are_carried_over(graph: AttentionGraph, mode: str) -> None:
    _, pooled_graph, assignment = made(k=3, mode=mode)(rows(), graph)
    took = torch.zeros(assignment.graph.num_dst_nodes, NUM_NODES)
    took[assignment.graph.edge_index[1], assignment.graph.edge_index[0]] = 1
    assert torch.equal(pooled_graph.to_mask(), took @ graph.to_mask().float() @ took.T > 0)
    assert torch.equal(pooled_graph.dst_ptr, assignment.graph.dst_ptr)


def test_pooling_nothing_away_carries_the_graph_itself_over() -> None:
    graph = sliding_window(SIZES, 1)
    assert made(k=11)(rows(), graph)[1] == graph


def test_layers_and_pools_alternate_down_to_one_node() -> None:
    x, graph = rows(), block_diagonal(SIZES, 4)
    layer = GraphAttention(EMBED_DIM, 2).double()
    for k in (4, 2, 1):
        x, graph, _ = made(k=k)(layer(x, graph), graph, partial(block_diagonal, block_size=2))
    assert x.shape == (4, EMBED_DIM) and graph.dst_ptr.tolist() == [0, 1, 1, 2, 3, 4]
    x.sum().backward()
    assert all(
        parameter.grad is not None and bool(parameter.grad.any())
        for parameter in layer.parameters()
        if parameter is not layer.score.key_proj.bias
    )  # a key's bias cancels in the softmax


def test_blocks_longer_than_the_text_and_a_pool_that_keeps_all_are_an_ordinary_layer() -> None:
    layer, x = GraphAttention(EMBED_DIM, 2).double(), rows()
    blockwise = block_diagonal(NUM_NODES, 64)
    pooled, graph, _ = made(k=NUM_NODES)(layer(x, blockwise), blockwise, partial(block_diagonal, block_size=64))
    assert_close(pooled, layer(x, full(NUM_NODES)))
    assert graph == full(NUM_NODES)
    heads = x.view(NUM_NODES, 2, 3)
    in_blocks = block_diagonal(NUM_NODES, 5)
    expected = nn.functional.scaled_dot_product_attention(
        *[heads.transpose(0, 1)] * 3, attn_mask=torch.block_diag(*[torch.ones(5, 5)] * 4, torch.ones(1, 1)).bool()
    )
    assert_close(graph_attention(heads, heads, heads, in_blocks), expected.transpose(0, 1))


@pytest.mark.parametrize("connect", [None, full])
@pytest.mark.parametrize("sizes", [torch.tensor([0]), torch.tensor([0, 0]), torch.zeros(0).long(), torch.tensor([1])])
def test_batches_without_nodes_and_of_one_node_pass(sizes: Tensor, connect: Callable | None) -> None:
    x, number = rows()[: int(sizes.sum())], int(sizes.sum())
    pooled, graph, assignment = made(k=2)(x, full(sizes), connect)
    assert torch.equal(pooled, x)
    assert graph == full(sizes) and graph.num_graphs == len(sizes)
    assert assignment.kept.tolist() == list(range(number)) == assignment.graph.edge_index[0].tolist()
    assert PoolReadout(made(k=2))(x, full(sizes)).shape == (len(sizes), 2, EMBED_DIM)


# --- masks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"k": 3}, {"ratio": 0.4}])
def test_masked_nodes_change_nothing_whatever_they_hold(options: dict) -> None:
    pool, mask = made(**options), torch.ones(NUM_NODES, dtype=torch.bool)
    mask[[2, 5, 11, 20]] = False
    x = rows().masked_fill(~mask[:, None], torch.nan).requires_grad_()
    pooled, graph, assignment = pool(x, full(SIZES), full, mask=mask)
    expected, shorter, of_shorter = pool(rows()[mask], full(torch.tensor([9, 0, 0, 7, 1])), full)
    assert torch.equal(pooled, expected) and graph == shorter
    assert torch.equal(assignment.kept, mask.nonzero()[:, 0][of_shorter.kept])
    assert assignment.graph.num_src_nodes == NUM_NODES  # under their own numbers
    pooled.square().sum().backward()
    assert x.grad is not None and not bool(x.grad[~mask].any()) and bool(x.grad.isfinite().all())
    assert pool.scorer.weight.grad is not None and bool(pool.scorer.weight.grad.isfinite().all())


# --- readout -------------------------------------------------------------------------------------------------------


def test_a_readout_has_k_rows_per_graph_zeros_where_it_has_no_node() -> None:
    readout = PoolReadout(made(k=3))
    out = readout(rows(), sliding_window(SIZES, 1))
    pooled, _, assignment = readout.pool(rows(), full(SIZES), full)
    assert out.shape == (5, 3, EMBED_DIM)
    for number, part in enumerate(pooled.split(torch.diff(assignment.graph.dst_ptr).tolist())):
        assert_close(out[number, : len(part)], part)
        assert not out[number, len(part) :].any()
    assert not out[1].any() and bool(out[0].all())


def test_a_readout_of_one_row_learns_which_node_to_read() -> None:
    torch.manual_seed(0)
    x, graph = torch.rand(67 * 5, 3), full(torch.full((67,), 5))
    marked = torch.randint(5, (67,)) + 5 * torch.arange(67)
    x[:, 2] = 0
    x[marked, 2] = 1
    readout = PoolReadout(SuccessiveHalvingPool(3, k=1, eval_mode="hard"))
    optimizer = torch.optim.Adam(readout.parameters(), lr=0.1)
    for _ in range(60):
        loss = (readout(x, graph)[:, 0] - x[marked]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(readout.eval()(x, graph)[:, 0], x[marked])


# --- recordings ----------------------------------------------------------------------------------------------------


class Pyramid(nn.Module):
    """A layer, a pool, a layer over what is left, a readout."""

    def __init__(self, mode: str = "soft") -> None:
        super().__init__()
        self.layers = nn.ModuleList(GraphAttention(EMBED_DIM, 2) for _ in range(2))
        self.pool = SuccessiveHalvingPool(EMBED_DIM, 3, base=5.0, mode=mode)
        self.readout = PoolReadout(SuccessiveHalvingPool(EMBED_DIM, 1, base=5.0, mode=mode))

    def forward(self, x: Tensor, graph: AttentionGraph, mask: Tensor | None = None) -> Tensor:
        x = x + self.layers[0](x, graph)
        x, graph, _ = self.pool(x, graph, full, mask=mask)
        return self.readout(x + self.layers[1](x, graph), graph)[:, 0]


def recorded(mode: str = "soft", mask: Tensor | None = None) -> tuple[Pyramid, Recording]:
    torch.manual_seed(0)
    model = Pyramid(mode).double()
    with record(model) as recording:
        out = model(rows(), sliding_window(SIZES, 1), mask)
        out.sum().backward()
    return model, recording


def test_pools_are_steps_of_a_recording_with_weights_and_gradients() -> None:
    model, recording = recorded()
    said = [(step.name, step.kind, step.alpha.shape[0]) for step in recording.steps if step.kind == "pool"]
    assert said == [("pool", "pool", NUM_NODES), ("readout", "pool", 9)]
    x = rows()
    step = recording.steps[1]
    assignment = model.pool.assign(x + model.layers[0](x, sliding_window(SIZES, 1)), sliding_window(SIZES, 1))
    assert_close(step.alpha[:, 0], assignment.weight.detach().float())
    assert step.gradient is not None and bool((step.gradient != 0).any())
    assert step.value_norm is not None and step.value_norm.shape == (NUM_NODES, 1)


def test_recording_changes_no_output() -> None:
    model, _ = recorded()
    with record(model):
        heard = model(rows(), sliding_window(SIZES, 1))
    assert torch.equal(heard, model(rows(), sliding_window(SIZES, 1)))


@pytest.mark.parametrize("mode", ["soft", "straight_through", "hard"])
@pytest.mark.parametrize("example", [0, 2, 3])
def test_pathways_lead_through_pools_to_the_elements(example: int, mode: str) -> None:
    found = pathways(recorded(mode)[1], example=example, residual=0.0)
    size = int(SIZES[example])
    assert [(found.rank == rank).sum().item() for rank in range(5)] == [size, size, min(3, size), min(3, size), 1]
    pooled = found.node_kind == found.node_kinds.index("pooled")
    assert int(pooled.sum()) == 2 * min(3, size) + 1
    (weight,) = found.rollout((4, 0)).weight
    assert_close(weight.sum(), torch.tensor(1.0, dtype=torch.float64), atol=1e-5, rtol=0)


def test_a_rollout_through_a_soft_pool_is_the_product_of_its_matrices() -> None:
    _, recording = recorded()
    found = pathways(recording, example=3, residual=0.0)
    product = torch.eye(7, dtype=torch.float64)
    for step in recording.example(3).steps:
        matrix = torch.zeros(step.graph.num_dst_nodes, step.graph.num_src_nodes, dtype=torch.float64)
        matrix[step.graph.edge_index[1], step.graph.edge_index[0]] = step.alpha.double().mean(1)
        product = matrix @ product
    assert_close(found.rollout((4, 0)).weight, product, atol=1e-5, rtol=1e-4)


def test_a_masked_node_has_no_edge_into_the_next_level() -> None:
    mask = torch.ones(NUM_NODES, dtype=torch.bool)
    mask[4] = False
    found = pathways(recorded(mask=mask)[1])
    is_pool = found.edge_kind == found.edge_kinds.index("pool")
    sources = found.edge_index[0][is_pool]
    assert 4 not in found.element[sources[found.rank[sources] == 1]].tolist()
    assert int((found.rank[sources] == 1).sum()) == 10


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "advice"),
    [
        ({}, ValueError, "give k or ratio, got k = None and ratio = None"),
        ({"k": 2, "ratio": 0.5}, ValueError, "give k or ratio, got k = 2 and ratio = 0.5"),
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
        ({"k": 0.5}, TypeError, "k must be an int, got float 0.5. A share of the nodes is ratio=0.5"),
        ({"ratio": 0.0}, ValueError, "ratio must lie in (0, 1], got 0.0"),
        ({"ratio": 1.5}, ValueError, "ratio must lie in (0, 1], got 1.5"),
        ({"ratio": float("nan")}, ValueError, "ratio must lie in (0, 1], got nan"),
        ({"k": 2, "base": 0.0}, ValueError, "base must be a number in [1, 1e+30], got 0.0"),
        ({"k": 2, "mode": "sort"}, ValueError, "mode must be one of soft, straight_through, hard, got 'sort'"),
        ({"k": 2, "eval_mode": "sort"}, ValueError, "eval_mode must be one of soft"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(options: dict, error: type[Exception], advice: str) -> None:
    with pytest.raises(error, match=re.escape(advice)):
        SuccessiveHalvingPool(EMBED_DIM, **options)


def test_bad_calls_are_refused_with_advice() -> None:
    pool, x = made(k=2), rows()
    for arguments, error, advice in (
        ((x, full(7)), ValueError, "with num_nodes = 7, got"),
        ((x[:, :5], full(NUM_NODES)), ValueError, "x must have width embed_dim = 6, got 5"),
        ((x, full(NUM_NODES, dst_sizes=2)), ValueError, "graph must be square, got 21 sources and 2 targets"),
        ((x, SIZES), TypeError, "graph must be an AttentionGraph, got Tensor"),
        (
            (x, full(SIZES), lambda sizes: full(sizes + 1)),
            ValueError,
            "connect must return an AttentionGraph over the 7",
        ),
        ((x, full(SIZES), lambda sizes: sizes), ValueError, "got tensor([2, 0, 1, 2, 2])"),
    ):
        with pytest.raises(error, match=re.escape(advice)):
            pool(*arguments)
    for wrong in (torch.ones(3, dtype=torch.bool), torch.ones(NUM_NODES)):
        for any_pool in (pool, made(ratio=0.5)):
            with pytest.raises(ValueError, match=re.escape("mask must be bool [num_nodes] = [21], got")):
                any_pool(x, full(SIZES), mask=wrong)
    with pytest.raises(ValueError, match=r"scores must lie in \(0, 1\], got nan for node 3"):
        pool(x.index_fill(0, torch.tensor([3]), torch.nan), full(SIZES))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        SuccessiveHalvingPool(0, 1)
    with pytest.raises(ValueError, match=r"pool must keep a count of nodes, got ratio = 0\.5"):
        PoolReadout(made(ratio=0.5))
    with pytest.raises(TypeError, match="pool must be a SuccessiveHalvingPool, got Linear"):
        PoolReadout(nn.Linear(1, 1))  # type: ignore[arg-type]


def test_it_says_what_it_is() -> None:
    assert "6, k=2, base=20.0, mode='soft'" in repr(made(k=2))
    assert "ratio=0.5, base=20.0, mode='soft', eval_mode='hard'" in repr(made(ratio=0.5, eval_mode="hard"))
