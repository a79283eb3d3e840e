"""What `record` brings back: the weights of every call of attention in a forward pass, with their graphs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphattn._version import __version__
from graphattn.data.files import megabytes, write_whole
from graphattn.graph import AttentionGraph
from graphattn.graph.ragged import node_ptr, ragged_range
from graphattn.ops.listening import KINDS

FORMAT, FORMAT_VERSION = "graphattn.Recording", "1"
SUFFIX = ".safetensors"
GRAPH_TENSORS = ("edge_kind", "head_mask", "src_ptr", "dst_ptr")  # beside edge_index, where the graph has them


@dataclass(frozen=True, eq=False, repr=False)
class Step:
    """One call of attention, or of pooling, in a forward pass: who read whom, and how much. All on the CPU.

    Args:
        name: of the module in the model, such as "blocks.0.attention"; "" for the model itself.
        call: which call within one forward of that module, from 0.
        kind: "attention"; "summary", whose targets are nodes made inside the layer, to be read by its last call; or
            "pool", whose targets are the nodes of the next level.
        graph: edges listed; `src_ptr` and `dst_ptr` tell the examples of a batch apart.
        alpha: [num_edges, num_heads] float32, before dropout and gates.
        head: int64 [num_heads], number of each recorded head in its layer.
        edge_gate: [num_edges, num_heads] float32, or None.
        head_gate: [num_heads] float32, or None.
        value_norm: [num_src_nodes, num_heads] float32: norm of what a head adds to a target per unit of weight on that
            source, W_O restricted to the head times the value, or the value alone where the module has no `out_proj`.
            Gates and what edge features add to values are not in it. None where no value was told.
        gradient: [num_edges, num_heads] float32, d (what backward was called on) / d alpha; None until then.
        kept: [num_dst_nodes, num_heads] float32, share of each target's weight that the recorded edges carry; ones
            unless `top_edges` was given.
    """

    name: str
    call: int
    kind: str
    graph: AttentionGraph
    alpha: Tensor
    head: Tensor
    edge_gate: Tensor | None
    head_gate: Tensor | None
    value_norm: Tensor | None
    gradient: Tensor | None
    kept: Tensor

    def __repr__(self) -> str:
        num_edges, num_heads = self.alpha.shape
        return f"Step({self.name!r}, call {self.call}, {self.kind}: {num_edges:,} edges, {num_heads} heads)"


class Recording:
    """The steps of a model's last forward pass, in the order of execution; `print` it for how much it holds.

    Args:
        steps: one per call of attention or pooling.
        num_left_out: layers of that pass that were not chosen, whose steps are missing.

    >>> graph = AttentionGraph(torch.tensor([[0, 1], [0, 0]]), num_src_nodes=2, num_dst_nodes=1)
    >>> step = Step("layer", 0, "attention", graph, torch.full((2, 1), 0.5), torch.tensor([0]), None, None, None, None,
    ...             kept=torch.ones(1, 1))
    >>> Recording([step])
    Recording(1 step, 2 edges, 1 head, 1 kB)
    """

    def __init__(self, steps: Sequence[Step] = (), num_left_out: int = 0):
        self._steps = list(steps)
        self._num_left_out = num_left_out

    @property
    def steps(self) -> tuple[Step, ...]:
        """Those recorded so far; a gradient appears once backward has run."""
        return tuple(self._steps)

    @property
    def num_left_out(self) -> int:
        """Number of layers that called attention and were not chosen to be recorded."""
        return self._num_left_out

    def alphas(self) -> list[Tensor]:
        """Returns the weights [num_edges, num_heads] of every step."""
        return [step.alpha for step in self._steps]

    def graphs(self) -> list[AttentionGraph]:
        """Returns the graph of every step; its `edge_index` is the order of the weights."""
        return [step.graph for step in self._steps]

    @property
    def num_examples(self) -> int:
        """Number of graphs in the batch that was recorded; 0 where nothing was."""
        return max((offsets.num_examples for offsets in self._offsets()), default=0)

    def example(self, index: int) -> Recording:
        """Returns one graph of the batch: its nodes and edges numbered from 0, heads by their numbers in the layer.

        Args:
            index: from 0 to num_examples - 1.

        Raises:
            IndexError: if there is no such example.
            ValueError: if the graph of some step does not tell the examples apart.
        """
        offsets, number = self._offsets(), self.num_examples
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < number:
            raise IndexError(f"index must lie in [0, num_examples) = [0, {number}), got {index!r}.")
        if number == 1:
            return Recording(self._steps, self._num_left_out)
        parts: dict[int, Part] = {}  # by the identity of the whole graph, so that steps share a part as they share it
        steps = []
        for step, here in zip(self._steps, offsets):
            if here.num_examples != number:
                raise ValueError(
                    f"the graph of {step.name!r} does not tell examples apart: it holds {here.num_examples}, others of "
                    f"this recording {number}. Give it src_ptr and dst_ptr: builders take the sizes of a batch as a "
                    "tensor, disjoint_union joins graphs."
                )
            part = parts.get(id(step.graph)) if len(here.src) == 1 else None
            part = part_of(step.graph, here, torch.tensor([index])) if part is None else part
            parts[id(step.graph)] = part
            steps.append(_part_of_step(step, part))
        return Recording(steps, self._num_left_out)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes one `.safetensors` file, whole or not at all, and returns where it is; a shared graph is there once.

        Raises:
            ValueError: if the name ends otherwise.
            OSError: if the directory is missing or not writable, or the disk is full.
        """
        from safetensors.torch import save

        path = _checked(path)
        numbers: dict[int, int] = {}  # of each graph by its identity
        for step in self._steps:
            numbers.setdefault(id(step.graph), len(numbers))
        graphs = {numbers[id(step.graph)]: step.graph for step in self._steps}
        tensors: dict[str, Tensor] = {}
        for number, graph in graphs.items():
            tensors |= {f"graph.{number}.{name}": tensor for name, tensor in _graph_tensors(graph).items()}
        for number, step in enumerate(self._steps):
            tensors |= {f"step.{number}.{name}": tensor for name, tensor in _tensors_of(step).items()}
        header = {
            "format": f"{FORMAT}.{FORMAT_VERSION}",
            "graphattn": __version__,
            "num_left_out": str(self._num_left_out),
            "graphs": json.dumps(
                [
                    {"sizes": [graph.num_src_nodes, graph.num_dst_nodes], "kinds": graph.kinds, "origin": graph.origin}
                    for graph in graphs.values()
                ]
            ),
            "steps": json.dumps(
                [
                    {"name": step.name, "call": step.call, "kind": step.kind, "graph": numbers[id(step.graph)]}
                    for step in self._steps
                ]
            ),
        }
        # clones: safetensors refuses tensors that share storage, as src_ptr and dst_ptr of a square graph do
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        write_whole(path, save(whole, metadata=header))
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recording:
        """Reads what `save` wrote, checked: graphs as their constructor checks them, tensors against their graphs.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is none, one of another version of the format, or damaged.
        """
        from safetensors import SafetensorError, safe_open

        path = _checked(path)
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}. Write one with recording.save(path).")
        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                header = file.metadata() or {}
                _check_format(path, header)
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file ({error}). Save the record again.") from error
        try:
            graphs = [_read_graph(tensors, number, made) for number, made in enumerate(json.loads(header["graphs"]))]
            made = json.loads(header["steps"])
            steps = [_read_step(tensors, number, graphs, step) for number, step in enumerate(made)]
            return cls(steps, int(header["num_left_out"]))
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}). Save the record again.") from error

    def _offsets(self) -> list[_Offsets]:
        """Where each example's nodes lie in every step; the last call of a layer may have that from its summaries."""
        found: list[_Offsets] = []
        summaries: list[AttentionGraph] = []
        for position, step in enumerate(self._steps):
            before = self._steps[position - 1] if position else None
            if before is None or (before.name, before.call + 1) != (step.name, step.call):
                summaries = []
            found.append(offsets_of(step.graph, summaries))
            if step.kind == "summary":
                summaries.append(step.graph)
        return found

    def __repr__(self) -> str:
        steps, heads = self._steps, sorted({step.alpha.shape[1] for step in self._steps})
        counts = [(f"{len(steps):,}", "step"), (f"{sum(step.alpha.shape[0] for step in steps):,}", "edge")]
        if heads:
            counts.append((f"{heads[0]}–{heads[-1]}" if len(heads) > 1 else f"{heads[0]}", "head"))
        graphs = {id(graph): graph for graph in self.graphs()}.values()
        tensors = [tensor for graph in graphs for tensor in _graph_tensors(graph).values()]
        tensors += [tensor for step in steps for tensor in _tensors_of(step).values()]
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        said = [f"{number} {what}" if number == "1" else f"{number} {what}s" for number, what in counts]
        return f"Recording({', '.join(said)}, {megabytes(num_bytes)})"


