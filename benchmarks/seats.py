"""What do the mechanisms do to the error on real molecules? One data set, one budget, three seeds.

    python benchmarks/seats.py [--models dense ssa …] [--seeds 0-2] [--epochs 60] [--folder runs/seats]
                               [--out FILE.json]

ogbg-molesol, official scaffold split, OGB's evaluator, the configurations that come with the package, all with the
same width, depth, batches, optimizer and number of epochs; no early stopping, nothing was searched. What they read of a
molecule differs as said: bonds, or all pairs; egt alone reads distances and singular vectors. Each run is scored
on the test split at the epoch with the best valid metric; test labels decide nothing.

    bonds           ogbg-molesol: attention over bonds and one virtual node
    dense           the same over all pairs of atoms
    ssa             ogbg-molesol-ssa: half of the sources of each layer and step, never dense in training, scored dense
    self-ensemble   the runs of ssa, 16 passes over drawn sources averaged
    ssa, dense      ogbg-molesol-ssa: the last tenth of the epochs dense
    egt             ogbg-molesol-egt: the Edge-augmented Graph Transformer
    pool            ogbg-molesol-pool: bonds, read out of the eight best atoms, by successive halving
    topk            ogbg-molesol-topk: each atom's best edges by a learned score
    combiner        ogbg-molesol-combiner: all pairs, in two of four layers through summaries of ring systems
    everything      drawn sources, pairwise scores, half of the heads, a Combiner layer and a pool in one model

Three seeds tell apart what differs by more than the spread, and nothing else. It can be stopped and started again, or
split among processes by --models; a last call with --out, which finds everything done, writes the table.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

from measure import commits_of, write_record

from graphattn.training import RunResult, evaluate_self_ensemble, mean_and_std, parse_seeds, read_config, train_in
from graphattn.training.seeds import as_text

NUM_PASSES = 16
MODELS = {
    "bonds": ("ogbg-molesol", []),
    "dense": ("ogbg-molesol", ["--inputs.edges", "bonds | full | virtual(1)"]),
    "ssa": ("ogbg-molesol-ssa", ["--training.dense_from", "1"]),
    "self-ensemble": ("ogbg-molesol-ssa", ["--training.dense_from", "1"]),
    "ssa, dense": ("ogbg-molesol-ssa", []),
    "egt": ("ogbg-molesol-egt", []),
    "pool": ("ogbg-molesol-pool", []),
    "topk": ("ogbg-molesol-topk", []),
    "combiner": ("ogbg-molesol-combiner", []),
    "everything": ("everything", []),
}


def results(model: str, seeds: list[int], epochs: int, folder: Path) -> list[RunResult]:
    """Trains a model from several seeds, or returns the results."""
    name, options = MODELS[model]
    budget = ["--training.max_epochs", str(epochs), "--training.patience", "0", "--run_root", str(folder)]
    config = read_config(name, [*options, *budget])
    place = folder / ("ssa" if model == "self-ensemble" else model.replace(", ", "-"))
    found = []
    for seed in seeds:
        found.append(train_in(dataclasses.replace(config, seed=seed), place / f"seed{seed}"))
        print(f"{model} seed {seed}: test {found[-1].test:.4f}, {found[-1].seconds:.0f} s", flush=True)
    return found


def row(model: str, found: list[RunResult], epochs: int) -> dict[str, Any]:
    """Returns a row of the table."""
    tests, spreads = [result.test for result in found], None
    if model == "self-ensemble":
        ensembles = [evaluate_self_ensemble(result.folder, "test", NUM_PASSES) for result in found]
        tests, spreads = [each.score for each in ensembles], [each.mean_spread for each in ensembles]
    mean, std = mean_and_std([test for test in tests if test is not None])
    return {
        "set": found[0].name,
        "model": model,
        "num_parameters": found[0].num_parameters,
        "max_epochs": epochs,
        "seeds": [result.seed for result in found],
        "valid": [result.valid for result in found],
        "test": tests,
        "mean": mean,
        "std": std,
        "num_passes": NUM_PASSES if spreads else None,
        "spread_of_prediction": statistics.fmean(spreads) if spreads else None,
        "commits": commits_of([result.folder for result in found]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", type=parse_seeds, default=[0, 1, 2], metavar="0-2")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path("runs/seats"), help="finished runs in it are kept")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    arguments = parser.parse_args()
    rows = []
    for model in arguments.models:
        found = results(model, arguments.seeds, arguments.epochs, arguments.folder.absolute())
        rows.append(row(model, found, arguments.epochs))
        print(f"{model}: {as_text('test rmse', [test for test in rows[-1]['test'] if test is not None])}", flush=True)
    if arguments.out:
        write_record(arguments.out, "seats", rows)


if __name__ == "__main__":
    main()
