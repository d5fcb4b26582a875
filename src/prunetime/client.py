"""A client of `prunetime serve`, for programs that wait and for those that do not."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from prunetime.core.task import Answer, Span
from prunetime.errors import InputError, PrunetimeError
from prunetime.inference.model import RankedDocument
from prunetime.inference.tokenize import Texts

try:
    import httpx2
except ModuleNotFoundError:
    raise InputError("the client needs httpx2: pip install 'prunetime[client]'") from None

FIRST_WAIT = 0.05
"""Seconds before the second try, where the server does not say; twice as many before each one after it."""

AGAIN = (429, 503)

T = TypeVar("T")
Score = float | list[float] | Answer | list[Span]


class ServerError(PrunetimeError):
    """What a server refused, with its `status` and `kind` (`serve.errors`); 0, `unreachable` without one."""

    def __init__(self, message: str, status: int = 0, kind: str = "unreachable") -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


@dataclass(frozen=True)
class Outcome:
    """What came of an answer to the experiment key `key`; `id` is the outcome's own: posted again, it counts once."""

    key: str
    id: str
    defect: bool


@dataclass(frozen=True)
class _Call:
    method: str
    path: str
    content: Any = None
    experiment_key: str | None = None


@dataclass(frozen=True)
class _Wait:
    seconds: float


_Asked = dict[str, Any]
"""Fields of a request besides its texts."""

Steps = Generator[tuple[_Call, float] | _Wait, Any, T]
"""A conversation: yields what is to be asked, with the seconds that are left, or how long to wait; gets the reply."""


