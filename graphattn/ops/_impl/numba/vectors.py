"""Eight numbers at a time: the vector instructions that Numba does not offer, as LLVM intrinsics.

A `Lanes` value holds eight float32 or eight float64. Every function here works for both, chosen by the types of its
arguments, and `+`, `-`, `*` work between two `Lanes`. Arrays are flat and contiguous.
"""

import math
import operator

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.core.typing.templates import signature as typing_signature
from numba.extending import intrinsic, lower_builtin, models, register_model

WIDTH = 8
INT32 = ir.IntType(32)


class Lanes(types.Type):
    """Numba's type of eight floats in one vector register (or in as many as the machine needs)."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        super().__init__(manager, lanes, ir.VectorType(manager.lookup(lanes.dtype).get_value_type(), WIDTH))


def _constant(vector_type, number):
    return ir.Constant(vector_type, [number] * WIDTH)


def _spread(builder, scalar):
    vector = ir.Constant(ir.VectorType(scalar.type, WIDTH), ir.Undefined)
    vector = builder.insert_element(vector, scalar, INT32(0))
    return _shuffle(builder, vector, vector, [0] * WIDTH)


def _shuffle(builder, first, second, order):
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(INT32, len(order)), order))


def _call(builder, name, *vectors):
    """Calls an LLVM intrinsic that maps vectors to one vector of the same type."""
    kind = vectors[0].type
    suffix = f"v{WIDTH}f{_float_bits(kind)}"
    function_type = ir.FunctionType(kind, [kind] * len(vectors))
    return builder.call(get_or_insert_function(builder.module, function_type, f"llvm.{name}.{suffix}"), vectors)


def _float_bits(vector_type):
    return 32 if isinstance(vector_type.element, ir.FloatType) else 64


def _address(context, builder, array_type, array, index):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _as_vector(builder, address, count=WIDTH):
    return builder.bitcast(address, ir.VectorType(address.type.pointee, count).as_pointer())


def _element_bytes(array_type):
    return array_type.dtype.bitwidth // 8


@intrinsic
def load(typing, array, index):
    """array[index:index + 8]"""

    def build(context, builder, signature, args):
        loaded = builder.load(_as_vector(builder, _address(context, builder, signature.args[0], *args)))
        loaded.align = _element_bytes(signature.args[0])
        return loaded

    return Lanes(array.dtype)(array, types.intp), build


@intrinsic
def store(typing, array, index, lanes):
    """array[index:index + 8] = lanes"""

    def build(context, builder, signature, args):
        address = _address(context, builder, signature.args[0], *args[:2])
        builder.store(args[2], _as_vector(builder, address)).align = _element_bytes(signature.args[0])
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), build


@intrinsic
def spread(typing, scalar):
    """The same number in all eight lanes."""
    return Lanes(scalar)(scalar), lambda context, builder, signature, args: _spread(builder, args[0])


@intrinsic
def fma(typing, a, b, c):
    """a * b + c, rounded once."""
    return a(a, a, a), lambda context, builder, signature, args: _call(builder, "fma", *args)


@intrinsic
def larger(typing, a, b):
    """The larger of two; where one is NaN, either."""
    return a(a, a), lambda context, builder, signature, args: _larger(builder, *args)


def _larger(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@intrinsic
def clamp(typing, x, limit):
    """x held within [-limit, limit]; NaN stays NaN."""

    def build(context, builder, signature, args):
        x, limit = args
        x = builder.select(builder.fcmp_ordered(">", x, limit), limit, x)
        low = builder.fsub(_constant(x.type, -0.0), limit)
        return builder.select(builder.fcmp_ordered("<", x, low), low, x)

    return x(x, x), build


@intrinsic
def zero_beyond(typing, y, x, limit):
    """y where |x| <= limit or x is NaN, else zero: the gradient of `clamp`."""

    def build(context, builder, signature, args):
        y, x, limit = args
        return builder.select(builder.fcmp_ordered(">", _call(builder, "fabs", x), limit), _constant(y.type, 0.0), y)

    return y(y, y, y), build


@intrinsic
def exp(typing, x):
    """The natural exponential: NaN stays NaN, results below the smallest normal number (so -inf too) are exactly zero.

    e^x = 2^n · e^f with n = rint(x / ln 2) and f = x - n · ln 2, |f| <= ln 2 / 2. ln 2 is subtracted in two parts, so f
    is right to the last bit; e^f is its Taylor series; 2^n is an integer shift. Meant for x <= 0, right up to the
    point where 2^n overflows.
    """

    def build(context, builder, signature, args):
        x, kind = args[0], args[0].type
        single = _float_bits(kind) == 32
        exponent_bits, mantissa_bits, degree = (8, 23, 7) if single else (11, 52, 13)
        integers = ir.VectorType(ir.IntType(_float_bits(kind)), WIDTH)
        bias = 2 ** (exponent_bits - 1) - 1
        # The high part of ln 2 has few enough bits that its product with n is exact.
        high = 0.693359375 if single else float.fromhex("0x1.62e42fee00000p-1")
        low = -2.12194440054690583e-4 if single else float.fromhex("0x1.a39ef35793c76p-33")

        too_small = builder.fcmp_ordered("<", x, _constant(kind, -(bias - 1) * math.log(2)))
        n = _call(builder, "rint", builder.fmul(x, _constant(kind, 1 / math.log(2))))
        # Turning NaN or -inf into an integer is undefined, so those lanes take n = 0; NaN then stays in f.
        n = builder.select(builder.fcmp_ordered(">", n, _constant(kind, -bias)), n, _constant(kind, 0.0))
        f = _call(builder, "fma", n, _constant(kind, -high), x)
        f = _call(builder, "fma", n, _constant(kind, -low), f)
        series = _constant(kind, 1 / math.factorial(degree))
        for power in reversed(range(degree)):
            series = _call(builder, "fma", series, f, _constant(kind, 1 / math.factorial(power)))
        shifted = builder.add(builder.fptosi(n, integers), _constant(integers, bias))
        two_to_n = builder.bitcast(builder.shl(shifted, _constant(integers, mantissa_bits)), kind)
        return builder.select(too_small, _constant(kind, 0.0), builder.fmul(series, two_to_n))

    return x(x), build


def _fold(combine):
    """Makes an intrinsic that combines the eight lanes into one number, halves first."""

    @intrinsic
    def fold(typing, lanes):
        def build(context, builder, signature, args):
            lanes = args[0]
            for half in (4, 2, 1):
                upper = [half + lane % half for lane in range(WIDTH)]
                lanes = combine(builder, lanes, _shuffle(builder, lanes, lanes, upper))
            return builder.extract_element(lanes, INT32(0))

        return lanes.dtype(lanes), build

    return fold


lane_sum = _fold(lambda builder, a, b: builder.fadd(a, b))
lane_max = _fold(_larger)


@intrinsic
def store_sums(typing, array, index, a, b, c, d):
    """array[index:index + 4] = the sums over the lanes of a, b, c and d."""

    def build(context, builder, signature, args):
        def add_neighbors(first, second):
            even = _shuffle(builder, first, second, [0, 2, 8, 10, 4, 6, 12, 14])
            odd = _shuffle(builder, first, second, [1, 3, 9, 11, 5, 7, 13, 15])
            return builder.fadd(even, odd)

        a, b, c, d = args[2:]
        quarters = add_neighbors(add_neighbors(a, b), add_neighbors(c, d))
        low, high = (_shuffle(builder, quarters, quarters, half) for half in ([0, 1, 2, 3], [4, 5, 6, 7]))
        address = _address(context, builder, signature.args[0], *args[:2])
        stored = builder.store(builder.fadd(low, high), _as_vector(builder, address, 4))
        stored.align = _element_bytes(signature.args[0])
        return context.get_dummy_value()

    return types.void(array, types.intp, a, a, a, a), build


def _give_lanes(symbol, instruction):
    """Teaches Numba one arithmetic operator between two `Lanes`."""

    @infer_global(symbol)
    class LanesOperator(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and isinstance(args[0], Lanes) and args[0] == args[1]:
                return typing_signature(args[0], *args)

    @lower_builtin(symbol, Lanes, Lanes)
    def build(context, builder, signature, args):
        return getattr(builder, instruction)(*args)


for _symbol, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _give_lanes(_symbol, _instruction)
