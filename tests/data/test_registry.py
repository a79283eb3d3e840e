import json
import shutil
import warnings
from pathlib import Path

import pytest
from torch.testing import assert_close

from graphattn.data import cards, download, find, load, registry
from graphattn.data.registry import SHIPPED


@pytest.fixture
def no_clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As for an installed wheel."""
    monkeypatch.setattr(registry, "SHIPPED", tmp_path / "not there")


@pytest.fixture
def toy_card(monkeypatch: pytest.MonkeyPatch, server, archive: bytes):
    """ogbg-molesol, but ten molecules from the server of the tests."""
    server.content = archive
    real = cards.card("ogbg-molesol")
    toy = {"name": "ogbg-molesol", "task": real["task"], "address": server.url}
    monkeypatch.setattr(registry, "card", lambda name: dict(toy))
    return toy


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("ogbg-molesol", (902, 113, 113)), ("ogbg-molfreesolv", (513, 64, 65)), ("ogbg-molbbbp", (1631, 204, 204))],
)
def test_the_shipped_sets_load_without_a_network(name: str, sizes: tuple[int, ...], monkeypatch) -> None:
    monkeypatch.setattr(registry, "install", lambda *args, **kwargs: pytest.fail("wanted the network"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = load(name)
    assert tuple(dataset.split[part].numel() for part in ("train", "valid", "test")) == sizes
    assert len(dataset) == sum(sizes)
    assert dataset.task == (name, *cards.card(name)["task"].values())
    assert (dataset[0].x.shape[1], dataset[0].edge_attr.shape[1]) == (9, 3)


def test_data_on_disk_are_found_below_root_and_as_root(tmp_path: Path, molecules, layout, no_clone) -> None:
    folder = layout(tmp_path / "d" / "ogbg_molesol", molecules)
    with pytest.warns(UserWarning, match=r"differ from the official files"):
        below = load("ogbg-molesol", tmp_path / "d", download=False)
    itself = load("ogbg-molesol", str(folder), download=False)
    assert below.source == itself.source == str(folder)
    assert len(below) == 10


def test_root_goes_before_the_clone_and_the_clone_before_the_user_cache(
    tmp_path, user_cache, molecules, layout
) -> None:
    mine, users = tmp_path / "mine" / "ogbg_molesol", user_cache / "ogbg_molesol"
    layout(users, molecules)
    assert find("ogbg-molesol") == find("ogbg-molesol", tmp_path) == SHIPPED / "ogbg_molesol"
    layout(mine, molecules)
    assert find("ogbg-molesol", tmp_path / "mine") == mine
    mine.rename(mine.with_name("ogbg_molesol_pyg"))  # as ogb may call it
    assert find("ogbg-molesol", tmp_path / "mine") == mine.with_name("ogbg_molesol_pyg")


def test_a_root_without_the_set_is_said_where_another_place_has_it(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=f"{tmp_path} has no ogbg-molesol; using {SHIPPED / 'ogbg_molesol'}"):
        assert len(load("ogbg-molesol", tmp_path)) == 1128


def test_an_installed_wheel_finds_what_was_downloaded(user_cache: Path, molecules, layout, no_clone) -> None:
    assert find("ogbg-molesol") is None
    layout(user_cache / "ogbg_molesol", molecules)
    assert find("ogbg-molesol") == user_cache / "ogbg_molesol"


def test_root_that_is_the_folder_of_another_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"is the folder of ogbg-molesol, not of ogbg-molhiv. Pass its parent"):
        find("ogbg-molhiv", SHIPPED / "ogbg_molesol")


@pytest.mark.parametrize("where", ["user", "root"])
def test_what_is_nowhere_is_downloaded_once(
    tmp_path: Path, user_cache: Path, no_clone, toy_card, server, where
) -> None:
    root = None if where == "user" else tmp_path / "new root"
    dataset = load("ogbg-molesol", root)
    assert len(dataset) == len(load("ogbg-molesol", root)) == 10
    assert len(server.requests) == 1
    folder = (root or user_cache) / "ogbg_molesol"
    assert dataset.source == str(folder)
    assert json.loads((folder / "DOWNLOADED.json").read_text())["url"] == server.url


def test_a_broken_download_is_no_data_set(user_cache: Path, no_clone, toy_card, server) -> None:
    server.cuts_after = [700, 0, 0]
    with pytest.raises(ConnectionError, match=r"the next run goes on from there"):
        load("ogbg-molesol")
    assert find("ogbg-molesol") is None
    assert len(load("ogbg-molesol")) == 10


def test_a_large_set_is_refused_without_yes_and_leaves_nothing(
    user_cache: Path, no_clone, toy_card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail("asked a question"))
    monkeypatch.setattr(download, "LARGE", 1_000)
    with pytest.raises(ValueError, match=r"Pass yes=True \(--yes, or data.yes: true in the configuration\)"):
        load("ogbg-molesol")
    assert list(user_cache.iterdir()) == []
    assert len(load("ogbg-molesol", yes=True)) == 10


def test_a_checksum_on_the_card_is_held(user_cache: Path, no_clone, toy_card) -> None:
    toy_card["zip_sha256"] = "0" * 64
    with pytest.raises(ValueError, match=r"the card of the data set says 000"):
        load("ogbg-molesol")
    assert find("ogbg-molesol") is None


def test_download_can_be_forbidden(no_clone, user_cache: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=f"ogbg-molhiv is in none of {user_cache}. Allow the download .from http"
    ):
        load("ogbg-molhiv", download=False)


def test_a_folder_that_is_incomplete_is_named_and_not_replaced(tmp_path: Path, molecules, layout, no_clone) -> None:
    folder = layout(tmp_path / "ogbg_molesol", molecules, edge=None)
    with pytest.raises(ValueError, match=r"lacks raw/edge.csv.gz. Copy the whole folder again, or remove it"):
        load("ogbg-molesol", tmp_path)
    assert (folder / "raw" / "node-feat.csv.gz").exists()


def test_files_of_another_set_do_not_pass_for_this_one(tmp_path: Path, no_clone) -> None:
    ignore = shutil.ignore_patterns("processed")
    shutil.copytree(SHIPPED / "ogbg_molesol", tmp_path / "ogbg_molbbbp", ignore=ignore)
    with (
        pytest.warns(UserWarning, match=r"differ"),
        pytest.raises(ValueError, match=r"must be 0, 1 or NaN in a binary task"),
    ):
        load("ogbg-molbbbp", tmp_path)


def test_an_unknown_name_is_answered_before_anything_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Did you mean 'ogbg-molesol'"):
        load("esol")
    for name in ("../../etc", "/etc", "ogbg-mol/../x", ""):
        with pytest.raises(ValueError, match=r"unknown data set"):
            load(name)


def test_without_ogb_data_on_disk_still_load(tmp_path, molecules, layout, no_clone, monkeypatch) -> None:
    layout(tmp_path / "ogbg_mollipo", molecules)
    if cards._of_ogb() is not None:
        first = load("ogbg-mollipo", tmp_path)
        monkeypatch.setattr(cards, "_of_ogb", lambda: None)
        assert_close(load("ogbg-mollipo", tmp_path).labels, first.labels)  # processed: its header knows the task
        shutil.rmtree(tmp_path / "ogbg_mollipo" / "processed")
    with pytest.raises(ImportError, match=r"pip install graphattn\[train\]"):
        load("ogbg-mollipo", tmp_path)


def test_root_has_no_meaning_for_a_function() -> None:
    with pytest.raises(ValueError, match=r"has no meaning for my:graphs"):
        load("my:graphs", "/data")
