"""What does subsampled attention (SSA) save in training, against dense attention in the same process?

    python benchmarks/ssa.py [--nodes 512 2048 8192] [--rounds 7] [--out FILE.json]

8 heads × 64, float32, forward with backward. "dense SDPA" is torch's flash kernel over all pairs; the others read 1/4,
1/6 or 1/8 of the sources, the same for all targets and heads. Each such call is a step of training: it draws the
sources anew (`SubsampleSources.draw`), takes their keys and values out of those of all nodes, attends, and sums the
gradients back into those of all nodes. It first equals attention over all pairs under the mask of the drawn sources,
in output and gradients (of up to 1,024 nodes: the check holds all pairs in float64). All are timed in turn, round by
round. A row gives the median in ms with its spread, by how much dense SDPA is slower (median over rounds), and what one
call adds to resident memory at its peak, in a process of its own, beside materialised attention (`SDPBackend.MATH`),
which the reduction is a ratio of, and beside the flash kernel. Sample row:

     8192 nodes, 1/8           532.2 ms (483.7-544.3)  7.61x dense SDPA  69 MiB: materialised takes 89.4x, flash 1.43x …
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from contenders import TOLERANCE
from measure import added_peak, in_fresh_process, interleaved, median_ratio, ratios, spread, write_record
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import graphattn as ga
from graphattn.selection import SubsampleSources

NUM_HEADS, HEAD_DIM = 8, 64
REDUCTIONS = (4, 6, 8)
BARS = {4: 3.2, 6: 5.0, 8: 6.5}  # forward+backward of dense SDPA over ours, at least, at BAR_NODES
BAR_NODES = 8192
MEMORY_SHARE = 1.15  # of the ideal, which is materialised attention over the reduction, at most
AT_LEAST_MS = 20.0

Step = Callable[[], tuple[Tensor, ...]]


def make_inputs(num_nodes: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """Returns query, key and value as leaves, and the gradient of the output; [num_nodes, num_heads, head_dim]."""
    generator = torch.Generator().manual_seed(0)
    *leaves, grad_out = torch.randn(4, num_nodes, NUM_HEADS, HEAD_DIM, generator=generator)
    return tuple(leaf.requires_grad_() for leaf in leaves), grad_out


def with_gradients(out: Tensor, leaves: tuple[Tensor, ...], grad_out: Tensor) -> tuple[Tensor, ...]:
    return out.detach(), *torch.autograd.grad(out, leaves, grad_out)


def sampled(
    leaves: tuple[Tensor, ...], grad_out: Tensor, reduction: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """One step: draw, gather, attend, and back."""
    num_nodes = leaves[0].shape[0]
    spec = SubsampleSources(num_sources=num_nodes // reduction)
    graph, kept = spec.draw(ga.connectivity.full(num_nodes), generator=generator).compact_sources()
    query, key, value = leaves
    out = ga.graph_attention(query, key.index_select(0, kept), value.index_select(0, kept), graph)
    return with_gradients(out, leaves, grad_out)


def dense(leaves: tuple[Tensor, ...], grad_out: Tensor, backend: SDPBackend | None = None) -> tuple[Tensor, ...]:
    query, key, value = (leaf.transpose(0, 1)[None] for leaf in leaves)
    if backend is None:
        out = F.scaled_dot_product_attention(query, key, value)
    else:
        with sdpa_kernel(backend):
            out = F.scaled_dot_product_attention(query, key, value)
    return with_gradients(out[0].transpose(0, 1), leaves, grad_out)


def check(num_nodes: int, reduction: int) -> None:
    """Refuses to time what is not the attention of all targets over the drawn sources."""
    leaves, grad_out = make_inputs(num_nodes)
    ours = sampled(leaves, grad_out, reduction, torch.Generator().manual_seed(1))
    drawn = SubsampleSources(num_sources=num_nodes // reduction).draw(
        ga.connectivity.full(num_nodes), generator=torch.Generator().manual_seed(1)
    )
    is_read = torch.zeros(num_nodes, dtype=torch.bool)
    is_read[drawn.compact_sources()[1]] = True
    if int(is_read.sum()) != num_nodes // reduction:
        raise SystemExit(f"{int(is_read.sum())} sources are read, not {num_nodes // reduction}; not timed")
    query, key, value = (leaf.detach().double().transpose(0, 1)[None].requires_grad_() for leaf in leaves)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=is_read.expand(num_nodes, -1))
    grads = torch.autograd.grad(out, (query, key, value), grad_out.double().transpose(0, 1)[None])
    for own, theirs in zip(ours, (out, *grads), strict=True):
        expected = theirs.detach()[0].transpose(0, 1)
        gap = float((own - expected).abs().max() / expected.abs().max())
        if not gap < TOLERANCE:
            raise SystemExit(f"sampled 1/{reduction} of {num_nodes} nodes differs by {gap:.2g}; not timed")


def steps(num_nodes: int) -> dict[str, Step]:
    """Returns what is timed and measured, by name."""
    leaves, grad_out = make_inputs(num_nodes)
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Step] = {"dense SDPA": partial(dense, leaves, grad_out)}
    for reduction in REDUCTIONS:
        found[f"1/{reduction}"] = partial(sampled, leaves, grad_out, reduction, generator)
    return found


def measure_memory(num_nodes: int, name: str) -> None:
    """Prints what one step adds to resident memory at its peak, in MiB."""
    leaves, grad_out = make_inputs(num_nodes)
    materialised = partial(dense, leaves, grad_out, SDPBackend.MATH)
    call = materialised if name == "materialised" else steps(num_nodes)[name]
    small, of_small = make_inputs(64)
    dense(small, of_small)  # what is compiled and loaded once stays
    sampled(small, of_small, 4, torch.Generator().manual_seed(0))
    print(added_peak(call))


def make_rows(num_nodes: int, rounds: int) -> list[dict]:
    for reduction in REDUCTIONS:
        check(min(num_nodes, 1024), reduction)
    times = interleaved(steps(num_nodes), rounds, at_least_ms=AT_LEAST_MS)
    names = [*times, "materialised"]
    peak = {name: float(in_fresh_process(__file__, ["--memory", str(num_nodes), name])) for name in names}
    rows = []
    for name, measured in times.items():
        reduction = 1 if name == "dense SDPA" else int(name.removeprefix("1/"))
        row: dict = {"num_nodes": num_nodes, "reads": name, "reduction": reduction}
        row |= {"ms": statistics.median(measured), "spread": spread(measured)}
        row |= {"speedup": median_ratio(times["dense SDPA"], measured)}
        row |= {"speedup_spread": spread(ratios(times["dense SDPA"], measured)), "peak_mib": peak[name]}
        row |= {"materialised_ratio": peak["materialised"] / peak[name], "flash_ratio": peak["dense SDPA"] / peak[name]}
        if reduction > 1 and num_nodes == BAR_NODES:
            row |= {"bar": BARS[reduction], "memory_bar": reduction / MEMORY_SHARE}
        rows.append(row)
        print(line(row), flush=True)
    return rows


def line(row: dict) -> str:
    """Returns a row of results as text."""
    bar = f"  bar {row['bar']:g}x, memory {row['memory_bar']:.2f}x" if "bar" in row else ""
    least, most = row["spread"]
    return (
        f"{row['num_nodes']:5} nodes, {row['reads']:10} {row['ms']:8.1f} ms ({least:.1f}-{most:.1f})  "
        f"{row['speedup']:.2f}x dense SDPA  {row['peak_mib']:.0f} MiB: "
        f"materialised takes {row['materialised_ratio']:.1f}x, flash {row['flash_ratio']:.2f}x as much{bar}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds, after two that are not")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--memory", nargs=2, metavar=("NODES", "NAME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        return measure_memory(int(arguments.memory[0]), arguments.memory[1])
    rows: list[dict] = []
    for num_nodes in arguments.nodes:
        rows += make_rows(num_nodes, arguments.rounds)
        if arguments.out:
            write_record(arguments.out, "ssa", rows)


if __name__ == "__main__":
    main()
