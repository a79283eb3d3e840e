"""Everything composes: a pairwise array over the seats of a model, and every pair that does not, with its refusal.

    python -m tests.test_compose > docs/composition.md

writes the page of it, from what is tested here.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphattn import viz
from graphattn.connectivity import clusters, full, neighborhood, sliding_window
from graphattn.graph.rules import is_causal
from graphattn.inputs import GraphBatch, GraphCollate, parse_edges
from graphattn.models import GraphTransformer, GraphTransformerConfig
from graphattn.nn import prune
from tests.inputs.molecules import molecule
from tests.ops.graphs import ON_CPU

PAGE = Path(__file__).resolve().parents[1] / "docs" / "composition.md"
NUM_LAYERS, POOLED_AFTER, CONNECTED = 3, 2, 1  # layers 0 and 1 stand below the pool, layer 2 above
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
DRAWN = 6  # of so many combinations one is drawn in the default run, all by `make test-all`
# one number more on all logits of a target changes no softmax; a learned summary starts as its maximum alone
STILL = ("key_proj.bias", "bias_proj.bias", "pool.inner", "pool.inner_bias")

Combination = Mapping[str, str]

# every seat, what is tried in it, and the line of a configuration that says so; the first is the plain one
SCORES = {"dot product": "DotProduct()", "symmetric": "Symmetric()", "pairwise": "Pairwise(init='scaled')"}
SELECTIONS = {
    "all": "",
    "sources": "SubsampleSources(keep_p=0.5)",
    "local": "SubsampleLocal(window_size=4, sigma=2.0)",
    "hops": "SubsampleHops(num_hops=1, sigma=1.0, steps={steps!r})",
    "top k": "TopKEdges(k=3, score_dim=5)",
    "ramp": "Ramp(SubsampleSources(keep_p=0.25), SubsampleSources(keep_p=0.75), num_steps=4)",
    "mixed": "",  # a selection of its own in each layer, see `selection_of`
}
HEADS: dict[str, dict[str, Any]] = {
    "all": {},
    "subset": {"head_gate": "SubsetHeadGate(num_keep=5, start_temperature=2.0)"},
    "straight through": {"head_gate": "StraightThroughHeadGate(num_keep=5)"},
    "hard concrete": {"head_gate": "HardConcreteHeadGate(num_keep=5)"},
    "importance": {"head_gate": "ImportanceHeadGate(num_keep=5)"},
    "pruned": {"kept_heads": ((0, 2), (1,), (0, 1, 2))},
}
TERMS: dict[str, tuple[str, ...]] = {
    "none": (),
    "bias": ("bias",),
    "gate": ("gate",),
    "key and value": ("key", "value"),
    "all four": ("key", "value", "bias", "gate"),
}
CONNECTIONS = {
    "none": "",
    "fixed": "Fixed(segment=4)",
    "log-sparse": "LogSparse(log_size=True)",
    "axial": "AxialRowmajor(width=4)",
    "mixture": "Mixture(width=4, summary='learned')",
    "clusters": "Clusters(causal={causal})",
}
POOLS: dict[str, dict[str, Any]] = {
    "none": {},
    "between layers": {"pool_layers": (POOLED_AFTER,)},
    "readout": {"readout": "pool", "pool_k": 2},
}
INPUTS = {"molecules": "bond", "tokens": "window", "patches": "neighborhood"}  # and the kind of their local edges
DROPOUT = {"none": 0.0, "weights": 0.3}

FACTORS: dict[str, tuple[str, ...]] = {
    "score": tuple(SCORES),
    "select": tuple(SELECTIONS),
    "heads": tuple(HEADS),
    "edge terms": tuple(TERMS),
    "connect": tuple(CONNECTIONS),
    "pool": tuple(POOLS),
    "input": tuple(INPUTS),
    "dropout": tuple(DROPOUT),
    "impl": ("auto", *ON_CPU),
}
PLAIN = {factor: values[0] for factor, values in FACTORS.items()}


class Refusal(NamedTuple):
    """Values that cannot stand together, everything else plain; of several values of a seat, each."""

    values: dict[str, tuple[str, ...]]
    is_early: bool  # refused when the configuration is made; else by the first forward, for the data decide
    words: str  # of the error
    why: str


class Misplaced(NamedTuple):
    """Fields that do not fit together in one place of a model, though the mechanisms compose."""

    what: str
    fields: dict[str, Any]
    values: dict[str, str]  # of the combination, beside plain ones
    is_early: bool
    words: str
    instead: str


WITH_TERMS, DRAWN_SELECTIONS = tuple(TERMS)[1:], ("sources", "local", "ramp", "mixed")
EXCLUDED = [
    Refusal(
        {"edge terms": WITH_TERMS, "impl": ("sdpa",)}, True, "impl 'sdpa' serves no layer that reads features of edges",
        "torch's dense kernel has no argument per edge",
    ),
    Refusal(
        {"edge terms": WITH_TERMS, "impl": ("blocks",)}, True,
        "impl 'blocks' serves no layer that reads features of edges",
        "edges that have features are listed one by one, and blocks list none",
    ),
    Refusal(
        {"dropout": ("weights",), "impl": ("sdpa",)}, True, "impl 'sdpa' has no dropout of weights",
        "which weights are dropped is a hash of the edge's number, the same in all implementations; torch's kernel "
        "draws its own",
    ),
    Refusal(
        {"select": ("top k",), "impl": ("sdpa",)}, True, "impl 'sdpa' cannot serve layer 0 with select, TopKEdges",
        "the scores of the kept edges are a bias per edge",
    ),
    Refusal(
        {"select": ("top k", "hops"), "impl": ("blocks",)}, True,
        "impl 'blocks' cannot serve layer 0 with select, (TopKEdges|SubsampleHops)",
        "they keep edges one by one, and no block is left",
    ),
    Refusal(
        {"connect": ("log-sparse",), "impl": ("blocks",)}, False, "impl='blocks' cannot serve this call: the graph has "
        "no block", "doubling spans are listed edges",
    ),
    Refusal(
        {"connect": ("fixed", "axial", "mixture", "clusters"), "dropout": ("weights",), "impl": ("blocks",)}, False,
        "impl='blocks' cannot serve this call: the call reads per-edge values, but some target has edges in two blocks",
        "a token reads its segment and the summaries in two blocks, and dropout counts edges through one",
    ),
    Refusal(
        {"input": ("tokens",), "select": DRAWN_SELECTIONS, "dropout": ("weights",), "impl": ("blocks",)}, False,
        "impl='blocks' cannot serve this call: the call reads per-edge values, but some target has edges in two blocks",
        "a causal draw keeps every token's own edge beside the block, and dropout counts edges through one",
    ),
    Refusal(
        {"input": ("tokens",), "impl": ("gather",)}, False,
        "impl='gather' cannot serve this call: it needs the same number of incoming edges",
        "a causal token reads one more than the token before it",
    ),
    Refusal(
        {"connect": ("log-sparse",), "impl": ("gather",)}, False,
        "impl='gather' cannot serve this call: it needs the same number of incoming edges",
        "the number of doubling spans depends on the place",
    ),
    Refusal(
        {"input": ("molecules",), "select": ("hops",), "impl": ("gather",)}, False,
        "impl='gather' cannot serve this call: it needs the same number of incoming edges",
        "atoms have different numbers of neighbours",
    ),
    Refusal(
        {"input": ("molecules",), "connect": ("clusters",), "impl": ("gather",)}, False,
        "impl='gather' cannot serve this call: it needs the same number of incoming edges",
        "rings have different sizes",
    ),
]  # fmt: skip
MISPLACED = [
    Misplaced(
        "selection and connection in one layer", {"select": SELECTIONS["sources"], "connect": CONNECTIONS["fixed"]}, {},
        True, "layer 0 has both select, SubsampleSources.*, and connect, Fixed",
        "`PerLayer` with None where the other is",
    ),
    Misplaced(
        "learned selection and connection in one layer",
        {"select": SELECTIONS["top k"], "connect": CONNECTIONS["log-sparse"]}, {},
        True, "layer 0 has both select, TopKEdges.*, and connect, LogSparse",
        "`PerLayer` with None where the other is",
    ),
    Misplaced(
        "features of edges, and a connection in every layer that could read them",
        {"edge_dim": 5, "connect": CONNECTIONS["fixed"]}, {},
        True, "edge_dim = 5 needs a layer that reads features of edges, but connect, Fixed",
        "`edge_dim=0`, or `PerLayer` with None in one of them",
    ),
    Misplaced(
        "hops above a pool", {"select": "SubsampleHops(num_hops=1, sigma=1.0)", "pool_layers": (POOLED_AFTER,)}, {},
        True, "layer 2 has SubsampleHops.*needs edges of kind 'bond', and stands above a pool",
        "`PerLayer` with None above the pool",
    ),
    Misplaced(
        "a window of a grid above a pool",
        {"select": "SubsampleLocal(window_size=2, sigma=1.0, shape=(4, 4))", "pool_layers": (POOLED_AFTER,)},
        {"input": "patches"}, True, r"layer 2 has SubsampleLocal.*needs the grid \(4, 4\), and stands above a pool",
        "a window without a shape, or `PerLayer` with None above the pool",
    ),
    Misplaced(
        "clusters above a pool", {"connect": "Clusters()", "pool_layers": (POOLED_AFTER,)}, {},
        True, "layer 2 has Clusters.*needs edges of kind 'cluster', and stands above a pool",
        "`PerLayer` with None, or another Combiner, above the pool",
    ),
    Misplaced(
        "a head gate in a pruned model", {"head_gate": "SubsetHeadGate(num_keep=2)", "kept_heads": ((0,), (1,), ())},
        {}, True, "head_gate, SubsetHeadGate.*before it is pruned, and kept_heads after that",
        "one of the two",
    ),
    Misplaced(
        "a readout of nodes after a pool", {"readout": "nodes", "pool_layers": (1,)}, {},
        True, "readout 'nodes' needs the nodes of the data, got pool_layers", "sum, mean, max or pool",
    ),
    Misplaced(
        "a readout of virtual nodes after a pool", {"readout": "virtual", "pool_layers": (1,)}, {},
        True, "readout 'virtual' needs the nodes of the data, got pool_layers", "sum, mean, max or pool",
    ),
    Misplaced(
        "a readout of virtual nodes of tokens", {"readout": "virtual"}, {"input": "tokens"},
        True, "readout 'virtual' needs virtual nodes, got num_virtual = 0", "sum, mean, max, pool or nodes",
    ),
    Misplaced(
        "hops along bonds of tokens", {"select": "SubsampleHops(num_hops=1, sigma=1.0)"}, {"input": "tokens"},
        False, "steps must name a kind of the graph's edges, window, full, got 'bond'",
        "`steps` of a kind that is there",
    ),
    Misplaced(
        "clusters of patches that have none", {"connect": "Clusters()"}, {"input": "patches"},
        False, "graph must have edges of kind 'cluster' that join the tokens of a cluster, got kinds",
        "`connectivity.clusters(sizes, labels)` in the graph; of molecules, `rings` among the edges of the collation",
    ),
    Misplaced(
        "bidirectional clusters of causal tokens", {"connect": "Clusters(causal=False)"},
        {"input": "tokens", "connect": "clusters"}, False, r"got .*Clusters\(causal=True\)", "`Clusters(causal=True)`",
    ),
    Misplaced(
        "features of bonds of patches", {"edge_dim": 5, "edge_terms": ("key",), "bond_dims": (3,)},
        {"input": "patches"}, False, "reads features of bonds, the batch has none",
        "`bond_dims=0`: kinds of edges are read alone",
    ),
]  # fmt: skip


# --- from a combination to a model and a batch ----------------------------------------------------------------------


def selection_of(combination: Combination) -> str:
    """Where a layer has a connection it has no selection; above a pool there is nothing to hop along."""
    name, steps = combination["select"], INPUTS[combination["input"]]
    sources = SELECTIONS["sources"]
    layers = {"mixed": [sources, "None", "SubsampleSources(num_sources=3)"]}.get(
        name, [SELECTIONS[name].format(steps=steps) or "None"] * NUM_LAYERS
    )
    if combination["connect"] != "none":
        layers[CONNECTED] = "None"
    if name == "hops" and combination["pool"] == "between layers":
        layers[POOLED_AFTER:] = ["None"] * (NUM_LAYERS - POOLED_AFTER)
    return f"PerLayer({', '.join(layers)})"


def connection_of(combination: Combination) -> str:
    """Alone it is in the last two layers, beside a selection in one; of clusters a pool leaves none."""
    name = combination["connect"]
    if name == "none":
        return ""
    line = CONNECTIONS[name].format(causal=combination["input"] == "tokens")
    is_last = combination["select"] == "all" and not (name == "clusters" and combination["pool"] == "between layers")
    return f"PerLayer(None, {line}, {line if is_last else None})"


def config_of(combination: Combination) -> GraphTransformerConfig:
    terms, of_pool = TERMS[combination["edge terms"]], POOLS[combination["pool"]]
    is_molecule = combination["input"] == "molecules"
    is_read_out = {"readout": "mean" if is_molecule else "nodes"} if not of_pool else {"readout": "sum"} | of_pool
    of_input: dict[str, Any] = {"num_virtual": batch_of(combination).num_virtual, "kinds": kinds_of(combination)}
    if not is_molecule:
        of_input |= {"bond_dims": 0, "atom_dims": (23, 17) if combination["input"] == "tokens" else 5}
    return GraphTransformerConfig(
        embed_dim=12, num_heads=3, num_layers=NUM_LAYERS, num_tasks=2, dropout_p=0.0,
        score=SCORES[combination["score"]], select=selection_of(combination), connect=connection_of(combination),
        edge_dim=5 if terms else 0, edge_terms=terms, attention_dropout_p=DROPOUT[combination["dropout"]],
        impl=combination["impl"], **of_input, **is_read_out, **HEADS[combination["heads"]],
    )  # fmt: skip


def kinds_of(combination: Combination) -> tuple[str, ...]:
    return batch_of(combination).graph.kinds


def batch_of(combination: Combination) -> GraphBatch:
    """What a user would pass: with features of bonds where they are read, in blocks where these are asked for."""
    name, has_clusters = combination["input"], combination["connect"] == "clusters"
    in_blocks = combination["impl"] == "blocks" and combination["edge terms"] == "none"
    return make_batch(name, has_clusters, in_blocks, is_even=combination["impl"] == "gather")


@cache
def make_batch(name: str, has_clusters: bool, in_blocks: bool, is_even: bool) -> GraphBatch:
    if name == "molecules":
        parts = f"bonds | full{' | rings' if has_clusters else ''} | virtual(1)"
        parts = ("rings" if has_clusters else "full") if in_blocks else parts  # one alone is not listed
        records = [molecule(size, number) for number, size in enumerate((7, 7, 7) if is_even else (9, 1, 5))]
        return GraphCollate(parse_edges(parts), edge_features=not in_blocks)(records)
    generator = torch.Generator().manual_seed(3)
    if name == "tokens":
        sizes = torch.tensor([13, 2, 7])
        position = torch.cat([torch.arange(size) for size in sizes.tolist()])
        x = torch.stack([torch.randint(23, position.shape, generator=generator), position], 1)
        local, label = sliding_window(sizes, radius=1), position // 3
    else:
        sizes, grid = torch.tensor([16, 16]), torch.tensor([[4, 4], [4, 4]])
        x = torch.randn(32, 5, generator=generator, dtype=torch.float64)
        local, label = neighborhood(grid, 3), torch.arange(32) % 16 // 8
    if in_blocks:
        graph = clusters(sizes, label) if has_clusters else full(sizes)
    else:
        graph = local | full(sizes) | clusters(sizes, label) if has_clusters else local | full(sizes)
    if name == "tokens":
        graph = graph.keep(is_causal)
    return GraphBatch.of(x, graph)


def model_of(combination: Combination, config: GraphTransformerConfig | None = None) -> GraphTransformer:
    torch.manual_seed(0)
    return GraphTransformer(config_of(combination) if config is None else config).double().train()


def loss_of(model: GraphTransformer, batch: GraphBatch) -> tuple[Tensor, Tensor]:
    """The output, and a loss in which every number of it counts; at one step, with one draw of graphs and gates."""
    torch.manual_seed(1)
    if model.draws is not None:
        model.draws.step = 2  # the forward makes it 3
    if hasattr(model.head_gate, "step"):
        model.head_gate.step.zero_()
    out = model(batch)
    loss = (out - torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).square().mean()
    return out.detach(), loss if model.head_gate is None else loss + 0.01 * model.head_gate.penalty()


# --- the array -----------------------------------------------------------------------------------------------------


def pairs_of(combination: Combination) -> Iterator[frozenset[tuple[str, str]]]:
    return map(frozenset, itertools.combinations(combination.items(), 2))


def excluded_by(refusal: Refusal) -> Iterator[dict[str, str]]:
    """The combinations of values that a refusal names."""
    for values in itertools.product(*refusal.values.values()):
        yield dict(zip(refusal.values, values, strict=True))


FORBIDDEN = [frozenset(values.items()) for refusal in EXCLUDED for values in excluded_by(refusal)]
ALL_PAIRS = [
    frozenset([(one, first), (other, second)])
    for one, other in itertools.combinations(FACTORS, 2)
    for first in FACTORS[one]
    for second in FACTORS[other]
]


def is_allowed(values: Combination) -> bool:
    chosen = frozenset(values.items())
    return not any(forbidden <= chosen for forbidden in FORBIDDEN)


@cache
def covering_array() -> list[dict[str, str]]:
    """Few combinations in which every allowed pair of values occurs, always the same ones.

    Each starts from the first pair that is still missing and takes, seat by seat, the value with the most new pairs;
    of equals the one that was taken least.
    """
    missing = dict.fromkeys(pair for pair in ALL_PAIRS if pair not in FORBIDDEN)
    taken = {(factor, value): 0 for factor, values in FACTORS.items() for value in values}
    rows: list[dict[str, str]] = []
    while missing:
        row = dict(sorted(next(iter(missing))))
        for factor in sorted((name for name in FACTORS if name not in row), key=lambda name: -len(FACTORS[name])):
            able = [value for value in FACTORS[factor] if is_allowed(row | {factor: value})]
            row[factor] = max(
                able,
                key=lambda value: (
                    sum(frozenset([(factor, value), other]) in missing for other in row.items()),
                    -taken[factor, value],
                ),
            )
        rows.append({factor: row[factor] for factor in FACTORS})
        for item in row.items():
            taken[item] += 1
        for pair in pairs_of(row):
            missing.pop(pair, None)
    return rows


def name_of(combination: Combination) -> str:
    return ", ".join(f"{factor} {value}" for factor, value in combination.items() if value != PLAIN[factor]) or "plain"


ARRAY = covering_array()


def test_every_pair_occurs_in_the_array_or_is_excluded_by_name() -> None:
    seen = {pair for row in ARRAY for pair in pairs_of(row)}
    assert all(is_allowed(row) for row in ARRAY)
    assert seen == set(ALL_PAIRS) - set(FORBIDDEN)
    assert len({name_of(row) for row in ARRAY}) == len(ARRAY)


@pytest.mark.parametrize("combination", ARRAY, ids=name_of)
def test_a_combination_trains_and_equals_dense(combination: Combination) -> None:
    config, batch = config_of(combination), batch_of(combination)
    model = model_of(combination, config)
    twin = model_of(combination, replace(config, impl="scatter" if config.impl == "dense" else "dense"))
    twin.load_state_dict(model.state_dict())
    gates: list[Tensor] = []
    if model.head_gate is not None:
        model.head_gate.register_forward_hook(lambda module, inputs, gate: gates.append(gate.detach()))

    results = []
    for each in (model, twin):
        out, loss = loss_of(each, batch)
        loss.backward()
        named = dict(each.named_parameters())
        gradients = {name: torch.zeros_like(w) if w.grad is None else w.grad for name, w in named.items()}
        results.append({"out": out, "loss": loss.detach(), **gradients})
    for name, ours in results[0].items():
        assert_close(ours, results[1][name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}")

    shut = [layer for layer, gate in enumerate(gates[0]) if not gate.any()] if gates else []
    of_shut = [f"blocks.{layer}.{part}" for layer in shut for part in ("attention.", "attention_norm.")]
    if set(shut) >= {layer for layer in range(NUM_LAYERS) if config.reads_edges(layer)}:
        of_shut.append("edge_encoder.")
    for name in dict(model.named_parameters()):
        gradient = results[0][name]
        assert bool(gradient.isfinite().all()), name
        assert name.startswith(tuple(of_shut)) or name.endswith(STILL) or bool(gradient.any()), name

    before = results[0]["loss"]
    torch.optim.SGD(model.parameters(), lr=1e-5).step()
    assert float(loss_of(model, batch)[1]) < float(before)


@pytest.mark.parametrize("combination", ARRAY, ids=name_of)
def test_a_combination_is_recorded_as_it_runs(combination: Combination) -> None:
    model, batch = model_of(combination), batch_of(combination)
    if (combination["connect"], combination["dropout"]) == ("mixture", "weights"):
        with pytest.raises(ValueError, match="dropout would fall on other weights"), viz.record(model):
            loss_of(model, batch)
        model.eval()
    out, _ = loss_of(model, batch)
    with viz.record(model) as recording:
        again, _ = loss_of(model, batch)
    check_recording(recording, model.config)
    if model.training:
        check_at_work(recording, model.config)
    assert_close(again, out, **CLOSE)


def check_at_work(recording: viz.Recording, config: GraphTransformerConfig) -> None:
    """Every seat that is taken shows in the record of a training forward: none is passed by in silence."""
    of_layer = {layer: [] for layer in range(config.num_layers)}
    for step in recording.steps:
        if step.kind != "pool":
            of_layer[int(step.name.split(".")[1])].append(step)
    for layer, (select, connect) in enumerate(zip(config.selections(), config.connections(), strict=True)):
        steps = of_layer[layer]
        attention, kinds = steps[-1], {kind for step in steps for kind in step.graph.kinds}
        assert bool(kinds & {"sampled", "learned"}) == (select is not None)
        assert ("summary" in {step.kind for step in steps}) == (connect is not None)
        assert (attention.head_gate is not None) == bool(config.head_gate)
        assert (attention.edge_gate is not None) == (config.reads_edges(layer) and "gate" in config.edge_terms)
        kept = config.kept_heads[layer] if config.kept_heads else range(config.num_heads)
        assert attention.alpha.shape[1] == len(kept)
    num_pools = sum(step.kind == "pool" for step in recording.steps)
    assert num_pools == len(config.pool_layers) + (config.readout == "pool")


def check_recording(recording: viz.Recording, config: GraphTransformerConfig) -> viz.Pathways:
    layers = {".".join(step.name.split(".")[:3]) for step in recording.steps if step.kind == "attention"}
    assert layers == {f"blocks.{layer}.attention" for layer in range(config.num_layers)}
    for step in recording.steps:
        dst, num_nodes = step.graph.edge_index[1], step.graph.num_dst_nodes
        total = torch.zeros(num_nodes, step.alpha.shape[1]).index_add_(0, dst, step.alpha)
        is_reading = torch.bincount(dst, minlength=num_nodes) > 0
        assert_close(total, is_reading.float()[:, None].expand_as(total), rtol=1e-5, atol=1e-5)
    pathways = viz.pathways(recording)
    assert pathways.num_ranks > config.num_layers and pathways.rollout().weight.isfinite().all()
    return pathways


@pytest.mark.parametrize(
    "combination",
    [pytest.param(row, id=name_of(row), marks=[pytest.mark.slow] if k % DRAWN else []) for k, row in enumerate(ARRAY)],
)
def test_a_combination_is_drawn(combination: Combination) -> None:
    model = model_of(combination).eval()
    with viz.record(model) as recording, torch.no_grad():
        model(batch_of(combination))
    ax = viz.draw_layers(check_recording(recording, model.config))
    ax.figure.canvas.draw()
    assert ax.collections


GATED = [row for row in ARRAY if row["heads"] not in ("all", "pruned")]


@pytest.mark.parametrize("combination", GATED, ids=name_of)
def test_a_gated_combination_is_pruned(combination: Combination) -> None:
    model, batch = model_of(combination), batch_of(combination)
    loss_of(model, batch)[1].backward()  # by which a gate of importances knows some
    model.eval()
    kept = model.head_gate.kept()
    pruned = GraphTransformer(replace(model.config, head_gate="", kept_heads=kept)).double().eval()
    pruned.load_state_dict(prune(model, kept).state_dict())
    assert_close(pruned(batch), model(batch), **CLOSE)
    assert sum(map(len, kept)) == 5 and pruned.num_parameters() < model.num_parameters()


CAUSAL = [row for row in ARRAY if row["input"] == "tokens" and row["pool"] == "none"]


@pytest.mark.parametrize("combination", CAUSAL, ids=name_of)
def test_causal_tokens_stay_causal_through_everything(combination: Combination) -> None:
    model, batch = model_of(combination).eval(), batch_of(combination)
    changed = batch.x.clone()
    changed[7, 0] = (changed[7, 0] + 1) % 23
    with torch.no_grad():
        torch.manual_seed(2)
        before = model(batch)
        torch.manual_seed(2)
        after = model(replace(batch, x=changed))
    differs = (before - after).abs().amax(1) > 1e-12  # means are differences of sums over all tokens, which round
    assert bool(differs[7]) and not bool(differs[:7].any()) and not bool(differs[13:].any())


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "values"),
    [(refusal, values) for refusal in EXCLUDED for values in excluded_by(refusal)],
    ids=lambda given: name_of(given) if isinstance(given, dict) else "",
)
def test_an_excluded_combination_is_refused_with_the_reason(refusal: Refusal, values: dict[str, str]) -> None:
    combination = PLAIN | values
    if refusal.is_early:
        with pytest.raises(ValueError, match=refusal.words):
            config_of(combination)
    else:
        model = model_of(combination)
        with pytest.raises(ValueError, match=refusal.words):
            model(batch_of(combination))


@pytest.mark.parametrize("case", MISPLACED, ids=lambda case: case.what)
def test_what_stands_in_a_wrong_place_is_refused_with_the_next_step(case: Misplaced) -> None:
    combination = PLAIN | case.values
    config, fields = config_of(combination), {"connect": "", "readout": "sum"} | case.fields
    if case.is_early:
        with pytest.raises(ValueError, match=case.words):
            replace(config, **fields)
    else:
        model = model_of(combination, replace(config, **fields))
        with pytest.raises(ValueError, match=case.words):
            model(batch_of(combination))


# --- the page ------------------------------------------------------------------------------------------------------


def as_written(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in fields.items())


LINES: dict[str, dict[str, str]] = {
    "score": SCORES,
    "select": SELECTIONS | {"mixed": "PerLayer(SubsampleSources(keep_p=0.5), None, SubsampleSources(num_sources=3))"},
    "heads": {name: as_written(fields) for name, fields in HEADS.items()},
    "edge terms": {
        name: as_written({"edge_terms": terms} if terms else {"edge_dim": 0}) for name, terms in TERMS.items()
    },
    "connect": CONNECTIONS,
    "pool": {name: as_written(fields) for name, fields in POOLS.items()},
    "input": {
        "molecules": 'GraphCollate(parse_edges("bonds | full | virtual(1)"))',
        "tokens": "GraphBatch.of(x, (sliding_window(sizes, 1) | full(sizes)).keep(is_causal))",
        "patches": "GraphBatch.of(x, neighborhood(shapes, 3) | full(sizes))",
    },
    "dropout": {name: as_written({"attention_dropout_p": p}) for name, p in DROPOUT.items()},
    "impl": {name: as_written({"impl": name}) for name in FACTORS["impl"]},
}
HEAD = """# What composes

