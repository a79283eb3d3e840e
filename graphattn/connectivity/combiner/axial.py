"""Rows and columns: a sequence laid out row by row, or an image, and summaries along one of its axes."""

from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.connectivity._axes import Shape, read_shape
from graphattn.connectivity._nodes import Nodes, check_count, nodes_of
from graphattn.connectivity.combiner.pair import Pair, check_member, options_of, pair_of_blocks, staircases
from graphattn.graph import Blocks, Sizes, batch_of, node_ptr, ragged_range


def axial_vertical(
    sizes: Sizes | Shape, width: int | None = None, *, causal: bool, member: Tensor | None = None
) -> Pair:
    r"""Lets the token in row r and column c read its row and its column, and the other columns by summaries.

    With m = width columns, token i stands in row ⌊i / m⌋ and column i mod m. Causal: Ω⁰ is the row up to i and the
    column above, and for each other column c' there is Ω^c' = column c' in rows 0 … r − 1, one abstraction (r, c') for
    all tokens of row r. On a full grid of n rows

        summarise  m n(n − 1) / 2
        direct     n m(m + 1) / 2 + m n(n − 1) / 2
        read       (n − 1) m(m − 1)

    where m > 1; O(L √L) for L = nm at m = √L. Else Ω⁰ is the whole row and column and Ω^c' is column c' without row r:
    m n(n − 1), nm(n + m − 1) and nm(m − 1) edges, where n > 1.

    Args:
        sizes: number of tokens, or int64 [num_graphs] for a batch, with `width`; or, without it, the shape of an image
            (height, width), int64 [num_graphs, 2] for a batch, its cells row by row.
        width: m, tokens per row, at least 1; the last row of a graph may be shorter. √L makes fewest edges.
        causal: whether token i reads tokens up to i only.
        member: as in `fixed`.

    Returns:
        Pair, unpacked as `summarise, attend`, on the device of `sizes`, held in `graph.blocks`.

    Raises:
        TypeError: if `sizes` is none of these, or `width` no int.
        ValueError: if a size is negative, `width` below 1, missing or given beside a shape, or `member` of another
            shape.

    Source: Ren et al. 2021 (Combiner), sec. 4.3, Axial-Vertical. The bidirectional form is ours: theirs is in an
    appendix that we have not read.

    >>> summarise, attend = axial_vertical(6, width=3, causal=True)          # rows 0 1 2 and 3 4 5
    >>> summarise.edge_index.tolist()
    [[0, 1, 2], [0, 1, 2]]
    >>> attend.edge_index[0][attend.edge_index[1] == 4].tolist()             # 1 above, 3, itself, columns 0 and 2
    [1, 3, 4, 6, 8]
    """
    lines = _read_lines(sizes, width)
    nodes = lines.nodes
    rows = torch.diff(lines.row_ptr)
    # one abstraction for each row and column of the grid, of which those in an unfinished last row lie beyond the end
    graph, row, column = lines.cells(rows)
    of_column, abstraction = lines.column_ptr[graph] + column, torch.arange(graph.numel(), device=nodes.device)
    height = lines.height()[of_column]
    summarise = [staircases(of_column, abstraction, torch.minimum(row, height), lines.of_column, lines.here)]
    if not causal:
        below = (height - 1 - row).clamp_(min=0)
        summarise.append(staircases(of_column, abstraction, below, lines.of_column.flip(0), lines.here.flip(0)))
    of_row = lines.row_ptr[graph] + row
    beyond = lines.width[lines.graph] - 1 - lines.column
    return pair_of_blocks(
        nodes,
        rows * lines.width,
        summarise=summarise,
        direct=lines.row_and_column(causal),
        read=[
            staircases(lines.of_row, lines.here, lines.column, of_row, abstraction),
            staircases(lines.of_row, lines.here, beyond, of_row.flip(0), abstraction.flip(0)),
        ],
        origin=lines.origin("axial_vertical", causal, member),
        member=check_member(member, nodes),
    )


