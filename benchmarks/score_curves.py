"""How do models with the three scores learn, and how much of that is the initialisation? One data set, three seeds.

    python benchmarks/score_curves.py [--scores …] [--seeds 0-2] [--epochs 40] [--folder runs/scores] [--out FILE.json]

ogbg-molesol, official scaffold split, OGB's evaluator, the packaged configuration; nothing differs but the score, and
nothing was searched. Pairwise scores start from N(0, 1) as in the paper, from the identity, and from N(0, 1/head_dim),
whose first logits are of a dot product's size: the control that says what is owed to the form and what to the start. A
row gives the mean training loss of each epoch, averaged over seeds, and the test rmse at the epoch with the best valid
metric. With --out the curves are drawn beside the file, as .svg.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from measure import commits_of, write_record
from plots import draw_curves

from graphattn.training import RunResult, mean_and_std, parse_seeds, read_config, train_in
from graphattn.training.seeds import as_text

SCORES = {
    "dot product": "DotProduct()",
    "symmetric": "Symmetric()",
    "pairwise, paper": "Pairwise(init='paper')",
    "pairwise, scaled": "Pairwise(init='scaled')",
    "pairwise, identity": "Pairwise(init='identity')",
}


def runs(name: str, seeds: list[int], epochs: int, folder: Path) -> list[RunResult]:
    """Trains a model from several seeds, or returns the results."""
    budget = ["--training.max_epochs", str(epochs), "--training.patience", "0"]
    config = read_config("ogbg-molesol", [*budget, "--model.score", SCORES[name]])
    place = folder / name.replace(", ", "-").replace(" ", "-")
    return [train_in(dataclasses.replace(config, seed=seed), place / f"seed{seed}") for seed in seeds]


def losses(run: RunResult) -> list[float]:
    """Returns the mean training loss of each epoch."""
    of_epoch: dict[int, list[float]] = {}
    for line in (Path(run.folder) / "journal.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "train/loss" in entry:
            of_epoch.setdefault(entry["epoch"], []).append(entry["train/loss"])
    return [statistics.fmean(values) for _, values in sorted(of_epoch.items())]


def row(name: str, found: list[RunResult], epochs: int) -> dict[str, Any]:
    """Returns a row of the table."""
    tests = [run.test for run in found if run.test is not None]
    mean, std = mean_and_std(tests)
    curves = [losses(run) for run in found]
    return {
        "score": name, "num_parameters": found[0].num_parameters, "max_epochs": epochs,
        "seeds": [run.seed for run in found], "test": tests, "mean": mean, "std": std,
        "loss": [statistics.fmean(values) for values in zip(*curves, strict=True)],
        "loss_spread": [[min(values), max(values)] for values in zip(*curves, strict=True)],
        "commits": commits_of([run.folder for run in found]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scores", nargs="+", choices=SCORES, default=list(SCORES))
    parser.add_argument("--seeds", type=parse_seeds, default=[0, 1, 2], metavar="0-2")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=Path("runs/scores"), help="finished runs in it are kept")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.scores:
        rows.append(
            row(name, runs(name, arguments.seeds, arguments.epochs, arguments.folder.absolute()), arguments.epochs)
        )
        print(f"{name}: {as_text('test rmse', rows[-1]['test'])}, last loss {rows[-1]['loss'][-1]:.4f}", flush=True)
    if arguments.out:
        write_record(arguments.out, "score_curves", rows)
        draw_curves(rows, arguments.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
