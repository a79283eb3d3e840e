"""How fast is a whole training step of our model, against the same model around PyG's attention layers?

    python benchmarks/training_step.py [--case esol-64-small-bonds ...] [--rounds 5] [--threads 1] [--out FILE.json]

A step is what the trainer does with a batch that lies collated in memory: zero_grad, forward, loss, backward, clip,
AdamW. Batches are the first of the train split of ogbg-molesol and ogbg-molbbbp (whose molecules are as large as those
of ogbg-molhiv), in float32, with the packaged configs' dropout. Contenders, each in a copy of the same model:

    graphattn          our model as it is by default: edge features in key, value and bias
    graphattn, no bias the same with edge features in key and value alone, which is all TransformerConv has
    TransformerConv    PyG's, over the same edges with the same features; compared with "graphattn, no bias"
    GPSConv            PyG's, GINEConv along bonds and MultiheadAttention over each molecule; compared with "graphattn"

The model with TransformerConv first has to equal ours in output and in the gradient of every parameter that both have,
in float64 with equal weights; otherwise nothing is timed. GPSConv is another function, so only shapes and finiteness
are checked. Under the edges "bonds | full | virtual(1)" our attention reaches what GPSConv's reaches. Then all are
timed in turn, round by round, after two warm-up rounds. A row gives the median in ms, the spread (minimum to maximum),
the ratio (median over rounds of the ratio in that round), and the peak of resident memory that one step adds, measured
in a process of the contender's own. Machines are noisy, read ratios. One thread, as in the packaged configs: several
wait for each other wherever other programs run. Sample row:

    esol-64-small-full     TransformerConv    95.91 ms (71.33-108.4)          2.06x of graphattn, no bias     88 MiB
"""

import argparse
import dataclasses
import functools
import itertools
import statistics
from pathlib import Path
from typing import NamedTuple

import torch
from measure import added_peak, in_fresh_process, interleaved, median_ratio, spread, write_record
from peers import GPSNetwork, with_transformer_conv
from torch import nn

from graphattn.data import GraphDataset, load, make_loader
from graphattn.inputs import GraphBatch
from graphattn.models.graph_transformer import NAMED_SIZES, GraphTransformer, GraphTransformerConfig
from graphattn.training import GraphPredictor, RunConfig
from graphattn.training.config import DataConfig, InputsConfig, resolved
from graphattn.training.module import TrainingModule

EDGES = {"bonds": "bonds | virtual(1)", "full": "bonds | full | virtual(1)"}
TERMS = {"graphattn": ("key", "value", "bias"), "graphattn, no bias": ("key", "value")}
COMPARED_WITH = {"TransformerConv": "graphattn, no bias", "GPSConv": "graphattn"}
CONTENDERS = (*TERMS, *COMPARED_WITH)
TOLERANCE = 1e-10
CHECKED_GRAPHS = 16  # a float64 copy of the largest batch would not fit everywhere


class Case(NamedTuple):
    """What is trained on what."""

    dataset: str
    batch_size: int
    size: str  # of NAMED_SIZES
    edges: str  # of EDGES


CASES = {
    f"{dataset}-{batch_size}-{size}-{edges}": Case(f"ogbg-mol{dataset}", batch_size, size, edges)
    for dataset, batch_size, size, edges in itertools.product(
        ("esol", "bbbp"), (64, 256), ("small", "medium"), ("bonds", "full")
    )
}
QUICK = ("esol-64-small-bonds", "esol-64-small-full")


class Step:
    """One training step of a predictor on a batch, to be called again and again."""

    def __init__(self, predictor: GraphPredictor, batch: GraphBatch):
        self.predictor, self.batch = predictor.train(), batch
        self.weights = [weight for weight in predictor.parameters() if weight.requires_grad]
        self.clip = predictor.config.training.clip
        self.optimizer = TrainingModule(predictor, steps_per_epoch=1).configure_optimizers()["optimizer"]

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.predictor.loss(self.batch).backward()
        nn.utils.clip_grad_norm_(self.weights, self.clip)
        self.optimizer.step()


@functools.cache
def dataset_of(case: Case) -> GraphDataset:
    return load(case.dataset)


def make_predictor(case: Case, contender: str, **model: object) -> GraphPredictor:
    """Makes the model of a contender, with the objective of the data; equal weights wherever there are equal parts."""
    dataset = dataset_of(case)
    terms = TERMS[COMPARED_WITH.get(contender, contender)]
    config = RunConfig(
        data=DataConfig(case.dataset),
        inputs=InputsConfig("bonds" if contender == "GPSConv" else EDGES[case.edges], num_walks=0),
        model=GraphTransformerConfig.from_size(case.size, edge_terms=terms, **model),
    )
    torch.manual_seed(0)
    predictor = GraphPredictor(resolved(config, dataset), dataset.task, dataset.labels[dataset.indices("train")])
    if contender == "TransformerConv":
        predictor.network = with_transformer_conv(predictor.network)
    elif contender == "GPSConv":
        predictor.network = GPSNetwork(predictor.config.model)
    return predictor


