"""EGT: what its parts read, what leaves its output unchanged, what it learns, and what its configuration refuses."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from graphattn.graph import AttentionGraph
from graphattn.inputs import GraphBatch, GraphCollate, parse_edges
from graphattn.models import EGT, EGT_SIZES, EGTConfig
from graphattn.models.seats import SELECTIONS
from graphattn.selection import TopKEdges
from graphattn.viz import record
from tests.inputs.molecules import molecule, permuted

EXACT = {"rtol": 0.0, "atol": 1e-8}
ALL_PAIRS = GraphCollate(parse_edges("bonds | full | virtual(2)"), max_hops=3, num_walks=2, num_singular=3)
RECORDS = [molecule(11, 1), molecule(1, 2), molecule(7, 3), molecule(5, 4)]
SAMPLED = "SubsampleSources(keep_p=0.5, when='always')"
READOUTS = EGTConfig.READOUTS


def model_of(collate: GraphCollate = ALL_PAIRS, **options: object) -> EGT:
    """A small model in float64, in evaluation."""
    torch.manual_seed(0)
    options = {"embed_dim": 12, "num_heads": 3, "num_layers": 2, "edge_dim": 5, "num_tasks": 2} | options
    return EGT.from_size("tiny", collate, **options).double().eval()


def sources_of(graph: AttentionGraph, number: int) -> set[int]:
    inside = (graph.edge_index[0] >= graph.src_ptr[number]) & (graph.edge_index[0] < graph.src_ptr[number + 1])
    return set(graph.edge_index[0][inside].tolist())


# --- what its parts read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("options", [{}, {"update_edges": False}, {"select": SAMPLED}], ids=["", "simple", "sampled"])
def test_every_parameter_receives_a_gradient(readout: str, options: dict) -> None:
    model = model_of(readout=readout, dropout_p=0.0, edge_dropout_p=0.0, **options).train()
    out = model(ALL_PAIRS(RECORDS))
    (out * torch.linspace(0.5, 2, out.numel()).view_as(out)).sum().backward()
    last = f"layers.{model.config.num_layers - 1}."
    blind = ("key_proj.bias", f"{last}edge.bias_proj.bias")  # one number more on all logits of a target
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        is_blind = name.endswith(blind) or (not model.config.update_edges and name.endswith("edge.bias_proj.bias"))
        assert is_blind or bool(parameter.grad.any()), name


def test_the_first_state_of_an_edge_is_what_is_known_of_it_or_its_virtual_nodes_vector() -> None:
    model, batch = model_of(), ALL_PAIRS(RECORDS)
    state, (src, dst) = model.edge_state(batch), batch.graph.edge_index
    known = model.edge_encoder(batch.without_types())
    is_virtual = (batch.virtual[src] > 0) | (batch.virtual[dst] > 0)
    assert_close(state[~is_virtual], known[~is_virtual])
    vectors = model.virtual_edge_encoder.embedding.weight
    for edge in is_virtual.nonzero()[:, 0].tolist():
        ends = [int(batch.virtual[end]) for end in (src[edge], dst[edge]) if batch.virtual[end] > 0]
        assert_close(state[edge], torch.stack([vectors[end - 1] for end in ends]).mean(0))
    assert_close(model.edge_state(batch.without_types()), state)


def test_bonds_and_distances_reach_the_output() -> None:
    model, batch = model_of(), ALL_PAIRS(RECORDS).without_types()
    assert batch.edge_attr is not None and batch.distance is not None
    out = model(batch)
    for other in (
        replace(batch, edge_attr=(batch.edge_attr + 1) % 2),
        replace(batch, distance=torch.where(batch.distance >= 0, (batch.distance + 1).clamp(max=4), -1)),
    ):
        assert float((model(other) - out)[0].abs().max().detach()) > 1e-6


def test_the_last_layer_updates_no_edges_and_the_simple_form_none() -> None:
    assert [layer.update_edges for layer in model_of(num_layers=3).layers] == [True, True, False]
    assert [layer.update_edges for layer in model_of(num_layers=3, update_edges=False).layers] == [False] * 3


def test_options_reach_the_layers() -> None:
    model = model_of(logit_clip=None, scale_degree=False, activation="gelu", ffn_ratio=2.0, edge_ffn_ratio=3.0)
    for layer in model.layers:
        assert layer.logit_clip is None and not layer.scale_degree and isinstance(layer.ffn[2], nn.GELU)
        assert layer.ffn[1].out_features == 24
    assert model.layers[0].edge_ffn[1].out_features == 15


def test_virtual_nodes_are_not_scaled_by_their_degree() -> None:
    model, seen = model_of(), []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda layer, args, kwargs: seen.append(kwargs["is_virtual"]), with_kwargs=True)
    batch = ALL_PAIRS(RECORDS)
    model(batch)
    assert len(seen) == 2 and all(torch.equal(each, batch.virtual > 0) for each in seen)


# --- readouts ------------------------------------------------------------------------------------------------------


def by_hand(h: Tensor, batch: GraphBatch, readout: str) -> Tensor:
    rows = []
    for start, stop in zip(batch.graph.src_ptr[:-1].tolist(), batch.graph.src_ptr[1:].tolist(), strict=True):
        atoms, virtual = h[start : stop - 2], h[stop - 2 : stop]
        rows += {
            "concat": lambda: [torch.cat([virtual[0], virtual[1]])],  # noqa: B023
            "sum": lambda: [atoms.sum(0)],  # noqa: B023
            "mean": lambda: [atoms.sum(0) / max(len(atoms), 1)],  # noqa: B023
            "max": lambda: [atoms.amax(0) if len(atoms) else torch.zeros(h.shape[1]).to(h)],  # noqa: B023
            "virtual": lambda: [virtual.mean(0)],  # noqa: B023
            "nodes": lambda: list(atoms),  # noqa: B023
        }[readout]()
    return torch.stack(rows)


@pytest.mark.parametrize("readout", READOUTS)
def test_a_readout_is_of_each_graph_and_ignores_virtual_nodes_unless_asked(readout: str) -> None:
    batch = ALL_PAIRS([RECORDS[0], molecule(0), *RECORDS[1:]])
    h = torch.randn(batch.x.shape[0], 12, dtype=torch.float64)
    model = model_of(readout=readout)
    assert_close(model.read_out(h, batch), by_hand(h, batch, readout))
    assert model(batch).shape == (24 if readout == "nodes" else 5, 2)


# --- what leaves the output unchanged ------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["concat", "mean", "nodes"])
@pytest.mark.parametrize("line", ["bonds | virtual(2)", "bonds | full | virtual(2)"])
def test_renumbering_atoms_renumbers_node_outputs_and_leaves_graph_outputs(line: str, readout: str) -> None:
    collate = GraphCollate(parse_edges(line), max_hops=3, num_walks=4)  # vectors are settled up to sign only
    model = model_of(collate, readout=readout)
    data = molecule(17, 5)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(1))
    out, moved = model(collate([data, RECORDS[0]])), model(collate([permuted(data, order), RECORDS[0]]))
    expected = torch.cat([out[:17][order], out[17:]]) if readout == "nodes" else out
    assert_close(moved, expected, **EXACT)


@pytest.mark.parametrize("line", ["bonds | full | virtual(2)", "bonds | hops(2) | expander(4) | virtual(2)"])
def test_a_molecule_has_the_same_output_alone_and_in_any_batch(line: str) -> None:
    collate = replace(ALL_PAIRS, edges=parse_edges(line), num_eigenvectors=3)
    model, records = model_of(collate), [*RECORDS, molecule(0)]
    alone = torch.cat([model(collate([each])) for each in records])
    assert_close(model(collate(records)), alone, **EXACT)
    assert_close(model(collate(records[::-1])), alone.flip(0), **EXACT)


@pytest.mark.parametrize("impl", ["dense", "scatter", "fused"])
def test_all_implementations_agree_in_output_and_gradient(impl: str) -> None:
    batch, results = ALL_PAIRS(RECORDS), []
    for name in (impl, "auto"):
        model = model_of(impl=name)
        out = model(batch)
        out.square().sum().backward()
        results.append([out.detach(), *(parameter.grad for parameter in model.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


def test_signs_of_singular_vectors_flip_in_training_only() -> None:
    model, batch = model_of(dropout_p=0.0, edge_dropout_p=0.0), ALL_PAIRS(RECORDS)
    assert batch.positions is not None
    assert torch.equal(model(batch), model(batch))
    model.train()
    outs = torch.stack([model(batch) for _ in range(8)])
    assert float((outs[:, 0] - outs[:1, 0]).abs().max().detach()) > 1e-6
    without = replace(batch, positions=torch.cat([batch.positions[:, :2], 0 * batch.positions[:, 2:]], 1))
    assert_close(model(without), model(without))


# --- sampling ------------------------------------------------------------------------------------------------------


def test_each_layer_reads_sources_of_its_own_in_training_and_all_of_them_in_evaluation() -> None:
    model, batch = model_of(select="SubsampleSources(keep_p=0.5)", num_layers=3), ALL_PAIRS([molecule(19, 1)] * 2)
    graphs = model.train().connect(batch.graph)
    read = [sources_of(graph, 0) for graph in graphs]
    assert len(graphs) == 3 and len({frozenset(each) for each in read}) == 3
    assert all(len(each) == 11 for each in read)  # half of 19 atoms and 2 virtual nodes, rounded up
    assert all(graph is batch.graph for graph in model.eval().connect(batch.graph))
    assert all(graph is batch.graph for graph in model_of().connect(batch.graph))


def test_sampling_everything_is_no_sampling() -> None:
    batch = ALL_PAIRS(RECORDS)
    dense, sampled = model_of(), model_of(select="SubsampleSources(keep_p=1.0, when='always')")
    sampled.load_state_dict(dense.state_dict(), strict=False)
    assert_close(sampled(batch), dense(batch), **EXACT)


def test_a_selection_that_reads_features_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SELECTIONS, "TopKEdges", TopKEdges)
    with pytest.raises(ValueError, match="select of EGT must draw from the graph before the layers, got TopKEdges"):
        EGTConfig(select="TopKEdges(k=4)")


# --- recorded, compiled --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("select", ["", SAMPLED])
def test_a_recording_holds_a_step_of_every_layer_and_changes_nothing(select: str) -> None:
    model, batch = model_of(select=select, num_layers=3), ALL_PAIRS(RECORDS)
    torch.manual_seed(3)
    expected = model(batch)
    torch.manual_seed(3)
    with record(model) as recording:
        out = model(batch)
    assert_close(out, expected, **EXACT)
    assert [step.name for step in recording.steps] == [f"layers.{number}" for number in range(3)]
    for alpha in recording.alphas():  # every node reads somebody
        assert (alpha.shape[0] < batch.graph.num_edges) == bool(select) and alpha.shape[1] == 3
        assert_close(alpha.double().sum(), torch.tensor(3.0 * batch.x.shape[0]).double())


@pytest.fixture
def dynamo() -> Iterator[None]:
    import torch._dynamo

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_the_whole_model_is_one_program_for_batches_of_any_size(dynamo: None) -> None:
    import torch._dynamo

    model = model_of(num_layers=2).float()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for number, size in enumerate((5, 3, 7, 4)):
        batch = ALL_PAIRS([molecule(3 + i % 11, i) for i in range(size)])
        with torch._dynamo.config.patch(error_on_recompile=number >= 2):
            ours = compiled(batch)
        assert_close(ours, model(batch), rtol=1e-4, atol=1e-5)


# --- learning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("select", ["", "SubsampleSources(keep_p=0.5)"])
def test_it_learns_a_few_molecules_by_heart(select: str) -> None:
    torch.manual_seed(0)
    collate = GraphCollate(parse_edges("bonds | full | virtual(2)"), max_hops=4, num_singular=3)
    batch = collate([molecule(5 + number % 5, number) for number in range(12)])
    assert batch.y is not None
    model = EGT.from_size("tiny", collate, dropout_p=0.0, edge_dropout_p=0.0, select=select)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(batch), batch.y)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < (0.15 if select else 0.02) * float(batch.y.var())


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("records", [[molecule(1)], [molecule(0)], [molecule(0), molecule(1)]])
def test_graphs_without_edges_or_nodes_train(records: list, readout: str) -> None:
    for line in ("bonds | virtual(1)", "bonds"):
        if "virtual" not in line and readout in EGTConfig.OF_VIRTUAL:
            continue
        collate = GraphCollate(parse_edges(line), max_hops=2, num_singular=2)
        model = model_of(collate, readout=readout).train()
        out = model(collate(records))
        out.sum().backward()
        assert bool(out.isfinite().all())
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


# --- configuration -------------------------------------------------------------------------------------------------


def test_a_configuration_comes_back_from_plain_values() -> None:
    config = EGTConfig.from_size("medium", ALL_PAIRS, select="SubsampleSources(keep_p=0.5)", logit_clip=None)
    assert (config.num_virtual, config.max_hops, config.num_singular, config.edge_dim) == (2, 3, 3, 32)
    for each in (config, EGTConfig()):
        assert EGTConfig.from_dict(json.loads(json.dumps(each.to_dict()))) == each


def test_the_default_model_reads_the_default_collation() -> None:
    assert EGT()(GraphCollate()(RECORDS)).shape == (4, 1)


@pytest.mark.parametrize("size", sorted(EGT_SIZES))
def test_a_named_size_says_its_number_of_parameters(size: str) -> None:
    with torch.device("meta"):
        model = EGT.from_size(size)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert model.num_parameters() == count
    assert f"{count:,} parameters" in repr(model)
    assert len(model.layers) == EGT_SIZES[size]["num_layers"]
    assert size != "90m" or 85e6 < count < 95e6


@pytest.mark.parametrize(
    "inputs, advice",
    [
        ({"max_hops": 0}, "reads hop distances, the batch has none. Set max_hops"),
        ({"num_walks": 0, "num_singular": 0}, "reads positions, the batch has none. Set num_walks"),
        ({"num_singular": 2}, r"positions must have shape \[num_nodes, 2 \+ 0 \+ 2 · 3\], got \[32, 6\]"),
        ({"edge_features": False}, "reads features of bonds, the batch has none"),
        ({"edges": parse_edges("bonds | full | virtual(1)")}, "has 2 virtual nodes per graph, the batch 1"),
        ({"edges": parse_edges("hops(2) | virtual(2)")}, "edges of kind 'hop', this encoder knows bond, full, virtual"),
    ],
)
def test_what_the_collation_left_out_is_missed_by_name(inputs: dict, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        model_of()(replace(ALL_PAIRS, **inputs)(RECORDS))


@pytest.mark.parametrize(
    "make, advice",
    [
        (lambda: EGT.from_size("90M"), "size must be one of tiny, small, medium, 90m, got '90M'"),
        (lambda: EGT.from_size("tiny", readout="conca"), "got 'conca'. Did you mean 'concat'?"),
        (lambda: EGTConfig(num_virtual=0), "readout 'concat' needs virtual nodes, got num_virtual = 0"),
        (lambda: EGTConfig(edge_dim=0), "edge_dim must be at least 1, got 0"),
        (lambda: EGTConfig(num_singular=-1), "num_singular must be at least 0, got -1"),
        (lambda: EGTConfig(edge_dropout_p=1.5), "edge_dropout_p must lie in [0, 1], got 1.5"),
        (lambda: EGTConfig(activation="gel"), "activation must be one of elu, gelu, got 'gel'. Did you mean 'gelu'?"),
        (lambda: EGTConfig(impl="fuse"), "got 'fuse'. Did you mean 'fused'?"),
        (lambda: EGTConfig.from_dict({"egde_dim": 3}), "a field of EGTConfig must be one of"),
        (lambda: EGTConfig(select="SubsampleSource(keep_p=0.5)"), "Did you mean 'SubsampleSources'?"),
        (lambda: EGT(EGTConfig(logit_clip=0.0)), "logit_clip must be positive, got 0.0"),
        (lambda: EGT(EGTConfig(embed_dim=10, num_heads=3)), "num_heads must divide embed_dim"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_next_step(make, advice: str) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)):
        make()
