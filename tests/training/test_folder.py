"""The folder of a run."""

import json
from pathlib import Path

import pytest

from graphattn.training.folder import RunFolder, directory_of, environment, make_run_folder, read_journal, runs_of


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    first, second = make_run_folder(tmp_path / "a" / "run"), make_run_folder(tmp_path / "a" / "run")
    assert (first.path.name, second.path.name) == ("run", "run-2")
    assert second.checkpoints.is_dir()


def test_a_folder_that_is_no_run_is_refused_with_what_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no run"):
        RunFolder(tmp_path / "nowhere").checked()
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        RunFolder(tmp_path).checked()
    made = make_run_folder(tmp_path / "deep" / "run")
    made.config.write_text("seed: 0")
    with pytest.raises(FileNotFoundError, match=r"There is a run in it: .*deep/run"):
        RunFolder(tmp_path).checked()
    assert made.checked() is made
    assert not made.is_finished


def test_a_journal_is_read_without_lines_that_were_cut_off(tmp_path: Path) -> None:
    journal = RunFolder(tmp_path).journal
    assert read_journal(journal) == []
    journal.write_bytes(
        b'{"step": 0, "lr": 0.5}\n{"step": 1, "l{"step": 2}\n[3]\n{"epoch": 4}\n{"step": 5}\n\xff{"step": 6'
    )
    assert read_journal(journal) == [{"step": 0, "lr": 0.5}, {"step": 5}]


def test_the_newest_run_is_the_last_time_stamp(tmp_path: Path) -> None:
    for name in ("20250101-000000-seed1", "20260101-000000-seed1", "20270101-000000-seed2"):
        (tmp_path / name).mkdir()
    found = next(iter(runs_of(tmp_path, "*-seed1*")), None)
    assert found is not None and found.name == "20260101-000000-seed1"
    assert runs_of(tmp_path / "nowhere", "*") == []


def test_directories_are_named_for_the_data(tmp_path: Path) -> None:
    assert directory_of(str(tmp_path), "my.module:make") == tmp_path / "my.module-make"


def test_the_environment_can_be_written_as_json() -> None:
    found = json.loads(json.dumps(environment()))
    assert found["packages"]["torch"] and found["num_threads"] >= 1
