"""Records the attention of a model: who read whom in a forward pass, and how much, without any change of the model."""

from __future__ import annotations

import contextlib
import difflib
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from graphattn.graph import AttentionGraph
from graphattn.graph.plan import pointers
from graphattn.ops.listening import Call, listen
from graphattn.viz.recording import Part, Recording, Step, offsets_of, part_of


@contextlib.contextmanager
def record(
    model: nn.Module,
    layers: str | int | Sequence[str | int] | None = None,
    heads: int | Sequence[int] | None = None,
    graphs: int | Sequence[int] | None = None,
    top_edges: int | None = None,
) -> Iterator[Recording]:
    """Collects the weights of every call of attention, with their graphs, while `model(...)` runs inside the block.

    Whatever module calls `graph_attention` is heard, under its own name, with any implementation; so are those that
    tell weights of their own (`graphattn.ops.listening.tell`). Outputs are the same as without. Of several calls of the
    model the last one counts. A backward of it, inside the block or after it, adds `gradient` to each step; with
    activation checkpointing call it inside. Only calls of this thread are heard.

    Args:
        model: uncompiled.
        layers: names of modules, with what is inside them, or numbers, counted from 0 in the order in which modules
            call attention; None for all. Weights of the others are not computed.
        heads: numbers of heads, the same in every layer; None for all.
        graphs: numbers of examples in the batch; None for all. The recording numbers those that it holds from 0.
        top_edges: keep, of the edges into a target, those among the `top_edges` strongest of some recorded head, with
            the weights of all recorded heads; what share of weight they carry is in `kept`. A layer's weights are then
            held whole only while that layer runs.

    Yields:
        the `Recording`, filled when the call has ended.

    Raises:
        TypeError, ValueError: for a choice that cannot be; at the end also for chosen layers without attention.
        RuntimeError: for a compiled model; at the end where nothing was recorded, with the reason.

    >>> import graphattn as ga
    >>> layer = ga.nn.GraphAttention(embed_dim=8, num_heads=2)
    >>> with record(layer) as recording, torch.no_grad():
    ...     y = layer(torch.zeros(5, 8), ga.connectivity.sliding_window(5, radius=1))
    >>> recording.alphas()[0].shape
    torch.Size([13, 2])
    """
    recorder = _Recorder(model, _Choice.checked(model, layers, heads, graphs, top_edges))
    with contextlib.ExitStack() as hooks:
        recorder.attach(hooks)
        hooks.enter_context(listen(recorder))
        yield recorder.recording
    recorder.check_heard()


@dataclass(frozen=True)
class _Choice:
    """What is to be recorded."""

    layers: tuple[str | int, ...] | None
    heads: tuple[int, ...] | None
    graphs: tuple[int, ...] | None
    top_edges: int | None

    @classmethod
    def checked(cls, model: nn.Module, layers: Any, heads: Any, graphs: Any, top_edges: int | None) -> _Choice:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}. Record the module itself.")
        _refuse_compiled(model)
        if top_edges is not None and (isinstance(top_edges, bool) or not isinstance(top_edges, int) or top_edges < 1):
            raise ValueError(f"top_edges must be an int of at least 1, got {top_edges!r}. None keeps all edges.")
        if layers is not None:
            layers = (layers,) if isinstance(layers, str | int) else tuple(layers)
            if not layers:
                raise ValueError("layers must name at least one layer, got none. None records all.")
            names = [name for name, _ in model.named_modules()]
            for layer in layers:
                if isinstance(layer, str) and layer not in names:
                    near = difflib.get_close_matches(layer, names, n=1)
                    raise ValueError(
                        f"layers must name modules of the model, got {layer!r}. "
                        + (f"Did you mean {near[0]!r}?" if near else "model.named_modules() lists them.")
                    )
            if by_number := [layer for layer in layers if not isinstance(layer, str)]:
                _numbers("layers", by_number)
        return cls(
            layers,
            None if heads is None else _numbers("heads", heads),
            None if graphs is None else _numbers("graphs", graphs),
            top_edges,
        )

    def layer_of(self, number: int, name: str) -> list[str | int]:
        """Returns which of the chosen layers a module is, or is inside of."""

        def is_it(layer: str | int) -> bool:
            return layer == number or (isinstance(layer, str) and f"{name}.".startswith(f"{layer}." if layer else ""))

        return [layer for layer in self.layers or () if is_it(layer)]


@dataclass(eq=False)
class _Running:
    """A module whose forward runs."""

    name: str
    module: nn.Module
    layer: int | None = None  # its number among those that called attention
    num_calls: int = 0
    summaries: tuple[AttentionGraph, ...] = ()


