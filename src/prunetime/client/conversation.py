"""The conversations of a client with `prunetime serve`, apart from input and output."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from prunetime.core.task import Answer, Span
from prunetime.errors import InputError, PrunetimeError
from prunetime.inference.model import RankedDocument
from prunetime.inference.tokenize import Texts

if TYPE_CHECKING:
    import httpx2

FIRST_BACKOFF = 0.05
"""Seconds before the first retry, unless the server says how many; they double with each retry."""

RETRIED_STATUSES = (429, 503)

T = TypeVar("T")
Score = float | list[float] | Answer | list[Span]


class ServerError(PrunetimeError):
    """A server refused a request, or could not be reached.

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


@dataclass(frozen=True)
class HttpRequest:
    method: str
    path: str
    content: Any = None
    experiment_key: str | None = None


Steps = Generator[tuple[HttpRequest, float] | float, Any, T]
"""A conversation with the server, apart from input and output: a generator that yields a request and the seconds that
are left for it, and is sent the response or an error; or that yields seconds to wait."""


class BaseClient:
    """The conversations of both clients."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float) -> None:
        if not timeout > 0.0:
            raise InputError(f"timeout is {timeout}: it must be above 0 seconds")
        self._base_url, self._timeout = base_url.rstrip("/"), timeout
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._input_names: dict[str, list[str]] = {}
        """A cache of the names of a model's inputs, by its path."""

    def _with_retries(self, call: HttpRequest, timeout: float | None) -> Steps[Any]:
        """Returns the response's JSON. Retries requests that are refused for now, or lost on the way, while there is
        time: scoring twice does no harm."""
        deadline, wait = time.monotonic() + (timeout or self._timeout), FIRST_BACKOFF
        while True:
            reply = yield call, deadline - time.monotonic()
            if isinstance(reply, ServerError):
                error = reply
            elif reply.status_code < 300:
                return reply.json() if reply.content else None
            else:
                error = _refusal(reply)
                wait = max(wait, float(reply.headers.get("retry-after", 0.0)))
            if error.status not in (0, *RETRIED_STATUSES) or time.monotonic() + wait >= deadline:
                raise error
            yield wait * random.uniform(1.0, 1.25)
            wait *= 2.0

    def _unreachable(self, error: Exception) -> ServerError:
        return ServerError(f"{self._base_url}: {str(error) or type(error).__name__}")

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
            told = yield from self._with_retries(HttpRequest("GET", where), timeout)
            names = self._input_names[where] = [each["name"] for each in told["inputs"]]
        if widths != {len(names)}:
            raise InputError(f"rows of {widths.pop()} texts; {model} scores {len(names)}: {', '.join(names)}")
        inputs = [
            {"name": name, "shape": [len(rows)], "datatype": "BYTES", "data": list(column)}
            for name, column in zip(names, zip(*rows, strict=True), strict=True)
        ]
        try:
            call = HttpRequest("POST", f"{where}/infer", {"inputs": inputs}, key)
            reply = yield from self._with_retries(call, timeout)
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
        self,
        query: str,
        documents: Sequence[str],
        fields: dict[str, Any],
        timeout: float | None,
        key: str | None,
        return_documents: bool,
    ) -> Steps[list[RankedDocument]]:
        content = {"query": query, "documents": list(documents), **fields}
        reply = yield from self._with_retries(HttpRequest("POST", "/v1/rerank", content, key), timeout)
        ranked = [RankedDocument(corpus_id=each["index"], score=each["relevance_score"]) for each in reply["results"]]
        for each in ranked if return_documents else ():
            each["text"] = documents[each["corpus_id"]]
        return ranked

    def _embed(
        self, texts: Sequence[str], fields: dict[str, Any], timeout: float | None, key: str | None
    ) -> Steps[list[list[float]]]:
        reply = yield from self._with_retries(
            HttpRequest("POST", "/v1/embeddings", {"input": list(texts), **fields}, key), timeout
        )
        return [each["embedding"] for each in reply["data"]]

    def _add_outcomes(self, experiment: str, outcomes: Sequence[Outcome], timeout: float | None) -> Steps[int]:
        content = {"outcomes": [asdict(each) for each in outcomes]}
        call = HttpRequest("POST", f"/experiments/{quote(experiment, safe='')}/outcomes", content)
        accepted: int = (yield from self._with_retries(call, timeout))["accepted"]
        return accepted

    def _experiment(self, name: str, timeout: float | None) -> Steps[dict[str, Any]]:
        found: dict[str, Any] = yield from self._with_retries(
            HttpRequest("GET", f"/experiments/{quote(name, safe='')}"), timeout
        )
        return found

    def _models(self, timeout: float | None) -> Steps[list[str]]:
        reply = yield from self._with_retries(HttpRequest("POST", "/v2/repository/index", {"ready": True}), timeout)
        return [f"{each['name']}/{each['version']}" for each in reply]

    def _request(self, call: HttpRequest, left: float) -> dict[str, Any]:
        headers: dict[str, str | bytes] = {**self._headers, "x-request-timeout-ms": f"{1e3 * left:.0f}"}
        if call.experiment_key is not None:
            headers["x-experiment-key"] = call.experiment_key.encode()
        return {
            "method": call.method,
            "url": self._base_url + call.path,
            "json": call.content,
            "timeout": left,
            "headers": headers,
        }


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
