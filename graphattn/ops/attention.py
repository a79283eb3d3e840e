"""The verb: attention over the edges of a graph, by any implementation.

Which mechanism needs which argument (the seats of `graphattn.nn`, and the papers they come from):

| mechanism | what it uses here |
|---|---|
| scaled dot product, windows, BigBird, Longformer | `query`, `key`, `value`, the graph |
| Graphormer, T5, hop distances, kinds of edges | `edge_bias` and others as tables with a row per `edge_type` |
| EGT | `logit_clip`, `edge_bias`, `edge_gate`; `edge_logits` for the edge state, `segment_sum` of gates for degrees |
| PyG `TransformerConv`, weather models | `edge_attr` with `edge_key_weight` and `edge_value_weight` (shared by heads) |
| SSA, subsampled sources | a block of the graph, `compact_sources`; rectangular `query` × `key` |
| learned top-k edges, Pyramidion scores | `edge_bias` carries the gradient to the scorer, as `attention_weights` does |
| DSP and other head pruning | `head_gate` per layer; after pruning fewer heads, or `head_mask` of the graph |
| symmetric and pairwise scores | key is query, or key = B·query: an ordinary call |
| Combiner | `segment_max` for the summaries, then two calls on bipartite graphs, the second under one softmax |
| merging parts computed apart | `attention_with_lse`: out = Σ softmax(lse)_p · out_p |
| dropout of weights | `dropout_p` and `seed`, a stated hash (`graphattn.ops.dropout`), the same everywhere |
| pictures and pathways | `attention_weights`, `attention_with_weights`: O(edges · heads), before dropout and gates |
| recording a whole model | nothing: every call tells its weights to who listens (`graphattn.ops.listening`) |
"""

from typing import Any

import torch
from torch import Tensor

from graphattn.graph import AttentionGraph
from graphattn.ops._arguments import (
    HALF,
    Terms,
    check_features,
    check_head_gate,
    check_tables,
    check_terms,
    joined_rows,
)
from graphattn.ops._costs import NAMES, constants_for
from graphattn.ops._dispatch import (
    IMPLEMENTATIONS,
    Sizes,
    choose,
    estimate,
    is_estimated,
    mixes_examples,
    reason_against,
    resolve,
    run_attention,
    run_logits,
    run_weights,
    run_with_weights,
)
from graphattn.ops._variant import variant
from graphattn.ops.capability import supports
from graphattn.ops.dropout import dropout_factor
from graphattn.ops.listening import Call, Listener, Receive, announce, willing
from graphattn.ops.memory_floor import floor_bytes


