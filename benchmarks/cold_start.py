"""How long until the first result? Import, and the first fused forward and backward with and without a disk cache.

    python benchmarks/cold_start.py [--repeats 3] [--out FILE.json]

Each figure is the median over fresh processes, in seconds, with the spread: `import` is what `import graphattn` adds to
`import torch`; `cold` is the first float32 forward and backward with an empty Numba cache, `cached` the same once the
kernels are on disk, both after the imports but with the import of Numba inside. Sample output:

    import  0.13 s (0.12-0.14)   bar 1
    cold   12.9 s (12.7-13.3)    bar 20
    cached  1.41 s (1.38-1.46)   bar 2
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import write_record

BARS = {"import": 1.0, "cold": 20.0, "cached": 2.0}

IMPORT = """
import time, torch
start = time.perf_counter()
import graphattn
print(time.perf_counter() - start)
"""

FIRST_CALL = """
import time, torch, graphattn as ga
graph = ga.connectivity.sliding_window(1024, radius=32)
query, key, value = (torch.randn(1024, 8, 64, requires_grad=True) for _ in range(3))
start = time.perf_counter()
ga.graph_attention(query, key, value, graph, impl="fused").sum().backward()
print(time.perf_counter() - start)
"""


def seconds(program: str, cache: str) -> float:
    """Runs a program in a fresh process and returns the number that it prints."""
    variables = os.environ | {"NUMBA_CACHE_DIR": cache}
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=variables)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    arguments = parser.parse_args()
    measured: dict[str, list[float]] = {name: [] for name in BARS}
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as cache:
            measured["import"].append(seconds(IMPORT, cache))
            measured["cold"].append(seconds(FIRST_CALL, cache))
            measured["cached"].append(seconds(FIRST_CALL, cache))
    rows = []
    for name, times in measured.items():
        rows.append({"figure": name, "seconds": statistics.median(times), "spread": [min(times), max(times)]})
        print(f"{name:7} {rows[-1]['seconds']:.3g} s ({min(times):.3g}-{max(times):.3g})   bar {BARS[name]:g}")
    if arguments.out:
        write_record(arguments.out, "cold_start", rows)


if __name__ == "__main__":
    main()
