"""The graph networks that people train on molecules today, made of PyG's parts, behind our trainer's `network` seat.

    graphattn train --config ogbg-molesol --network baselines:GIN --inputs.edges bonds      # in benchmarks/

They read a `GraphBatch` whose graph is the bonds, so that data, splits, loss, optimizer, schedule, early stopping and
evaluation are those of our model. Sizes come from the same configuration: embed_dim, num_layers, num_heads, dropout_p,
readout, num_walks.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ogb.graphproppred.mol_encoder import AtomEncoder, BondEncoder
from torch import Tensor, nn
from torch_geometric.nn import GINEConv, GPSConv, global_add_pool, global_mean_pool

from graphattn.inputs import GraphBatch
from graphattn.models import GraphTransformerConfig
from graphattn.nn import PositionEncoder

POOL = {"sum": global_add_pool, "mean": global_mean_pool}


class Encoder(nn.Module):
    """OGB's atom encoder, with random-walk positions added where the configuration has them."""

    def __init__(self, config: GraphTransformerConfig):
        super().__init__()
        self.atoms = AtomEncoder(config.embed_dim)
        walks = config.num_walks
        self.positions = PositionEncoder(walks, 0, config.embed_dim) if walks else None

    def forward(self, batch: GraphBatch) -> Tensor:
        assert batch.graph.kinds == ("bond",), f"these networks read bonds alone, got {batch.graph.kinds}"
        x = self.atoms(batch.x)
        return x if self.positions is None else x + self.positions(batch.positions, batch.batch, batch.num_graphs)


class GIN(nn.Module):
    """GIN with edge features and a virtual node, layer by layer as in OGB's own examples (Hu et al. 2020, and
    examples/graphproppred/mol of the ogb repository), on PyG's `GINEConv`."""

    def __init__(self, config: GraphTransformerConfig):
        super().__init__()
        dim, depth = config.embed_dim, config.num_layers
        self.encoder = Encoder(config)
        self.bonds = nn.ModuleList(BondEncoder(dim) for _ in range(depth))
        self.convs = nn.ModuleList(GINEConv(_mlp(dim), train_eps=True) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(dim) for _ in range(depth))
        self.virtual = nn.Embedding(1, dim)
        nn.init.zeros_(self.virtual.weight)
        self.virtual_updates = nn.ModuleList(
            nn.Sequential(_mlp(dim), nn.BatchNorm1d(dim), nn.ReLU(), nn.Dropout(config.dropout_p))
            for _ in range(depth - 1)
        )
        self.dropout = nn.Dropout(config.dropout_p)
        self.pool = POOL[config.readout]
        self.head = nn.Linear(dim, config.num_tasks)

    def forward(self, batch: GraphBatch) -> Tensor:
        with _norms_of(self, batch):
            return self.head(self.pool(self._mixed(batch), batch.batch, batch.num_graphs))

    def _mixed(self, batch: GraphBatch) -> Tensor:
        x, depth = self.encoder(batch), len(self.convs)
        virtual = self.virtual.weight.expand(batch.num_graphs, -1)
        for layer in range(depth):
            x = x + virtual[batch.batch]
            new = self.norms[layer](self.convs[layer](x, batch.graph.edge_index, self.bonds[layer](batch.edge_attr)))
            is_last = layer == depth - 1
            new = self.dropout(new if is_last else new.relu())
            if not is_last:
                virtual = self.virtual_updates[layer](global_add_pool(x, batch.batch, batch.num_graphs) + virtual)
            x = new
        return x


class GPS(nn.Module):
    """PyG's `GPSConv` over `GINEConv`, four heads of attention inside each molecule, as in PyG's own example."""

    def __init__(self, config: GraphTransformerConfig):
        super().__init__()
        dim = config.embed_dim
        self.encoder = Encoder(config)
        self.bonds = BondEncoder(dim)
        self.convs = nn.ModuleList(
            GPSConv(dim, GINEConv(_mlp(dim, hidden=dim)), heads=config.num_heads, dropout=config.dropout_p)
            for _ in range(config.num_layers)
        )
        self.pool = POOL[config.readout]
        self.head = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(config.dropout_p), nn.Linear(dim, config.num_tasks)
        )

    def forward(self, batch: GraphBatch) -> Tensor:
        x, bonds = self.encoder(batch), self.bonds(batch.edge_attr)
        with _norms_of(self, batch):
            for conv in self.convs:
                x = conv(x, batch.graph.edge_index, batch.batch, edge_attr=bonds)
        return self.head(self.pool(x, batch.batch, batch.num_graphs))


@contextmanager
def _norms_of(model: nn.Module, batch: GraphBatch) -> Iterator[None]:
    """Inside, norms use running statistics for a batch of one graph: of its virtual node, or of a single atom, there
    are none. OGB's examples skip such a batch; here every model trains on the same ones."""
    norms = [norm for norm in model.modules() if isinstance(norm, nn.BatchNorm1d) and norm.training]
    alone = norms if batch.num_graphs == 1 else []
    for norm in alone:
        norm.eval()
    try:
        yield
    finally:
        for norm in alone:
            norm.train()


def _mlp(dim: int, hidden: int | None = None) -> nn.Module:
    hidden = hidden or 2 * dim
    return nn.Sequential(nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim))
