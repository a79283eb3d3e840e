import importlib.util
import json
import subprocess
import sys
from importlib import resources

import pytest

from graphattn.data import cards, load
from graphattn.data.registry import SHIPPED

WRITTEN = sorted(cards._written())
IN_THE_CLONE = [name for name in WRITTEN if cards.card(name)["shipped"]]
needs_ogb = pytest.mark.skipif(importlib.util.find_spec("ogb") is None, reason="needs ogb")


@pytest.fixture
def no_ogb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "_of_ogb", lambda: None)


def test_the_shipped_sets_are_the_three_small_ones() -> None:
    assert IN_THE_CLONE == ["ogbg-molbbbp", "ogbg-molesol", "ogbg-molfreesolv"]
    assert {folder.name.replace("_", "-") for folder in SHIPPED.glob("ogbg_mol*")} >= set(IN_THE_CLONE)


@pytest.mark.parametrize("name", IN_THE_CLONE)
def test_the_numbers_of_a_card_are_those_of_the_data(name: str) -> None:
    script = SHIPPED / "measure_card.py"
    specification = importlib.util.spec_from_file_location("measure_card", script)
    measure_card = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(measure_card)
    dataset = load(name, SHIPPED, download=False)
    card, measured = cards.card(name), measure_card.measure(dataset)
    assert measured["counts"] == card["counts"]
    assert measured["files"] == card["files"]
    assert dataset.differs == ()


def test_the_table_for_readers_agrees_with_the_cards() -> None:
    table = (SHIPPED / "README.md").read_text(encoding="utf-8")
    for name in IN_THE_CLONE:
        counts = cards.card(name)["counts"]
        sizes = " / ".join(f"{counts['split'][part]:,}" for part in ("train", "valid", "test"))
        (row,) = [line for line in table.splitlines() if line.startswith("|") and f"| {name} |" in line]
        assert f"| {counts['num_graphs']:,} |" in row
        assert row.endswith(f"| {sizes} |")


@pytest.mark.parametrize("name", WRITTEN)
def test_a_card_says_what_a_reader_asks_for(name: str) -> None:
    card = cards.card(name)
    for field in ("title", "task", "address", "licence", "provenance", "caveats", "measured_by", "counts", "files"):
        assert card[field], field
    assert card["name"] == name
    assert all(len(entry["sha256"]) == 64 for entry in card["files"].values())
    assert f"address: {card['address']}" in cards.as_text(card)


@needs_ogb
@pytest.mark.parametrize("name", WRITTEN)
def test_task_and_address_agree_with_ogbs_own_table(name: str) -> None:
    row, card = cards._of_ogb()[name], cards.card(name)
    assert card["address"] == row["url"]
    assert card["split"] == row["split"]
    expected = {"kind": cards.KIND[row["task type"]], "num_tasks": int(row["num tasks"]), "metric": row["eval metric"]}
    assert card["task"] == expected


@needs_ogb
def test_every_molecule_set_of_ogb_has_the_layout_that_is_read() -> None:
    table = cards._of_ogb()
    assert len(table) >= 13
    fields = ("add_inverse_edge", "has_node_attr", "has_edge_attr", "split", "binary")
    for name, row in table.items():
        assert [row[field] for field in fields] == ["True", "True", "True", "scaffold", "False"], name
        assert row["additional node files"] == row["additional edge files"] == "None"


@needs_ogb
@pytest.mark.parametrize(
    ("name", "num_tasks", "metric"), [("ogbg-molpcba", 128, "ap"), ("ogbg-moltox21", 12, "rocauc")]
)
def test_a_set_without_a_card_of_ours_is_known_from_ogb(name: str, num_tasks: int, metric: str) -> None:
    card = cards.card(name)
    assert (card["task"]["num_tasks"], card["task"]["metric"]) == (num_tasks, metric)
    assert card["address"].startswith("http")


@needs_ogb
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ogbg-molesoll", "ogbg-molesol"), ("ogbg_molhiv", "ogbg-molhiv"), ("molesol", "ogbg-molesol"),
        ("freesolv", "ogbg-molfreesolv"), ("OGBG-MOLPCBA", "ogbg-molpcba"), ("tox21", "ogbg-moltox21"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_answered_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(
        ValueError, match=f"unknown data set {name!r}. Did you mean {meant!r}. Known are ogbg-molbace, "
    ):
        cards.card(name)


def test_a_name_that_resembles_nothing_is_answered_with_the_list() -> None:
    with pytest.raises(ValueError, match=r"unknown data set 'qqq'. Known are .*named 'package.module:function'"):
        cards.card("qqq")


def test_without_ogb_our_cards_remain_and_others_say_how_to_get_it(no_ogb: None) -> None:
    assert cards.names() == WRITTEN
    assert cards.card("ogbg-molhiv")["task"]["metric"] == "rocauc"
    with pytest.raises(ImportError, match=r"pip install graphattn\[train\]"):
        cards.card("ogbg-moltox21")
    with pytest.raises(ValueError, match=r"Did you mean 'ogbg-molesol'"):
        cards.card("molesol")


def test_a_card_changed_by_its_reader_stays_as_it_was() -> None:
    cards.card("ogbg-molesol")["task"]["kind"] = "changed"
    assert cards.card("ogbg-molesol")["task"]["kind"] == "regression"


def test_cards_are_package_data() -> None:
    directory = resources.files("graphattn.data").joinpath("cards")
    for entry in directory.iterdir():
        assert json.loads(entry.read_text(encoding="utf-8"))["name"] == entry.name.removesuffix(".json")


def test_reading_cards_and_names_imports_no_ogb_pyg_or_pandas() -> None:
    code = (
        "import sys, torch; before = set(sys.modules);"
        "from graphattn import data; data.names(); data.card('ogbg-molhiv');"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new & {'ogb', 'torch_geometric', 'pandas', 'safetensors', 'rdkit', 'rich', 'lightning'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SHIPPED.parent, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
