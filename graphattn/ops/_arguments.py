"""Checks the verb's arguments once and brings them into one form. Reads shapes and dtypes only, never values."""

import math
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from graphattn.graph import AttentionGraph
from graphattn.ops._impl.typed import rows_of_types

HALF = (torch.float16, torch.bfloat16)
Tables = Tensor | tuple[Tensor, Tensor]


class Terms(NamedTuple):
    """The verb's optional arguments in one form; per-edge tensors are [num_edges, 1] or [num_edges, num_heads]."""

    scale: float
    edge_bias: Tensor | None = None
    edge_gate: Tensor | None = None
    edge_attr: Tensor | None = None  # [num_edges, edge_dim]
    edge_key_weight: Tensor | None = None  # [num_heads, head_dim, edge_dim]
    edge_value_weight: Tensor | None = None  # [num_heads, value_dim, edge_dim]
    edge_type: Tensor | None = None  # [num_edges]; the per-edge tensors have a row per type, not per edge
    logit_clip: float | None = None
    dropout_p: float = 0.0
    seed: Tensor | None = None

    @property
    def reads_edges(self) -> bool:
        """Whether something is told per edge, so that positions of edges matter."""
        return self.dropout_p > 0 or any(x is not None for x in (self.edge_bias, self.edge_gate, self.edge_attr))

    def of_scores(self) -> "Terms":
        """Returns those that the weights depend on."""
        edge_attr = None if self.edge_key_weight is None else self.edge_attr
        return self._replace(edge_attr=edge_attr, edge_gate=None, edge_value_weight=None, dropout_p=0.0, seed=None)

    def listed(self, *, use_kernels: bool = False) -> "Terms":
        """Returns the same with a row for every edge, whatever its type; use_kernels as in `rows_of_types`."""
        bias, gate, attr = (self.of_edges(x, use_kernels) for x in (self.edge_bias, self.edge_gate, self.edge_attr))
        return self._replace(edge_type=None, edge_bias=bias, edge_gate=gate, edge_attr=attr)

    def of_edges(self, table: Tensor | None, use_kernels: bool = False) -> Tensor | None:
        """Returns one of them as `listed` has it."""
        if table is None or self.edge_type is None:
            return table
        return rows_of_types(table, self.edge_type, use_kernels=use_kernels)


