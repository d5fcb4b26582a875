"""What a run is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, get_args

from prunetime.core.arch import BLOCK_SHAPES, BlockShape, Dims, strict_keys
from prunetime.core.budget import Budget
from prunetime.core.precision import PRECISIONS, Precision
from prunetime.core.task_kind import TaskKind
from prunetime.errors import InputError
from prunetime.pruning.importance import Criterion
from prunetime.pruning.methods import LEARNED, Method
from prunetime.search.space import Space

AUTO: Final = "auto"

LEARNED_GRAIN: BlockShape = (32, 32)
"""Of blocks that are learned, where none is asked for."""


@dataclass(frozen=True)
class Effort:
    """How much work goes into a run: rows and epochs to train on, evaluations and rows to search with.

    Learning rates are those at a batch of 32 rows. Of the finalists of the search, scored on `score_rows` rows, the
    best on `finalist_rows` is chosen.
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


EFFORTS = {
    effort.name: effort
    for effort in (
        Effort("quick", 16_000, 1, 10_000, 1, 1e-4, 1e-4, 5e-5, 512, 3_000, 1, 80, 500, 8, 1_500),
        Effort("standard", 60_000, 1, 60_000, 2, 5e-5, 1e-4, 5e-5, 1_024, 32_000, 1, 300, 1_000, 16, 4_000),
        Effort("thorough", 400_000, 3, 400_000, 4, 5e-5, 1e-4, 5e-5, 2_048, 200_000, 1, 1_000, 2_000, 32, 10_000),
    )
}


@dataclass(frozen=True)
class Settings:
    """One run of `prunetime prune`. `data`, `valid` and `test` are sources that `read_table` knows; a
    benchmark has a test part of its own.

    `task` is the kind of it; without, labels say it. `slices` name parts of the test rows that are reported as well
    (`unseen:product_uid`). `doc_stride` is that of `Task`; without it, question answering has the usual one.
    `precision` is that of every matrix; `auto` is what measures fastest, matrix by matrix, and loses at most `max_loss`
    of the metric on valid rows.
    `importance` is what heads and rows are ordered by (masks that are learned begin so); with `tokens` the search
    chooses tokens to drop, too, and with `blocks` (rows and columns of one) how many of them to keep in the matrices.
    A `method` of `LEARNED` learns masks in place of searching; auto does multilevel, search and both joined
    (`pipeline.auto`) and keeps the best.
    """

    model: str
    data: str
    budget: Budget
    valid: str | None = None
    test: str | None = None
    text: tuple[str, ...] | None = None
    label: str | None = None
    group: str | None = None
    task: TaskKind | None = None
    doc_stride: int | None = None
    metric: str | None = None
    slices: tuple[str, ...] = ()
    teacher_ready: bool = False
    seed: int = 0
    effort: Effort = EFFORTS["standard"]
    precision: Precision | Literal["auto"] = "fp32"
    max_loss: float = 0.002
    importance: Criterion = "fisher"
    tokens: bool = False
    blocks: BlockShape | None = None
    method: Method = "search"

    def __post_init__(self) -> None:
        if self.precision not in (*PRECISIONS, AUTO):
            raise InputError(f"precision is {self.precision!r}; it must be one of {', '.join((*PRECISIONS, AUTO))}")
        if not 0.0 <= self.max_loss < 1.0:
            raise InputError(f"max_loss is {self.max_loss!r}; it must be a share of the metric from 0 to 1")
        if self.importance not in get_args(Criterion):
            raise InputError(f"importance is {self.importance!r}; it must be {' or '.join(get_args(Criterion))}")
        if self.blocks is not None and self.blocks not in BLOCK_SHAPES:
            raise InputError(f"blocks are {self.blocks!r}; they must be of one of the sizes {BLOCK_SHAPES}")
        if self.method not in get_args(Method):
            raise InputError(f"method is {self.method!r}; it must be {' or '.join(get_args(Method))}")
        learned = LEARNED.get(self.method)
        if self.importance == "movement" and not learned:
            raise InputError("--importance movement orders nothing before masks are learned: use --method multilevel")
        if learned and self.tokens:
            raise InputError(f"--tokens is of the search: --method {self.method} learns {learned.of}")
        if learned and self.blocks and "blocks" not in learned.levels:
            raise InputError(f"--blocks is of no use to --method {self.method}, which learns {learned.of}")
        if type(self.seed) is not int or not 0 <= self.seed < 2**31:
            raise InputError(f"seed is {self.seed!r}; it must be a whole number from 0 to 2147483647")

    @property
    def block_shape(self) -> BlockShape | None:
        """Of the blocks that the pruned model may have."""
        learned = LEARNED.get(self.method)
        return self.blocks or (LEARNED_GRAIN if learned and "blocks" in learned.levels else None)

    def space(self, dims: Dims) -> Space:
        """What the search chooses from."""
        return Space(dims, self.tokens, self.blocks)

    def with_budget(self, budget: Budget) -> Settings:
        return replace(self, budget=budget)

    def to_json(self) -> dict[str, Any]:
        pairs = {name: list(value) if (value := getattr(self, name)) else None for name in ("text", "blocks")}
        return asdict(self) | pairs | {"slices": list(self.slices)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        values = strict_keys(cls, data)
        text, blocks = values.get("text"), values.get("blocks")
        return cls(
            **{
                **values,
                "budget": Budget.from_json(values["budget"]),
                "effort": Effort(**strict_keys(Effort, values["effort"])),
                "text": tuple(text) if text else None,
                "blocks": tuple(blocks) if blocks else None,
                "slices": tuple(values.get("slices", ())),
            }
        )
