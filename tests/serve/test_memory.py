"""Nothing of a request outlives it, so that a model is gone as soon as it is unloaded and answered with."""

import asyncio
import gc
import shutil
import time
import weakref
from contextlib import suppress
from pathlib import Path

import pytest
from held import Held
from served import ask
from waiting import PATIENCE, eventually

from prunetime.inference.ragged import Ragged
from prunetime.serve.app import App
from prunetime.serve.core.models import ModelRegistry
from prunetime.serve.core.scheduler import Work
from prunetime.serve.core.speed import Speed
from prunetime.serve.errors import RefusedError
from prunetime.serve.settings import ServeSettings
from prunetime.serve.workers.control import Reload


def pairs(rows: int) -> dict:
    return {"inputs": [["red sofa", "a sofa with red legs"]] * rows}


async def crowd(app: App) -> list[int]:
    """One alone; many at once, of which the queue refuses some; some that are late, and some that cannot be scored."""
    found = [await ask(app, pairs(1))]
    held, deadline = Held(), time.monotonic() + PATIENCE
    app.service.scheduler.submit(Work(held, Speed(0.0, 0.0), Ragged.of([[1]]), deadline, lambda *_: None))
    many = [asyncio.create_task(ask(app, pairs(40))) for _ in range(30)]
    await asyncio.wait(many, return_when=asyncio.FIRST_COMPLETED)
    held.go.set()
    found += await asyncio.gather(*many)
    found += await asyncio.gather(*(ask(app, pairs(40), x_request_timeout_ms="0.2") for _ in range(10)))
    found.append(await ask(app, pairs(0)))
    await asyncio.sleep(0.05)  # tasks that were cancelled end
    return found


@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_an_unloaded_model_is_gone_without_the_garbage_collector(artifacts: Path, cache: int) -> None:
    models = (("pairs", artifacts / "pairs"),)
    settings = ServeSettings(models, queue_tokens=4_000, cache_bytes=cache, timeout=PATIENCE)
    app = App(settings)
    gc.collect()
    gc.disable()
    try:
        assert set(asyncio.run(crowd(app))) == {200, 422, 429, 503}
        old = weakref.ref(app.models.get().model.engine)
        asyncio.run(app.pool.ask(Reload()))
        eventually(lambda: old() is None)
        assert asyncio.run(crowd(app))[0] == 200
    finally:
        gc.enable()
        app.service.stop()


def test_an_artifact_that_is_refused_leaves_nothing_to_the_garbage_collector(artifacts: Path, tmp_path: Path) -> None:
    shutil.copytree(artifacts / "pairs", tmp_path / "bad")
    weights = tmp_path / "bad" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    models = ModelRegistry(1, 0, tmp_path)
    gc.collect()
    gc.disable()
    try:
        with suppress(RefusedError):
            models.load("bad", tmp_path / "bad")
        assert gc.collect() == 0
    finally:
        gc.enable()
