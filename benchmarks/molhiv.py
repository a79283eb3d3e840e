"""One run on ogbg-molhiv, 41,127 molecules: does the packaged configuration train on a larger set in reasonable time?

    python benchmarks/molhiv.py [--root DIR] [--seeds 0] [--folder runs/molhiv] [--out FILE.json]

Trains `--config ogbg-molhiv` as it is packaged, once per seed, official scaffold split and evaluator, and records test
and valid ROC-AUC, minutes, and which raw files differ from the official ones: where some do, the figure is not one of
ogbg-molhiv and the record says so. A run that was stopped goes on when the command is given again. About an hour on
one core.
"""

import argparse
import dataclasses
from pathlib import Path

from measure import commits_of, write_record

from graphattn.data import load
from graphattn.training import mean_and_std, parse_seeds, read_config, train_in


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", help="directory that holds the data set in OGB's layout, or receives its download")
    parser.add_argument("--seeds", type=parse_seeds, default=[0], help="such as 0-9")
    parser.add_argument("--folder", type=Path, default=Path("runs/molhiv"), help="finished runs in it are kept")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    arguments = parser.parse_args()
    config = read_config("ogbg-molhiv", ["--data.root", arguments.root] if arguments.root else [])
    results = []
    for seed in arguments.seeds:
        path, of_seed = arguments.folder / f"seed{seed}", dataclasses.replace(config, seed=seed)
        results.append(train_in(of_seed, path))
        print(f"seed {seed}: valid {results[-1].valid:.4f}  test {results[-1].test:.4f}", flush=True)
    tests = [result.test for result in results if result.test is not None]
    mean, std = mean_and_std(tests)
    row = {
        "metric": results[0].metric,
        "num_parameters": results[0].num_parameters,
        "seeds": arguments.seeds,
        "valid": [result.valid for result in results],
        "test": tests,
        "commits": commits_of([arguments.folder / f"seed{seed}" for seed in arguments.seeds]),
        "mean": mean,
        "std": None if len(tests) == 1 else std,
        "num_epochs": [result.num_epochs for result in results],
        "best_epoch": [result.best_epoch for result in results],
        "minutes": [round(result.seconds / 60, 1) for result in results],
        "differs": list(load(config.data.name, config.data.root, yes=config.data.yes).differs),
    }
    if arguments.out:
        write_record(arguments.out, "molhiv", [row])


if __name__ == "__main__":
    main()