def check_tables(
    query: Tensor, key: Tables, value: Tables, graph: AttentionGraph
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """Returns query, key, value, and keys and values of the sources after those, as `check_features` does, or raises.

    Raises:
        TypeError, ValueError: as `check_features`; if one of key and value is a pair and the other none.
    """
    if isinstance(key, Tensor) and isinstance(value, Tensor):
        return *check_features(query, key, value, graph), None
    if not (_is_pair(key) and _is_pair(value)):
        raise TypeError(
            "key and value must be two tensors, or two pairs of tensors whose rows follow each other, got "
            f"{type(key).__name__} and {type(value).__name__}. Join more than two tables with torch.cat."
        )
    (key, more_key), (value, more_value) = key, value
    for name, first, more in (("key", key, more_key), ("value", value, more_value)):
        if first.dim() != more.dim() or first.shape[1:] != more.shape[1:] or first.dtype != more.dtype:
            raise ValueError(
                f"{name} must be a pair of tensors alike but for their rows, got {list(first.shape)} {first.dtype} and "
                f"{list(more.shape)} {more.dtype}. Cast or reshape one of them."
            )
        _check_device(name, more, first)
    num_more = more_key.shape[0] if key.dim() else 0  # numbers without rows are refused below
    if key.dim() and value.dim() and (key.shape[0], num_more) != (value.shape[0], more_value.shape[0]):
        raise ValueError(
            f"value must have as many rows in each table as key, {key.shape[0]} and {num_more}, got "
            f"{value.shape[0]} and {more_value.shape[0]}. Cut both at the same source."
        )
    query, key, value = check_features(query, key, value, graph, num_more)
    return query, key, value, (more_key.to(key.dtype), more_value.to(value.dtype))


def joined_rows(rows: Tensor, more: Tensor | None) -> Tensor:
    """Returns rows and those that follow them in one tensor."""
    return rows if more is None else torch.cat([rows, more])


def _is_pair(tables: Tables) -> TypeGuard[tuple[Tensor, Tensor]]:
    return isinstance(tables, tuple) and len(tables) == 2 and all(isinstance(table, Tensor) for table in tables)


def check_features(
    query: Tensor, key: Tensor, value: Tensor, graph: AttentionGraph, num_more: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns query, key and value, cast to one dtype under autocast, or raises.

    Args:
        num_more: sources whose keys and values are not among the rows of `key` and `value`.

    Raises:
        TypeError, ValueError: wrong shapes, sizes or heads that do not fit the graph or each other, mixed dtypes or
            devices.
    """
    if not isinstance(graph, AttentionGraph):
        raise TypeError(
            f"graph must be an AttentionGraph, got {type(graph).__name__}. "
            "Make one with AttentionGraph.from_edge_index(edge_index, num_nodes) or graphattn.connectivity."
        )
    features = {"query": query, "key": key, "value": value}
    for name, tensor in features.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{name} must be a tensor, got {type(tensor).__name__}. Join tables with torch.cat: graph_attention "
                "alone takes keys and values in two each."
            )
        if tensor.dim() != 3:
            raise ValueError(
                f"{name} must have shape [num_nodes, num_heads, dim], got {list(tensor.shape)}. "
                "Split the heads with .view(num_nodes, num_heads, -1); join a batch with disjoint_union."
            )
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must have a floating dtype, got {tensor.dtype}. Call {name}.float().")
        num_nodes, side = (graph.num_dst_nodes, "dst") if name == "query" else (graph.num_src_nodes, "src")
        if tensor.shape[0] + (num_more if side == "src" else 0) != num_nodes:
            also = f" and {num_more}" if num_more and side == "src" else ""
            raise ValueError(
                f"{name} must have num_{side}_nodes = {num_nodes} rows, got {tensor.shape[0]}{also}. "
                "query has one row per target of the graph, key and value one per source."
            )
        if not tensor.shape[1] or query.shape[1] % tensor.shape[1]:
            raise ValueError(
                f"{name} must have a number of heads that divides query's {query.shape[1]}, got {tensor.shape[1]}. "
                "Grouped heads share a key among several queries."
            )
        _check_device(name, tensor, query)
    if graph.device != query.device:
        raise ValueError(
            f"graph must be on the device of query, {query.device}, got {graph.device}. Call graph.to(query.device)."
        )
    if query.shape[2] != key.shape[2]:
        raise ValueError(
            f"key must have query's head_dim {query.shape[2]}, got {key.shape[2]}. Project both to the same width."
        )
    if value.shape[1] != key.shape[1]:
        raise ValueError(
            f"value must have key's {key.shape[1]} heads, got {value.shape[1]}. Give each key head its value head."
        )
    head_mask = graph.plan().head_mask
    if head_mask is not None and head_mask.shape[1] != query.shape[1]:
        raise ValueError(
            f"query must have the {head_mask.shape[1]} heads of graph.head_mask, got {query.shape[1]}. "
            "Give the mask one column per head."
        )
    if len({tensor.dtype for tensor in features.values()}) > 1:
        if not torch.is_autocast_enabled(query.device.type):
            dtypes = ", ".join(str(tensor.dtype) for tensor in features.values())
            raise TypeError(
                f"query, key and value must have one dtype, got {dtypes}. Cast them, for example key.to(query.dtype)."
            )
        common = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(common), key.to(common), value.to(common)
    return query, key, value


def check_terms(
    query: Tensor,
    graph: AttentionGraph,
    *,
    value_dim: int | None = None,
    edge_bias: Tensor | None = None,
    edge_gate: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_key_weight: Tensor | None = None,
    edge_value_weight: Tensor | None = None,
    edge_type: Tensor | None = None,
    scale: float | None = None,
    logit_clip: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> Terms:
    """Returns the optional arguments in one form, in the dtype they are computed in, or raises."""
    num_heads, head_dim = query.shape[1:]
    compute = torch.float32 if query.dtype in HALF else query.dtype
    rows = _edge_rows(graph, query, edge_type, (edge_bias, edge_gate, edge_attr))
    per_edge = {}
    for name, tensor in (("edge_bias", edge_bias), ("edge_gate", edge_gate)):
        if tensor is not None:
            _check_edge_tensor(name, tensor, rows, query)
            if tensor.dim() > 2 or (tensor.dim() == 2 and tensor.shape[1] not in (1, num_heads)):
                raise ValueError(
                    f"{name} must have shape [num_edges], [num_edges, 1] or [num_edges, num_heads] with num_heads = "
                    f"{num_heads}, got {list(tensor.shape)}. Put edges first, heads last."
                )
            per_edge[name] = (tensor if tensor.dim() == 2 else tensor[:, None]).to(compute)
    if edge_attr is not None:
        _check_edge_tensor("edge_attr", edge_attr, rows, query)
        if edge_attr.dim() != 2:
            raise ValueError(
                f"edge_attr must have shape [num_edges, edge_dim], got {list(edge_attr.shape)}. "
                "Flatten the features of an edge."
            )
        if edge_key_weight is None and edge_value_weight is None:
            raise ValueError(
                "edge_attr needs edge_key_weight or edge_value_weight, got neither. "
                "Pass [num_heads, head_dim, edge_dim], or turn the features into an edge_bias."
            )
        edge_attr = edge_attr.to(compute)
    for name, weight, dim in (
        ("edge_key_weight", edge_key_weight, head_dim),
        ("edge_value_weight", edge_value_weight, value_dim),
    ):
        if weight is None:
            continue
        if edge_attr is None:
            raise ValueError(
                f"{name} needs edge_attr, got none. Pass edge_attr [num_edges, edge_dim] in the graph's edge order."
            )
        expected = [num_heads, dim, edge_attr.shape[1]]
        if list(weight.shape) != expected:
            raise ValueError(
                f"{name} must have shape [num_heads, dim, edge_dim] = {expected}, got {list(weight.shape)}. "
                "It maps edge_attr to each head's keys or values."
            )
        _check_device(name, weight, query)
    if logit_clip is not None and not logit_clip > 0:
        raise ValueError(f"logit_clip must be positive, got {logit_clip}. Leave it None for no clipping.")
    if not 0.0 <= dropout_p <= 1.0:
        raise ValueError(f"dropout_p must lie in [0, 1], got {dropout_p}. It is the probability of dropping a weight.")
    if seed is not None and (not isinstance(seed, Tensor) or seed.dtype != torch.int64 or seed.numel() != 1):
        got = f"{seed.dtype} {list(seed.shape)}" if isinstance(seed, Tensor) else type(seed).__name__
        raise ValueError(f"seed must be a tensor with one int64 number, got {got}. Pass torch.tensor(1234).")
    if dropout_p > 0 and seed is None:
        seed = torch.randint(2**63 - 1, (), device=query.device)
    return Terms(
        scale=1.0 / math.sqrt(max(head_dim, 1)) if scale is None else float(scale),
        edge_attr=edge_attr,
        edge_key_weight=None if edge_key_weight is None else edge_key_weight.to(compute),
        edge_value_weight=None if edge_value_weight is None else edge_value_weight.to(compute),
        edge_type=edge_type,
        logit_clip=None if logit_clip is None else float(logit_clip),
        dropout_p=float(dropout_p),
        seed=seed if dropout_p > 0 else None,
        **per_edge,
    )


def check_head_gate(head_gate: Tensor, query: Tensor) -> Tensor:
    """Returns head_gate [num_heads], or raises."""
    num_heads = query.shape[1]
    if head_gate.shape != (num_heads,):
        raise ValueError(
            f"head_gate must have shape [num_heads] = [{num_heads}], got {list(head_gate.shape)}. "
            "Index a model-wide gate with the layer first: gate[layer]."
        )
    _check_device("head_gate", head_gate, query)
    return head_gate


class _Rows(NamedTuple):
    """How many rows per-edge arguments have, and what these are."""

    number: int
    name: str
    advice: str


def _edge_rows(
    graph: AttentionGraph, query: Tensor, edge_type: Tensor | None, per_edge: tuple[Tensor | None, ...]
) -> _Rows:
    """Returns the rows that per-edge arguments must have: one per edge, or one per type."""
    # the plan's size is a symbol while compiling, the graph's a number
    num_edges = graph.num_edges if graph.blocks is not None else graph.plan().src.shape[0]
    if edge_type is None:
        return _Rows(
            num_edges,
            "num_edges",
            "Per-edge arguments follow graph.edge_index (target, then source): from_edge_index returns the order, "
            "graph.align carries values from another graph.",
        )
    given = [tensor for tensor in per_edge if tensor is not None]
    if not given:
        raise ValueError(
            "edge_type needs an edge_bias, edge_gate or edge_attr, got none. Pass one with a row for each type."
        )
    if edge_type.dtype != torch.int64 or edge_type.dim() != 1 or edge_type.shape[0] != num_edges:
        raise ValueError(
            f"edge_type must be int64 [num_edges] = [{num_edges}], got {edge_type.dtype} {list(edge_type.shape)}. "
            "It says which row of the per-edge arguments is an edge's own."
        )
    _check_device("edge_type", edge_type, query)
    number = given[0].shape[0] if given[0].dim() else 0
    return _Rows(number, "num_types", "With edge_type, per-edge arguments have a row per type, all as many.")


def _check_edge_tensor(name: str, tensor: Tensor, rows: _Rows, query: Tensor) -> None:
    if tensor.dim() < 1 or tensor.shape[0] != rows.number:
        raise ValueError(
            f"{name} must have {rows.name} = {rows.number} rows, got shape {list(tensor.shape)}. {rows.advice}"
        )
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must have a floating dtype, got {tensor.dtype}. Call {name}.to(query.dtype).")
    _check_device(name, tensor, query)


def _check_device(name: str, tensor: Tensor, query: Tensor) -> None:
    if tensor.device != query.device:
        raise ValueError(
            f"{name} must be on the device of query, {query.device}, got {tensor.device}. Call {name}.to(query.device)."
        )
