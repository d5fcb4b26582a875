"""Plans fill the time that a run may take."""

from dataclasses import replace

import pytest

from prunetime.core.effort import EFFORTS, Effort, RunPlan
from prunetime.errors import InputError
from prunetime.pipeline.planning import (
    COMPARED,
    COMPARED_SHARE,
    LEAST_READ,
    LEAST_ROWS,
    MOST_EPOCHS,
    RunSpeed,
    RunWork,
    described,
    fixed_seconds,
    least_rows,
    plan_of,
)

MINILM = RunSpeed(train_seconds=1 / 90, score_seconds=0.0005)
HOME_DEPOT = RunWork(rows=46_000, classes=2, share=0.4, valid_rows=5_000, test_rows=7_000)


def seconds_of(plan: RunPlan, work: RunWork, speed: RunSpeed, *, tuned: int = 1) -> float:
    """The seconds that training and search of a plan take, by what each row of them computes: a forward pass is a
    third of a row, the search is cheaper for what it caches, masks cost half a row. Structures of the budget's size are
    `tuned`."""
    compared = 1 / 3 + 1 + 2 * (1 / 3 + work.share)
    masks = 2 * work.levels * (1 / 3 + 1.5)
    tune = plan.tune_rows * plan.tune_epochs * (tuned * (1 / 3 + work.share) + compared + masks)
    teacher = plan.teacher_rows * plan.teacher_epochs if work.trains_teacher else 0.0
    scored = plan.evaluations * plan.score_rows * 0.8 * (1 + work.share)
    return (teacher + tune) * speed.train_seconds + (0.0 if work.levels else scored * speed.score_seconds)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("levels", [0, 2])
def test_a_plan_fills_the_time(effort, share, levels):
    work = replace(HOME_DEPOT, share=share, levels=levels)
    plan = plan_of(EFFORTS[effort], work, MINILM)
    taken = fixed_seconds(EFFORTS[effort], work, MINILM) + seconds_of(plan, work, MINILM)
    assert 0.7 * EFFORTS[effort].seconds < taken < 1.1 * EFFORTS[effort].seconds


def test_there_is_time_to_tune_in_both_ways():
    """Without the rank-consistency loss, and everything with it, in batches that have more padding."""
    plain, both = (plan_of(EFFORTS["standard"], replace(HOME_DEPOT, orders_groups=of), MINILM) for of in (False, True))
    pruned = 1 / 3 + HOME_DEPOT.share
    compared = 1 / 3 + 1 + 2 * pruned
    longer = (pruned + 1.5 * (pruned + compared)) / (pruned + compared)
    rows = plain.tune_rows * plain.tune_epochs
    assert both.tune_rows * both.tune_epochs == pytest.approx(rows / longer, rel=0.01)
    assert replace(both, tune_rows=plain.tune_rows, tune_epochs=plain.tune_epochs) == plain


@pytest.mark.parametrize("effort", ["standard", "thorough"])
@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("trains", [True, False])
def test_the_runs_of_all_methods_have_the_time_together(effort, share, trains):
    learned = replace(HOME_DEPOT, share=share, levels=2, trains_teacher=trains, runs=3)
    plan = plan_of(EFFORTS[effort], learned, MINILM)
    searched, joined = (replace(learned, levels=levels, trains_teacher=False) for levels in (0, 1))
    taken = sum(seconds_of(plan, work, MINILM) for work in (learned, searched))
    taken += seconds_of(plan, joined, MINILM, tuned=2)
    taken += fixed_seconds(EFFORTS[effort], learned, MINILM)
    assert 0.7 * EFFORTS[effort].seconds < taken < 1.05 * EFFORTS[effort].seconds


def test_the_runs_of_all_methods_have_no_room_in_five_minutes():
    with pytest.raises(InputError, match=r"3 runs take [0-9]+ s besides training"):
        plan_of(EFFORTS["quick"], replace(HOME_DEPOT, levels=2, runs=3), MINILM)


