"""Everything that is to be known of a GPU, by one command: its tests, benchmarks, constants and a short training.

    make gpu [GPU_PYTHON=python3] [GPU_RESULTS=benchmarks/results/gpu]
    python benchmarks/gpu.py [--out DIR] [--part tests random …] [--budget 520]

Needs a CUDA GPU, torch with its Triton, torch-geometric, numpy, scipy and networkx; nothing is installed or fetched.
Tests need pytest, memory-check NVIDIA's compute-sanitizer; where they are not, the results say so. Without a GPU it
says that in a line, and ends with 0.

    tests           tests/ops/test_cuda.py and test_triton_kernels.py, on as many processes as there are cores to spare
    memory-check    the fused kernels, forward and backward, under compute-sanitizer (beside the tests)
    random, …       the cases of benchmarks/attention_cuda.py, each in a process of its own
    training        a graph transformer on the molecules of datasets/, in plain PyTorch
    calibration     the constants of the cost model for this GPU

DIR/gpu.json is written anew after each part, so that whoever is stopped loses the part in progress; a part that fails
or takes too long is written down as such, with what it had found, and the others go on. No part is begun for which less
than MIN_SECONDS of the budget are left. DIR/log.txt has what the parts printed. benchmarks/report.py makes both into a
section of BENCHMARKS.md, from benchmarks/results/gpu.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# graphattn need not be installed
from cuda_cases import CASES  # noqa: E402
from measure import environment, write_whole  # noqa: E402

HERE = ROOT / "benchmarks"
TESTS = ("tests/ops/test_cuda.py", "tests/ops/test_triton_kernels.py")
BUDGET, MIN_SECONDS = 520.0, 25.0
SPARE_CORES, MOST_WORKERS = 3, 12
MOST_LOGGED, MOST_QUOTED = 60_000, 4000  # letters of a part's output
VERDICTS = ("PASSED", "FAILED", "ERROR", "SKIPPED")
FOUND_ERRORS = 86  # exit status of compute-sanitizer that it does not share with Python


class Part(NamedTuple):
    """A command, and the longest that it may take."""

    name: str
    seconds: float
    command: list[str]
    environment: dict[str, str]


class Run(NamedTuple):
    """A part that was started."""

    part: Part
    process: subprocess.Popen
    begin: float
    log: Path
    found: Path  # the JSON file of its results


def parts(device: str, is_small: bool, folder: Path) -> dict[str, Part | str]:
    """Returns all parts in their order, or why one cannot be run here."""
    where = ["--device", device, *(["--small"] if is_small else [])]
    threads = {"OMP_NUM_THREADS": "1"}

    def found(name: str) -> str:
        return str(folder / f"{name}.json")

    python = [sys.executable, "-u"]
    checks = [*python, str(HERE / "gpu_parts.py")]
    made: dict[str, Part | str] = {
        "tests": _tests(device, python, threads),
        "memory-check": _memory_check(checks, where),
    }
    for name in CASES:
        command = [*python, str(HERE / "attention_cuda.py"), *where, "--case", name, "--out", found(name)]
        made[name] = Part(name, 80.0, command + (["--rounds", "2"] if is_small else []), {})
    for name, seconds in (("training", 60.0), ("calibration", 150.0)):
        made[name] = Part(name, seconds, [*checks, name, *where, "--out", found(name)], {})
    return made


def _tests(device: str, python: list[str], threads: dict[str, str]) -> Part | str:
    if importlib.util.find_spec("pytest") is None:
        return "pytest is not installed"
    command = [*python, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", "-m", "not slow"]
    if importlib.util.find_spec("hypothesis") is None:
        command.append("--noconftest")  # it sets Hypothesis up, which these tests do without
    if importlib.util.find_spec("xdist") is not None:
        workers = max(1, min(MOST_WORKERS, (os.cpu_count() or 1) - SPARE_CORES))
        command += ["-n", str(workers), "--dist", "worksteal"]
    named = TESTS if device == "cuda" else TESTS[:1]
    return Part("tests", 150.0, [*command, *named], {**threads, "GRAPHATTN_TEST_DEVICE": device})


def _memory_check(checks: list[str], where: list[str]) -> Part | str:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        return "compute-sanitizer is not on the PATH"
    tool = [sanitizer, "--tool", "memcheck", "--error-exitcode", str(FOUND_ERRORS)]
    # memory that torch would keep for later use would hide who reads beyond the end of a tensor
    separate = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OMP_NUM_THREADS": "1"}
    return Part("memory-check", 150.0, [*tool, *checks, "memory-check", *where], separate)


def start(part: Part, folder: Path) -> Run:
    log, found = folder / f"{part.name}.log", folder / f"{part.name}.json"
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    quiet = {"GRAPHATTN_COSTS": str(folder / "costs.json"), "PYTHONPATH": path}
    with log.open("wb") as output:
        process = subprocess.Popen(
            part.command, cwd=ROOT, env={**os.environ, **quiet, **part.environment},
            stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, process_group=0,
        )  # fmt: skip
    return Run(part, process, time.monotonic(), log, found)


def finish(run: Run, deadline: float) -> tuple[dict, str]:
    """Waits for a part, and ends it with all that it started where it takes too long; its record and its output."""
    try:
        run.process.wait(max(0.1, min(deadline, run.begin + run.part.seconds) - time.monotonic()))
        status = "done" if run.process.returncode == 0 else f"failed with {run.process.returncode}"
    except subprocess.TimeoutExpired:
        status = f"stopped after {time.monotonic() - run.begin:.0f} s"
        end(run)
    output = run.log.read_text(errors="replace")
    record: dict = {"name": run.part.name, "status": status, "seconds": round(time.monotonic() - run.begin, 1)}
    if run.found.exists():
        record["rows"] = json.loads(run.found.read_text())["rows"]
    if run.part.name == "tests":
        record |= count_tests(output)
    elif run.part.name == "memory-check":
        summary = re.findall(r"ERROR SUMMARY: .*", output)
        record["summary"] = summary[-1] if summary else "no summary"
    if status != "done":
        record["output"] = output[-MOST_QUOTED:]
    return record, output


def end(run: Run) -> None:
    """Ends a part that still runs, with all that it started."""
    if run.process.poll() is None:
        os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()


def count_tests(output: str) -> dict:
    """Reads what pytest -v said of each test, as far as it came: on one process, or, told the other way, on several."""
    by_verdict: dict[str, set[str]] = {verdict: set() for verdict in VERDICTS}
    verdict = f"({'|'.join(VERDICTS)})"
    for line in output.splitlines():
        if told := re.search(rf"^(tests/.+?) {verdict}\b.*\[ *\d+%\]", line):
            by_verdict[told[2]].add(told[1])
        elif told := re.search(rf"\[ *\d+%\] {verdict} (tests/.+?)\s*$", line):
            by_verdict[told[1]].add(told[2])
    failed = sorted(by_verdict["FAILED"] | by_verdict["ERROR"])
    return {"passed": len(by_verdict["PASSED"]), "skipped": len(by_verdict["SKIPPED"]), "failed": failed}


class Results:
    """The results folder, written anew whenever a part is done."""

    def __init__(self, folder: Path, device: str, is_small: bool):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        about = environment(device)
        if device == "cuda":
            about["num_multiprocessors"] = torch.cuda.get_device_properties(0).multi_processor_count
            about["gpu_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
        command = "make gpu" if len(sys.argv) == 1 else f"python benchmarks/gpu.py {' '.join(sys.argv[1:])}"
        is_rehearsal = device != "cuda" or is_small  # of which benchmarks/report.py makes no figures
        self.record: dict = {"benchmark": "gpu", "command": command, "is_rehearsal": is_rehearsal, **about, "parts": []}
        (folder / "log.txt").write_text("")
        self.write()

    def add(self, part: dict, output: str = "") -> None:
        self.record["parts"].append(part)
        self.write()
        with (self.folder / "log.txt").open("a") as log:
            log.write(f"==== {part['name']}: {part['status']}\n{output[-MOST_LOGGED:]}\n")
        took = f", {part['seconds']} s" if "seconds" in part else ""
        print(f"---- {part['name']}: {part['status']}{took}", flush=True)
        for said in ("summary", "passed", "skipped", "failed"):
            if said in part:
                print(f"     {said}: {part[said]}", flush=True)
        if output and (part["name"] not in ("tests", "memory-check") or part["status"] != "done"):
            print("\n".join(output.splitlines()[-12:]), flush=True)

    def write(self) -> None:
        write_whole(self.folder / "gpu.json", self.record)


def run_all(chosen: list[str], results: Results, device: str, is_small: bool, budget: float) -> None:
    deadline = time.monotonic() + budget
    with tempfile.TemporaryDirectory() as scratch:
        planned = parts(device, is_small, Path(scratch))
        queue = [name for name in planned if name in chosen]
        while queue:
            # nothing is timed in the first two, so they need not wait for each other
            together = [name for name in queue if name in ("tests", "memory-check")] or queue[:1]
            queue = [name for name in queue if name not in together]
            left = deadline - time.monotonic()
            if left < MIN_SECONDS:
                for name in together:
                    results.add({"name": name, "status": f"not begun: {left:.0f} s were left"})
                continue
            runs: list[Run] = []
            for name in together:
                part = planned[name]
                if isinstance(part, Part):
                    runs.append(start(part, Path(scratch)))
                else:
                    results.add({"name": name, "status": f"not run: {part}"})
            try:
                for run in runs:
                    results.add(*finish(run, deadline))
            finally:  # whoever interrupts this process does not reach theirs
                for run in runs:
                    end(run)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu", help="the results folder")
    names = ("tests", "memory-check", *CASES, "training", "calibration")
    parser.add_argument("--part", nargs="+", choices=names, default=list(names), metavar="PART", help=", ".join(names))
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu, with --small, to see it runs")
    parser.add_argument("--small", action="store_true", help="tiny sizes, of which no figure is worth a look")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("make gpu: there is no CUDA GPU here (torch.cuda.is_available() is False), so nothing was run.")
        return 0
    results = Results(options.out.absolute(), options.device, options.small)
    about = {name: value for name, value in results.record.items() if name not in ("parts", "benchmark", "command")}
    print("\n".join(f"{name:20} {value}" for name, value in about.items()), flush=True)
    run_all(options.part, results, options.device, options.small, options.budget)
    bad = [part["name"] for part in results.record["parts"] if part["status"].startswith(("failed", "stopped"))]
    missing = [part["name"] for part in results.record["parts"] if part["status"].startswith("not ")]
    verdict = f"look at {', '.join(bad)}" if bad else "nothing failed"
    verdict += f"; not run: {', '.join(missing)}" if missing else ""
    print(f"results: {results.folder / 'gpu.json'}; {verdict}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
