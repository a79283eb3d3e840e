"""Data set cards: what a set is, where it officially lives, under which licence, with counts and checksums.

A card is `cards/NAME.json` in this package, so that an installed wheel has it. A set of OGB without one gets the short
card that ogb's own table makes: name, task and address.
"""

import csv
import difflib
import importlib.util
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

PREFIX = "ogbg-mol"
KIND = {"binary classification": "binary", "regression": "regression"}


def names() -> list[str]:
    """Returns the names of the data sets that can be loaded: those with a card, and every ogbg-mol* that ogb knows.

    >>> {"ogbg-molesol", "ogbg-molfreesolv", "ogbg-molbbbp", "ogbg-molhiv"} <= set(names())
    True
    """
    return sorted({*_written(), *(_of_ogb() or {})})


def card(name: str) -> dict[str, Any]:
    """Returns the card of a data set, a dict of plain values; each call makes a new one.

    Raises:
        ValueError: if there is no such data set; suggests the nearest name.
        ImportError: if only ogb could know it, and ogb is not installed.

    >>> card("ogbg-molesol")["licence"]
    'MIT'
    """
    path = _written().get(name)
    if path is not None:
        return json.loads(resources.files("graphattn.data").joinpath("cards", path).read_text(encoding="utf-8"))
    known = _of_ogb()
    if known is None and name.startswith(PREFIX):
        raise ImportError(
            f"the task and address of {name!r} are read from the ogb package, which is not installed: "
            "pip install graphattn[train]. "
            f"Without it: {', '.join(names())}."
        )
    if known is None or name not in known:
        raise ValueError(_unknown(name))
    row = known[name]
    return {
        "name": name,
        "task": {"kind": KIND[row["task type"]], "num_tasks": int(row["num tasks"]), "metric": row["eval metric"]},
        "address": row["url"],
        "licence": "MIT, as the OGB pages say for ogbg-mol*",
    }


def as_text(card: dict[str, Any]) -> str:
    """Returns a card for reading in a terminal: one line per fact, lists indented.

    >>> print(as_text({"name": "toy", "task": {"kind": "binary", "num_tasks": 2}, "caveats": ["small"]}))
    name: toy
    task: kind binary, num_tasks 2
    caveats:
      - small
    """
    lines = []
    for key, value in card.items():
        if isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values()):
            lines += [f"{key}:", *(f"  {name}: {_inline(inner)}" for name, inner in value.items())]
        elif isinstance(value, list):
            lines += [f"{key}:", *(f"  - {entry}" for entry in value)]
        else:
            lines.append(f"{key}: {_inline(value)}")
    return "\n".join(lines)


def _inline(value: Any) -> str:
    return ", ".join(f"{key} {inner}" for key, inner in value.items()) if isinstance(value, dict) else str(value)


def _unknown(name: str) -> str:
    known = names()
    bare = {candidate.removeprefix(PREFIX): candidate for candidate in known}
    spelt = name.lower().replace("_", "-")
    nearest = difflib.get_close_matches(spelt, known, n=1) or [
        bare[near] for near in difflib.get_close_matches(spelt.removeprefix("mol"), list(bare), n=1)
    ]
    advice = f"Did you mean {nearest[0]!r}? " if nearest else ""
    return (
        f"unknown data set {name!r}. {advice}Known are {', '.join(known)}; "
        "a data set of your own is named 'package.module:function'."
    )


def _written() -> dict[str, str]:
    """Returns the file of each card in the package, by name."""
    files = (entry.name for entry in resources.files("graphattn.data").joinpath("cards").iterdir())
    return {file.removesuffix(".json"): file for file in files if file.endswith(".json")}


@cache
def _of_ogb() -> dict[str, dict[str, str]] | None:
    """Returns ogb's own table of the ogbg-mol* sets, None without ogb, which is not imported: that asks the network."""
    spec = importlib.util.find_spec("ogb")
    if spec is None or not spec.submodule_search_locations:
        return None
    table = Path(spec.submodule_search_locations[0]) / "graphproppred" / "master.csv"
    if not table.is_file():
        return None
    with open(table, encoding="utf-8", newline="") as file:
        columns = list(zip(*csv.reader(file)))
    fields = columns[0]
    return {name: dict(zip(fields, (name, *values))) for name, *values in columns[1:] if name.startswith(PREFIX)}
