"""`make gpu` without a GPU: what it says, and a rehearsal of its parts in tiny sizes on the CPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from graphattn.ops._costs import NAMES

ROOT = Path(__file__).resolve().parents[1]

# A machine with a GPU need not have these.
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("jsonargparse", "ogb", "rdkit", "yaml", "safetensors", "matplotlib")))
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=240)


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    specification = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_a_line(tmp_path: Path) -> None:
    finished = run("--out", str(tmp_path / "results"))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == [
        "make gpu: there is no CUDA GPU here (torch.cuda.is_available() is False), so nothing was run."
    ]
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "parts", [["molecules"], pytest.param(["arxiv", "training", "calibration", "tests"], marks=pytest.mark.slow)]
)
def test_parts_leave_their_results_with_no_more_than_such_a_machine_has(parts: list[str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    where = ["--device", "cpu", "--small", "--out", str(tmp_path / "results"), "--part", *parts]
    finished = run(*where, PYTHONPATH=str(tmp_path))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    record = json.loads((tmp_path / "results" / "gpu.json").read_text())
    assert record["is_rehearsal"]
    found = {part["name"]: part for part in record["parts"]}
    assert {name: part["status"] for name, part in found.items()} == dict.fromkeys(parts, "done")
    rows = [row for part in record["parts"] for row in part.get("rows", [])]
    compared = [row for row in rows if "contender" in row]
    assert all("failed" not in row and row["error"] < 0.01 and row["forward_ms"] > 0 for row in compared)
    assert {row["contender"] for row in compared} >= {"fused"}
    if "training" in parts:
        assert [row["is_falling"] for row in found["training"]["rows"]] == [True, True]
        assert found["tests"]["passed"] > 100 and not found["tests"]["failed"]
        assert set(found["calibration"]["rows"][0]["costs"]) == set(NAMES)


def test_a_part_that_takes_too_long_is_ended_and_keeps_what_it_had_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = script("gpu", monkeypatch)
    code = """
import pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text('{"rows": [{"case": "first"}]}')
print("one row", flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "slow.json")]
    run = gpu.start(gpu.Part("slow", 2.0, command, {}), tmp_path)
    record, output = gpu.finish(run, deadline=run.begin + 60)
    assert record["status"].startswith("stopped after") and record["rows"] == [{"case": "first"}]
    assert output == record["output"] == "one row\n" and run.process.poll() is not None

    broken = gpu.start(gpu.Part("broken", 60.0, [sys.executable, "-c", "raise SystemExit(3)"], {}), tmp_path)
    assert gpu.finish(broken, deadline=broken.begin + 60)[0]["status"] == "failed with 3"


def test_tests_are_counted_in_what_pytest_prints_alone_and_on_several_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = """
tests/ops/test_cuda.py::test_one[lonely nodes-plain] PASSED              [  1%]
tests/ops/test_cuda.py::test_one[hub] SKIPPED (no CUDA device)           [  1%]
tests/ops/test_cuda.py::test_two FAILED                                  [  2%]
[gw1] [  3%] PASSED tests/ops/test_cuda.py::test_one[head mask-all]
[gw2] [  4%] SKIPPED tests/ops/test_cuda.py::test_three[a - b]
[gw0] [  5%] FAILED tests/ops/test_cuda.py::test_four[torch.float16-x]
=========================== short test summary info ===========================
FAILED tests/ops/test_cuda.py::test_two - AssertionError: assert 1 == 2
"""
    counted = script("gpu", monkeypatch).count_tests(output)
    failed = ["tests/ops/test_cuda.py::test_four[torch.float16-x]", "tests/ops/test_cuda.py::test_two"]
    assert counted == {"passed": 2, "skipped": 2, "failed": failed}


def test_the_page_says_that_nothing_was_measured_until_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    report = script("report", monkeypatch)
    missing = report.gpu_section(None)
    assert "not measured yet" in missing and "make gpu" in missing
    about = dict(date="2027-01-01", commit="abc", device="GPU (some)", command="make gpu", python="3.12", torch="2.11")
    about |= dict(torch_geometric="2.8", torch_scatter=None, numba=None, triton="3.6", cuda="13.0")
    row = {"case": "random", "what": "random keys", "contender": "fused", "heads": "16 x 64", "num_edges": 1000}
    row |= {"dtype": "bfloat16", "is_yardstick": False, "error": 0.002, "peak_mib": 12.0}
    failed = row | {"contender": "FlexAttention", "failed": "OutOfMemoryError: a | b", "bar": 10}
    for key in ("forward", "forward+backward"):
        row |= {f"{key}_ms": 1.5, f"{key}_spread": [1, 2], f"{key}_ratio": 1.0}
        row |= {f"{key}_floor_ms": 0.75, f"{key}_floor_share": 0.5, "copy_gb_per_s": 4000.0, "floor_bar": 0.6}
    parts = [
        {"name": "tests", "status": "done", "passed": 7, "skipped": 1, "failed": ["test_x"], "seconds": 3},
        {"name": "random", "status": "done", "rows": [row, failed], "seconds": 3},
        {"name": "window", "status": "stopped after 80 s", "seconds": 80},
    ]
    page = report.gpu_section({**about, "benchmark": "gpu", "is_rehearsal": False, "parts": parts})
    for expected in (
        "- tests: done: 7 passed, 1 skipped, 1 failed",
        "  - failed: `test_x`",
        "- window: stopped after 80 s",
        "| random keys | 1,000 | 16 x 64 | fused | 1.5 (1–2) | 1.5 (1–2) | 1.00× |  | 12 | 2.0e-03 |",
        "| FlexAttention | OutOfMemoryError: a / b |",
        "50% with backward (0.75 ms); bar 60%",
        "triton 3.6, cuda 13.0",
    ):
        assert expected in page
    assert report.gpu_section({**about, "is_rehearsal": True, "parts": []}) == missing
