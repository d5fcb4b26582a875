"""What the intervals of experiments promise, on simulated users: how often identical arms are told apart, and how many
keys it takes to find a true difference of 0.02, beside a test of fixed size.

python bench/experiments.py --json      into bench/results/experiments.json; goes on where it was stopped

Every experiment is looked at after every 20 keys. `planned` are those with that difference as the one to `detect`,
`open` those without a plan. False stops are counted up to the end of the plan, and without one up to twice as many
keys. To find a difference with a power of 80 % (90 %), an experiment takes `most_keys`, by when so many have stopped,
and `mean_keys` until it stops or is given up then; both also as multiples of the keys of a test of fixed size with that
power (two-sided at 5 %, of the same statistic, its variance known).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from provenance import provenance
from search import RESULTS

from prunetime.core.artifact import write_json
from prunetime.serve.experiments.sequential import Difference, KeySums, difference, planned_information

EXPERIMENTS, LOOK_AFTER, ALPHA, DIFFERENCE, RATE = 2_000, 20, 0.05, 0.02, 0.2
FEW_KEYS = 400
KEYS_AT_ONCE = 2_000_000
"""Of all experiments that are simulated at once, so that they fit into memory."""

Numbers = NDArray[np.float64]
Users = Callable[[np.random.Generator, Numbers], tuple[Numbers, Numbers]]
"""From the mean rate of each key's arm, the outcomes and defects of keys."""


def beta(concentration: float, outcomes: int) -> Users:
    """Keys of so many outcomes each, whose rates are Beta with a + b = `concentration`, or all the same (0)."""

    def users(rng: np.random.Generator, mean: Numbers) -> tuple[Numbers, Numbers]:
        rates = rng.beta(concentration * mean, concentration * (1.0 - mean)) if concentration else mean
        return np.full(mean.shape, float(outcomes)), rng.binomial(outcomes, rates).astype(np.float64)

    return users


def active(rng: np.random.Generator, mean: Numbers) -> tuple[Numbers, Numbers]:
    """Keys with 1 to some 20 outcomes, and the more the worse their rates are."""
    rates = rng.beta(2.0 * mean, 2.0 * (1.0 - mean))
    outcomes = 1 + rng.poisson(3.0 + 10.0 * rates)
    return outcomes.astype(np.float64), rng.binomial(outcomes, rates).astype(np.float64)


KINDS: dict[str, Users] = {
    "alike, 10 outcomes": beta(0.0, 10),
    "Beta, a + b = 2, 10 outcomes": beta(2.0, 10),
    "Beta, a + b = 2, 30 outcomes": beta(2.0, 30),
    "Beta, a + b = 0.5, 10 outcomes": beta(0.5, 10),
    "Beta, a + b = 2, more outcomes where the rate is higher": active,
}


def summed(outcomes: Numbers, defects: Numbers, arm: NDArray[np.bool_]) -> KeySums:
    """The sums over the keys of an arm, [experiments, looks], of keys [experiments, keys] that come in that order."""
    each = ((outcomes > 0).astype(np.float64), outcomes, defects, outcomes**2, outcomes * defects, defects**2)
    looks = (len(outcomes), -1, LOOK_AFTER)
    return KeySums(*((part * arm).reshape(looks).sum(2).cumsum(1) for part in each))


