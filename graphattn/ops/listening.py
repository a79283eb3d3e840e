"""Who listens to attention: every call of the verb tells its weights to those who ask for them, and no signature
changes.

The verb asks whether somebody listens, which is all that it costs where nobody does. Modules that compute weights
themselves, by hand or in pooling, call `tell`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from graphattn.graph import AttentionGraph
from graphattn.ops.capability import is_transformed

KINDS = ("attention", "summary", "pool")
Receive = Callable[[Tensor], None]


class Call(NamedTuple):
    """What is told of one call; tensors are those of the call itself, on its device, to be copied by who keeps them."""

    kind: str  # "attention"; "summary", into nodes made inside the layer; "pool", into the nodes of the next level
    graph: AttentionGraph  # its edges listed
    alpha: Tensor  # [num_edges, num_heads], before dropout and gates; no gradient
    edge_gate: Tensor | None = None  # [num_edges, 1 or num_heads]
    head_gate: Tensor | None = None  # [num_heads]
    value: Tensor | None = None  # [num_src_nodes, num_key_heads, value_dim]
    # calls what it is given with d / d alpha, [num_edges, num_heads], at every backward; None without gradients
    on_gradient: Callable[[Receive], None] | None = None


class Listener(Protocol):
    """Somebody who listens."""

    def wants(self) -> bool:
        """Whether to compute weights for the call that is about to run; asked once a call."""

    def hear(self, call: Call) -> None:
        """Takes the weights of that call."""


class _Here(threading.local):
    """What is true in this thread; `__init__` runs in each, so that a compiled region has something to guard on."""

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self.kind = "attention"


_here = _Here()


@contextlib.contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Lets a listener hear every call that this thread makes inside the block.

    >>> import torch, graphattn as ga
    >>> class Printer:
    ...     def wants(self): return True
    ...     def hear(self, call): print(call.kind, call.alpha.flatten())
    >>> graph = ga.AttentionGraph(torch.tensor([[0, 1], [0, 0]]), num_src_nodes=2)
    >>> zeros = torch.zeros(2, 1, 3)
    >>> with listen(Printer()):
    ...     out = ga.graph_attention(zeros, zeros, zeros, graph)
    attention tensor([0.5000, 0.5000])
    """
    before = _here.listeners
    _here.listeners = (*before, listener)
    try:
        yield
    finally:
        _here.listeners = before


def is_listening() -> bool:
    """Returns whether somebody listens in this thread, so that a layer leaves nodes their own numbers."""
    return len(_here.listeners) > 0


def calls_are(kind: str) -> contextlib.AbstractContextManager[None]:
    """Says of the calls inside the block what they are, where they are no plain attention between nodes of the model.

    Args:
        kind: "summary", if their targets are nodes made inside the layer, which its last call reads after its own; or
            "pool", if their targets are the nodes of the next level.

    >>> with calls_are("summary"):
    ...     pass
    """
    _check_kind(kind)
    return _marking(kind) if is_listening() else contextlib.nullcontext()