A `models.GraphTransformer` has a seat for each mechanism, and whatever sits in one works beside whatever sits in
another. This page says how far, and what is refused. It is written by `python -m tests.test_compose` from the data of
`tests/test_compose.py`, which tests every line of it.

Below are the seats, and what was tried in each. Every pair of two of these values that is not refused occurs in at
least one of {num_rows} models of {num_layers} layers. Each of them is trained for a step, in which the loss falls and
every parameter of an open head has a gradient; equals `impl="dense"` in its output and all gradients to 1e-9 in
float64, with the same draws; and is recorded and drawn. Those over causal tokens with a row per node are shown to stay
causal, and those with a gate equal the physically pruned model. What of this does not hold yet stands at the end.
"""
BETWEEN = """
A connection stands in other layers than a selection, hops and clusters stand below a pool, and a connection leaves one
layer that reads features of edges: these share a model, not a layer. Clusters are edges of the graph, `rings` of a
molecule and `connectivity.clusters` of others.

## Pairs

How many pairs of values of two seats compose, of how many there are.
"""
REFUSED = """
## Refused

Every row is a `ValueError` that names what does not fit and the next step: when the configuration is made, or by the
first forward where the data decide. All of them concern an implementation that was asked for by name; `impl="auto"`
takes one that serves the call.
"""
IN_PLACE = """
## Refused in one place

