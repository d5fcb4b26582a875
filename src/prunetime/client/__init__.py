"""Clients of `prunetime serve`: `Client` blocks, `AsyncClient` is awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import httpx2

from prunetime.client.conversation import Conversation, Outcome, Score, ServerError
from prunetime.core.deprecation import renamed_arguments, warn_renamed
from prunetime.inference.model import RankedDocument
from prunetime.inference.tokenize import Texts

__all__ = ["AsyncClient", "Client", "Outcome", "Score", "ServerError"]

P = ParamSpec("P")
T = TypeVar("T")


class Client:
    """A blocking client, which several threads may share.

    Requests that the server refuses for now (429, 503), or that are lost on the way, are retried while there is time.

    Args:
        base_url: where the server is, such as `http://localhost:8080`.
        api_key: a key of the server's `--key-file`, if it has one.
        timeout: seconds for a call with all its retries, which the server is told, too. Each method takes its own.

    Raises:
        ServerError: from every method, where the server refuses, or cannot be reached in that time.

    Example:
        >>> with Client("http://localhost:8080", timeout=0.5) as client:
        ...     client.rank("red sofa", ["garden hose", "velvet couch in red"], top_k=1)
        [{'corpus_id': 1, 'score': 0.91}]
    """

    @renamed_arguments(url="base_url", key="api_key")
    def __init__(self, base_url: str, api_key: str | None = None, timeout: float = 10.0) -> None:
        self._http = httpx2.Client()
        transport = _at_once(self._http.request), _at_once(time.sleep)
        self._conversation = Conversation(base_url, api_key, timeout, *transport)

    def score(
        self,
        texts: Sequence[str | Texts],
        model: str,
        version: str | None = None,
        timeout: float | None = None,
        *,
        experiment_key: str | None = None,
    ) -> list[Score]:
        """Scores texts or pairs, as `Model.score` of the model there.

        Args:
            texts: texts, or pairs of texts, as the model takes them.
            model: the name of the model.
            version: a version of it; by default the newest.
            timeout: seconds for this call, instead of the client's.
            experiment_key: what an experiment splits traffic by, such as a user; the model of its arm answers.

        Returns:
            For each text or pair a number, or one for each class, or an `Answer`, or the spans of labelled words.

        Raises:
            InputError: `texts` are none, or have other widths than the model's inputs.
        """
        return _done(self._conversation.score(texts, model, version, timeout, experiment_key=experiment_key))

    def rank(
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
        """Ranks documents, the best first, as `Model.rank` of the model there.

        Args:
            query: the text that each document is paired with.
            documents: the texts to rank.
            top_k: how many to return, at most; by default all.
            model: the name of the model; by default the server's first.
            timeout: seconds for this call, instead of the client's.
            return_documents: whether each result has the document, too, as its `text`.
            experiment_key: as in `score`.

        Returns:
            A list of `{"corpus_id": index, "score": number}`, with `"text"` where asked for.
        """
        options: dict[str, Any] = {"return_documents": return_documents, "experiment_key": experiment_key}
        return _done(self._conversation.rank(query, documents, top_k, model, timeout, **options))

    def embed(
        self,
        texts: Sequence[str],
        model: str | None = None,
        timeout: float | None = None,
        *,
        prompt_name: str | None = None,
        experiment_key: str | None = None,
    ) -> list[list[float]]:
        """Embeds texts, as `Model.embed` of the model there with `normalize_embeddings`.

        Args:
            texts: the texts to embed.
            model: the name of the model; by default the server's first.
            timeout: seconds for this call, instead of the client's.
            prompt_name: the model's prompt that goes before each text; by default its default prompt.
            experiment_key: as in `score`.

        Returns:
            A list of embeddings, each a list of `width` numbers and scaled to length 1.
        """
        options = {"prompt_name": prompt_name, "experiment_key": experiment_key}
        return _done(self._conversation.embed(texts, model, timeout, **options))

    def add_outcomes(self, experiment: str, outcomes: Sequence[Outcome], timeout: float | None = None) -> int:
        """Posts outcomes of an experiment.

        Args:
            experiment: the name of the experiment.
            outcomes: outcomes of requests that had an `experiment_key`.
            timeout: seconds for this call, instead of the client's.

        Returns:
            The number of outcomes, once they are on the server's disk.
        """
        return _done(self._conversation.add_outcomes(experiment, outcomes, timeout))

    def experiment(self, name: str, timeout: float | None = None) -> dict[str, Any]:
        """Returns the `arms` and `comparisons` of an experiment, as `GET /experiments/NAME` has them.

        Args:
            name: the name of the experiment.
            timeout: seconds for this call, instead of the client's.
        """
        return _done(self._conversation.experiment(name, timeout))

    def models(self, timeout: float | None = None) -> list[str]:
        """Returns the served models, as NAME/VERSION.

        Args:
            timeout: seconds for this call, instead of the client's.
        """
        return _done(self._conversation.models(timeout))

    def close(self) -> None:
        """Closes the connections to the server."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


class AsyncClient(Conversation):
    """A client whose calls are those of `Client`, awaited.

    Args:
        base_url: as for `Client`.
        api_key: as for `Client`.
        timeout: as for `Client`.

    Example:
        >>> async with AsyncClient("http://localhost:8080", timeout=0.5) as client:
        ...     await client.rank("red sofa", ["garden hose", "velvet couch in red"], top_k=1)
        [{'corpus_id': 1, 'score': 0.91}]
    """

    @renamed_arguments(url="base_url", key="api_key")
    def __init__(self, base_url: str, api_key: str | None = None, timeout: float = 10.0) -> None:
        self._http = httpx2.AsyncClient()
        super().__init__(base_url, api_key, timeout, self._http.request, asyncio.sleep)

    async def aclose(self) -> None:
        """Closes the connections to the server."""
        await self._http.aclose()

    async def close(self) -> None:
        """The name of `aclose` until the next release."""
        warn_renamed("close", "aclose")
        await self.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.aclose()


def _at_once(blocking: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """Makes a function that blocks one that can be awaited, and is done at once."""

    async def called(*args: P.args, **kwargs: P.kwargs) -> T:
        return blocking(*args, **kwargs)

    return called


def _done(conversation: Coroutine[Any, Any, T]) -> T:
    """Runs a conversation over a transport that blocks: it never waits for an event loop."""
    try:
        conversation.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a conversation that blocks has waited")
