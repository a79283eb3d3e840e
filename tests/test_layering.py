"""The rooms of the package and the direction imports may point, read from the source with `ast`; nothing is imported.

Every import counts: inside functions, under TYPE_CHECKING, and `import_module("graphattn...")` with a literal name.
Packages other than graphattn are free.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "graphattn"

# A room may import itself and any room before it.
ROOMS = (
    "graph", "ops", "connectivity", "selection", "nn", "inputs",
    "models", "data", "training", "viz", "integrations", "cli",
)  # fmt: skip
IMPLEMENTATIONS = ("graphattn", "ops", "_impl")
# and the implementation that they serve
OWNER = {
    "featured": "fused", "numba": "fused", "projection": "fused", "triton": "fused", "typed": "fused",
    "varlen": "blocks",
}  # fmt: skip
ALSO_SERVED = {("blocks", "numba")}  # its kernels are built of the same pieces and compiled in the same way
PLAN_TYPES = {("plan", "Bucket"), ("plan", "Plan")}  # all that an implementation may know of a graph
ANYWHERE = {"_version"}  # imports nothing, so importing it makes no cycle


def module_name(path: Path, package: Path) -> tuple[str, ...]:
    parts = ("graphattn", *path.relative_to(package).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path: Path, package: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields (line, dotted name) of what is imported from graphattn; the last part may be a name in a module."""
    name = module_name(path, package)
    here = name if path.name == "__init__.py" else name[:-1]  # what one leading dot stands for
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        targets: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            targets = [(*base, alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                dotted = node.args[0].value
                level = len(dotted) - len(dotted.lstrip("."))
                base = here[: len(here) - level + 1] if level else ()
                targets = [(*base, *dotted.lstrip(".").split("."))]
        for target in targets:
            if target[0] == "graphattn":
                yield node.lineno, target


def implementation(name: tuple[str, ...]) -> str | None:
    """Returns the implementation a module belongs to, None for modules outside `ops/_impl` and for its __init__."""
    if name[:3] != IMPLEMENTATIONS or len(name) == 3:
        return None
    return OWNER.get(name[3], name[3])


def violations(package: Path) -> list[str]:
    """Returns one sentence for each import in `package` (a directory named graphattn) that points the wrong way."""
    found = []
    for path in sorted(package.rglob("*.py")):
        name = module_name(path, package)
        if len(name) == 1 or name[1] in ANYWHERE:
            continue  # graphattn/__init__.py may import all rooms
        where = path.relative_to(package.parent)
        if name[1] not in ROOMS:
            found.append(f"{where}: `{name[1]}` is not a room; the rooms are {', '.join(ROOMS)}")
            continue
        for line, target in imports(path, package):
            if len(target) > 1 and target[1] in ANYWHERE:
                continue
            dotted = ".".join(target)
            if len(target) == 1 or target[1] not in ROOMS:
                found.append(f"{where}:{line} imports {dotted} from the top level; import it from the room it lives in")
            elif ROOMS.index(target[1]) > ROOMS.index(name[1]):
                found.append(f"{where}:{line} imports {dotted}, but {target[1]} comes after {name[1]}")
            elif own := implementation(name):
                if target[1] == "graph" and target[2:] not in PLAN_TYPES:
                    found.append(f"{where}:{line} imports {dotted}, but ops/_impl takes the plan's tensors only")
                elif (own, *target[3:4]) not in ALSO_SERVED and (
                    target[:3] == IMPLEMENTATIONS and implementation(target) != own
                ):
                    found.append(f"{where}:{line} imports {dotted}, but {own} may not import another implementation")
    return found


def modules_without_a_test(package: Path, tests: Path) -> list[str]:
    """Returns the public modules of the rooms that have no test of the same name in the same place."""
    missing = []
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        if any(part.startswith("_") for part in relative.parts):  # private, or __init__.py
            continue
        test = tests / relative.with_name(f"test_{relative.name}")
        if not test.exists():
            missing.append(f"{relative} needs {test.relative_to(tests.parent)}")
    return missing


def plant(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return directory / "graphattn"


def test_rooms_import_only_rooms_before_them() -> None:
    assert list(PACKAGE.rglob("*.py")), f"no source under {PACKAGE}"
    assert violations(PACKAGE) == []


def test_every_public_module_has_a_test_of_the_same_name() -> None:
    assert modules_without_a_test(PACKAGE, ROOT / "tests") == []


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "common"}
    found = [path for top in (PACKAGE, ROOT / "tests") for path in top.rglob("*") if path.stem.strip("_") in drawers]
    assert found == [], "name a module for the one thing it teaches"


def test_datasets_is_a_directory_of_cards_and_not_a_package() -> None:
    assert not (ROOT / "datasets" / "__init__.py").exists(), "`import datasets` means another library to most users"


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("graph/a.py", "import graphattn.ops"),
        ("graph/a.py", "from graphattn.ops.softmax import edge_softmax"),
        ("graph/a.py", "from graphattn import nn"),
        ("graph/a.py", "from .. import nn"),
        ("graph/a.py", "from ..nn import attention"),
        ("graph/__init__.py", "from ..nn import attention"),
        ("graph/deep/a.py", "from ...ops import softmax"),
        ("graph/a.py", "def f():\n    from graphattn import viz\n"),
        ("graph/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from graphattn.nn import Layer\n"),
        ("graph/a.py", "import importlib\nviz = importlib.import_module('graphattn.viz')"),
        ("graph/a.py", "from importlib import import_module\nviz = import_module('..viz', __package__)"),
        ("nn/a.py", "import graphattn"),
        ("nn/a.py", "from graphattn import AttentionGraph"),
        ("nn/a.py", "from graphattn import *"),
        ("viz/a.py", "from graphattn.cli import main"),
        ("cli.py", "from graphattn import AttentionGraph"),
        ("utils.py", "x = 1"),
        ("ops/_impl/scatter.py", "from graphattn.ops._impl import dense"),
        ("ops/_impl/scatter.py", "from graphattn.ops._impl.dense import attention"),
        ("ops/_impl/scatter.py", "from . import dense"),
        ("ops/_impl/scatter.py", "from .dense import attention"),
        ("ops/_impl/scatter.py", "from graphattn.ops import _impl"),
        ("ops/_impl/scatter.py", "from graphattn.ops._impl import *"),
        ("ops/_impl/scatter.py", "from graphattn.graph import AttentionGraph"),
        ("ops/_impl/scatter.py", "from .numba import forward"),
        ("ops/_impl/numba/forward.py", "from ..scatter import attention"),
        ("ops/_impl/numba/forward.py", "from graphattn.graph import AttentionGraph"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, source: str) -> None:
    package = plant(tmp_path, {f"graphattn/{file}": source})
    assert len(violations(package)) == 1


def test_imports_to_the_left_are_allowed(tmp_path: Path) -> None:
    package = plant(
        tmp_path,
        {
            "graphattn/__init__.py": "from graphattn import viz, graph\nfrom graphattn.nn import x",
            "graphattn/_version.py": "__version__ = '0'",
            "graphattn/cli.py": "from graphattn import viz, nn\nfrom graphattn._version import __version__",
            "graphattn/graph/a.py": "from . import b\nfrom .b import c\nimport torch\ndef f():\n    import networkx",
            "graphattn/graph/__init__.py": "from .a import f\nfrom graphattn.graph import a",
            "graphattn/nn/a.py": "from graphattn.ops import x\nfrom graphattn.graph.a import f\nfrom ..graph import y",
            "graphattn/ops/_dispatch.py": "from graphattn.ops._impl import dense, fused, scatter",
            "graphattn/ops/_impl/__init__.py": "from . import dense",
            "graphattn/ops/_impl/fused.py": "from .numba import forward\nfrom graphattn.ops._impl.triton.x import y",
            "graphattn/ops/_impl/numba/forward.py": "from . import loops\nfrom .loops import a\nimport numba",
            "graphattn/ops/_impl/blocks/a.py": "from . import b\nfrom ..blocks import c",
            "graphattn/ops/_impl/dense.py": "from graphattn.ops.dropout import keep",
        },
    )
    assert violations(package) == []


def test_a_missing_test_file_is_found(tmp_path: Path) -> None:
    package = plant(
        tmp_path,
        {
            "graphattn/__init__.py": "",
            "graphattn/_version.py": "",
            "graphattn/cli.py": "",
            "graphattn/graph/algebra.py": "",
            "graphattn/graph/_sort.py": "",
            "graphattn/ops/_impl/dense.py": "",
            "tests/graph/test_algebra.py": "",
            "tests/test_dense.py": "",
        },
    )
    tests = tmp_path / "tests"
    assert modules_without_a_test(package, tests) == [f"cli.py needs {Path('tests/test_cli.py')}"]
    (tests / "graph" / "test_algebra.py").rename(tests / "test_algebra.py")  # the right name in the wrong place
    assert len(modules_without_a_test(package, tests)) == 2