class _Recorder:
    """Listens, and knows from hooks which module runs. Once `record` has ended, only gradients still arrive."""

    def __init__(self, model: nn.Module, choice: _Choice):
        self.recording = Recording()
        self._model, self._choice = model, choice
        self._thread = threading.get_ident()
        self._running: list[_Running] = []  # innermost last
        self._has_started = self._has_ended = False
        self._heard: list[str] = []  # names of modules that called attention, by the number of their layer
        self._found: set[str | int] = set()  # of the chosen layers
        self._graphs: dict[int, tuple[weakref.ref, AttentionGraph]] = {}  # by identity of what was told

    def attach(self, hooks: contextlib.ExitStack) -> None:
        """Hooks every module but those of torch itself, which call no attention of ours."""
        for name, module in self._model.named_modules():
            if module is self._model:
                hooks.callback(module.register_forward_hook(self._end).remove)
            elif _is_torchs(module):
                continue
            hooks.callback(module.register_forward_pre_hook(partial(self._enter, name)).remove)
            hooks.callback(module.register_forward_hook(self._leave, always_call=True).remove)

    def _is_elsewhere(self) -> bool:
        """Whether a hook runs in another thread, or in a compiled region, where the verb says what is wrong."""
        return torch.compiler.is_compiling() or threading.get_ident() != self._thread

    def _enter(self, name: str, module: nn.Module, inputs: Any) -> None:
        if self._is_elsewhere():
            return
        if module is self._model:
            self._running = []  # an interrupt leaves what it interrupted
            self._has_started, self._has_ended = True, False
            self._heard, self._found = [], set()
            self.recording._steps, self.recording._num_left_out, self._graphs = [], 0, {}
        elif not self._running:
            return  # a part of the model runs alone: a backward computes it again, or somebody calls it by itself
        self._running.append(_Running(name, module))

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._is_elsewhere() or all(running.module is not module for running in self._running):
            return
        while self._running.pop().module is not module:
            pass
        if module is self._model and not self._has_ended:
            self.recording._steps = []

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._has_ended = self._has_ended or not self._is_elsewhere()

    def wants(self) -> bool:
        if not self._running:
            return False
        running = self._running[-1]
        is_new = running.layer is None
        if running.layer is None:
            running.layer = len(self._heard)
            self._heard.append(running.name)
        chosen = self._choice.layer_of(running.layer, running.name)
        self._found.update(chosen)
        is_wanted = self._choice.layers is None or bool(chosen)
        self.recording._num_left_out += is_new and not is_wanted
        return is_wanted

    def hear(self, call: Call) -> None:
        with torch.no_grad(), torch.autocast(call.alpha.device.type, enabled=False):
            self._add_step(call)

    def _add_step(self, call: Call) -> None:
        running, choice = self._running[-1], self._choice
        device, num_heads = call.alpha.device, call.alpha.shape[1]
        head = torch.arange(num_heads) if choice.heads is None else torch.tensor(choice.heads, dtype=torch.int64)
        if head.numel() and int(head[-1]) >= num_heads:
            raise ValueError(
                f"heads must be numbers below {num_heads}, the heads of {running.name!r}, got {int(head[-1])}. "
                "Choose layers that have them."
            )
        graph, alpha = call.graph, call.alpha
        on_device = None if choice.heads is None else head.to(device)
        edge: Tensor | None = None  # positions of what is recorded, None for all
        part: Part | None = None
        told: AttentionGraph | None = call.graph  # if another step that is told of it records the same edges
        if choice.graphs is not None:
            offsets = offsets_of(graph, running.summaries)
            if choice.graphs and choice.graphs[-1] >= offsets.num_examples:
                raise ValueError(
                    f"graphs must be numbers below {offsets.num_examples}, the examples in the graph of "
                    f"{running.name!r}, got {choice.graphs[-1]}. Its src_ptr and dst_ptr say where one ends."
                )
            part = part_of(graph, offsets, torch.tensor(choice.graphs, dtype=torch.int64))
            graph, edge = part.graph, part.edge
            told = call.graph if len(offsets.src) == 1 else None
        if call.kind == "summary":
            running.summaries += (call.graph,)
        alpha = _among(alpha, edge, on_device)
        mask = None if graph.head_mask is None else _among(graph.head_mask, None, on_device)
        kept = torch.ones(graph.num_dst_nodes, head.numel())
        if choice.top_edges is not None:
            strong, kept = _strongest(alpha, graph, mask, choice.top_edges)
            alpha, edge = alpha[strong], strong if edge is None else edge[strong]
            graph, mask = _with_edges(graph, strong), None if mask is None else mask[strong]
            told = None
        gate, value_norm = call.edge_gate, None
        if gate is not None:
            gate = _among(gate.expand(-1, num_heads), edge, on_device)
        if call.value is not None:
            value = call.value if part is None else call.value[part.src]
            value_norm = _on_host(_norms(value, self._out_proj(num_heads * value.shape[2]), num_heads, head.tolist()))
        step = Step(
            name=running.name,
            call=running.num_calls,
            kind=call.kind,
            graph=self._graph_on_host(graph, mask, told),
            alpha=_on_host(alpha),
            head=head,
            edge_gate=None if gate is None else _on_host(gate),
            head_gate=None if call.head_gate is None else _on_host(_among(call.head_gate, on_device)),
            value_norm=value_norm,
            gradient=None,
            kept=_on_host(kept),
        )
        running.num_calls += 1
        steps = self.recording._steps
        steps.append(step)
        if call.on_gradient is not None:
            call.on_gradient(partial(_add_gradient, steps, len(steps) - 1, edge, on_device))

    def check_heard(self) -> None:
        """Raises if there is nothing to show for the block, and says why."""
        name = type(self._model).__name__
        if not self._has_started:
            raise RuntimeError(
                f"nothing was recorded: {name} was not called inside the block. Call model(...) itself, in this "
                "thread; model.forward(...), calls of its parts alone and compiled functions are not heard."
            )
        if not self._has_ended:
            raise RuntimeError(f"nothing was recorded: the last call of {name} did not end. Call it once more.")
        if not self._heard:
            raise RuntimeError(
                f"nothing was recorded: no module of {name} called graphattn.graph_attention. Use the layers of "
                "graphattn.nn; a module that computes weights itself tells them by graphattn.ops.listening.tell; a "
                "part that was compiled is recorded uncompiled."
            )
        missed = [layer for layer in self._choice.layers or () if layer not in self._found]
        if missed:
            ran = ", ".join(f"{number} is {name!r}" for number, name in enumerate(self._heard))
            raise ValueError(
                f"layers must name modules that call attention, got {missed}, which did not. These did: {ran}."
            )

    def _out_proj(self, width: int) -> Tensor | None:
        """Finds W_O [out_dim, width] in the module that called attention, or in the one around it."""
        for running in self._running[:-3:-1]:
            projection = getattr(running.module, "out_proj", None)
            if isinstance(projection, nn.Linear) and projection.in_features == width:
                return projection.weight.detach()
        return None

    def _graph_on_host(
        self, graph: AttentionGraph, head_mask: Tensor | None, told: AttentionGraph | None
    ) -> AttentionGraph:
        """Returns a graph on the CPU without its plan; the same one for steps that were told of the same one."""
        known = None if told is None else self._graphs.get(id(told))
        if known is not None and known[0]() is told:
            return known[1]

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.cpu()

        made = AttentionGraph.trusted(
            graph.edge_index.cpu(),
            graph.num_src_nodes,
            graph.num_dst_nodes,
            edge_kind=moved(graph._edge_kind),
            kinds=graph.kinds,
            src_ptr=moved(graph._src_ptr),
            dst_ptr=moved(graph._dst_ptr),
            head_mask=moved(head_mask),
            origin=graph.origin,
        )
        if told is not None:
            self._graphs[id(told)] = weakref.ref(told), made
        return made