class _Offsets(NamedTuple):
    """Where the examples of a batch lie: those of sources in one run, or in several that stand one after the other."""

    src: tuple[Tensor, ...]  # each int64 [num_examples + 1], into the sources
    dst: Tensor  # int64 [num_examples + 1], into the targets

    @property
    def num_examples(self) -> int:
        return self.dst.numel() - 1


class Part(NamedTuple):
    """What is left of a step's graph where only some of its examples are wanted."""

    graph: AttentionGraph  # on the device of the graph it is a part of
    edge: Tensor  # int64, positions of its edges in the whole
    src: Tensor  # int64, sources of the whole, ascending
    dst: Tensor


def offsets_of(graph: AttentionGraph, summaries: Sequence[AttentionGraph] = ()) -> _Offsets:
    """Returns where the examples of a graph lie.

    A layer that summarises reads, in its last call, all nodes of the batch and then all targets of its summaries. Such
    an order has no offsets of its own; where that graph has none and the sizes fit, those of the summaries tell.

    Args:
        graph: of the call.
        summaries: graphs of the summaries made before in the same forward of the same module.
    """
    if graph.num_graphs != 1 or not summaries:
        return _Offsets((graph.src_ptr,), graph.dst_ptr)
    runs = [summaries[0].src_ptr, *(summary.dst_ptr for summary in summaries)]
    fits = graph.num_dst_nodes == int(runs[0][-1]) and graph.num_src_nodes == sum(int(run[-1]) for run in runs)
    if not fits or len({run.numel() for run in runs}) > 1:
        return _Offsets((graph.src_ptr,), graph.dst_ptr)
    shifted, first = [], 0
    for run in runs:
        shifted.append(run + first)
        first += int(run[-1])
    return _Offsets(tuple(shifted), runs[0])


