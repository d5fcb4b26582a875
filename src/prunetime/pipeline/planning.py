"""Plans the amounts of a run, so that all of it is done in the time that it may take on this machine.

Times are in seconds, and in units of a row of fine-tuning: a forward pass of the dense model, and a backward pass that
takes twice as long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from prunetime.core.effort import Effort, RunPlan
from prunetime.errors import InputError

FIXED_SECONDS: Final = 130.0
"""A run takes these whatever its plan: it reads sources, profiles the machine, times structures and models, and has
other libraries quantise the model (the demo, two cores)."""

FIXED_SECONDS_OF_LATER: Final = 60.0
"""A later run of `--method auto` takes these: it has the profile already."""

PASSES: Final = 80.0
VERIFIED: Final = 4.0
COMPARED: Final = 16.0
"""So many passes of the dense model, in the precision of the plan, take as long as all that trainings, precisions and
finalists are judged on valid rows; as the verification takes for the test rows; and as the comparison does, most of
whose models are slower: in fp32, or of other libraries."""

PASS_SHARE: Final = 0.001
"""The share of the time that one of these passes over valid rows takes."""

COMPARED_SHARE: Final = 0.08
"""The most of the time that the comparison reads test rows for."""

LEAST_READ: Final = 500
"""No fewer rows are read for either, where there are more."""

FORWARD: Final = 1 / 3
"""The share of a row of fine-tuning that its forward pass takes."""

SHARES: Final = {"teacher": 0.60, "search": 0.14, "tune": 0.26}
"""The shares of the time for each part of a run that searches; tuning is that of the alternatives, too."""

SHARES_WHERE_DENSE_FITS: Final = {"teacher": 0.76, "search": 0.08, "tune": 0.16}
"""The same where the dense model is predicted to be inside the budget: most likely nothing but it has to be trained."""

AGAIN: Final = 0.83
"""A later run, which follows the plan and has the teacher already, trains for at most this share of what the first one
takes without its teacher: masks are learned, then a structure is searched, then blocks are learned on it (`--method
auto`)."""

GROUPED: Final = 1.5
"""A row takes so many times as long in batches that keep groups together, for they have more padding (WikiQA, in
`bench/results/ranking.json`)."""

LOOKS: Final = 8
"""Looks at valid rows in a training that takes all of its time."""

LEAST_ROWS: Final = 2_000
"""A teacher is fine-tuned on so many rows at least, or on all there are."""

LEAST_ROWS_OF_A_CLASS: Final = 20

TEACHER_BATCH: Final = 16
LEARNING_RATE: Final = 7e-5
"""In sum the best for MiniLM-L6, whose head was fitted first, of rates of 5e-5 to 4e-4 and batches of 8 to 32
(`bench/results/teacher.jsonl`)."""

WIDTH: Final = 384
"""The hidden size that it is for."""

MOST_EPOCHS: Final = 60.0
"""Far more than any training takes that valid rows end."""


@dataclass(frozen=True)
class RunSpeed:
    """The speed of this machine with the model and the data of a run.

    Attributes:
        train_seconds: Of fine-tuning the dense model on one row.
        score_seconds: Of running it in the engine on one row, in the precision of the plan.
    """

    train_seconds: float
    score_seconds: float


@dataclass(frozen=True)
class RunWork:
    """What is to be done in a run.

    Attributes:
        rows: The rows of the train role.
        classes: The labels that the task chooses from.
        share: The budget as a share of the latency of the dense model, in the precision that the run plans for.
        trains_teacher: Whether the dense model is fine-tuned first.
        levels: The levels of masks that are learned; 0 where the structure is searched.
        hidden: The hidden size of the dense model.
        runs: The runs that have the time together, one after the other, and follow one plan.
        beside: The weights of the other models that are tuned alike, as a share of the dense model's.
        valid_rows: The rows of the valid role.
        test_rows: The rows of the test role.
        orders_groups: Whether the pruned model is tuned with the rank-consistency loss, too.
    """

    rows: int
    classes: int
    share: float
    trains_teacher: bool = True
    levels: int = 0
    hidden: int = WIDTH
    runs: int = 1
    beside: float = 0.0
    valid_rows: int = 0
    test_rows: int = 0
    orders_groups: bool = False


def plan_of(effort: Effort, work: RunWork, speed: RunSpeed) -> RunPlan:
    """Returns the amounts of a run that takes as long as it may.

    Args:
        effort: The time.
        work: What is to be done.
        speed: How fast that is here.

    Raises:
        InputError: the time is too short for one pass over the rows that a teacher needs at least.
    """
    trainings, shares = _trainings(work), _shares(work)
    fixed, one_pass = fixed_seconds(effort, work, speed), least_rows(work) * speed.train_seconds
    needed = trainings * one_pass / max(shares["teacher"], shares["tune"])
    if effort.seconds < fixed + needed:
        enough = effort
        while enough.seconds < (least := fixed_seconds(enough, work, speed) + needed):
            enough = Effort(math.ceil(least / 60))
        what = "a run takes" if work.runs == 1 else f"{work.runs} runs take"
        raise InputError(
            f"--effort {effort} is too short: {what} {fixed:.0f} s besides training, and one pass over "
            f"{least_rows(work):,} rows takes {one_pass:.0f} s here; give --effort {enough.minutes}m"
        )
    seconds, of_row = (effort.seconds - fixed) / trainings, _seconds_of_row(work, speed)
    rows_of = {part: share * seconds / of_row[part] for part, share in shares.items()}
    teacher_rows, teacher_epochs = _rows_and_epochs(rows_of["teacher"], work)
    tune_rows, tune_epochs = _rows_and_epochs(rows_of["tune"], work)
    scored = rows_of["search"]
    scale = scored / 40_000  # of the search that 80 evaluations on 500 rows are
    score_rows = round(min(max(500 * scale**0.35, 200), 2_000, work.rows))
    evaluations = round(min(max(scored / score_rows, 30), 1_000))
    return RunPlan(
        name=str(effort),
        teacher_rows=teacher_rows,
        teacher_epochs=teacher_epochs,
        tune_rows=tune_rows,
        tune_epochs=tune_epochs,
        learning_rate=rate_of_width(work.hidden),
        tune_learning_rate=1e-4,
        elastic_learning_rate=5e-5,
        elastic_rows=0,
        elastic_epochs=1.0,
        importance_rows=round(min(max(512 * scale**0.35, 256), 2_048)),
        evaluations=evaluations,
        score_rows=score_rows,
        finalists=round(min(max(evaluations / 10, 8), 32)),
        finalist_rows=_finalist_rows(effort, speed),
        looks=LOOKS,
        compares=True,
        teacher_batch=TEACHER_BATCH,
        compared_rows=_compared_rows(effort, speed),
    )


def rate_of_width(hidden: int, rate: float = LEARNING_RATE) -> float:
    """Returns the peak learning rate of a pretrained encoder of this hidden size: `rate`, that of `WIDTH`, and lower in
    proportion for one that is wider (Yang et al., arXiv 2203.03466)."""
    return rate * min(1.0, WIDTH / hidden)


def least_rows(work: RunWork) -> int:
    """Returns the rows that a teacher is fine-tuned on at least."""
    return min(work.rows, max(LEAST_ROWS, LEAST_ROWS_OF_A_CLASS * work.classes))


def fixed_seconds(effort: Effort, work: RunWork, speed: RunSpeed) -> float:
    """Returns the seconds that runs take besides training and search, which grow with the rows that models are read
    on."""
    valid_rows, compared_rows = _finalist_rows(effort, speed), min(_compared_rows(effort, speed), work.test_rows)
    passes = PASSES * min(valid_rows, work.valid_rows) + VERIFIED * work.test_rows + COMPARED * compared_rows
    reading = passes * speed.score_seconds
    return FIXED_SECONDS + reading + (work.runs - 1) * (FIXED_SECONDS_OF_LATER + reading)


def _finalist_rows(effort: Effort, speed: RunSpeed) -> int:
    return round(min(max(PASS_SHARE * effort.seconds / speed.score_seconds, LEAST_READ), 10_000))


def _compared_rows(effort: Effort, speed: RunSpeed) -> int:
    return round(max(COMPARED_SHARE * effort.seconds / (COMPARED * speed.score_seconds), LEAST_READ))


def _trainings(work: RunWork) -> float:
    """The time in which all runs train, as a multiple of that of the first, which alone fine-tunes a teacher."""
    return 1.0 + (work.runs - 1) * AGAIN * (1.0 - _shares(work)["teacher"])


def _shares(work: RunWork) -> dict[str, float]:
    """The shares of the time for each part of the run."""
    shares = dict(SHARES_WHERE_DENSE_FITS if work.share >= 1.0 and not work.beside else SHARES)
    if not work.trains_teacher:
        shares["teacher"] = 0.0
    parts = {part: share / sum(shares.values()) for part, share in shares.items()}
    if work.levels:  # the amounts of a search are for the runs that --method auto does next
        parts["tune"] += parts["search"]
    return parts


def _seconds_of_row(work: RunWork, speed: RunSpeed) -> dict[str, float]:
    """The seconds that one row takes in each part of the run."""
    train = speed.train_seconds
    return {
        "teacher": train,
        "search": 0.8 * (1 + work.share) * speed.score_seconds,  # half of it is cached, and every structure repaired
        "tune": _tune_units(work) * train,
    }


def _tune_units(work: RunWork) -> float:
    """A row of tuning, of the pruned model and of what it is compared with: the dense model, two others of its size,
    and the models beside them; and of learning masks, at each level twice as often as of tuning."""
    pruned = FORWARD + work.share
    compared = FORWARD + 1 + 2 * pruned + work.beside
    tuned = pruned + compared
    if work.orders_groups:  # once without that loss, and everything with it, if it helps
        tuned = pruned + GROUPED * tuned
    return 2 * work.levels * (FORWARD + 1.5) + tuned


def _rows_and_epochs(total: float, work: RunWork) -> tuple[int, float]:
    """A training on so many rows in all, as rows and epochs."""
    if total <= work.rows:
        return max(32, round(total)), 1.0
    return work.rows, min(round(total / work.rows, 2), MOST_EPOCHS)


def described(plan: RunPlan, work: RunWork, speed: RunSpeed) -> str:
    """Returns the plan in words, with the time that each part may take."""
    of_row = _seconds_of_row(work, speed)
    teacher, tune = (
        plan.teacher_rows * plan.teacher_epochs * of_row["teacher"],
        plan.tune_rows * plan.tune_epochs * of_row["tune"],
    )
    search = plan.evaluations * plan.score_rows * of_row["search"]
    parts = []
    if work.trains_teacher:
        parts.append(f"teacher {_times(plan.teacher_rows, plan.teacher_epochs)} in {_minutes(teacher)}")
    if work.levels:
        parts.append(f"masks {_times(plan.tune_rows, 2 * plan.tune_epochs)} at each level")
    else:
        parts.append(f"search {plan.evaluations} structures on {plan.score_rows:,} rows in {_minutes(search)}")
    parts.append(
        f"tuning, with what it is compared with, {_times(plan.tune_rows, plan.tune_epochs)} in {_minutes(tune)}"
    )
    return "; ".join(parts)


def _times(rows: int, epochs: float) -> str:
    return f"{rows:,} rows" if epochs == 1 else f"{rows:,} rows x {epochs:g}"


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
