"""What each token of a Combiner reads, by loops over the definitions, and the same read off a pair of graphs."""

from collections.abc import Callable

import torch

from graphattn.connectivity import combiner
from graphattn.connectivity.combiner import Pair

# of one token: what it reads directly, and its abstractions: members, and the token that asks, None for the pooled one
Reads = tuple[set[int], list[tuple[frozenset[int], int | None]]]
Rule = Callable[[int, int, bool], Reads]  # token, number of tokens, causal


def fixed(segment: int) -> Rule:
    def reads(i: int, n: int, causal: bool) -> Reads:
        own = i // segment
        direct = {j for j in range(n) if j // segment == own and (j <= i or not causal)}
        others = [r for r in range((n - 1) // segment + 1) if (r < own if causal else r != own)]
        return direct, [(frozenset(j for j in range(n) if j // segment == r), None) for r in others]

    return reads


def log_sparse(i: int, n: int, causal: bool) -> Reads:
    direct, spans = {i}, []
    for t in range(n.bit_length() + 1):
        half = i >> t
        sibling = half ^ 1
        span = frozenset(j for j in range(n) if j >> t == sibling)
        if not span or (causal and sibling > half):
            continue
        if t == 0:
            direct |= span
        else:
            spans.append((span, None))
    return direct, spans


def axial(variant: str, width: int) -> Rule:
    def reads(i: int, n: int, causal: bool) -> Reads:
        row, column = divmod(i, width)
        grid = {(j // width, j % width): j for j in range(n)}
        rows, columns = (n - 1) // width + 1, min(width, n)

        def seen(r: int, c: int) -> bool:
            return not causal or grid[r, c] <= i

        if variant == "rowmajor":
            direct = {j for (r, c), j in grid.items() if r == row and seen(r, c)}
        else:
            direct = {j for (r, c), j in grid.items() if (r == row or c == column) and seen(r, c)}
        abstractions = []
        if variant == "vertical":
            for other in range(columns):
                members = [j for (r, c), j in grid.items() if c == other and (r < row if causal else r != row)]
                if other != column:
                    abstractions.append((frozenset(members), None))
        else:
            for other in range(rows):
                if other >= row if causal else other == row:
                    continue
                of_row = {c: j for (r, c), j in grid.items() if r == other}
                if variant == "rowmajor":
                    abstractions.append((frozenset(of_row.values()), of_row.get(column)))
                elif variant == "horizontal":
                    abstractions.append((frozenset(j for c, j in of_row.items() if c != column), None))
                else:
                    abstractions.append((frozenset(j for c, j in of_row.items() if c < column), None))
                    abstractions.append((frozenset(j for c, j in of_row.items() if c > column), None))
        return direct, [(members, asker) for members, asker in abstractions if members]

    return reads


def clusters(label: Callable[[int], int]) -> Rule:
    def reads(i: int, n: int, causal: bool) -> Reads:
        seen = range(i + 1 if causal else n)
        if label(i) < 0:
            return set(), []
        direct = {j for j in seen if label(j) == label(i)}
        others = sorted({label(j) for j in seen} - {label(i)})
        return direct, [(frozenset(j for j in seen if label(j) == r), None) for r in others if r >= 0]

    return reads


def modulo(n: int | torch.Tensor, number: int) -> torch.Tensor:
    sizes = n if isinstance(n, torch.Tensor) else torch.tensor([n])
    return torch.cat([torch.arange(int(size)) * 5 % number - 1 for size in sizes] or [torch.zeros(0).long()])


# name → what a token reads, and the builder
VARIANTS: dict[str, tuple[Rule, Callable[..., Pair]]] = {
    "fixed 1": (fixed(1), lambda n, **o: combiner.fixed(n, segment=1, **o)),
    "fixed 3": (fixed(3), lambda n, **o: combiner.fixed(n, segment=3, **o)),
    "fixed 40": (fixed(40), lambda n, **o: combiner.fixed(n, segment=40, **o)),
    "log_sparse": (log_sparse, combiner.log_sparse),
    "vertical 1": (axial("vertical", 1), lambda n, **o: combiner.axial_vertical(n, 1, **o)),
    "vertical 5": (axial("vertical", 5), lambda n, **o: combiner.axial_vertical(n, 5, **o)),
    "horizontal 1": (axial("horizontal", 1), lambda n, **o: combiner.axial_horizontal(n, 1, **o)),
    "horizontal 5": (axial("horizontal", 5), lambda n, **o: combiner.axial_horizontal(n, 5, **o)),
    "horizontal split": (axial("split", 4), lambda n, **o: combiner.axial_horizontal(n, 4, split=True, **o)),
    "rowmajor 1": (axial("rowmajor", 1), lambda n, **o: combiner.axial_rowmajor(n, 1, **o)),
    "rowmajor 5": (axial("rowmajor", 5), lambda n, **o: combiner.axial_rowmajor(n, 5, **o)),
    "clusters": (clusters(lambda j: j * 5 % 4 - 1), lambda n, **o: combiner.clusters(n, modulo(n, 4), **o)),
}


def reads_of(pair: Pair) -> list[Reads]:
    """What each token reads, in the numbers of the batch."""
    summarise, attend = pair
    num_nodes = summarise.num_src_nodes
    members: list[set[int]] = [set() for _ in range(summarise.num_dst_nodes)]
    for src, dst in summarise.edge_index.T.tolist():
        members[dst].add(src)
    found: list[Reads] = [(set(), []) for _ in range(num_nodes)]
    for src, dst in attend.edge_index.T.tolist():
        if src < num_nodes:
            found[dst][0].add(src)
        else:
            asker = -1 if pair.asker is None else int(pair.asker[src - num_nodes])
            found[dst][1].append((frozenset(members[src - num_nodes]), None if asker < 0 else asker))
    return found
