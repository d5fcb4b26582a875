"""How every matrix is run: its precision, and dense or by blocks. Chosen by measurement, frozen in the artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from prunetime.arch import MATRICES, strict_keys
from prunetime.errors import InputError

Precision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class MatrixPlan:
    """How one matrix is run; `block` is the (rows, columns) of its blocks when it is run sparse."""

    precision: Precision = "fp32"
    block: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise InputError(f"precision is {self.precision!r}; the precisions are {', '.join(get_args(Precision))}")
        if self.block is not None and (len(self.block) != 2 or min(self.block) < 1):
            raise InputError(f"block is {self.block!r}; it must be two sizes of at least 1, or nothing")

    def to_json(self) -> dict[str, Any]:
        return {"precision": self.precision, "block": list(self.block) if self.block else None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MatrixPlan:
        values = strict_keys(cls, data)
        block = values.get("block")
        return cls(values.get("precision", "fp32"), tuple(block) if block is not None else None)


@dataclass(frozen=True)
class Plan:
    """The plan of every matrix: `default`, but for those named in `exceptions` as (layer, matrix, plan).

    `quality_loss` is what the plan was measured to lose against fp32 (in the task's metric), None where all is fp32.
    """

    default: MatrixPlan = MatrixPlan()
    exceptions: tuple[tuple[int, str, MatrixPlan], ...] = ()
    quality_loss: float | None = None

    def __post_init__(self) -> None:
        places = [(layer, matrix) for layer, matrix, _ in self.exceptions]
        if len(set(places)) != len(places):
            raise InputError("plan names a matrix twice")
        for layer, matrix in places:
            if layer < 0 or matrix not in MATRICES:
                raise InputError(f"plan names {matrix!r} of layer {layer}; the matrices are {', '.join(MATRICES)}")

    def of(self, layer: int, matrix: str) -> MatrixPlan:
        for at, name, plan in self.exceptions:
            if (at, name) == (layer, matrix):
                return plan
        return self.default

    def to_json(self) -> dict[str, Any]:
        return {
            "default": self.default.to_json(),
            "exceptions": [
                {"layer": layer, "matrix": matrix, "plan": plan.to_json()} for layer, matrix, plan in self.exceptions
            ],
            "quality_loss": self.quality_loss,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        values = strict_keys(cls, data)
        exceptions = tuple(
            (int(e["layer"]), str(e["matrix"]), MatrixPlan.from_json(e["plan"])) for e in values.get("exceptions", ())
        )
        return cls(MatrixPlan.from_json(values.get("default", {})), exceptions, values.get("quality_loss"))