class _Talk(Generic[T]):
    """A conversation under way: `reply` is to what the last step asked, `found` what came of it all."""

    found: T

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps
        self.reply: Any = None

    def step(self) -> tuple[_Call, float] | _Wait | None:
        """What is to be done next; None at the end."""
        reply, self.reply = self.reply, None
        try:
            return self._steps.send(reply)
        except StopIteration as end:
            self.found = end.value
            return None

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Within, what is lost on the way is a reply, too."""
        try:
            yield
        except httpx2.TransportError as error:
            self.reply = error


class _Words:
    """What both clients say and understand."""

    def __init__(self, url: str, key: str | None = None, timeout: float = 10.0) -> None:
        if not timeout > 0.0:
            raise InputError(f"timeout is {timeout}: it must be above 0 seconds")
        self._url, self._timeout = url.rstrip("/"), timeout
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._input_names: dict[str, list[str]] = {}
        """The columns of texts that a model takes, by its path, once it was asked for them."""

    def _patiently(self, call: _Call, timeout: float | None) -> Steps[Any]:
        """The reply as JSON. Tries again what is refused for now, or lost on the way, as long as there is time: to
        score twice does no harm."""
        deadline, wait = time.monotonic() + (timeout or self._timeout), FIRST_WAIT
        while True:
            reply = yield call, deadline - time.monotonic()
            if isinstance(reply, httpx2.TransportError):
                error = ServerError(f"{self._url}: {reply or type(reply).__name__}")
            elif reply.status_code < 300:
                return reply.json() if reply.content else None
            else:
                error = _refusal(reply)
                wait = max(wait, float(reply.headers.get("retry-after", 0.0)))
            if error.status not in (0, *AGAIN) or time.monotonic() + wait >= deadline:
                raise error
            yield _Wait(wait * random.uniform(1.0, 1.25))
            wait *= 2.0

    def _score(
        self, texts: Sequence[str | Texts], model: str, version: str | None, timeout: float | None, key: str | None
    ) -> Steps[list[Score]]:
        rows = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
        widths = {len(row) for row in rows}
        if len(widths) != 1:
            raise InputError("give texts, or pairs of texts: not none, and not both")
        where = f"/v2/models/{model}" + (f"/versions/{version}" if version else "")
        names = self._input_names.get(where)
        if names is None:
            told = yield from self._patiently(_Call("GET", where), timeout)
            names = self._input_names[where] = [each["name"] for each in told["inputs"]]
        if widths != {len(names)}:
            raise InputError(f"rows of {widths.pop()} texts; {model} scores {len(names)}: {', '.join(names)}")
        inputs = [
            {"name": name, "shape": [len(rows)], "datatype": "BYTES", "data": list(column)}
            for name, column in zip(names, zip(*rows, strict=True), strict=True)
        ]
        try:
            reply = yield from self._patiently(_Call("POST", f"{where}/infer", {"inputs": inputs}, key), timeout)
        except ServerError as error:
            if error.status == 422:  # another model may have taken its place
                self._input_names.pop(where, None)
            raise
        outputs = {each["name"]: each for each in reply["outputs"]}
        if "answer" in outputs:
            columns = (outputs[name]["data"] for name in ("answer", "start", "score"))
            return [Answer(*each) for each in zip(*columns, strict=True)]
        if "spans" in outputs:
            return [[Span(**span) for span in json.loads(spans)] for spans in outputs["spans"]["data"]]
        scores, shape = outputs["score"]["data"], outputs["score"]["shape"]
        if len(shape) == 1:
            return list(scores)
        return [scores[i : i + shape[1]] for i in range(0, len(scores), shape[1])]

    def _rank(
        self, query: str, documents: Sequence[str], asked: _Asked, timeout: float | None, key: str | None
    ) -> Steps[list[RankedDocument]]:
        content = {"query": query, "documents": list(documents), **asked}
        reply = yield from self._patiently(_Call("POST", "/v1/rerank", content, key), timeout)
        return [RankedDocument(corpus_id=each["index"], score=each["relevance_score"]) for each in reply["results"]]

    def _embed(
        self, texts: Sequence[str], asked: _Asked, timeout: float | None, key: str | None
    ) -> Steps[list[list[float]]]:
        reply = yield from self._patiently(
            _Call("POST", "/v1/embeddings", {"input": list(texts), **asked}, key), timeout
        )
        return [each["embedding"] for each in reply["data"]]

    def _add_outcomes(self, experiment: str, outcomes: Sequence[Outcome], timeout: float | None) -> Steps[int]:
        content = {"outcomes": [asdict(each) for each in outcomes]}
        call = _Call("POST", f"/experiments/{quote(experiment, safe='')}/outcomes", content)
        accepted: int = (yield from self._patiently(call, timeout))["accepted"]
        return accepted

    def _experiment(self, name: str, timeout: float | None) -> Steps[dict[str, Any]]:
        found: dict[str, Any] = yield from self._patiently(
            _Call("GET", f"/experiments/{quote(name, safe='')}"), timeout
        )
        return found

    def _models(self, timeout: float | None) -> Steps[list[str]]:
        reply = yield from self._patiently(_Call("POST", "/v2/repository/index", {"ready": True}), timeout)
        return [f"{each['name']}/{each['version']}" for each in reply]

    def _request(self, call: _Call, left: float) -> dict[str, Any]:
        headers: dict[str, str | bytes] = {**self._headers, "x-request-timeout-ms": f"{1e3 * left:.0f}"}
        if call.experiment_key is not None:
            headers["x-experiment-key"] = call.experiment_key.encode()
        return {
            "method": call.method,
            "url": self._url + call.path,
            "json": call.content,
            "timeout": left,
            "headers": headers,
        }


class Client(_Words):
    """Blocking, and fit for several threads. `timeout` seconds are for a call with all its tries.

    Raises ServerError where the server refuses, or cannot be reached in that time.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 10.0) -> None:
        super().__init__(url, key, timeout)
        self._http = httpx2.Client()

    def score(
        self,
        texts: Sequence[str | Texts],
        model: str,
        version: str | None = None,
        timeout: float | None = None,
        *,
        experiment_key: str | None = None,
    ) -> list[Score]:
        """As `Model.score` of the model there: of every text or pair a number, one for each class, an
        `Answer`, or the spans that its words' labels say. Where there is an experiment on that model, the model of the
        arm of `experiment_key` answers."""
        return self._talk(self._score(texts, model, version, timeout, experiment_key))

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        model: str | None = None,
        timeout: float | None = None,
        *,
        experiment_key: str | None = None,
    ) -> list[RankedDocument]:
        """As `Model.rank` of the model there, or of the server's first; `experiment_key` as in `score`."""
        return self._talk(self._rank(query, documents, {"top_n": top_k, "model": model}, timeout, experiment_key))

    def embed(
        self,
        texts: Sequence[str],
        model: str | None = None,
        timeout: float | None = None,
        *,
        prompt_name: str | None = None,
        experiment_key: str | None = None,
    ) -> list[list[float]]:
        """The embeddings of `Model.embed` of the model there, or of the server's first, scaled to length 1;
        `experiment_key` as in `score`."""
        return self._talk(self._embed(texts, {"model": model, "prompt_name": prompt_name}, timeout, experiment_key))

    def add_outcomes(self, experiment: str, outcomes: Sequence[Outcome], timeout: float | None = None) -> int:
        """Tells what came of answers; returns how many outcomes there were, once they are on the server's disk."""
        return self._talk(self._add_outcomes(experiment, outcomes, timeout))

    def experiment(self, name: str, timeout: float | None = None) -> dict[str, Any]:
        """The report of an experiment: its `arms` and `comparisons`, as `GET /experiments/NAME` has them."""
        return self._talk(self._experiment(name, timeout))

    def models(self, timeout: float | None = None) -> list[str]:
        """All that are served, as NAME/VERSION."""
        return self._talk(self._models(timeout))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _talk(self, steps: Steps[T]) -> T:
        talk = _Talk(steps)
        while step := talk.step():
            if isinstance(step, _Wait):
                time.sleep(step.seconds)
                continue
            with talk.asking():
                talk.reply = self._http.request(**self._request(*step))
        return talk.found


