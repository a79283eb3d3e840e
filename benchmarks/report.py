"""Writes BENCHMARKS.md from the JSON files in benchmarks/results/.

    python benchmarks/report.py

Each figure there carries date, versions, device and the command that made it; this script adds none of its own.
"""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = """# Benchmarks

Every figure was measured by a command in this repository; `python benchmarks/report.py` writes this page from
`benchmarks/results/`. Machines are noisy: read ratios and spreads, not milliseconds.
"""


def section(record: dict) -> str:
    scatter = record["torch_scatter"] or "not installed"
    lines = [
        f"## {record['benchmark']}",
        "",
        f"{record['date']}, commit {record['commit']}, {record['device']}, Python {record['python']}, torch {record['torch']}, "
        f"torch-geometric {record['torch_geometric']}, torch-scatter {scatter}, numba {record['numba']}. float32.",
        "",
        f"    {record['command']}",
        "",
        "Median ms (minimum–maximum) of interleaved rounds, ratio to `fused` round by round, and the resident memory that one "
        "forward and backward adds. Each contender first equals the specification in output and gradients, except dense SDPA, "
        "which computes all pairs and is a yardstick.",
        "",
        "| case | edges | heads | contender | forward ms | forward+backward ms | over fused | peak MiB |",
        "|---|---:|---|---|---:|---:|---:|---:|",
    ]
    for row in record["rows"]:
        cells = [f"{row[f'{key}_ms']:.3g} ({row[f'{key}_spread'][0]:.3g}–{row[f'{key}_spread'][1]:.3g})"
                 for key in ("forward", "forward+backward")]  # fmt: skip
        lines.append(f"| {row['case']} | {row['num_edges']:,} | {row['heads']} | {row['contender']} | {cells[0]} | {cells[1]} | "
                     f"{row['forward+backward_over_fused']:.2f}× | {row['peak_mib']:.0f} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    records = [json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))]
    (ROOT / "BENCHMARKS.md").write_text("\n".join([HEAD, *map(section, records)]))


if __name__ == "__main__":
    main()
