"""What does a training step of EGT cost over the pairs that molecules have, and what over a padded batch?

    python benchmarks/egt.py [--root DIR] [--batch-size 8 16] [--rounds 5] [--threads 1] [--out FILE.json]

EGT keeps a state of every pair of nodes. The authors' code pads a batch to its largest graph and holds N × N pairs of
each; an edge list holds the pairs that there are. A stack of 4 layers, 64 wide, 8 heads, edge state 16 wide, starts
from random node features and from the hop distance of all pairs inside a molecule, 16 hops told apart. A step is
zero_grad, the embedding of distances, the layers, a loss, backward and AdamW, in float32. Contenders, with the same
weights:

    edge lists             `graphattn.nn.EGTLayer` over all pairs inside each molecule
    a quarter of sources   the same with `SubsampleSources(keep_p=0.25)`, drawn anew in each step for each layer
    padded                 the same formula in batched dense products over [batch, N, N]

With --root, molecules are those of peptides-functional (Dwivedi et al. 2022, Long Range Graph Benchmark): DIR holds
peptide_multi_class_dataset.csv.gz, at any depth. Its licence (CC BY-NC 4.0) is not ours, so it does not come with this
repository; without --root molecules are peptides about as large, of random sequences, made by RDKit. The batch is drawn
with a fixed seed.

"edge lists" and "padded" first have to agree in output and in the gradient of every parameter, in float64; otherwise
nothing is timed. Then all are timed in turn, round by round, after two warm-up rounds. A row gives the median in ms,
the spread (minimum to maximum), the ratio to "edge lists" (median over rounds of the ratio in that round), and the peak
of resident memory that one step adds, measured in a process of the contender's own. Sample row:

    batch  8   334,012 of 829,472 pairs     padded                  7422 ms (6798-8046)     3.77x   2250 MiB
"""

import argparse
import csv
import functools
import gzip
import statistics
from pathlib import Path

import numpy as np
import torch
from measure import added_peak, in_fresh_process, interleaved, median_ratio, spread, write_record
from torch import Tensor, nn

from graphattn.connectivity import full, hop_distance
from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.nn import DistanceEncoder, EGTLayer
from graphattn.selection import LayerDraws, SubsampleSources

NUM_LAYERS, EMBED_DIM, NUM_HEADS, EDGE_DIM, MAX_HOPS = 4, 64, 8, 16, 16
KEEP_P = 0.25
CONTENDERS = ("edge lists", "a quarter of sources", "padded")
FILE = "peptide_multi_class_dataset.csv.gz"
TOLERANCE = 1e-10
CHECKED_GRAPHS = 3
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
NUM_RESIDUES = (15.5, 0.55)  # median and log-deviation of a random peptide's length


def bonds_of(molecule) -> AttentionGraph:
    """Returns the bonds of an RDKit molecule, in both directions."""
    pairs = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    one_way = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T
    return AttentionGraph.from_edge_index(torch.cat([one_way, one_way.flip(0)], 1), molecule.GetNumAtoms())[0]


@functools.cache
def peptides(root: Path | None, count: int) -> tuple[AttentionGraph, ...]:
    """Returns the bonds of molecules drawn from the data set, or made up."""
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")
    generator = np.random.default_rng(0)
    if root is None:
        median, deviation = NUM_RESIDUES
        lengths = np.clip(np.round(generator.lognormal(np.log(median), deviation, count)).astype(int), 2, 55)
        sequences = ["".join(generator.choice(list(RESIDUES), length)) for length in lengths]
        return tuple(bonds_of(Chem.MolFromSequence(sequence)) for sequence in sequences)
    found = sorted(root.rglob(FILE))
    if not found:
        raise SystemExit(f"--root must hold {FILE}, found none in {root}. Leave --root out for made-up peptides.")
    with gzip.open(found[0], "rt") as lines:
        smiles = [row["smiles"] for row in csv.DictReader(lines)]
    chosen = generator.choice(len(smiles), count, replace=False)
    return tuple(bonds_of(Chem.MolFromSmiles(smiles[number])) for number in chosen)


class Batch:
    """Molecules as an edge list and padded: features, hop distances, and which places hold a node."""

    def __init__(self, molecules: tuple[AttentionGraph, ...], dtype: torch.dtype = torch.float32):
        bonds = disjoint_union(molecules)
        sizes = torch.diff(bonds.src_ptr)
        self.graph = full(sizes).enumerate()
        self.graph.plan()
        self.distance = hop_distance(bonds, of=self.graph, max_hops=MAX_HOPS)
        self.x = torch.randn(bonds.num_src_nodes, EMBED_DIM, generator=torch.Generator().manual_seed(0)).to(dtype)
        self.is_real = torch.arange(int(sizes.max())) < sizes[:, None]  # [num_graphs, num_places]
        self.padded_x = self.x.new_zeros(*self.is_real.shape, EMBED_DIM)
        self.padded_x[self.is_real] = self.x
        is_pair = self.is_real[:, :, None] & self.is_real[:, None]  # targets first, as edges are sorted
        self.padded_distance = torch.full(is_pair.shape, MAX_HOPS + 1)
        self.padded_distance[is_pair] = self.distance


