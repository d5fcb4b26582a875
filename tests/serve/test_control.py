"""What processes say to each other, over a real pair of sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from prunetime.errors import InputError
from prunetime.serve.core.models import Entry
from prunetime.serve.errors import RefusedError
from prunetime.serve.settings import ServeSettings
from prunetime.serve.workers.control import Link, ListModels, Load, Message, StartServing, WorkerExitedError

ENTRIES = [Entry("ads", "1", "/models/ads"), Entry("b\u00e4h", "2", "/models/with a\nline")]


async def joined(answer: Callable[[Message], Awaitable[Sequence[Entry]]]) -> tuple[Link, Link]:
    """A link, and the other end, that answers so."""
    one, other = socket.socketpair()
    ends = await Link.over(one, answer), await Link.over(other, answer)
    for end in ends:
        asyncio.get_running_loop().create_task(end.run())
    return ends


def test_questions_cross_and_are_answered_in_any_order() -> None:
    async def answer(message: Message) -> Sequence[Entry]:
        await asyncio.sleep(0.05 if message == Load("slow", "", "none") else 0.0)
        return [Entry(message.name, "1", message.folder)]

    async def talk() -> None:
        one, other = await joined(answer)
        asked = [end.ask(Load(name, "x" * 100_000, "none")) for end in (one, other) for name in ("slow", "fast")]
        found = await asyncio.gather(*asked)
        assert [entry.name for (entry,) in found] == ["slow", "fast"] * 2
        assert {len(entry.folder) for (entry,) in found} == {100_000}

    asyncio.run(talk())


def test_settings_and_models_arrive_as_they_were() -> None:
    paths = {
        "uds": Path("/run/s"),
        "key_file": Path("keys"),
        "model_root": Path("/models"),
        "allow_hosts": ("ads",),
        "cors": ("*",),
    }
    settings = ServeSettings((("ads", Path("a/b")),), (("fast", ("ads",)),), timeout=0.5, processes=3, **paths)
    seen: list[Message] = []

    async def answer(message: Message) -> Sequence[Entry]:
        seen.append(message)
        return ENTRIES

    async def talk() -> None:
        one, _ = await joined(answer)
        assert await one.ask(StartServing(settings, ENTRIES, Path("counts"))) == ENTRIES

    asyncio.run(talk())
    assert seen == [StartServing(settings, ENTRIES, Path("counts"))]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (RefusedError("forbidden", "not from there", 2.0), "forbidden", "not from there"),
        (InputError("no key"), "unusable", "no key"),
        (MemoryError("of /srv/models"), "internal", "an error of the server; its log says more"),
    ],
)
def test_errors_are_told(error: Exception, code: str, says: str) -> None:
    async def answer(_: Message) -> Sequence[Entry]:
        raise error

    async def talk() -> None:
        one, _ = await joined(answer)
        with pytest.raises(RefusedError, match=f"^{says}$") as caught:
            await one.ask(ListModels())
        assert caught.value.code == code
        assert caught.value.retry_after == getattr(error, "retry_after", None)

    asyncio.run(talk())


def test_who_waits_hears_that_the_other_is_gone() -> None:
    async def never(_: Message) -> Sequence[Entry]:
        await asyncio.sleep(60.0)
        return []

    async def talk() -> None:
        one, other = await joined(never)
        waiting = asyncio.ensure_future(one.ask(ListModels()))
        await asyncio.sleep(0.01)
        other.close()
        with pytest.raises(WorkerExitedError):
            await waiting
        with pytest.raises(WorkerExitedError):
            await one.ask(ListModels())

    asyncio.run(talk())
