"""Parts of `make gpu` that are no benchmark of attention: memory-check, training, calibration.

python benchmarks/gpu_parts.py training [--device cuda] [--small] [--out FILE.json]
"""

import argparse
import itertools
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from measure import added_peak_on_gpu, interleaved, interleaved_on_gpu, spread, write_record
from torch import nn

import graphattn as ga
from graphattn.data import GraphDataset, find, from_data, make_loader
from graphattn.data.raw import read_graphs
from graphattn.inputs import GraphBatch
from graphattn.models import GraphTransformerConfig
from graphattn.ops import calibrate
from graphattn.training import GraphPredictor, RunConfig
from graphattn.training.config import DataConfig, InputsConfig, resolved

DATASET, BATCH_SIZE, EPOCHS = "ogbg-molesol", 64, 20
IMPLEMENTATIONS = ("auto", "fused")
OF_VALUES = ("edge_gate", "edge_value_weight", "dropout_p")  # what attention weights and logits do not depend on
# a subset of `calibrate.CASES`, and what a GPU needs to be busy
CALIBRATED = (
    *(("window", n, k) for n, k in ((64, 4), (4096, 64), (65_536, 16))),
    *(("random", n, k) for n, k in ((256, 16), (1024, 64), (16_384, 64), (131_072, 16))),
    *(("cliques", n, k) for n, k in ((256, 16), (1024, 64), (4096, 256), (65_536, 32))),
    *(("molecules", n, k) for n, k in ((1024, 24), (16_384, 24))),
)
CALIBRATED_SMALL = (("window", 16, 8), ("random", 32, 4), ("random", 64, 16), ("cliques", 32, 8), ("molecules", 32, 8))


def memory_check(device: str, is_small: bool) -> list[dict]:
    """Runs every kernel of `fused` on small graphs, among them one whose hub's row is cut; for compute-sanitizer."""
    heads, dim, edge_dim = 4, 24, 5
    hub = ga.connectivity.global_tokens(700, [3])
    ragged = ga.connectivity.random_regular(61, 7, generator=torch.Generator().manual_seed(0)).T
    count = 0
    for graph in (ragged,) if is_small else (ragged, hub):
        graph, num_edges = graph.to(device), graph.num_edges

        def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.randn(shape, device=device, dtype=dtype, requires_grad=True)

        features = dict(
            edge_attr=normal(num_edges, edge_dim),
            edge_key_weight=normal(heads, dim, edge_dim),
            edge_value_weight=normal(heads, dim, edge_dim),
        )
        everything = dict(
            **features,
            edge_bias=normal(num_edges, heads),
            edge_gate=normal(num_edges, 1),
            logit_clip=2.0,
            dropout_p=0.2,
        )
        typed = dict(edge_type=torch.arange(num_edges, device=device) % 6, edge_bias=normal(6, heads))
        for terms, dtype, key_heads in (
            ({}, torch.bfloat16, heads), ({}, torch.float32, 2), (features, torch.float32, heads),
            (typed, torch.float32, heads), (everything, torch.float32, heads), (everything, torch.float64, heads),
        ):  # fmt: skip
            terms = {
                name: x.detach().to(dtype).requires_grad_() if isinstance(x, torch.Tensor) and x.requires_grad else x
                for name, x in terms.items()
            }
            query = normal(graph.num_dst_nodes, heads, dim, dtype=dtype)
            key, value = (normal(graph.num_src_nodes, key_heads, dim, dtype=dtype) for _ in range(2))
            out = ga.graph_attention(query, key, value, graph, impl="fused", **terms)
            out.double().square().sum().backward()
            weighed = {name: x for name, x in terms.items() if name not in OF_VALUES}
            alpha = ga.attention_weights(query, key, graph, impl="fused", **weighed)
            logits = ga.ops.edge_logits(query, key, graph, impl="fused", **weighed)
            (alpha.double().square().sum() + logits.double().square().sum()).backward()
            assert query.grad is not None and bool(query.grad.isfinite().all())
            count += 1
    print(f"{count} calls of fused with their backward")
    return [{"calls": count}]


