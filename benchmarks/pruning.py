"""What does pruning cost in accuracy? Five ways to choose heads, four numbers of heads, real molecules, three seeds.

    python benchmarks/pruning.py [--methods joint …] [--seeds 0-2] [--epochs 40] [--folder runs/pruning]
                                 [--out FILE.json]

ogbg-molesol, official scaffold split, OGB's evaluator; the packaged configuration with 4 layers of 12 heads, width 96.
Every model is trained for the same number of epochs, then pruned by `graphattn prune` to 3/4, 1/2, 1/4 and 1/12 of its
heads, and scored on the test split as it is, without further training.

    joint         SubsetHeadGate trained with everything else, for each number of heads its own run, cooled over the
                  first 70 % of the steps
    pipelined     SubsetHeadGate alone on the trained whole model, all else frozen, a quarter of the epochs more
    straight      StraightThroughHeadGate trained with everything else, for each number its own run
    Voita         HardConcreteHeadGate trained with everything else and an L0 penalty; one run, the best heads of it
    Michel        importance of the heads of the trained whole model; nothing is trained

Nothing was searched: temperatures, rates and the penalty are those below. Three seeds tell apart what differs by more
than the spread. It can be stopped and started again, in one process at a time.
"""

import argparse
import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

from measure import commits_of, write_record

from graphattn.training import RunConfig, RunResult, mean_and_std, parse_seeds, prune_run, read_config, train_in
from graphattn.training.seeds import as_text

NUM_LAYERS, NUM_HEADS = 4, 12
SHARES = (Fraction(3, 4), Fraction(1, 2), Fraction(1, 4), Fraction(1, 12))
METHODS = ("joint", "pipelined", "straight", "Voita", "Michel")
STEPS_PER_EPOCH = 15  # 902 molecules in batches of 64
COMMON = ["--model.num_layers", str(NUM_LAYERS), "--model.num_heads", str(NUM_HEADS), "--model.embed_dim", "96",
          "--training.patience", "0"]  # fmt: skip
GATE_LR, PENALTY = "0.1", "0.002"


def subset(keep: int, num_steps: int) -> str:
    return (
        f"SubsetHeadGate(num_keep={keep}, start_temperature=10.0, end_temperature=0.001, num_cooling_steps={num_steps})"
    )


def configuration(gate: str, epochs: int, seed: int, options: list[str]) -> RunConfig:
    budget = ["--training.max_epochs", str(epochs), "--seed", str(seed), "--training.gate_lr", GATE_LR]
    return read_config("ogbg-molesol", [*COMMON, *budget, "--model.head_gate", gate, *options])


def trained(method: str, keep: int, epochs: int, seed: int, folder: Path) -> RunResult:
    """Returns the run whose heads a method chooses; runs that several numbers of heads share are trained once."""
    if method == "Michel":
        return train_in(configuration("", epochs, seed, []), folder / "whole" / f"seed{seed}")
    if method == "pipelined":
        whole = trained("Michel", keep, epochs, seed, folder)
        more = max(1, epochs // 4)
        options = ["--training.gates_only", "true", "--training.start_from", whole.folder]
        options += ["--training.warmup_epochs", "0"]
        gate = subset(keep, round(0.7 * more * STEPS_PER_EPOCH))
        return train_in(configuration(gate, more, seed, options), folder / f"pipelined-{keep}" / f"seed{seed}")
    if method == "Voita":
        gate = f"HardConcreteHeadGate(num_keep={NUM_LAYERS * NUM_HEADS})"
        config = configuration(gate, epochs, seed, ["--training.gate_penalty", PENALTY])
        return train_in(config, folder / "Voita" / f"seed{seed}")
    cooling = round(0.7 * epochs * STEPS_PER_EPOCH)
    gate = subset(keep, cooling) if method == "joint" else f"StraightThroughHeadGate(num_keep={keep})"
    return train_in(configuration(gate, epochs, seed, []), folder / f"{method}-{keep}" / f"seed{seed}")


def pruned(run: RunResult, keep: int) -> dict[str, Any]:
    """Prunes a run, or returns what was found."""
    folder = Path(f"{run.folder}-keep{keep}")
    if not (folder / "pruned.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)  # what was stopped half way
        prune_run(run.folder, keep, folder=folder)
    return json.loads((folder / "pruned.json").read_text())


def row(method: str, share: Fraction, epochs: int, seeds: list[int], folder: Path) -> dict[str, Any]:
    """Returns a row of the table."""
    keep = round(share * NUM_LAYERS * NUM_HEADS)
    runs = [trained(method, keep, epochs, seed, folder) for seed in seeds]
    found = [pruned(run, keep) for run in runs]
    mean, std = mean_and_std([each["test"] for each in found])
    whole = [trained("Michel", keep, epochs, seed, folder) for seed in seeds]
    of_whole = mean_and_std([run.test for run in whole if run.test is not None])
    return {
        "method": method, "share": str(share), "num_keep": keep, "num_heads": NUM_LAYERS * NUM_HEADS,
        "max_epochs": epochs, "seeds": seeds, "test": [each["test"] for each in found], "mean": mean, "std": std,
        "whole_mean": of_whole[0], "whole_std": of_whole[1], "num_parameters": found[0]["num_parameters"],
        "kept_by_layer": [[len(heads) for heads in each["kept"]] for each in found],
        "commits": commits_of([run.folder for run in runs]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=parse_seeds, default=[0, 1, 2], metavar="0-2")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=Path("runs/pruning"), help="finished runs in it are kept")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    arguments = parser.parse_args()
    rows = []
    for method in arguments.methods:
        for share in SHARES:
            rows.append(row(method, share, arguments.epochs, arguments.seeds, arguments.folder.absolute()))
            print(f"{method} {share}: {as_text('test rmse', rows[-1]['test'])}", flush=True)
    if arguments.out:
        write_record(arguments.out, "pruning", rows)


if __name__ == "__main__":
    main()