def part_of(graph: AttentionGraph, offsets: _Offsets, examples: Tensor) -> Part:
    """Returns what belongs to some examples, numbered from 0.

    Args:
        graph: its edges listed.
        offsets: of its examples.
        examples: int64, ascending.

    Raises:
        ValueError: if an edge joins two examples, which can be where a graph has no offsets of its own.
    """
    examples = examples.to(graph.device)
    src = torch.cat([_members(run, examples) for run in offsets.src])
    dst = _members(offsets.dst, examples)
    new_src = torch.full((graph.num_src_nodes,), -1, device=src.device)
    new_src[src] = torch.arange(src.numel(), device=src.device)
    new_dst = torch.full((graph.num_dst_nodes,), -1, device=dst.device)
    new_dst[dst] = torch.arange(dst.numel(), device=dst.device)
    edge = (new_dst[graph.edge_index[1]] >= 0).nonzero()[:, 0]
    ends = graph.edge_index[:, edge]
    edges = torch.stack([new_src[ends[0]], new_dst[ends[1]]])
    if bool((edges < 0).any()):
        at = int((edges[0] < 0).nonzero()[0])
        raise ValueError(
            f"edge {ends[:, at].tolist()} joins two examples of the batch. Give the graph src_ptr and dst_ptr, or "
            "order its sources as all nodes, then the targets of each summary."
        )
    is_batch = examples.numel() != 1
    src_ptr, dst_ptr = (node_ptr(torch.diff(ptr)[examples]) for ptr in (offsets.src[0], offsets.dst))
    has_offsets = is_batch and len(offsets.src) == 1
    kind, mask = graph._edge_kind, graph.head_mask
    part = AttentionGraph.trusted(
        edges,
        src.numel(),
        dst.numel(),
        edge_kind=None if kind is None else kind[edge],
        kinds=graph.kinds,
        src_ptr=src_ptr if has_offsets else None,
        dst_ptr=dst_ptr if has_offsets else None,
        head_mask=None if mask is None else mask[edge],
        origin=f"part of {graph.origin}",
    )
    return Part(part, edge, src, dst)


