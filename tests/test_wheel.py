"""The sdist builds a wheel, and the wheel works where there is no clone."""

import email
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = """
import importlib.metadata, pathlib, sys
import torch
import graphattn as ga

target = pathlib.Path(sys.argv[1])
package = pathlib.Path(ga.__file__).parent
assert package == target / "graphattn", package
assert (package / "py.typed").exists()
assert ga.__version__ == importlib.metadata.version("graphattn")

graph = ga.connectivity.sliding_window(16, radius=2)
query, key, value = torch.randn(3, 16, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
out = ga.graph_attention(query, key, value, graph)    # [num_dst_nodes, num_heads, head_dim]

position = torch.arange(16)
mask = (position[:, None] - position).abs() <= 2
expected = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(0, 1) for x in (query, key, value)), mask)
torch.testing.assert_close(out, expected.transpose(0, 1))
print(ga.__version__)
"""


def run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment or None, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, made of a copy of the clone (a build writes beside its sources), and the wheel, made of the sdist."""
    directory = tmp_path_factory.mktemp("build")
    copy = directory / "clone"
    shutil.copytree(ROOT / "graphattn", copy / "graphattn", ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    # The hooks a build frontend calls; without one there is nothing to install.
    build = "import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])"
    run("-c", build, directory, cwd=copy)
    (sdist,) = directory.glob("*.tar.gz")
    run("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", sdist, "-w", directory, cwd=directory)
    (wheel,) = directory.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed").resolve()
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, built[1], cwd=target)
    return target


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(installed: Path) -> None:
    def sources(package: Path) -> set[Path]:
        return {path.relative_to(package) for path in package.rglob("*.py")}

    # A directory that lacks its __init__.py would be left out.
    assert sources(installed / "graphattn") == sources(ROOT / "graphattn")
    assert {path.name.split("-")[0] for path in installed.iterdir()} == {"graphattn", "bin"}
    assert [path.name for path in (installed / "bin").iterdir()] == ["graphattn"]


def package_data(package: Path) -> set[str]:
    """What lies in the package beside its modules: configurations, cards, `py.typed`."""
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(package).as_posix() for path in files if path.suffix != ".py"}


@pytest.mark.slow
def test_wheel_and_sdist_hold_configs_and_cards(installed: Path, built: tuple[Path, Path]) -> None:
    expected = package_data(ROOT / "graphattn")
    assert {"configs/ogbg-molesol.yaml", "data/cards/ogbg-molesol.json", "py.typed"} <= expected
    assert package_data(installed / "graphattn") == expected
    with tarfile.open(built[0]) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {f"graphattn/{name}" for name in expected} <= names


@pytest.mark.slow
def test_metadata_of_the_wheel(installed: Path) -> None:
    (path,) = installed.glob("graphattn-*.dist-info/METADATA")
    metadata = email.message_from_string(path.read_text(encoding="utf-8"))
    assert metadata["Name"] == "graphattn"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "MIT" in (metadata["License-Expression"] or metadata["License"])
    assert (path.parent / "licenses" / "LICENSE").exists()
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert any(line.startswith("torch>=") for line in required)
    assert not any("scatter" in line for line in required)  # compiled from source: never part of a plain install


@pytest.mark.slow
def test_installed_wheel_attends_away_from_the_clone(installed: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    # -P: the current directory does not go on the path. PYTHONPATH comes before an editable install's finder.
    environment = {"PYTHONPATH": str(installed), "PATH": str(Path(sys.executable).parent), "HOME": str(tmp_path)}
    version = run("-P", script, installed, cwd=tmp_path, **environment)
    assert f"graphattn-{version.strip()}.dist-info" in {path.name for path in installed.iterdir()}


@pytest.mark.slow
def test_installed_wheel_trains_on_molecules_away_from_the_clone(installed: Path, tmp_path: Path) -> None:
    for package in ("lightning", "ogb", "tensorboard"):
        pytest.importorskip(package)
    environment = {"PYTHONPATH": str(installed), "PATH": str(Path(sys.executable).parent), "HOME": str(tmp_path)}
    train = ["train", "--config", "ogbg-molesol", "--data.root", ROOT / "datasets", "--training.max_epochs", "1"]
    small = [
        "--model.num_layers",
        "1",
        "--model.embed_dim",
        "16",
        "--training.accelerator",
        "cpu",
        "--run_root",
        "runs",
    ]
    printed = run("-P", installed / "bin" / "graphattn", *train, *small, cwd=tmp_path, **environment)
    assert "test rmse " in printed
    (made,) = (tmp_path / "runs" / "ogbg-molesol").iterdir()
    result = json.loads((made / "result.json").read_text(encoding="utf-8"))
    assert result["num_epochs"] == 1 and result["num_steps"] > 1
    assert json.loads((made / "environment.json").read_text(encoding="utf-8"))["git"] is None  # the clone's has one
    scored = run("-P", "-m", "graphattn.cli", "evaluate", made, cwd=tmp_path, **environment)
    assert scored == f"ogbg-molesol test rmse {result['test']:.4f}\n"


@pytest.mark.slow
def test_sdist_holds_what_a_build_needs(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "graphattn/py.typed"} <= names
