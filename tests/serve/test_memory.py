"""Nothing of a request outlives it, so that a model is gone as soon as it is unloaded and answered with."""

import asyncio
import gc
import json
import weakref
from pathlib import Path

import pytest

from prunetime.serve.app import App
from prunetime.serve.settings import ServeSettings

PAIR = ["red sofa", "a sofa with red legs"]


async def ask(app: App, rows: int, **headers: str) -> int:
    messages = [{"type": "http.request", "body": json.dumps({"inputs": [PAIR] * rows}).encode()}]
    sent = []

    async def receive() -> dict:
        if messages:
            return messages.pop()
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await app({"type": "http", "method": "POST", "path": "/predict", "headers": named}, receive, send)
    return sent[0]["status"]


async def crowd(app: App) -> list[int]:
    """One alone; many at once, of which the queue refuses some; some that are late, and some that cannot be scored."""
    found = [await ask(app, 1)]
    found += await asyncio.gather(*(ask(app, 40) for _ in range(30)))
    found += await asyncio.gather(*(ask(app, 40, x_request_timeout_ms="0.2") for _ in range(10)))
    found.append(await ask(app, 0))
    await asyncio.sleep(0.05)  # tasks that were cancelled end
    return found


@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_an_unloaded_model_is_gone_without_the_garbage_collector(artifacts: Path, cache: int) -> None:
    settings = ServeSettings((("pairs", artifacts / "pairs"),), queue_tokens=4_000, cache_bytes=cache)
    app = App(settings)
    gc.collect()
    gc.disable()
    try:
        assert set(asyncio.run(crowd(app))) == {200, 422, 429, 503}
        old = weakref.ref(app.models.get().model.engine)
        app.models.reload("pairs")
        assert asyncio.run(crowd(app))[0] == 200
        assert old() is None
    finally:
        gc.enable()
        app.service.stop()