def _numbers(name: str, given: Any) -> tuple[int, ...]:
    """Returns distinct numbers from 0, ascending, or raises."""
    numbers = (given,) if isinstance(given, int) else tuple(given)
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in numbers):
        raise ValueError(f"{name} must be numbers counted from 0, got {given!r}. Negative ones do not count backwards.")
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"{name} must be distinct numbers, at least one, got {given!r}. None records all.")
    return tuple(sorted(numbers))


def _refuse_compiled(model: nn.Module) -> None:
    """Raises a RuntimeError if a module was compiled: hooks and listeners are not heard inside."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled, and asking would load the compiler
        return
    for name, module in model.named_modules():
        is_wrapped = isinstance(module, torch._dynamo.OptimizedModule)
        if not is_wrapped and getattr(module, "_compiled_call_impl", None) is None:
            continue
        what = f"its part {name!r}" if name else "the model"
        advice = f"{f'model.{name}' if name else 'model'}._orig_mod is the uncompiled one"
        if not is_wrapped:
            advice = "model.compile() changed it in place; load its state_dict into one that was not compiled"
        raise RuntimeError(f"record runs the uncompiled model, but {what} was compiled. Record that: {advice}.")


def _is_torchs(module: nn.Module) -> bool:
    """Whether a module is of torch, with nothing added by anybody else."""
    classes = (cls for cls in type(module).__mro__ if issubclass(cls, nn.Module))
    return all(cls.__module__.startswith("torch.nn.") for cls in classes)


def _among(values: Tensor, *chosen: Tensor | None) -> Tensor:
    """Returns the chosen rows, the chosen columns of these, and so on; None chooses all."""
    for axis, index in enumerate(chosen):
        values = values if index is None else values.index_select(axis, index)
    return values


def _on_host(values: Tensor) -> Tensor:
    """Copies to the CPU in float32: what the model does to its own tensors later must not reach a record."""
    return values.detach().to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)


def _add_gradient(steps: list[Step], position: int, edge: Tensor | None, head: Tensor | None, gradient: Tensor) -> None:
    steps[position] = replace(steps[position], gradient=_on_host(_among(gradient, edge, head)))


def _norms(value: Tensor, out_proj: Tensor | None, num_heads: int, head: Sequence[int]) -> Tensor:
    """Returns the norms of W_O^h v_j, or of v_j, [num_src_nodes, number of heads].

    With W_O^h = Q R they are those of R v_j: products as wide as the model are never made.

    Args:
        value: [num_src_nodes, num_key_heads, value_dim].
        out_proj: [out_dim, num_heads · value_dim].
        num_heads: of the layer.
        head: those that are recorded.
    """
    dtype = torch.promote_types(value.dtype, torch.float32)
    norms = torch.empty(len(head), value.shape[0], dtype=dtype, device=value.device)
    root: Sequence[Tensor] = ()
    if out_proj is not None:
        of_heads = out_proj.to(dtype).unflatten(1, (num_heads, -1))[:, list(head)]
        root = torch.linalg.qr(of_heads.transpose(0, 1), mode="r").R.unbind()
    for place, number in enumerate(head):
        of_head = value[:, number // (num_heads // value.shape[1])].to(dtype)
        torch.linalg.vector_norm(of_head @ root[place].T if root else of_head, dim=1, out=norms[place])
    return norms.t()


def _strongest(alpha: Tensor, graph: AttentionGraph, head_mask: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Finds, for each target, the edges among the k strongest of some head.

    One head after the other, and targets of similar degree together: nothing larger than a head's weights is made.

    Args:
        alpha: [num_edges, num_heads].
        graph: their graph, edges listed.
        head_mask: bool [num_edges, num_heads], or None.
        k: at least 1.

    Returns:
        strong: int64, positions of these edges, ascending.
        kept: [num_dst_nodes, num_heads], share of each target's weight on them; 1 where it has none.
    """
    dst = graph.edge_index[1]
    ptr = pointers(dst, graph.num_dst_nodes)
    degree = torch.diff(ptr)
    is_strong = (degree <= k).repeat_interleave(degree)
    crowded = (degree > k).nonzero()[:, 0]
    width = degree[crowded].double().log2().ceil()
    for size in width.unique():
        rows = crowded[width == size]
        column = torch.arange(int(degree[rows].max()), device=dst.device)
        is_absent = column >= degree[rows, None]
        place = (ptr[rows, None] + column).clamp(max=dst.numel() - 1)  # [num_rows, longest]
        for head in range(alpha.shape[1]):
            weight = alpha[:, head][place].masked_fill_(is_absent, -torch.inf)
            if head_mask is not None:
                weight.masked_fill_(~head_mask[:, head][place], -torch.inf)
            top = weight.topk(k, 1)
            is_strong[place.gather(1, top.indices)[top.values != -torch.inf]] = True
    strong = is_strong.nonzero()[:, 0]
    kept = alpha.new_ones(graph.num_dst_nodes, alpha.shape[1], dtype=torch.float64)
    for head in range(alpha.shape[1]):
        weight = alpha[:, head].double()
        whole, part = (
            kept.new_zeros(graph.num_dst_nodes).index_add_(0, dst[of], weight[of]) for of in (slice(None), strong)
        )
        kept[:, head] = torch.where(whole == 0, 1.0, part / whole)
    return strong, kept


def _with_edges(graph: AttentionGraph, edge: Tensor) -> AttentionGraph:
    """Returns a graph with some of its edges; heads are told apart elsewhere."""
    kind = None if graph._edge_kind is None else graph._edge_kind[edge]
    return graph._like(graph.edge_index[:, edge], None, kind, f"strongest of {graph.origin}")
