"""The constants of the cost model, microseconds of forward and backward: those that ship, or those measured here.

    fixed           a call
    group           a group of equal blocks: one call of torch's kernel
    block           1000 blocks times heads
    row             1000 targets times heads
    weight          a million weights: edges (pairs, for dense and sdpa) times heads
    work            a million multiply-adds: weights times (head_dim + value_dim)
    ranged_weight   the same two for edges that `Plan.num_ranged` counts, which fused serves several rows at once
    ranged_work
    shared_row      the three for targets that `Plan.num_sharing` counts, where fused serves eight heads at once
    shared_weight
    shared_work

`graphattn info --calibrate` measures them and writes the file that is read here, once a process, at the first choice.
The file also says what was proved on that device and how fast it copies; one that lacks this is read all the same.

flex has no constants: `auto` leaves it to whoever names it.
"""

import json
import math
import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = "graphattn.costs.2"
_OF_EDGES = ("fixed", "row", "weight", "work")
NAMES = {
    "dense": _OF_EDGES,
    "scatter": _OF_EDGES,
    "gather": _OF_EDGES,
    "blocks": ("group", "block", *_OF_EDGES),
    "fused": (*_OF_EDGES, "ranged_weight", "ranged_work", "shared_row", "shared_weight", "shared_work"),
    "sdpa": _OF_EDGES,
}

# By class of device. cpu: float32, 2 cores of an x86-64 server with AVX2.
SHIPPED: dict[str, dict[str, dict[str, float]]] = {
    "cpu": {
        "dense": {"fixed": 590, "row": 370, "weight": 14500, "work": 92},
        "scatter": {"fixed": 370, "row": 0, "weight": 15600, "work": 4070},
        "gather": {"fixed": 360, "row": 38, "weight": 1100, "work": 1640},
        "blocks": {"group": 3, "block": 550, "fixed": 400, "row": 47, "weight": 38, "work": 50},
        "fused": {
            **{"fixed": 370, "row": 119, "weight": 1750, "work": 168, "ranged_weight": 0, "ranged_work": 50},
            **{"shared_row": 30, "shared_weight": 0, "shared_work": 73},
        },
        "sdpa": {"fixed": 170, "row": 37, "weight": 1010, "work": 41},
    },
}


class Constants(NamedTuple):
    """What estimates rest on."""

    by_impl: dict[str, dict[str, float]]  # without those that failed their proof here
    source: str  # in words, for `explain`
    proved: frozenset[str] = frozenset()  # compared with `dense` on this machine, and right
    bytes_per_second: float | None = None  # that a large copy here reads and writes


def device_class(device_type: str) -> str:
    """Returns the row of `SHIPPED` for a type of device; those without one are judged as CPUs are."""
    return device_type if device_type in SHIPPED else "cpu"


def costs_file(device_type: str = "cpu") -> Path:
    """Returns where measured constants live: $GRAPHATTN_COSTS, or costs.json in the user's cache of graphattn.

    Those of another device than the CPU stand beside it: costs.cuda.json.
    """
    if named := os.environ.get("GRAPHATTN_COSTS"):
        path = Path(named).expanduser()
    else:
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        path = Path(caches).expanduser() / "graphattn" / "costs.json"
    return path if device_type == "cpu" else path.with_suffix(f".{device_type}{path.suffix}")


@lru_cache
def constants_for(device_type: str) -> Constants:
    """Returns the constants measured on this machine where there are any, else those that ship; reads them once."""
    device = device_class(device_type)
    path = costs_file(device_type)
    shipped = Constants(SHIPPED[device], f"shipped for {device}; `graphattn info --calibrate` measures this machine's")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return shipped
    except (OSError, UnicodeDecodeError) as error:
        reason = f"it cannot be read ({error})"
    else:
        record, reason = _parsed(text, device_type)
        if record is not None:
            threads = "1 thread" if record["num_threads"] == 1 else f"{record['num_threads']} threads"
            source = f"{path}, measured {record['date']} on {threads}"
            proved = frozenset(impl for impl, is_right in record.get("proved", {}).items() if is_right)
            return Constants(record["costs"], source, proved, record.get("bytes_per_second"))
    warnings.warn(
        f"impl='auto' does without the measured constants in {path}, and takes those that ship: {reason}. "
        "Run `graphattn info --calibrate` to measure again, or delete the file.",
        stacklevel=2,
    )
    return shipped


def is_proved_here(impl: str, device_type: str) -> bool:
    """Returns whether an implementation was compared with `dense` on this machine, and right."""
    return impl in constants_for(device_type).proved


is_proved_here._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a compiled region takes the answer as it is


def _parsed(text: str, device: str) -> tuple[dict[str, Any] | None, str]:
    """Returns the record that a file holds, or None and what is wrong with it."""
    try:
        record = json.loads(text)
    except ValueError as error:
        return None, f"it is no JSON ({error})"
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        return None, f"its format must be {FORMAT!r}, got {found!r}"
    if record.get("device") != device:
        return None, f"it was measured for {record.get('device')!r}, and this call runs on {device!r}"
    costs: Any = record.get("costs")
    proved: Any = record.get("proved", {})
    rate: Any = record.get("bytes_per_second")
    is_whole = isinstance(costs, dict) and isinstance(proved, dict) and {"date", "num_threads"} <= record.keys()
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < math.inf):
        return None, f"its bytes_per_second must be a positive number, got {rate!r}"
    for impl, names in NAMES.items():
        if is_whole and proved.get(impl) is False and impl not in costs:  # what is wrong is not timed
            continue
        if not is_whole or not _are_constants(costs.get(impl), names):
            return None, f"it must have a date, num_threads, and numbers of at least 0 for {impl}: {', '.join(names)}"
    return record, ""


def _are_constants(found: Any, names: tuple[str, ...]) -> bool:
    return isinstance(found, dict) and all(
        isinstance(found.get(name), int | float) and 0 <= found[name] < math.inf for name in names
    )
