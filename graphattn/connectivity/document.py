"""Documents: several sequences packed into one, each reading itself alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.connectivity._labels import graph_of_labels
from graphattn.connectivity._nodes import Nodes, as_ints, nodes_of
from graphattn.graph import AttentionGraph, Sizes, node_ptr

Ints = Sequence[int] | Tensor


def document(
    lengths: Ints | None = None,
    *,
    dst_lengths: Ints | None = None,
    ids: Ints | None = None,
    dst_ids: Ints | None = None,
    sizes: Sizes | None = None,
) -> AttentionGraph:
    r"""Connects each token of a packed sequence to the tokens of its document.

    E = {(j → i) : document(i) = document(j)}; Σ_d n_d² edges for documents of n_d tokens, or Σ_d n_d · m_d with
    `dst_lengths` or `dst_ids`. Held as one `graph.blocks` entry per document. Documents of 3, 1 and 2 tokens:

        ■ ■ ■ · · ·
        ■ ■ ■ · · ·
        ■ ■ ■ · · ·
        · · · ■ · ·
        · · · · ■ ■
        · · · · ■ ■

    Args:
        lengths: tokens of each document, one after the other; a sequence of ints or int64 [num_documents]. Of offsets
            (cu_seqlens) pass the differences, `torch.diff(offsets)`.
        dst_lengths: targets of each document in cross attention, as many documents; with `lengths`.
        ids: instead of lengths, the document of each token, [num_nodes], in any order; a negative one is padding, which
            reads nothing and is not read.
        dst_ids: the document of each target in cross attention; with `ids`.
        sizes: int64 [num_graphs], tokens of each row where the tokens are those of a batch of packed rows; no document
            goes on in the next row. None for one row. In self-attention only.

    Returns:
        AttentionGraph of kind "document"; a packed causal mask is `.keep(is_causal)`, which keeps the blocks. With
        `lengths` it is one graph, not a batch: for a batch of sequences of their own call `full(lengths)`.

    Raises:
        TypeError: if the tokens are described by neither a sequence of ints nor an int64 tensor.
        ValueError: if not exactly one of `lengths` and `ids` is given, a length is negative, the sides differ in
            documents, or documents and `sizes` do not fit.

    Source: Krell et al. 2021 (Efficient Sequence Packing without Cross-contamination), the attention mask of packed
    sequences.

    >>> document([3, 1, 2]).num_edges                                        # 9 + 1 + 4
    14
    >>> document([3, 1, 2]) == document(ids=[0, 0, 0, 1, 5, 5])
    True
    >>> document(ids=[0, 0, -1, 0, 1, -1], sizes=torch.tensor([3, 3])).num_edges   # 4, and 1 + 1
    6
    """
    if (lengths is None) == (ids is None):
        raise ValueError(
            f"document needs either lengths or ids, got {'both' if ids is not None else 'neither'}. "
            "Pass lengths=[3, 1, 2] where documents are contiguous, or ids=[0, 0, 0, 1, 2, 2]."
        )
    for cross, side, other in ((dst_lengths, "lengths", lengths), (dst_ids, "ids", ids)):
        if cross is not None and other is None:
            raise ValueError(f"dst_{side} must come with {side}, got it alone. Describe both sides in the same way.")
        if cross is not None and sizes is not None:
            raise ValueError(f"dst_{side} must come without sizes, got both. Use ids that no two rows share.")
    if lengths is not None:
        source_ids, label = _ids_of_lengths(lengths, "lengths")
        target_ids = source_ids
        if dst_lengths is not None:
            target_ids, dst_label = _ids_of_lengths(dst_lengths, "dst_lengths")
            if len(lengths) != len(dst_lengths):
                raise ValueError(
                    f"lengths and dst_lengths must count the same documents, got {len(lengths)} and "
                    f"{len(dst_lengths)}. Give a document without tokens the length 0."
                )
            label += f", dst_lengths={dst_label}"
    else:
        assert ids is not None
        device = sizes.device if isinstance(sizes, Tensor) else None
        source_ids = as_ints(ids, "ids", "[num_nodes]", device)
        target_ids = source_ids if dst_ids is None else as_ints(dst_ids, "dst_ids", "[num_nodes]", source_ids.device)
        label = f"ids of {source_ids.numel()} tokens"
        label += "" if dst_ids is None else f", of {target_ids.numel()} targets"
    if source_ids.device != target_ids.device:
        raise ValueError(
            f"lengths and dst_lengths must be on one device, got {source_ids.device} and {target_ids.device}. "
            "Move one of them."
        )
    sources = _rows(source_ids, sizes)
    targets = sources if target_ids is source_ids else _rows(target_ids, None)
    if lengths is not None and sizes is not None:
        _check_rows(source_ids, sources)
    origin = f"document({label}{'' if sizes is None else f', {sources.num_graphs} rows'})"
    return graph_of_labels(target_ids, targets, source_ids, sources, kind="document", origin=origin)


def _ids_of_lengths(lengths: Ints, name: str) -> tuple[Tensor, str]:
    """Returns the document of each token, and how `origin` names the lengths."""
    counts = as_ints(lengths, name, "[num_documents]")
    node_ptr(counts, name)  # refuses negative ones
    return torch.repeat_interleave(counts), f"{counts.numel()} documents"


def _rows(ids: Tensor, sizes: Sizes | None) -> Nodes:
    """Reads the rows that the tokens fill, on the device of their ids."""
    if sizes is None:
        return nodes_of(ids.numel())._replace(ptr=torch.tensor([0, ids.numel()], device=ids.device))
    nodes = nodes_of(sizes)
    if nodes.num_nodes != ids.numel():
        raise ValueError(
            f"sizes must add up to the number of tokens, {ids.numel()}, got {nodes.num_nodes}. "
            "Count padding as tokens with a negative id."
        )
    return nodes._replace(ptr=nodes.ptr.to(ids.device), batch_ptr=nodes.ptr.to(ids.device))


def _check_rows(ids: Tensor, rows: Nodes) -> None:
    """Raises where a document goes on past the end of a row."""
    cut = rows.ptr[1:-1]
    cut = cut[(cut > 0) & (cut < ids.numel())]
    goes_on = ids[cut] == ids[cut - 1]
    if bool(goes_on.any()):
        raise ValueError(
            f"a document must end where its row ends, got document {int(ids[cut][goes_on][0])} in two rows. "
            "Cut it into one length per row."
        )
