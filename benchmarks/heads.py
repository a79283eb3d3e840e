"""How much faster and smaller is a model after pruning, for each share of its heads?

    python benchmarks/heads.py [--layers 6] [--heads 12] [--embed_dim 192] [--rounds 9] [--out FILE.json]

A `GraphTransformer` with edge features in key, value and bias, over all pairs of 64 made molecules of 10 to 42 atoms
(a random tree with rings, features drawn), float32, one thread. Gates keep the heads that a `SubsetHeadGate` ranks
first from its own start, so layers keep unequally many. First each pruned model equals the gated one in float64; then
forward in evaluation, and forward with backward, are timed in turn for the whole model and all pruned ones. A row gives
the heads that stay, parameters, bytes of the state_dict on disk, the medians in ms and their ratios to the whole model
(median over rounds of the ratio in that round). What pruning costs in accuracy is another question. Sample row:

    1/4        18 of 72 heads   1,168,259 parameters    4.75 MB    forward   174.8 ms  0.61x    step   549.5 ms  0.63x
"""

import argparse
import copy
import io
import statistics
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from measure import interleaved, median_ratio, spread, write_record
from torch import Tensor, nn
from torch_geometric.data import Data

from graphattn.inputs import GraphBatch, GraphCollate, parse_edges
from graphattn.models import GraphTransformer
from graphattn.nn import GraphAttention, SubsetHeadGate, prune

SHARES = (Fraction(1), Fraction(3, 4), Fraction(1, 2), Fraction(1, 4), Fraction(1, 12))
ATOM_DIMS, BOND_DIMS = (20, 5), (4,)  # categories
NUM_MOLECULES, CHECKED = 64, 4
TOLERANCE = 1e-10
AT_LEAST_MS = 20.0


def molecule(generator: torch.Generator) -> Data:
    """Makes a random tree of 10 to 42 atoms with a ring closed for every tenth, bonds both ways."""

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    size = number(10, 43)
    bonds = {(number(max(0, atom - 3), atom), atom) for atom in range(1, size)}
    for _ in range(size // 10):
        first = number(0, size - 5)
        bonds.add((first, first + 5))
    src, dst = torch.tensor(sorted(bonds)).T
    kind = torch.randint(BOND_DIMS[0], (src.numel(), 1), generator=generator)
    return Data(
        x=torch.stack([torch.randint(dim, (size,), generator=generator) for dim in ATOM_DIMS], 1),
        edge_index=torch.stack([torch.cat([src, dst]), torch.cat([dst, src])]),
        edge_attr=torch.cat([kind, kind]),
    )


def make_model(collate: GraphCollate, layers: int, heads: int, embed_dim: int) -> GraphTransformer:
    torch.manual_seed(0)
    sizes = {"num_layers": layers, "num_heads": heads, "embed_dim": embed_dim, "dropout_p": 0.0}
    return GraphTransformer.from_size("small", collate, atom_dims=ATOM_DIMS, bond_dims=BOND_DIMS, **sizes)


def gated(model: nn.Module, gates: Tensor) -> nn.Module:
    """Returns a copy whose layers are given a gate with every call."""
    model = copy.deepcopy(model)
    layers = [module for module in model.modules() if isinstance(module, GraphAttention)]
    for layer, gate in zip(layers, gates):
        layer.register_forward_pre_hook(
            lambda module, inputs, named, gate=gate: (inputs, {**named, "head_gate": gate}), with_kwargs=True
        )
    return model


def check(model: nn.Module, gate: SubsetHeadGate, batch: GraphBatch) -> None:
    """Refuses to time what is not right."""
    model = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        ours, theirs = prune(model, gate.kept())(batch), gated(model, gate.hard())(batch)
    gap = float((ours - theirs).abs().max() / theirs.abs().max())
    if not gap < TOLERANCE:
        raise SystemExit(
            f"pruned to {gate.num_keep} heads the model differs from the gated one by {gap:.2g}; not timed"
        )


def make_forward(model: nn.Module, batch: GraphBatch) -> Callable[[], object]:
    def forward() -> None:
        model.eval()
        with torch.no_grad():
            model(batch)

    return forward


def make_step(model: nn.Module, batch: GraphBatch) -> Callable[[], object]:
    def step() -> None:
        model.train().zero_grad()
        model(batch).square().mean().backward()

    return step


def bytes_of(model: nn.Module) -> int:
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    return stream.tell()


def line(row: dict) -> str:
    """Returns a row of results as text."""
    return (
        f"{row['share']:6} {row['num_keep']:6} of {row['num_heads']} heads {row['num_parameters']:11,} parameters "
        f"{row['bytes'] / 1e6:7.2f} MB    forward {row['forward_ms']:7.4g} ms {row['forward_ratio']:5.2f}x    "
        f"step {row['step_ms']:7.4g} ms {row['step_ratio']:5.2f}x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=12, help="of each layer")
    parser.add_argument("--embed_dim", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds, after two that are not")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--quick", action="store_true", help="two layers and three rounds, to see that it runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    layers, rounds = (2, 3) if arguments.quick else (arguments.layers, arguments.rounds)
    generator = torch.Generator().manual_seed(0)
    molecules = [molecule(generator) for _ in range(NUM_MOLECULES)]
    collate = GraphCollate(parse_edges("bonds | full | virtual(1)"))
    batch, few = collate(molecules), collate(molecules[:CHECKED])
    model = make_model(collate, layers, arguments.heads, arguments.embed_dim)
    num_heads = layers * arguments.heads
    models: dict[Fraction, Any] = {}
    for share in SHARES:
        torch.manual_seed(1)  # the same ranking for every share
        gate = SubsetHeadGate(layers, arguments.heads, max(1, round(num_heads * share)))
        check(model, gate, few)
        models[share] = prune(model, gate.kept()), gate
    forward = interleaved(
        {share: make_forward(made, batch) for share, (made, _) in models.items()}, rounds, at_least_ms=AT_LEAST_MS
    )
    step = interleaved(
        {share: make_step(made, batch) for share, (made, _) in models.items()}, rounds, at_least_ms=AT_LEAST_MS
    )
    rows = []
    for share, (made, gate) in models.items():
        row = {
            "share": str(share),
            "num_keep": gate.num_keep,
            "num_heads": num_heads,
            "kept_by_layer": [len(kept) for kept in gate.kept()],
            "embed_dim": arguments.embed_dim,
            "num_nodes": batch.graph.num_src_nodes,
            "num_edges": batch.graph.num_edges,
            "num_parameters": made.num_parameters(),
            "bytes": bytes_of(made),
            "forward_ms": statistics.median(forward[share]),
            "forward_spread": spread(forward[share]),
            "forward_ratio": median_ratio(forward[share], forward[Fraction(1)]),
            "step_ms": statistics.median(step[share]),
            "step_spread": spread(step[share]),
            "step_ratio": median_ratio(step[share], step[Fraction(1)]),
        }
        rows.append(row)
        print(line(row), flush=True)
    if arguments.out:
        write_record(arguments.out, "heads", rows)


if __name__ == "__main__":
    main()
