"""How much a body may hold, and that nobody else waits for a large one, its long texts or its answer."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import Served, ask, make_artifact
from waiting import PATIENCE

from prunetime.inference.inputs import Inputs
from prunetime.inference.pairs import SingleInputs
from prunetime.serve.app import App
from prunetime.serve.core.models import LoadedModel
from prunetime.serve.errors import RefusedError
from prunetime.serve.http import bodies
from prunetime.serve.http.bodies import Bodies, has_more_values
from prunetime.serve.http.protocols import openai
from prunetime.serve.http.protocols.tei import routes as tei
from prunetime.serve.settings import ServeSettings

PAIR = ["red sofa", "a sofa with red legs"]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('ab,"\\:[]{}')),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(st.sampled_from('a,"\\')), inner, max_size=5),
    max_leaves=30,
)


def counted(value: Any) -> int:
    """Strings, and commas between what is in lists and objects."""
    if isinstance(value, list):
        return sum(map(counted, value)) + max(0, len(value) - 1)
    if isinstance(value, dict):
        return sum(map(counted, value.values())) + len(value) + max(0, len(value) - 1)
    return int(isinstance(value, str))


@given(JSON, st.booleans())
@settings(max_examples=300, deadline=None)
def test_values_are_counted_without_decoding(value: Any, spaced: bool) -> None:
    body = json.dumps(value, indent=1 if spaced else None).encode()
    expected = counted(value)
    assert not has_more_values(body, expected)
    assert expected == 0 or has_more_values(body, expected - 1)


MANY = ["[" + "[]," * 200_000 + "[]]", "[" + '"",' * 100_000 + '""]', "[" + '"a"' * 100_000, '{"a":' + "1," * 100_000]
DEEP = ["[" * 500_000, '{"a":' * 50_000, "[" * 500_000 + "]" * 500_000]


@pytest.mark.parametrize("form", ["%s", '{"inputs": %s}', '{"inputs": [], "x": %s}'])
def test_bodies_of_many_values_or_deep_ones_are_refused(server: Served, form: str) -> None:
    for content in MANY:
        assert server.post("/predict", (form % content).encode()).status == 413
    for content in DEEP:
        assert server.post("/predict", (form % content).encode()).status in (400, 422)


@pytest.mark.parametrize("name", ["a" * 1_000_000, "\u0000" * 100_000, "\u4e00" * 100_000])
def test_what_is_refused_is_not_quoted_whole(server: Served, name: str) -> None:
    tensor = {"name": name, "shape": [1], "datatype": "BYTES", "data": ["red"]}
    for path, content in (
        ("/v1/embeddings", {"input": "red", name: 1}),
        ("/v1/embeddings", {"input": "red", "model": name}),
        ("/rerank", {"query": "red", "texts": ["a"], "truncation_direction": name}),
        ("/v2/models/pairs/infer", {"inputs": [tensor, tensor | {"shape": [2]}]}),
        ("/v2/models/pairs/infer", {"inputs": [tensor | {"datatype": name}] * 2}),
        ("/v2/models/pairs/infer", {"inputs": [tensor | {"parameters": {name: 1}}] * 2}),
    ):
        answer = server.post(path, content)
        assert answer.status in (400, 404, 422), (path, answer.status)
        assert len(answer.body) < 2_000, path


class Reading:
    """Bodies as they come, of a request whose parts a test gives."""

    def __init__(self, **limits: Any) -> None:
        self.bodies = Bodies(ServeSettings((), **limits))
        self.scope: dict[str, Any] = {}

    async def read(self, *parts: bytes | Exception) -> bytes:
        given = list(parts)

        async def receive() -> dict[str, Any]:
            part = given.pop(0)
            if isinstance(part, Exception):
                raise part
            return {"type": "http.request", "body": part, "more_body": bool(given)}

        return await self.bodies.read(self.scope, receive)


def test_all_bodies_together_have_a_limit() -> None:
    reading = Reading(max_body_size=1_000, max_held_bytes=1_500)

    async def run() -> None:
        first = await reading.read(b"a" * 500, b"b" * 400)
        assert first == b"a" * 500 + b"b" * 400
        for _ in range(3):  # what is refused, or fails, is not held
            with pytest.raises(RefusedError, match="more than 1500 bytes") as refused:
                await reading.read(b"a" * 500, b"b" * 101)
            assert (refused.value.status, refused.value.retry_after) == (429, 1.0)
            with pytest.raises(ValueError, match="lost"):
                await reading.read(b"a" * 500, ValueError("lost"))
        assert len(await reading.read(b"a" * 600)) == 600
        reading.bodies.release(900)
        assert len(await reading.read(b"a" * 900)) == 900

    asyncio.run(run())


def test_answered_bodies_are_not_held(artifacts: Path) -> None:
    app = App(ServeSettings((("pairs", artifacts / "pairs"),), max_body_size=400, max_held_bytes=400))

    async def run() -> None:
        for content, status in (
            ({"inputs": PAIR}, 200),
            ({"inputs": ["a"]}, 422),
            ({"inputs": [PAIR] * 8}, 200),
            ({"inputs": [PAIR] * 40}, 413),
        ):
            for _ in range(10):
                assert await ask(app, content) == status

    asyncio.run(run())


def test_large_bodies_are_decoded_beside_the_event_loop(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App(ServeSettings((("pairs", artifacts / "pairs"),)))
    where: list[tuple[int, bool]] = []
    decoded = bodies.decoded

    def noted(body: bytes, kind: type[Any]) -> Any:
        where.append((len(body), threading.current_thread() is threading.main_thread()))
        return decoded(body, kind)

    monkeypatch.setattr(bodies, "decoded", noted)

    async def run() -> None:
        assert await ask(app, {"inputs": PAIR}) == 200
        assert await ask(app, {"inputs": [["red", "lamp " * 4_000]]}) == 200

    asyncio.run(run())
    assert [on_loop for _, on_loop in where] == [True, False]


# Texts

LONG = {
    "words": "red sofa " * 400_000,
    "no space": "a" * 3_900_000,
    "spaces": " " * 3_900_000 + "a",
    "nothing": "\u200b" * 600_000 + "a",
    "ideographs": "\u4e00" * 500_000,
    "long words": ("a" * 900 + " ") * 4_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_long_texts_are_cut_or_refused(server: Served, text: str) -> None:
    """What is answered has the score of what is kept of the text."""
    expected = {
        cut: server.post("/predict", {"inputs": ["red sofa", cut]}).json
        for cut in ("red sofa " * 100, "\u4e00" * 1_000)
    }
    for content in (
        {"inputs": ["red sofa", text]},
        {"inputs": [text, "red sofa"]},
        {"inputs": [text[: len(text) // 2]] * 2},
        {"inputs": ["red sofa", text], "truncate": False},
        {"inputs": [["red sofa", text[:4_000]]] * 150},
    ):
        answer = server.post("/predict", content)
        if answer.status == 200:
            assert content.get("truncate") is not False
            if content["inputs"][0] == "red sofa":
                assert answer.json in expected.values()
        else:
            assert answer.status == 422
            assert re.search("cannot be cut|more tokens than|cannot be counted|is empty", answer.json["error"])
            assert len(answer.body) < 1_000
    cut = server.post("/v2/rerank", {"query": "red", "documents": [text], "max_tokens_per_doc": 5})
    if cut.status == 200:  # its first five tokens, between [CLS], red, [SEP] and [SEP]
        assert cut.json["meta"]["tokens"]["input_tokens"] == 9
    else:
        assert (cut.status, "cannot be cut" in cut.json["message"] or "is empty" in cut.json["message"]) == (422, True)
    whole = {
        "inputs": [{"name": n, "shape": [1], "datatype": "BYTES", "data": [text]} for n in ("question", "context")]
    }
    assert server.post("/v2/models/answers/infer", whole).status == 413


def test_others_are_answered_while_texts_are_tokenised(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App(ServeSettings((("pairs", artifacts / "pairs"),)))
    go_on, waiting = threading.Event(), threading.Event()
    read = LoadedModel.read

    def held_up(self: LoadedModel, rows: Sequence[Any], **options: Any) -> Any:
        if len(rows) > 2:
            waiting.set()
            assert go_on.wait(PATIENCE)
        return read(self, rows, **options)

    monkeypatch.setattr(LoadedModel, "read", held_up)

    async def run() -> None:
        large = asyncio.create_task(ask(app, {"inputs": [PAIR] * 900}))
        while not waiting.is_set():
            await asyncio.sleep(0.01)
        for _ in range(20):
            assert await ask(app, {"inputs": PAIR}) == 200
        assert not large.done()
        go_on.set()
        assert await large == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/predict", {"inputs": [PAIR] * 40}),
        ("/rerank", {"query": "red", "texts": PAIR * 20}),
        ("/embed", {"inputs": PAIR * 20}),
        ("/v1/embeddings", {"input": PAIR * 20}),
    ],
)
def test_answers_of_many_rows_are_made_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, content: Any
) -> None:
    name = "twins" if "embed" in path else "pairs"
    app = App(ServeSettings((("model", make_artifact(tmp_path / name, name)),)))
    on_loop: list[bool] = []

    def note(of: Any, function: str) -> None:
        called = getattr(of, function)

        def noted(*arguments: Any) -> Any:
            on_loop.append(threading.current_thread() is threading.main_thread())
            return called(*arguments)

        monkeypatch.setattr(of, function, noted)

    note(Inputs, "scores")
    note(SingleInputs, "scores")
    for module, function in ((tei, "encoded_list"), (openai, "encoded_list"), (tei, "_predictions")):
        note(module, function)
    assert asyncio.run(ask(app, content, path)) == 200
    assert on_loop
    assert not any(on_loop)