def axial_horizontal(
    sizes: Sizes | Shape,
    width: int | None = None,
    *,
    causal: bool,
    member: Tensor | None = None,
    split: bool = False,
) -> Pair:
    r"""Lets the token in row r and column c read its row and its column, and the other rows by summaries.

    As `axial_vertical`, with Ω^r' = row r' without column c, causal for each earlier row r', one abstraction (r', c)
    for all tokens of column c below. On a full grid of n rows of m tokens, causal,

        summarise  (n − 1) m(m − 1)
        direct     n m(m + 1) / 2 + m n(n − 1) / 2
        read       m n(n − 1) / 2

    where m > 1; else n m(m − 1), nm(n + m − 1) and m n(n − 1), where n > 1.

    Args:
        sizes, width, causal, member: as in `axial_vertical`.
        split: makes two abstractions of each, left and right of column c, as the official code does. There are then
            twice as many reads, less those of what is empty.

    Returns:
        Pair, unpacked as `summarise, attend`, on the device of `sizes`, held in `graph.blocks`.

    Raises:
        TypeError, ValueError: as `axial_vertical`.

    Source: Ren et al. 2021 (Combiner), sec. 4.3, Axial-Horizontal. The bidirectional form is ours: theirs is in an
    appendix that we have not read.

    >>> summarise, attend = axial_horizontal(6, width=3, causal=True)        # rows 0 1 2 and 3 4 5
    >>> [summarise.edge_index[0][summarise.edge_index[1] == number].tolist() for number in range(3)]
    [[1, 2], [0, 2], [0, 1]]
    >>> attend.edge_index[0][attend.edge_index[1] == 4].tolist()             # 1 above, 3, itself, row 0 but 1
    [1, 3, 4, 7]
    """
    lines = _read_lines(sizes, width)
    nodes = lines.nodes
    rows = torch.diff(lines.row_ptr)
    graph, row, column = lines.cells(rows)
    cell = torch.arange(graph.numel(), device=nodes.device)
    of_row, length = lines.row_ptr[graph] + row, lines.length()
    left, right = torch.minimum(column, length[of_row]), (length[of_row] - 1 - column).clamp_(min=0)
    sides = 2 if split else 1
    abstractions = [sides * cell + side for side in range(sides)]  # the same one twice where they are not split
    return pair_of_blocks(
        nodes,
        rows * lines.width * sides,
        summarise=[
            staircases(of_row, abstractions[0], left, lines.of_row, lines.here),
            staircases(of_row, abstractions[-1], right, lines.of_row.flip(0), lines.here.flip(0)),
        ],
        direct=lines.row_and_column(causal),
        read=[part for each in abstractions for part in lines.reads_of_columns(graph, column, each, causal)],
        origin=lines.origin("axial_horizontal", causal, member, ", split=True" if split else ""),
        member=check_member(member, nodes),
    )


def axial_rowmajor(
    sizes: Sizes | Shape, width: int | None = None, *, causal: bool, member: Tensor | None = None
) -> Pair:
    r"""Lets the token in row r and column c read its row, and the other rows by summaries that their tokens ask for.

    Ω⁰ is the own row (causal: up to i) and Ω^r' is the whole of row r', for each other row (causal: each earlier one).
    Its abstraction (r', c) asks with the query of token (r', c), `Pair.asker`. On a full grid of n rows of m tokens,
    causal,

        summarise  (n − 1) m²
        direct     n m(m + 1) / 2
        read       m n(n − 1) / 2

    else n m², n m² and m n(n − 1), where n > 1.

    Args:
        sizes, width, causal, member: as in `axial_vertical`. Where no member stands in row r' and column c, abstraction
            (r', c) asks with the pooled query.

    Returns:
        Pair, unpacked as `summarise, attend`, on the device of `sizes`, held in `graph.blocks`.

    Raises:
        TypeError, ValueError: as `axial_vertical`.

    Source: Ren et al. 2021 (Combiner), sec. 4.3, Axial-Rowmajor; keys are pooled as in its other forms, where the
    official code has two more matrices per layer for them. The bidirectional form is ours.

    >>> pair = axial_rowmajor(6, width=3, causal=True)                       # rows 0 1 2 and 3 4 5
    >>> pair.summarise.num_edges, pair.asker.tolist()
    (9, [0, 1, 2])
    >>> pair.attend.edge_index[0][pair.attend.edge_index[1] == 4].tolist()   # 3, itself, row 0 as 1 sees it
    [3, 4, 7]
    """
    lines = _read_lines(sizes, width)
    nodes = lines.nodes
    rows = torch.diff(lines.row_ptr)
    graph, row, column = lines.cells(rows)
    abstraction = torch.arange(graph.numel(), device=nodes.device)
    of_row, length = lines.row_ptr[graph] + row, lines.length()
    token = nodes.ptr[graph] + row * lines.width[graph] + column
    return pair_of_blocks(
        nodes,
        rows * lines.width,
        summarise=[staircases(of_row, abstraction, length[of_row], lines.of_row, lines.here)],
        direct=[lines.within_rows(causal)],
        read=lines.reads_of_columns(graph, column, abstraction, causal),
        origin=lines.origin("axial_rowmajor", causal, member),
        member=check_member(member, nodes),
        asker=torch.where(column < length[of_row], token, -1),
    )


def mixture(
    sizes: Sizes | Shape, width: int | None = None, *, causal: bool, member: Tensor | None = None
) -> tuple[Pair, Pair]:
    r"""Returns the vertical and the horizontal pair, whose attention is averaged: A = ½ (A_vertical + A_horizontal).

    Args:
        sizes, width, causal, member: as in `axial_vertical`.

    Returns:
        (axial_vertical(…), axial_horizontal(…)). Each covers the support once, and so does their mean.

    Raises:
        TypeError, ValueError: as `axial_vertical`.

    Source: Ren et al. 2021 (Combiner), sec. 4.3, Axial-Mixture, as the paper states it. The official code takes one
    softmax over row, column and the abstractions of both instead, where most sources count twice.

    >>> vertical, horizontal = mixture((4, 4), causal=True)
    >>> vertical.num_abstractions, horizontal.num_abstractions
    (12, 12)
    """
    return (
        axial_vertical(sizes, width, causal=causal, member=member),
        axial_horizontal(sizes, width, causal=causal, member=member),
    )


