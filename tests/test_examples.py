"""The tutorials run as they stand, end with the line that they promise, and so do the commands of the README."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from graphattn.cli import main

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TRAINED = [path for path in EXAMPLES if '"--steps"' in path.read_text(encoding="utf-8")]  # a minute each
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONSOLE = "".join(re.findall(r"^```console\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^\$ graphattn (.*)\n((?:(?!\$ ).*\n)*)", CONSOLE, flags=re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example_ends_with_the_line_that_it_promises(example: Path, tmp_path: Path) -> None:
    check_example(example, tmp_path, *(("--steps", "12") if example in TRAINED else ()))


@pytest.mark.slow
@pytest.mark.parametrize("example", TRAINED, ids=[path.stem for path in TRAINED])
def test_example_learns_what_it_asserts_in_all_its_steps(example: Path, tmp_path: Path) -> None:
    check_example(example, tmp_path)


def check_example(example: Path, folder: Path, *arguments: str) -> None:
    text = example.read_text(encoding="utf-8")
    promised = re.search(r"[Tt]he last line\s+reads\n\n    (.*)\n", text)[1]
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path({str(example)!r})"
    run = subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == promised
    assert not list(folder.iterdir())  # a tutorial leaves nothing behind


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example_says_how_it_is_run(example: Path) -> None:
    command = rf"\n    python examples/{re.escape(example.name)}( \[[A-Z]+\.\w+\])?\n"
    assert re.search(command, example.read_text(encoding="utf-8"))


def test_masks_of_the_second_example_take_five_lines_each() -> None:
    text = (ROOT / "examples" / "02_build_a_mask.py").read_text(encoding="utf-8")
    sections = re.findall(r"^# \d\. .*\n((?:.+\n)+)", text, flags=re.MULTILINE)
    assert [len(section.splitlines()) for section in sections] == [6] * 6  # the last of them draws it


@pytest.mark.parametrize(("command", "promised"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_command_of_the_readme_prints_what_the_readme_shows(
    command: str, promised: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = shlex.split(command)
    if any(argument.endswith((".svg", ".png")) for argument in arguments):
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 0
    assert capsys.readouterr().out == promised


def test_the_readme_shows_what_the_mask_command_prints() -> None:
    assert len([command for command, _ in COMMANDS if command.startswith("mask ")]) >= 2
    assert all(promised for _, promised in COMMANDS)
