"""How the benchmarks measure: calls timed in turn, peak resident memory of one call, and a record that says where.

A timed script calls `interleaved` and `spread`, a script that measures memory calls itself in a fresh process, where it
prints `added_peak` of what it measures; both end in `write_record`, which benchmarks/report.py reads.
"""

import contextlib
import ctypes
import gc
import importlib.metadata
import json
import math
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TypeVar

import torch

from graphattn.ops.segment import installed_torch_scatter

MIB = 2**20
WARM_UPS = 2
SWEPT_MIB = 256  # several times the L2 cache of any GPU
Name = TypeVar("Name")


def interleaved(
    calls: Mapping[Name, Callable[[], object]], rounds: int, *, warm_ups: int = WARM_UPS, at_least_ms: float = 0.0
) -> dict[Name, list[float]]:
    """Calls all in turn, `rounds` times after `warm_ups` that are not counted; returns milliseconds per counted round.

    With `at_least_ms` a call that takes less is repeated within its round until that much time has passed, and counts
    as its mean: what runs for a few milliseconds is not measured only with the caches that a slow neighbour left.
    """
    times: dict[Name, list[float]] = {name: [] for name in calls}
    for number in range(rounds + warm_ups):
        for name, call in calls.items():
            passed, repeats = 0.0, 0
            start = time.perf_counter()
            while repeats == 0 or passed < at_least_ms:
                call()
                repeats += 1
                passed = 1e3 * (time.perf_counter() - start)
            if number >= warm_ups:
                times[name].append(passed / repeats)
    return times


def interleaved_on_gpu(
    calls: Mapping[Name, Callable[[], object]], rounds: int, *, warm_ups: int = WARM_UPS, seconds: float = math.inf
) -> dict[Name, list[float]]:
    """`interleaved` by CUDA events, the L2 cache swept before each call; ends with the round in which seconds pass."""
    times: dict[Name, list[float]] = {name: [] for name in calls}
    sweep = torch.empty(SWEPT_MIB * MIB, dtype=torch.uint8, device="cuda")
    begin = time.perf_counter()
    for number in range(rounds + warm_ups):
        for name, call in calls.items():
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            sweep.zero_()
            start.record()
            call()
            stop.record()
            torch.cuda.synchronize()
            if number >= warm_ups:
                times[name].append(start.elapsed_time(stop))
        if number >= warm_ups and time.perf_counter() - begin > seconds:
            break
    return times


def copy_rate() -> float:
    """Returns the bytes a second that a large copy on the GPU reads and writes."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    times = interleaved_on_gpu({"copy": lambda: target.copy_(source)}, rounds=7)["copy"]
    return 2 * source.numel() / (statistics.median(times) * 1e-3)


def added_peak_on_gpu(call: Callable[[], object]) -> float:
    """Returns what one call adds to the memory that torch has allocated on the GPU, at its highest, in MiB."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def spread(values: Sequence[float]) -> list[float]:
    """Returns the least and the largest."""
    return [min(values), max(values)]


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Returns the median over rounds of the ratio in that round, which a slow spell of the machine hardly moves."""
    return statistics.median(ratios(over, under))


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Returns the ratio of each round."""
    return [a / b for a, b in zip(over, under, strict=True)]


def added_peak(call: Callable[[], object]) -> float:
    """Returns what one call adds to resident memory at its highest, in MiB."""
    gc.collect()
    with contextlib.suppress(
        OSError, AttributeError
    ):  # glibc only: what was freed before must not be used again unseen
        ctypes.CDLL(None).malloc_trim(0)
    reset_peak()
    before = resident()
    call()
    return (peak() - before) / MIB


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: sets the high-water mark back to what is resident now
    except OSError:
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 2 * resident(), (
            "the peak lies before the call"
        )


def in_fresh_process(script: str, arguments: Sequence[str]) -> str:
    """Runs a script of ours and returns what it prints.

    There the C library gives large blocks back to the system as soon as they are freed. Else what it keeps, which
    depends on the order of all allocations before, would count as memory of the call.
    """
    surroundings = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(MIB)}
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=surroundings).stdout


def environment(device: str = "cpu") -> dict[str, object]:
    """Returns date, commit, device and versions, under the names that benchmarks/report.py prints."""
    about_cpu = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in about_cpu if "model name" in line), "unknown")
    threads = torch.get_num_threads()
    where = f"CPU ({cpu}, {threads} {'thread' if threads == 1 else 'threads'})"
    scatter = installed_torch_scatter()
    found = {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "device": where if device == "cpu" else f"GPU ({torch.cuda.get_device_name()}) beside {where}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_geometric": _version("torch-geometric"),
        "torch_scatter": scatter.__version__ if scatter else None,
        "numba": _version("numba"),
    }
    return found if device == "cpu" else {**found, "triton": _version("triton"), "cuda": torch.version.cuda}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    try:
        asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return asked.stdout.strip() or "unknown"


def commits_of(folders: Iterable[str | Path]) -> list[str]:
    """Returns the commits at which runs were trained, as their folders say; nothing of runs outside a clone."""
    environments = [json.loads((Path(folder) / "environment.json").read_text()) for folder in folders]
    return sorted({found["git"]["commit"][:7] for found in environments if found["git"]})


def write_record(path: Path, benchmark: str, rows: list[dict], device: str = "cpu") -> None:
    """Writes the JSON file of one benchmark: the command, `environment` and the rows."""
    record = {"benchmark": benchmark, "command": shlex.join(["python", *sys.argv]), **environment(device), "rows": rows}
    write_whole(path, record)


def write_whole(path: Path, record: dict) -> None:
    """Writes JSON so that whoever reads finds the old or the new, and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(json.dumps(record, indent=1) + "\n")
    unfinished.replace(path)
