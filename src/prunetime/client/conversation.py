"""The conversations of a client with `prunetime serve`, apart from input and output."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from prunetime.core.task import Answer, Span
from prunetime.errors import InputError, PrunetimeError
from prunetime.inference.model import RankedDocument
from prunetime.inference.tokenize import Texts

try:
    import httpx2
except ModuleNotFoundError:
    raise InputError("the client needs httpx2: pip install 'prunetime[client]'") from None

FIRST_BACKOFF = 0.05
"""Seconds before the first retry, unless the server says how many; they double with each retry."""

RETRIED_STATUSES = (429, 503)

Score = float | list[float] | Answer | list[Span]


class ServerError(PrunetimeError):
    """A server refused a request, or could not be reached.

    Args:
        message: what the server said.

    Attributes:
        status: the HTTP status; 0 where no server was reached.
        kind: the code of the refusal, a word of `prunetime.serve.errors.STATUS`; `unreachable` where no server was.
    """

    def __init__(self, message: str, status: int = 0, kind: str = "unreachable") -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


@dataclass(frozen=True)
class Outcome:
    """An outcome of an experiment, to be posted with `Client.add_outcomes`.

    Attributes:
        key: the experiment key of the request that was answered.
        id: a name of the outcome itself: an outcome that is posted again counts once.
        defect: whether the answer was a bad one.
    """

    key: str
    id: str
    defect: bool


class Conversation:
    """The conversations of both clients, apart from input and output: `send` sends a request as `httpx2.request` does,
    and `sleep` waits for so many seconds."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        timeout: float,
        send: Callable[..., Awaitable[httpx2.Response]],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        if not timeout > 0.0:
            raise InputError(f"timeout is {timeout}: it must be above 0 seconds")
        self._base_url, self._timeout, self._send, self._sleep = base_url.rstrip("/"), timeout, send, sleep
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._input_names: dict[str, list[str]] = {}
        """A cache of the names of a model's inputs, by its path."""

    async def score(
        self,
        texts: Sequence[str | Texts],
        model: str,
        version: str | None = None,
        timeout: float | None = None,
        *,
        experiment_key: str | None = None,
    ) -> list[Score]:
        """As `Client.score`."""
        rows = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
        widths = {len(row) for row in rows}
        if len(widths) != 1:
            raise InputError("give texts, or pairs of texts: not none, and not both")
        where = f"/v2/models/{model}" + (f"/versions/{version}" if version else "")
        names = self._input_names.get(where)
        if names is None:
            told = await self._ask("GET", where, None, timeout)
            names = self._input_names[where] = [each["name"] for each in told["inputs"]]
        if widths != {len(names)}:
            raise InputError(f"rows of {widths.pop()} texts; {model} scores {len(names)}: {', '.join(names)}")
        inputs = [
            {"name": name, "shape": [len(rows)], "datatype": "BYTES", "data": list(column)}
            for name, column in zip(names, zip(*rows, strict=True), strict=True)
        ]
        try:
            reply = await self._ask("POST", f"{where}/infer", {"inputs": inputs}, timeout, experiment_key)
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

    async def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        model: str | None = None,
        timeout: float | None = None,
        *,
        return_documents: bool = False,
        experiment_key: str | None = None,
    ) -> list[RankedDocument]:
        """As `Client.rank`."""
        content = {"query": query, "documents": list(documents), "top_n": top_k, "model": model}
        reply = await self._ask("POST", "/v1/rerank", content, timeout, experiment_key)
        ranked = [RankedDocument(corpus_id=each["index"], score=each["relevance_score"]) for each in reply["results"]]
        for each in ranked if return_documents else ():
            each["text"] = documents[each["corpus_id"]]
        return ranked

    async def embed(
        self,
        texts: Sequence[str],
        model: str | None = None,
        timeout: float | None = None,
        *,
        prompt_name: str | None = None,
        experiment_key: str | None = None,
    ) -> list[list[float]]:
        """As `Client.embed`."""
        content = {"input": list(texts), "model": model, "prompt_name": prompt_name}
        reply = await self._ask("POST", "/v1/embeddings", content, timeout, experiment_key)
        return [each["embedding"] for each in reply["data"]]

    async def add_outcomes(self, experiment: str, outcomes: Sequence[Outcome], timeout: float | None = None) -> int:
        """As `Client.add_outcomes`."""
        content = {"outcomes": [asdict(each) for each in outcomes]}
        reply = await self._ask("POST", f"/experiments/{quote(experiment, safe='')}/outcomes", content, timeout)
        return int(reply["accepted"])

    async def experiment(self, name: str, timeout: float | None = None) -> dict[str, Any]:
        """As `Client.experiment`."""
        return dict(await self._ask("GET", f"/experiments/{quote(name, safe='')}", None, timeout))

    async def models(self, timeout: float | None = None) -> list[str]:
        """As `Client.models`."""
        reply = await self._ask("POST", "/v2/repository/index", {"ready": True}, timeout)
        return [f"{each['name']}/{each['version']}" for each in reply]

    async def _ask(
        self, method: str, path: str, content: Any, timeout: float | None, experiment_key: str | None = None
    ) -> Any:
        """Returns the response's JSON. Retries requests that are refused for now, or lost on the way, while there is
        time: scoring twice does no harm."""
        deadline, wait = time.monotonic() + (timeout or self._timeout), FIRST_BACKOFF
        headers: dict[str, str | bytes] = {**self._headers}
        if experiment_key is not None:
            headers["x-experiment-key"] = experiment_key.encode()
        while True:
            left = deadline - time.monotonic()
            headers["x-request-timeout-ms"] = f"{1e3 * left:.0f}"
            try:
                reply = await self._send(method, self._base_url + path, json=content, timeout=left, headers=headers)
            except httpx2.TransportError as lost:
                error = ServerError(f"{self._base_url}: {str(lost) or type(lost).__name__}")
            else:
                if reply.status_code < 300:
                    return reply.json() if reply.content else None
                error = _refusal(reply)
                wait = max(wait, float(reply.headers.get("retry-after", 0.0)))
            if error.status not in (0, *RETRIED_STATUSES) or time.monotonic() + wait >= deadline:
                raise error
            await self._sleep(wait * random.uniform(1.0, 1.25))
            wait *= 2.0


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
