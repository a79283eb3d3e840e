"""Chooses the shape of a program by running a handful once, on the call's own tensors, and keeping the fastest.

A class of calls is a kernel, what is compiled into it (widths, heads, which terms there are), dtypes, the power of two
of the mean degree, and the GPU. What was found is kept for the process, and on disk beside the constants of `auto`; a
file that is broken or cannot be written costs nothing but the time to find it again. Calls with few weights are left
alone, for starting them takes longer than running them.

A shape of program says in which order edges of a row are summed, so that last bits may differ between machines, or
where the file is another one; with one file, a call has the same bits in every run. Inside the capture of a CUDA graph
nothing can be timed: an unknown class takes the shape that sizes alone suggest, and keeps it until the process ends.

GRAPHATTN_TUNE=0 turns it off, GRAPHATTN_TUNE=1 on for every size and in Triton's interpreter.
"""

import contextlib
import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

from graphattn._version import __version__
from graphattn.ops._costs import costs_file

FORMAT = "graphattn.tiles.1"
MIN_WEIGHTS = 2**20  # edges times heads
TIMED_RUNS = 5
# Edges of a lane that are loaded at once: enough that their loads hide each other's latency.
MAX_BLOCK = 32


class Tile(NamedTuple):
    """The shape of a program."""

    lanes: int  # rows times heads that it serves
    block: int  # edges of a lane that it loads at once
    warps: int


_found: dict[str, Tile] = {}
_lock = threading.Lock()


def chosen(kernel: Any, settings: dict[str, Any], rows: Any, default: Tile, run: Callable[[Tile], None]) -> Tile:
    """Returns the fastest shape for a call's class, found now if it is not known.

    Args:
        kernel: a Triton function.
        settings: its arguments by name; compile-time ones are in capitals.
        rows: a `launch.Rows`, the edges that it runs over.
        default: the shape that sizes suggest.
        run: runs the kernel in a shape. It writes the same arrays each time, and reads none of them.
    """
    if not _is_wanted(rows):
        return default
    key = class_of(kernel.fn.__name__, settings, rows)
    with _lock:
        if not _found:
            _found.update(_read())
        if key not in _found:
            if rows.owner.is_cuda and torch.cuda.is_current_stream_capturing():
                _found[key] = default
            else:
                _found[key] = _fastest(default, run, rows.owner.device)
                _write(key, _found[key])
        return _found[key]


def class_of(kernel: str, settings: dict[str, Any], rows: Any) -> str:
    """Returns what calls that share a shape have in common, as a line of text."""
    compiled = {name: value for name, value in settings.items() if name.isupper() and name not in ("LANES", "BLOCK")}
    tensors = {name: str(x.dtype) for name, x in settings.items() if isinstance(x, torch.Tensor)}
    degree = triton.next_power_of_2(max(1, rows.owner.shape[0] // max(1, rows.count)))
    parts = {**compiled, **tensors, "degree": degree, "gpu": _gpu(rows.owner.device)}
    return " ".join((kernel, *(f"{name}={value}" for name, value in sorted(parts.items()))))


def candidates(default: Tile) -> list[Tile]:
    """Returns the shapes to try, the default first: none holds more numbers than it does."""
    lanes, block, warps = default
    tried = [
        default,
        Tile(lanes, block, warps // 2),
        Tile(lanes, block, warps * 2),
        Tile(lanes * 2, block // 2, warps),
        Tile(lanes // 2, block, warps),
    ]
    return [tile for tile in tried if min(tile) >= 1 and tile.block <= MAX_BLOCK]


def forget() -> None:
    """Forgets what the process found; the file stays."""
    with _lock:
        _found.clear()


def path() -> Path:
    """Returns the file of what was found: tiles.json beside the constants of `auto`."""
    return costs_file().with_name("tiles.json")


def seconds(run: Callable[[], None], device: torch.device) -> float:
    """Returns the median time of a run, after one that compiles it."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None
    times = []
    for _ in range(1 + TIMED_RUNS):
        wait(device)
        start = time.perf_counter()
        run()
        wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _is_wanted(rows: Any) -> bool:
    setting = os.environ.get("GRAPHATTN_TUNE", "")
    if setting in ("0", "1"):
        return setting == "1"
    return rows.owner.is_cuda and rows.owner.shape[0] * rows.heads >= MIN_WEIGHTS


def _fastest(default: Tile, run: Callable[[Tile], None], device: torch.device) -> Tile:
    times = {}
    for tile in candidates(default):
        with contextlib.suppress(triton.runtime.errors.OutOfResources, triton.CompilationError):
            times[tile] = seconds(partial(run, tile), device)
    return min(times, key=times.__getitem__, default=default)


@lru_cache
def _gpu(device: torch.device) -> str:
    return torch.cuda.get_device_name(device).replace(" ", "-") if device.type == "cuda" else "interpreter"


def _versions() -> dict[str, str]:
    return {"graphattn": __version__, "triton": triton.__version__}


def _read() -> dict[str, Tile]:
    """Returns what the file holds; nothing where it is missing, broken, or of other versions."""
    try:
        record = json.loads(path().read_text(encoding="utf-8"))
        if record["format"] != FORMAT or record["versions"] != _versions():
            return {}
        found = {key: Tile(*map(int, numbers)) for key, numbers in record["tiles"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return {}
    return {key: tile for key, tile in found.items() if all(x > 0 and x == triton.next_power_of_2(x) for x in tile)}


def _write(key: str, tile: Tile) -> None:
    """Adds what was found to the file, beside what other processes found meanwhile."""
    tiles = {**_read(), key: tile}
    record = {"format": FORMAT, "versions": _versions(), "tiles": {name: list(each) for name, each in tiles.items()}}
    unfinished = path().with_name(f"{path().name}.{os.getpid()}.part")
    with contextlib.suppress(OSError):
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, path())
    with contextlib.suppress(OSError):
        unfinished.unlink(missing_ok=True)
