"""Files: safetensors, which keep the graph as it is, and npz, which scipy reads as well."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphattn.graph.blocks import Blocks
from graphattn.graph.convert.sparse import target_ptr

if TYPE_CHECKING:
    from graphattn.graph.attention_graph import AttentionGraph

FILE_FORMAT = "graphattn.AttentionGraph.1"
OPTIONAL = ("edge_kind", "head_mask", "src_ptr", "dst_ptr")
# what numpy and zipfile raise over a file that is cut off, altered or none of theirs
UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError)
Path = str | os.PathLike[str]
Read = tuple[dict[str, Tensor], tuple[str, ...], tuple[int, int], str]  # tensors, kinds, (sources, targets), origin


def save(graph: AttentionGraph, path: Path) -> None:
    """Writes the graph to one file, through a temporary name so that a killed process leaves no half file.

    `.safetensors` holds tensors as they are, blocks unlisted, and names in the header. `.npz` holds a CSR matrix as
    `scipy.sparse.save_npz` writes it, bool [num_dst_nodes, num_src_nodes], and beside it kinds, heads and the
    offsets of a batch; blocks are listed there.

    Raises:
        ValueError: if the name of the file ends otherwise.
    """
    write = _by_suffix(path, {".safetensors": _write_safetensors, ".npz": _write_npz})
    unfinished = f"{os.fspath(path)}.{os.getpid()}.part"
    try:
        with open(unfinished, "wb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
        write(graph, unfinished)
        os.chmod(unfinished, mode)  # safetensors makes files that their owner alone may read
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)


def load(cls: type[AttentionGraph], path: Path) -> AttentionGraph:
    """Reads a graph written by `save`, checked as the constructor checks its arguments.

    Of a `.npz` that `scipy.sparse.save_npz` wrote from a CSR matrix, entries that are not zero become edges.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the name ends otherwise, or the file is not such a one, or a damaged one.
    """
    read = _by_suffix(path, {".safetensors": _read_safetensors, ".npz": _read_npz})
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no such file: {os.fspath(path)}. Write one with graph.save(path).")
    fields, kinds, sizes, origin = read(path)
    blocks = Blocks(*(fields[f"blocks.{name}"] for name in Blocks._fields)) if "blocks.dst" in fields else None
    try:
        optional = {name: fields.get(name) for name in OPTIONAL}
        graph = cls(fields["edge_index"], *sizes, blocks=blocks, kinds=kinds, **optional)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(f"{os.fspath(path)} is damaged ({error}). Save the graph again.") from error
    return graph.named(origin)


def _by_suffix(path: Path, known: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in known:
        raise ValueError(
            f"path must end in {' or '.join(known)}, got {os.fspath(path)!r}. .safetensors keeps blocks as they are, "
            ".npz is read by scipy.sparse.load_npz as well."
        )
    return known[suffix]


def _write_safetensors(graph: AttentionGraph, path: str) -> None:
    from safetensors.torch import save_file

    tensors = {"edge_index": graph.explicit_edges}
    tensors |= {name: tensor for name in OPTIONAL if (tensor := getattr(graph, f"_{name}")) is not None}
    if graph.blocks is not None:
        tensors |= {f"blocks.{name}": tensor for name, tensor in graph.blocks._asdict().items()}
    header = {
        "format": FILE_FORMAT,
        "num_src_nodes": str(graph.num_src_nodes),
        "num_dst_nodes": str(graph.num_dst_nodes),
        "kinds": json.dumps(graph.kinds),
        "origin": graph.origin,
    }
    # clones: safetensors refuses tensors that share storage, as src_ptr and dst_ptr of a square graph do
    save_file(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path, metadata=header
    )


def _read_safetensors(path: Path) -> Read:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"{os.fspath(path)} is not a readable safetensors file ({error}). Save the graph again."
        ) from error
    if header.get("format") != FILE_FORMAT:
        raise ValueError(
            f"{os.fspath(path)} must be a graph of format {FILE_FORMAT}, got {header.get('format')!r}. "
            "Write it with AttentionGraph.save."
        )
    needed = {"edge_index"} | ({f"blocks.{name}" for name in Blocks._fields} if "blocks.dst" in tensors else set())
    if missing := needed - tensors.keys():
        raise ValueError(f"{os.fspath(path)} lacks {sorted(missing)}. Save the graph again.")
    try:
        sizes = int(header["num_src_nodes"]), int(header["num_dst_nodes"])
        return tensors, tuple(json.loads(header["kinds"])), sizes, header["origin"]
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{os.fspath(path)} has a damaged header ({error!r}). Save the graph again.") from error


def _write_npz(graph: AttentionGraph, path: str) -> None:
    import numpy as np

    listed = graph.enumerate()
    src, dst = listed.explicit_edges.cpu()
    index = np.int32 if max(src.numel(), graph.num_src_nodes) < 2**31 else np.int64
    arrays = {
        "format": np.array("csr"),
        "shape": np.array([graph.num_dst_nodes, graph.num_src_nodes]),
        "indptr": target_ptr(dst, graph.num_dst_nodes).numpy().astype(index),
        "indices": src.numpy().astype(index),
        "data": np.ones(src.numel(), dtype=bool),
        "kinds": np.array(graph.kinds, dtype=np.str_),
        "origin": np.array(graph.origin),
    }
    for name in OPTIONAL:
        if (tensor := getattr(listed, f"_{name}")) is not None:
            arrays[name] = tensor.cpu().numpy()
    with open(path, "wb") as stream:  # a name would be given the suffix .npz
        np.savez(stream, **arrays)


def _read_npz(path: Path) -> Read:
    import numpy as np

    try:
        file = np.load(os.fspath(path), allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array without a name")
        with file:
            arrays = {name: file[name] for name in file.files}
    except UNREADABLE as error:
        raise ValueError(f"{os.fspath(path)} is not a readable npz file ({error}). Save the graph again.") from error
    if missing := {"format", "shape", "indptr", "indices", "data"} - arrays.keys():
        raise ValueError(f"{os.fspath(path)} lacks {sorted(missing)}. Write it with graph.save or save_npz of scipy.")
    try:
        name = arrays["format"].item()
        if (name.decode() if isinstance(name, bytes) else name) != "csr":
            raise ValueError(f"the format must be 'csr', got {name!r}; call matrix.tocsr() before save_npz")
        num_dst, num_src = (int(size) for size in arrays["shape"])
        indptr, src = (_integers(arrays[name], name) for name in ("indptr", "indices"))
        count = torch.diff(indptr)
        if indptr.numel() != num_dst + 1 or int(indptr[0]) or int(indptr[-1]) != src.numel() or bool((count < 0).any()):
            raise ValueError(f"indptr must rise from 0 to {src.numel()} in {num_dst + 1} entries")
        if arrays["data"].shape != (src.numel(),):
            raise ValueError(f"data must have {src.numel()} entries, got {list(arrays['data'].shape)}")
        stored = torch.from_numpy(arrays["data"] != 0)
        edges = torch.stack([src, torch.repeat_interleave(count, output_size=src.numel())])
        edges = edges if bool(stored.all()) else edges[:, stored]
        tensors = {field: torch.from_numpy(arrays[field]) for field in OPTIONAL if field in arrays}
        kinds = tuple(str(kind) for kind in arrays.get("kinds", ()))
        origin = str(arrays["origin"]) if "origin" in arrays else f"load({os.path.basename(os.fspath(path))})"
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{os.fspath(path)} is damaged ({error}). Save the graph again.") from error
    return tensors | {"edge_index": edges}, kinds, (num_src, num_dst), origin


def _integers(array: Any, name: str) -> Tensor:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be a flat array of integers, got {array.dtype} {list(array.shape)}")
    return torch.from_numpy(array.astype("int64"))
