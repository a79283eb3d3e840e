"""What does recording attention cost, and how much does a record take on disk and in memory?

    python benchmarks/recording.py [--head-dim 16 32 64] [--rounds 15] [--out FILE.json]

12 layers of 12 heads over 512 tokens that read 8 keys each, drawn at random, forward without gradients, float32: the
plain forward and the same inside `viz.record`, in turn. "blocks" are those of `GraphTransformer` (attention and
feed-forward part behind their norms), "attention" its attention layers alone. A row gives both medians in ms with their
spread, the median over rounds of the ratio in that round, and the size of the saved file. The last row records the same
layers over all 512 × 512 pairs with `top_edges=8` and gives the peak of resident memory, of the whole process and added
by the recorded forward, measured in a process of its own. Every record is first compared with `attention_weights`.
Sample row:

    blocks         head_dim 32    64.1 ms (61.9-70.2)    83.4 ms (80.2-95.1)   1.31x     4.2 MB
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from contenders import TOLERANCE
from measure import MIB, added_peak, in_fresh_process, interleaved, median_ratio, peak, spread, write_record
from torch import Tensor, nn

import graphattn as ga
from graphattn.graph import AttentionGraph
from graphattn.models.graph_transformer import Block, GraphTransformerConfig
from graphattn.nn import GraphAttention

NUM_LAYERS, NUM_HEADS, NUM_TOKENS, NUM_KEYS = 12, 12, 512, 8
TOP_EDGES = 8
BARS = {"ratio": 1.6, "mb": 60.0, "peak_mib": 1024.0}  # at most


class Layers(nn.Module):
    """Layers one after the other."""

    def __init__(self, parts: str, head_dim: int):
        super().__init__()
        dim = NUM_HEADS * head_dim
        config = GraphTransformerConfig(embed_dim=dim, num_heads=NUM_HEADS, edge_dim=0, norm="layer")
        self.layers = nn.ModuleList(
            Block(config) if parts == "blocks" else GraphAttention(dim, NUM_HEADS) for _ in range(NUM_LAYERS)
        )

    def forward(self, x: Tensor, graph: AttentionGraph) -> Tensor:
        for layer in self.layers:
            x = layer(x, graph, None, None) if isinstance(layer, Block) else x + layer(x, graph)
        return x


def make_model(parts: str, head_dim: int) -> tuple[Layers, Tensor]:
    torch.manual_seed(0)
    return Layers(parts, head_dim).eval(), torch.randn(NUM_TOKENS, NUM_HEADS * head_dim)


def few_keys() -> AttentionGraph:
    return ga.connectivity.random_regular(NUM_TOKENS, NUM_KEYS, generator=torch.Generator().manual_seed(0))


def record(model: Layers, x: Tensor, graph: AttentionGraph, top_edges: int | None = None) -> ga.viz.Recording:
    with ga.viz.record(model, top_edges=top_edges) as recording:
        model(x, graph)
    return recording


def check(model: Layers, x: Tensor, graph: AttentionGraph) -> None:
    """Refuses to time what is not right."""
    plain = model(x, graph)
    with ga.viz.record(model) as recording:
        if not torch.equal(model(x, graph), plain):
            raise SystemExit("recording changes the output; not timed")
    given: list[Tensor] = []
    layers = [layer.attention if isinstance(layer, Block) else layer for layer in model.layers]
    hooks = [layer.register_forward_pre_hook(lambda layer, inputs: given.append(inputs[0])) for layer in layers]
    model(x, graph)
    for hook in hooks:
        hook.remove()
    for layer, x_of_layer, step in zip(layers, given, recording.steps, strict=True):
        alpha = ga.attention_weights(*layer.score(x_of_layer, x_of_layer), graph, impl="scatter")
        gap = float((step.alpha - alpha).abs().max() / alpha.abs().max())
        if not gap < TOLERANCE:
            raise SystemExit(f"{step.name} differs from scatter by {gap:.2g} of the largest weight; not timed")


def measure_time(parts: str, head_dim: int, rounds: int) -> dict:
    model, x = make_model(parts, head_dim)
    graph = few_keys()
    check(model, x, graph)
    calls: dict[str, Callable[[], object]] = {
        "plain": lambda: model(x, graph),
        "recorded": lambda: record(model, x, graph),
    }
    times = interleaved(calls, rounds)
    with tempfile.TemporaryDirectory() as folder:
        path = record(model, x, graph).save(Path(folder) / "record.safetensors")
        num_bytes = path.stat().st_size
    row: dict = {"case": parts, "head_dim": head_dim, "num_edges": graph.num_edges, "mb": num_bytes / 1e6}
    for name, measured in times.items():
        row |= {f"{name}_ms": statistics.median(measured), f"{name}_spread": spread(measured)}
    row["ratio"] = median_ratio(times["recorded"], times["plain"])
    row["mb_bar"] = BARS["mb"]
    return row | ({"ratio_bar": BARS["ratio"]} if parts == "blocks" else {})


def measure_memory(head_dim: int) -> None:
    """Prints the peak of resident memory, added and of the process, and the share of weight that was kept, the least of
    a target and head and the mean of all."""
    model, x = make_model("blocks", head_dim)
    graph = ga.connectivity.full(NUM_TOKENS)
    recordings: list[ga.viz.Recording] = []
    added = added_peak(lambda: recordings.append(record(model, x, graph, TOP_EDGES)))
    kept = torch.stack([step.kept for step in recordings[0].steps])
    num_edges = sum(step.graph.num_edges for step in recordings[0].steps)
    print(added, peak() / MIB, num_edges, float(kept.min()), float(kept.mean()))


def line(row: dict) -> str:
    """Returns a row of results as text."""
    what = f"{row['case']:14} head_dim {row['head_dim']:<3}"
    if "peak_mib" in row:
        return (
            f"{what} {row['peak_mib']:.0f} MiB, of which the recorded forward adds {row['added_mib']:.0f}; "
            f"{row['num_edges']:,} edges kept"
        )
    timed = [
        f"{row[f'{name}_ms']:7.1f} ms ({row[f'{name}_spread'][0]:.1f}-{row[f'{name}_spread'][1]:.1f})"
        for name in ("plain", "recorded")
    ]
    return f"{what} {timed[0]:24} {timed[1]:24} {row['ratio']:.2f}x {row['mb']:6.1f} MB"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--head-dim", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--rounds", type=int, default=15, help="counted rounds, after two that are not")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--memory", type=int, metavar="HEAD_DIM", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        return measure_memory(arguments.memory)
    rows = []
    for parts in ("blocks", "attention"):
        for head_dim in arguments.head_dim:
            rows.append(measure_time(parts, head_dim, arguments.rounds))
            print(line(rows[-1]), flush=True)
    head_dim = max(arguments.head_dim)
    said = in_fresh_process(__file__, ["--memory", str(head_dim)]).split()
    names = ("added_mib", "peak_mib", "num_edges", "least_kept", "mean_kept")
    rows.append(
        {"case": "dense, strongest", "head_dim": head_dim, "top_edges": TOP_EDGES, "peak_bar": BARS["peak_mib"]}
    )
    rows[-1] |= {name: float(number) for name, number in zip(names, said)} | {"num_edges": int(said[2])}
    print(line(rows[-1]), flush=True)
    if arguments.out:
        write_record(arguments.out, "recording", rows)


if __name__ == "__main__":
    main()
