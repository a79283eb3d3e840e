"""Exports: what networkx reads back is what the arrays hold, whatever the labels; DOT by a reader of quoted strings."""

import html
import json
import re
from pathlib import Path

import networkx
import pytest
import torch

from graphattn.viz.pathways import EDGE_KINDS, Pathways
from tests.layered import by_chance, by_hand

READERS = {
    ".graphml": lambda path: networkx.read_graphml(path, node_type=int, force_multigraph=True),
    ".gexf": lambda path: networkx.read_gexf(path, node_type=int),
    ".json": lambda path: networkx.node_link_graph(json.loads(path.read_text()), edges="edges"),
}
SPECIAL = ('<b>&amp; "x"\\N', "$x_1$ {|} #", "line\nend", "tab\there", "é漢🙂", " ", "", "-->", "\\x00", "]]>")
HOPELESS = ("a\x00b", "\x1b[31m", "\ud800", "\r", "\uffff")  # XML has no way to write these


def labelled(labels: tuple[str, ...]) -> Pathways:
    n = len(labels)
    edges = [(node, n, 1 / n) for node in range(n)] + [(0, n, 0.25)]
    return by_hand(
        [0] * n + [1],
        edges,
        labels=labels,
        edge_kind=torch.arange(n + 1) % len(EDGE_KINDS),
        kept=0.75,
        threshold="a < b & c",
    )


def read_dot(path: Path) -> tuple[dict[int, dict[str, str]], list[tuple[int, int, dict[str, str]]]]:
    """Nodes and edges of our own writer's lines, strings unquoted as Graphviz does."""
    nodes, edges = {}, []
    for line in path.read_text().splitlines():
        if found := re.fullmatch(r"  (\d+)(?: -> (\d+))? \[(.*)\];", line):
            pairs = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[\d.]+)', found[3])
            values = {name: unquoted(value) for name, value in pairs}
            if found[2]:
                edges.append((int(found[1]), int(found[2]), values))
            else:
                nodes[int(found[1])] = values
    return nodes, edges


def unquoted(value: str) -> str:
    text = re.sub(
        r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), value.removeprefix('"').removesuffix('"')
    )
    return html.unescape(text)


@pytest.mark.parametrize("suffix", READERS)
def test_networkx_reads_back_what_was_written(suffix: str, tmp_path: Path) -> None:
    for pathways in (by_chance(4, num_edges=37), labelled(SPECIAL), by_hand([0, 1], []), by_hand([], [])):
        path = pathways.write(tmp_path / f"pathways{suffix}")
        expected, found = pathways.to_networkx(), READERS[suffix](path)
        assert dict(found.nodes(data=True)).keys() == dict(expected.nodes(data=True)).keys()
        for node, attributes in expected.nodes(data=True):
            assert {name: found.nodes[node][name] for name in attributes} == attributes
        wanted = sorted((src, dst, *data.values()) for src, dst, data in expected.edges(data=True))
        names = ("weight", "head", "layer", "kind")
        assert sorted((src, dst, *map(data.get, names)) for src, dst, data in found.edges(data=True)) == wanted
        if suffix != ".gexf":
            assert {name: found.graph[name] or "" for name in expected.graph} == expected.graph


def test_gexf_names_the_graph_by_its_caption_and_no_date(tmp_path: Path) -> None:
    text = labelled(("a",)).write(tmp_path / "x.gexf").read_text()
    assert 'name="by hand; a &lt; b &amp; c; 2 of 2 edges, 75.0 % of the influence"' in text
    assert "lastmodified" not in text


@pytest.mark.parametrize("suffix", [".graphml", ".gexf"])
def test_what_xml_cannot_hold_is_written_out(suffix: str, tmp_path: Path) -> None:
    found = READERS[suffix](labelled(HOPELESS).write(tmp_path / f"x{suffix}"))
    names = [found.nodes[node]["label"] for node in range(len(HOPELESS))]
    assert names == ["a\\x00b", "\\x1b[31m", "\\ud800", "\\r", "\\uffff"]


def test_json_holds_any_text_and_strict_json(tmp_path: Path) -> None:
    path = labelled(SPECIAL + HOPELESS).write(tmp_path / "x.json")
    data = json.loads(path.read_text(encoding="ascii"), parse_constant=pytest.fail)
    assert tuple(node["label"] for node in data["nodes"][:-1]) == SPECIAL + HOPELESS
    assert data["graph"]["kept"] == 0.75
    assert data["graph"]["threshold"] == "a < b & c"


def test_dot_quotes_what_it_holds(tmp_path: Path) -> None:
    pathways = labelled(SPECIAL)
    nodes, edges = read_dot(pathways.write(tmp_path / "x.dot"))
    assert tuple(nodes[node]["label"] for node in range(len(SPECIAL))) == SPECIAL
    assert [nodes[node]["attention_rank"] for node in (0, len(SPECIAL))] == ["0", "1"]
    found = [(src, dst, float(data["attention_weight"]), data["kind"]) for src, dst, data in edges]
    kinds = [EDGE_KINDS[kind] for kind in pathways.edge_kind.tolist()]
    assert sorted(found) == sorted(zip(*pathways.edge_index.tolist(), pathways.weight.tolist(), kinds))
    widths = {float(data["attention_weight"]): float(data["penwidth"]) for _, _, data in edges}
    assert widths == {0.25: 4.0, 0.1: 1.72}
    hopeless, _ = read_dot(labelled(HOPELESS).write(tmp_path / "y.dot"))
    assert [hopeless[node]["label"] for node in range(2)] == ["a\\x00b", "\\x1b[31m"]


def test_networkx_lays_it_out_by_rank_and_holds_plain_values() -> None:
    graph = by_chance(1).to_networkx()
    place = networkx.multipartite_layout(graph, subset_key="layer")
    assert len({x for x, _ in place.values()}) == 4
    for values in [*dict(graph.nodes(data=True)).values(), *(data for *_, data in graph.edges(data=True)), graph.graph]:
        assert {type(value) for value in values.values()} <= {int, float, str}
    assert sorted(key for *_, key in graph.edges(keys=True)) == list(range(graph.number_of_edges()))


def test_the_same_pathways_make_the_same_file(tmp_path: Path) -> None:
    for suffix in (*READERS, ".dot"):
        first, second = (by_chance(2).write(tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
        assert first == second


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    pathways = by_chance(1)
    for name in ("x.png", "x", "x.graphml.gz"):
        with pytest.raises(ValueError, match=r"path must end in \.graphml, \.gexf, \.json, \.dot, got"):
            pathways.write(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        pathways.write(tmp_path / "missing" / "x.json")
    (tmp_path / "x.json").mkdir()
    with pytest.raises(OSError):
        pathways.write(tmp_path / "x.json")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
