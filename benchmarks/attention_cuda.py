"""How fast is sparse attention that trains on a GPU, against what a user would take instead?

    python benchmarks/attention.py --device cuda [--case random …] [--rounds 15] [--out FILE.json]

For each case every contender is first compared with what is right (`scatter` in float32, head by head, on the same
rounded numbers): its row tells the largest ‖got − right‖ / ‖right‖ of its output and gradients. Ours is timed only if
that is at most 0.01 for bfloat16; a peer that is further off is timed, and its row tells so. Then all are timed in
turn, round by round, by CUDA events, with the L2 cache swept before each call: forward alone, and forward with
backward. A row gives the median in ms, the spread, the ratio to `fused` (median over rounds of the ratio in that
round), and what one forward and backward adds to allocated memory. What a contender cannot do here, for want of memory
or of a compiler, is written down as such, and the others go on.

The floor of a case is the time that its bytes, each once, take at the rate of a large copy beside it
(`cuda_cases.floor_bytes`). Nothing here is a test.
"""

import argparse
import gc
import itertools
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from contenders import Contender
from cuda_cases import CASES, LARGEST, SMALL, Case, Tensors, floor_bytes, make_tensors
from cuda_contenders import error, make_contender, specification
from measure import (
    added_peak_on_gpu,
    copy_rate,
    interleaved,
    interleaved_on_gpu,
    median_ratio,
    ratios,
    spread,
    write_record,
)

from graphattn.graph import AttentionGraph
from graphattn.ops import IMPLEMENTATIONS

DTYPE = torch.bfloat16
TOLERANCE = 0.01
SECONDS = 12.0  # of timing, for a case
PASSES = ("forward", "forward+backward")


def make_rows(name: str, rounds: int, device: str, shrink: int, save: Callable[[list[dict]], None]) -> list[dict]:
    """Measures one case, and lets `save` know the rows whenever there is more to know."""
    case = CASES[name]
    graph = case.graph(shrink, device)
    graph.enumerate().plan()
    tensors = make_tensors(case, graph, DTYPE)
    rows = [_row(name, case, graph, contender) for contender in case.contenders]
    save(rows)
    expected = None if name == LARGEST else specification(graph, tensors)
    ready: dict[str, Contender] = {}
    for row in rows:
        try:
            ready[row["contender"]] = _checked(row, graph, tensors, expected)
        except Exception as reason:  # whatever a peer or a compiler comes up with
            row["failed"] = f"{type(reason).__name__}: {reason}"[:300]
            _forget(device)
        save(rows)
    del expected
    if device == "cuda":
        for row in rows:
            if contender := ready.get(row["contender"]):
                row["peak_mib"] = added_peak_on_gpu(partial(contender.both, contender.laid_out(tensors.grad_out)))
    save(rows)
    _time(rows, ready, tensors, rounds, device)
    if device == "cuda" and "forward_ms" in rows[0]:
        _compare_with_floor(rows[0], floor_bytes(graph, tensors), case)
    for row in rows:
        print(line(row), flush=True)
    save(rows)
    return rows


def _row(name: str, case: Case, graph: AttentionGraph, contender: str) -> dict:
    row: dict = {"case": name, "what": case.what, "contender": contender, "heads": case.heads}
    row |= {"num_src_nodes": graph.num_src_nodes, "num_dst_nodes": graph.num_dst_nodes, "num_edges": graph.num_edges}
    row |= {"dtype": str(DTYPE).removeprefix("torch."), "edge_dim": case.edge_dim, "has_bias": case.has_bias}
    return row | ({"bar": case.bars[contender]} if contender in case.bars else {})


def _checked(row: dict, graph: AttentionGraph, tensors: Tensors, expected: list[torch.Tensor] | None) -> Contender:
    """Returns a contender that has run forward and backward once, and tells its row how exactly."""
    contender = make_contender(row["contender"], graph, tensors)
    row["is_yardstick"] = contender.is_yardstick
    if contender.is_yardstick or expected is None:
        results = contender.both(contender.laid_out(tensors.grad_out))
        assert all(bool(result.isfinite().all()) for result in results), "a number is not finite"
        return contender
    row["error"] = error(contender, tensors, expected)
    if row["contender"] in IMPLEMENTATIONS and not row["error"] <= TOLERANCE:
        raise ArithmeticError(f"it is off by {row['error']:.2g} of the norm; not timed")
    return contender


def _time(rows: list[dict], ready: dict[str, Contender], tensors: Tensors, rounds: int, device: str) -> None:
    grads = {name: contender.laid_out(tensors.grad_out) for name, contender in ready.items()}
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, contender in ready.items():
        calls[name, PASSES[0]] = contender.forward
        calls[name, PASSES[1]] = partial(contender.both, grads[name])
    if device == "cuda":
        times = interleaved_on_gpu(calls, rounds, seconds=SECONDS)
    else:
        times = interleaved(calls, rounds)
    for row in rows:
        if (name := row["contender"]) not in ready:
            continue
        for key in PASSES:
            own = times[name, key]
            row |= {f"{key}_ms": statistics.median(own), f"{key}_spread": spread(own), "rounds": len(own)}
            if "fused" in ready:
                ours = times["fused", key]
                row[f"{key}_ratio"] = median_ratio(own, ours)
                row[f"{key}_ratio_spread"] = spread(ratios(own, ours))


def _compare_with_floor(row: dict, num_bytes: dict[str, int], case: Case) -> None:
    rate = copy_rate()
    row["copy_gb_per_s"] = rate / 1e9
    for key in PASSES:
        row[f"{key}_floor_ms"] = 1e3 * num_bytes[key] / rate
        row[f"{key}_floor_share"] = row[f"{key}_floor_ms"] / row[f"{key}_ms"]
    if case.floor_bar is not None:
        row["floor_bar"] = case.floor_bar


def _forget(device: str) -> None:
    """Frees what a contender that failed had taken."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def line(row: dict) -> str:
    """Returns a row of results as text."""
    head = f"{row['case']:16} {row['contender']:26}"
    if "failed" in row:
        return f"{head} failed: {row['failed']}"
    timed = [
        f"{key} {row[f'{key}_ms']:8.4g} ms ({row[f'{key}_spread'][0]:.4g}-{row[f'{key}_spread'][1]:.4g})"
        for key in PASSES
    ]
    ratio = f"{row['forward+backward_ratio']:7.2f}x" if "forward+backward_ratio" in row else ""
    bar = f"  bar {row['bar']:.3g}" if "bar" in row else ""
    exact = f"  off by {row['error']:.1e}" if "error" in row else ""
    peak = f" {row['peak_mib']:8,.0f} MiB" if "peak_mib" in row else ""
    share = f"  {row['forward+backward_floor_share']:.0%} of the floor" if "forward+backward_floor_share" in row else ""
    return f"{head} {'  '.join(timed)} {ratio}{peak}{bar}{exact}{share}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu, with --small, to see it runs")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=15, help="counted rounds, after two that are not")
    parser.add_argument("--small", action="store_true", help=f"one {SMALL}th of each size")
    parser.add_argument("--out", type=Path, help="a JSON file, written whenever there is more to know")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA GPU here; nothing was measured")
    found: dict[str, list[dict]] = {}

    def save(name: str, rows: list[dict]) -> None:
        found[name] = rows
        if options.out:
            write_record(options.out, "attention on a GPU", [*itertools.chain(*found.values())], options.device)

    for name in options.case:
        make_rows(name, options.rounds, options.device, SMALL if options.small else 1, partial(save, name))
        _forget(options.device)


if __name__ == "__main__":
    main()
