"""The graph transformer: what its parts read, what leaves its output unchanged, and what its configuration refuses."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.testing import assert_close
from torch_geometric.data import Data

from graphattn.inputs import GraphBatch, GraphCollate, parse_edges
from graphattn.models import EGT, NAMED_SIZES, GraphTransformer, GraphTransformerConfig
from graphattn.models.graph_transformer import GATES, NORMS
from graphattn.nn import Pairwise, Symmetric, prune
from graphattn.nn.combiner import Fixed
from graphattn.selection import PerLayer, SubsampleSources
from graphattn.viz import record
from tests.inputs.molecules import molecule, permuted

EXACT = {"rtol": 0.0, "atol": 1e-8}
LOCAL_AND_GLOBAL = GraphCollate(parse_edges("bonds | full | virtual(2)"), max_hops=2, num_walks=3)
RECORDS = [molecule(11, 1), molecule(1, 2), molecule(7, 3), molecule(5, 4)]
SIZES = [11, 1, 7, 5]
READOUTS = GraphTransformerConfig.READOUTS


def model_of(collate: GraphCollate = LOCAL_AND_GLOBAL, **options: object) -> GraphTransformer:
    """A small model in float64 whose norms have seen data, in evaluation."""
    torch.manual_seed(0)
    options = {"embed_dim": 12, "num_heads": 3, "num_layers": 2, "edge_dim": 5, "num_tasks": 2} | options
    model = GraphTransformer.from_size("tiny", collate, **options).double()
    with torch.no_grad():
        for number in range(3):
            model(collate([molecule(13, number), molecule(2, number)]))
    return model.eval()


# --- what its parts read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", sorted(NORMS))
@pytest.mark.parametrize("readout", READOUTS)
def test_every_parameter_receives_a_gradient(norm: str, readout: str) -> None:
    model = model_of(norm=norm, readout=readout, edge_terms=("key", "value", "bias", "gate"), dropout_p=0.0).train()
    out = model(LOCAL_AND_GLOBAL(RECORDS))
    (out * torch.linspace(0.5, 2, out.numel()).view_as(out)).sum().backward()
    # one number more on all logits of a target changes no softmax
    shifts = ("key_proj.bias", "bias_proj.bias")
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert name.endswith(shifts) or bool(parameter.grad.any()), name


@pytest.mark.parametrize("terms", [("key",), ("value",), ("bias",), ("gate",)])
def test_bonds_and_kinds_and_distances_enter_by_every_edge_term(terms: tuple[str, ...]) -> None:
    model, batch = model_of(edge_terms=terms), LOCAL_AND_GLOBAL(RECORDS).without_types()
    assert batch.edge_attr is not None and batch.distance is not None
    out = model(batch)
    other_bonds = replace(batch, edge_attr=(batch.edge_attr + 1) % 2)
    other_distances = replace(batch, distance=(batch.distance + 1).clamp(max=3))
    assert float((model(other_bonds) - out)[0].abs().max().detach()) > 1e-6
    assert float((model(other_distances) - out)[0].abs().max().detach()) > 1e-6
    with torch.no_grad():
        model.edge_encoder.kind.weight[0] += 1
    assert float((model(batch) - out)[0].abs().max().detach()) > 1e-6


@pytest.mark.parametrize("line", ["bonds | full | virtual(2)", "bonds", "full | virtual(1)"])
def test_types_of_edges_change_neither_output_nor_gradient(line: str) -> None:
    collate = GraphCollate(parse_edges(line), max_hops=2)
    model, batch = model_of(collate, edge_terms=("key", "value", "bias", "gate"), dropout_p=0.0), collate(RECORDS)
    assert batch.type_edge is not None and batch.type_edge.numel() < batch.graph.num_edges / 2
    results = []
    for each in (batch, batch.without_types()):
        model.zero_grad()
        out = model(each)
        out.square().sum().backward()
        gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
        results.append([out.detach(), *gradients])
    assert_close(*results, atol=1e-10, rtol=1e-10)


def test_features_of_a_bond_stay_on_its_edges() -> None:
    model, batch = model_of(), LOCAL_AND_GLOBAL(RECORDS).without_types()
    assert batch.edge_attr is not None and batch.bond is not None
    changed = batch.edge_attr.clone()
    changed[4] = (changed[4] + 1) % 2
    before, after = model.edge_encoder(batch), model.edge_encoder(replace(batch, edge_attr=changed))
    differs = (before != after).any(1)
    assert torch.equal(differs, batch.bond == 4)


def test_virtual_nodes_start_from_their_own_embeddings_not_from_category_zero() -> None:
    model, batch = model_of(), LOCAL_AND_GLOBAL(RECORDS)
    h = model.embed(batch)
    assert_close(h[batch.virtual == 1], model.virtual_encoder.embedding.weight[:1].expand(4, -1))
    assert_close(h[batch.virtual == 2], model.virtual_encoder.embedding.weight[1:].expand(4, -1))
    with torch.no_grad():
        model.node_encoder.embedding.weight += 1  # category 0 of every feature included
    moved = model.embed(batch)
    assert_close(moved[batch.virtual > 0], h[batch.virtual > 0])
    assert not torch.isclose(moved[batch.node], h[batch.node]).all(1).any()


def test_a_batch_with_other_virtual_nodes_than_the_models_is_refused() -> None:
    model = model_of(GraphCollate(parse_edges("bonds"), max_hops=2, num_walks=3))
    with pytest.raises(ValueError, match="has 0 virtual nodes per graph, the batch 2"):
        model(LOCAL_AND_GLOBAL(RECORDS))


# --- readouts ------------------------------------------------------------------------------------------------------


def by_hand(h: Tensor, batch: GraphBatch, readout: str) -> Tensor:
    rows = []
    for start, stop in zip(batch.graph.src_ptr[:-1].tolist(), batch.graph.src_ptr[1:].tolist(), strict=True):
        atoms, virtual = h[start : stop - 2], h[stop - 2 : stop]
        rows += {
            "sum": lambda: [atoms.sum(0)],  # noqa: B023
            "mean": lambda: [atoms.sum(0) / max(len(atoms), 1)],  # noqa: B023
            "max": lambda: [atoms.amax(0) if len(atoms) else torch.zeros(h.shape[1]).to(h)],  # noqa: B023
            "virtual": lambda: [virtual.mean(0)],  # noqa: B023
            "nodes": lambda: list(atoms),  # noqa: B023
        }[readout]()
    return torch.stack(rows)


@pytest.mark.parametrize("readout", READOUTS)
def test_a_readout_is_of_each_graph_and_ignores_virtual_nodes_unless_asked(readout: str) -> None:
    batch = LOCAL_AND_GLOBAL([RECORDS[0], molecule(0), *RECORDS[1:]])
    h = torch.randn(batch.x.shape[0], 12, dtype=torch.float64)
    model = model_of(readout=readout)
    level = model.first_level(batch).with_nodes(h)
    if readout == "pool":
        assert model.pool_readout is not None
        model.pool_readout.pool.k = 50  # all nodes stay
    assert_close(model.read_out(level, batch), by_hand(h, batch, "sum" if readout == "pool" else readout))
    assert model(batch).shape == (24 if readout == "nodes" else 5, 2)


# --- what leaves the output unchanged ------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("line", ["bonds", "bonds | full | virtual(1)", "hops(2) | bonds | virtual(2)"])
def test_renumbering_atoms_renumbers_node_outputs_and_leaves_graph_outputs(line: str, readout: str) -> None:
    if readout == "virtual" and "virtual" not in line:
        pytest.skip("nothing to read")
    collate = GraphCollate(parse_edges(line), max_hops=3, num_walks=4)
    model = model_of(collate, readout=readout)
    data = molecule(17, 5)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(1))
    out, moved = model(collate([data, RECORDS[0]])), model(collate([permuted(data, order), RECORDS[0]]))
    expected = torch.cat([out[:17][order], out[17:]]) if readout == "nodes" else out
    assert_close(moved, expected, **EXACT)


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_a_molecule_has_the_same_output_alone_and_in_any_batch(norm: str) -> None:
    collate = GraphCollate(
        parse_edges("bonds | hops(2) | expander(4) | virtual(1)"), max_hops=3, num_walks=4, num_eigenvectors=3
    )
    model = model_of(collate, norm=norm)
    records = [*RECORDS, molecule(0)]
    alone = torch.cat([model(collate([record])) for record in records])
    assert_close(model(collate(records)), alone, **EXACT)
    assert_close(model(collate(records[::-1])), alone.flip(0), **EXACT)


@pytest.mark.parametrize("impl", ["dense", "scatter", "fused"])
def test_all_implementations_agree_in_output_and_gradient(impl: str) -> None:
    batch, results = LOCAL_AND_GLOBAL(RECORDS), []
    for name in (impl, "auto"):
        model = model_of(impl=name, edge_terms=("key", "value", "bias", "gate"))
        out = model(batch)
        out.square().sum().backward()
        results.append([out, *(parameter.grad for parameter in model.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


def test_full_attention_in_blocks_is_full_attention_in_edges() -> None:
    blocks, edges = GraphCollate(parse_edges("full"), edge_features=False), GraphCollate(parse_edges("full"))
    model = model_of(blocks, edge_dim=0)
    assert model.edge_encoder is None
    assert_close(model(blocks(RECORDS)), model(edges(RECORDS)), **EXACT)


# --- corners -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("records", [[molecule(1)], [molecule(0)], [molecule(0), molecule(1)]])
@pytest.mark.parametrize("line", ["bonds | virtual(1)", "bonds"])
def test_graphs_without_edges_or_nodes_train(line: str, records: list[Data], readout: str) -> None:
    if readout == "virtual" and "virtual" not in line:
        pytest.skip("nothing to read")
    collate = GraphCollate(parse_edges(line), max_hops=2, num_walks=2, num_eigenvectors=2)
    model = model_of(collate, readout=readout).train()
    out = model(collate(records))
    out.sum().backward()
    assert bool(out.isfinite().all())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_features_that_are_numbers_and_bonds_without_features_are_served() -> None:
    def numeric(data: Data, has_attr: bool) -> Data:
        attr = data.edge_attr[:, :1].float() if has_attr else None
        return Data(x=data.x[:, :4].float(), edge_index=data.edge_index, edge_attr=attr)

    for has_attr in (True, False):
        collate = GraphCollate()
        options = {"atom_dims": 4, "bond_dims": 1 if has_attr else 0}
        model = GraphTransformer.from_size("tiny", collate, **options)
        assert model(collate([numeric(record, has_attr) for record in RECORDS])).shape == (4, 1)


@pytest.mark.parametrize(
    "inputs, advice",
    [
        ({"max_hops": 0, "num_walks": 3}, "reads hop distances, the batch has none. Set max_hops"),
        ({"max_hops": 2, "num_walks": 0}, "reads positions, the batch has none. Set num_walks"),
        ({"max_hops": 2, "num_walks": 5}, r"positions must have shape \[num_nodes, 3 \+ 0\], got \[32, 5\]"),
        ({"max_hops": 2, "num_walks": 3, "edge_features": False}, "reads features of bonds, the batch has none"),
    ],
)
def test_what_the_collation_left_out_is_missed_by_name(inputs: dict, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        model_of()(GraphCollate(LOCAL_AND_GLOBAL.edges, **inputs)(RECORDS))


def test_a_kind_of_edge_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="edges of kind 'full', this encoder knows bond, virtual"):
        model_of(kinds=("bond", "virtual"))


# --- compiled ------------------------------------------------------------------------------------------------------


WARM_UP = 2  # batches: the first program, and the one for sizes that vary


def ten_batches(start: int = 0) -> list[GraphBatch]:
    """Batches of two to eleven molecules, no two alike in molecules, atoms or edges."""
    batches = []
    for size in (5, 3, 7, 2, 11, 4, 9, 6, 10, 8):
        batches.append(LOCAL_AND_GLOBAL([molecule(3 + i % 11, i) for i in range(start, start + size)]))
        start += size
    assert len({(batch.num_graphs, batch.x.shape[0], batch.graph.num_edges) for batch in batches}) == 10
    return batches


def check_compiled(backend: str, is_training: bool, dropout_p: float, is_listed: bool) -> None:
    """Ten batches after the warm-up: no graph break, no other program; but for dropout the plain model's numbers."""
    import torch._dynamo

    terms = ("key", "value", "bias", "gate")
    model = model_of(dropout_p=dropout_p, attention_dropout_p=dropout_p, num_layers=1, edge_terms=terms).float()
    model.train(is_training)
    compiled = torch.compile(model, fullgraph=True, backend=backend)

    def out_and_gradients(run: Callable[[GraphBatch], Tensor], batch: GraphBatch) -> list[Tensor]:
        model.zero_grad()
        out = run(batch)
        out.square().sum().backward()
        grads = [parameter.grad for parameter in model.parameters()]
        assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads)
        return [out.detach(), *grads]  # type: ignore[list-item]

    for number, batch in enumerate(ten_batches(start=100)[:WARM_UP] + ten_batches()):
        batch = batch.without_types() if is_listed else batch
        with torch._dynamo.config.patch(error_on_recompile=number >= WARM_UP):
            ours = out_and_gradients(compiled, batch)
        if not is_training or not dropout_p:
            expected = out_and_gradients(model, batch)
            rounding = 1e-5 * max(float(each.abs().max()) for each in expected)  # before a norm, gradients are all that
            for mine, theirs in zip(ours, expected, strict=True):
                assert_close(mine, theirs, rtol=1e-3, atol=rounding)


