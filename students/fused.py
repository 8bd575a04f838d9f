"""What a recurrent layer does in a frame beside its products: all of it in one call, compiled by numba.

torch would read and write every intermediate value of a frame, in an operation each; these loops go over a clip's units
while they are in the core's fastest cache. Arrays are C-contiguous: (T, batch, units), and (batch, units) of a frame.
Those of products are of the products' dtype, bfloat16 as its bits in uint16 (numpy has none); all others, and all
arithmetic, are of the states' dtype.

Each loop touches few arrays: of many, the compiler cannot tell that they do not overlap, and uses no vector
instructions. The first call for some dtypes compiles, which takes a second or two; the code is kept beside this file,
else among the user's cached files, else not at all.
"""

import ctypes
import math
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import torch
from numba import njit, types
from numba.extending import overload, register_jitable

ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)  # Python's own would make double of a float32
LOG2_E, LN2_HIGH, LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
ROUNDING = np.float32(1.5 * 2**23)  # added to and taken from a float32, leaves it rounded
LARGEST, SMALLEST = np.float32(87), np.float32(-87)  # whose exp, and sigmoid, are normal numbers
TINY = np.float32(1e-30)
P0, P1, P2, P3, P4, P5 = map(
    np.float32, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
NO_FRACTION, EXPONENT = np.uint32(16), np.uint32(23)
HALF, LAST = np.uint32(0x7FFF), np.uint32(1)
BITS_OF_1 = np.uint32(0x3F800000)

GEMM = "cblas_gemm_bf16bf16f32"  # MKL's c = alpha a b + beta c: order, transpositions, sizes, alpha, a, b, beta, c
ROW_MAJOR, AS_IS, TRANSPOSED = map(np.intc, (101, 111, 112))
MATRIX = (types.uintp, types.intc)  # its address, and the length of its rows in memory
gemm = types.ExternalFunction(
    GEMM, types.void(*[types.intc] * 6, types.float32, *MATRIX, *MATRIX, types.float32, *MATRIX)
)


def find_gemm() -> bool:
    """Tells numba where torch has MKL's product; False where it has none, or the CPU no AMX."""
    if not torch.cpu.get_capabilities().get("amx_bf16"):
        return False
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        address = ctypes.cast(getattr(ctypes.CDLL(str(library)), GEMM), ctypes.c_void_p).value
    except (OSError, AttributeError):
        return False
    llvm.add_symbol(GEMM, address)
    return True


HAS_GEMM = find_gemm()
"""Whether the loops over all frames can be called, which are compiled with their products, of bfloat16.

A frame's product is small: with AMX, asking torch for it takes longer than the product itself.
"""


def compiled(function: Callable) -> Callable:
    """Of Python's subset that numba knows; a * b + c may become one instruction, and nothing else is reordered."""
    options = {"error_model": "numpy", "fastmath": {"contract"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # there is no folder that it could write to
        return njit(**options)(function)


def array(x: torch.Tensor) -> np.ndarray:
    """The memory of a contiguous tensor that needs no gradient; of bfloat16 as uint16."""
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


def read(x):
    """A number of a product, in the states' dtype. Like `write` and `exp` it exists compiled alone, by type."""
    raise NotImplementedError


@overload(read, inline="always")
def _read(x):
    if x == types.uint16:
        return lambda x: np.uint32(np.uint32(x) << NO_FRACTION).view(np.float32)
    return lambda x: x


def write(out, j, x):
    """out[j] = x, rounded to the nearest, of two the even one."""
    raise NotImplementedError


@overload(write, inline="always")
def _write(out, j, x):
    if out.dtype == types.uint16:

        def write_bfloat16(out, j, x):
            bits = np.float32(x).view(np.uint32)
            out[j] = np.uint16(np.uint32(bits + HALF + ((bits >> NO_FRACTION) & LAST)) >> NO_FRACTION)

        return write_bfloat16

    def write_as_is(out, j, x):
        out[j] = x

    return write_as_is


def exp(x):
    """e^x, within 1e-7 of it; between e^-87 and e^87 for a float32, and NaN of NaN."""
    raise NotImplementedError


@overload(exp, inline="always")
def _exp(x):
    if x != types.float32:
        return lambda x: math.exp(x)

    def exp_float32(x):  # Cephes' expf: e^x = 2^k e^r, |r| <= ln(2) / 2
        x = LARGEST if x > LARGEST else x
        x = SMALLEST if x < SMALLEST else x
        shifted = x * LOG2_E + ROUNDING
        k = shifted - ROUNDING
        r = x - k * LN2_HIGH - k * LN2_LOW
        p = ((((P0 * r + P1) * r + P2) * r + P3) * r + P4) * r + P5
        power = np.uint32((np.float32(shifted).view(np.uint32) << EXPONENT) + BITS_OF_1).view(np.float32)
        return (p * r * r + r + ONE) * power

    return exp_float32


@register_jitable
def felt(gradient):
    """The gradient, or 0 for one below 1e-30.

    Over hundreds of frames gradients fade to subnormal numbers, with which many CPUs compute many times as slowly.
    """
    return ZERO if abs(gradient) < TINY else gradient


@register_jitable
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return ONE / (ONE + exp(-x))


@register_jitable
def tanh(x):
    """2 sigmoid(2 x) - 1."""
    return TWO / (ONE + exp(-TWO * x)) - ONE


@register_jitable
def add_product(a, b, transposed, c):
    """c += a b, or a b^T: c (rows, columns) float32, a and b bfloat16; all C-contiguous."""
    rows, columns = np.intc(c.shape[0]), np.intc(c.shape[1])
    terms, width = np.intc(a.shape[1]), np.intc(b.shape[1])
    taken = TRANSPOSED if transposed else AS_IS
    factors = a.ctypes.data, terms, b.ctypes.data, width
    gemm(ROW_MAJOR, AS_IS, taken, rows, columns, terms, ONE, *factors, ONE, c.ctypes.data, columns)


@compiled
def gru_forward(t, from_x_t, products, gates, n, h, factors):
    """Frame t of `GruSequence`: gates (r, z, m), n, h_{t+1} and its rounded factor, of W x_t + b and U h_t + d."""
    _, batch, n_units = n.shape
    for i in range(batch):
        x_i, product, gate, n_i = from_x_t[i], products[i], gates[t, i], n[t, i]
        for j in range(2 * n_units):
            gate[j] = sigmoid(read(x_i[j]) + read(product[j]))
        r, z, m = gate[:n_units], gate[n_units : 2 * n_units], gate[2 * n_units :]
        x_n, product_n = x_i[2 * n_units :], product[2 * n_units :]
        for j in range(n_units):
            m[j] = read(product_n[j])
        for j in range(n_units):
            n_i[j] = tanh(read(x_n[j]) + r[j] * m[j])
        before, after, factor = h[t, i], h[t + 1, i], factors[t + 1, i]
        for j in range(n_units):
            after[j] = n_i[j] + z[j] * (before[j] - n_i[j])
        for j in range(n_units):
            write(factor, j, after[j])


@compiled
def gru_forward_frames(first, from_x, u, d, products, gates, n, h, factors):
    """`gru_forward` for frame after frame, with products U h_t + d; from_x begins at frame `first`."""
    for k in range(len(from_x)):
        for i in range(len(products)):
            for j in range(len(d)):
                products[i, j] = read(d[j])
        add_product(factors[first + k], u, True, products)
        gru_forward(first + k, from_x[k], products, gates, n, h, factors)


@compiled
def gru_backward(t, grad, later, gates, n, h, g, through_t, dn_t, sum_now, sum_dn):
    """Frame t of `GruSequence` backwards: (dr, dz, dm), dn, and their sums over clips added to those of later frames.

    g comes as g_{t+1} z_{t+1} and leaves as g_t z_t; later is U^T (dr, dz, dm) of frame t + 1.
    """
    _, batch, n_units = n.shape
    now, sum_t = np.empty(3 * n_units, g.dtype), np.zeros(3 * n_units, g.dtype)
    dr, dz, dm = now[:n_units], now[n_units : 2 * n_units], now[2 * n_units :]
    dn, sum_dn_t = np.empty(n_units, g.dtype), np.zeros(n_units, g.dtype)
    for i in range(batch):
        g_i, grad_i, later_i, gate, n_i, h_i = g[i], grad[t, i], later[i], gates[t, i], n[t, i], h[t, i]
        r, z, m = gate[:n_units], gate[n_units : 2 * n_units], gate[2 * n_units :]
        for j in range(n_units):
            g_i[j] = felt(g_i[j] + grad_i[j] + read(later_i[j]))
        for j in range(n_units):
            dn[j] = felt(g_i[j] * (ONE - z[j]) * (ONE - n_i[j] * n_i[j]))
        for j in range(n_units):
            dz[j] = g_i[j] * (h_i[j] - n_i[j]) * z[j] * (ONE - z[j])
        for j in range(n_units):
            dr[j] = dn[j] * m[j] * r[j] * (ONE - r[j])
        for j in range(n_units):
            dm[j] = dn[j] * r[j]
        for j in range(n_units):
            g_i[j] *= z[j]
        through, dn_i = through_t[i], dn_t[i]
        for j in range(3 * n_units):
            now[j] = felt(now[j])
            sum_t[j] += now[j]
            write(through, j, now[j])
        for j in range(n_units):
            sum_dn_t[j] += dn[j]
            write(dn_i, j, dn[j])
    sum_now += sum_t
    sum_dn += sum_dn_t


@compiled
def gru_backward_frames(first, grad, later, u, gates, n, h, g, through, dn, sum_now, sum_dn):
    """`gru_backward` for frame before frame, with later = U^T (dr, dz, dm); through and dn begin at frame `first`."""
    for k in range(len(through) - 1, -1, -1):
        gru_backward(first + k, grad, later, gates, n, h, g, through[k], dn[k], sum_now, sum_dn)
        later[:] = 0
        add_product(through[k], u, False, later)


@compiled
def lstm_forward(t, products, peepholes, gates, c, tanh_c, m):
    """Frame t of `PeepholeLstmSequence`: i, f, g, o, c_{t+1}, its tanh, o tanh(c) rounded, of W (x_t, r_t) + b."""
    _, batch, n_units = tanh_c.shape
    peep_i, peep_f, peep_o = peepholes[0], peepholes[1], peepholes[2]
    for k in range(batch):
        product, gate, before, after = products[k], gates[t, k], c[t, k], c[t + 1, k]
        p_i, p_f = product[:n_units], product[n_units : 2 * n_units]
        p_g, p_o = product[2 * n_units : 3 * n_units], product[3 * n_units :]
        i, f = gate[:n_units], gate[n_units : 2 * n_units]
        g, o = gate[2 * n_units : 3 * n_units], gate[3 * n_units :]
        for j in range(n_units):
            i[j] = sigmoid(read(p_i[j]) + before[j] * peep_i[j])
        for j in range(n_units):
            f[j] = sigmoid(read(p_f[j]) + before[j] * peep_f[j])
        for j in range(n_units):
            g[j] = tanh(read(p_g[j]))
        for j in range(n_units):
            after[j] = f[j] * before[j] + i[j] * g[j]
        for j in range(n_units):
            o[j] = sigmoid(read(p_o[j]) + after[j] * peep_o[j])
        tanh_k, m_k = tanh_c[t, k], m[t, k]
        for j in range(n_units):
            tanh_k[j] = tanh(after[j])
        for j in range(n_units):
            write(m_k, j, o[j] * tanh_k[j])


@compiled
def lstm_backward(t, v_t, peepholes, gates, c, tanh_c, e, through_t, sum_now, dpeepholes):
    """Frame t of `PeepholeLstmSequence` backwards: (di, df, dg, do); sums over clips are added to later frames'.

    e comes and leaves as the share of dL/dc_t that later frames have.
    """
    _, batch, n_units = tanh_c.shape
    peep_i, peep_f, peep_o = peepholes[0], peepholes[1], peepholes[2]
    now, sum_t = np.empty(4 * n_units, e.dtype), np.zeros(4 * n_units, e.dtype)
    di, df = now[:n_units], now[n_units : 2 * n_units]
    dg, do = now[2 * n_units : 3 * n_units], now[3 * n_units :]
    dpeep = np.zeros((3, n_units), e.dtype)
    dpeep_i, dpeep_f, dpeep_o = dpeep[0], dpeep[1], dpeep[2]
    for k in range(batch):
        v, gate, tanh_k, before, after, e_k = v_t[k], gates[t, k], tanh_c[t, k], c[t, k], c[t + 1, k], e[k]
        i, f = gate[:n_units], gate[n_units : 2 * n_units]
        g, o = gate[2 * n_units : 3 * n_units], gate[3 * n_units :]
        for j in range(n_units):
            do[j] = read(v[j]) * tanh_k[j] * o[j] * (ONE - o[j])
        for j in range(n_units):
            e_k[j] += read(v[j]) * o[j] * (ONE - tanh_k[j] * tanh_k[j])
        for j in range(n_units):
            e_k[j] = felt(e_k[j] + do[j] * peep_o[j])
        for j in range(n_units):
            di[j] = e_k[j] * g[j] * i[j] * (ONE - i[j])
        for j in range(n_units):
            df[j] = e_k[j] * before[j] * f[j] * (ONE - f[j])
        for j in range(n_units):
            dg[j] = e_k[j] * i[j] * (ONE - g[j] * g[j])
        for j in range(n_units):
            e_k[j] = e_k[j] * f[j] + di[j] * peep_i[j] + df[j] * peep_f[j]
        for j in range(n_units):
            dpeep_i[j] += di[j] * before[j]
            dpeep_f[j] += df[j] * before[j]
        for j in range(n_units):
            dpeep_o[j] += do[j] * after[j]
        through = through_t[k]
        for j in range(4 * n_units):
            now[j] = felt(now[j])
            sum_t[j] += now[j]
            write(through, j, now[j])
    sum_now += sum_t
    dpeepholes += dpeep
