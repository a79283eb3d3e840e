"""Chooses an implementation and runs it. `auto` is a pure function of sizes and of measured constants.

The cost model: a call takes Σ constant · amount, and `growth` says what the amounts are. Sizes are those of the graph
(edges, those in ranges without gaps, targets, groups of blocks), the heads' and the device; `_costs` has the constants.
"""

import contextlib
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphattn.graph import AttentionGraph
from graphattn.graph.convert.flex import MAX_TILES
from graphattn.graph.copies import Copies, copies_of
from graphattn.graph.plan import Plan
from graphattn.graph.validate import MAX_ENUMERATED_EDGES
from graphattn.ops._arguments import HALF, Terms, joined_rows
from graphattn.ops._costs import constants_for
from graphattn.ops._impl import blocks, dense, featured, flex, fused, gather, scatter, sdpa, varlen
from graphattn.ops._impl.projection import project_heads
from graphattn.ops.capability import (
    IMPLEMENTATIONS,
    MAX_TYPES,
    check_impl,
    has_dtype,
    has_numba,
    is_proved,
    is_transformed,
    runs_on,
    supports,
)
from graphattn.ops.softmax import softmax_and_lse

_FOLDED = {"scatter": scatter, "gather": gather, "fused": fused}  # those that take edge features on the node side
# of one head: dense holds several such arrays; of sdpa's, a graph keeps a mask, and with more it was never the fastest
_MOST_PAIRS = {"dense": 2**26, "sdpa": 2**19}


TILE = 128  # nodes on a side of flex's
ABREAST, MAX_ABREAST_DIM = 8, 64  # heads that fused serves at once where targets share sources, and how wide they are


class Sizes(NamedTuple):
    """What the choice depends on."""

    num_heads: int
    head_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device


def reason_against(
    impl: str, graph: AttentionGraph, sizes: Sizes, reads_edges: bool, also: tuple[str, ...] = ()
) -> str | None:
    """Returns why an implementation cannot serve a call, None if it can.

    Args:
        reads_edges: whether the call passes per-edge arguments or dropout.
        also: what else it asks for: "logit_clip", "lse", "weights" of `ARGUMENTS`.
    """
    if missing := _missing_compiler(impl, sizes.device):
        return missing
    if not runs_on(impl, sizes.device):
        return f"it has no kernel for {sizes.device.type}"
    if is_transformed() and not supports(impl, "torch_func", sizes.dtype, sizes.device):
        return (
            "it has no rule for vmap, grad and jvp of torch.func (in place of vmap, join the batch with disjoint_union "
            "and call it once)"
        )
    if reads_edges and not supports(impl, "edge_bias", device=sizes.device):
        return "the call passes per-edge arguments or dropout"
    for argument in also:
        if not supports(impl, argument, device=sizes.device):
            return f"it has no {argument}"
    if not has_dtype(impl, sizes.dtype):
        return f"it has no {sizes.dtype}"
    if impl == "blocks":
        if graph.blocks is None:
            return "the graph has no block" if graph.num_edges else None
        if reads_edges and graph.plan().buckets[0].first is None:
            return (
                "the call reads per-edge values, but some target has edges in two blocks, in a block and outside, "
                "or in a block that lists its sources out of order"
            )
        return None
    if impl == "flex":
        return _reason_against_tiles(graph)
    if graph.blocks is not None and graph.num_edges > MAX_ENUMERATED_EDGES:
        return f"listing the graph's {graph.num_edges:,} edges is refused above {MAX_ENUMERATED_EDGES:,}"
    most_pairs = _MOST_PAIRS.get(impl)
    if most_pairs is not None and graph.num_dst_nodes * graph.num_src_nodes > most_pairs:
        return f"{graph.num_dst_nodes} × {graph.num_src_nodes} pairs are above its limit of {most_pairs:,}"
    if impl == "gather" and graph.plan().degree is None:
        return "it needs the same number of incoming edges, at least one, at every target"
    if impl == "sdpa" and graph.plan().head_mask is not None:
        return "heads see different edges, and its mask is one for all"
    return None