@pytest.fixture
def dynamo() -> Iterator[None]:
    import torch._dynamo

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "is_training, dropout_p, is_listed",
    [(True, 0.2, False), (False, 0.2, False), (True, 0.0, True)],
    ids=["training", "evaluation", "training over features of every edge"],
)
def test_the_whole_model_is_one_program_for_ten_batches_of_molecules(
    is_training: bool, dropout_p: float, is_listed: bool, dynamo: None
) -> None:
    check_compiled("aot_eager", is_training, dropout_p, is_listed)


@pytest.mark.slow
@pytest.mark.parametrize("is_training", [True, False], ids=["training", "evaluation"])
def test_inductor_makes_one_program_for_ten_batches_of_molecules(is_training: bool, dynamo: None) -> None:
    check_compiled("inductor", is_training, dropout_p=0.2, is_listed=False)


# --- configuration -------------------------------------------------------------------------------------------------


def test_a_configuration_comes_back_from_plain_values() -> None:
    config = GraphTransformerConfig.from_size("medium", LOCAL_AND_GLOBAL, edge_terms=("bias",), atom_dims=7)
    assert (config.num_virtual, config.max_hops, config.num_walks) == (2, 2, 3)
    assert config.kinds == ("bond", "full", "virtual")
    values = json.loads(json.dumps(config.to_dict()))
    assert GraphTransformerConfig.from_dict(values) == config
    default = GraphTransformerConfig()
    assert GraphTransformerConfig.from_dict(json.loads(json.dumps(default.to_dict()))) == default