class AsyncClient(_Words):
    """As `Client`, to be awaited."""

    def __init__(self, url: str, key: str | None = None, timeout: float = 10.0) -> None:
        super().__init__(url, key, timeout)
        self._http = httpx2.AsyncClient()

    async def score(
        self,
        texts: Sequence[str | Texts],
        model: str,
        version: str | None = None,
        timeout: float | None = None,
        *,
        experiment_key: str | None = None,
    ) -> list[Score]:
        """See `Client.score`."""
        return await self._talk(self._score(texts, model, version, timeout, experiment_key))

    async def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        model: str | None = None,
        timeout: float | None = None,
        *,
        experiment_key: str | None = None,
    ) -> list[RankedDocument]:
        """See `Client.rank`."""
        return await self._talk(self._rank(query, documents, {"top_n": top_k, "model": model}, timeout, experiment_key))

    async def embed(
        self,
        texts: Sequence[str],
        model: str | None = None,
        timeout: float | None = None,
        *,
        prompt_name: str | None = None,
        experiment_key: str | None = None,
    ) -> list[list[float]]:
        """See `Client.embed`."""
        return await self._talk(
            self._embed(texts, {"model": model, "prompt_name": prompt_name}, timeout, experiment_key)
        )

    async def add_outcomes(self, experiment: str, outcomes: Sequence[Outcome], timeout: float | None = None) -> int:
        """See `Client.add_outcomes`."""
        return await self._talk(self._add_outcomes(experiment, outcomes, timeout))

    async def experiment(self, name: str, timeout: float | None = None) -> dict[str, Any]:
        """See `Client.experiment`."""
        return await self._talk(self._experiment(name, timeout))

    async def models(self, timeout: float | None = None) -> list[str]:
        """See `Client.models`."""
        return await self._talk(self._models(timeout))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def _talk(self, steps: Steps[T]) -> T:
        talk = _Talk(steps)
        while step := talk.step():
            if isinstance(step, _Wait):
                await asyncio.sleep(step.seconds)
                continue
            with talk.asking():
                talk.reply = await self._http.request(**self._request(*step))
        return talk.found


def _refusal(reply: httpx2.Response) -> ServerError:
    try:
        said = reply.json()
        if "message" in said:  # as Cohere says it
            return ServerError(said["message"], reply.status_code, said["error_type"])
        if isinstance(said["error"], dict):  # as OpenAI says it
            return ServerError(said["error"]["message"], reply.status_code, said["error"]["code"])
        return ServerError(said["error"], reply.status_code, said["error_type"])
    except (ValueError, KeyError, TypeError):
        return ServerError(f"{reply.status_code}: {reply.text[:200]}", reply.status_code, "unknown")
