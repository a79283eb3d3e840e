"""Decides on how many threads a kernel runs, and cuts its rows into equal shares.

Numba's threads here are OpenMP's, the very ones that torch's operators use: after an operator they spin for some
milliseconds, waiting for more work, and any other thread would have to compete with them. But OpenMP does not survive a
fork, and not every layer Numba may choose can serve two callers at once, so these cases run on the calling thread.
"""

import os
import threading

import numba
import numpy as np
import torch
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from graphattn.ops._impl.numba.pieces import (
    parallel_kernel,
)

SMALL_WORK = 1_000_000  # multiply-adds; less than about 150 µs is not worth waking a thread

_one_at_a_time = threading.Lock()
_is_forked = False


def available(work):
    """Returns how many threads so many multiply-adds deserve."""
    return min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS) if work >= SMALL_WORK else 1


def even_cuts(count, num_parts):
    """Returns where to cut `count` equal pieces of work into at most so many parts."""
    if min(count, num_parts) <= 1:
        return np.array((0, count))
    num_parts = min(count, num_parts)
    return np.arange(num_parts + 1, dtype=np.int64) * count // num_parts


def row_cuts(ptr, num_parts):
    """Returns where to cut rows into parts of as many edges each; ptr [num_rows + 1] are the rows' edge offsets."""
    num_rows, num_edges = len(ptr) - 1, int(ptr[-1])
    cuts = np.searchsorted(ptr, np.arange(num_parts + 1) * num_edges // num_parts)
    cuts[0], cuts[-1] = 0, num_rows
    return cuts


def run(serial, cuts, args):
    """Runs a kernel over pieces of work, cuts[i] to cuts[i + 1] on the i-th thread.

    Args:
        serial: the kernel, called as serial(begin, end, *args). What it does for a piece depends on no other piece.
        args: the kernel's other arguments; the last is an array of the float type that it computes in.
    """
    num_threads = len(cuts) - 1
    if num_threads <= 1 or _is_forked or not _one_at_a_time.acquire(blocking=False):
        serial(cuts[0], cuts[-1], *args)
        return
    try:
        before = numba.get_num_threads()
        # a team of another size than torch's would be rebuilt at every turn
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
        try:
            _on_threads(_machine_code(serial, args), cuts, *args)
        finally:
            numba.set_num_threads(before)
    finally:
        _one_at_a_time.release()


@parallel_kernel
def _on_threads(address, cuts, *args):
    """Calls the kernel at `address` for rows [cuts[i], cuts[i + 1]) on thread i.

    It is called by address because Numba would compile a kernel called by name again, into this function, and that
    takes longer than the first time.
    """
    for chunk in prange(len(cuts) - 1):
        _call(address, (cuts[chunk], cuts[chunk + 1], *args))


@intrinsic
def _call(typing, address, args):
    """Calls the machine code that Numba compiled for arguments of these types and no result."""

    def build(context, builder, signature, values):
        pointer_type = context.call_conv.get_function_type(types.none, args.types).as_pointer()
        function = builder.inttoptr(values[0], pointer_type)
        arguments = cgutils.unpack_tuple(builder, values[1])
        status, _ = context.call_conv.call_function(builder, function, types.none, args.types, arguments)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.void(types.intp, args), build


_addresses = {}  # by kernel and float type: a kernel has one signature for each


def _machine_code(serial, args):
    """Address of the machine code of a kernel for such arguments."""
    signature_key = serial, args[-1].dtype
    if signature_key not in _addresses:
        signature = tuple(numba.typeof(arg) for arg in (0, 0, *args))
        serial.compile(signature)
        compiled = serial.overloads[signature]
        _addresses[signature_key] = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    return _addresses[signature_key]


def _remember_fork():
    global _is_forked
    _is_forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_remember_fork)
