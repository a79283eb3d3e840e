"""Measures this machine, so that `impl="auto"` chooses by constants of its own: `graphattn info --calibrate`.

Every implementation runs forward and backward, in float32, on small to medium graphs of three kinds: windows, random
keys, and blocks. The constants of its cost model are fitted by least squares on relative error, none negative.

Where `auto` leaves an implementation alone until somebody has run it (`capability.needs_proof`), it is first held
against `dense` in float64 on the CPU: output and every gradient, in both precisions, plain and with all arguments. What
is right is written down, so that `auto` takes it here; what is wrong is not timed.
"""

import errno
import importlib.metadata
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch

from graphattn.graph import AttentionGraph
from graphattn.graph.blocks import bicliques
from graphattn.graph.ragged import node_ptr
from graphattn.ops._costs import FORMAT, NAMES, constants_for, costs_file
from graphattn.ops._dispatch import Sizes, growth, reason_against, takes_varlen
from graphattn.ops.attention import graph_attention
from graphattn.ops.capability import needs_proof, runs_on, trusting

# (kind, number of nodes, degree); cliques have as many nodes each as their degree, molecules about as many
CASES = (
    *(("window", n, k) for n, k in ((32, 8), (64, 4), (64, 32), (256, 16), (256, 64), (1024, 4), (1024, 16))),
    *(("window", n, k) for n, k in ((1024, 128), (1024, 512), (4096, 8), (4096, 64), (16_384, 16))),
    *(("random", n, k) for n, k in ((32, 8), (64, 4), (64, 32), (256, 4), (256, 16), (256, 64), (256, 128))),
    *(("random", n, k) for n, k in ((1024, 4), (1024, 16), (1024, 64), (1024, 256), (4096, 4), (4096, 16))),
    *(("random", n, k) for n, k in ((4096, 64), (16_384, 4), (16_384, 16))),
    *(("cliques", n, k) for n, k in ((32, 4), (64, 16), (64, 64), (256, 4), (256, 16), (256, 256), (1024, 4))),
    *(("cliques", n, k) for n, k in ((1024, 16), (1024, 64), (1024, 1024), (4096, 4), (4096, 64), (4096, 256))),
    *(("molecules", n, k) for n, k in ((128, 16), (1024, 24), (4096, 48))),
)
HEADS = ((4, 32), (8, 16), (2, 64))  # number of heads, and their width
SECONDS = 0.08  # a measurement, unless its three calls take longer
LEAST_CALLS, MOST_CALLS = 3, 50
# What an implementation is proved on, 4 heads × 16: small graphs, and one with rows that kernels cut into pieces
PROOFS = (("window", 64, 8), ("random", 96, 16), ("molecules", 128, 16), ("random", 560, 530))
# The largest ‖got − right‖ / ‖right‖ that passes, of output and gradients.
ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
COPIED_BYTES = {"cpu": 2**27, "cuda": 2**30}  # more than caches hold
# Where an implementation cannot win, it need not be known: numbers that it holds at a time.
MAX_GATHERED, MAX_PAIRS = 2**22, 2**22


class Calibration(NamedTuple):
    """Constants of a machine and how well they fit: the factor by which estimates are off."""

    device: str
    costs: dict[str, dict[str, float]]
    off: dict[str, tuple[float, float]]  # by implementation: in the median, at worst
    num_measured: int
    proved: dict[str, bool]  # by implementation that needed a proof: whether it was right
    bytes_per_second: float | None  # that a large copy reads and writes


