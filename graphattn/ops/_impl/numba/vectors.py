"""Eight numbers at a time: the vector instructions that Numba does not offer, as LLVM intrinsics.

A `Lanes` value holds eight float32 or eight float64. Every function here works for both, chosen by the types of its
arguments, and `+`, `-`, `*`, `/` work between two `Lanes`. Arrays are pointers to their first number: Numba's own
arrays are seven words each, which calls pass one by one, count references, and wrap negative indices.
"""

import math
import operator
import sys

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.cgutils import alloca_once, for_range, get_or_insert_function
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.core.typing.templates import signature as typing_signature
from numba.extending import intrinsic, lower_builtin, models, register_model
from numpy.polynomial import Chebyshev, Polynomial

WIDTH = 8
INT32 = ir.IntType(32)
HUGE_PAGE, MADV_HUGEPAGE = 2**21, 14
TWO_LINES = 128  # bytes of two cache lines, which the caches fetch together


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


@intrinsic
def pointer(typing, array, index):
    """The address of array[index]. It does not keep the array alive: see `keep`."""

    def build(context, builder, signature, args):
        return builder.gep(context.make_array(signature.args[0])(context, builder, args[0]).data, [args[1]])

    return types.CPointer(array.dtype)(array, types.intp), build


@intrinsic
def aligned(typing, array, index):
    """The address of array[index], or the next at which two cache lines begin: at most `TWO_LINES` bytes on."""

    def build(context, builder, signature, args):
        place = builder.gep(context.make_array(signature.args[0])(context, builder, args[0]).data, [args[1]])
        number = builder.ptrtoint(place, args[1].type)
        number = builder.and_(builder.add(number, number.type(TWO_LINES - 1)), number.type(-TWO_LINES))
        return builder.inttoptr(number, place.type)

    return types.CPointer(array.dtype)(array, types.intp), build


@intrinsic
def optional(typing, array):
    """The address of an array's first number, null for an empty array."""

    def build(context, builder, signature, args):
        struct = context.make_array(signature.args[0])(context, builder, args[0])
        is_empty = builder.icmp_signed("==", struct.nitems, struct.nitems.type(0))
        return builder.select(is_empty, ir.Constant(struct.data.type, None), struct.data)

    return types.CPointer(array.dtype)(array), build


@intrinsic
def shifted(typing, place, index):
    """The address of place[index]."""
    return place(place, types.intp), lambda context, builder, signature, args: _address(builder, *args)


@intrinsic
def is_given(typing, place):
    """Whether a pointer is not null."""

    def build(context, builder, signature, args):
        return builder.icmp_unsigned("!=", args[0], ir.Constant(args[0].type, None))

    return types.boolean(place), build


@intrinsic
def keep(typing, array):
    """Does nothing, but an array that is named here lives until then."""
    return types.void(array), lambda context, builder, signature, args: context.get_dummy_value()


@intrinsic
def ask_for_huge_pages(typing, array):
    """Lets Linux back a new array with huge pages: fewer faults, and reads all over it wait less for their addresses.

    Only the pages that lie wholly inside are asked for; an array without such is left alone.
    """

    def build(context, builder, signature, args):
        if sys.platform.startswith("linux"):
            struct = context.make_array(signature.args[0])(context, builder, args[0])
            word = struct.nitems.type
            begin = builder.ptrtoint(struct.data, word)
            end = builder.add(begin, builder.mul(struct.nitems, struct.itemsize))
            first = builder.and_(builder.add(begin, word(HUGE_PAGE - 1)), word(-HUGE_PAGE))
            last = builder.and_(end, word(-HUGE_PAGE))
            with builder.if_then(builder.icmp_unsigned(">", last, first), likely=False):
                advise_type = ir.FunctionType(INT32, [ir.IntType(8).as_pointer(), word, INT32])
                advise = get_or_insert_function(builder.module, advise_type, "madvise")
                place = builder.inttoptr(first, ir.IntType(8).as_pointer())
                builder.call(advise, [place, builder.sub(last, first), INT32(MADV_HUGEPAGE)])
        return context.get_dummy_value()

    return types.void(array), build


@intrinsic
def like(typing, place, number):
    """The number in the type that the pointer points at."""

    def build(context, builder, signature, args):
        return context.cast(builder, args[1], signature.args[1], signature.args[0].dtype)

    return place.dtype(place, number), build


