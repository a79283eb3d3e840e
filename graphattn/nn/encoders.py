"""Encoders: what is known of nodes and edges (categories, positions, distances, kinds) as features a layer can add."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

# ogb 1.3.6, ogb.utils.features.get_atom_feature_dims / get_bond_feature_dims: atomic number, chirality, degree, formal
# charge, hydrogens, radical electrons, hybridization, is aromatic, is in a ring; bond type, stereo, is conjugated
OGB_ATOM_DIMS = (119, 5, 12, 12, 10, 6, 6, 2, 2)
OGB_BOND_DIMS = (5, 6, 2)
# On a CPU, up to this many categories: a product with zeros and ones. It reads less than a lookup of every feature, and
# its backward is a product too, where that of a lookup adds up row by row.
WIDEST_PRODUCT = 512


class CategoryEncoder(nn.Module):
    """Sums one learned embedding per categorical feature, as OGB's AtomEncoder and BondEncoder do.

    Args:
        dims: number of categories of each feature.
        embed_dim: width of the embeddings.

    Raises:
        ValueError: if a number of categories is not positive.

    Source: Hu et al. 2020 (OGB), the reference encoders of `ogb.graphproppred.mol_encoder`. Their tables stand here one
    below the other in a single one, `embedding`, so that a single lookup serves all features.

    >>> CategoryEncoder(OGB_BOND_DIMS, embed_dim=4)(torch.zeros(7, 3, dtype=torch.int64)).shape
    torch.Size([7, 4])
    """

    offset: Tensor
    dims: Tensor

    def __init__(self, dims: Sequence[int], embed_dim: int):
        super().__init__()
        if not dims or min(dims) < 1:
            raise ValueError(
                f"dims must hold at least one number of categories, each at least 1, got {list(dims)}. "
                "Give one per feature."
            )
        self.register_buffer("offset", torch.tensor([0, *dims[:-1]]).cumsum(0), persistent=False)
        self.register_buffer("dims", torch.tensor(dims), persistent=False)
        self.embedding = nn.Embedding(sum(dims), embed_dim)
        for table in self.embedding.weight.split(list(dims)):
            nn.init.xavier_uniform_(table)

    def forward(self, categories: Tensor) -> Tensor:
        """Encodes integers [num_rows, num_features] as [num_rows, embed_dim].

        Raises:
            TypeError, ValueError: if there are other features, no integers, or (on the CPU) no such category. Elsewhere
                an unknown category stops the device, as it does in `nn.Embedding`.
        """
        num_features = self.offset.numel()
        if categories.dim() != 2 or categories.shape[1] != num_features:
            raise ValueError(
                f"categories must have shape [num_rows, {num_features}], got {list(categories.shape)}. "
                "CategoryEncoder(dims=...) names one number of categories per feature."
            )
        if categories.is_floating_point():
            raise TypeError(
                f"categories must be integers, got {categories.dtype}. For features that are numbers use NumberEncoder."
            )
        is_known = (categories >= 0) & (categories < self.dims)
        if not torch.compiler.is_compiling() and categories.device.type == "cpu" and not bool(is_known.all()):
            row, feature = (~is_known).nonzero()[0].tolist()
            raise ValueError(
                f"categories must lie in [0, {int(self.dims[feature])}) for feature {feature}, got "
                f"{int(categories[row, feature])} in row {row}. Raise dims[{feature}], or map what is rare to one."
            )
        # an unknown one must not read the next feature's table
        place = torch.where(is_known, categories + self.offset, self.embedding.num_embeddings)
        if self.embedding.num_embeddings > WIDEST_PRODUCT or categories.device.type != "cpu":
            return self.embedding(place).sum(1)
        weight = self.embedding.weight
        return _product(weight.new_zeros(len(place), len(weight)).scatter_(1, place, 1.0), weight)


class NumberEncoder(nn.Linear):
    """Maps features that are numbers, of any dtype, to [num_rows, out_features]; as `nn.Linear` in all else."""

    def forward(self, numbers: Tensor) -> Tensor:
        if numbers.dim() != 2 or numbers.shape[1] != self.in_features:
            raise ValueError(
                f"features must have shape [num_rows, {self.in_features}], got {list(numbers.shape)}. "
                "NumberEncoder(in_features, ...) says how many there are."
            )
        return super().forward(numbers.to(self.weight.dtype))


class NodeNorm(nn.BatchNorm1d):
    """Batch normalization over nodes. A batch of a single node, whose variance is unknown, takes the running one."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.shape[0] > 1:
            return super().forward(x)
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class PositionEncoder(nn.Module):
    """Maps positional encodings, random walks, Laplacian eigenvectors and singular vectors, to features.

    All are of order one and enter as they are: normalizing columns would blow up those that are nearly always zero,
    such as returns in an odd number of steps, which need an odd ring. Eigenvectors are defined up to sign, and so is a
    pair of left and right singular vectors: in training the sign of each, that of a pair as one, is flipped at random,
    per graph.

    Args:
        num_walks: columns of random-walk return probabilities.
        num_eigenvectors: columns of Laplacian eigenvectors, after the walks.
        embed_dim: width of the output.
        num_singular: pairs of singular vectors of the adjacency, last, all left ones before all right ones.

    Raises:
        ValueError: if there is no column at all.

    Source: Dwivedi & Bresson 2020, sec. 2 (sign flips of Laplacian eigenvectors), Dwivedi et al. 2022 (random walks),
    Hussain et al. 2022 (EGT, singular vectors with random signs).

    >>> PositionEncoder(num_walks=3, num_eigenvectors=2, embed_dim=4)(torch.rand(7, 5), torch.zeros(7).long(), 1).shape
    torch.Size([7, 4])
    """

    def __init__(self, num_walks: int, num_eigenvectors: int, embed_dim: int, num_singular: int = 0):
        super().__init__()
        if min(num_walks, num_eigenvectors, num_singular) < 0 or not num_walks + num_eigenvectors + num_singular:
            also = f" and num_singular = {num_singular}" if num_singular else ""
            raise ValueError(
                f"positions must have at least one column, got num_walks = {num_walks} and num_eigenvectors = "
                f"{num_eigenvectors}{also}. Leave the encoder out where there are none."
            )
        self.num_walks, self.num_eigenvectors, self.num_singular = num_walks, num_eigenvectors, num_singular
        self.proj = nn.Linear(num_walks + num_eigenvectors + 2 * num_singular, embed_dim)

    def forward(self, positions: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """Encodes [num_nodes, num_walks + num_eigenvectors + 2 num_singular] as [num_nodes, embed_dim].

        Args:
            positions: walks first, then eigenvectors.
            batch: int64 [num_nodes], the graph of each node.
            num_graphs: number of graphs.
        """
        if positions.shape[1:] != (self.proj.in_features,):
            columns = f"{self.num_walks} + {self.num_eigenvectors}"
            columns += f" + 2 · {self.num_singular}" if self.num_singular else ""
            raise ValueError(
                f"positions must have shape [num_nodes, {columns}], got {list(positions.shape)}. Collate with the same "
                "num_walks, num_eigenvectors and num_singular."
            )
        positions = positions.to(self.proj.weight.dtype)
        num_signs = self.num_eigenvectors + self.num_singular
        if self.training and num_signs:
            walks, vectors = positions[:, : self.num_walks], positions[:, self.num_walks :]
            sign = torch.randint(0, 2, (num_graphs, num_signs), device=positions.device) * 2 - 1
            sign = torch.cat([sign, sign[:, self.num_eigenvectors :]], 1)  # one of a left vector and its right one
            positions = torch.cat([walks, vectors * sign[batch]], 1)
        return self.proj(positions)


class DistanceEncoder(nn.Module):
    """Learns a vector for each hop distance; with one number per head it is Graphormer's spatial bias.

    Args:
        max_hops: longest distance told apart.
        embed_dim: width of the vectors.

    Source: Ying et al. 2021 (Graphormer), sec. 3.1.2. Here all longer distances share a vector, as do virtual nodes.
    """

    def __init__(self, max_hops: int, embed_dim: int):
        super().__init__()
        self.embedding = nn.Embedding(max_hops + 3, embed_dim)  # virtual, 0 … max_hops, farther
        nn.init.normal_(self.embedding.weight, std=0.2)

    def forward(self, distance: Tensor) -> Tensor:
        """Encodes int64 [num_edges] as [num_edges, embed_dim]; −1 is for virtual nodes, max_hops + 1 for farther."""
        return self.embedding(distance + 1)


class KindEncoder(nn.Module):
    """Learns a vector for each kind of edge; an edge of several kinds has their sum.

    Args:
        kinds: names of the kinds.
        embed_dim: width of the vectors.

    >>> KindEncoder(("bond", "full"), embed_dim=4)(torch.tensor([1, 2, 3], dtype=torch.int16), ("full", "bond")).shape
    torch.Size([3, 4])
    """

    def __init__(self, kinds: Sequence[str], embed_dim: int):
        super().__init__()
        self.kinds = tuple(kinds)
        self.weight = nn.Parameter(torch.randn(len(self.kinds), embed_dim) * 0.2)

    def forward(self, edge_kind: Tensor, kinds: tuple[str, ...]) -> Tensor:
        """Encodes bitmasks [num_edges] into `kinds`, a graph's `edge_kind` and `kinds`, as [num_edges, embed_dim].

        Raises:
            ValueError: if the graph has a kind that this encoder does not know.
        """
        for kind in kinds:
            if kind not in self.kinds:
                raise ValueError(
                    f"the graph has edges of kind {kind!r}, this encoder knows {', '.join(self.kinds) or 'none'}. "
                    "Name every part of the attention graph in kinds."
                )
        has = (edge_kind[:, None] >> torch.arange(len(kinds), device=edge_kind.device)) & 1  # [num_edges, num_kinds]
        row = [self.kinds.index(kind) for kind in kinds]
        weight = torch.cat([self.weight[:0], *(self.weight[i : i + 1] for i in row)])
        return _product(has.to(weight.dtype), weight)


class VirtualNodeEncoder(nn.Module):
    """Gives virtual nodes embeddings of their own, in place of what an encoder of nodes made of their empty features.

    Args:
        num_virtual: virtual nodes of each graph.
        embed_dim: width of the embeddings.

    Source: Hu et al. 2020 (OGB), the virtual node of the reference models, which starts from an embedding as well.
    """

    def __init__(self, num_virtual: int, embed_dim: int):
        super().__init__()
        self.embedding = nn.Embedding(num_virtual, embed_dim)
        nn.init.normal_(self.embedding.weight, std=0.2)

    def forward(self, h: Tensor, virtual: Tensor) -> Tensor:
        """Replaces rows of h [num_nodes, embed_dim] where `virtual` [num_nodes] is v > 0 by embedding v − 1."""
        return torch.where(virtual[:, None] > 0, self.embedding((virtual - 1).clamp(min=0)), h)


class VirtualEdgeEncoder(nn.Module):
    """Gives edges at virtual nodes states of their own, in place of what an encoder of edges made of them.

    An edge between virtual node a and a node of the data, in either direction, has the vector of a; one between virtual
    nodes a and b the mean of both vectors.

    Args:
        num_virtual: virtual nodes of each graph.
        edge_dim: width of the vectors.

    Source: Hussain et al. 2022 (EGT), the virtual nodes of their PyTorch code.

    >>> encoder = VirtualEdgeEncoder(num_virtual=1, edge_dim=4)
    >>> virtual, edge_index = torch.tensor([0, 0, 1]), torch.tensor([[0, 2, 1], [1, 1, 2]])
    >>> encoder(torch.zeros(3, 4), virtual, edge_index).ne(0).any(1)
    tensor([False,  True,  True])
    """

    def __init__(self, num_virtual: int, edge_dim: int):
        super().__init__()
        self.embedding = nn.Embedding(num_virtual, edge_dim)
        nn.init.normal_(self.embedding.weight, std=0.2)

    def forward(
        self, edge_attr: Tensor, virtual: Tensor, edge_index: Tensor, edge_type: Tensor | None = None
    ) -> Tensor:
        """Returns [num_edges, edge_dim], rows of `edge_attr` but at virtual nodes.

        Args:
            edge_attr: [num_edges, edge_dim], or [num_types, edge_dim] with `edge_type`.
            virtual: int64 [num_nodes], v for a virtual node v, 0 for a node of the data.
            edge_index: int64 [2, num_edges].
            edge_type: int64 [num_edges], the row of `edge_attr` of each edge.
        """
        weight = self.embedding.weight
        num_ends = weight.shape[0] + 1  # 0 for an end that is a node of the data
        is_data = torch.eye(num_ends, 1, dtype=weight.dtype, device=weight.device)
        ends = functional.pad(weight, (0, 0, 1, 0))
        count = (2 - is_data - is_data.T).clamp(min=1)
        pairs = ((ends[:, None] + ends[None]) / count[:, :, None]).flatten(0, 1)  # [num_ends ** 2, edge_dim]
        pair = virtual[edge_index[0]] * num_ends + virtual[edge_index[1]]
        own = torch.arange(pair.numel(), device=pair.device) if edge_type is None else edge_type
        place = torch.where(pair > 0, edge_attr.shape[0] + pair, own)
        return functional.embedding(place, torch.cat([edge_attr, pairs.to(edge_attr.dtype)]))


def _product(has: Tensor, weight: Tensor) -> Tensor:
    """Sums rows of `weight`, in full precision under autocast too: every layer reads the result."""
    with torch.autocast(has.device.type, enabled=False):
        return has @ weight
