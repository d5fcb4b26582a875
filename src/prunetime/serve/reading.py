"""What a model reads of the texts of a request, cut as the request asks for, and not otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunetime.runtime.inputs import Inputs
from prunetime.runtime.tokenize import Texts
from prunetime.serve.errors import RefusedError
from prunetime.serve.messages import DocumentRerankRequest, EmbedRequest, InferRequest, PredictRequest, RerankRequest
from prunetime.serve.models import Hosted

WITHOUT_EFFECT = {
    "request": {"binary_data_output", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end"},
    "input": {"content_type"},
    "output": {"binary_data"},
}
"""Parameters of the Open Inference Protocol's extensions that change no number: in which form outputs are wanted (they
are JSON here, which every client reads), when, and the place in a sequence, for models that keep a state."""


def read_pairs(hosted: Hosted, rows: Sequence[str | Texts], asked: PredictRequest | RerankRequest) -> Inputs:
    """The rows that the model reads of texts or pairs to be scored. Raises RefusedError where it cannot."""
    _check_side(hosted, asked)
    return hosted.read(rows, cut=asked.truncate is not False)


def read_single(hosted: Hosted, texts: Sequence[str], asked: EmbedRequest) -> Inputs:
    """The rows that the model reads of texts to be embedded. Raises RefusedError where it cannot."""
    _check_side(hosted, asked)
    return hosted.read_single(texts, asked.prompt_name, cut=asked.truncate is not False)


def read_documents(hosted: Hosted, pairs: Sequence[Texts], asked: DocumentRerankRequest) -> Inputs:
    """The rows that the model reads of pairs of a query and a document.

    Raises RefusedError where it cannot, and for a document of more tokens than it may have: a document is cut by what
    the model reads, with the query, and not before.
    """
    if asked.max_tokens_per_doc is not None:
        for number, (_, document) in enumerate(pairs):
            tokens = hosted.model.tokenizer.count(document)
            if tokens > asked.max_tokens_per_doc:
                raise RefusedError(
                    "unusable",
                    f"max_tokens_per_doc is {asked.max_tokens_per_doc}, and document {number} has {tokens} tokens: "
                    "documents are not cut before they are read; send a shorter one, or leave max_tokens_per_doc out",
                )
    return hosted.read(pairs)


def check_documents(asked: DocumentRerankRequest) -> None:
    """Raises RefusedError for what no model does with documents."""
    for name in ("top_n", "max_tokens_per_doc"):
        given = getattr(asked, name)
        if given is not None and given < 1:
            raise RefusedError("unusable", f"{name} is {given}: it must be at least 1")
    if asked.rank_fields not in (None, ["text"]):
        raise RefusedError(
            "unusable", f"rank_fields is {asked.rank_fields[:8]}: documents are ranked by their text; leave it out"
        )
    if asked.max_chunks_per_doc not in (None, 1):
        raise RefusedError(
            "unusable",
            f"max_chunks_per_doc is {asked.max_chunks_per_doc}: a document is read as one chunk; leave it out",
        )


def check_parameters(asked: InferRequest) -> None:
    """Raises RefusedError for a parameter, of the request or of one of its tensors, that would change the answer."""
    _check_parameters("request", asked.parameters)
    for tensor in asked.inputs:
        _check_parameters("input", tensor.parameters, tensor.name)
        if (content := (tensor.parameters or {}).get("content_type", "str")) != "str":
            raise RefusedError(
                "unusable", f"input {tensor.name[:80]}: content_type is {str(content)[:80]!r}, not 'str'"
            )
    for wanted in asked.outputs or ():
        _check_parameters("output", wanted.parameters, wanted.name)


def _check_parameters(of: str, parameters: Mapping[str, Any] | None, name: str = "") -> None:
    unknown = sorted((parameters or {}).keys() - WITHOUT_EFFECT[of])
    if unknown:
        where = f"{of} {name[:80]}" if name else f"the {of}"
        raise RefusedError("unusable", f"{where}: no parameter {', '.join(unknown)[:200]} is known: leave it out")


def _check_side(hosted: Hosted, asked: EmbedRequest | PredictRequest | RerankRequest) -> None:
    side = "left" if hosted.model.tokenizer.cuts_left else "right"
    if asked.truncation_direction is not None and asked.truncation_direction.lower() != side:
        raise RefusedError(
            "unusable", f"truncation_direction {asked.truncation_direction!r}: {hosted.name} cuts texts on the {side}"
        )
