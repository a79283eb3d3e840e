"""The origin of a graph reads as the expression that made it."""

from functools import partial

import pytest
import torch

from graphattn.graph import AttentionGraph
from graphattn.graph.provenance import grouped, shortened
from graphattn.graph.rules import is_causal, same_document, within

SQUARE = AttentionGraph(torch.tensor([[0], [1]]), 2)


def test_operands_stand_in_brackets_only_where_the_expression_would_read_otherwise() -> None:
    expression = ((SQUARE | SQUARE.T) & SQUARE).keep(is_causal)
    assert expression.origin == "((1 edges | 1 edges.T) & 1 edges).keep(is_causal)"
    assert (~SQUARE @ (SQUARE - SQUARE)).origin == "~1 edges @ (1 edges - 1 edges)"
    assert (~SQUARE).keep(is_causal).origin == "(~1 edges).keep(is_causal)"
    assert (SQUARE.T | SQUARE | SQUARE).origin == "1 edges.T | 1 edges | 1 edges"
    assert repr(expression.keep(within(3))).startswith(f"AttentionGraph({expression.origin}.keep(within(3)): ")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (a, b)
        for a in ("a", "~a", "a | b", "a & b", "a - b", "a ^ b", "a @ b", "f(a | b)")
        for b in ("c", "c | d", "~c")
    ],
)
@pytest.mark.parametrize("symbol", ["|", "&", "-", "^", "@"])
def test_python_reads_the_expression_as_it_was_meant(left: str, right: str, symbol: str) -> None:
    values = {"a": Matrix("a"), "b": Matrix("b"), "c": Matrix("c"), "d": Matrix("d"), "f": lambda matrix: matrix}
    meant = eval(f"({left}) {symbol} ({right})", values)
    read = eval(f"{grouped(left, symbol)} {symbol} {grouped(right, symbol)}", values)
    assert read.flat(symbol) == meant.flat(symbol)


class Matrix:
    """Remembers the operations applied to it."""

    def __init__(self, symbol: str, *parts: "Matrix"):
        self.symbol, self.parts = symbol, parts

    def flat(self, outer: str) -> str:
        """Writes every bracket but those that unions and intersections, being associative, can do without."""
        if not self.parts:
            return self.symbol
        if len(self.parts) == 1:
            return f"{self.symbol}({self.parts[0].flat('')})"
        inside = f" {self.symbol} ".join(part.flat(self.symbol) for part in self.parts)
        return inside if self.symbol == outer and outer in "|&" else f"({inside})"

    def __invert__(self) -> "Matrix":
        return Matrix("~", self)


for method, symbol in {"or": "|", "and": "&", "sub": "-", "xor": "^", "matmul": "@"}.items():
    setattr(Matrix, f"__{method}__", lambda self, other, symbol=symbol: Matrix(symbol, self, other))


def test_a_rule_is_written_by_its_name() -> None:
    def mine(src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
        return src != dst

    names = {
        is_causal: "is_causal",
        within(0): "within(0)",
        same_document(torch.tensor([0, 1])): "same_document(2 nodes)",
        mine: "mine",
        partial(mine): "partial",
    }
    for rule, name in names.items():
        assert SQUARE.keep(rule).origin == f"1 edges.keep({name})"


def test_conversions_and_heads_are_written_as_one_would_type_them() -> None:
    mask = torch.ones(2, 3, 3, dtype=torch.bool)
    heads = AttentionGraph.from_mask(mask)
    assert (heads | heads).of_head(1).origin == "(from_mask(2 × 3 × 3) | from_mask(2 × 3 × 3)).of_head(1)"
    one = heads.of_head(0)
    assert AttentionGraph.from_hf_mask(one.to_hf_mask()).origin == "from_hf_mask(1 × 1 × 3 × 3)"
    assert AttentionGraph.from_scipy(one.to_scipy()).origin == "from_scipy(3 × 3)"
    assert AttentionGraph.from_sparse_csr(heads.to_sparse_csr()).origin == "from_sparse_csr(3 × 3 × 2)"
    assert AttentionGraph.from_block_mask(one.to_block_mask(2)).origin == "from_block_mask(3 × 3 in 2 × 2)"
    assert AttentionGraph.from_mask_mod(is_causal_mod, 3).origin == "from_mask_mod(is_causal_mod)"
    assert AttentionGraph.from_networkx(one.to_networkx()).origin == "from_networkx(3 nodes, 9 edges)"
    assert AttentionGraph.from_xformers([2, 1]).origin == "from_xformers(2 blocks)"


def is_causal_mod(b: torch.Tensor, h: torch.Tensor, q_idx: torch.Tensor, kv_idx: torch.Tensor) -> torch.Tensor:
    return q_idx >= kv_idx


def test_a_long_expression_is_cut_in_the_middle() -> None:
    long = "window(1) | " * 1000 + "bonds"
    assert len(repr(AttentionGraph.trusted(None, 1, origin=long))) < 300
    assert len(shortened(long)) < 170
    assert shortened(long).startswith("window(1) | window(1)")
    assert shortened(long).endswith("window(1) | bonds")
    assert shortened("window(1) | bonds") == "window(1) | bonds"