def test_the_default_model_reads_the_default_collation() -> None:
    collate = GraphCollate()
    assert GraphTransformer()(collate(RECORDS)).shape == (4, 1)
    assert GraphTransformerConfig.from_size("small", collate) == GraphTransformerConfig()


@pytest.mark.parametrize("size", sorted(NAMED_SIZES))
def test_a_named_size_says_its_number_of_parameters(size: str) -> None:
    with torch.device("meta"):
        model = GraphTransformer.from_size(size)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert model.num_parameters() == count
    assert f"{count:,} parameters" in repr(model)
    assert len(model.blocks) == NAMED_SIZES[size]["num_layers"]
    assert model.from_size(size, embed_dim=16, num_heads=2).config.embed_dim == 16


@pytest.mark.parametrize(
    "make, advice",
    [
        (lambda: GraphTransformer.from_size("smal"), "tiny, small, medium, large, got 'smal'. Did you mean 'small'?"),
        (lambda: GraphTransformer.from_size("tiny", readout="men"), "got 'men'. Did you mean 'mean'?"),
        (lambda: GraphTransformerConfig(norm="bach"), "norm must be one of batch, layer, got 'bach'. Did you mean"),
        (lambda: GraphTransformerConfig(norm="?"), "got '?'. Check the spelling"),
        (lambda: GraphTransformerConfig(impl="fuse"), "got 'fuse'. Did you mean 'fused'?"),
        (lambda: GraphTransformerConfig(edge_terms=("keys",)), "got 'keys'. Did you mean 'key'?"),
        (lambda: GraphTransformerConfig.from_dict({"num_layer": 3}), "got 'num_layer'. Did you mean 'num_layers'?"),
        (lambda: GraphTransformerConfig(readout="virtual", num_virtual=0), "needs virtual nodes, got num_virtual = 0"),
        (lambda: GraphTransformerConfig(dropout_p=1.5), "dropout_p must lie in [0, 1], got 1.5"),
        (lambda: GraphTransformerConfig(num_layers=-1), "num_layers must be at least 0, got -1"),
        (lambda: GraphTransformerConfig(ffn_ratio=0), "ffn_ratio must be positive, got 0"),
        (lambda: GraphTransformer(GraphTransformerConfig(embed_dim=10)), "num_heads must divide embed_dim"),
        (lambda: GraphTransformer(GraphTransformerConfig(edge_terms=())), "EdgeTerms must use edge features somewhere"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused_with_the_next_step(make, advice: str) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)):
        make()


def test_it_learns_a_property_that_needs_more_than_one_hop() -> None:
    torch.manual_seed(0)
    records = [molecule(5 + number % 9, number) for number in range(48)]
    collate = GraphCollate()
    batch = collate(records)
    target = torch.tensor([[float((r.x[0, 0] > 60) == (r.x[-1, 0] > 60))] for r in records])
    model = GraphTransformer.from_size("tiny", collate, dropout_p=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(batch), target)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1


# --- selection and pooling -----------------------------------------------------------------------------------------


def test_layers_attend_over_the_graphs_that_connect_draws() -> None:
    model, batch = (
        model_of(select="SubsampleSources(keep_p=0.5)", dropout_p=0.0, norm="layer"),
        LOCAL_AND_GLOBAL(RECORDS),
    )
    plain = model_of(dropout_p=0.0, norm="layer")
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("draws")})
    assert_close(model.eval()(batch), plain.eval()(batch), **EXACT)
    out = model.train()(batch)
    assert model.draws is not None
    graphs = model.connect(batch.graph, step=model.draws.step)
    assert graphs[0] != graphs[1] and graphs[0].num_edges < 0.7 * batch.graph.num_edges
    for types in (batch, batch.without_types()):
        h, edges = plain.embed(types), plain.edge_encoder(types)
        edges = edges if types.edge_type is None else edges[types.edge_type]
        for block, graph in zip(plain.blocks, graphs, strict=True):
            h = block(h, graph, graph.align(edges, of=batch.graph), None)
        level = plain.first_level(batch).with_nodes(plain.norm(h))
        assert_close(out, plain.head(plain.read_out(level, batch)), **EXACT)