def _members(ptr: Tensor, examples: Tensor) -> Tensor:
    """Lists the nodes of some examples."""
    group, offset = ragged_range(torch.diff(ptr)[examples])
    return ptr[examples][group] + offset


def _part_of_step(step: Step, part: Part) -> Step:
    def among(tensor: Tensor | None, chosen: Tensor) -> Tensor | None:
        return None if tensor is None else tensor[chosen]

    return replace(
        step,
        graph=part.graph,
        alpha=step.alpha[part.edge],
        edge_gate=among(step.edge_gate, part.edge),
        value_norm=among(step.value_norm, part.src),
        gradient=among(step.gradient, part.edge),
        kept=step.kept[part.dst],
    )


def _tensors_of(step: Step) -> dict[str, Tensor]:
    values = {field.name: getattr(step, field.name) for field in fields(Step)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _graph_tensors(graph: AttentionGraph) -> dict[str, Tensor]:
    optional = {name: getattr(graph, f"_{name}") for name in GRAPH_TENSORS}
    return {"edge_index": graph.edge_index} | {name: value for name, value in optional.items() if value is not None}


def _checked(path: str | os.PathLike[str]) -> Path:
    path = Path(path).expanduser().absolute()
    if path.suffix.lower() != SUFFIX:
        raise ValueError(f"path must end in {SUFFIX}, got {path.name!r}. Rename the file.")
    return path


def _check_format(path: Path, header: dict[str, str]) -> None:
    name, _, version = header.get("format", "").rpartition(".")
    if name != FORMAT:
        raise ValueError(
            f"{path} must be a record, got the format {header.get('format')!r}. Write one with recording.save(path); "
            "a graph is read by AttentionGraph.load."
        )
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} was written by graphattn {header.get('graphattn')} in version {version} of its format; this is "
            f"graphattn {__version__}, which reads version {FORMAT_VERSION}. Record again with this one, or read it "
            "with that one."
        )


def _read_graph(tensors: dict[str, Tensor], number: int, made: dict[str, Any]) -> AttentionGraph:
    optional: dict[str, Any] = {name: tensors.get(f"graph.{number}.{name}") for name in GRAPH_TENSORS}
    graph = AttentionGraph(tensors[f"graph.{number}.edge_index"], *made["sizes"], kinds=made["kinds"], **optional)
    return graph.named(str(made["origin"]))


def _read_step(tensors: dict[str, Tensor], number: int, graphs: list[AttentionGraph], made: dict[str, Any]) -> Step:
    name, call, kind = str(made["name"]), int(made["call"]), made["kind"]
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    graph, head = graphs[int(made["graph"])], tensors[f"step.{number}.head"]
    if head.dtype != torch.int64 or head.dim() != 1:
        raise ValueError(f"head of step {number} must be int64 [num_heads], got {head.dtype} {list(head.shape)}")
    rows = {
        "alpha": graph.num_edges, "edge_gate": graph.num_edges, "gradient": graph.num_edges,
        "value_norm": graph.num_src_nodes, "kept": graph.num_dst_nodes, "head_gate": None,
    }  # fmt: skip
    values: dict[str, Any] = {}
    for field, count in rows.items():
        tensor = tensors.get(f"step.{number}.{field}")
        if tensor is None and field in ("alpha", "kept"):
            raise KeyError(f"step {number} lacks {field}")
        shape = [head.numel()] if count is None else [count, head.numel()]
        if tensor is not None and (tensor.dtype != torch.float32 or list(tensor.shape) != shape):
            raise ValueError(
                f"{field} of step {number} must be float32 {shape}, got {tensor.dtype} {list(tensor.shape)}"
            )
        values[field] = tensor
    return Step(name, call, kind, graph, head=head, **values)
