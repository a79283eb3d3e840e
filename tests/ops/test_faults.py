"""The verb in hostile surroundings: threads, forks, foreign CPUs, missing parts, too little memory, huge tensors."""

import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset

from graphattn.connectivity import full
from graphattn.graph import AttentionGraph, disjoint_union
from graphattn.ops import graph_attention, supports
from graphattn.ops.capability import has_numba
from tests.ops.graphs import ON_CPU

needs_numba = pytest.mark.skipif(not has_numba(), reason="the kernels are Numba's")
SAME_BITS = ("gather", "fused")  # those that promise them at any number of threads
NUM_NODES = 3 * 149


def k_sources(num_nodes: int = NUM_NODES, k: int = 41) -> AttentionGraph:
    """Every target reads k sources: a graph that every implementation but `blocks` serves."""
    drawn = torch.rand(num_nodes, num_nodes, generator=torch.Generator().manual_seed(0))
    sources = drawn.topk(k, 1).indices.sort(1).values
    return AttentionGraph(torch.stack([sources.flatten(), torch.arange(num_nodes).repeat_interleave(k)]), num_nodes)


def graph_for(impl: str) -> AttentionGraph:
    return disjoint_union([full(149)] * 3) if impl == "blocks" else k_sources()


def results(impl: str, graph: AttentionGraph) -> list[Tensor]:
    """Output and gradients of a call that is worth more than one thread, with per-edge terms and dropout if served."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(graph.num_dst_nodes, 4, 16)] * 3 + [(graph.num_edges, 4)]
    leaves = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    terms: dict[str, Any] = {"edge_bias": leaves[3], "dropout_p": 0.2, "seed": torch.tensor(5)}
    if not supports(impl, "edge_bias"):
        terms, leaves = {}, leaves[:3]
    out = graph_attention(*leaves[:3], graph, **terms, impl=impl)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]


def assert_same(impl: str, ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        if impl in SAME_BITS:
            assert torch.equal(one, other)
        else:
            assert_close(one, other)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a new interpreter, which finds the package and this file where we do."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=300
    )


def output_of(code: str, **environment: str) -> str:
    finished = run_python(code, **environment)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


# --- threads and processes -----------------------------------------------------------------------------------------


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("impl", ON_CPU)
def test_two_python_threads_at_once_get_what_one_gets(impl: str, two_threads: None) -> None:
    graph = graph_for(impl)
    expected = results(impl, graph)
    together = threading.Barrier(2)

    def call() -> list[list[Tensor]]:
        together.wait()
        return [results(impl, graph) for _ in range(3)]

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(call) for _ in range(2)]:
            for found in future.result(timeout=60):
                assert_same(impl, found, expected)


class Calls(Dataset[Any]):
    """A data set whose records are calls of the verb, so that the workers of a loader make them."""

    def __init__(self, impl: str):
        self.impl, self.graph = impl, graph_for(impl)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> list[Tensor]:
        return results(self.impl, self.graph)


@pytest.mark.parametrize("impl", ON_CPU)
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_worker_can_call_it_after_its_parent_did(method: str, impl: str, two_threads: None) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    calls = Calls(impl)
    expected = calls[0]
    loader = DataLoader(calls, batch_size=None, num_workers=1, multiprocessing_context=method, timeout=60)
    for found in loader:
        assert_same(impl, found, expected)


@pytest.mark.slow
def test_one_two_and_five_threads_give_the_same_bits() -> None:
    code = f"""
    import torch
    from tests.ops.test_faults import graph_for, results
    for impl in {SAME_BITS if has_numba() else SAME_BITS[:1]}:
        graph, expected = graph_for(impl), None
        for number in (1, 2, 5, 5, 1):
            torch.set_num_threads(number)
            found = results(impl, graph)
            expected = found if expected is None else expected
            assert all(torch.equal(one, other) for one, other in zip(found, expected)), (impl, number)
    print(torch.get_num_threads(), "same")
    """
    assert output_of(code, NUMBA_NUM_THREADS="5", OMP_NUM_THREADS="5") == "1 same"


# --- the machine ---------------------------------------------------------------------------------------------------

AGREES = """
import torch
from tests.ops.test_faults import assert_close, graph_for, results
for impl in ("fused", "blocks"):
    graph = graph_for(impl)
    for ours, theirs in zip(results(impl, graph), results("dense", graph)):
        assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