@pytest.mark.parametrize("make", [GraphTransformer, EGT])
def test_graphs_that_were_drawn_before_are_attended_over(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    options = {"select": "SubsampleSources(keep_p=0.5)", "dropout_p": 0.0, "num_layers": 2}
    options |= {"edge_dropout_p": 0.0} if make is EGT else {}
    model, batch = make.from_size("tiny", LOCAL_AND_GLOBAL, **options), LOCAL_AND_GLOBAL(RECORDS)
    out = model(batch)
    graphs = model.connect(batch.graph, step=model.draws.step)
    step = model.draws.step
    assert_close(model(batch, graphs), out)
    assert model.draws.step == step


def test_a_selection_of_everything_is_no_selection() -> None:
    batch, plain = LOCAL_AND_GLOBAL(RECORDS), model_of(dropout_p=0.0).train()
    for line in ("SubsampleSources(keep_p=1)", "PerLayer(None, SubsampleSources(num_sources=99))"):
        model = model_of(dropout_p=0.0, select=line).train()
        model.load_state_dict({**model.state_dict(), **plain.state_dict()})
        assert_close(model(batch), plain(batch), **EXACT)


def test_a_selection_is_given_as_a_spec_or_as_its_line() -> None:
    spec = SubsampleSources(num_sources=3)
    config = GraphTransformerConfig(select=spec)  # type: ignore[arg-type]
    assert config == GraphTransformerConfig.from_dict(config.to_dict())
    assert GraphTransformer(config).draws is not None and GraphTransformer().draws is None
    with pytest.raises(ValueError, match="one spec for each of the 4 layers, got 1"):
        GraphTransformerConfig(select="PerLayer(SubsampleSources(num_sources=3))")
    with pytest.raises(ValueError, match="there is no 'Subsample'"):
        GraphTransformerConfig(select="Subsample()")


def test_pools_between_layers_keep_a_share_of_the_atoms_and_no_virtual_node() -> None:
    model, batch = model_of(pool_layers=(1,), num_layers=3, readout="mean"), LOCAL_AND_GLOBAL(RECORDS)
    with record(model) as recording:
        out = model(batch)
    sizes = [layer.graph.num_dst_nodes for layer in recording.steps]
    expected = sum(-(-size // 2) for size in SIZES)
    assert sizes[0] == sum(SIZES) + 8 and sizes[-1] == expected and out.shape == (4, 2)
    out.square().sum().backward()
    pool = model.pools[0]
    assert bool(pool.scorer.weight.grad.any())
    assert model.blocks[0].attention.edge is not None and model.blocks[1].attention.edge is None


@pytest.mark.parametrize("options", [{"pool_layers": (1, 2), "num_layers": 3}, {"readout": "pool", "pool_k": 3}])
def test_a_pooled_molecule_has_the_same_output_alone_renumbered_and_in_any_batch(options: dict) -> None:
    model = model_of(**options)
    records = [*RECORDS, molecule(0)]
    alone = torch.cat([model(LOCAL_AND_GLOBAL([record])) for record in records])
    assert_close(model(LOCAL_AND_GLOBAL(records)), alone, **EXACT)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    moved = model(LOCAL_AND_GLOBAL([permuted(RECORDS[0], order), *records[1:]]))
    assert_close(moved, alone, **EXACT)


def test_layers_above_a_pool_draw_from_what_it_leaves() -> None:
    model = model_of(pool_layers=(1,), num_layers=2, select="SubsampleSources(num_sources=2)").train()
    with record(model) as recording:
        model(LOCAL_AND_GLOBAL(RECORDS))
    graphs = [layer.graph for layer in recording.steps if layer.kind == "attention"]
    assert [graph.kinds[-1] for graph in graphs] == ["sampled", "sampled"]
    assert graphs[1].num_edges == sum(min(2, -(-size // 2)) * -(-size // 2) for size in SIZES)
    assert model.draws is not None and model.draws.step == 3  # after three forwards of model_of


@pytest.mark.parametrize(
    "options, words",
    [
        ({"pool_layers": (0,)}, r"pool_layers must be different numbers from 1 to num_layers = 4, got \[0\]"),
        ({"pool_layers": (2, 2)}, "must be different numbers"),
        ({"pool_layers": (5,)}, "from 1 to num_layers = 4"),
        ({"pool_ratio": 0.0}, r"pool_ratio must lie in \(0, 1\], got 0.0"),
        ({"pool_layers": (1,), "readout": "nodes"}, "readout 'nodes' needs the nodes of the data"),
        ({"pool_layers": (1,), "readout": "virtual"}, "readout 'virtual' needs the nodes"),
        ({"pool_k": 0}, "pool_k must be at least 1, got 0"),
    ],
)
def test_pools_that_do_not_fit_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GraphTransformerConfig(**options)


# --- scores, connections, gates and pruned sizes -------------------------------------------------------------------

GATED = "StraightThroughHeadGate(num_keep=3)"


def test_the_new_seats_are_given_as_specs_or_as_their_lines_and_come_back_from_yaml() -> None:
    connect = PerLayer(None, Fixed(segment=4, summary="mean"))
    config = GraphTransformerConfig(
        num_layers=2, score=Symmetric(), connect=connect, kept_heads=[[0, 2], []],  # type: ignore[arg-type]
    )  # fmt: skip
    assert config.connections() == connect.specs and config.score == "Symmetric()"
    assert config.kept_heads == ((0, 2), ())
    values = yaml.safe_load(yaml.safe_dump(config.to_dict()))
    assert values["kept_heads"] == [[0, 2], []]
    assert GraphTransformerConfig.from_dict(values) == config
    gated = GraphTransformerConfig(num_layers=2, score="Pairwise(init='identity')", head_gate=GATED)
    assert GraphTransformerConfig.from_dict(yaml.safe_load(yaml.safe_dump(gated.to_dict()))) == gated
    left_out = GraphTransformerConfig(connect=None, head_gate=None, kept_heads=None)  # type: ignore[arg-type]
    assert left_out == GraphTransformerConfig()


def test_each_layer_has_the_seats_that_the_configuration_names() -> None:
    line = f"PerLayer(None, {Fixed(segment=4)!r})"
    model = model_of(score=repr(Pairwise(init="identity")), connect=line, head_gate=GATED)
    plain, connected = (block.attention for block in model.blocks)
    for attention in (plain, connected):
        eye = torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
        assert torch.equal(attention.score.pair_weight.detach(), eye)
    assert plain.connect is None and plain.edge is not None
    assert connected.connect.spec == Fixed(segment=4) and connected.edge is None
    assert (model.head_gate.num_layers, model.head_gate.num_heads, model.head_gate.num_keep) == (2, 3, 3)


def test_identity_pairs_are_symmetric_scores() -> None:
    symmetric, pairwise = model_of(score="Symmetric()"), model_of(score="Pairwise(init='identity')")
    state = {name: weight for name, weight in pairwise.state_dict().items() if "pair_weight" not in name}
    symmetric.load_state_dict(state)
    batch = LOCAL_AND_GLOBAL(RECORDS)
    assert_close(symmetric(batch), pairwise(batch), **EXACT)
    saved = model_of().num_parameters() - symmetric.num_parameters()
    assert saved == 2 * 12 * 13  # a projection of keys with its bias in each layer


@pytest.mark.parametrize("name", sorted(GATES))
def test_a_gate_is_called_once_and_each_layer_has_its_row(name: str) -> None:
    model, batch = model_of(head_gate=f"{name}(num_keep=4)", dropout_p=0.0), LOCAL_AND_GLOBAL(RECORDS)
    assert model.head_gate is not None
    rows: list[Tensor] = []
    for layer, block in enumerate(model.blocks):
        block.register_forward_pre_hook(
            lambda module, inputs, given, layer=layer: rows.append(given["head_gate"]), with_kwargs=True
        )
    calls: list[Tensor] = []
    model.head_gate.register_forward_hook(lambda module, inputs, gate: calls.append(gate))
    model(batch)
    assert len(calls) == 1 and calls[0].shape == (2, 3) and int(calls[0].sum()) == 4
    assert torch.equal(torch.stack(rows), calls[0])
    plain = model_of(dropout_p=0.0)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("head_gate")})
    out = plain.first_level(batch)
    for block, row in zip(plain.blocks, calls[0], strict=True):
        out = out.with_nodes(block(out.h, *out.read_over(out.graph), head_gate=row))
    assert_close(model(batch), plain.head(plain.read_out(out.with_nodes(plain.norm(out.h)), batch)), **EXACT)


@pytest.mark.parametrize("kept", [[[0, 2], [1]], [[], [0, 1, 2]], [[2], []]])
@pytest.mark.parametrize("connect", ["", "PerLayer(None, Fixed(segment=4))"])
@pytest.mark.parametrize("score", ["DotProduct()", "Symmetric()", "Pairwise()"])
def test_a_model_with_kept_heads_takes_the_weights_of_a_pruned_one(
    score: str, connect: str, kept: list[list[int]]
) -> None:
    options = {"score": score, "connect": connect, "edge_terms": ("key", "value", "bias", "gate")}
    num_keep = sum(map(len, kept))
    gated = model_of(head_gate=f"ImportanceHeadGate(num_keep={num_keep})", **options)
    for layer, heads in enumerate(kept):
        gated.head_gate.importance[layer, heads] = 1.0
    assert gated.head_gate.kept() == kept
    pruned = GraphTransformer(replace(gated.config, head_gate="", kept_heads=kept)).double().eval()
    pruned.load_state_dict(prune(gated, kept).state_dict())
    batch = LOCAL_AND_GLOBAL(RECORDS)
    assert_close(pruned(batch), gated(batch), **EXACT)
    assert pruned.num_parameters() < gated.num_parameters()
    assert [block.attention.num_heads for block in pruned.blocks] == [len(heads) for heads in kept]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"score": ""}, "score must name a score, got ''. Write 'DotProduct()'"),
        ({"score": "Symetric()"}, "there is no 'Symetric'. Did you mean 'Symmetric'?"),
        ({"score": "Pairwise(init='eye')"}, "init must be one of 'paper', 'identity', 'scaled', got 'eye'"),
        ({"connect": "SubsampleSources(keep_p=0.5)"}, "connect cannot be read: there is no 'SubsampleSources'"),
        ({"connect": "PerLayer(Fixed())"}, "must hold one spec for each of the 4 layers, got 1"),
        ({"connect": "Fixed()"}, "edge_dim = 16 needs a layer that reads features of edges, but connect, Fixed"),
        (
            {"connect": "Fixed()", "select": "TopKEdges(k=3)"},
            "layer 0 has both select, TopKEdges(k=3, score_dim=16, keep_self=False), and connect, Fixed(",
        ),
        (
            {
                "connect": "PerLayer(None, None, LogSparse(), None)",
                "select": "PerLayer(None, None, SubsampleSources(keep_p=0.5), None)",
            },
            "layer 2 has both select, SubsampleSources(",
        ),
        (
            {"pool_layers": (2,), "connect": "PerLayer(None, None, None, Clusters())"},
            "layer 3 has Clusters(summary='max', log_size=False, kind='cluster', causal=False), which needs edges of "
            "kind 'cluster', and stands above a pool, pool_layers = [2]",
        ),
        (
            {
                "pool_layers": (1,),
                "select": "Ramp(SubsampleHops(num_hops=1, sigma=1.0), SubsampleHops(num_hops=3, sigma=1.0), 5)",
            },
            "layer 1 has Ramp(start=SubsampleHops(",
        ),
        ({"head_gate": "SubsetHeadGat(num_keep=3)"}, "there is no 'SubsetHeadGat'. Did you mean 'SubsetHeadGate'?"),
        ({"head_gate": "SubsetHeadGate()"}, "1 required positional argument: 'num_keep'. It is SubsetHeadGate("),
        ({"head_gate": "SubsetHeadGate(num_keep=17)"}, "head_gate: num_keep must lie in 1 to 16"),
        ({"head_gate": "ImportanceHeadGate(num_keep=0)"}, "head_gate: num_keep must lie in 1 to 16"),
        ({"head_gate": GATED, "kept_heads": ((0,),) * 4}, "before it is pruned, and kept_heads after that; got both"),
        ({"kept_heads": ((0,), (1,))}, "kept_heads must have a list for each of 4 layers, got 2"),
        ({"kept_heads": (0, 1, 2, 3)}, "kept_heads must hold a list of heads for each layer, got (0, 1, 2, 3)"),
        ({"kept_heads": ((0, 4), (), (), ())}, "numbers of heads from 0 to 3, each once in its layer, got [[0, 4], "),
        ({"kept_heads": ((-1,), (), (), ())}, "numbers of heads from 0 to 3, each once in its layer, got [[-1], "),
        ({"kept_heads": ((1, 1), (), (), ())}, "each once in its layer, got [[1, 1], [], [], []]"),
        ({"kept_heads": ((True,), (), (), ())}, "kept_heads must hold numbers of heads"),
        ({"kept_heads": ((0, 1),) * 4, "embed_dim": 10}, "num_heads must divide embed_dim, got 4 heads for width 10"),
        ({"impl": "blocks"}, "impl 'blocks' serves no layer that reads features of edges"),
        ({"impl": "blocks", "edge_dim": 0, "select": "TopKEdges(k=3)"}, "impl 'blocks' cannot serve layer 0"),
        ({"impl": "sdpa"}, "impl 'sdpa' serves no layer that reads features of edges"),
        ({"impl": "sdpa", "edge_dim": 0, "attention_dropout_p": 0.1}, "impl 'sdpa' has no dropout of weights"),
    ],
)  # fmt: skip
def test_seats_that_do_not_fit_are_refused_when_the_configuration_is_made(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        GraphTransformerConfig(**options)


def test_a_gate_given_as_a_module_is_asked_for_as_a_line() -> None:
    gate = GATES["SubsetHeadGate"](4, 4, 4)
    with pytest.raises(TypeError, match=r"head_gate must be one line of text, got SubsetHeadGate\. Write"):
        GraphTransformerConfig(head_gate=gate)  # type: ignore[arg-type]


def test_checking_a_gate_draws_no_number() -> None:
    torch.manual_seed(0)
    GraphTransformerConfig(head_gate=GATED)
    drawn = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(torch.rand(()), drawn)