def _address(builder, place, index):
    return builder.gep(place, [index])


def _as_vector(builder, address, count=WIDTH):
    return builder.bitcast(address, ir.VectorType(address.type.pointee, count).as_pointer())


def _element_bytes(pointer_type):
    return pointer_type.dtype.bitwidth // 8


@intrinsic
def load(typing, array, index):
    """array[index:index + 8]"""

    def build(context, builder, signature, args):
        loaded = builder.load(_as_vector(builder, _address(builder, *args)))
        loaded.align = _element_bytes(signature.args[0])
        return loaded

    return Lanes(array.dtype)(array, types.intp), build


@intrinsic
def store(typing, array, index, lanes):
    """array[index:index + 8] = lanes"""

    def build(context, builder, signature, args):
        address = _address(builder, *args[:2])
        builder.store(args[2], _as_vector(builder, address)).align = _element_bytes(signature.args[0])
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), build


@intrinsic
def load_apart(typing, array, index, step, last):
    """array[index + step * min(lane, last)] in each lane"""

    def build(context, builder, signature, args):
        array, index, step, last = args
        lanes = ir.Constant(ir.VectorType(array.type.pointee, WIDTH), ir.Undefined)
        for lane in range(WIDTH):
            number = ir.Constant(last.type, lane)
            number = builder.select(builder.icmp_signed("<", number, last), number, last)
            address = _address(builder, array, builder.add(index, builder.mul(step, number)))
            lanes = builder.insert_element(lanes, builder.load(address), INT32(lane))
        return lanes

    return Lanes(array.dtype)(array, types.intp, types.intp, types.intp), build


@intrinsic
def store_apart(typing, array, index, step, lanes):
    """array[index + step * lane] = each lane"""

    def build(context, builder, signature, args):
        array, index, step, lanes = args
        for lane in range(WIDTH):
            place = builder.add(index, builder.mul(step, ir.Constant(step.type, lane)))
            builder.store(builder.extract_element(lanes, INT32(lane)), _address(builder, array, place))
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, lanes), build


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
def within(typing, x, first, last, other):
    """x in the lanes first <= lane < last, the number `other` elsewhere."""

    def build(context, builder, signature, args):
        x, first, last, other = args
        index = ir.VectorType(first.type, WIDTH)
        lane = ir.Constant(index, list(range(WIDTH)))
        not_before = builder.icmp_signed(">=", lane, _spread(builder, first))
        before_last = builder.icmp_signed("<", lane, _spread(builder, last))
        return builder.select(builder.and_(not_before, before_last), x, _spread(builder, other))

    return x(x, types.intp, types.intp, x.dtype), build


@intrinsic
def where_equal(typing, a, b, x, y):
    """x in the lanes where a == b, y elsewhere."""

    def build(context, builder, signature, args):
        a, b, x, y = args
        return builder.select(builder.fcmp_ordered("==", a, b), x, y)

    return x(a, a, x, x), build


def _exponent_format(kind):
    """Returns (bits of the exponent, bits of the mantissa, bias of the exponent, integers as wide) of a vector type."""
    single = _float_bits(kind) == 32
    exponent_bits, mantissa_bits = (8, 23) if single else (11, 52)
    integers = ir.VectorType(ir.IntType(_float_bits(kind)), WIDTH)
    return exponent_bits, mantissa_bits, 2 ** (exponent_bits - 1) - 1, integers


