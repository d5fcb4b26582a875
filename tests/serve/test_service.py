"""Where a request is computed, which its answer does not say."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from threading import current_thread

import numpy as np
import pytest
from served import ask
from waiting import PATIENCE

from prunetime.inference.engine import Engine
from prunetime.inference.ragged import Ragged
from prunetime.serve.app import App
from prunetime.serve.core import models, service
from prunetime.serve.core.speed import Speed
from prunetime.serve.settings import ServeSettings

LOOP, ENGINE, TURN = "MainThread", "prunetime-engine", "turn"

REQUESTS = 8


class AlwaysShort(Speed):
    """The speed of a model whose requests are short, however busy the machine is."""

    def learn(self, tokens: int, seconds: float) -> None:
        pass


@pytest.fixture
def events_of(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """What happens while requests that came together are answered: in which thread each was computed, and turns of the
    event loop."""
    events: list[str] = []
    logits = Engine.logits

    def seen(engine: Engine, batch: Ragged) -> np.ndarray:
        events.extend([current_thread().name] * len(batch))
        return logits(engine, batch)

    async def turn() -> None:
        while True:
            events.append(TURN)
            await asyncio.sleep(0)

    async def asked(app: App) -> None:
        turning = asyncio.create_task(turn())
        statuses = await asyncio.gather(*(ask(app, {"inputs": ["red", f"sofa {i}"]}) for i in range(REQUESTS)))
        turning.cancel()
        assert statuses == [200] * REQUESTS

    def found(**settings: float) -> list[str]:
        app = App(ServeSettings((("pairs", artifacts / "pairs"),), timeout=PATIENCE, **settings))
        events.clear()
        asyncio.run(asked(app))
        app.service.stop()
        return events

    monkeypatch.setattr(Engine, "logits", seen)
    monkeypatch.setattr(models, "measured_speed", lambda *_: AlwaysShort(10.0, 1.0))
    monkeypatch.setattr(service, "AT_ONCE_WAITED", PATIENCE)
    return found


def computed(events: list[str]) -> list[str]:
    return [event for event in events if event != TURN]


@pytest.mark.parametrize(("cores", "threads"), [(1.0, 1), (0.5, 1), (2.0, 2)])
def test_without_a_core_to_spare_requests_are_computed_where_they_arrive(
    events_of: Callable[..., list[str]], cores: float, threads: int
) -> None:
    events = events_of(cores=cores, threads=threads)
    assert computed(events) == [LOOP] * REQUESTS
    assert (LOOP, LOOP) not in pairwise(events)  # between two, the loop does what else there is


def test_with_a_core_to_spare_they_are_handed_over_together(events_of: Callable[..., list[str]]) -> None:
    assert computed(events_of(cores=1.5)) == [ENGINE] * REQUESTS


def test_what_has_waited_for_long_is_handed_over(
    events_of: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "AT_ONCE_WAITED", 0.0)
    assert computed(events_of(cores=1.0)) == [ENGINE] * REQUESTS