def _reason_against_tiles(graph: AttentionGraph) -> str | None:
    """Returns why a graph has no BlockMask, as `graph.to_block_mask` would say, None if it has one."""
    if torch.compiler.is_compiling():
        return "a compiled region makes no BlockMask (call flex_attention there, with one from graph.to_block_mask())"
    if not graph.num_dst_nodes or not graph.num_src_nodes:
        return "it needs a target and a source"
    head_mask = graph.plan().head_mask
    num_tiles = -(-graph.num_dst_nodes // TILE) * -(-graph.num_src_nodes // TILE)
    num_tiles *= 1 if head_mask is None else head_mask.shape[1]
    return None if num_tiles <= MAX_TILES else f"{num_tiles:,} tiles are above its limit of {MAX_TILES:,}"


def _missing_compiler(impl: str, device: torch.device) -> str | None:
    """Returns how to get what compiles an implementation's kernels for a device, None where nothing is missing."""
    if impl == "fused" and device.type == "cpu" and not has_numba():
        return "Numba is not installed (pip install numba)"
    if impl in ("fused", "flex") and device.type == "cuda" and not runs_on(impl, device):
        return "Triton is not installed (pip install triton)"
    return None


def mixes_examples(impl: str, graph: AttentionGraph, device: torch.device) -> bool:
    """Returns whether a NaN of one example of a batch could reach the others; `auto` takes another way then.

    A graph between two sets of nodes may hold several examples without knowing of them.
    """
    spreads = impl in ("dense", "flex") or (impl == "sdpa" and not _can_watch(device))
    return spreads and _may_hold_examples(graph)


def _may_hold_examples(graph: AttentionGraph) -> bool:
    return graph.num_graphs > 1 or not graph.is_square


def _can_watch(device: torch.device) -> bool:
    """Returns whether sdpa may look at what comes out, to keep a NaN with who sees it; elsewhere it would wait."""
    return device.type == "cpu" and not torch.compiler.is_compiling()


def estimate(impl: str, graph: AttentionGraph, sizes: Sizes, reads_edges: bool = False) -> float:
    """Returns the expected time of forward and backward in microseconds.

    What is told per edge counts only where it changes the way to run.
    """
    by_impl = constants_for(sizes.device.type).by_impl
    if impl == "blocks" and reads_copies(graph, sizes.device, is_plain=not reads_edges):
        plan = graph.plan()
        assert plan.groups is not None
        num_inside = graph.num_edges - plan.src.numel()
        ranged = _of_edges("fused", graph.num_dst_nodes, graph.num_edges, num_inside, sizes)
        return _total(by_impl["fused"], ranged) + _total(
            {"row": by_impl["blocks"]["row"]}, {"row": plan.groups.src.numel() * sizes.num_heads / 1e3}
        )
    time = _total(by_impl[impl], growth(impl, graph, sizes))
    num_rest = graph.plan().src.numel() if impl == "blocks" and graph.blocks is not None else 0
    if num_rest:  # edges outside blocks are served first
        rest = _rest_impl(sizes.device)
        time += _total(by_impl[rest], _of_edges(rest, graph.num_dst_nodes, num_rest, 0, sizes))
    return time


def is_estimated(impl: str, device: torch.device) -> bool:
    """Returns whether there are constants for it: not for what `auto` never takes, nor for what failed its proof."""
    return impl in constants_for(device.type).by_impl


def _rest_impl(device: torch.device) -> str:
    """Returns what serves edges outside blocks."""
    is_served = runs_on("fused", device) and is_proved("fused", device) and not _missing_compiler("fused", device)
    return "fused" if is_served else "scatter"


def growth(impl: str, graph: AttentionGraph, sizes: Sizes) -> dict[str, float]:
    """Returns how often a call has what each constant of an implementation stands for."""
    if impl in ("dense", "sdpa"):
        return _of_edges(impl, graph.num_dst_nodes, graph.num_dst_nodes * graph.num_src_nodes, 0, sizes)
    plan = graph.plan()
    if impl != "blocks":
        return _of_edges(impl, graph.num_dst_nodes, graph.num_edges, plan.num_ranged, sizes, plan)
    if graph.blocks is None or plan.groups is None:  # without an edge, blocks serve it all the same
        return {"group": 0.0, "block": 0.0, **_of_edges(impl, 0, 0, 0, sizes)}
    per_block = {"group": plan.groups.table.shape[0], "block": graph.blocks.num_blocks * sizes.num_heads / 1e3}
    num_inside = graph.num_edges - plan.src.numel()
    return {**per_block, **_of_edges(impl, plan.groups.dst.numel(), num_inside, 0, sizes)}


def _of_edges(
    impl: str, num_rows: int, num_edges: int, num_ranged: int, sizes: Sizes, plan: Plan | None = None
) -> dict[str, float]:
    def amounts(prefix: str, edges: int) -> dict[str, float]:
        weights = edges * sizes.num_heads / 1e6
        return {f"{prefix}weight": weights, f"{prefix}work": weights * (sizes.head_dim + sizes.value_dim)}

    def rows(count: int) -> float:
        return count * sizes.num_heads / 1e3

    if impl != "fused":
        return {"fixed": 1.0, "row": rows(num_rows), **amounts("", num_edges)}
    num_sharing, num_shared = (plan.num_sharing, plan.num_shared) if plan and runs_abreast(sizes) else (0, 0)
    alone = {"fixed": 1.0, "row": rows(num_rows - num_sharing), **amounts("", num_edges - num_ranged)}
    shared = {"shared_row": rows(num_sharing), **amounts("shared_", num_shared)}
    return alone | amounts("ranged_", num_ranged - num_shared) | shared


def runs_abreast(sizes: Sizes) -> bool:
    """Returns whether fused serves eight heads at once on a CPU, where targets share their sources."""
    return sizes.num_heads % ABREAST == 0 and max(sizes.head_dim, sizes.value_dim) <= MAX_ABREAST_DIM


def _total(constants: dict[str, float], units: dict[str, float]) -> float:
    return max(1.0, sum(constants[name] * amount for name, amount in units.items()))


def choose(graph: AttentionGraph, sizes: Sizes, reads_edges: bool, also: tuple[str, ...] = ()) -> str:
    """Returns the implementation expected to be fastest among those that can serve the call, as in `reason_against`.

    Inside a compiled region, where sizes are symbols, it is the first that can of blocks (if the graph has any), fused,
    gather, scatter. Those after it are not asked, or the program would depend on what only they need to know. One of
    them always can where sdpa could, so that a program makes no mask of all pairs at every run.
    """
    if torch.compiler.is_compiling():
        order = ("fused", "gather", "scatter") if graph.blocks is None else ("blocks", "fused", "gather", "scatter")
        for impl in order:
            if is_proved(impl, sizes.device) and reason_against(impl, graph, sizes, reads_edges, also) is None:
                return impl
        return _cheapest(graph, sizes, reads_edges, also)
    # to weigh them takes as long as to serve some dozens of nodes, so it is done once a graph
    call, costs = (sizes, reads_edges, also, has_numba(), is_transformed()), constants_for(sizes.device.type)
    weighed_by, chosen = graph.notes.get(call, (None, ""))
    if weighed_by is not costs:
        chosen = _cheapest(graph, sizes, reads_edges, also)
        graph.notes[call] = costs, chosen
    return chosen


def _cheapest(graph: AttentionGraph, sizes: Sizes, reads_edges: bool, also: tuple[str, ...]) -> str:
    reasons = {impl: reason_against(impl, graph, sizes, reads_edges, also) for impl in IMPLEMENTATIONS}
    able = [impl for impl in IMPLEMENTATIONS if reasons[impl] is None and is_proved(impl, sizes.device)]
    able = [impl for impl in able if not mixes_examples(impl, graph, sizes.device)] or able
    if not able:
        refusals = "; ".join(f"{impl}: {reason}" for impl, reason in reasons.items())
        raise ValueError(
            f"no implementation can serve this call on {graph!r}: {refusals}. "
            "Use a sparser graph, or one whose blocks share no target with other edges."
        )
    if len(able) == 1:  # in a compiled region, which must not read a file, it is
        return able[0]
    able = [impl for impl in able if is_estimated(impl, sizes.device)] or able[:1]
    return min(able, key=lambda impl: estimate(impl, graph, sizes, reads_edges))


def resolve(impl: str, graph: AttentionGraph, sizes: Sizes, reads_edges: bool, also: tuple[str, ...] = ()) -> str:
    """Returns the implementation to run, for a call as in `reason_against`.

    Raises:
        ValueError: if the named one cannot serve the call, with the ones that can.
    """
    if impl == "auto":
        return choose(graph, sizes, reads_edges, also)
    check_impl(impl)
    reason = reason_against(impl, graph, sizes, reads_edges, also)
    if reason is None:
        return impl
    able = [other for other in IMPLEMENTATIONS if reason_against(other, graph, sizes, reads_edges, also) is None]
    message = f"impl={impl!r} cannot serve this call: {reason}. These can: {', '.join(able) or 'none'}."
    raise ImportError(message) if _missing_compiler(impl, sizes.device) else ValueError(message)


def run_attention(
    impl: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: AttentionGraph,
    terms: Terms,
    needs_lse: bool,
    more: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Returns out [num_dst_nodes, num_heads, value_dim] in query's dtype, and lse if it is needed.

    Keys and values of the sources after those of `key` and `value` are `more`.
    """
    dtype = query.dtype
    if more is not None and not (impl == "blocks" and _is_plain(terms) and blocks.reads_apart(query, graph.plan())):
        key, value, more = joined_rows(key, more[0]), joined_rows(value, more[1]), None
    plan = None
    if impl == "blocks" and reads_copies(graph, query.device, _is_plain(terms)):
        source, plan = _copies(graph)
        impl, key, value = "fused", key.index_select(0, source), value.index_select(0, source)
    # these read half precision, but what edge features add to fused's output must not be rounded before the sum
    if impl == "blocks":
        reads_half = takes_varlen(graph, query.device, dtype, _is_plain(terms))
    else:
        reads_half = impl == "flex" or (impl == "fused" and terms.edge_value_weight is None)
    if dtype in HALF and not reads_half:
        query, key, value = _widened(impl, query, key, value)
    with _full_precision(query.device):
        if impl == "sdpa":
            watches = _may_hold_examples(graph) and _can_watch(query.device)
            over_edges = partial(_over_edges, graph, terms.scale) if watches else None
            hidden = _mask(graph, query.dtype)
            return sdpa.attention(query, key, value, hidden, scale=terms.scale, over_edges=over_edges).to(dtype), None
        if impl == "flex":
            return flex.attention(query, key, value, _block_mask(graph), scale=terms.scale, needs_lse=needs_lse)
        if impl == "fused" and _has_few_types(terms):
            out, lse = _run_typed(query, key, value, plan or graph.enumerate().plan(), terms)
            return out.to(dtype), lse
        terms = terms.listed(use_kernels=_uses_kernels(impl))
        if impl == "dense":
            plan = graph.enumerate().plan()
            given = {name: term for name, term in terms._asdict().items() if name != "edge_type"}
            out, dense_lse = dense.attention(query, key, value, plan, **given)
            return out.to(dtype), dense_lse
        out, out_attr, lse = _run_folded(impl, query, key, value, graph, terms, needs_lse, more, plan)
        out = _add_edge_values(impl, out, out_attr, terms)
    return out.to(dtype), lse


def _over_edges(graph: AttentionGraph, scale: float, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Returns the output of a plain call from the edges alone, whatever lies at other nodes."""
    run = _FOLDED[_rest_impl(query.device)].attention
    return run(query, key, value, graph.enumerate().plan(), scale=scale)[0]


def _widened(impl: str, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what half precision is computed from: float32, but for keys and values that a kernel reads as they are.

    Its output has query's dtype, so that this one is cast; the others are read once an edge.
    """
    if impl == "fused" and _reads_mixed(query.device):
        return query.float(), key, value
    return query.float(), key.float(), value.float()


def _reads_mixed(device: torch.device) -> bool:
    """Returns whether fused's kernels take a query in float32 beside keys and values in half precision."""
    return device.type == "cuda"


def _mask(graph: AttentionGraph, dtype: torch.dtype) -> Tensor | None:
    """Returns sdpa's mask, which is made once a graph and dtype; None where every pair is an edge."""
    if torch.compiler.is_compiling():  # one program serves many graphs, so it reads no number of edges and no note
        return sdpa.mask(graph.enumerate().plan(), dtype)
    call, notes = ("sdpa's mask", dtype), graph.notes
    if call not in notes:
        is_full = graph.num_edges == graph.num_dst_nodes * graph.num_src_nodes
        with torch.inference_mode(False):  # a mask that is kept must serve training as well
            notes[call] = None if is_full else sdpa.mask(graph.enumerate().plan(), dtype)
    return notes[call]


def _block_mask(graph: AttentionGraph) -> Any:
    """Returns flex's BlockMask, which is made once a graph."""
    notes = graph.notes
    if "flex's mask" not in notes:
        with torch.inference_mode(False):
            notes["flex's mask"] = graph.to_block_mask(TILE)
    return notes["flex's mask"]


def run_logits(impl: str, query: Tensor, key: Tensor, graph: AttentionGraph, terms: Terms) -> Tensor:
    """Returns the logits of every listed edge, [num_edges, num_heads], clipped and biased, in the computing dtype."""
    plan, terms = graph.enumerate().plan(), terms.listed()
    if query.dtype in HALF:
        query, key = query.float(), key.float()
    with _full_precision(query.device):
        if impl == "dense":
            of_pairs = dense.logits(
                query,
                key,
                plan,
                edge_bias=terms.edge_bias,
                edge_attr=terms.edge_attr,
                edge_key_weight=terms.edge_key_weight,
                scale=terms.scale,
                logit_clip=terms.logit_clip,
            )
            return of_pairs[plan.dst, plan.src]
        run = _FOLDED[impl].logits
        query_attr = _query_attr(impl, query, terms)
        scores = run(query, key, plan, query_attr=query_attr, edge_attr=terms.edge_attr, scale=terms.scale)
        if terms.logit_clip is not None:
            scores = scores.clamp(-terms.logit_clip, terms.logit_clip)
        return scores if terms.edge_bias is None else scores + terms.edge_bias


def run_weights(impl: str, query: Tensor, key: Tensor, graph: AttentionGraph, terms: Terms) -> Tensor:
    """Returns the softmax of every listed edge, [num_edges, num_heads], before gates and dropout, in the computing
    dtype."""
    if impl == "fused":
        nothing = key.new_empty(*key.shape[:2], 0)
        return _run_fused_with_weights(query, key, nothing, graph, terms)[1]
    scores, plan = run_logits(impl, query, key, graph, terms), graph.enumerate().plan()
    if plan.head_mask is not None:
        scores = scores.masked_fill(~plan.head_mask, -torch.inf)
    return softmax_and_lse(scores, plan.dst, graph.num_dst_nodes, plan.target_ptr)[0]


def run_with_weights(
    impl: str, query: Tensor, key: Tensor, value: Tensor, graph: AttentionGraph, terms: Terms
) -> tuple[Tensor, Tensor]:
    """Returns `run_attention`'s out and `run_weights`; fused makes both in one pass."""
    if impl == "fused":
        return _run_fused_with_weights(query, key, value, graph, terms)
    out, _ = run_attention(impl, query, key, value, graph, terms, needs_lse=False)
    return out, run_weights(impl, query, key, graph, terms)


def _run_fused_with_weights(
    query: Tensor, key: Tensor, value: Tensor, graph: AttentionGraph, terms: Terms
) -> tuple[Tensor, Tensor]:
    plan, terms, dtype = graph.enumerate().plan(), terms.listed(use_kernels=has_numba()), query.dtype
    if dtype in HALF and terms.edge_value_weight is not None:
        query, key, value = _widened("fused", query, key, value)
    with _full_precision(query.device):
        if terms.edge_attr is not None:
            out, _, weights = _run_featured(query, key, value, plan, terms, wants_weights=True)
            return out.to(dtype), weights
        out, _, weights = fused.attention_and_weights(query, key, value, plan, **_of_softmax(terms, plan))
    return out.to(dtype), weights


def _of_softmax(terms: Terms, plan: Plan) -> dict[str, Any]:
    """Returns what fused is told beside features."""
    return {
        "edge_bias": terms.edge_bias,
        "edge_gate": terms.edge_gate,
        "head_mask": plan.head_mask,
        "scale": terms.scale,
        "logit_clip": terms.logit_clip,
        "dropout_p": terms.dropout_p,
        "seed": terms.seed,
    }


def _run_featured(
    query: Tensor, key: Tensor, value: Tensor, plan: Plan, terms: Terms, wants_weights: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns out, lse, and weights where they are wanted."""
    assert terms.edge_attr is not None
    return featured.attention(
        query, key, value, plan,
        edge_attr=terms.edge_attr,
        edge_key_weight=terms.edge_key_weight,
        edge_value_weight=terms.edge_value_weight,
        wants_weights=wants_weights,
        **_of_softmax(terms, plan),
    )  # fmt: skip


def _add_edge_values(impl: str, out: Tensor, out_attr: Tensor | None, terms: Terms) -> Tensor:
    """Adds what edge features bring to the values: Σ w (W a) = W Σ w a, on the nodes."""
    if terms.edge_value_weight is None or out_attr is None:
        return out
    return out + _project(impl, out_attr, terms.edge_value_weight.transpose(1, 2))


def _run_folded(
    impl: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: AttentionGraph,
    terms: Terms,
    needs_lse: bool,
    more: tuple[Tensor, Tensor] | None,
    plan: Plan | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Runs an implementation that takes edge features on the node side: q·(W a) = (Wᵀq)·a.

    Another plan than that of the listed graph is `plan`.
    """
    if impl == "fused" and terms.edge_attr is not None:
        out, lse, _ = _run_featured(query, key, value, plan or graph.enumerate().plan(), terms)
        return out, None, lse
    shared: dict[str, Any] = {
        "query_attr": _query_attr(impl, query, terms),
        "scale": terms.scale,
        "logit_clip": terms.logit_clip,
        "dropout_p": terms.dropout_p,
        "seed": terms.seed,
    }
    per_edge: dict[str, Any] = {
        "edge_attr": terms.edge_attr,
        "edge_bias": terms.edge_bias,
        "edge_gate": terms.edge_gate,
    }
    if impl != "blocks":
        plan = plan or graph.enumerate().plan()
        return _FOLDED[impl].attention(query, key, value, plan, head_mask=plan.head_mask, **shared, **per_edge)
    plan = graph.plan()
    rest = None
    if plan.src.shape[0] or plan.groups is None:
        rest_impl = _rest_impl(query.device)
        on_rest: dict[str, Any] = {
            name: x if x is None or plan.edge_id is None else x[plan.edge_id] for name, x in per_edge.items()
        }
        q, k, v = query, key, value
        if query.dtype in HALF and rest_impl != "fused":
            q, k, v = query.float(), key.float(), value.float()
        rest = _FOLDED[rest_impl].attention(
            q, k, v, plan, head_mask=plan.head_mask, edge_id=plan.edge_id, **shared, **on_rest
        )
        if plan.groups is None:
            return rest
    if takes_varlen(graph, query.device, query.dtype, _is_plain(terms)):
        return varlen.attention(query, key, value, plan, scale=terms.scale, rest=rest)
    options: dict[str, Any] = {"more": more, "rest": rest, "needs_lse": needs_lse}
    return blocks.attention(query, key, value, plan, **options, **shared, **per_edge)


def reads_copies(graph: AttentionGraph, device: torch.device, is_plain: bool) -> bool:
    """Returns whether blocks run through fused, over copies of their sources that lie in ranges.

    Args:
        is_plain: as in `takes_varlen`.
    """
    if is_plain or graph.blocks is None or device.type != "cpu" or not has_numba() or torch.compiler.is_compiling():
        return False
    plan = graph.plan()
    has_places = plan.buckets[0].first is not None and plan.head_mask is None
    return has_places and graph.num_edges <= MAX_ENUMERATED_EDGES


def _copies(graph: AttentionGraph) -> Copies:
    """Returns the copies of a graph's sources, made once a graph."""
    if "copies" not in graph.notes:
        with torch.inference_mode(False):  # kept, so they must serve training as well
            graph.notes["copies"] = copies_of(graph.plan())
    return graph.notes["copies"]


def takes_varlen(graph: AttentionGraph, device: torch.device, dtype: torch.dtype, is_plain: bool) -> bool:
    """Returns whether blocks run as sequences of variable length, not padded.

    Args:
        is_plain: whether the call passes neither per-edge arguments nor dropout nor logit_clip.
    """
    if not is_plain or graph.blocks is None or not varlen.serves(graph.plan(), device, dtype):
        return False
    return is_proved("varlen", device)


def _is_plain(terms: Terms) -> bool:
    return not terms.reads_edges and terms.logit_clip is None


def _has_few_types(terms: Terms) -> bool:
    """Whether numbers per target, head and type can stand for what edges are given: a gate alone gains nothing."""
    tables = terms.edge_attr, terms.edge_bias
    rows = next((table.shape[0] for table in tables if table is not None), MAX_TYPES + 1)
    return terms.edge_type is not None and rows <= MAX_TYPES


def _run_typed(query: Tensor, key: Tensor, value: Tensor, plan: Plan, terms: Terms) -> tuple[Tensor, Tensor | None]:
    """Runs fused over types of edges: what a type adds to a logit is a number per target and head, and values gather
    the sum of its weights: Σ_e w_e W a_e = Σ_t (Σ_{e of type t} w_e) W a_t."""
    table, bias, key_weight, value_weight = (
        terms.edge_attr, terms.edge_bias, terms.edge_key_weight, terms.edge_value_weight
    )  # fmt: skip
    query_attr = None
    wide = query.float() if query.dtype in HALF else query
    if key_weight is not None:
        assert table is not None
        of_types = torch.einsum("hda,ya->hdy", key_weight, table)
        query_attr = _project("fused", wide, of_types)  # [num_dst_nodes, num_heads, num_types]
    edge_bias = None
    if bias is not None and (terms.logit_clip is not None or terms.scale == 0):
        edge_bias = terms.of_edges(bias, has_numba())  # added after the clip, so each edge needs its own
    elif bias is not None:
        added = (bias / terms.scale).t().expand(query.shape[1], -1)
        query_attr = added.expand(query.shape[0], -1, -1) if query_attr is None else query_attr + added
    if query_attr is None:
        rows = (table if table is not None else bias).shape[0]  # type: ignore[union-attr]
        query_attr = wide.new_zeros(*query.shape[:2], rows)
    out, type_weight, lse = fused.attention(
        query, key, value, plan,
        query_attr=query_attr,
        edge_type=terms.edge_type,
        edge_bias=edge_bias,
        edge_gate=terms.of_edges(terms.edge_gate, has_numba()),
        head_mask=plan.head_mask,
        scale=terms.scale,
        logit_clip=terms.logit_clip,
        dropout_p=terms.dropout_p,
        seed=terms.seed,
    )  # fmt: skip
    if value_weight is not None:
        assert table is not None and type_weight is not None
        of_types = torch.einsum("hda,ya->hyd", value_weight, table)
        out = out + _project("fused", type_weight, of_types)
    return out, lse


def _query_attr(impl: str, query: Tensor, terms: Terms) -> Tensor | None:
    """Wᵀq [num_dst_nodes, num_heads, edge_dim]; zeros where edge features enter the values only."""
    if terms.edge_attr is None:
        return None
    query = query.float() if query.dtype in HALF else query
    if terms.edge_key_weight is None:
        return query.new_zeros(*query.shape[:2], terms.edge_attr.shape[1])
    return _project(impl, query, terms.edge_key_weight)


def _project(impl: str, x: Tensor, matrices: Tensor) -> Tensor:
    return project_heads(x, matrices, use_kernels=_uses_kernels(impl))


def _uses_kernels(impl: str) -> bool:
    return impl in ("fused", "blocks") and has_numba()


def _full_precision(device: torch.device) -> contextlib.AbstractContextManager:
    """Inside, autocast is off: sums and maxima stay in float32."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()