def test_few_rows_are_read_again_and_again_but_not_forever():
    few = replace(HOME_DEPOT, rows=3_000)
    quick, thorough = (plan_of(EFFORTS[name], few, MINILM) for name in ("quick", "thorough"))
    assert quick.teacher_rows == thorough.teacher_rows == 3_000
    assert 1 < quick.teacher_epochs < 10
    assert thorough.teacher_epochs == MOST_EPOCHS


def test_a_teacher_that_is_ready_leaves_its_time_to_others():
    trained, ready = (
        plan_of(EFFORTS["quick"], replace(HOME_DEPOT, trains_teacher=trains), MINILM) for trains in (True, False)
    )
    assert ready.tune_rows > 1.5 * trained.tune_rows
    assert ready.evaluations * ready.score_rows > 1.5 * trained.evaluations * trained.score_rows


def test_where_the_dense_model_fits_its_training_has_most_of_the_time():
    plans = [plan_of(EFFORTS["quick"], replace(HOME_DEPOT, share=share), MINILM) for share in (0.99, 1.0)]
    assert plans[1].teacher_rows > 1.2 * plans[0].teacher_rows


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_models_beside_have_their_part_of_the_time(share):
    work = replace(HOME_DEPOT, share=share, beside=1.5)
    plan = plan_of(EFFORTS["standard"], work, MINILM)
    beside = plan.tune_rows * plan.tune_epochs * work.beside * MINILM.train_seconds
    taken = fixed_seconds(EFFORTS["standard"], work, MINILM) + seconds_of(plan, work, MINILM) + beside
    assert 0.7 * EFFORTS["standard"].seconds < taken < 1.1 * EFFORTS["standard"].seconds
    assert beside > 0.04 * EFFORTS["standard"].seconds


def test_learned_masks_have_the_time_of_the_search():
    searched, learned = (plan_of(EFFORTS["standard"], replace(HOME_DEPOT, levels=levels), MINILM) for levels in (0, 2))
    assert learned.teacher_rows == searched.teacher_rows
    assert "masks" in described(learned, replace(HOME_DEPOT, levels=2), MINILM)


@pytest.mark.parametrize("speed", [MINILM, RunSpeed(1.0, 0.1)])
@pytest.mark.parametrize("classes", [2, 150])
@pytest.mark.parametrize("runs", [1, 3])
def test_a_time_too_short_for_one_pass_says_what_is_needed(speed, classes, runs):
    work = replace(HOME_DEPOT, classes=classes, runs=runs)
    assert least_rows(work) == max(LEAST_ROWS, 20 * classes)
    with pytest.raises(InputError, match=r"give --effort [0-9]+m") as refused:
        plan_of(Effort(1.2), work, speed)
    needed = Effort.named(str(refused.value).rpartition(" ")[2])
    assert plan_of(needed, work, speed).teacher_rows >= least_rows(work)
    with pytest.raises(InputError):
        plan_of(Effort(needed.minutes - 1), work, speed)


def test_less_than_what_is_fixed_is_too_short_too():
    with pytest.raises(InputError, match="too short"):
        plan_of(Effort(0.5), replace(HOME_DEPOT, trains_teacher=False), MINILM)


def test_rows_that_are_read_have_their_part_of_the_time():
    few, many = (replace(HOME_DEPOT, test_rows=rows) for rows in (500, 100_000))
    for effort in (EFFORTS["quick"], EFFORTS["standard"]):
        assert isinstance(effort, Effort)
        plan, (short, long) = (
            plan_of(effort, few, MINILM),
            (fixed_seconds(effort, work, MINILM) for work in (few, many)),
        )
        reading = COMPARED * plan.compared_rows * MINILM.score_seconds
        assert reading == pytest.approx(COMPARED_SHARE * effort.seconds, rel=0.01)
        assert long - short > 99_500 * MINILM.score_seconds
        assert plan.finalist_rows * MINILM.score_seconds < 0.002 * effort.seconds
    slow = plan_of(EFFORTS["thorough"], few, replace(MINILM, score_seconds=0.2))
    assert slow.compared_rows == slow.finalist_rows == LEAST_READ