def looked_at(users: Users, keys: int, effect: float, detect: float | None, share: float = 0.5) -> Iterator[Difference]:
    """The differences at all looks, [experiments, looks], of some of the experiments at a time."""
    rng, left = np.random.default_rng(0), EXPERIMENTS
    while left > 0:
        count = min(left, max(1, KEYS_AT_ONCE // keys))
        treated = rng.random((count, keys)) < share
        outcomes, defects = users(rng, RATE + effect * treated)
        yield difference(*(summed(outcomes, defects, arm) for arm in (~treated, treated)), ALPHA, detect)
        left -= count


def key_variance(users: Users, mean: float) -> float:
    """The variance over keys of (defects - rate * outcomes) / mean outcomes, of a million keys."""
    outcomes, defects = users(np.random.default_rng(1), np.full(1_000_000, mean))
    return float(np.var(defects - defects.sum() / outcomes.sum() * outcomes) / outcomes.mean() ** 2)


def true_difference(users: Users) -> float:
    """By how much the rates of the arms, as ratios of sums, really differ."""
    rates = []
    for mean in (RATE, RATE + DIFFERENCE):
        outcomes, defects = users(np.random.default_rng(2), np.full(4_000_000, mean))
        rates.append(defects.sum() / outcomes.sum())
    return float(rates[1] - rates[0])


def stops_of(users: Users, keys: int, effect: float, detect: float | None, share: float = 0.5) -> Numbers:
    """The keys at the first look that finds a difference, of each experiment; infinite where there is none."""
    found = []
    for each in looked_at(users, keys, effect, detect, share):
        hit = np.abs(each.value) > each.half_width
        found.append(np.where(hit.any(axis=1), LOOK_AFTER * (1.0 + hit.argmax(axis=1)), np.inf))
    return np.concatenate(found)


def share_of_false_stops(users: Users, keys: int, detect: float | None, share: float = 0.5) -> float:
    return float(np.mean(stops_of(users, keys, 0.0, detect, share) < np.inf))


def late_false_stops(rounds: int = 40, keys: int = 400) -> float:
    """Of experiments whose keys, of a + b = 2, are all there from the start; each look has an outcome more of each."""
    rng, stopped = np.random.default_rng(0), 0
    at_once = 200
    for _ in range(EXPERIMENTS // at_once):
        treated, rates = rng.random((at_once, keys)) < 0.5, rng.beta(2 * RATE, 2 * (1 - RATE), (at_once, keys))
        defects, hit = np.zeros((at_once, keys)), np.zeros(at_once, bool)
        for look in range(1, rounds + 1):
            defects += rng.random((at_once, keys)) < rates
            arms = [KeySums.of(*_of_arm(look, defects, arm)) for arm in (~treated, treated)]
            found = difference(arms[0], arms[1], ALPHA, 4.0 * DIFFERENCE)
            hit |= np.abs(found.value) > found.half_width
        stopped += int(hit.sum())
    return stopped / EXPERIMENTS


def _of_arm(look: int, defects: Numbers, arm: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    return float(look) * arm, defects * arm


def fixed_size(variances: float, effect: float, power: float) -> float:
    """Keys, of both arms, of a test of fixed size that finds the difference with so much power."""
    quantile = NormalDist().inv_cdf
    return 2.0 * variances * ((quantile(1.0 - ALPHA / 2.0) + quantile(power)) / effect) ** 2


def row(users: Users) -> dict[str, Any]:
    effect = true_difference(users)
    variances = [key_variance(users, RATE), key_variance(users, RATE + DIFFERENCE)]
    planned = planned_information(ALPHA, effect)
    equal_keys = _whole(2.0 * 2.0 * variances[0] * planned)
    false = {
        "planned": share_of_false_stops(users, equal_keys, effect),
        "open": share_of_false_stops(users, 2 * equal_keys, None),
        f"open, {FEW_KEYS} keys": share_of_false_stops(users, FEW_KEYS, None),
        "planned, 1 key of 10 treated": share_of_false_stops(users, _whole(equal_keys / 0.36), effect, 0.1),
    }
    plan_keys = _whole(2.0 * sum(variances) * planned)
    found: dict[str, Any] = {}
    for name, detect in (("planned", effect), ("open", None)):
        stopped = stops_of(users, 3 * plan_keys, DIFFERENCE, detect)
        found[name] = {
            f"{power:.0%} power": beside_fixed_size(stopped, fixed_size(sum(variances), effect, power), power)
            for power in (0.8, 0.9)
        }
    return {"plan_keys": plan_keys, "difference": effect, "false_stops": false, "keys_to_find_it": found}


def beside_fixed_size(stopped: Numbers, fixed: float, power: float) -> dict[str, float]:
    """What it takes to find a difference with so much power, from the keys at which experiments stop."""
    most = float(np.quantile(stopped, power, method="higher"))
    mean = float(np.minimum(stopped, most).mean())
    return {
        "most_keys": most,
        "mean_keys": mean,
        "fixed_size_keys": fixed,
        "most_to_fixed": most / fixed,
        "mean_to_fixed": mean / fixed,
    }


def _whole(keys: float) -> int:
    """A number of keys after which there is a look."""
    return LOOK_AFTER * int(np.ceil(keys / LOOK_AFTER))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help=f"write {RESULTS.name}/experiments.json and print it")
    options = parser.parse_args()
    file, result = RESULTS / "experiments.json", {**provenance(), "experiments": EXPERIMENTS, "users": {}}
    if options.json and file.exists() and (before := json.loads(file.read_text()))["commit"] == result["commit"]:
        result = before
    for name, users in KINDS.items():
        if name not in result["users"]:
            result["users"][name] = row(users)
            if options.json:
                write_json(file, result)
        if not options.json:
            print(name, json.dumps(result["users"][name], indent=1), flush=True)
    if "late_false_stops" not in result:
        result["late_false_stops"] = late_false_stops()
    if options.json:
        write_json(file, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