def calibrate(
    cases: Sequence[tuple[str, int, int]] | None = None,
    *,
    seconds: float | None = None,
    report: Callable[[str], None] = lambda line: None,
    device: torch.device | str = "cpu",
) -> Calibration:
    """Measures the implementations and fits the constants of the cost model; about a minute.

    On a GPU the kernels of every proof are compiled first, once a machine.

    Args:
        cases: kind ("window", "random", "cliques", "molecules"), nodes and degree of each graph; None takes `CASES`.
        seconds: to spend on a measurement; None takes `SECONDS`.
        report: is told how far the measuring is, in a line.
        device: where. Implementations are measured whether or not `auto` takes them there.
    """
    device = torch.device(device)
    cases = CASES if cases is None else cases
    seconds = SECONDS if seconds is None else seconds
    proved = {}
    for impl in (*NAMES, "varlen"):
        if needs_proof(impl, device) and runs_on(impl, device):
            report(f"proving {impl}")
            reason = disproof(impl, device)
            proved[impl] = reason is None
            if reason is not None:
                named = "the unpadded way of blocks" if impl == "varlen" else f"impl={impl!r}"
                warnings.warn(f"{named} is left out on {device.type}: {reason}.", stacklevel=2)
    timed = [impl for impl in NAMES if proved.get(impl, True)]
    rows: dict[str, list[list[float]]] = {impl: [] for impl in timed}
    measured: dict[str, list[float]] = {impl: [] for impl in timed}
    with trusting(*(impl for impl, is_right in proved.items() if is_right)):
        for number, (kind, num_nodes, degree) in enumerate(cases):
            report(f"measuring {number + 1} of {len(cases)}: {kind}, {num_nodes:,} nodes, {degree:,} keys")
            graph = make_graph(kind, num_nodes, degree).to(device)
            for num_heads, head_dim in HEADS:
                sizes = Sizes(num_heads, head_dim, head_dim, torch.float32, device)
                for impl in timed:
                    if _is_worth_knowing(impl, graph, sizes):
                        amounts = growth(impl, graph, sizes)
                        rows[impl].append([amounts[name] for name in NAMES[impl]])
                        measured[impl].append(_microseconds(impl, graph, sizes, seconds))
    costs, off = {}, {}
    for impl in timed:
        found, off[impl] = _fit(rows[impl], measured[impl])
        costs[impl] = dict(zip(NAMES[impl], found, strict=True))
    return Calibration(device.type, costs, off, sum(map(len, measured.values())), proved, copy_rate(device))


def disproof(impl: str, device: torch.device) -> str | None:
    """Returns in words where an implementation differs from `dense`, or fails; None if it is right all over.

    Calls that it cannot serve say nothing; if it serves none, that is the reason. "varlen" is how blocks run unpadded.
    """
    num_served, named = 0, "blocks" if impl == "varlen" else impl
    for kind, num_nodes, degree in PROOFS:
        graph = make_graph(kind, num_nodes, degree)
        there = graph.to(device)
        for dtype, allowed in ALLOWED.items():
            sizes = Sizes(4, 16, 16, dtype, device)
            for name, leaves, options in _calls(graph, sizes):
                also = ("logit_clip",) if "logit_clip" in options else ()
                if reason_against(named, there, sizes, name != "plain", also) is not None:
                    continue
                with trusting(impl):
                    if impl == "varlen" and not takes_varlen(there, device, dtype, name == "plain"):
                        continue
                num_served += 1
                case = f"{kind}, {num_nodes} nodes, {degree} keys, {name}, {dtype}"
                try:
                    with trusting(impl):
                        found = _results(named, there, leaves, options)
                except Exception as error:  # whatever a compiler or a driver comes up with
                    return f"{case} fails: {type(error).__name__}: {error}"[:500]
                right = _results("dense", graph, {key: x.detach().cpu().double() for key, x in leaves.items()}, options)
                for part, expected in right.items():
                    gap = float((found[part].cpu().double() - expected).norm() / expected.norm())
                    if not gap <= allowed:
                        return f"{case}: its {part} is off by {gap:.2g} of the norm, and {allowed:.2g} is allowed"
    return None if num_served else "it serves no call there"