class _Lines(NamedTuple):
    """Tokens laid out row by row, each graph for itself."""

    nodes: Nodes
    label: str  # how `origin` writes them
    width: Tensor  # [num_graphs] int64, columns
    row_ptr: Tensor  # [num_graphs + 1] int64, rows of each graph among those of the batch
    column_ptr: Tensor  # the same for columns
    graph: Tensor  # [num_nodes] int64
    row: Tensor  # [num_nodes] int64, in its graph
    column: Tensor

    @property
    def here(self) -> Tensor:
        return torch.arange(self.nodes.num_nodes, device=self.nodes.device)

    @property
    def of_row(self) -> Tensor:
        """The row of each token among those of the batch."""
        return self.row_ptr[self.graph] + self.row

    @property
    def of_column(self) -> Tensor:
        return self.column_ptr[self.graph] + self.column

    def length(self) -> Tensor:
        """Returns how many tokens each row of the batch has."""
        return torch.bincount(self.of_row, minlength=int(self.row_ptr[-1]))

    def height(self) -> Tensor:
        """Returns how many tokens each column of the batch has."""
        return torch.bincount(self.of_column, minlength=int(self.column_ptr[-1]))

    def cells(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Lists graph, row and column of each cell of grids of so many rows, row by row."""
        graph, place = ragged_range(rows * self.width)
        row = torch.div(place, self.width[graph], rounding_mode="floor")
        return graph, row, place - row * self.width[graph]

    def within_rows(self, causal: bool) -> Blocks | None:
        prefix = self.column + 1 if causal else self.length()[self.of_row]
        return staircases(self.of_row, self.here, prefix, self.of_row, self.here)

    def row_and_column(self, causal: bool) -> list[Blocks | None]:
        parts = [
            self.within_rows(causal),
            staircases(self.of_column, self.here, self.row, self.of_column, self.here),
        ]
        if not causal:
            below = self.height()[self.of_column] - 1 - self.row
            parts.append(staircases(self.of_column, self.here, below, self.of_column.flip(0), self.here.flip(0)))
        return parts

    def reads_of_columns(self, graph: Tensor, column: Tensor, abstraction: Tensor, causal: bool) -> list[Blocks | None]:
        """Lets each token read the abstractions of its column, listed row by row, in rows above or in all others."""
        of_column = self.column_ptr[graph] + column
        parts = [staircases(self.of_column, self.here, self.row, of_column, abstraction)]
        if not causal:
            below = torch.diff(self.row_ptr)[self.graph] - 1 - self.row
            parts.append(staircases(self.of_column, self.here, below, of_column.flip(0), abstraction.flip(0)))
        return parts

    def origin(self, name: str, causal: bool, member: Tensor | None, more: str = "") -> str:
        return f"combiner.{name}({self.label}{options_of(causal, member)}{more})"


def _read_lines(sizes: Sizes | Shape, width: int | None) -> _Lines:
    is_shape = sizes.dim() == 2 if isinstance(sizes, Tensor) else not isinstance(sizes, int)
    if is_shape:
        cells = read_shape(sizes)  # type: ignore[arg-type]
        if cells.num_axes != 2:
            raise ValueError(
                f"an image must have two axes, got {cells.num_axes}. Pass (height, width), or a size with width=."
            )
        if width is not None:
            raise ValueError(f"width comes with the shape {cells.label}, got width={width} beside it. Leave it out.")
        nodes, label = cells.nodes, cells.label
        nodes = nodes if isinstance(sizes, Tensor) else nodes._replace(batch_ptr=None)
        of_graph = cells.shape[:, 1]
    else:
        if width is None:
            raise ValueError("width must say how many tokens a row has, got none. Near √n there are fewest edges.")
        check_count(width, "width", 1, "Use 1 for a single column.")
        nodes = nodes_of(sizes)  # type: ignore[arg-type]
        label = f"{nodes.label}, width={width}"
        of_graph = torch.full_like(nodes.ptr[1:], min(width, max(nodes.num_nodes, 1)))  # int64 cannot hold every int
    size = torch.diff(nodes.ptr)
    of_graph = torch.minimum(of_graph, size).clamp_(min=1)  # of a single short row, that row
    rows = torch.div(size + of_graph - 1, of_graph, rounding_mode="floor")
    graph = batch_of(nodes.ptr)
    place = torch.arange(nodes.num_nodes, device=nodes.device) - nodes.ptr[graph]
    row = torch.div(place, of_graph[graph], rounding_mode="floor")
    return _Lines(nodes, label, of_graph, node_ptr(rows), node_ptr(of_graph), graph, row, place - row * of_graph[graph])
