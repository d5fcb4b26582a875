"""What follows a measurement is a function of it, of the prediction and of the attempts before."""

import pytest

from prunetime.core.estimate import Estimate
from prunetime.pipeline.next_action import Attempt, after_precheck, after_verify, correction
from prunetime.pipeline.verdict import Verdict

OVER = Attempt(1.2, "attempt: over the budget")
INSIDE = Attempt(0.8, None)


def verdict(measured: float, low: float, high: float, noisy: bool = False) -> Verdict:
    """Of a budget of 100 us."""
    return Verdict(high <= 100.0, noisy, Estimate(measured, low, high), 100.0, share=False)


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([], 1.0),
        ([INSIDE], 0.8),
        ([OVER], 1.2),
        ([INSIDE, OVER], 1.2),
        ([OVER, Attempt(1.1, "over")], 1.2),
        ([Attempt(0.95, "over, where the prediction was too high")], 1.0),
    ],
)
def test_the_target_is_corrected_by_the_worst_that_was_measured(attempts: list[Attempt], expected: float) -> None:
    assert correction(attempts) == expected


@pytest.mark.parametrize(
    ("attempts", "measured", "predicted", "action", "over"),
    [
        ([], (96.0, 95.0, 97.0), 0.97, "tune", 1.0),
        ([], (80.0, 79.0, 82.0), 0.97, "loosen", 0.82 / 0.97),  # by the upper end of the interval
        ([OVER], (80.0, 79.0, 82.0), 0.97, "tune", 1.0),  # only at the first attempt
        ([INSIDE], (80.0, 79.0, 82.0), 0.97, "tune", 1.0),
        ([], (99.0, 98.0, 101.0), 0.97, "tighten", 0.99 / 0.97),  # a minute now saves many
        ([OVER], (99.0, 98.0, 101.0), 0.97, "tighten", 0.99 / 0.97),
        ([OVER, OVER], (99.0, 98.0, 101.0), 0.97, "tune", 1.0),  # the last attempt takes what may fit
        ([OVER, OVER], (110.0, 108.0, 112.0), 0.97, "give up", 1.10 / 0.97),
        ([INSIDE, OVER], (110.0, 108.0, 112.0), 0.97, "tighten", 1.10 / 0.97),  # loosening was no attempt
    ],
)
def test_after_the_precheck(
    attempts: list[Attempt], measured: tuple[float, float, float], predicted: float, action: str, over: float
) -> None:
    found = after_precheck(attempts, verdict(*measured), predicted)
    assert found == (action, pytest.approx(over))


@pytest.mark.parametrize(
    ("attempts", "found", "action", "over"),
    [
        ([], verdict(98.0, 97.0, 99.0), "finish", 1.0),
        ([], verdict(99.5, 98.0, 101.0), "tighten", 1.01 / 0.97),  # by the upper end, which is over
        ([], verdict(99.5, 90.0, 110.0, noisy=True), "wait", 1.1 / 0.97),
        ([OVER, OVER], verdict(99.5, 98.0, 101.0), "give up", 1.01 / 0.97),
        ([OVER, OVER], verdict(99.5, 90.0, 110.0, noisy=True), "wait", 1.1 / 0.97),
    ],
)
def test_after_verifying(attempts: list[Attempt], found: Verdict, action: str, over: float) -> None:
    assert after_verify(attempts, found, 0.97) == (action, pytest.approx(over))
