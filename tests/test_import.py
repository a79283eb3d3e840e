"""`import graphattn` costs little: what a feature needs is loaded by the feature, and kernels compile when called."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Loaded by the code that needs them: conversions, kernels, pictures, training. Nothing compiles without the first six.
LAZY = (
    "triton", "numba", "llvmlite", "torch._dynamo", "torch._inductor", "torch.utils.cpp_extension",
    "torch_geometric", "torch_scatter", "networkx", "scipy", "sklearn", "pandas", "safetensors", "jsonargparse", "yaml",
    "matplotlib", "lightning", "pytorch_lightning", "torchmetrics", "tensorboard", "rich",
    "ogb", "rdkit", "transformers", "datasets",
)  # fmt: skip

# torch brings some of them along, another set in each release: only what comes on top of torch is ours.
PROBE = """
import json, sys, time
import torch
before = set(sys.modules)
start = time.perf_counter()
import graphattn
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "file": graphattn.__file__, "added": sorted(set(sys.modules) - before)}))
"""


@pytest.fixture(scope="module")
def probes() -> list[dict]:
    """Three imports, each in a process of its own."""
    runs = []
    for _ in range(3):
        run = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        runs.append(json.loads(run.stdout))
    return runs


def test_import_loads_no_optional_or_slow_package(probes: list[dict]) -> None:
    assert Path(probes[0]["file"]).parent == ROOT / "graphattn"
    added = probes[0]["added"]
    assert "graphattn.graph" in added  # the probe saw the import
    assert [name for name in added if any(name == lazy or name.startswith(f"{lazy}.") for lazy in LAZY)] == []


def test_import_adds_less_than_a_second_to_that_of_torch(probes: list[dict]) -> None:
    assert statistics.median(probe["seconds"] for probe in probes) <= 1.0


def test_import_prints_and_warns_nothing() -> None:
    command = [sys.executable, "-c", "import torch, warnings; warnings.simplefilter('error'); import graphattn"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
