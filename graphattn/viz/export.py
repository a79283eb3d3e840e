"""Pathways for other programs: networkx, GraphML, GEXF, JSON and DOT."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphattn.data.files import write_whole

if TYPE_CHECKING:
    from networkx import MultiDiGraph

    from graphattn.viz.pathways import Pathways

THIN, WIDE = 0.2, 4.0  # points, of an edge in DOT whose weight is zero, and of the largest
# What XML 1.0 cannot hold, not even escaped, and \r, which its readers turn into \n.
NOT_IN_XML = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def to_networkx(pathways: Pathways) -> MultiDiGraph:
    """Returns a networkx `MultiDiGraph` of plain numbers and strings.

    Nodes are numbered as in the arrays and carry rank, layer (the rank again, where
    `networkx.multipartite_layout(graph, subset_key="layer")` looks for it), element, kind and label. Edges, whose keys
    are their positions in the arrays, carry weight, head, layer and kind; the graph carries method, threshold, kept
    and caption.
    """
    from networkx import MultiDiGraph

    graph = MultiDiGraph(
        method=pathways.method, threshold=pathways.threshold, kept=float(pathways.kept), caption=pathways.caption
    )
    per_node = (pathways.rank.tolist(), pathways.element.tolist(), pathways.node_kind.tolist(), pathways.node_labels())
    for node, (rank, element, kind, label) in enumerate(zip(*per_node)):
        graph.add_node(node, rank=rank, layer=rank, element=element, kind=pathways.node_kinds[kind], label=label)
    per_edge = (pathways.weight, pathways.head, pathways.layer, pathways.edge_kind)
    rows = zip(*pathways.edge_index.tolist(), *(values.tolist() for values in per_edge))
    for edge, (src, dst, weight, head, layer, kind) in enumerate(rows):
        graph.add_edge(src, dst, key=edge, weight=weight, head=head, layer=layer, kind=pathways.edge_kinds[kind])
    return graph


def write(pathways: Pathways, path: str | os.PathLike[str]) -> Path:
    r"""Writes the graph of `to_networkx` to a file, whole or not at all.

    Labels are text. Where a format cannot hold a character (control characters in XML and DOT) its escape is written,
    such as \x00; all others come back as they were.

    Args:
        pathways: what to write.
        path: its ending says the format: .graphml and .gexf (Gephi, Cytoscape), .json (the node-link form of
            `networkx.node_link_graph(data, edges="edges")`), .dot (Graphviz).

    Returns:
        where the file is.

    Raises:
        ValueError: if it ends otherwise.
        OSError: if the directory is missing or not writable, or the disk is full.
    """
    path = Path(path).expanduser()
    if path.suffix not in WRITERS:
        raise ValueError(f"path must end in {', '.join(WRITERS)}, got {path.name!r}. Rename the file.")
    write_whole(path.absolute(), WRITERS[path.suffix](pathways))
    return path


def _graphml(pathways: Pathways) -> bytes:
    from networkx import write_graphml_xml

    stream = io.BytesIO()
    write_graphml_xml(_for_xml(to_networkx(pathways)), stream)
    return stream.getvalue()


def _gexf(pathways: Pathways) -> bytes:
    from networkx import write_gexf

    graph = _for_xml(to_networkx(pathways))
    graph.name = graph.graph["caption"]  # all that GEXF holds of a graph
    stream = io.BytesIO()
    write_gexf(graph, stream)
    return re.sub(rb' lastmodifieddate="[^"]*"', b"", stream.getvalue(), count=1)  # the same pathways, the same file


def _json(pathways: Pathways) -> bytes:
    graph = to_networkx(pathways)
    nodes = [{"id": node, **attributes} for node, attributes in graph.nodes(data=True)]
    edges = [
        {"source": src, "target": dst, "key": key, **attributes}
        for src, dst, key, attributes in graph.edges(keys=True, data=True)
    ]
    head = json.dumps({"directed": True, "multigraph": True, "graph": graph.graph}).removesuffix("}")
    lines = [
        f'{head}, "nodes": [',
        ",\n".join(map(json.dumps, nodes)),
        '], "edges": [',
        ",\n".join(map(json.dumps, edges)),
    ]
    return "\n".join([*lines, "]}", ""]).encode()


def _dot(pathways: Pathways) -> bytes:
    graph = to_networkx(pathways)
    lines = ["digraph pathways {", f"  graph [rankdir=LR, label={_quoted(graph.graph['caption'])}];"]
    of_rank: dict[int, list[int]] = {}
    for node, attributes in graph.nodes(data=True):
        of_rank.setdefault(attributes["rank"], []).append(node)
        lines.append(f"  {node} [{_dot_attributes(attributes)}];")
    for nodes in of_rank.values():
        lines.append(f"  {{ rank=same; {' '.join(f'{node};' for node in nodes)} }}")
    largest = max((abs(weight) for _, _, weight in graph.edges(data="weight")), default=0.0) or 1.0
    for src, dst, attributes in graph.edges(data=True):
        width = THIN + (WIDE - THIN) * abs(attributes["weight"]) / largest
        lines.append(f"  {src} -> {dst} [{_dot_attributes(attributes)}, penwidth={width:.2f}];")
    return "\n".join([*lines, "}", ""]).encode()


WRITERS: dict[str, Callable[[Pathways], bytes]] = {".graphml": _graphml, ".gexf": _gexf, ".json": _json, ".dot": _dot}


def _dot_attributes(attributes: dict[str, Any]) -> str:
    return ", ".join(f"{_dot_name(name)}={_quoted(str(value))}" for name, value in attributes.items())


def _dot_name(name: str) -> str:
    # Graphviz has its own rank, layer and weight, which mean something else and refuse our values
    return f"attention_{name}" if name in ("rank", "layer", "weight") else name


def _quoted(text: str) -> str:
    r"""Returns text as a quoted string of DOT, where neither \N nor &amp; nor a line end means something else.

    >>> print(_quoted('a"b\\N & c'))
    "a\"b\\N &amp; c"
    """
    text = _escaped(text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"'), "\\\\")
    return '"' + text.replace("\n", "\\n").replace("\t", "&#9;") + '"'


def _escaped(text: str, backslash: str = "\\") -> str:
    r"""Writes out the characters that XML and DOT cannot hold.

    >>> print(_escaped("a\x00b"))
    a\x00b
    """
    return NOT_IN_XML.sub(lambda found: backslash + f"{found[0]!a}".strip("'").lstrip("\\"), text)


def _for_xml(graph: MultiDiGraph) -> MultiDiGraph:
    for attributes in (graph.graph, *(data for _, data in graph.nodes(data=True))):
        for name, value in attributes.items():
            if isinstance(value, str):
                attributes[name] = _escaped(value)
    return graph
