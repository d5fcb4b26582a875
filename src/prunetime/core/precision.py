"""The precision plan: how every matrix is run. It is chosen by measurement and frozen in the artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from prunetime.core.arch import MATRICES, ArchSpec
from prunetime.core.checks import true_or_false
from prunetime.core.record import Record, strict_keys
from prunetime.errors import InputError

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

ONE_PRECISION = ("query", "key", "value")
"""The matrices of a layer that read the same input and are run as one: they share a precision."""

PLANNED = tuple(matrix for matrix in MATRICES if matrix != "ffn_gate")
"""The matrices that a plan can name: a GLU's gate is run as the matrix whose outputs it multiplies."""


@dataclass(frozen=True)
class MatrixPlan(Record):
    """How one matrix is run.

    Attributes:
        precision: The precision of its weights and of what they are multiplied by: `fp32`, `bf16` or `int8`.
        sparse: Whether a matrix that is stored in blocks is run block by block, rather than expanded and run dense.
    """

    precision: Precision = "fp32"
    sparse: bool = True

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise InputError(f"precision is {self.precision!r}; the precisions are {', '.join(get_args(Precision))}")
        true_or_false("sparse", self.sparse)


@dataclass(frozen=True)
class PrecisionPlan:
    """The precision of every matrix, as a quantisation config has it.

    Attributes:
        default: How every matrix is run that `exceptions` do not name.
        exceptions: Other matrices, as (layer, matrix, plan). Query, key and value of a layer have one precision.
        quality_loss: The loss against fp32 that was measured, in the task's metric; None where all is fp32.

    Raises:
        InputError: A matrix is named twice, or is none of a layer's.

    Example:
        >>> PrecisionPlan.uniform("int8").of(0, "query").precision
        'int8'
    """

    default: MatrixPlan = MatrixPlan()
    exceptions: tuple[tuple[int, str, MatrixPlan], ...] = ()
    quality_loss: float | None = None

    def __post_init__(self) -> None:
        places = [(layer, matrix) for layer, matrix, _ in self.exceptions]
        if len(set(places)) != len(places):
            raise InputError("plan names a matrix twice")
        for layer, matrix in places:
            if layer < 0 or matrix not in PLANNED:
                raise InputError(f"plan names {matrix!r} of layer {layer}; the matrices are {', '.join(PLANNED)}")
        for layer in sorted({layer for layer, _ in places}):
            precisions = {name: self.of(layer, name).precision for name in ONE_PRECISION}
            if len(set(precisions.values())) > 1:
                found = ", ".join(f"{name} {precision}" for name, precision in precisions.items())
                raise InputError(f"plan has {found} in layer {layer}: the three must have one precision")

    @classmethod
    def uniform(cls, precision: Precision) -> PrecisionPlan:
        """Returns the plan of one precision for every matrix, block by block where it is stored in blocks.

        Args:
            precision: `fp32`, `bf16` or `int8`.
        """
        return cls(MatrixPlan(precision))

    def of(self, layer: int, matrix: str) -> MatrixPlan:
        wanted = "ffn_input" if matrix == "ffn_gate" else matrix
        for at, name, plan in self.exceptions:
            if (at, name) == (layer, wanted):
                return plan
        return self.default

    def described(self) -> str:
        """Returns the precisions in words: `int8`, or `int8, with bf16 and fp32 for some matrices`."""
        others = sorted({plan.precision for _, _, plan in self.exceptions} - {self.default.precision})
        return self.default.precision + (f", with {' and '.join(others)} for some matrices" if others else "")

    def check(self, spec: ArchSpec) -> None:
        """Raises InputError where the plan names a layer that `spec` has not."""
        beyond = [layer for layer, _, _ in self.exceptions if layer >= len(spec.layers)]
        if beyond:
            raise InputError(f"plan names layer {beyond[0]}; the encoder has {len(spec.layers)} layers, from 0")

    def to_json(self) -> dict[str, Any]:
        places = ((layer, matrix, plan.to_json()) for layer, matrix, plan in self.exceptions)
        exceptions = [{"layer": layer, "matrix": matrix, "plan": plan} for layer, matrix, plan in places]
        return {"default": self.default.to_json(), "exceptions": exceptions, "quality_loss": self.quality_loss}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PrecisionPlan:
        values = strict_keys(cls, data)
        exceptions = tuple(
            (int(e["layer"]), str(e["matrix"]), MatrixPlan.from_json(e["plan"])) for e in values.get("exceptions", ())
        )
        return cls(MatrixPlan.from_json(values.get("default", {})), exceptions, values.get("quality_loss"))
