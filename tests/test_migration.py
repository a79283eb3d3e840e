"""docs/migration.md is true: both sides of every line are run, and make the same pairs or the same numbers.

PyTorch and PyTorch Geometric are themselves. Other libraries are not installed: what stands in for them below writes
out, pair by pair, what the documentation of each call says that it attends to.
"""

import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask
from torch.nn.functional import scaled_dot_product_attention

from graphattn import AttentionGraph
from tests.connectivity.test_neighborhood import natten_mask

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
SHARED, *SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
TITLES = [section.splitlines()[0] for section in SECTIONS]
LIBRARIES = (
    "FlexAttention", "Dense masks of PyTorch", "attention-gym", "xFormers", "NATTEN", "DGL sparse", "PyTorch Geometric",
    "Hugging Face transformers",
)  # fmt: skip


def code_of(cell: str) -> str:
    """The first piece of code in a cell, whose `|` are escaped for the table's sake."""
    return re.match(r" `([^`]+)`", cell)[1].replace(r"\|", "|")


def rows_of(section: str) -> list[tuple[str, str]]:
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [re.split(r"(?<!\\)\|", line) for line in lines]
    return [(code_of(theirs), code_of(ours)) for _, theirs, ours, *_ in cells]


ROWS = [(title, *row) for title, section in zip(TITLES, SECTIONS) for row in rows_of(section)]


@cache
def names_of(title: str) -> dict[str, Any]:
    """What a line of a section may use: what stands in for the library, then the code of the page up to there."""
    names = dict(STAND_INS)
    for text in (SHARED, SECTIONS[TITLES.index(title)]):
        torch.manual_seed(0)
        for block in re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
            exec(block, names)
    return names


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("title", "theirs", "ours"), ROWS, ids=[f"{title}: {theirs}" for title, theirs, _ in ROWS])
def test_both_sides_of_a_line_are_the_same(title: str, theirs: str, ours: str) -> None:
    names = names_of(title)
    compare(eval(theirs, names), eval(ours, names))


def test_every_library_has_its_lines() -> None:
    assert tuple(TITLES) == LIBRARIES
    assert all(len(rows_of(section)) >= 4 for section in SECTIONS)
    assert len(re.findall(r"^\| `", PAGE, flags=re.MULTILINE)) == len(ROWS)


def compare(theirs: Any, ours: Any) -> None:
    if isinstance(theirs, BigBirdConfig):
        return theirs.check(ours.to_mask())
    if isinstance(ours, BlockMask):
        assert isinstance(theirs, BlockMask) and theirs.BLOCK_SIZE == ours.BLOCK_SIZE
        for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
        theirs, ours = (asked(one.mask_mod, *one.seq_lengths) for one in (theirs, ours))
    if isinstance(theirs, BlockMask):
        theirs = theirs.mask_mod
    if isinstance(ours, AttentionGraph):
        num_heads = 1 if ours.head_mask is None else ours.head_mask.shape[1]
        if callable(theirs):
            theirs = asked(theirs, ours.num_dst_nodes, ours.num_src_nodes, num_heads)
        elif isinstance(theirs, SparseMatrix):
            theirs = theirs.to_mask()
        elif theirs.dtype == torch.int64:  # an edge_index
            theirs = SparseMatrix(theirs.flip(0), None, (ours.num_dst_nodes, ours.num_src_nodes)).to_mask()
        ours = ours.to_mask()
    assert isinstance(theirs, Tensor) and theirs.dtype == ours.dtype
    assert theirs.dtype != torch.bool or 0 < int(ours.sum()) < ours.numel()  # all or none would prove little
    torch.testing.assert_close(ours, theirs)


def asked(mask_mod: Any, num_dst_nodes: int, num_src_nodes: int, num_heads: int = 1) -> Tensor:
    """What FlexAttention makes of a mask_mod when it writes the whole mask down."""
    mask = create_mask(mask_mod, 1, num_heads, num_dst_nodes, num_src_nodes, device="cpu")[0]
    return mask if num_heads != 1 else mask[0]