def tell(
    graph: AttentionGraph,
    alpha: Tensor,
    *,
    kind: str = "attention",
    edge_gate: Tensor | None = None,
    head_gate: Tensor | None = None,
    value: Tensor | None = None,
) -> None:
    """Tells weights that a module computed itself, as `graph_attention` tells its own; nothing where nobody listens.

    Call it in the module's forward with the very tensor that is used there: the gradient told is that tensor's.

    Args:
        graph: who read whom.
        alpha: [num_edges, num_heads], or [num_edges] for one head, in the order of `graph.edge_index`.
        kind: "attention", "summary" or "pool", as in `calls_are`.
        edge_gate: [num_edges], [num_edges, 1] or [num_edges, num_heads], what weights are multiplied with beside.
        head_gate: [num_heads], what each head's output is multiplied with.
        value: [num_src_nodes, num_key_heads, value_dim], what is weighted.

    Raises:
        TypeError, ValueError: where somebody listens, for tensors that do not fit the graph.

    >>> import torch, graphattn as ga
    >>> class MeanPool(torch.nn.Module):
    ...     def forward(self, x, graph):  # nodes to a row per molecule
    ...         src, dst = graph.edge_index
    ...         share = 1.0 / torch.bincount(dst)[dst]
    ...         tell(graph, share, kind="pool")
    ...         return ga.ops.segment_sum(share[:, None] * x[src], dst, graph.num_dst_nodes)
    """
    listeners = willing()
    if not listeners:
        return
    _check_kind(kind)
    if not isinstance(graph, AttentionGraph):
        raise TypeError(f"graph must be an AttentionGraph, got {type(graph).__name__}. Say who read whom.")
    used, alpha = alpha, alpha if alpha.dim() != 1 else alpha[:, None]
    if alpha.dim() != 2 or alpha.shape[0] != graph.num_edges or not alpha.is_floating_point():
        raise ValueError(
            f"alpha must be floating [num_edges, num_heads] with num_edges = {graph.num_edges}, got {used.dtype} "
            f"{list(used.shape)}. It follows graph.edge_index (target, then source)."
        )
    num_heads = alpha.shape[1]
    if edge_gate is not None:
        edge_gate = edge_gate if edge_gate.dim() != 1 else edge_gate[:, None]
        if edge_gate.dim() != 2 or edge_gate.shape[0] != graph.num_edges or edge_gate.shape[1] not in (1, num_heads):
            raise ValueError(
                f"edge_gate must be [num_edges], [num_edges, 1] or [num_edges, num_heads] = {list(alpha.shape)}, got "
                f"{list(edge_gate.shape)}. It follows graph.edge_index."
            )
    if head_gate is not None and head_gate.shape != (num_heads,):
        raise ValueError(
            f"head_gate must have shape [num_heads] = [{num_heads}], got {list(head_gate.shape)}. Give one per head."
        )
    if value is not None and (
        value.dim() != 3 or value.shape[0] != graph.num_src_nodes or not value.shape[1] or num_heads % value.shape[1]
    ):
        raise ValueError(
            "value must be [num_src_nodes, num_key_heads, value_dim] with num_src_nodes = "
            f"{graph.num_src_nodes} and heads that divide {num_heads}, got {list(value.shape)}. Split the heads first."
        )

    def on_gradient(receive: Receive) -> None:
        used.register_hook(lambda grad: receive(grad.detach().view(alpha.shape)))

    call = Call(
        kind,
        graph.enumerate(),
        alpha.detach(),
        None if edge_gate is None else edge_gate.detach(),
        None if head_gate is None else head_gate.detach(),
        None if value is None else value.detach(),
        on_gradient if used.requires_grad else None,
    )
    announce(listeners, call)


def willing() -> tuple[Listener, ...]:
    """Returns those who want the call that is about to run.

    Raises:
        RuntimeError: inside a compiled region or a transform of `torch.func`, where no weight can be told.
    """
    if not _here.listeners:
        return ()
    if torch.compiler.is_compiling():
        raise RuntimeError(
            "attention cannot be recorded inside a compiled region. Record the uncompiled module: model._orig_mod of "
            "what torch.compile returned."
        )
    if is_transformed():
        raise RuntimeError(
            "attention cannot be recorded inside torch.func transforms or forward-mode derivatives. Record an "
            "ordinary call of the model; a batch is joined by disjoint_union."
        )
    return tuple(listener for listener in _here.listeners if listener.wants())


def announce(listeners: tuple[Listener, ...], call: Call) -> None:
    """Tells those who want a call; a plain one is of the kind that the block around it says."""
    if call.kind == "attention":
        call = call._replace(kind=_here.kind)
    for listener in listeners:
        listener.hear(call)


@contextlib.contextmanager
def _marking(kind: str) -> Iterator[None]:
    before, _here.kind = _here.kind, kind
    try:
        yield
    finally:
        _here.kind = before


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}. Check the spelling.")
