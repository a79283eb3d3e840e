"""Seats as one line of a configuration: the call that makes the spec, read without `eval`."""

from __future__ import annotations

import ast
import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from graphattn import nn, selection
from graphattn.nn import combiner

SELECTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(selection, name)
    for name in ("SubsampleSources", "SubsampleLocal", "SubsampleHops", "TopKEdges", "Ramp", "PerLayer")
}
SCORES: dict[str, Callable[..., Any]] = {name: getattr(nn, name) for name in ("DotProduct", "Symmetric", "Pairwise")}
CONNECTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(combiner, name)
    for name in (
        "Fixed", "LogSparse", "AxialVertical", "AxialHorizontal", "AxialRowmajor", "Mixture", "Clusters",
    )
} | {"PerLayer": selection.PerLayer}  # fmt: skip


def read_seat(line: str, names: Mapping[str, Callable[..., Any]], field: str) -> Any:
    """Makes the spec that a line names, such as "SubsampleSources(keep_p=0.25)".

    Args:
        line: a call of one of `names`, with numbers, strings, tuples, None, True, False or further such calls as
            arguments, as Python writes them; `repr` of a spec is such a line. Empty for none.
        names: what may be called.
        field: of the configuration, for errors.

    Returns:
        the spec, or None for an empty line.

    Raises:
        TypeError: if `line` is no string.
        ValueError: if it is anything else, with what may stand there; or if the spec refuses its arguments.

    >>> read_seat("SubsampleSources(keep_p=0.25)", SELECTIONS, "select").keep_p
    0.25
    >>> read_seat("SubsampleSource(keep_p=0.25)", SELECTIONS, "select")
    Traceback (most recent call last):
    ValueError: select cannot be read: there is no 'SubsampleSource'. Did you mean 'SubsampleSources'?
    """
    if not isinstance(line, str):
        raise TypeError(f"{field} must be one line of text, got {type(line).__name__}. Write {_example(names)!r}.")
    if not line.strip():
        return None
    try:
        tree = ast.parse(line.strip().replace("\n", " "), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{field} cannot be read: {line!r} is no call ({error}). Write {_example(names)!r}.") from None
    if not isinstance(tree, ast.Call | ast.Name):
        raise ValueError(f"{field} cannot be read: {line!r} is no call. Write {_example(names)!r}.")
    return _value(tree, names, field)


def as_line(spec: Any, names: Mapping[str, Callable[..., Any]], field: str) -> str:
    """Returns the line that `read_seat` reads back to an equal spec; a line stays as it is, None is empty.

    Raises:
        ValueError: if the spec is of a class that no line can name.
    """
    if spec is None:
        return ""
    line = spec if isinstance(spec, str) else repr(spec)
    read_seat(line, names, field)
    return line


def _value(node: ast.AST, names: Mapping[str, Callable[..., Any]], field: str) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None):
        return node.value
    if isinstance(node, ast.Name) and node.id == "inf":  # as repr writes math.inf
        return math.inf
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        if isinstance(node.operand.value, int | float):
            return -node.operand.value
    if isinstance(node, ast.List | ast.Tuple):
        return tuple(_value(element, names, field) for element in node.elts)
    name = node.func if isinstance(node, ast.Call) else node
    if not isinstance(name, ast.Name):
        raise ValueError(
            f"{field} cannot be read: {ast.unparse(node)!r} is neither a number, a text, a tuple nor a call. "
            f"Write {_example(names)!r}."
        )
    if name.id not in names:
        near = difflib.get_close_matches(name.id, names, n=1)
        advice = f"Did you mean {near[0]!r}?" if near else f"There is {', '.join(names)}."
        raise ValueError(f"{field} cannot be read: there is no {name.id!r}. {advice}")
    arguments, keywords = [], {}
    if isinstance(node, ast.Call):
        arguments = [_value(argument, names, field) for argument in node.args]
        for keyword in node.keywords:
            if keyword.arg is None:
                raise ValueError(f"{field} cannot be read: ** is not allowed. Write each name=value.")
            keywords[keyword.arg] = _value(keyword.value, names, field)
    try:
        return names[name.id](*arguments, **keywords)
    except TypeError as error:
        shown = ", ".join(inspect.signature(names[name.id]).parameters)
        raise ValueError(f"{field}: {str(error).rstrip('.')}. It is {name.id}({shown}).") from error
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error


def _example(names: Mapping[str, Callable[..., Any]]) -> str:
    first = next(iter(names))
    return {"SubsampleSources": "SubsampleSources(keep_p=0.25)", "SubsetHeadGate": "SubsetHeadGate(num_keep=8)"}.get(
        first, f"{first}()"
    )