def graph_attention(
    query: Tensor,
    key: Tensor | tuple[Tensor, Tensor],
    value: Tensor | tuple[Tensor, Tensor],
    graph: AttentionGraph,
    *,
    edge_bias: Tensor | None = None,
    edge_gate: Tensor | None = None,
    head_gate: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_key_weight: Tensor | None = None,
    edge_value_weight: Tensor | None = None,
    edge_type: Tensor | None = None,
    scale: float | None = None,
    logit_clip: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""Lets every target attend over its incoming edges.

    For target i and head h, over its edges e = (j → i):

        logit_e = clip(scale · q_i·(k_j + Wk a_e)) + bias_e
        alpha   = softmax of logit over the edges of i
        out_i   = head_gate_h · Σ_e gate_e · drop(alpha_e) · (v_j + Wv a_e)

    Args:
        query: [num_dst_nodes, num_heads, head_dim].
        key: [num_src_nodes, num_key_heads, head_dim]; num_key_heads divides num_heads (grouped heads).
        value: [num_src_nodes, num_key_heads, value_dim]. Key and value may both be pairs of such tensors, whose rows
            together are the sources, as a Combiner's tokens and summaries: blocks on the CPU read them where they lie,
            everything else joins them first.
        graph: who may look at whom; per-edge arguments follow `graph.edge_index`.
        edge_bias: [num_edges], [num_edges, 1] or [num_edges, num_heads], natural-log scale, added to logits.
        edge_gate: the same shapes, multiplied into the weights after the softmax (rows no longer sum to one).
        head_gate: [num_heads], multiplied into each head's output.
        edge_attr: [num_edges, edge_dim], features shared by heads.
        edge_key_weight: [num_heads, head_dim, edge_dim], maps edge_attr to keys.
        edge_value_weight: [num_heads, value_dim, edge_dim], maps edge_attr to values.
        edge_type: int64 [num_edges]; edge_bias, edge_gate and edge_attr then have one row per type, and edge e reads
            row edge_type[e] of each. Few types are far cheaper than as many rows as edges: a bias by distance or by
            kind is `edge_bias=table, edge_type=distance`.
        scale: multiplies the dot product; None means 1 / sqrt(head_dim).
        logit_clip: limits the scaled dot product to [−logit_clip, logit_clip], before the bias.
        dropout_p: probability of dropping a weight; kept ones are divided by 1 − dropout_p.
        seed: int64, one element; the same seed drops the same edges. None draws one from torch's default generator.
        impl: "auto", "dense" (the specification), "scatter", "gather" (as many edges at every target), "blocks",
            "fused", "sdpa" (small graphs without per-edge arguments) or "flex" (CUDA, the same calls, never of itself);
            `explain` shows the choice.

    Returns:
        [num_dst_nodes, num_heads, value_dim] in query's dtype. A target without an edge, or whose logits are all −inf,
        gets exactly zero, with finite gradients. Half precision is summed in float32. A NaN stays with the targets
        that see it in "scatter", "gather" and "fused"; "dense", "blocks", "sdpa" and "flex" may spread it, and "auto"
        takes these where it stays in its example of a batch.

    Raises:
        TypeError, ValueError: naming the argument, the rule, the value and the next step; also if the named `impl`
            cannot serve the call, with those that can. Under `torch.func.vmap`, `grad` and `jvp` these are dense,
            scatter and gather; a batch is faster joined into one graph by `disjoint_union`.

    Source: Vaswani et al. 2017, sec. 3.2, on an explicit edge set; gates, clip and bias as in EGT (Hussain et al.
    2022), whose degree scaler is left to the caller.

    >>> import torch, graphattn as ga
    >>> graph = ga.AttentionGraph(torch.tensor([[0, 1], [0, 0]]), num_src_nodes=2)
    >>> query = key = torch.zeros(2, 1, 3)
    >>> graph_attention(query, key, torch.tensor([[[2.0]], [[4.0]]]), graph).flatten()
    tensor([3., 0.])
    """
    query, key, value, more = check_tables(query, key, value, graph)
    terms = check_terms(
        query,
        graph,
        value_dim=value.shape[2],
        edge_bias=edge_bias,
        edge_gate=edge_gate,
        edge_attr=edge_attr,
        edge_key_weight=edge_key_weight,
        edge_value_weight=edge_value_weight,
        edge_type=edge_type,
        scale=scale,
        logit_clip=logit_clip,
        dropout_p=dropout_p,
        seed=seed,
    )
    chosen = resolve(impl, graph, _sizes(query, value.shape[2]), terms.reads_edges, _also(terms))
    gate = None if head_gate is None else check_head_gate(head_gate, query)
    out, _ = _run(chosen, query, key, value, graph, terms, gate, more=more)
    return out if gate is None else out * gate.to(out.dtype)[:, None]


def attention_with_lse(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: AttentionGraph,
    *,
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
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Returns `graph_attention` and the log-sum-exp of each target's logits, so that parts can be merged exactly.

    Two graphs that share no edge merge as out = Σ_p softmax(lse)_p · out_p, lse = logsumexp(lse_p).

    Args:
        query, key, value, graph and the rest: as in `graph_attention`; a head_gate belongs after the merge.

    Returns:
        out: [num_dst_nodes, num_heads, value_dim].
        lse: [num_dst_nodes, num_heads], natural log, −inf where a target sees nothing; differentiable.

    >>> import torch, graphattn as ga
    >>> graph = ga.AttentionGraph(torch.tensor([[0, 1], [0, 0]]), num_src_nodes=2)
    >>> zeros = torch.zeros(2, 1, 3)
    >>> attention_with_lse(zeros, zeros, zeros, graph)[1].flatten()
    tensor([0.6931,   -inf])
    """
    query, key, value = check_features(query, key, value, graph)
    terms = check_terms(
        query,
        graph,
        value_dim=value.shape[2],
        edge_bias=edge_bias,
        edge_gate=edge_gate,
        edge_attr=edge_attr,
        edge_key_weight=edge_key_weight,
        edge_value_weight=edge_value_weight,
        edge_type=edge_type,
        scale=scale,
        logit_clip=logit_clip,
        dropout_p=dropout_p,
        seed=seed,
    )
    chosen = resolve(impl, graph, _sizes(query, value.shape[2]), terms.reads_edges, _also(terms, "lse"))
    out, lse = _run(chosen, query, key, value, graph, terms, needs_lse=True)
    assert lse is not None
    return out, lse


def attention_weights(
    query: Tensor,
    key: Tensor,
    graph: AttentionGraph,
    *,
    edge_bias: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_key_weight: Tensor | None = None,
    edge_type: Tensor | None = None,
    scale: float | None = None,
    logit_clip: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Returns the attention weight of every edge, before dropout and gates, differentiable.

    Args:
        query, key, graph and the score arguments: as in `graph_attention`.
        impl: "auto", "dense", "scatter", "gather" or "fused".

    Returns:
        alpha [num_edges, num_heads] in the order of `graph.edge_index`; sums to one over the edges of a target, zero
        where `graph.head_mask` hides the edge from a head. In memory O(edges · heads) under "fused".

    >>> import torch, graphattn as ga
    >>> graph = ga.AttentionGraph(torch.tensor([[0, 1], [0, 0]]), num_src_nodes=2)
    >>> attention_weights(torch.zeros(2, 1, 3), torch.zeros(2, 1, 3), graph).flatten()
    tensor([0.5000, 0.5000])
    """
    query, key, listed, chosen, terms = _scored(
        query,
        key,
        graph,
        impl,
        edge_bias=edge_bias,
        edge_attr=edge_attr,
        edge_key_weight=edge_key_weight,
        edge_type=edge_type,
        scale=scale,
        logit_clip=logit_clip,
    )
    return run_weights(chosen, query, key, listed, terms).to(query.dtype)


def attention_with_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: AttentionGraph,
    *,
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
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Returns `graph_attention` and `attention_weights`, which "fused" makes in one pass.

    Args:
        query, key, value, graph and the rest: as in `graph_attention`.
        impl: "auto", "dense", "scatter", "gather" or "fused".

    Returns:
        out: [num_dst_nodes, num_heads, value_dim].
        alpha: [num_edges, num_heads] in the order of `graph.edge_index`, before dropout and gates; differentiable.

    >>> import torch, graphattn as ga
    >>> graph = ga.AttentionGraph(torch.tensor([[0, 1], [0, 0]]), num_src_nodes=2)
    >>> out, alpha = attention_with_weights(torch.zeros(2, 1, 3), torch.zeros(2, 1, 3), torch.ones(2, 1, 1), graph)
    >>> out.flatten(), alpha.flatten()
    (tensor([1., 0.]), tensor([0.5000, 0.5000]))
    """
    query, key, value = check_features(query, key, value, graph)
    query, key, listed, chosen, terms = _scored(
        query,
        key,
        graph,
        impl,
        value_dim=value.shape[2],
        edge_bias=edge_bias,
        edge_gate=edge_gate,
        edge_attr=edge_attr,
        edge_key_weight=edge_key_weight,
        edge_value_weight=edge_value_weight,
        edge_type=edge_type,
        scale=scale,
        logit_clip=logit_clip,
        dropout_p=dropout_p,
        seed=seed,
    )
    out, alpha = run_with_weights(chosen, query, key, value, listed, terms)
    _announce(willing(), out, alpha, value, listed, terms, None)
    return out, alpha.to(query.dtype)


def edge_logits(
    query: Tensor,
    key: Tensor,
    graph: AttentionGraph,
    *,
    edge_bias: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_key_weight: Tensor | None = None,
    edge_type: Tensor | None = None,
    scale: float | None = None,
    logit_clip: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Returns the logit of every edge, clip(scale · q_i·(k_j + Wk a_e)) + bias_e, as EGT's edge state needs it.

    Args:
        query, key, graph and the score arguments: as in `graph_attention`.
        impl: "auto", "dense", "scatter", "gather" or "fused".

    Returns:
        [num_edges, num_heads] in the order of `graph.edge_index`, also for heads that a `head_mask` hides.

    >>> import torch, graphattn as ga
    >>> graph = ga.AttentionGraph(torch.tensor([[0, 1], [0, 0]]), num_src_nodes=2)
    >>> edge_logits(torch.ones(2, 1, 4), torch.ones(2, 1, 4), graph).flatten()
    tensor([2., 2.])
    """
    query, key, listed, chosen, terms = _scored(
        query,
        key,
        graph,
        impl,
        edge_bias=edge_bias,
        edge_attr=edge_attr,
        edge_key_weight=edge_key_weight,
        edge_type=edge_type,
        scale=scale,
        logit_clip=logit_clip,
    )
    return run_logits(chosen, query, key, listed, terms).to(query.dtype)


def explain(query: Tensor, graph: AttentionGraph, *, value_dim: int | None = None, reads_edges: bool = False) -> None:
    """Prints which implementation `impl="auto"` takes, what it expects of each, why others lost, by whose constants.

    Also which of its kernels the choice runs, the bytes that the call moves at least, where each head has keys of its
    own, and, where a calibration measured how fast this machine copies, what share of that memory floor is expected to
    be reached.

    Args:
        query: [num_dst_nodes, num_heads, head_dim]; only its sizes, dtype and device matter.
        graph: the graph of the call.
        value_dim: width of the values; None means head_dim.
        reads_edges: whether the call passes per-edge arguments or dropout.

    >>> import torch, graphattn as ga
    >>> explain(torch.zeros(2, 1, 4), ga.AttentionGraph(torch.tensor([[0, 1], [0, 0]]), 2), reads_edges=True)
    ... # doctest: +ELLIPSIS
    AttentionGraph(2 edges: 2 targets × 2 sources, 2 edges)
    ...
    """
    sizes = _sizes(query, query.shape[2] if value_dim is None else value_dim)
    chosen = choose(graph, sizes, reads_edges)
    print(repr(graph))
    print(f"  {sizes.num_heads} heads × {sizes.head_dim}, {sizes.dtype} on {sizes.device}: auto takes {chosen!r}")
    best = estimate(chosen, graph, sizes, reads_edges)
    for impl in IMPLEMENTATIONS:
        reason = reason_against(impl, graph, sizes, reads_edges)
        if reason is not None:
            print(f"  {impl:8} cannot: {reason}")
            continue
        if not is_estimated(impl, sizes.device):
            print(f"  {impl:8} can, if it is named: {_why_only_named(impl)}")
            continue
        expected = estimate(impl, graph, sizes, reads_edges)
        verdict = "chosen" if impl == chosen else f"{expected / best:.1f} times the chosen one"
        if impl != chosen and mixes_examples(impl, graph, query.device):
            verdict += "; a NaN of one example would reach the others of its batch"
        print(f"  {impl:8} about {expected / 1e3:.3g} ms forward and backward, {verdict}")
    print(f"  {chosen} runs as: {variant(chosen, graph, sizes, reads_edges)}")
    print(f"  memory: {_against_floor(graph, sizes, reads_edges, best)}")
    print(f"  constants: {constants_for(sizes.device.type).source}")


def _why_only_named(impl: str) -> str:
    if impl in NAMES:
        return "it was not right when this machine was calibrated"
    return "it compiles a program for each new size of graph, for seconds"


def _against_floor(graph: AttentionGraph, sizes: Sizes, reads_edges: bool, microseconds: float) -> str:
    """Says what a plain call moves at least, and what share of that floor its expected time reaches."""
    of_targets, of_sources = (
        num_nodes * sizes.num_heads * sizes.dtype.itemsize for num_nodes in (graph.num_dst_nodes, graph.num_src_nodes)
    )
    leaves = of_targets * sizes.head_dim + of_sources * (sizes.head_dim + sizes.value_dim)
    floor = floor_bytes(graph, leaves=leaves, others=0, out=of_targets * sizes.value_dim, num_heads=sizes.num_heads)
    moved = f"{floor.forward / 1e6:.3g} MB forward, {floor.both / 1e6:.3g} MB with backward at least, each byte once"
    if reads_edges:
        moved += ", beside what is told per edge"
    rate = constants_for(sizes.device.type).bytes_per_second
    if rate is None:
        device = "" if sizes.device.type == "cpu" else f" --device {sizes.device.type}"
        return f"{moved}; how fast this machine copies is measured by `graphattn info --calibrate{device}`"
    least = 1e6 * floor.both / rate
    share = f"the choice is expected to reach {least / microseconds:.0%} of that floor"
    return f"{moved}: {least / 1e3:.3g} ms at the {rate / 1e9:.4g} GB/s of a large copy; {share}"


def _run(
    impl: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: AttentionGraph,
    terms: Terms,
    head_gate: Tensor | None = None,
    needs_lse: bool = False,
    more: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Runs a call, and tells its weights to those who listen; out and its gradient are the same if nobody does."""
    listeners = willing()
    if not listeners:
        return run_attention(impl, query, key, value, graph, terms, needs_lse, more)
    if more is not None:
        key, value = joined_rows(key, more[0]), joined_rows(value, more[1])
    listed, lse = graph.enumerate(), None
    # as the call would run unheard: types of edges run another way, and weights that nobody differentiates would slow
    # down the backward of a pass that makes them
    if impl == "fused" and terms.edge_type is None and not needs_lse and not torch.is_grad_enabled():
        out, alpha = run_with_weights(impl, query, key, value, listed, terms)
    else:
        out, lse = run_attention(impl, query, key, value, graph, terms, needs_lse)
        with torch.no_grad():
            able = _resolve_listed(impl if supports(impl, "weights") else "auto", query, listed, terms)
            alpha = run_weights(able, query, key, listed, terms.of_scores())
    _announce(listeners, out, alpha, value, listed, terms, head_gate)
    return out, lse


def _announce(
    listeners: tuple[Listener, ...],
    out: Tensor,
    alpha: Tensor,
    value: Tensor,
    graph: AttentionGraph,
    terms: Terms,
    head_gate: Tensor | None,
) -> None:
    """Tells the weights of a call, and how to have their gradient: it comes by `out`, to which no head gate applies."""
    if not listeners:
        return
    value = value.detach()

    def on_gradient(receive: Receive) -> None:
        out.register_hook(lambda grad: receive(_weights_gradient(grad, value, graph, terms)))

    call = Call(
        "attention",
        graph,
        alpha.detach(),
        terms.of_edges(terms.edge_gate),
        None if head_gate is None else head_gate.detach(),
        value,
        on_gradient if out.requires_grad else None,
    )
    announce(listeners, call)


@torch.no_grad()
def _weights_gradient(grad_out: Tensor, value: Tensor, graph: AttentionGraph, terms: Terms) -> Tensor:
    """Returns gate_e · drop · grad_out_i·(v_j + Wv a_e), which has the form of a logit, [num_edges, num_heads]."""
    if value.dtype in HALF:
        grad_out, value = grad_out.float(), value.float()
    features: dict[str, Any] = {}
    if terms.edge_value_weight is not None:
        features = {
            "edge_attr": terms.edge_attr, "edge_key_weight": terms.edge_value_weight, "edge_type": terms.edge_type
        }  # fmt: skip
    slope = edge_logits(grad_out.contiguous(), value, graph, scale=1.0, **features)
    if (edge_gate := terms.of_edges(terms.edge_gate)) is not None:
        slope = slope * edge_gate
    if terms.dropout_p > 0:
        assert terms.seed is not None
        edge_id = torch.arange(graph.num_edges, device=slope.device)
        slope = slope * dropout_factor(terms.seed, edge_id, slope.shape[1], terms.dropout_p).to(slope.dtype)
    return slope if graph.head_mask is None else slope.masked_fill(~graph.head_mask, 0.0)


def _scored(
    query: Tensor, key: Tensor, graph: AttentionGraph, impl: str, **terms: Any
) -> tuple[Tensor, Tensor, AttentionGraph, str, Terms]:
    """Checks a call that returns a number of every edge: query, key, listed graph, implementation and terms."""
    query, key, _ = check_features(query, key, key, graph)
    checked = check_terms(query, graph, **terms)
    listed = graph.enumerate()
    return query, key, listed, _resolve_listed(impl, query, listed, checked), checked


def _resolve_listed(impl: str, query: Tensor, listed: AttentionGraph, terms: Terms) -> str:
    """Returns an implementation that makes a number of every edge."""
    return resolve(impl, listed, _sizes(query, query.shape[2]), terms.reads_edges, _also(terms, "weights"))


def _also(terms: Terms, *results: str) -> tuple[str, ...]:
    """Returns what a call asks for that not every implementation has, beside numbers of edges."""
    return results if terms.logit_clip is None else ("logit_clip", *results)


def _sizes(query: Tensor, value_dim: int) -> Sizes:
    return Sizes(query.shape[1], query.shape[2], value_dim, query.dtype, query.device)
