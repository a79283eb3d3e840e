"""Expressions of graphs as text, for the command line: parsed, checked against a list of names, never evaluated.

    expression  builder(argument, …, name=argument) · disjoint_union([expression, …]) · (expression)
                expression | expression, and & - ^ @ · ~expression · expression.T · expression.keep(rule)
    argument    a number, a string in quotes, True, False, None, a list or tuple of arguments, or an expression
    rule        is_causal · within(number) · same_document([numbers])

The builders are those of `graphattn.connectivity` that need no other library's objects. Where one takes a tensor, such
as the sizes of a batch, a list is written. Precedence is Python's: `~`, `@`, `-`, `&`, `^`, `|`.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import operator
import typing
import warnings
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Any

import torch
from torch import Tensor

from graphattn import connectivity
from graphattn.connectivity._allocation import LimitedTensors
from graphattn.graph import AttentionGraph, disjoint_union, rules

BUILDERS: dict[str, Callable[..., AttentionGraph]] = {
    name: getattr(connectivity, name) for name in connectivity.__all__ if name not in ("bonds", "hop_distance")
} | {"disjoint_union": disjoint_union}
RULES = ("is_causal", "within", "same_document")
OPERATORS: dict[type[ast.AST], Callable[[Any, Any], AttentionGraph]] = {
    ast.BitOr: operator.or_, ast.BitAnd: operator.and_, ast.Sub: operator.sub, ast.BitXor: operator.xor,
    ast.MatMult: operator.matmul,
}  # fmt: skip

NAMES = {"AttentionGraph": AttentionGraph, "Sequence": Sequence, "Tensor": Tensor}  # of annotations kept as text

MAX_CHARACTERS = 2**16
MAX_DEPTH = 64
MAX_NUMBER = 2**53  # above, a float is no longer exact; no graph has as many nodes
MAX_BYTES = 2**28  # of one tensor: 33 million nodes, or 16 million edges
SHOWN = 100  # characters of a long expression around a fault


class ExpressionError(ValueError):
    """An expression that is refused: what is wrong, and below it the expression with a mark under the fault."""


def read_graph(text: str, *, generator: torch.Generator) -> AttentionGraph:
    """Returns the graph that an expression describes.

    Args:
        text: such as "sliding_window(4096, radius=64) | global_tokens(4096, [0])".
        generator: source of randomness for builders that draw, in the order in which they are written.

    Raises:
        ExpressionError: if the text is no such expression, a builder refuses its arguments, or a tensor would take more
            than 256 MiB; the message ends with the expression and a mark under the fault.

    >>> read_graph("sliding_window(4, radius=1).keep(is_causal)", generator=torch.Generator()).num_edges
    7
    >>> read_graph("sliding_windw(4, radius=1)", generator=torch.Generator())
    Traceback (most recent call last):
    graphattn.connectivity.expression.ExpressionError: there is no builder 'sliding_windw'. Did you mean ...
      sliding_windw(4, radius=1)
      ^
    """
    reader = _Reader(text, generator)
    with LimitedTensors(MAX_BYTES):
        return reader.graph(reader.tree)


def read_rule(text: str) -> rules.Rule:
    """Returns the rule that an expression names, such as "is_causal" or "within(64)".

    Raises:
        ExpressionError: as `read_graph` does.

    >>> read_rule("within(64)").__name__
    'within(64)'
    """
    reader = _Reader(text, None)
    return reader.rule(reader.tree)


class _Reader:
    def __init__(self, text: str, generator: torch.Generator | None):
        self.text, self.generator = text.strip(), generator
        self.tree = self._parsed()
        self._check_depth()

    def graph(self, node: ast.AST) -> AttentionGraph:
        """Returns the graph of a node, or refuses the node."""
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            left, right = self.graph(node.left), self.graph(node.right)
            return self._run(node, OPERATORS[type(node.op)], left, right)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
            return self._run(node, operator.invert, self.graph(node.operand))
        if isinstance(node, ast.Attribute) and node.attr == "T":
            return self._run(node, lambda graph: graph.T, self.graph(node.value))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return self._build(node, node.func)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "keep":
            if len(node.args) != 1 or node.keywords:
                raise self._refused(node, f".keep takes one rule: {', '.join(RULES)}")
            graph, rule = self.graph(node.func.value), self.rule(node.args[0])
            return self._run(node, graph.keep, rule)
        raise self._no_graph(node)

    def rule(self, node: ast.AST) -> rules.Rule:
        """Returns the rule of a node, or refuses the node."""
        if isinstance(node, ast.Name):
            self._check_name(node, RULES, "rule")
            if node.id != "is_causal":
                raise self._refused(node, f"the rule {node.id} needs its argument: {node.id}(…)")
            return rules.is_causal
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            self._check_name(node.func, RULES, "rule")
            if node.func.id == "is_causal":
                raise self._refused(node, "is_causal takes no arguments here: write it without brackets")
            arguments = self._bound(node, getattr(rules, node.func.id))
            return self._run(node, getattr(rules, node.func.id), *arguments.args, **arguments.kwargs)
        raise self._refused(node, f"a rule is expected here: {', '.join(RULES)}")

    def _build(self, node: ast.Call, name: ast.Name) -> AttentionGraph:
        if name.id in RULES:
            raise self._refused(node, f"{name.id} is a rule, no graph: write graph.keep({name.id}…)")
        self._check_name(name, tuple(BUILDERS), "builder")
        builder = BUILDERS[name.id]
        arguments = self._bound(node, builder)
        return self._run(node, builder, *arguments.args, **arguments.kwargs)

    def _bound(self, node: ast.Call, function: Callable[..., Any]) -> inspect.BoundArguments:
        """Returns the arguments of a call as the function takes them: lists become tensors where it asks for those."""
        signature, hints = inspect.signature(function), typing.get_type_hints(function, localns=NAMES)
        keywords = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise self._refused(keyword.value, "** is not allowed: write each name=value")
            if keyword.arg == "generator":
                raise self._refused(keyword, "generator is made from the seed: use --seed")
            keywords[keyword.arg] = self._value(keyword.value)
        values = [self._value(argument) for argument in node.args]
        if "generator" in signature.parameters:
            keywords["generator"] = self.generator
        try:
            arguments = signature.bind(*values, **keywords)
        except TypeError as error:
            shown = [name for name in signature.parameters if name != "generator"]
            raise self._refused(node, f"{function.__name__}({', '.join(shown)}): {error}") from None
        for name, value in arguments.arguments.items():
            if isinstance(value, list | tuple) and _wants_tensor(hints.get(name), value):
                try:
                    arguments.arguments[name] = torch.tensor(value)
                except (TypeError, ValueError) as error:
                    raise self._refused(node, f"{name} is no table of numbers: {error}") from None
        return arguments

    def _value(self, node: ast.AST) -> Any:
        """Returns the argument of a node: a literal, or a graph."""
        if isinstance(node, ast.Constant):
            return self._checked_constant(node, node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            value = self._checked_constant(node.operand, node.operand.value)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return -value
        if isinstance(node, ast.List | ast.Tuple):
            values = [self._value(element) for element in node.elts]
            return values if isinstance(node, ast.List) else tuple(values)
        return self.graph(node)

    def _checked_constant(self, node: ast.AST, value: Any) -> Any:
        if not isinstance(value, int | float | str | None):
            raise self._refused(node, f"{type(value).__name__} is no argument: numbers, strings, lists and graphs are")
        if isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
            raise self._refused(node, "the number is too large: at most 2^53")
        return value

    def _run(self, node: ast.AST, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Calls what a node stands for; what it refuses, or cannot hold, becomes the fault of the node."""
        try:
            return function(*arguments, **keywords)
        except (TypeError, ValueError, IndexError, OverflowError, RuntimeError, MemoryError) as error:
            raise self._refused(node, str(error) or "there is not enough memory") from error

    def _check_name(self, node: ast.Name, allowed: Sequence[str], what: str) -> None:
        if node.id in allowed:
            return
        near = difflib.get_close_matches(node.id, allowed, n=1)
        advice = f"Did you mean {near[0]!r}?" if near else f"These are: {', '.join(allowed)}"
        raise self._refused(node, f"there is no {what} {node.id!r}. {advice}")

    def _no_graph(self, node: ast.AST) -> ExpressionError:
        if isinstance(node, ast.Name):
            if node.id in RULES:
                return self._refused(node, f"{node.id} is a rule, no graph: write graph.keep({node.id})")
            self._check_name(node, tuple(BUILDERS), "builder")
            return self._refused(node, f"{node.id} needs its arguments: {node.id}(…)")
        if isinstance(node, ast.Attribute) or (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            attribute = node if isinstance(node, ast.Attribute) else node.func
            assert isinstance(attribute, ast.Attribute)
            at_end = (attribute.end_lineno, (attribute.end_col_offset or 0) - len(attribute.attr.encode()))
            reason = f"of a graph, only .T and .keep(rule) can be written, not .{attribute.attr}"
            return self._at(*at_end, reason)  # type: ignore[arg-type]
        if isinstance(node, ast.Constant):
            return self._refused(node, "a graph is expected here, not a literal")
        if isinstance(node, ast.BinOp | ast.UnaryOp):
            return self._refused(node, "graphs are combined by | & - ^ @ and ~ alone")
        return self._refused(
            node, "an expression is made of builders, their literal arguments, | & - ^ @ ~, .T and .keep(rule), no more"
        )

    def _parsed(self) -> ast.AST:
        if len(self.text) > MAX_CHARACTERS:
            raise ExpressionError(
                f"the expression has {len(self.text):,} characters, more than {MAX_CHARACTERS:,}. "
                "Build a graph of that many parts from Python."
            )
        if not self.text:
            raise ExpressionError("the expression is empty. Write a builder, such as sliding_window(4096, radius=64).")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what the parser finds odd in code that is not run
                return ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            lines = self.text.split("\n")
            row, column = error.lineno or 1, (error.offset or 0) - 1
            if row > len(lines) or column < 0:  # the text ends too soon
                row, column = len(lines), len(lines[-1])
            column = min(column, len(lines[row - 1]))
            raise self._marked(row, column, f"this is no expression: {error.msg}") from None
        except (RecursionError, MemoryError):
            raise ExpressionError(f"the expression is nested too deeply, more than {MAX_DEPTH} levels.") from None
        except ValueError as error:
            raise ExpressionError(f"this is no expression: {error}") from None

    def _check_depth(self) -> None:
        pending = [(self.tree, 1)]
        while pending:
            node, depth = pending.pop()
            if depth > MAX_DEPTH:
                raise self._refused(node, f"this is nested too deeply, more than {MAX_DEPTH} levels")
            pending += [(child, depth + 1) for child in ast.iter_child_nodes(node) if hasattr(child, "lineno")]

    def _refused(self, node: ast.AST, reason: str) -> ExpressionError:
        return self._at(node.lineno, node.col_offset, reason)  # type: ignore[attr-defined]

    def _at(self, row: int, num_bytes: int, reason: str) -> ExpressionError:
        """Marks a place as `ast` names it, in bytes of UTF-8."""
        line = self.text.split("\n")[row - 1]
        return self._marked(row, len(line.encode()[:num_bytes].decode(errors="ignore")), reason)

    def _marked(self, row: int, column: int, reason: str) -> ExpressionError:
        line = self.text.split("\n")[row - 1]
        start = max(0, column - SHOWN // 2)
        shown = line[start : start + SHOWN]
        before, after = "… " if start else "", " …" if start + SHOWN < len(line) else ""
        mark = " " * (len(before) + column - start) + "^"
        shown = "".join(char if char.isprintable() else " " for char in shown)
        return ExpressionError(f"{reason}\n  {before}{shown}{after}\n  {mark}")


def _wants_tensor(hint: Any, value: Sequence[Any]) -> bool:
    """Returns whether a parameter that takes a tensor takes no flat sequence, or is given a nested one."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (UnionType, typing.Union) else (hint,)
    takes_sequence = any(typing.get_origin(option) in (Sequence, list, tuple) for option in options)
    is_nested = any(isinstance(entry, list | tuple) for entry in value)
    return Tensor in options and (not takes_sequence or is_nested)
