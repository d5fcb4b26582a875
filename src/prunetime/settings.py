"""The settings of a run: the one declaration that options, `run.json`, the report's command and the docs come from."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from prunetime.core.arch import BLOCK_SHAPES, BlockShape, Dims
from prunetime.core.budget import Budget
from prunetime.core.effort import EFFORTS, Effort, RunPlan, effort_from_json
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
    label: str | None = option(
        "Label column, guessed where there is no doubt; or a column of 0 and 1 for each of several labels: a,b,c.",
        "data",
        None,
    )
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
    metric: str | None = option(
        "auc, pr_auc, accuracy, f1, f1_micro, f1_macro, mcc, spearman, ndcg@10, mrr, exact, ...", "data", None
    )
    slices: tuple[str, ...] = option(
        "Also report on a part of the test data: unseen:COLUMN or COLUMN=VALUE. Can be given several times.",
        "data",
        (),
        flag="slice",
    )
    teacher_ready: bool = option("The model is fine-tuned on the task already.", "data", False)
    beside: tuple[str, ...] = option(
        "Another pretrained model, a folder or a hub id, that is tuned alike and measured beside the pruned one; the "
        "answer, where it is better. Can be given several times.",
        "data",
        (),
    )
    seed: int = option("Seed of every random choice.", "effort", 0, least=0, most=2**31 - 1)
    effort: Effort | RunPlan = option(
        "The time that the run may take here: quick (5 minutes), standard (30), thorough (240), or 45m, 2h; or the "
        "run-plan.json of a run, which is then followed.",
        "effort",
        EFFORTS["standard"],
        parse=Effort.named,
    )
    precision: Precision | Literal["auto"] = option(
        "Precision of the pruned model. auto: the fastest for each matrix that loses at most --max-loss; where the "
        "dense model so comes inside the budget, nothing is pruned.",
        "structure",
        AUTO,
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
        if not isinstance(self.effort, Effort | RunPlan):
            raise InputError(
                f"effort is {self.effort!r}; it must be one of {', '.join(EFFORTS)} as `Effort.named` gives it, a time "
                "(`Effort(45)`) or a `RunPlan`"
            )
        twice = [model for model in self.beside if self.beside.count(model) > 1]
        if twice:
            raise InputError(f"--beside {twice[0]} is given {self.beside.count(twice[0])} times: give it once")
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

    def as_begun(self, record: Mapping[str, Any]) -> Settings:
        """Returns the settings that a run was begun with, where these are of the same command.

        Names and defaults may have had another meaning then: an effort was amounts, and the precision fp32.

        Args:
            record: The `run.json` of the run.
        """
        begun, before = Settings.from_json(record["settings"]), record.get("defaults", {"precision": "fp32"})
        changes: dict[str, Any] = {}
        if self.precision == AUTO != before["precision"]:
            changes["precision"] = before["precision"]
        if isinstance(begun.effort, RunPlan) and str(self.effort) == begun.effort.name:
            changes["effort"] = begun.effort
        return replace(self, **changes)

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
        """Returns what `run.json` has; `timing` and `beside` only where they are not the usual, as runs of before are
        without."""
        parts = {"budget": self.budget.to_json(), "effort": self.effort.to_json()}
        written: dict[str, Any] = json.loads(json.dumps(asdict(self) | parts))
        for name, usual in (("timing", TimingSettings()), ("beside", ())):
            if getattr(self, name) == usual:
                del written[name]
        return written

    def of_models(self) -> dict[str, Any]:
        """The settings that the models of a run depend on, as JSON: all but how long latencies are measured, and what
        stands beside them."""
        return {name: value for name, value in self.to_json().items() if name not in ("timing", "beside")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """Returns the settings that `to_json` wrote, in this version or an earlier one.

        Args:
            data: What it wrote.

        Raises:
            InputError: a field is unknown, missing, or has a value that it cannot have.
        """
        values = strict_keys(cls, data)
        tuples = {name: tuple(values[name]) for name in ("text", "blocks", "slices", "beside") if values.get(name)}
        parts = {
            "budget": Budget.from_json(values["budget"]),
            "effort": effort_from_json(values["effort"]),
            "timing": TimingSettings.from_json(values.get("timing", {})),
            "slices": (),
        }
        return cls(**{**values, **parts, **tuples})
