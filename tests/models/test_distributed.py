"""DistributedDataParallel: two processes, each with half of a batch, have the gradients of one with all of it.

The processes are started as a user's launcher does, on gloo and the CPU; tests/ops/test_cuda.py has one on nccl.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.inputs import GraphBatch, GraphCollate, parse_edges
from graphattn.models import GraphTransformer
from tests.inputs.molecules import molecule

ROOT = Path(__file__).resolve().parents[2]
COLLATE = GraphCollate(parse_edges("bonds | full | virtual(1)"), max_hops=2)
RECORDS = [[molecule(7, 1), molecule(5, 2), molecule(1, 3)], [molecule(11, 4), molecule(3, 5), molecule(6, 6)]]
WORLD = len(RECORDS)
NUM_STEPS, LEARNING_RATE = 2, 0.5
OPTIONS = {"embed_dim": 12, "num_heads": 3, "num_layers": 2, "edge_dim": 5, "num_tasks": 2, "norm": "layer"}


def make_model() -> GraphTransformer:
    """A small model in float64 without what a batch is normalized by, nor dropout, and with drawn sources."""
    torch.manual_seed(0)
    select = "SubsampleSources(keep_p=0.6)"
    return GraphTransformer.from_size("tiny", COLLATE, **OPTIONS, select=select, dropout_p=0.0).double().train()


def train(call: torch.nn.Module, model: GraphTransformer, inputs: list[tuple[GraphBatch, list[AttentionGraph]]]):
    """Returns, after each step, the gradients of all parameters."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    found: list[dict[str, Tensor]] = []
    for batch, graphs in inputs:
        optimizer.zero_grad()
        call(batch, graphs).square().mean().backward()
        grads = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
        found.append({name: grad.clone() for name, grad in grads.items()})
        optimizer.step()
    return found


def work(rank: int, folder: str, backend: str = "gloo", device: str = "cpu") -> None:
    """One of the processes: trains on its half and leaves its gradients in the folder."""
    torch.set_num_threads(1)
    dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    model = make_model()
    batch = COLLATE(RECORDS[rank])
    graphs = [[graph.to(device) for graph in model.connect(batch.graph, step)] for step in range(NUM_STEPS)]
    batch = batch.to(device)
    model.to(device)
    found = train(DistributedDataParallel(model), model, [(batch, of_step) for of_step in graphs])
    torch.save([{name: grad.cpu() for name, grad in grads.items()} for grads in found], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def expected(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """What one process has on the joined batch, over the graphs that the others draw, each by its rank."""
    model = make_model()

    def drawn(rank: int, batch: GraphBatch, step: int) -> list[AttentionGraph]:
        monkeypatch.setattr("graphattn.selection.layer_draws.rank_of_process", lambda: rank)
        return model.connect(batch.graph, step)

    halves = [COLLATE(records) for records in RECORDS]
    batch = COLLATE([record for records in RECORDS for record in records])
    joined = [
        [disjoint_union(list(each)) for each in zip(*(drawn(rank, half, step) for rank, half in enumerate(halves)))]
        for step in range(NUM_STEPS)
    ]
    return train(model, model, [(batch, graphs) for graphs in joined])


def check_gradients(folder: Path, backend: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; from tests.models.test_distributed import work; work(int(sys.argv[1]), *sys.argv[2:])"
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(rank), str(folder), backend, device], cwd=ROOT)
        for rank in range(WORLD)
    ]
    try:
        assert [process.wait(timeout=120) for process in started] == [0] * WORLD
    finally:
        for process in started:
            process.kill()
    right = expected(monkeypatch)
    for rank in range(WORLD):
        found = torch.load(folder / f"{rank}.pt", weights_only=True)
        assert len(found) == NUM_STEPS
        for of_step, wanted in zip(found, right, strict=True):
            assert_close(of_step, wanted, rtol=1e-9, atol=1e-11)
    assert any(float(grad.abs().max()) > 1e-4 for grad in right[-1].values())


@pytest.mark.slow  # both processes import all there is
@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed training")
def test_two_processes_have_the_gradients_of_one_on_the_joined_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_gradients(tmp_path, "gloo", "cpu", monkeypatch)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < WORLD, reason="fewer than two GPUs")
def test_two_gpus_have_the_gradients_of_one_process_on_the_joined_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_gradients(tmp_path, "nccl", "cuda", monkeypatch)