These mechanisms compose, but not where they were put.
"""
RECORDED = """
## Recorded

Every model is recorded as it runs, but for a `Mixture` with dropout of attention weights, in training: the record shows
the mean of its two parts, of which other weights would be dropped. It is refused; record it in evaluation.
"""
EARLY = {True: "when made", False: "first forward"}


def table(*rows: tuple[str, ...]) -> str:
    head, *rest = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    return "\n".join(["", head, "| --- " * len(rows[0]) + "|", *rest, ""])


def page() -> str:
    names = list(FACTORS)
    seats = [
        (factor, value, f"`{line.format(steps=..., causal=...)}`".replace("Ellipsis", "…") if line else "the default")
        for factor in names
        for value, line in LINES[factor].items()
    ]
    pairs = [
        (one, *(counted(one, other) if place < names.index(other) else "" for other in names[1:]))
        for place, one in enumerate(names[:-1])
    ]
    refused = [
        (
            "; ".join(f"{factor}: {', '.join(values)}" for factor, values in each.values.items()),
            *said_of(each, each.why),
        )
        for each in EXCLUDED
    ]
    misplaced = [(each.what, *said_of(each, each.instead)) for each in MISPLACED]
    return "".join([
        HEAD.format(num_rows=len(ARRAY), num_layers=NUM_LAYERS), table(("Seat", "Value", "Written as"), *seats),
        BETWEEN, table(("", *names[1:]), *pairs),
        REFUSED, table(("Values", "Refused", "Why"), *refused),
        IN_PLACE, table(("What", "Refused", "Instead"), *misplaced),
        RECORDED,
    ])  # fmt: skip


def said_of(refusal: Refusal | Misplaced, advice: str) -> tuple[str, str]:
    return EARLY[refusal.is_early], advice


def counted(one: str, other: str) -> str:
    pairs = [pair for pair in ALL_PAIRS if {factor for factor, _ in pair} == {one, other}]
    able = sum(pair not in FORBIDDEN for pair in pairs)
    return f"all {able}" if able == len(pairs) else f"{able} of {len(pairs)}"


def test_the_page_says_what_is_tested() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.test_compose > docs/composition.md"


if __name__ == "__main__":
    print(page(), end="")