print("right")
"""


@needs_numba
@pytest.mark.slow
def test_a_cpu_without_avx2_computes_the_same(tmp_path: Path) -> None:
    generic = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    assert output_of(AGREES, **generic) == "right"
    assert list(tmp_path.rglob("*.nbc")), "kernels came from elsewhere than this folder, so for another CPU"


@needs_numba
@pytest.mark.slow
@pytest.mark.parametrize("failure", ["no folder can be written", "the disk is full"])
def test_a_cache_that_fails_costs_time_only(failure: str, tmp_path: Path) -> None:
    # an administrator may write anywhere, so a folder without permissions would prove nothing
    refuse = {
        "no folder can be written": "caching._CacheLocator.ensure_cache_path = refuse",
        "the disk is full": "caching.IndexDataCacheFile._save_data = refuse",
    }[failure]
    code = f"from numba.core import caching\ndef refuse(*arguments): raise OSError('refused')\n{refuse}\n{AGREES}"
    assert output_of(code, NUMBA_CACHE_DIR=str(tmp_path)) == "right"
    assert not list(tmp_path.rglob("*.nbc"))


@needs_numba
def test_processes_that_compile_for_different_types_at_once_find_their_own_code(tmp_path: Path) -> None:
    from graphattn.ops._impl.numba.pieces import KernelFiles

    first, second, later = (KernelFiles(str(tmp_path), "kernel", "today") for _ in range(3))
    second._load_index = dict  # it looked before the first wrote
    write = first._save_data

    def write_after_the_other(name, code):
        second.save("float32", "for float32")
        write(name, code)

    first._save_data = write_after_the_other
    first.save("float64", "for float64")
    assert later.load("float32") in (None, "for float32")
    assert later.load("float64") in (None, "for float64")
    later.save("float32", "for float32")
    assert later.load("float32") == "for float32"


@needs_numba
def test_code_of_another_version_is_not_kept(tmp_path: Path) -> None:
    from graphattn.ops._impl.numba.pieces import KernelFiles

    old, new = (KernelFiles(str(tmp_path), "kernel", stamp) for stamp in ("yesterday", "today"))
    old.save("float64", "old")
    assert new.load("float64") is None
    new.save("float64", "new")
    assert new.load("float64") == "new"
    assert len(list(tmp_path.glob("*.nbc"))) == 1


def test_without_numba_auto_takes_the_next_best_and_the_named_one_says_how_to_get_it() -> None:
    code = """
    import json, sys
    sys.modules["numba"] = sys.modules["llvmlite"] = None
    import torch
    from graphattn.ops import _dispatch, explain, graph_attention
    from tests.ops.test_faults import assert_close, full, k_sources
    taken = []
    for graph in (k_sources(), k_sources().keep(lambda src, dst: (src + dst) % 7 > 0), full(149)):
        x = torch.randn(graph.num_dst_nodes, 4, 16, generator=torch.Generator().manual_seed(0))
        sizes = _dispatch.Sizes(4, 16, 16, x.dtype, x.device)
        taken.append(_dispatch.choose(graph, sizes, False))
        assert_close(graph_attention(x, x, x, graph), graph_attention(x, x, x, graph, impl="dense"))
    try:
        graph_attention(x, x, x, graph.enumerate(), impl="fused")
    except ImportError as error:
        print(json.dumps({"taken": taken, "error": str(error)}))
    """
    found = json.loads(output_of(code))
    assert found["taken"][0] in ("gather", "dense", "sdpa") and "fused" not in found["taken"]
    assert found["error"].startswith("impl='fused' cannot serve this call: Numba is not installed (pip install numba).")
    assert "These can: dense, scatter, gather" in found["error"]


# --- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space of a process")
def test_a_call_that_runs_out_of_memory_leaves_nothing_broken() -> None:
    code = """
    import resource, torch
    from graphattn.graph import AttentionGraph
    from graphattn.ops import graph_attention
    from tests.ops.graphs import ON_CPU
    from tests.ops.test_faults import assert_same, graph_for, has_numba, results
    able = [impl for impl in ON_CPU if impl not in ("blocks", "fused") or has_numba()]
    graphs = {impl: graph_for(impl) for impl in able}
    expected = {impl: results(impl, graphs[impl]) for impl in able}
    now = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, resource.RLIM_INFINITY))
    x = torch.zeros(1).expand(447, 4, 2**20)  # a tensor of 7 GiB in four bytes; nobody can copy it, nor make its like
    for impl in able:
        try:
            graph_attention(x, x, x, graphs[impl], impl=impl)
        except (MemoryError, RuntimeError) as error:
            refusal = str(error).lower()
            assert isinstance(error, MemoryError) or "memory" in refusal or "allocate" in refusal, refusal
        else:
            raise AssertionError(f"{impl} had the memory")
        assert_same(impl, results(impl, graphs[impl]), expected[impl])
    print("right")
    """
    assert output_of(code) == "right"


@pytest.mark.parametrize(
    "impl",
    [
        pytest.param("scatter", marks=pytest.mark.slow),
        pytest.param("gather", marks=pytest.mark.slow),
        pytest.param("fused", marks=needs_numba),
    ],
)
def test_keys_and_values_beyond_two_to_the_31_numbers_are_read_right(impl: str, tmp_path: Path) -> None:
    """What it proves: nodes × heads × dim may pass 2^31, for the last row starts there.

    Keys and values are one sparse file of 8 GiB. Only the rows that edges read, and the query, are ever in memory;
    an implementation that copied all rows would need 8 GiB and fail under the limit below.
    """
    if sys.platform != "linux":
        pytest.skip("only Linux limits the address space of a process")
    code = f"""
    import resource, torch
    from graphattn.graph import AttentionGraph
    from graphattn.ops import graph_attention
    num_src, dim = 2049, 2**20
    torch.set_num_threads(1)
    key = torch.from_file({str(tmp_path / "key")!r}, shared=True, size=num_src * dim).view(num_src, 1, dim)
    graph = AttentionGraph(torch.tensor([[0, 2048, 1, 2048], [0, 0, 1, 1]]), num_src, 2)
    generator = torch.Generator().manual_seed(0)
    for row in (0, 1, 2048):
        key[row] = torch.randn(1, dim, generator=generator)
    query = torch.randn(2, 1, dim, generator=generator).requires_grad_()
    now = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**32, resource.RLIM_INFINITY))
    out = graph_attention(query, key, key, graph, impl={impl!r})
    (grad,) = torch.autograd.grad(out[0].sum(), query)
    read = key[[0, 2048], 0].double()
    leaf = query.detach()[0, 0].double().requires_grad_()
    expected = torch.softmax(read @ leaf / dim**0.5, 0) @ read
    assert torch.allclose(out[0, 0].double(), expected, rtol=1e-3, atol=1e-3)
    (expected_grad,) = torch.autograd.grad(expected.sum(), leaf)
    assert torch.allclose(grad[0, 0].double(), expected_grad, rtol=1e-2, atol=1e-4 * float(expected_grad.abs().max()))
    assert expected_grad.abs().max() > 0 and not grad[1].any()
    print("right")
    """
    assert output_of(code) == "right"


@needs_numba
def test_kernels_count_in_64_bits() -> None:
    """What it proves: every size, offset and index that enters a kernel is int64, and Numba keeps sums and products of
    int64 in int64, so edges × heads × dim cannot wrap around at 2^31. It does not run a case of that size: its weights
    alone would take 8 GiB."""
    from numba import types
    from numba.core.dispatcher import Dispatcher

    def integers(of: types.Type) -> Iterator[types.Integer]:
        if isinstance(of, types.Integer):
            yield of
        elif isinstance(of, types.Array):
            yield from integers(of.dtype)
        elif isinstance(of, types.BaseTuple):
            for element in of:
                yield from integers(element)

    for impl in ("fused", "blocks"):
        results(impl, graph_for(impl))
    modules = [module for name, module in sys.modules.items() if name.startswith("graphattn.ops._impl.numba.")]
    kernels = {x for module in modules for x in vars(module).values() if isinstance(x, Dispatcher)}
    signatures = [(kernel.__name__, signature) for kernel in kernels for signature in kernel.signatures]
    assert any(isinstance(argument, types.Array) for _, signature in signatures for argument in signature)
    for name, signature in signatures:
        for argument in signature:
            # eight bits are a mask; thirty-two unsigned ones are the hash of dropout
            narrow = {integer for integer in integers(argument) if integer.bitwidth < 64}
            assert narrow <= {types.uint8, types.uint32}, f"{name} takes {argument}"
