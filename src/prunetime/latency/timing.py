"""Latency of whole models as a budget defines it: every scope and condition, in interleaved rounds.

`python -m prunetime.latency.timing` does it in a fresh process for a `Job` on standard input: it prints a line
`round DONE OF` per round, and last the result as one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from typing import Any, Protocol

from prunetime.core import artifact
from prunetime.core.arch import ArchSpec
from prunetime.core.budget import Budget
from prunetime.core.config import EncoderConfig
from prunetime.core.precision import PrecisionPlan
from prunetime.errors import DefectError, PrunetimeError
from prunetime.inference.engine import Engine
from prunetime.inference.model import Model, load
from prunetime.inference.ragged import Ragged
from prunetime.inference.tokenize import Texts, Tokenizer
from prunetime.latency.measure import Samples, TimedCall, one_round, pinned, run_rounds
from prunetime.latency.settings import IDLE_US
from prunetime.latency.synthetic import random_batch, random_weights

TimingSetting = tuple[str, str]
"""Scope and condition, as in `Budget`."""

SETTINGS: tuple[TimingSetting, ...] = tuple(product(("ids", "text"), ("hot", "idle")))

SamplesBySetting = dict[TimingSetting, dict[str, Samples]]

_WORDS = "a light blue cotton shirt for men with long sleeves and two small pockets in size large by the old mill"


@dataclass(frozen=True)
class Job:
    """A timing job: artifact folders by name, in `rounds` rounds across `seconds`, in `settings`, of which the one of
    `budget` gets the most calls.

    `plans` are, as JSON, the precisions of artifacts that are to run in others than their own. `files` are those by
    which other libraries run an artifact, instead of the engine (`baselines.timing`).
    """

    artifacts: Mapping[str, str]
    budget: Budget
    rounds: int
    calls: int
    seconds: float
    plans: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    settings: Sequence[TimingSetting] = SETTINGS

    def engine(self, name: str, model: Model) -> Engine:
        """The engine of an artifact, as it is to be timed."""
        if name not in self.plans:
            return model.engine
        plan = PrecisionPlan.from_json(self.plans[name])
        return Engine.of(artifact.read(self.artifacts[name]), self.budget.threads, plan)


def time_artifacts(
    job: Job, on_round: Callable[[int, int], None] | None = None, module: str = "prunetime.latency.timing"
) -> SamplesBySetting:
    """Runs `job` in a fresh process, which runs `module`, and returns its samples.

    Raises PrunetimeError where that process is killed, and DefectError where it fails.
    """
    command = [sys.executable, "-m", module]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        json.dump(asdict(job), process.stdin)
        process.stdin.close()
        last = ""
        for line in process.stdout:
            if line.startswith("round ") and on_round:
                on_round(*(int(word) for word in line.split()[1:]))
            last = line
    if process.returncode < 0:
        raise PrunetimeError(
            f"the process that times the models was killed by signal {-process.returncode}: it may have lacked memory; "
            "free some and run the same command again to resume"
        )
    if process.returncode:
        raise DefectError(f"the process that times the models ended with exit code {process.returncode}")
    samples = json.loads(last)
    return {
        setting: {name: Samples.from_json(timed) for name, timed in samples["/".join(setting)].items()}
        for setting in job.settings
    }


def time_settings(
    calls: Mapping[str, Mapping[str, TimedCall]], job: Job, on_round: Callable[[int, int], None] | None = None
) -> SamplesBySetting:
    """Samples of the settings of `job` for `calls` (by name, then by scope)."""
    collected: dict[TimingSetting, dict[str, list[Samples]]] = {s: {name: [] for name in calls} for s in job.settings}
    start = time.monotonic()
    for number in range(job.rounds):
        time.sleep(max(0.0, start + number * job.seconds / max(1, job.rounds - 1) - time.monotonic()))
        for scope, condition in job.settings:
            judged = (scope, condition) == (job.budget.scope, job.budget.condition)
            named = {name: by_scope[scope] for name, by_scope in calls.items()}
            count = job.calls if judged else -(-job.calls // 5)
            samples = one_round(named, count, number, IDLE_US if condition == "idle" else 0.0)
            for name, values in samples.items():
                collected[scope, condition][name].append(values)
        if on_round:
            on_round(number + 1, job.rounds)
    return {s: {name: Samples.stack(rounds) for name, rounds in by_name.items()} for s, by_name in collected.items()}


def time_budget(
    calls: Mapping[str, Mapping[str, TimedCall]], budget: Budget, rounds: int, count: int
) -> dict[str, Samples]:
    """Samples of `calls` (by name, then by scope) in the setting of `budget` alone, `count` calls a round."""
    named = {name: by_scope[budget.scope] for name, by_scope in calls.items()}
    return run_rounds(named, rounds, count, idle_us=IDLE_US if budget.condition == "idle" else 0.0)


def calls_of(
    engine: Engine, config: EncoderConfig, tokenizer: Tokenizer, pair: bool, budget: Budget
) -> dict[str, TimedCall]:
    """The calls that are timed of a model, by scope: token ids to logits, and texts to logits."""
    batch, texts = timed_inputs(config, tokenizer, pair, budget)
    return {"ids": partial(engine.logits, batch), "text": lambda: engine.logits(tokenizer.encode(texts))}


def timed_inputs(config: EncoderConfig, tokenizer: Tokenizer, pair: bool, budget: Budget) -> tuple[Ragged, list[Texts]]:
    """The batch of token ids, and the texts, that models are timed with."""
    batch = random_batch(config, budget.batch, budget.seq_len)
    return batch, [text_of(tokenizer, pair, budget.seq_len)] * budget.batch


def calls_of_specs(
    specs: Mapping[str, ArchSpec],
    config: EncoderConfig,
    tokenizer: Tokenizer,
    pair: bool,
    budget: Budget,
    plan: PrecisionPlan,
) -> dict[str, dict[str, TimedCall]]:
    """The calls that are timed of encoders with random weights, by name of their spec, then by scope."""
    calls = {}
    for name, spec in specs.items():
        engine = Engine(config, random_weights(config, spec), budget.threads, spec=spec, plan=plan)
        calls[name] = calls_of(engine, config, tokenizer, pair, budget)
    return calls


class TextEncoder(Protocol):
    """A tokenizer gives the token ids of texts or pairs."""

    def encode(self, texts: Sequence[Texts]) -> Ragged: ...


def text_of(tokenizer: TextEncoder, pair: bool, tokens: int) -> Texts:
    """The shortest run of ordinary English words (or pair of runs) that makes `tokens` tokens."""
    words = _WORDS.split()
    for count in range(1, tokens + 1):
        run = " ".join(words[i % len(words)] for i in range(count))
        texts = (run, run) if pair else (run,)
        if tokenizer.encode([texts]).lengths[0] >= tokens:
            break
    return texts


def main(calls_of_files: Callable[[Job], Mapping[str, Mapping[str, TimedCall]]] = lambda _: {}) -> None:
    """Times the `Job` on standard input in this process; `calls_of_files` gives the calls of the job's files, by name,
    then by scope."""
    data = json.load(sys.stdin)
    budget, settings = Budget.from_json(data["budget"]), [(scope, condition) for scope, condition in data["settings"]]
    job = Job(**{**data, "budget": budget, "settings": settings})
    with pinned(budget.threads):
        calls = dict(calls_of_files(job))
        for name, folder in job.artifacts.items():
            if name in job.files:
                continue
            model = load(folder, budget.threads)
            task = model.manifest.task
            calls[name] = calls_of(
                job.engine(name, model), model.manifest.config, model.tokenizer, task.read_together, budget
            )
        timed = time_settings(calls, job, lambda done, of: print("round", done, of, flush=True))
    result = {
        "/".join(s): {name: samples.to_json() for name, samples in by_name.items()} for s, by_name in timed.items()
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
