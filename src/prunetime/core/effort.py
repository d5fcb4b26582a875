"""How much a run does: the time that it may take, and the plan of rows, epochs and evaluations that fills this time."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from prunetime.core.record import Record
from prunetime.errors import InputError

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(s|m|h)")
_MINUTES = {"s": 1 / 60, "m": 1.0, "h": 60.0}

_MAY_BE_0 = ("looks", "compared_rows", "elastic_rows")


@dataclass(frozen=True)
class RunPlan(Record):
    """The amounts of training and search of a run. Rows and epochs are the most; batches but the teacher's have
    32 rows.

    Attributes:
        name: The effort that it was planned for.
        teacher_rows: The rows that the dense model is fine-tuned on.
        teacher_epochs: The epochs of the fine-tuning.
        tune_rows: The rows that the pruned model is fine-tuned on, and that masks are learned on.
        tune_epochs: The epochs of the tuning; each level of masks is learned for twice as many.
        learning_rate: The peak learning rate of the dense model.
        tune_learning_rate: The peak learning rate of the pruned model, and of weights under masks.
        elastic_learning_rate: The peak learning rate of the elastic training.
        importance_rows: The rows that heads and FFN neurons are ordered on.
        elastic_rows: The rows of the elastic training, which fits the weights to many structures; 0 where these are
            repaired instead.
        elastic_epochs: The epochs of the elastic training.
        evaluations: The structures that the search scores.
        score_rows: The rows that each of these structures is scored on.
        finalists: The best structures of the search, which are scored again.
        finalist_rows: The valid rows that the best of the finalists is chosen on, and that trainings are stopped by.
        looks: How often a training looks at valid rows, if it takes all of its steps; 0 where it always takes them all.
        compares: Whether what one would take instead of the pruned model is tuned and measured, too.
        teacher_batch: The rows of a batch in the fine-tuning of the dense model.
        compared_rows: The test rows that all of what is compared is read on; 0 for all there are.

    Raises:
        InputError: a number is below what it can be.
    """

    name: str
    teacher_rows: int
    teacher_epochs: float
    tune_rows: int
    tune_epochs: float
    learning_rate: float
    tune_learning_rate: float
    elastic_learning_rate: float
    importance_rows: int
    elastic_rows: int
    elastic_epochs: float
    evaluations: int
    score_rows: int
    finalists: int
    finalist_rows: int
    looks: int = 0
    compares: bool = False
    teacher_batch: int = 32
    compared_rows: int = 0

    def __post_init__(self) -> None:
        for name, value in self.amounts.items():
            if not isinstance(value, int | float) or value < 0 or (value == 0 and name not in _MAY_BE_0):
                raise InputError(f"{name} of the plan of a run is {value!r}; it must be a number above 0")

    @property
    def repairs(self) -> bool:
        """Whether the structures that a search scores are repaired, and not trained before."""
        return self.elastic_rows == 0

    @property
    def amounts(self) -> dict[str, float]:
        """All of its numbers, by name."""
        return {name: value for name, value in asdict(self).items() if name not in ("name", "compares")}

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as JSON; what plans of version 0.1 did not know only where it is not as it was then."""
        as_then = {"looks": 0, "compares": False, "teacher_batch": 32, "compared_rows": 0}
        return {name: value for name, value in asdict(self).items() if name not in as_then or value != as_then[name]}

    def __str__(self) -> str:
        return json.dumps(self.to_json())


@dataclass(frozen=True)
class Effort(Record):
    """The time that a run may take, on the machine that it runs on.

    Attributes:
        minutes: The time in minutes.

    Raises:
        InputError: the time is not above 0.

    Example:
        >>> Effort.named("quick").minutes
        5.0
        >>> str(Effort(45))
        '45m'
    """

    minutes: float

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            raise InputError(f"effort is {self.minutes} minutes; it must be above 0")

    @classmethod
    def named(cls, name: str) -> Effort | RunPlan:
        """Returns the effort of a name or of a time, or the plan of an earlier run.

        Args:
            name: `quick`, `standard` or `thorough`; a time such as `90s`, `45m` or `2h`; the `run-plan.json` of a run,
                as a path or as its content.

        Raises:
            InputError: `name` is nothing of these.
        """
        if name in EFFORTS:
            return EFFORTS[name]
        if match := _DURATION.fullmatch(name.strip()):
            return cls(float(match[1]) * _MINUTES[match[2]])
        if name.lstrip().startswith("{"):
            return _plan(name, "--effort")
        if Path(name).is_file():
            return _plan(Path(name).read_text(encoding="utf-8"), name)
        raise InputError(
            f"effort is {name!r}; it must be one of {', '.join(EFFORTS)}, a time (90s, 45m, 2h), or the run-plan.json "
            "of a run"
        )

    @property
    def seconds(self) -> float:
        return 60.0 * self.minutes

    def __str__(self) -> str:
        minutes = Decimal(repr(self.minutes)).normalize()  # never 1e+03, which `named` does not read
        return next((name for name, effort in EFFORTS.items() if effort == self), f"{minutes:f}m")


def _plan(text: str, where: str) -> RunPlan:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where} is no plan of a run: it is not JSON ({error})") from error
    return RunPlan.from_json(data)


EFFORTS: dict[str, Effort | RunPlan] = {"quick": Effort(5.0), "standard": Effort(30.0), "thorough": Effort(240.0)}


def effort_from_json(data: Mapping[str, Any]) -> Effort | RunPlan:
    """Returns an effort, or the plan that it is given as."""
    return Effort.from_json(data) if "minutes" in data else RunPlan.from_json(data)