# attention-gym: generators of mask_mods.


def causal_mask(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return kv <= q


def generate_sliding_window(window_size: int) -> Any:
    return lambda b, h, q, kv: (kv <= q) & (kv >= q - window_size)


def generate_dilated_sliding_window(window_size: int, dilation: int) -> Any:
    return lambda b, h, q, kv: ((q - kv).abs() <= window_size) & ((q - kv) % dilation == 0)


def generate_prefix_lm_mask(prefix_length: int) -> Any:
    return lambda b, h, q, kv: (kv < prefix_length) | (kv <= q)


def generate_doc_mask_mod(mask_mod: Any, offsets: Tensor) -> Any:
    which, place = numbered(torch.diff(offsets).tolist())
    return lambda b, h, q, kv: (which[q] == which[kv]) & mask_mod(b, h, place[q], place[kv])


def generate_packed_causal_doc_mask_mod(offsets: Tensor) -> Any:
    return generate_doc_mask_mod(causal_mask, offsets)


def generate_global_sliding_window(window_size: int, is_global: Tensor) -> Any:
    return lambda b, h, q, kv: is_global[q] | is_global[kv] | ((q - kv).abs() <= window_size)


def batchify_mask_mod(mask_mod: Any, batchify_size: int) -> Any:
    size = batchify_size
    return lambda b, h, q, kv: (q // size == kv // size) & mask_mod(b, h, q % size, kv % size)


def generate_natten(canvas_w: int, canvas_h: int, kernel_w: int, kernel_h: int) -> Any:
    table = natten_mask((canvas_h, canvas_w), (kernel_h, kernel_w), (1, 1), (1, 1), (False, False))
    return lambda b, h, q, kv: table[q, kv]


def generate_morton_natten(canvas_w: int, canvas_h: int, kernel_w: int, kernel_h: int) -> Any:
    table = natten_mask((canvas_h, canvas_w), (kernel_h, kernel_w), (1, 1), (1, 1), (False, False))
    cells = sorted(range(canvas_w * canvas_h), key=lambda cell: interleaved(*divmod(cell, canvas_w)))
    order = torch.tensor(cells)
    return lambda b, h, q, kv: table[order[q], order[kv]]


def interleaved(y: int, x: int) -> str:
    return "".join(bit for pair in zip(f"{y:016b}", f"{x:016b}") for bit in pair)


def numbered(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """The piece of each token, and its place in there."""
    pairs = [(piece, place) for piece, length in enumerate(lengths) for place in range(length)]
    return torch.tensor([piece for piece, _ in pairs]), torch.tensor([place for _, place in pairs])


# xFormers: dense patterns, and biases, here as mask_mods.


def pattern(num_nodes: int, attends: Any) -> Tensor:
    return torch.tensor([[bool(attends(q, kv)) for kv in range(num_nodes)] for q in range(num_nodes)])


def local_2d_pattern(height: int, width: int, distance: float, p: float) -> Tensor:
    assert p == float("inf")
    cells = [divmod(cell, width) for cell in range(height * width)]
    return pattern(len(cells), lambda q, kv: max(abs(a - b) for a, b in zip(cells[q], cells[kv])) < distance)


def axial_2d_pattern(height: int, width: int) -> Tensor:
    cells = [divmod(cell, width) for cell in range(height * width)]
    return pattern(len(cells), lambda q, kv: cells[q][0] == cells[kv][0] or cells[q][1] == cells[kv][1])


def swin_attention_pattern(height: int, width: int, window_size: int, shift_size: int) -> Tensor:
    boxes = [tuple((x - shift_size) // window_size for x in divmod(cell, width)) for cell in range(height * width)]
    return pattern(len(boxes), lambda q, kv: boxes[q] == boxes[kv])


class BlockDiagonalMask:
    def __init__(self, sides: list[tuple[Tensor, Tensor]], rules: tuple[Any, ...] = ()):
        self.sides, self.rules = sides, rules

    @classmethod
    def from_seqlens(cls, q_seqlen: list[int], kv_seqlen: list[int] | None = None) -> "BlockDiagonalMask":
        return cls([numbered(q_seqlen), numbered(q_seqlen if kv_seqlen is None else kv_seqlen)])

    def make_causal(self) -> "BlockDiagonalMask":
        return BlockDiagonalMask(self.sides, (*self.rules, lambda q, kv: kv <= q))

    def make_local_attention(self, window_size: int) -> "BlockDiagonalMask":
        return BlockDiagonalMask(self.sides, (*self.rules, lambda q, kv: q - kv < window_size))

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        (q_block, q_place), (kv_block, kv_place) = self.sides
        attends = q_block[q] == kv_block[kv]
        for rule in self.rules:
            attends = attends & rule(q_place[q], kv_place[kv])
        return attends


def memory_efficient_attention(query: Tensor, key: Tensor, value: Tensor, attn_bias: Any) -> Tensor:
    mask = asked(attn_bias, query.shape[1], key.shape[1])
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))  # xFormers keeps heads behind nodes
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def from_bottom_right(window_left: int, window_right: int) -> Any:
    """A window around the place of a query when the last of m queries stands at the last of n keys."""
    names = names_of("xFormers")
    ahead = names["n"] - names["m"]
    return lambda b, h, q, kv: (kv >= q + ahead - window_left) & (kv <= q + ahead + window_right)


# NATTEN: the windows of its paper, as in the test of our own.


def na1d(query: Tensor, key: Tensor, value: Tensor, kernel_size: int, is_causal: bool = False) -> Tensor:
    return natten_mask((query.shape[0],), (kernel_size,), (1,), (1,), (is_causal,))


def na2d(query: Tensor, key: Tensor, value: Tensor, kernel_size: Any, **options: Any) -> Tensor:
    names = names_of("NATTEN")
    asked_for = {"kernel_size": kernel_size, "stride": 1, "dilation": 1, "is_causal": False} | options
    per_axis = (one if isinstance(one, tuple) else (one, one) for one in asked_for.values())
    return natten_mask((names["height"], names["width"]), *per_axis)


# DGL: a sparse matrix with a value, or one per head, at each of its places.


class SparseMatrix:
    def __init__(self, indices: Tensor, val: Tensor | None, shape: tuple[int, int]):
        self.row, self.col = indices
        self.val = torch.ones(self.row.numel()) if val is None else val
        self.shape = shape

    def to_mask(self) -> Tensor:
        mask = torch.zeros(self.shape, dtype=torch.bool)
        mask[self.row, self.col] = True
        return mask

    def softmax(self) -> "SparseMatrix":
        table = torch.full((*self.shape, *self.val.shape[1:]), -torch.inf)
        table[self.row, self.col] = self.val
        return self.with_val(table.softmax(1)[self.row, self.col])

    def with_val(self, val: Tensor) -> "SparseMatrix":
        return SparseMatrix(torch.stack([self.row, self.col]), val, self.shape)

    @property
    def T(self) -> "SparseMatrix":
        return SparseMatrix(torch.stack([self.col, self.row]), self.val, self.shape[::-1])

    def __matmul__(self, other: "SparseMatrix") -> "SparseMatrix":
        product = self.to_mask().float() @ other.to_mask().float()
        return SparseMatrix(product.nonzero().T, None, (self.shape[0], other.shape[1]))


def bsddmm(matrix: SparseMatrix, left: Tensor, right: Tensor) -> SparseMatrix:
    return matrix.with_val(torch.einsum("lmk,mnk->lnk", left, right)[matrix.row, matrix.col])


def bspmm(matrix: SparseMatrix, dense: Tensor) -> Tensor:
    table = torch.zeros(*matrix.shape, matrix.val.shape[1])
    table[matrix.row, matrix.col] = matrix.val
    return torch.einsum("lmk,mnk->lnk", table, dense)


def from_csr(indptr: Tensor, indices: Tensor, shape: tuple[int, int]) -> SparseMatrix:
    return SparseMatrix(torch.stack([torch.repeat_interleave(torch.diff(indptr)), indices]), None, shape)


# Hugging Face: the attention that a configuration stands for.


class BigBirdConfig:
    """Blocks read themselves, a block on each side, the first and the last, and some that are drawn."""

    def __init__(self, block_size: int, num_random_blocks: int):
        self.block_size, self.num_random_blocks = block_size, num_random_blocks

    def check(self, mask: Tensor) -> None:
        size = self.block_size
        num_blocks = mask.shape[0] // size
        tiles = mask.view(num_blocks, size, num_blocks, size).transpose(1, 2)
        reads = tiles.any(-1).any(-1)
        torch.testing.assert_close(tiles, reads[:, :, None, None].expand_as(tiles))  # a block is read as a whole
        ends = (0, num_blocks - 1)
        certain = pattern(num_blocks, lambda q, kv: abs(q - kv) <= 1 or q in ends or kv in ends)
        assert bool(reads[certain].all())
        num_drawn = (reads & ~certain).sum(1)
        assert 0 < int(num_drawn.max()) <= self.num_random_blocks


def longformer_config(attention_window: int) -> Any:
    is_global = names_of("Hugging Face transformers")["global_attention_mask"][0] == 1
    return lambda b, h, q, kv: is_global[q] | is_global[kv] | ((q - kv).abs() <= attention_window // 2)


STAND_INS: dict[str, Any] = {
    "causal_mask": causal_mask,
    "generate_sliding_window": generate_sliding_window,
    "generate_dilated_sliding_window": generate_dilated_sliding_window,
    "generate_prefix_lm_mask": generate_prefix_lm_mask,
    "generate_doc_mask_mod": generate_doc_mask_mod,
    "generate_packed_causal_doc_mask_mod": generate_packed_causal_doc_mask_mod,
    "generate_global_sliding_window": generate_global_sliding_window,
    "generate_natten": generate_natten,
    "generate_morton_natten": generate_morton_natten,
    "batchify_mask_mod": batchify_mask_mod,
    "causal_1d_pattern": lambda n: pattern(n, lambda q, kv: kv <= q),
    "local_1d_pattern": lambda n, window_size: pattern(n, lambda q, kv: 2 * abs(q - kv) + 1 <= window_size),
    "global_token_pattern": lambda mask: pattern(mask.numel(), lambda q, kv: mask[q] or mask[kv]),
    "axial_2d_pattern": axial_2d_pattern,
    "local_2d_pattern": local_2d_pattern,
    "swin_attention_pattern": swin_attention_pattern,
    "LowerTriangularMask": lambda: causal_mask,
    "LowerTriangularFromBottomRightMask": lambda: from_bottom_right(10**6, 0),
    "LocalAttentionFromBottomRightMask": from_bottom_right,
    "BlockDiagonalMask": BlockDiagonalMask,
    "memory_efficient_attention": memory_efficient_attention,
    "na1d": na1d,
    "na2d": na2d,
    "dglsp": SimpleNamespace(
        spmatrix=lambda indices, shape: SparseMatrix(indices, None, shape),
        from_coo=lambda row, col, shape: SparseMatrix(torch.stack([row, col]), None, shape),
        from_csr=from_csr,
        identity=lambda shape: SparseMatrix(torch.arange(shape[0]).expand(2, -1), None, shape),
        bsddmm=bsddmm,
        bspmm=bspmm,
    ),
    "BigBirdConfig": BigBirdConfig,
    "LongformerConfig": longformer_config,
    "MistralConfig": lambda sliding_window: lambda b, h, q, kv: (kv <= q) & (q - kv < sliding_window),
    "Llama4TextConfig": lambda attention_chunk_size: (
        lambda b, h, q, kv: (kv <= q) & (q // attention_chunk_size == kv // attention_chunk_size)
    ),
}