def copy_rate(device: torch.device) -> float:
    """Returns the bytes a second that a large copy on the device reads and writes, the median of some."""
    source = torch.zeros(COPIED_BYTES.get(device.type, COPIED_BYTES["cpu"]), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = _seconds(lambda: target.copy_(source), device, at_least=0.0, least_calls=7)
    return 2 * source.numel() / seconds


def save(calibration: Calibration) -> Path:
    """Writes the constants where `impl="auto"` finds them, whole or not at all, and returns the path.

    Raises:
        OSError: naming the file, where it cannot be written.
    """
    path = costs_file(calibration.device).absolute()
    record = {
        "format": FORMAT,
        "device": calibration.device,
        "date": date.today().isoformat(),
        "num_threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in ("graphattn", "torch", "numba", "triton", "torch_scatter")},
        "costs": calibration.costs,
        "proved": calibration.proved,
        "bytes_per_second": calibration.bytes_per_second,
        "off": {impl: {"median": median, "worst": worst} for impl, (median, worst) in calibration.off.items()},
    }
    with _unfinished(path) as unfinished:
        unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, path)
    constants_for.cache_clear()
    return path


def check_writable(device_type: str = "cpu") -> None:
    """Raises the OSError that `save` would, before anything is measured."""
    with _unfinished(costs_file(device_type).absolute()) as unfinished:
        unfinished.touch()


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside a path, whose folder is made; an error says which other place can be named."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        yield unfinished
    except OSError as error:
        raise OSError(
            f"the constants cannot be written to {path} ({error.strerror}). "
            "Name another file: GRAPHATTN_COSTS=FILE, for this command and for those that are to use it."
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def table(calibration: Calibration) -> str:
    """Returns the constants as text, a line for each implementation, and how well they fit."""
    lines = []
    for impl, constants in calibration.costs.items():
        median, worst = calibration.off[impl]
        named = "  ".join(f"{name} {value:.3g}" for name, value in constants.items())
        lines.append(f"{impl:8} {named}  (off by {median:.2f}x, at worst {worst:.1f}x)")
    lines += [f"{impl:8} {'is' if right else 'is not'} proved here" for impl, right in calibration.proved.items()]
    if calibration.bytes_per_second is not None:
        lines.append(f"a large copy reads and writes {calibration.bytes_per_second / 1e9:.4g} GB/s")
    return "\n".join(lines)


def make_graph(kind: str, num_nodes: int, degree: int) -> AttentionGraph:
    """Returns a graph whose targets see as many sources each, or, for molecules, from half to one and a half times."""
    generator = torch.Generator().manual_seed(0)
    if kind in ("cliques", "molecules"):
        sizes = torch.full((num_nodes // degree,), degree)
        if kind == "molecules":
            sizes = torch.randint(degree // 2, degree + degree // 2, sizes.shape, generator=generator)
        ptr, nodes = node_ptr(sizes), torch.arange(int(sizes.sum()))
        none = torch.empty(2, 0, dtype=torch.int64)
        return AttentionGraph(none, nodes.numel(), blocks=bicliques(ptr, nodes, ptr, nodes), src_ptr=ptr, dst_ptr=ptr)
    node = torch.arange(num_nodes)[:, None]
    if kind == "window":
        src = (node - degree // 2).clamp(0, num_nodes - degree) + torch.arange(degree)
    else:  # one draw, moved by another distance for each target
        drawn, distance = (torch.randperm(num_nodes, generator=generator) for _ in range(2))
        src = ((distance[:, None] + drawn[:degree]) % num_nodes).sort(1).values
    return AttentionGraph(torch.stack([src.flatten(), node.expand(-1, degree).flatten()]), num_nodes)


def _is_worth_knowing(impl: str, graph: AttentionGraph, sizes: Sizes) -> bool:
    if reason_against(impl, graph, sizes, False) is not None:
        return False
    if impl in ("dense", "sdpa"):
        return graph.num_dst_nodes * graph.num_src_nodes * sizes.num_heads <= MAX_PAIRS
    is_gathered = impl in ("scatter", "gather")
    return not is_gathered or graph.num_edges * sizes.num_heads * sizes.head_dim <= MAX_GATHERED


def _calls(graph: AttentionGraph, sizes: Sizes) -> Iterator[tuple[str, dict[str, torch.Tensor], dict[str, Any]]]:
    """Yields calls of the verb: a name, tensors to be differentiated, and other arguments, those on the CPU."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(sizes.device, sizes.dtype)

    num_heads, num_edges, num_types, edge_dim = sizes.num_heads, graph.num_edges, 5, 3
    features = {
        "query": normal(graph.num_dst_nodes, num_heads, sizes.head_dim),
        "key": normal(graph.num_src_nodes, num_heads, sizes.head_dim),
        "value": normal(graph.num_src_nodes, num_heads, sizes.value_dim),
    }
    yield "plain", features, {}
    types = torch.arange(num_edges) % num_types
    yield "types", features | {"edge_bias": normal(num_types, num_heads)}, {"edge_type": types}
    of_edges = {"edge_bias": normal(num_edges, num_heads), "edge_gate": normal(num_edges, 1)}
    terms = {
        "edge_attr": normal(num_edges, edge_dim),
        "edge_key_weight": normal(num_heads, sizes.head_dim, edge_dim),
        "edge_value_weight": normal(num_heads, sizes.value_dim, edge_dim),
    }
    options = {"logit_clip": 2.0, "dropout_p": 0.3, "seed": torch.tensor(1)}
    yield "all arguments", features | of_edges | terms, options
    yield "all but features", features | of_edges, options  # kernels over windows of rows serve these


def _results(
    impl: str, graph: AttentionGraph, tensors: dict[str, torch.Tensor], options: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Returns the output and the gradients of a fixed mixture of it."""
    leaves: dict[str, Any] = {name: x.detach().requires_grad_() for name, x in tensors.items()}
    call: dict[str, Any] = {
        name: x.to(graph.device) if isinstance(x, torch.Tensor) else x for name, x in options.items()
    }
    out = graph_attention(**leaves, **call, graph=graph, impl=impl)
    mixture = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out)
    grads = torch.autograd.grad(out, list(leaves.values()), mixture)
    return {"output": out.detach()} | {f"gradient of {name}": x for name, x in zip(leaves, grads, strict=True)}


def _microseconds(impl: str, graph: AttentionGraph, sizes: Sizes, seconds: float) -> float:
    """Returns the median time of forward and backward, after one call that is not counted."""
    shape = graph.num_src_nodes, sizes.num_heads, sizes.head_dim
    query, key, value = leaves = [torch.randn(shape, device=sizes.device, requires_grad=True) for _ in range(3)]
    grad = torch.randn(graph.num_dst_nodes, *shape[1:], device=sizes.device)

    def call() -> None:
        torch.autograd.grad(graph_attention(query, key, value, graph, impl=impl), leaves, grad)

    return 1e6 * _seconds(call, sizes.device, seconds, LEAST_CALLS)


def _seconds(call: Callable[[], object], device: torch.device, at_least: float, least_calls: int) -> float:
    """Returns the median time of a call, after one that is not counted."""
    wait = torch.cuda.synchronize if device.type == "cuda" else _nothing
    times: list[float] = []
    while len(times) <= least_calls or (sum(times) < at_least and len(times) < MOST_CALLS):
        wait()
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _nothing() -> None:
    """Waits for a device that nobody has to wait for."""


def _fit(rows: list[list[float]], measured: list[float]) -> tuple[list[float], tuple[float, float]]:
    """Returns the constants that say the measured times best, and by what factor they are off: median and worst."""
    import numpy as np
    from scipy.optimize import nnls

    amounts, times = np.array(rows), np.array(measured)
    constants, _ = nnls(amounts / times[:, None], np.ones_like(times))
    off = np.exp(np.abs(np.log(np.maximum(amounts @ constants, 1.0) / times)))
    return constants.tolist(), (float(np.median(off)), float(off.max()))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