class Stack(nn.Module):
    """An embedding of distances and layers, which run over edge lists or padded."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = DistanceEncoder(MAX_HOPS, EDGE_DIM)
        self.layers = nn.ModuleList(
            EGTLayer(EMBED_DIM, NUM_HEADS, EDGE_DIM, update_edges=number + 1 < NUM_LAYERS)
            for number in range(NUM_LAYERS)
        )
        self.draws = LayerDraws(SubsampleSources(keep_p=KEEP_P), NUM_LAYERS)

    def forward(self, batch: Batch, contender: str) -> Tensor:
        """Returns [num_nodes, embed_dim]."""
        if contender == "padded":
            x, edge_attr = batch.padded_x, self.encoder(batch.padded_distance)
            for layer in self.layers:
                x, edge_attr = padded_layer(layer, x, edge_attr, batch.is_real)
            return x[batch.is_real]
        graphs = self.draws(batch.graph) if contender == "a quarter of sources" else [batch.graph] * NUM_LAYERS
        x, edge_attr = batch.x, self.encoder(batch.distance)
        for layer, sampled in zip(self.layers, graphs, strict=True):
            x, edge_attr = layer(x, edge_attr, batch.graph, sampled=sampled)
        return x


def padded_layer(layer: EGTLayer, x: Tensor, edge_attr: Tensor, is_real: Tensor) -> tuple[Tensor, Tensor]:
    """An `EGTLayer` over [num_graphs, num_places, num_places] pairs, targets first, as batched dense products."""
    h, e = layer.norm(x), layer.edge_norm(edge_attr)
    query, key, value = (
        project(h).unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2)
        for project in (layer.score.query_proj, layer.score.key_proj, layer.value_proj)
    )
    scores = (query @ key.mT / query.shape[-1] ** 0.5).clamp(-layer.logit_clip, layer.logit_clip)
    logits = scores + layer.edge.bias_proj(e).permute(0, 3, 1, 2)  # [num_graphs, num_heads, num_places, num_places]
    is_source = is_real[:, None, None, :]
    gate = layer.edge.gate_proj(e).permute(0, 3, 1, 2).sigmoid().masked_fill(~is_source, 0.0)
    alpha = logits.masked_fill(~is_source, -torch.inf).softmax(-1)
    out = (alpha * gate) @ value * gate.sum(-1, keepdim=True).log1p()
    x = x + layer.out_proj(out.transpose(1, 2).flatten(2))
    x = x + layer.ffn(x)
    if not layer.update_edges:
        return x, edge_attr
    edge_attr = edge_attr + layer.edge_out_proj(logits.permute(0, 2, 3, 1))
    return x, edge_attr + layer.edge_ffn(edge_attr)


class Step:
    """One training step, to be called again and again."""

    def __init__(self, batch: Batch, contender: str):
        self.batch, self.contender, self.stack = batch, contender, Stack()
        self.optimizer = torch.optim.AdamW(self.stack.parameters(), lr=1e-4)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.stack(self.batch, self.contender).square().mean().backward()
        self.optimizer.step()


def check(molecules: tuple[AttentionGraph, ...]) -> None:
    """Refuses to time what is not right."""
    batch, results = Batch(molecules[:CHECKED_GRAPHS], torch.float64), {}
    for contender in ("edge lists", "padded"):
        stack = Stack().double()
        out = stack(batch, contender)
        (out * torch.linspace(0.5, 2.0, out.numel()).view_as(out)).mean().backward()
        gradients = {f"gradient of {name}": weight.grad for name, weight in stack.named_parameters()}
        results[contender] = {"output": out.detach(), **gradients}
    for what, ours in results["edge lists"].items():
        gap = float((ours - results["padded"][what]).abs().max() / ours.abs().max().clamp(min=1))
        if not gap < TOLERANCE:
            raise SystemExit(f"padded and edge lists differ in {what} by {gap:.2g}; not timed")


def measure_memory(contender: str, molecules: tuple[AttentionGraph, ...]) -> None:
    """Prints what a step adds to resident memory, in MiB."""
    Step(Batch(molecules[:1]), contender)()  # loads kernels
    step = Step(Batch(molecules), contender)
    print(added_peak(step))


def line(row: dict) -> str:
    """Returns a row of results as text."""
    pairs = f"{row['num_pairs']:,} of {row['num_padded_pairs']:,} pairs"
    timed = f"{row['step_ms']:6.0f} ms ({row['step_spread'][0]:.0f}-{row['step_spread'][1]:.0f})"
    return (
        f"batch {row['batch_size']:2}   {pairs:28} {row['contender']:21} {timed:24} {row['ratio']:5.2f}x "
        f"{row['peak_mib']:6.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help=f"holds {FILE}; without it peptides are made up")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds, after two that are not")
    parser.add_argument("--threads", type=int, default=1, help="of torch and of the kernels")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--memory", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        return measure_memory(arguments.memory, peptides(arguments.root, arguments.batch_size[0]))
    passed_on = ["--threads", str(arguments.threads), *(["--root", str(arguments.root)] if arguments.root else [])]
    rows = []
    for batch_size in arguments.batch_size:
        molecules = peptides(arguments.root, batch_size)
        check(molecules)
        batch = Batch(molecules)
        peaks = {
            contender: float(
                in_fresh_process(__file__, ["--memory", contender, "--batch-size", str(batch_size), *passed_on])
            )
            for contender in CONTENDERS
        }
        times = interleaved({contender: Step(batch, contender) for contender in CONTENDERS}, arguments.rounds)
        for contender in CONTENDERS:
            row = {
                "data": "peptides-functional" if arguments.root else "random peptides",
                "batch_size": batch_size,
                "num_nodes": batch.graph.num_src_nodes,
                "largest": batch.is_real.shape[1],
                "num_pairs": batch.graph.num_edges,
                "num_padded_pairs": batch.padded_distance.numel(),
                "contender": contender,
                "step_ms": statistics.median(times[contender]),
                "step_spread": spread(times[contender]),
                "ratio": median_ratio(times[contender], times["edge lists"]),
                "peak_mib": peaks[contender],
            }
            rows.append(row)
            print(line(row), flush=True)
    if arguments.out:
        write_record(arguments.out, "egt", rows)


if __name__ == "__main__":
    main()
