"""The settings of a run: the one declaration that options, `run.json`, the report's command and the docs come from."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from prunetime.core.arch import BLOCK_SHAPES, BlockShape, Dims
from prunetime.core.budget import Budget
from prunetime.core.options import arguments, check, made, option
from prunetime.core.precision import Precision
from prunetime.core.record import strict_keys
from prunetime.core.task_kind import TaskKind
from prunetime.errors import InputError
from prunetime.latency.settings import TimingSettings
from prunetime.pruning.methods import LEARNED, Criterion, PruningMethod
from prunetime.search.space import Space
from prunetime.tasks.table import join_columns, split_columns

AUTO: Final = "auto"

LEARNED_GRAIN: BlockShape = (32, 32)
"""The shape of the blocks that are learned, where none is asked for."""


@dataclass(frozen=True)
class Effort:
    """An amount of training and search. Rows are upper limits; learning rates are for a batch of 32 rows.

    Attributes:
        name: The name that `named` finds it by.
        teacher_rows: The rows that the dense model is fine-tuned on.
        teacher_epochs: The epochs of that.
        tune_rows: The rows that the pruned model is fine-tuned on, and that masks are learned on.
        tune_epochs: The epochs of that; each level of masks is learned for twice as many.
        learning_rate: The peak learning rate of the dense model.
        tune_learning_rate: The peak learning rate of the pruned model, and of weights under masks.
        elastic_learning_rate: The peak learning rate of the elastic training.
        importance_rows: The rows that heads and FFN neurons are ordered on.
        elastic_rows: The rows of the elastic training, which fits the weights to many structures.
        elastic_epochs: The epochs of that.
        evaluations: The structures that the search scores.
        score_rows: The rows that each of them is scored on.
        finalists: The best structures of the search, which are scored again.
        finalist_rows: The rows that the best of them is chosen on.
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

    @classmethod
    def named(cls, name: str) -> Effort:
        """Returns the effort of a name.

        Args:
            name: `quick`, `standard` or `thorough`.

        Raises:
            InputError: no effort has this name.
        """
        if name not in EFFORTS:
            raise InputError(f"effort is {name!r}; it must be one of {', '.join(EFFORTS)}")
        return EFFORTS[name]


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
    """Settings of one run of `prunetime.prune`; `prunetime prune --help` explains every field.

    Attributes:
        timing: How long latencies are measured.

    Raises:
        InputError: a value is none of those that its field can have, or two do not go together.

    Example:
        >>> Settings("./my-bert", "train.tsv", Budget.ms(1.9, seq_len=48), text=("query", "title"), group="query")
    """

    model: str = option("Folder of a Hugging Face model, or a hub id.", "data")
    data: str = option(
        "TSV, CSV, JSONL, Parquet or SQuAD JSON file, hub id, glue:NAME, squad:v1 or synthetic:NAME.", "data"
    )
    budget: Budget = option(
        "The budget: 1.9ms, 1900us, or a share of the dense model such as 40%.",
        "budget",
        flag="latency",
        parse=Budget.parse,
        write=lambda budget: budget.amount,
    )
    valid: str | None = option("Data to choose on; by default a part of --data.", "data", None)
    test: str | None = option(
        "Data that is read once, at the end; by default a part of --data or --valid.", "data", None
    )
    text: tuple[str, ...] | None = option(
        "Text column, or two separated by a comma; guessed where there is no doubt.",
        "data",
        None,
        parse=split_columns,
        write=join_columns,
    )
    label: str | None = option("Label column; guessed where there is no doubt.", "data", None)
    group: str | None = option("Column whose equal values stay together when data is split.", "data", None)
    task: TaskKind | None = option(
        "Kind of task; by default what the labels say. similarity: pairs whose texts are embedded apart.", "data", None
    )
    doc_stride: int | None = option(
        "Tokens that windows of a long context share, for question answering; by default 128, or half of --seq-len.",
        "data",
        None,
        least=0,
    )
    metric: str | None = option("auc, pr_auc, accuracy, f1, mcc, spearman, ndcg@10, mrr, exact, ...", "data", None)
    slices: tuple[str, ...] = option(
        "Also report on a part of the test data: unseen:COLUMN or COLUMN=VALUE. Can be given several times.",
        "data",
        (),
        flag="slice",
    )
    teacher_ready: bool = option("The model is fine-tuned on the task already.", "data", False)
    seed: int = option("Seed of every random choice.", "effort", 0, least=0, most=2**31 - 1)
    effort: Effort = option(
        "How much to train and search.",
        "effort",
        EFFORTS["standard"],
        choices=EFFORTS,
        write=lambda effort: effort.name,
    )
    precision: Precision | Literal["auto"] = option(
        "Precision of dense and pruned model. auto: the fastest for each matrix that loses at most --max-loss.",
        "structure",
        "fp32",
    )
    max_loss: float = option(
        "The most of the metric on valid data that --precision auto may lose.", "structure", 0.002, least=0.0, most=1.0
    )
    importance: Criterion = option(
        "What heads and FFN neurons are ordered by; learned masks begin with it (movement: with nothing).",
        "structure",
        "fisher",
    )
    tokens: bool = option(
        "Let the search drop tokens after a layer, too; such a model has no ONNX export.", "structure", False
    )
    blocks: BlockShape | None = option(
        "Keep only blocks of this shape in matrices, too: the largest (search), or learned ones (32x32 by default).",
        "structure",
        None,
        choices={f"{rows}x{columns}": (rows, columns) for rows, columns in BLOCK_SHAPES},
        write=lambda block_shape: "x".join(map(str, block_shape)),
    )
    method: PruningMethod = option(
        "How the structure is found. search: evolutionary search. multilevel: learned masks of heads and FFN neurons, "
        "then of blocks. group-lasso: of blocks. polarisation: of heads and FFN neurons. identity-priors: of whole "
        "sub-layers. auto: search and multilevel, each and joined; the best is kept.",
        "structure",
        "search",
    )
    timing: TimingSettings = TimingSettings()

    def __post_init__(self) -> None:
        check(self)
        learned = LEARNED.get(self.method)
        if self.importance == "movement" and not learned:
            raise InputError("--importance movement orders nothing before masks are learned: use --method multilevel")
        if learned and self.tokens:
            raise InputError(f"--tokens is of the search: --method {self.method} learns {learned.of}")
        if learned and self.blocks and "blocks" not in learned.levels:
            raise InputError(f"--blocks is of no use to --method {self.method}, which learns {learned.of}")

    @property
    def block_shape(self) -> BlockShape | None:
        """The shape of the blocks that the pruned model may have."""
        learned = LEARNED.get(self.method)
        return self.blocks or (LEARNED_GRAIN if learned and "blocks" in learned.levels else None)

    def space(self, dims: Dims) -> Space:
        """The space that the search chooses from."""
        return Space(dims, self.tokens, self.blocks)

    def with_budget(self, budget: Budget) -> Settings:
        return replace(self, budget=budget)

    def command(self, out: str) -> str:
        """Returns the `prunetime prune` command of a run with these settings.

        Args:
            out: The run folder.
        """
        return shlex.join(["prunetime", "prune", *arguments(self), "--out", out])

    @classmethod
    def of_options(cls, values: Mapping[str, Any]) -> Settings:
        """Returns settings from parsed options, by field; raises InputError where they do not go together."""
        settings: Settings = made(cls, values)
        return settings

    def to_json(self) -> dict[str, Any]:
        """Returns what `run.json` has; `timing` only where it is not the usual, as runs of 0.1 are without."""
        written: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.timing == TimingSettings():
            del written["timing"]
        return written

    def of_models(self) -> dict[str, Any]:
        """The settings that models depend on, as JSON: all but how long latencies are measured."""
        return {name: value for name, value in self.to_json().items() if name != "timing"}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """Returns the settings that `to_json` wrote, in this version or an earlier one.

        Args:
            data: What it wrote.

        Raises:
            InputError: a field is unknown, missing, or has a value that it cannot have.
        """
        values = strict_keys(cls, data)
        tuples = {name: tuple(values[name]) for name in ("text", "blocks", "slices") if values.get(name)}
        parts = {
            "budget": Budget.from_json(values["budget"]),
            "effort": Effort(**strict_keys(Effort, values["effort"])),
            "timing": TimingSettings.from_json(values.get("timing", {})),
            "slices": (),
        }
        return cls(**{**values, **parts, **tuples})
