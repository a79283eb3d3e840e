"""Code named in one line."""

import sys
from pathlib import Path

import pytest

from graphattn.data.reference import current_directory_importable, find_callable


def test_finds_what_lies_in_the_current_directory_and_leaves_the_path_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside_me.py").write_text("class Network:\n    number = 7\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    before = list(sys.path)
    assert find_callable("beside_me:Network", "a network").number == 7
    assert sys.path == before


def test_nothing_that_is_installed_is_shadowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != ""])
    with current_directory_importable():
        assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize("reference", ["", "math", "math:", ":sqrt", "math:2x", "math:a.b"])
def test_text_of_another_form_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match=r"a network is named 'package\.module:name'"):
        find_callable(reference, "a network")


def test_what_a_module_of_yours_fails_to_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import surely_not_installed\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed") as caught:
        find_callable("needs_more:anything", "a network")
    assert caught.value.name == "surely_not_installed"  # and not "there is no module needs_more"


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="math:pi must be a function or a class, got float"):
        find_callable("math:pi", "a network")