def make_batch(case: Case, predictor: GraphPredictor, batch_size: int, is_ours: bool) -> GraphBatch:
    """Returns the first batch of the train split: the same molecules for every contender."""
    batch = next(iter(make_loader(dataset_of(case), "train", predictor.collate, batch_size=batch_size)))
    return batch if is_ours else batch.without_types()


def check(case: Case) -> None:
    """Refuses to time what is not right."""
    predictor = make_predictor(case, "graphattn, no bias", dropout_p=0.0).double()
    assert isinstance(predictor.network, GraphTransformer)
    for block in predictor.network.blocks:  # lin_edge of TransformerConv serves keys and values
        block.attention.edge.edge_value_weight = block.attention.edge.edge_key_weight
    typed = make_batch(case, predictor, CHECKED_GRAPHS, is_ours=True)
    typed = dataclasses.replace(typed, y=typed.y.double())
    results = {}
    for name, network, batch in (
        ("ours", predictor.network, typed),
        ("theirs", with_transformer_conv(predictor.network), typed.without_types()),
    ):
        network.zero_grad()
        out = network(batch)
        predictor.objective(out, batch.y).backward()
        gradients = {f"gradient of {key}": weight.grad for key, weight in network.named_parameters()}
        results[name] = {"output": out.detach(), **gradients}
    ours, theirs = results["ours"], results["theirs"]
    for what in ours.keys() & theirs.keys():
        gap = float((ours[what] - theirs[what]).abs().max() / ours[what].abs().max().clamp(min=1))
        if not gap < TOLERANCE:
            raise SystemExit(f"{case}: TransformerConv differs from ours in {what} by {gap:.2g}; not timed")

    gps = make_predictor(case, "GPSConv")
    batch = make_batch(case, gps, CHECKED_GRAPHS, is_ours=False)
    out = gps.network(batch)
    gps.objective(out, batch.y).backward()
    assert out.shape == batch.y.shape
    assert all(tensor.isfinite().all() for tensor in (out, *(w.grad for w in gps.parameters() if w.grad is not None)))


def measure_memory(contender: str, cases: list[str]) -> None:
    """Prints what a step adds to resident memory in each case, in MiB."""
    for name in cases:
        case = CASES[name]
        predictor = make_predictor(case, contender)
        step = Step(predictor, make_batch(case, predictor, case.batch_size, is_ours=contender in TERMS))
        step()  # loads kernels, makes the optimizer's state
        step.optimizer.zero_grad()
        print(name, added_peak(step))


def peak_memory(contender: str, cases: list[str], threads: int) -> dict[str, float]:
    """Returns `measure_memory` of a fresh process."""
    printed = in_fresh_process(__file__, ["--memory", contender, "--threads", str(threads), "--case", *cases])
    return {name: float(mib) for name, mib in (line.split() for line in printed.splitlines())}


def line(row: dict) -> str:
    """Returns a row of results as text."""
    timed = f"{row['step_ms']:8.4g} ms ({row['step_spread'][0]:.4g}-{row['step_spread'][1]:.4g})"
    ratio = f"{row['ratio']:5.2f}x of {row['compared_with']}" if row["compared_with"] else ""
    return f"{row['case']:22} {row['contender']:18} {timed:32} {ratio:27} {row['peak_mib']:6.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds, after two that are not")
    parser.add_argument("--threads", type=int, default=1, help="of torch and of the kernels")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/report.py")
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(QUICK)}, three rounds")
    parser.add_argument("--memory", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        return measure_memory(arguments.memory, arguments.case)
    names, rounds = (list(QUICK), 3) if arguments.quick else (arguments.case, arguments.rounds)
    for name in names:
        check(CASES[name])
    peaks = {contender: peak_memory(contender, names, arguments.threads) for contender in CONTENDERS}
    rows = []
    for name in names:
        case = CASES[name]
        predictors = {contender: make_predictor(case, contender) for contender in CONTENDERS}
        steps = {
            contender: Step(predictor, make_batch(case, predictor, case.batch_size, is_ours=contender in TERMS))
            for contender, predictor in predictors.items()
        }
        times = interleaved(steps, rounds)
        for contender, step in steps.items():
            other = COMPARED_WITH.get(contender)
            row = {
                "case": name,
                "dataset": case.dataset,
                "batch_size": case.batch_size,
                "model": f"{case.size}: {NAMED_SIZES[case.size]['num_layers']} × {NAMED_SIZES[case.size]['embed_dim']}",
                "edges": EDGES[case.edges],
                "contender": contender,
                "num_nodes": step.batch.graph.num_src_nodes,
                "num_edges": step.batch.graph.num_edges,
                "num_parameters": sum(weight.numel() for weight in step.weights),
                "step_ms": statistics.median(times[contender]),
                "step_spread": spread(times[contender]),
                "compared_with": other,
                "ratio": median_ratio(times[contender], times[other]) if other else None,
                "peak_mib": peaks[contender][name],
            }
            rows.append(row)
            print(line(row), flush=True)
    if arguments.out:
        write_record(arguments.out, "training_step", rows)


if __name__ == "__main__":
    main()