def _polynomial(builder, x, coefficients):
    """Σ_k coefficients[k] · x^k"""
    total = _constant(x.type, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = _call(builder, "fma", total, x, _constant(x.type, coefficient))
    return total


def _power_of_two_near_zero(degree):
    """Coefficients of the polynomial that equals 2^f at the Chebyshev points of [-1/2, 1/2]."""
    return Chebyshev.interpolate(np.exp2, degree, domain=[-0.5, 0.5]).convert(kind=Polynomial).coef.tolist()


@intrinsic
def exp2(typing, x):
    """2^x: NaN stays NaN, results below the smallest normal number (so that of -inf too) are exactly zero.

    2^x = 2^n · 2^f with n = rint(x) and |f| <= 1/2: an integer shift and a polynomial. Right for x up to the point
    where 2^n overflows.
    """

    def build(context, builder, signature, args):
        x, kind = args[0], args[0].type
        _, mantissa_bits, bias, integers = _exponent_format(kind)
        n = _call(builder, "rint", x)
        series = _polynomial(builder, builder.fsub(x, n), _power_of_two_near_zero(6 if bias == 127 else 12))
        # Turning NaN or -inf into an integer is undefined, so those lanes take n = 0; NaN then stays in f.
        is_normal = builder.fcmp_ordered(">", x, _constant(kind, 1.0 - bias))
        n = builder.select(is_normal, n, _constant(kind, 0.0))
        shifted = builder.add(builder.fptosi(n, integers), _constant(integers, bias))
        two_to_n = builder.bitcast(builder.shl(shifted, _constant(integers, mantissa_bits)), kind)
        too_small = builder.fcmp_ordered("<=", x, _constant(kind, 1.0 - bias))
        return builder.select(too_small, _constant(kind, 0.0), builder.fmul(series, two_to_n))

    return x(x), build


@intrinsic
def log2(typing, x):
    """The binary logarithm of normal positive numbers; NaN stays NaN.

    x = 2^n · m with sqrt(1/2) <= m < sqrt(2), and log2 m is a series in s = (m - 1) / (m + 1).
    """

    def build(context, builder, signature, args):
        x, kind = args[0], args[0].type
        _, mantissa_bits, bias, integers = _exponent_format(kind)
        single = bias == 127
        bits = builder.bitcast(x, integers)
        root = 0x3F3504F3 if single else 0x3FE6A09E667F3BCD  # sqrt(1/2)
        n = builder.ashr(builder.sub(bits, _constant(integers, root)), _constant(integers, mantissa_bits))
        m = builder.bitcast(builder.sub(bits, builder.shl(n, _constant(integers, mantissa_bits))), kind)
        s = builder.fdiv(builder.fsub(m, _constant(kind, 1.0)), builder.fadd(m, _constant(kind, 1.0)))
        series = [2 / math.log(2) / (2 * k + 1) for k in range(5 if single else 12)]
        log_m = builder.fmul(s, _polynomial(builder, builder.fmul(s, s), series))
        nan_or_zero = builder.fmul(x, _constant(kind, 0.0))
        return builder.fadd(builder.fadd(builder.sitofp(n, kind), log_m), nan_or_zero)

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


def _add(builder, a, b):
    return builder.fadd(a, b)


lane_sum = _fold(_add)
lane_max = _fold(_larger)


def _halved(combine, builder, a, b, c, d):
    """Combines half the lanes of each: the lower halves' in lanes 0 to 3, the upper halves' in 4 to 7."""

    def combine_neighbors(first, second):
        even = _shuffle(builder, first, second, [0, 2, 8, 10, 4, 6, 12, 14])
        odd = _shuffle(builder, first, second, [1, 3, 9, 11, 5, 7, 13, 15])
        return combine(builder, even, odd)

    return combine_neighbors(combine_neighbors(a, b), combine_neighbors(c, d))


def _fold_and_store(combine, context, builder, signature, args, first, second, count):
    """Combines the halves that `_halved` left of four vectors, or, with `second`, of eight, and stores the results."""
    low, high = [0, 1, 2, 3, 8, 9, 10, 11][:count], [4, 5, 6, 7, 12, 13, 14, 15][:count]
    folded = combine(builder, _shuffle(builder, first, second, low), _shuffle(builder, first, second, high))
    stored = builder.store(folded, _as_vector(builder, _address(builder, *args[:2]), count))
    stored.align = _element_bytes(signature.args[0])
    return context.get_dummy_value()


def _store_four(combine, what):
    """Makes an intrinsic that combines the lanes of each of four vectors."""

    @intrinsic
    def store_four(typing, array, index, a, b, c, d):
        def build(context, builder, signature, args):
            halves = _halved(combine, builder, *args[2:])
            return _fold_and_store(combine, context, builder, signature, args, halves, halves, 4)

        return types.void(array, types.intp, a, a, a, a), build

    store_four.__doc__ = f"array[index:index + 4] = {what} of a, b, c and d."
    return store_four


def _store_eight(combine, what):
    """Makes an intrinsic that combines the lanes of each of eight vectors."""

    @intrinsic
    def store_eight(typing, array, index, a, b, c, d, e, f, g, h):
        def build(context, builder, signature, args):
            first, second = _halved(combine, builder, *args[2:6]), _halved(combine, builder, *args[6:])
            return _fold_and_store(combine, context, builder, signature, args, first, second, 8)

        return types.void(array, types.intp, a, a, a, a, a, a, a, a), build

    store_eight.__doc__ = f"array[index:index + 8] = {what} of a to h."
    return store_eight


store_sums = _store_four(_add, "the sums over the lanes")
store_eight_sums = _store_eight(_add, "the sums over the lanes")
store_eight_maxima = _store_eight(_larger, "the largest lanes")


def _prefetch(nearness, where):
    """Makes an intrinsic that asks for a cache line, into the nearest cache (3) or only into the second one (2)."""

    @intrinsic
    def prefetch(typing, array, index):
        def build(context, builder, signature, args):
            byte = ir.IntType(8).as_pointer()
            address = builder.bitcast(_address(builder, *args), byte)
            function_type = ir.FunctionType(ir.VoidType(), [byte, INT32, INT32, INT32])
            ask = get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
            builder.call(ask, [address, INT32(0), INT32(nearness), INT32(1)])  # for reading, data
            return context.get_dummy_value()

        return types.void(array, types.intp), build

    prefetch.__doc__ = f"Asks for the cache line of array[index], into {where}; no index is out of bounds."
    return prefetch


prefetch = _prefetch(3, "every level")
prefetch_apart = _prefetch(2, "the second level, for what is read a while later")


@intrinsic
def store_transposed(typing, into, at, into_stride, table, table_at, table_stride):
    """into[at + c * into_stride + r] = table[table_at + r * table_stride + c] for r and c in 0 .. 7"""

    def build(context, builder, signature, args):
        into, at, into_stride, table, table_at, table_stride = args
        index, width = at.type, _element_bytes(signature.args[0])

        def row_address(place, first, stride, row):
            at = builder.add(first, builder.mul(stride, ir.Constant(index, row)))
            return _as_vector(builder, _address(builder, place, at))

        rows = []
        for row in range(WIDTH):
            rows.append(builder.load(row_address(table, table_at, table_stride, row)))
            rows[-1].align = width
        # three rounds of exchange: neighbours, pairs, halves
        pairs = []
        for a, b in zip(rows[::2], rows[1::2]):
            pairs.append(_shuffle(builder, a, b, [0, 8, 1, 9, 4, 12, 5, 13]))
            pairs.append(_shuffle(builder, a, b, [2, 10, 3, 11, 6, 14, 7, 15]))
        quads = []
        for a, b in ((0, 2), (1, 3), (4, 6), (5, 7)):
            quads.append(_shuffle(builder, pairs[a], pairs[b], [0, 1, 8, 9, 4, 5, 12, 13]))
            quads.append(_shuffle(builder, pairs[a], pairs[b], [2, 3, 10, 11, 6, 7, 14, 15]))
        columns = [_shuffle(builder, quads[c], quads[c + 4], [0, 1, 2, 3, 8, 9, 10, 11]) for c in range(4)]
        columns += [_shuffle(builder, quads[c], quads[c + 4], [4, 5, 6, 7, 12, 13, 14, 15]) for c in range(4)]
        for column, lanes in enumerate(columns):
            builder.store(lanes, row_address(into, at, into_stride, column)).align = width
        return context.get_dummy_value()

    return types.void(into, types.intp, types.intp, table, types.intp, types.intp), build


def _tile_product(rows, columns):
    """Makes an intrinsic that multiplies matrices, for as many rows and vectors of columns as fit in registers."""

    @intrinsic
    def tile_product(typing, into, at, stride, left, left_at, left_row, left_step, right, right_at, right_step, depth):
        """into[at + r * stride:][:8 * columns] = Σ_t left[left_at + r * left_row + t * left_step] ·
        right[right_at + t * right_step:][:8 * columns] for each row r"""

        def build(context, builder, signature, args):
            into, at, stride, left, left_at, left_row, left_step, right, right_at, right_step, depth = args
            kind = ir.VectorType(context.get_value_type(signature.args[0].dtype), WIDTH)
            index, width = at.type, _element_bytes(signature.args[0])

            def place(first, stride, number):
                return builder.add(first, builder.mul(stride, ir.Constant(index, number)))

            sums = [[alloca_once(builder, kind) for _ in range(columns)] for _ in range(rows)]
            for row_sums in sums:
                for total in row_sums:
                    builder.store(_constant(kind, 0.0), total)
            left_rows = [place(left_at, left_row, row) for row in range(rows)]
            with for_range(builder, depth) as loop:
                vectors = []
                right_row = builder.add(right_at, builder.mul(loop.index, right_step))
                for column in range(columns):
                    address = _address(builder, right, builder.add(right_row, index(WIDTH * column)))
                    vectors.append(builder.load(_as_vector(builder, address)))
                    vectors[-1].align = width
                step = builder.mul(loop.index, left_step)
                for row in range(rows):
                    address = _address(builder, left, builder.add(left_rows[row], step))
                    factor = _spread(builder, builder.load(address))
                    for column in range(columns):
                        total = builder.load(sums[row][column])
                        builder.store(_call(builder, "fma", factor, vectors[column], total), sums[row][column])
            for row in range(rows):
                for column in range(columns):
                    where = builder.add(place(at, stride, row), index(WIDTH * column))
                    address = _as_vector(builder, _address(builder, into, where))
                    builder.store(builder.load(sums[row][column]), address).align = width
            return context.get_dummy_value()

        intp = types.intp
        return types.void(into, intp, intp, left, intp, intp, intp, right, intp, intp, intp), build

    return tile_product


tile_4x1, tile_4x2, tile_4x3 = (_tile_product(4, columns) for columns in (1, 2, 3))


def _abreast_product(rows, columns):
    """Makes an intrinsic that multiplies matrices of eight heads, one in each lane."""

    @intrinsic
    def abreast_product(
        typing,
        into,
        at,
        row,
        left,
        left_at,
        left_row,
        left_step,
        right,
        right_at,
        right_column,
        right_step,
        depth,
        adds,
    ):
        """into[at + r * row + 8 * c :][:8] = Σ_t left[left_at + r * left_row + t * left_step :][:8] · right[right_at +
        c * right_column + t * right_step :][:8] for each row r and column c; or +=, if it adds"""

        def build(context, builder, signature, args):
            into, at, row, left, left_at, left_row, left_step = args[:7]
            right, right_at, right_column, right_step, depth, adds = args[7:]
            kind = ir.VectorType(context.get_value_type(signature.args[0].dtype), WIDTH)
            index, width = at.type, _element_bytes(signature.args[0])

            def address(array, *terms):
                place = terms[0]
                for number, stride in terms[1:]:
                    place = builder.add(place, builder.mul(stride, number))
                return _as_vector(builder, _address(builder, array, place))

            def read(*where):
                loaded = builder.load(address(*where))
                loaded.align = width
                return loaded

            places, sums = [], []
            for r in range(rows):
                for c in range(columns):
                    places.append(address(into, at, (index(r), row), (index(c), index(WIDTH))))
                    sums.append(alloca_once(builder, kind))
                    builder.store(_constant(kind, 0.0), sums[-1])
            with builder.if_then(adds):
                for place, total in zip(places, sums):
                    before = builder.load(place)
                    before.align = width
                    builder.store(before, total)
            with for_range(builder, depth) as loop:
                others = [
                    read(right, right_at, (index(c), right_column), (loop.index, right_step)) for c in range(columns)
                ]
                for r in range(rows):
                    factor = read(left, left_at, (index(r), left_row), (loop.index, left_step))
                    for c, other in enumerate(others):
                        total = sums[r * columns + c]
                        builder.store(_call(builder, "fma", factor, other, builder.load(total)), total)
            for place, total in zip(places, sums):
                builder.store(builder.load(total), place).align = width
            return context.get_dummy_value()

        intp = types.intp
        arguments = into, intp, intp, left, intp, intp, intp, right, intp, intp, intp, intp, types.boolean
        return types.void(*arguments), build

    return abreast_product


abreast_4x2, abreast_4x1, abreast_1x2, abreast_1x1 = (_abreast_product(r, c) for r in (4, 1) for c in (2, 1))


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


for _symbol, _instruction in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")
):  # fmt: skip
    _give_lanes(_symbol, _instruction)
