"""Compiles the kernels for GPUs that need not be there, and reads what they take of one.

    python -m graphattn.ops._impl.triton.resources 80 90

prints, for calls of common sizes on GPUs of compute capability 8.0 and 9.0, what each kernel takes: registers of a
thread, bytes of a thread's stack (numbers spilled out of registers lie there) and bytes of a program's shared memory.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

from graphattn.ops._impl.triton import launch, windows

THREADS_OF_WARP = 32
# heads, key heads, width of keys and values, edges a target, dtype, which terms there are, and rows of windows, if any
CASES = {
    "arxiv-sized": (4, 4, 32, 13, torch.bfloat16, "none"),
    "random 64": (16, 16, 64, 64, torch.bfloat16, "none"),
    "molecules": (8, 8, 32, 24, torch.bfloat16, "types"),
    "weather": (16, 16, 64, 8, torch.bfloat16, "features"),
    "grouped, float32": (8, 2, 128, 32, torch.float32, "features"),
    "float64": (3, 3, 5, 4, torch.float64, "features"),
    "windows of 16": (16, 16, 64, 64, torch.bfloat16, "none", 16),
    "windows of 16, wide": (16, 4, 128, 64, torch.bfloat16, "of edges", 16),
    "windows of 64": (16, 16, 64, 64, torch.bfloat16, "none", 64),
    "windows of 64, wide": (16, 4, 128, 64, torch.bfloat16, "of edges", 64),
    "windows, float32": (16, 16, 128, 64, torch.float32, "of edges", 64),
}


class Use(NamedTuple):
    """What a kernel takes, by the assembler."""

    kernel: str
    registers: int  # of a thread
    stack: int  # bytes of a thread
    shared: int  # bytes of a program


def launches(call):
    """Returns the kernels that a call of `launch` starts, with their arguments, in place of starting them."""
    seen = []

    def remember(self, *args, grid, warmup, **arguments):
        assert not args, "kernels are called by keywords"
        seen.append((self, arguments))

    run, JITFunction.run = JITFunction.run, remember
    try:
        call()
    finally:
        JITFunction.run = run
    return seen


def compiled(kernel, arguments, capability):
    """Compiles a kernel as its first launch with these arguments would, for a compute capability such as 90."""
    options = {name: arguments[name] for name in arguments.keys() - set(kernel.arg_names)}
    signature, constants, hints = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name], constants[(place,)] = "constexpr", value
        else:
            signature[parameter.name] = parameter.annotation_type or mangle_type(value)
            if isinstance(value, torch.Tensor):
                hints[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, hints)
    return triton.compile(source, target=GPUTarget("cuda", capability, THREADS_OF_WARP), options=options)


def use(kernel, arguments, capability):
    """Returns what `compiled` takes."""
    binary = compiled(kernel, arguments, capability)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(binary.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(file)]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"{name}:(\d+)", report)[1]) for name in ("REG", "STACK"))
    return Use(kernel.fn.__name__, registers, stack, binary.metadata.shared)


def calls(num_heads, num_key_heads, dim, degree, dtype, terms, window_rows=None):
    """Returns calls of `launch`, forward and backward, on tensors without numbers, and with rows to be cut into pieces.

    With terms, "features" or "types", there are all others, and weights with a gradient, too. With windows, there may
    be those "of edges", and nothing that windows do not serve.
    """
    num_nodes = 4 * launch.MIN_CHUNK // degree + 1
    num_edges = num_nodes * degree
    width = 8

    def new(*shape, dtype=dtype):
        return torch.empty(shape, dtype=dtype, device="meta")  # whatever read a number would raise

    query, key, value, grad_out = (
        new(num_nodes, heads, dim) for heads in (num_heads, num_key_heads, num_key_heads, num_heads)
    )
    query_attr, edge_attr, table = new(num_nodes, num_heads, width), new(num_edges, width), new(num_edges, num_heads)
    edge, ptr, seed = (new(size, dtype=torch.int64) for size in (num_edges, num_nodes + 1, 1))
    lse = new(num_nodes, num_heads, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    nodes = query, key, value, ptr, edge, edge
    numbers = (0.5, None, 0.0) if terms == "none" else (0.5, 5.0, 0.1)
    given, grad_attr, grad_weights = (None,) * 8, new(0), lse.new_empty(0)
    if terms != "none":
        features = {"features": (edge_attr, None), "types": (None, edge), "of edges": (None, None)}[terms]
        mask = new(num_edges, num_heads, dtype=torch.bool)
        given = query_attr, *features, table, table, mask, edge, seed
        grad_attr, grad_weights = query_attr, lse.new_empty(num_heads, num_edges)
    if window_rows is not None:
        slots = new(2, num_edges // 4, dtype=torch.int64)
        given = None, *given[1:], *(new(triton.cdiv(num_nodes, window_rows) + 1, dtype=torch.int64), slots) * 2
        grad_attr, grad_weights = new(0), lse.new_empty(0)
    wants_weights = grad_weights.numel() > 0
    upstream = grad_out, grad_attr, lse, grad_weights, grad_out, grad_attr, lse
    wanted = [True] * 3 + [x is not None for x in (given[0], given[1], given[3], given[4])]
    module = launch if window_rows is None else windows

    def attention():
        module.attention(*nodes, *given, *numbers, wants_weights)
        module.attention_backward(*upstream, *nodes, ptr, edge, *given, *numbers, wanted)

    def logits():
        launch.logits(query, key, edge, edge, *given[:2], 0.5)
        launch.logits_backward(table, query, key, *nodes[3:], ptr, edge, *given[:2], 0.5, wanted[:2] + wanted[3:5])

    return (attention, logits) if terms in ("none", "features") and window_rows is None else (attention,)


def uses(case, capabilities):
    """Returns (capability, Use) of every kernel that training starts for one of `CASES`, each program once."""
    found = {}
    for call in calls(*CASES[case]):
        for kernel, arguments in launches(call):
            for capability in capabilities:
                used = use(kernel, arguments, capability)  # compiled before, it is read from Triton's cache
                found.setdefault((capability, used))
    return list(found)


def main():
    capabilities = [int(argument) for argument in sys.argv[1:]] or [80, 90]
    print(f"{'case':22}{'sm':>4}  {'kernel':26}{'registers':>10}{'stack':>8}{'shared':>8}")
    for case in CASES:
        for capability, used in uses(case, capabilities):
            numbers = f"{used.registers:10}{used.stack:8}{used.shared:8}"
            print(f"{case:22}{capability:4}  {used.kernel:26}{numbers}", flush=True)


if __name__ == "__main__":
    main()
