"""The command line: strings become objects here, once; what is done is done by the rooms.

    graphattn train --config ogbg-molesol --model.embed_dim 128 --seeds 0-9
    graphattn tune --config ogbg-molesol --trials 20
    graphattn evaluate RUN
    graphattn predict RUN --smiles FILE
    graphattn draw RUN --index 0 --out pathways.svg
    graphattn prune RUN --keep 8
    graphattn mask "sliding_window(4096, radius=64) | global_tokens(4096, [0])" --keep is_causal --out mask.svg
    graphattn data list
    graphattn info [--calibrate]

Exit codes: 0 done, 1 failed, 2 the command was not understood, 130 Ctrl-C (143 SIGTERM), with the run resumable.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PICTURES = (".svg", ".png", ".pdf")
MASK_FILES = (".safetensors", ".npz", *PICTURES)
DRAWN_FILES = (*PICTURES, ".graphml", ".gexf", ".json", ".dot")
EXPECTED = (ValueError, TypeError, OSError, ImportError)  # said in one line; GRAPHATTN_TRACEBACK=1 shows where


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.run is None:
        parser.print_help()
        return 2
    takes_keys = options.run in (train, tune)
    if rest and not takes_keys:
        parser.error(
            f"{options.command} does not know {' '.join(rest)}. `graphattn {options.command} --help` says more."
        )
    try:
        with _warnings_in_one_line():
            return options.run(options, rest) if takes_keys else options.run(options)
    except KeyboardInterrupt:
        print("graphattn: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except EXPECTED as error:
        if os.environ.get("GRAPHATTN_TRACEBACK"):
            raise
        print(f"graphattn: error: {_said(error)}", file=sys.stderr)
        return 1


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Inside, warnings are printed as errors are: one line, without the line of code that Python adds."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *where, **line: f"graphattn: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and not error.filename:
        # a thread of TensorBoard names no file
        return f"{error.strerror}: the disk is full. Free some space and run the same command with --resume."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} {error.filename!r}" if error.filename else error.strerror
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("graphattn", description="Attention as message passing over explicit graphs.")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, run: Callable[..., int], text: str, **options: Any) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, allow_abbrev=False, **options)
        made.set_defaults(run=run)
        return made

    made = command("train", train, "Trains a model and stores the run.", add_help=False)
    made.add_argument("-h", "--help", action="store_true", help="list every key")
    made.add_argument("--config", metavar="NAME|FILE", help="a configuration of the package, or a YAML file")
    made.add_argument("--seeds", metavar="0-9", help="one run per seed; prints mean ± unbiased std")
    made.add_argument("--precision", metavar="P", help="short for --training.precision")
    made.add_argument(
        "--resume", nargs="?", const="", metavar="RUN|FILE.ckpt",
        help="go on with a run, or with one of its checkpoints; alone: the newest of this data set and seed",
    )  # fmt: skip

    made = command("tune", tune, "Searches a configuration at random; further --KEY VALUE are those of train.")
    made.add_argument("--config", metavar="NAME|FILE", required=True, help="where the search starts: its trial 0")
    made.add_argument("--trials", metavar="N", type=int, default=20, help="configurations, one run each")
    made.add_argument("--space", metavar="FILE", help="YAML: keys, and lists of values; sizes, lr, dropout if left out")
    made.add_argument("--finalists", metavar="N", type=int, default=3, help="best trials, trained from more seeds")
    made.add_argument("--finalist-seeds", metavar="N", type=int, default=3, help="seeds of each; the best mean wins")
    made.add_argument("--out", metavar="DIR", help="folder of the search; one that was stopped goes on")

    made = command("evaluate", evaluate, "Scores runs with the official evaluator; several, or seeds, as mean ± std.")
    made.add_argument("runs", nargs="+", metavar="RUN", type=Path)
    made.add_argument("--split", default="test", choices=("train", "valid", "test"))
    made.add_argument("--checkpoint", metavar="FILE.ckpt", help="in the run's checkpoints/; the best one if left out")
    made.add_argument("--predictions", metavar="FILE.npz", help="score these stored predictions instead")
    made.add_argument(
        "--self-ensemble", metavar="N", type=int, dest="num_passes",
        help="average N passes over graphs drawn anew, of a model with a selection such as SubsampleSources",
    )  # fmt: skip
    made.add_argument("--average", help="what --self-ensemble averages: values, probabilities or logits")

    made = command("predict", predict, "Predicts with a trained run; CSV goes to the screen or to --out.")
    made.add_argument("folder", metavar="RUN", type=Path)
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--smiles", metavar="FILE", help="one SMILES per line, or a .csv with a column `smiles`")
    source.add_argument("--data", metavar="NAME", help="a data set, or package.module:function")
    made.add_argument("--root", metavar="DIR", help="directory that holds --data")
    made.add_argument("--split", default="test", help="of --data")
    made.add_argument("--out", metavar="FILE.csv", type=Path)

    made = command("draw", draw, "Draws what a trained run read in a graph of its data set, or writes its pathways.")
    made.add_argument("folder", metavar="RUN", type=Path)
    made.add_argument("--out", metavar="FILE", type=Path, required=True, help=f"ends in {', '.join(DRAWN_FILES)}")
    made.add_argument("--index", metavar="I", type=int, default=0, help="which graph of the split, from 0")
    made.add_argument("--split", default="test", help="test, valid, train; with all, --index counts the whole data set")
    made.add_argument("--view", default="graph", help="graph (a molecule with arrows), layers, arcs, or heads")
    made.add_argument("--layer", metavar="L", type=int, help="of the views graph and arcs; all merged if left out")
    made.add_argument("--method", help="rollout, flow, or weights of each layer")
    made.add_argument("--heads", default="mean", help="mean, max, each, or the number of one")
    made.add_argument("--weighting", default="alpha", help="alpha, value_norm, gradient or absolute_gradient")
    made.add_argument(
        "--share", metavar="P", type=float, default=0.8, help="of the influence on the output, to be kept"
    )

    made = command("prune", prune, "Keeps the best heads of a trained run, and stores the smaller model as a run.")
    made.add_argument("folder", metavar="RUN", type=Path)
    made.add_argument("--keep", metavar="K", type=int, required=True, help="heads that stay, of all layers together")
    made.add_argument("--out", metavar="DIR", type=Path, help="folder of the pruned run; RUN-keepK if left out")

    made = command("mask", mask, "Builds a graph from an expression: says what it is, describes, draws and stores it.")
    made.add_argument("expression", help="builders, their arguments, | & - ^ @ ~, .T and .keep(rule)")
    made.add_argument(
        "--keep", metavar="RULE", action="append", default=[], help="is_causal, within(n); may be repeated"
    )
    made.add_argument("--out", metavar="FILE", type=Path, help=f"ends in {', '.join(MASK_FILES)}")
    made.add_argument("--describe", action="store_true", help="degrees, components, hops, cover, cost")
    made.add_argument("--raster", action="store_true", help="the matrix as text")
    made.add_argument("--seed", metavar="N", type=int, default=0, help="of builders that draw")

    made = command("data", data, "Lists data sets, shows their cards, prepares them.")
    made.set_defaults(action="list")
    actions = made.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="every name that --data.name takes")
    actions.add_parser("card", help="where a set comes from, its licence, counts and checksums").add_argument("name")
    prepare = actions.add_parser("prepare", help="find, download or convert a set, so that training starts at once")
    prepare.add_argument("name")
    prepare.add_argument("--from", dest="root", metavar="DIR", help="directory in OGB's layout, or for the download")
    prepare.add_argument("--yes", action="store_true", help="agree to downloads above 50 MB")

    made = command("info", info, "Versions, devices, implementations, what is missing and how to get it.")
    made.add_argument(
        "--calibrate", action="store_true",
        help="measure the implementations here, for a minute, and keep the constants by which impl='auto' chooses",
    )  # fmt: skip
    made.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of --calibrate")
    return parser


def train(options: argparse.Namespace, overrides: list[str]) -> int:
    """Trains one run, or one per seed, and ends with the picture of how it went."""
    from graphattn.training.config import help_text, read_config
    from graphattn.training.folder import RunFolder
    from graphattn.training.run import find_run, require_training
    from graphattn.training.run import train as train_run
    from graphattn.training.seeds import as_text, parse_seeds, train_seeds

    if options.help:
        print("graphattn train --config NAME|FILE [--KEY VALUE ...] [--seeds 0-9] [--precision P] [--resume [RUN]]")
        print(help_text(read_config(options.config, overrides).network))
        return 0
    if options.precision:
        overrides = [*overrides, "--training.precision", options.precision]
    named = bool(options.config or overrides)
    if options.config is None and not options.resume:
        raise ValueError("train needs --config NAME|FILE, such as --config ogbg-molesol, or --resume RUN.")
    config = read_config(options.config, overrides) if named or not options.resume else None
    require_training()
    from graphattn.training.checkpoints import Interrupted

    def say(result: Any) -> None:
        test = "" if result.test is None else f"  test {result.metric} {result.test:.4f}"
        print(
            f"seed {result.seed}  valid {result.metric} {result.valid:.4f} (epoch {result.best_epoch} of "
            f"{result.num_epochs}){test}  {result.seconds:.0f} s  {result.folder}",
            flush=True,
        )

    try:
        if options.seeds is None:
            resume = options.resume
            if resume == "":
                assert config is not None
                resume = find_run(config)
            if resume and not options.config:
                config = _with_overrides(Path(resume), overrides) if overrides else None
            result = train_run(config, resume=resume)
            say(result)
            _draw(RunFolder.of(Path(resume)).path if resume else Path(result.folder))
            return 0
        if options.resume:
            raise ValueError("--seeds goes on with --resume alone, in the newest folder of as many seeds.")
        assert config is not None
        path, results = train_seeds(config, parse_seeds(options.seeds), resume=options.resume is not None, report=say)
    except Interrupted as stopped:
        print(f"graphattn: {stopped}; last.ckpt is written, the same command with --resume goes on", file=sys.stderr)
        return 128 + stopped.signal_number
    metric = results[0].metric
    print(as_text(f"valid {metric}", [result.valid for result in results]))
    tests = [result.test for result in results if result.test is not None]
    if tests:
        print(as_text(f"test {metric}", tests))
    print(path)
    _draw(path)
    return 0


def _draw(run: Path) -> None:
    """Draws the curve of a finished run and a test graph, and prints where: without them it is as good a run."""
    failed: dict[str, list[str]] = {}
    for name in ("curve", "pathways"):
        try:
            from graphattn.viz.curves import save_training_curves
            from graphattn.viz.run_example import save_run_example

            path = save_training_curves(run) if name == "curve" else save_run_example(run)
        except Exception as error:
            if os.environ.get("GRAPHATTN_TRACEBACK"):
                raise
            failed.setdefault(_said(error), []).append(name)
        else:
            print(path)
    for reason, names in failed.items():
        print(f"graphattn: not drawn: {' and '.join(names)}: {reason}", file=sys.stderr)


def tune(options: argparse.Namespace, overrides: list[str]) -> int:
    """Searches at random, prints each trial, and ends with the file of the best one."""
    from graphattn.training.config import read_config
    from graphattn.training.folder import directory_of, time_stamp
    from graphattn.training.run import require_training
    from graphattn.training.search import DEFAULT_SPACE, read_space
    from graphattn.training.search import tune as search
    from graphattn.training.seeds import as_text

    config = read_config(options.config, overrides)
    space = read_space(options.space, config.network) if options.space else DEFAULT_SPACE
    require_training()
    from graphattn.training.checkpoints import Interrupted

    folder = Path(options.out) if options.out else (
        directory_of(config.run_root, config.data.name) / f"{time_stamp()}-search"
    )  # fmt: skip

    def say(trial: Any) -> None:
        values = " ".join(f"--{key} {value}" for key, value in trial.overrides.items()) or "as it stands"
        valids = [result.valid for result in trial.results]
        found = as_text(f"valid {trial.results[0].metric}", valids) if valids else trial.failure
        print(f"trial {trial.number}  {found}  {values}", flush=True)

    try:
        found = search(
            config, options.trials, folder,
            num_finalists=options.finalists, num_seeds=options.finalist_seeds, space=space, report=say,
        )  # fmt: skip
    except Interrupted as stopped:
        print(f"graphattn: {stopped}; the same command with --out {folder} goes on", file=sys.stderr)
        return 128 + stopped.signal_number
    print(f"best: trial {found.best_trial.number} of {len(found.trials)}, {found.num_epochs} epochs in all")
    print(folder / "best.yaml")
    return 0


def _with_overrides(resume: Path, overrides: list[str]) -> Any:
    """Returns the configuration of a run under overrides, which `train` compares with it."""
    from graphattn.training.config import read_config
    from graphattn.training.folder import RunFolder

    folder = RunFolder.of(resume).checked()
    return read_config(folder.config, overrides)


def evaluate(options: argparse.Namespace) -> int:
    """Scores runs, each on its own, then together."""
    from graphattn.training.evaluate import evaluate_run
    from graphattn.training.seeds import as_text, runs_in
    from graphattn.training.self_ensemble import evaluate_self_ensemble

    if options.num_passes is None and options.average is not None:
        raise ValueError("--average says what --self-ensemble N averages. Pass both, or none.")
    if options.num_passes is not None and options.predictions is not None:
        raise ValueError("--self-ensemble runs the model, --predictions does not. Pass one of them.")
    runs = [run for path in options.runs for run in runs_in(path)]
    values, name = [], ""
    for run in runs:
        if options.num_passes is None:
            task, value = evaluate_run(
                run, options.split, checkpoint=options.checkpoint, predictions=options.predictions
            )
        else:
            ensemble = evaluate_self_ensemble(
                run, options.split, options.num_passes, average=options.average, checkpoint=options.checkpoint
            )
            task, value = ensemble.task, ensemble.score
            passes = as_text(f"{task.metric} of one pass", ensemble.scores, "passes")
            print(f"{run}  {passes}, spread of a prediction {ensemble.mean_spread:.4g}")
        if name and name != f"{task.name} {options.split} {task.metric}":
            raise ValueError(f"{run} is a run on {task.name}, the ones before are not. Evaluate them apart.")
        name = f"{task.name} {options.split} {task.metric}"
        values.append(value)
        if len(runs) > 1:
            print(f"{run}  {value:.4f}")
    print(as_text(name, values))
    return 0


def predict(options: argparse.Namespace) -> int:
    """Predicts molecules of a file, or graphs of a data set, one row each."""
    import csv
    import io

    from graphattn.data import load
    from graphattn.data.files import write_whole
    from graphattn.training.evaluate import predict_split
    from graphattn.training.load import load_run
    from graphattn.training.predict import predict_molecules, read_smiles

    predictor = load_run(options.folder)
    columns = ["prediction"] if predictor.task.num_tasks == 1 else [
        f"prediction_{task}" for task in range(predictor.task.num_tasks)
    ]  # fmt: skip
    refused: list[str] = []
    rows: list[list[Any]]
    if options.smiles:
        molecules = read_smiles(options.smiles)
        y_pred, refused = predict_molecules(predictor, molecules)
        rows = [["line", "smiles", *columns]]
        rows += [[each.line, each.smiles, *_cells(values)] for each, values in zip(molecules, y_pred)]
    else:
        found = predict_split(predictor, load(options.data, options.root), options.split)
        rows = [["index", *columns]]
        rows += [[int(index), *_cells(values)] for index, values in zip(found.index, found.y_pred)]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    if options.out:
        write_whole(options.out.expanduser().absolute(), stream.getvalue().encode())
        print(f"{options.out}: {len(rows) - 1 - len(refused)} predictions", file=sys.stderr)
    else:
        sys.stdout.write(stream.getvalue())
    for sentence in refused:
        print(f"graphattn: {options.smiles}, {sentence}", file=sys.stderr)
    return 0


def _cells(values: Any) -> list[str]:
    return ["" if value != value else f"{value:.6g}" for value in values]


def draw(options: argparse.Namespace) -> int:
    """Sends one graph through a trained model, and draws what it read or writes the pathways for other programs."""
    out = _checked_file(options.out.expanduser(), DRAWN_FILES)
    from graphattn.viz import save_picture
    from graphattn.viz.run_example import run_example

    heads = int(options.heads) if options.heads.isdecimal() else options.heads
    asked: dict[str, Any] = {"share": options.share, "heads": heads, "weighting": options.weighting}
    example = run_example(options.folder, options.index, options.split, needs_gradient="gradient" in options.weighting)
    if out.suffix in PICTURES:
        drawn = example.draw(options.view, layer=options.layer, method=options.method, **asked)
        save_picture(drawn, out)
    else:
        if options.layer is not None or options.view != "graph":
            raise ValueError(f"{out.suffix} holds all layers and no picture. Leave --layer and --view out.")
        example.pathways(options.method or "weights", **asked).write(out)
    print(example.title)
    print(out)
    return 0


def prune(options: argparse.Namespace) -> int:
    """Prunes a run, says what that changed, and draws which heads stayed."""
    from graphattn.training.prune import prune_run

    found = prune_run(options.folder, options.keep, folder=options.out)
    num_layers = len(found.kept)
    by_layer = ", ".join(str(len(heads)) for heads in found.kept)
    print(f"kept {options.keep} of {num_layers * found.num_heads} heads by {found.how}: {by_layer} in the layers")
    if found.test is not None:
        print(f"test {found.metric} {found.test_before:.4f} before, {found.test:.4f} after")
    for what, before, after, unit in (
        ("parameters", *found.num_parameters, ""),
        ("on disk", *(number / 1e3 for number in found.num_bytes), " kB"),
        ("forward of a batch", *found.batch_ms, " ms"),
    ):
        places = 1 if unit == " ms" else 0
        print(f"{what} {before:,.{places}f}{unit} before, {after:,.{places}f}{unit} after")
    print(found.folder)
    try:
        import torch

        from graphattn.viz import draw_head_gates, save_picture

        gates = torch.zeros(num_layers, found.num_heads)
        for layer, heads in enumerate(found.kept):
            gates[layer, heads] = 1.0
        print(save_picture(draw_head_gates(gates), Path(found.folder) / "heads.png"))
    except Exception as error:
        if os.environ.get("GRAPHATTN_TRACEBACK"):
            raise
        print(f"graphattn: not drawn: heads: {_said(error)}", file=sys.stderr)
    return 0


def mask(options: argparse.Namespace) -> int:
    """Builds the graph of an expression, says what was asked for, and writes it."""
    import torch

    from graphattn.connectivity.expression import read_graph, read_rule

    out = None if options.out is None else _checked_file(options.out.expanduser(), MASK_FILES)
    rules = [read_rule(text) for text in options.keep]
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"--seed must lie in [0, 2^63), got {options.seed}. Any small number serves.")
    graph = read_graph(options.expression, generator=torch.Generator().manual_seed(options.seed))
    for rule in rules:
        graph = graph.keep(rule)
    print(graph.describe() if options.describe else graph)
    if options.describe:
        _print_times(graph)
    if options.raster:
        print(graph.raster())
    if out is not None:
        if out.suffix in PICTURES:
            from graphattn.viz import draw_matrix, save_picture

            save_picture(draw_matrix(graph), out)
        else:
            graph.save(out)
        print(out)
    return 0


def _checked_file(path: Path, endings: Sequence[str]) -> Path:
    """Returns the file to write, or raises before any work is done."""
    import importlib.util

    if path.suffix not in endings:
        raise ValueError(
            f"--out must end in {', '.join(endings)}, got {path.name!r}. Pictures are {', '.join(PICTURES)}."
        )
    if path.is_dir():
        raise ValueError(f"--out {path} is a directory. Name a file in it.")
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no directory {path.parent}. Make it first.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"--out {path} is not writable. Name another place.")
    if path.suffix in PICTURES and importlib.util.find_spec("matplotlib") is None:
        raise ImportError("drawing needs matplotlib, which is not installed: pip install graphattn[viz]")
    return path


def _print_times(graph: Any) -> None:
    """Prints what each implementation is expected to take for a common size of head."""
    import torch

    from graphattn.ops import explain

    query = torch.empty(1, 1, 1).expand(graph.num_dst_nodes, 8, 64)
    explain(query, graph)


def data(options: argparse.Namespace) -> int:
    """Lists, shows or prepares data sets."""
    from graphattn.data import card, find, load, names
    from graphattn.data.cards import as_text

    if options.action in (None, "list"):
        for name in names():
            folder = find(name)
            print(f"{name:24} {folder if folder else 'to be downloaded'}")
    elif options.action == "card":
        print(as_text(card(options.name)))
    else:
        print(load(options.name, options.root, yes=options.yes))
    return 0


def info(options: argparse.Namespace) -> int:
    """Prints versions, devices and what is missing; or measures the constants of impl="auto" and prints those."""
    import importlib.util

    import torch

    from graphattn.ops._costs import constants_for
    from graphattn.ops.capability import IMPLEMENTATIONS, runs_on
    from graphattn.training.folder import environment

    if options.calibrate:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda needs a GPU that torch sees, and it sees none. Leave it out for the CPU.")
        return _calibrate(options.device)
    found = environment()
    print(f"graphattn {found['graphattn']}, Python {found['python']}, {found['platform']}")
    print(f"threads {found['num_threads']}, CUDA {', '.join(found['cuda']) or 'none'}")
    if found["git"]:
        print(f"commit {found['git']['commit']}{', modified' if found['git']['is_modified'] else ''}")
    for package, version in found["packages"].items():
        print(f"  {package:18} {version or 'not installed'}")
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for impl in IMPLEMENTATIONS:
        able = [device for device in devices if runs_on(impl, torch.device(device))]
        print(f"  impl {impl:13} {', '.join(able) or 'no device here'}")
    for device in devices:
        print(f"  constants of auto  {device}: {constants_for(device).source}")
    needed = {
        "ogb": "train",
        "lightning": "train",
        "tensorboard": "train",
        "rdkit": "train",
        "matplotlib": "viz",
        "torch_scatter": "scatter",
    }
    for package, extra in needed.items():
        if importlib.util.find_spec(package) is None:
            print(f"missing {package}: pip install graphattn[{extra}]")
    return 0


def _calibrate(device: str) -> int:
    """Measures the constants of impl="auto"; somebody who watches sees how far it is, a pipe does not."""
    from graphattn.ops import calibrate

    def say(line: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)

    calibrate.check_writable(device)
    calibration = calibrate.calibrate(report=say, device=device)
    say("")
    path = calibrate.save(calibration)
    print(f"microseconds of forward and backward, fitted to {calibration.num_measured} measurements:")
    print(calibrate.table(calibration))
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
