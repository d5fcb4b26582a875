"""The minimax polynomials of the engine's exp2 and GELU: prints engine/kernels/polynomials.inl.h.

    python bench/fit_kernels.py > engine/kernels/polynomials.inl.h

Coefficients are rounded to float32 one by one from the highest power on, the others fitted again after each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.special import erfc

Doubles = NDArray[np.float64]
Function = Callable[[Doubles], Doubles]

GELU_END = 5.2
"""From here on, in float32, GELU is max(0, x): the tail left out is 5.2e-7."""
GELU_END_BF16 = 5.0
TAIL_END = 5.25
"""The same for the tail as one polynomial: 4.0e-7 is left out."""


def minimax(
    f: Function, interval: tuple[float, float], degree: int, weight: Function, fixed: Mapping[int, float] | None = None
) -> tuple[NDArray[np.float32], float]:
    """Coefficients [degree + 1], lowest power first, of the polynomial p with the least max |weight (f - p)|, and it.

    `fixed` maps powers to given coefficients. A linear program on 400 Chebyshev nodes.
    """
    low, high = interval
    x = low + (high - low) * (0.5 - 0.5 * np.cos(np.linspace(0, np.pi, 400)))
    w, known = weight(x), {power: np.float64(c) for power, c in (fixed or {}).items()}
    while len(known) <= degree:
        free = [power for power in range(degree + 1) if power not in known]
        target = w * (f(x) - sum((c * x**power for power, c in known.items()), np.zeros_like(x)))
        basis, triangle = np.linalg.qr(w[:, None] * x[:, None] ** np.array(free))
        start = basis.T @ target
        rest = target - basis @ start
        size = np.abs(rest).max()
        ones = np.ones((len(x), 1))
        step = linprog(
            np.append(np.zeros(len(free)), 1.0),
            A_ub=np.block([[basis, -ones], [-basis, -ones]]),
            b_ub=np.concatenate([rest, -rest]) / size,
            bounds=[(None, None)] * len(free) + [(0, None)],
        )
        coefficients = np.linalg.solve(triangle, start + step.x[:-1] * size)
        known[free[-1]] = np.float64(np.float32(coefficients[-1]))
    p = np.array([known[power] for power in range(degree + 1)])
    error = np.abs(w * (f(x) - np.polynomial.polynomial.polyval(x, p))).max()
    return p.astype(np.float32), float(error)


def tail(t: Doubles) -> Doubles:
    """t Q(t), Q the upper tail of the normal distribution."""
    return np.asarray(0.5 * t * erfc(t / np.sqrt(2)))


def half_ulp_bf16(t: Doubles) -> Doubles:
    """1 / the error allowed of GELU at -t where the result is rounded to bf16."""
    return np.asarray(1 / np.maximum(2e-6, 2.0**-9 * tail(t)))


def pieces(count: int, degree: int, end: float, weight: Function) -> tuple[float, NDArray[np.float32], float]:
    """Pieces a width, coefficients [degree + 1, count] of t / 2 - t Q(t), and the error times the weight."""
    width = end / (count - 1.5)
    table, worst = np.zeros((degree + 1, count), np.float32), 0.0
    for piece in range(count - 1):
        interval = (max(1e-4, (piece - 0.5) * width), (piece + 0.5) * width)
        fixed = {0: 0.0} if piece == 0 else None
        table[:, piece], error = minimax(lambda t: 0.5 * t - tail(t), interval, degree, weight, fixed)
        worst = max(worst, error)
    table[1, -1] = 0.5
    return 1 / width, table, worst


def measure(error: float, weight: Function) -> str:
    return f"absolute error {error:.1e}" if weight is np.ones_like else f"{error:.2f} of max(2e-6, half an ulp)"


def literal(value: float) -> str:
    text = f"{np.float32(value):.9g}"
    return (text if "." in text or "e" in text else text + ".0") + "F"


def lines(values: NDArray[np.float32], indent: str) -> str:
    """A braced list, cut at 120 columns."""
    out, line = [], indent + "{"
    for position, value in enumerate(values):
        item = literal(value) + ("}," if position == len(values) - 1 else ", ")
        if len(line) + len(item.rstrip()) > 120:
            out.append(line.rstrip())
            line = indent + " "
        line += item
    return "\n".join([*out, line])


def main() -> None:
    print("// Printed by bench/fit_kernels.py. Our own minimax fits.\n")
    print("namespace prunetime {\nnamespace {\n")
    for degree in (5, 3):
        p, error = minimax(lambda r: 2.0**r, (-0.5, 0.5), degree, lambda r: 2.0**-r, {0: 1.0})
        print(f"// 2^r for |r| <= 1/2: relative error {error:.1e}.")
        print(f"constexpr float kExp2Of{degree}[] =\n{lines(p, '    ')[:-1]};\n")
    print("// t / 2 - t Q(t), Q the upper tail of the normal distribution, in pieces; see GeluByPieces.")
    choices = (
        ("kGelu32", 32, 3, GELU_END, np.ones_like),
        ("kRoundedGelu32", 32, 2, GELU_END_BF16, half_ulp_bf16),
    )
    for name, count, degree, end, weight in choices:
        scale, table, error = pieces(count, degree, end, weight)
        print(f"// Up to {end}: {measure(error, weight)}.")
        print(f"constexpr Piecewise<{degree}, {count}> {name} = {{{literal(scale)}, {{")
        print("\n".join(lines(row, "    ") for row in table) + "\n}};\n")
    half = TAIL_END / 2
    print(f"// Q(t) / ({TAIL_END} - t) in s = t - {half}; see GeluByTail.")
    for name, degree, weight in (("kTailOf12", 12, np.ones_like), ("kRoundedTailOf10", 10, half_ulp_bf16)):
        p, error = minimax(
            lambda s: 0.5 * erfc((s + half) / np.sqrt(2)) / (half - s),
            (-half, half - 1e-9),
            degree,
            lambda s, weight=weight: (half**2 - s * s) * weight(s + half),
        )
        print(f"// Of t Q(t): {measure(error, weight)}.")
        print(f"constexpr float {name}[] =\n{lines(p, '    ')[:-1]};\n")
    print("}  // namespace\n}  // namespace prunetime")


if __name__ == "__main__":
    main()
