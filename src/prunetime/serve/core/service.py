"""The service scores texts for every protocol: it chooses the model, makes tokens, queues them, and counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prunetime.errors import InputError
from prunetime.inference.inputs import Inputs
from prunetime.inference.tokenize import Texts
from prunetime.serve.core.metrics import Metrics
from prunetime.serve.core.models import LoadedModel, ModelRegistry, TimedEngine
from prunetime.serve.core.request import ServiceRequest
from prunetime.serve.core.scheduler import Scheduler, Work
from prunetime.serve.errors import RefusedError
from prunetime.serve.experiments.experiment import ARM, KEY, Experiment, Experiments
from prunetime.serve.settings import ServeSettings

AT_ONCE_TEXTS, AT_ONCE_CHARACTERS = 2, 2_000
"""Requests of up to this size are tokenised on the event loop: a hand-over to another thread takes longer."""

CHARACTERS_PER_TOKEN = 4
"""The characters of an average token, at most: a bound on the texts that the queue of tokens has room for."""

AT_ONCE_SECONDS = 0.005
"""Requests that are expected to take at most this many seconds may be computed on the event loop."""

AT_ONCE_WAITED = 0.1
"""A request that has waited longer, in seconds, goes to the scheduler: there is too much to do to compute it on the
event loop."""

HALF_FULL = 0.5
"""Above this share of a full queue, the smallest model of a cascade answers."""

SURE = 1.25
"""A larger model of a cascade answers where it would be in time even if it took this many times longer than
expected."""


TextInput = str | Texts | Sequence[int]
"""A text, a pair, or a text as token ids."""

T = TypeVar("T")

Read = Callable[[LoadedModel, Any], Inputs]
"""A function that makes a model's inputs of a request's texts. It raises InputError where it cannot."""


@dataclass(frozen=True)
class Scored:
    """The logits of a model for a request, and the seconds of each stage."""

    loaded: LoadedModel
    inputs: Inputs
    logits: NDArray[np.float32]
    seconds: dict[str, float]
    arm: str | None = None
    """The arm of the experiment that the request belongs to, as EXPERIMENT/ARM."""

    @cached_property
    def scores(self) -> NDArray[Any]:
        return self.inputs.scores(self.logits)

    @property
    def headers(self) -> dict[str, str]:
        """Response headers: the model that answered, and the milliseconds of each stage (`Server-Timing`)."""
        timing = ", ".join(f"{stage};dur={1e3 * seconds:.3f}" for stage, seconds in self.seconds.items())
        named = {"x-prunetime-model": self.loaded.label, "server-timing": timing}
        return named if self.arm is None else named | {ARM: self.arm}


class Service:
    """The service behind all protocols. Its methods are called on one event loop; the engine has a thread of its
    own."""

    def __init__(
        self, settings: ServeSettings, models: ModelRegistry, metrics: Metrics, experiments: Experiments | None = None
    ) -> None:
        self.settings, self.models, self.metrics = settings, models, metrics
        self.experiments = experiments or Experiments({}, None)
        self.cascades = dict(settings.cascades)
        self.scheduler = Scheduler(settings.batch_tokens, settings.queue_tokens)
        self.draining = False
        """Whether the server is about to stop: it still answers, but its readiness check fails."""
        self._under_way = 0
        self._spare_core, self._turn = settings.cores > settings.threads, asyncio.Lock()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="prunetime-tokenize")

    async def score(
        self,
        request: ServiceRequest,
        texts: Sequence[TextInput],
        name: str | None = None,
        version: str | None = None,
        read: Read = LoadedModel.read,
        *,
        of_tokens: bool = False,
    ) -> Scored:
        """Scores the texts of a request with a model; with `of_tokens`, the logits are the last hidden states of all
        tokens.

        Raises RefusedError where the texts cannot be scored, or not in time.
        """
        self._under_way += 1
        try:
            began = time.monotonic()
            deadline = request.began + request.seconds(self.settings.timeout)
            if len(texts) > (limit := self.settings.max_client_batch_size):
                raise RefusedError("too_large", f"{len(texts)} rows are more than the {limit} of a request")
            key = request.headers.get(KEY)
            assigned = self.experiments.on(name or self.models.default, key) if version is None else None
            if assigned:
                name = assigned[1].model
            members = self.cascades.get(name or "", ())
            loaded = self.named(name, version)
            if not len(texts):
                raise RefusedError("unusable", "there is no text to score")
            self._check_whole(loaded, texts)
            inputs = await self._inputs(partial(read, loaded), texts)
            tokenised = time.monotonic()
            if members:
                loaded = self._fast_enough(loaded, members[1:], len(inputs.tokens.ids), deadline)
            # Not where texts are tokenised: the first time it takes as long as to load the model.
            timed = await asyncio.to_thread(loaded.timed_of_tokens) if of_tokens else loaded.timed
            work = await self._computed(request, timed, inputs, deadline)
            seconds = {"tokenize": tokenised - began, "queue": work.started - tokenised, "compute": work.compute}
            scored = Scored(loaded, inputs, work.logits, seconds, assigned and f"{assigned[0].name}/{assigned[1].name}")
            await self.beside(scored, lambda: scored.scores)  # which are remembered
            request.model, request.scored_from, request.stages = loaded.label, began, seconds
            request.background_tasks.append(partial(self._count, scored))
            if assigned:
                for shadow in assigned[0].shadow:
                    request.background_tasks.append(partial(self._shadow, assigned[0], shadow, scored))
            return scored
        finally:
            self._under_way -= 1

    async def beside(self, scored: Scored, work: Callable[[], T]) -> T:
        """Runs `work` on scores: in another thread where they are many, so that other requests do not wait."""
        if len(scored.inputs.tokens) <= AT_ONCE_TEXTS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def named(self, name: str | None, version: str | None = None) -> LoadedModel:
        """Returns the model of a name, or the largest model of a cascade; the default model without a name."""
        members = self.cascades.get(name or "")
        return self.models.get(members[0]) if members else self.models.get(name, version)

    def check_ready(self) -> None:
        """Raises RefusedError where no model is loaded, and while the server is draining (it still answers then)."""
        if self.draining:
            raise RefusedError("stopping", "the server stops; another one is to be asked", 1.0)
        self.models.check_ready()

    def flush(self) -> None:
        """Updates the metrics that are not counted as they happen."""
        self.metrics.flush(self.models, self.scheduler.queued)

    def stop(self) -> None:
        self.scheduler.stop(self.settings.stop_seconds)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _check_whole(self, loaded: LoadedModel, texts: Sequence[TextInput]) -> None:
        """Raises RefusedError where a model that reads whole texts, such as contexts in windows, is given more
        characters than the queue has room for."""
        limit = CHARACTERS_PER_TOKEN * self.settings.queue_tokens
        if loaded.model.manifest.task.rows == "tokens" and (found := sum(map(_characters, texts))) > limit:
            raise RefusedError(
                "too_large",
                f"{found} characters are more than the {limit} that {loaded.name} reads for one request: send fewer "
                "at a time, or raise --queue-tokens",
            )

    async def _inputs(self, read: Callable[..., Inputs], texts: Sequence[TextInput]) -> Inputs:
        try:
            if len(texts) <= AT_ONCE_TEXTS and sum(map(_characters, texts)) <= AT_ONCE_CHARACTERS:
                return read(texts)
            return await asyncio.get_running_loop().run_in_executor(self._threads, read, texts)
        except InputError as error:
            raise RefusedError("unusable", str(error)) from None

    def _fast_enough(self, largest: LoadedModel, others: Sequence[str], tokens: int, deadline: float) -> LoadedModel:
        """Returns the largest model of a cascade that is expected to be in time, or the smallest. Models that were
        replaced by ones with another task or tokenizer are skipped."""
        left = deadline - time.monotonic()
        full = self.scheduler.queued / self.settings.queue_tokens
        cascade = [largest, *(loaded for name in others if (loaded := self.models.get(name)).reads_as(largest))]
        for loaded in cascade[:-1]:
            if full < HALF_FULL and SURE * self.scheduler.expected(loaded.speed, tokens) < left:
                return loaded
        return cascade[-1]

    async def _computed(self, request: ServiceRequest, timed: TimedEngine, inputs: Inputs, deadline: float) -> Work:
        if timed.speed.of(len(inputs.tokens.ids)) < AT_ONCE_SECONDS and await self._at_once(request):
            problems: list[Exception | None] = []
            work = Work(*timed, inputs.tokens, deadline, lambda _, error: problems.append(error))
            if self.scheduler.run_now(work):
                _raise(problems[0])
                return work
        # What is awaited holds no work and is never raised: a traceback holds this frame, which would hold it, and a
        # model that is unloaded would stay until the garbage collector comes.
        loop = asyncio.get_running_loop()
        over: asyncio.Future[Exception | None] = loop.create_future()

        def done(_: Work, error: Exception | None) -> None:
            loop.call_soon_threadsafe(_settle, over, error)

        work = Work(*timed, inputs.tokens, deadline, done)
        self.scheduler.submit(work)
        gone = loop.create_task(request.listen_for_disconnect())
        try:
            await asyncio.wait((over, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not over.done():
                self.scheduler.forget(work)
        if not over.done():
            raise RefusedError("client_left", "the client has left")
        _raise(over.result())
        return work

    async def _at_once(self, request: ServiceRequest) -> bool:
        """Waits for its turn, and returns whether a short request should be computed on the event loop. Handing it to
        the engine's thread pays only where a core is free and other requests have arrived meanwhile."""
        if self._spare_core:
            await asyncio.sleep(0)  # others that have arrived come in
            return self._under_way == 1
        await self._turn.acquire()
        # Not released before this turn of the loop is over: the next one reads, and answers, what has come meanwhile.
        asyncio.get_running_loop().call_soon(self._turn.release)
        return time.monotonic() - request.began < AT_ONCE_WAITED

    def _shadow(self, experiment: Experiment, name: str, scored: Scored) -> None:
        """Scores the same inputs with a shadow model as background work, only to count the result."""
        loop = asyncio.get_running_loop()
        inputs = scored.inputs
        try:
            loaded = self.models.get(name)
            if not loaded.reads_as(scored.loaded):
                return
            deadline = time.monotonic() + self.settings.timeout

            def done(work: Work, error: Exception | None) -> None:
                if error is None:
                    seconds = {"queue": work.started - work.entered, "compute": work.compute}
                    found = Scored(loaded, inputs, work.logits, seconds, f"{experiment.name}/shadow:{name}")
                    loop.call_soon_threadsafe(self._count, found)

            self.scheduler.submit(Work(*loaded.timed, inputs.tokens, deadline, done, background=True))
        except RefusedError:  # there is no room for what nobody waits for
            return

    def _count(self, scored: Scored) -> None:
        label, tokens = scored.loaded.label, scored.inputs.tokens
        self.metrics.rows[label,].inc(len(tokens))
        self.metrics.tokens[label,].inc(len(tokens.ids))
        for stage, spent in scored.seconds.items():
            self.metrics.seconds[label, stage].observe(spent)
        if scored.arm is not None:
            self.metrics.of_arm(scored.arm, sum(scored.seconds.values()), scored.scores)


def _characters(row: str | Sequence[str | int]) -> int:
    """The number of characters to be tokenised in a text or a pair; 0 for token ids."""
    return len(row) if isinstance(row, str) else sum(len(part) for part in row if isinstance(part, str))


def _settle(over: asyncio.Future[Exception | None], error: Exception | None) -> None:
    if not over.done():  # it is cancelled where the client has left
        over.set_result(error)


def _raise(error: Exception | None) -> None:
    """Raises the error of a work as a RefusedError of this call, which no other object holds."""
    if isinstance(error, RefusedError):
        raise RefusedError(error.code, str(error), error.retry_after)
    if error is not None:
        raise RefusedError("internal", f"the engine failed: {error}")
