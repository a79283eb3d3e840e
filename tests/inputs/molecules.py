"""Random records that look like OGB's molecules: a tree of atoms, a ring or two, bonds in both directions."""

import torch
from torch import Tensor
from torch_geometric.data import Data

from graphattn.nn import OGB_ATOM_DIMS, OGB_BOND_DIMS


def categories(num_rows: int, dims: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.stack([torch.randint(dim, (num_rows,), generator=generator) for dim in dims], 1)


def molecule(num_atoms: int, seed: int = 0, **fields: object) -> Data:
    """A connected molecule; two directions of a bond carry the same features."""
    generator = torch.Generator().manual_seed(seed * 1009 + num_atoms)
    bonds = {(int(torch.randint(max(i - 3, 0), i, (), generator=generator)), i) for i in range(1, num_atoms)}
    bonds |= {(i, i + 5) for i in range(0, num_atoms - 5, 7)}
    one_way = torch.tensor(sorted(bonds), dtype=torch.int64).view(-1, 2).T
    attr = categories(one_way.shape[1], OGB_BOND_DIMS, generator)
    return Data(
        x=categories(num_atoms, OGB_ATOM_DIMS, generator),
        edge_index=torch.cat([one_way, one_way.flip(0)], 1),
        edge_attr=torch.cat([attr, attr]),
        y=torch.randn(1, 1, generator=generator),
        **fields,
    )


def permuted(data: Data, order: Tensor) -> Data:
    """The same molecule renumbered: new atom k is old atom order[k], and bonds are listed in another order."""
    place = torch.argsort(order)
    listed = torch.randperm(data.edge_index.shape[1], generator=torch.Generator().manual_seed(5))
    return Data(
        x=data.x[order],
        edge_index=place[data.edge_index][:, listed],
        edge_attr=data.edge_attr[listed],
        y=data.y,
    )