def molecules() -> GraphDataset:
    """Returns ogbg-molesol as its raw files in the clone have it, which takes neither ogb nor a cache to write to."""
    folder = find(DATASET)
    assert folder is not None, "datasets/ of the clone is missing"
    graphs, split = read_graphs(folder)
    return from_data({part: [graphs[i] for i in split[part].tolist()] for part in split}, "regression", name=DATASET)


class Step:
    """One training step, to be called again and again."""

    def __init__(self, predictor: GraphPredictor):
        self.predictor = predictor.train()
        self.optimizer = torch.optim.AdamW(predictor.parameters(), lr=1e-3)

    def __call__(self, batch: GraphBatch) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = self.predictor.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.predictor.parameters(), 1.0)
        self.optimizer.step()
        return loss.detach()


def training(device: str, is_small: bool) -> list[dict]:
    """Trains a small graph transformer on shipped molecules, by a plain loop, and times a step."""
    dataset = molecules()
    rows = []
    for impl in IMPLEMENTATIONS:
        config = RunConfig(
            data=DataConfig(DATASET),
            inputs=InputsConfig("bonds | virtual(1)", num_walks=8),
            model=GraphTransformerConfig.from_size("small", impl=impl),
        )
        torch.manual_seed(0)
        labels = dataset.labels[dataset.indices("train")]
        predictor = GraphPredictor(resolved(config, dataset), dataset.task, labels).to(device)
        loader = make_loader(dataset, "train", predictor.collate, batch_size=BATCH_SIZE, drop_last=True)
        batches = [batch.to(device) for batch in itertools.islice(loader, 2 if is_small else None)]
        step, losses, begin = Step(predictor), [], time.perf_counter()
        for _ in range(3 if is_small else EPOCHS):
            losses.append(torch.stack([step(batch) for batch in batches]).mean().item())
        seconds = time.perf_counter() - begin
        call = partial(step, batches[0])
        times = (interleaved_on_gpu if device == "cuda" else interleaved)({"step": call}, 3 if is_small else 30)["step"]
        row = {
            "dataset": DATASET,
            "impl": impl,
            "batch_size": BATCH_SIZE,
            "num_nodes": batches[0].graph.num_src_nodes,
            "num_edges": batches[0].graph.num_edges,
            "losses": losses,
            "is_falling": losses[-1] < 0.8 * losses[0],
            "seconds": seconds,
            "step_ms": statistics.median(times),
            "step_spread": spread(times),
        }
        if device == "cuda":
            row["peak_mib"] = added_peak_on_gpu(call)
        print(f"{impl:6} loss {losses[0]:.3f} -> {losses[-1]:.3f}, step {row['step_ms']:.3g} ms", flush=True)
        rows.append(row)
    return rows


def calibration(device: str, is_small: bool) -> list[dict]:
    """Fits the constants of the cost model for the device, float32."""
    found = calibrate.calibrate(
        CALIBRATED_SMALL if is_small else CALIBRATED,
        seconds=0.001 if is_small else 0.03,
        report=lambda line: print(line, flush=True),
        device=device,
    )
    print(calibrate.table(found))
    off = {impl: list(factors) for impl, factors in found.off.items()}
    row = {"device": found.device, "costs": found.costs, "off": off, "num_measured": found.num_measured}
    return [row | {"proved": found.proved, "bytes_per_second": found.bytes_per_second}]


PARTS = {"memory-check": memory_check, "training": training, "calibration": calibration}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    rows = PARTS[options.part](options.device, options.small)
    if options.out:
        write_record(options.out, options.part, rows, options.device)
    if options.part == "training" and not all(row["is_falling"] for row in rows):
        raise SystemExit("the loss does not fall")


if __name__ == "__main__":
    main()
