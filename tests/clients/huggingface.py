"""huggingface_hub's InferenceClient at a server's plain URL."""

from __future__ import annotations

from typing import Any

from huggingface_hub import InferenceClient
from world import CONTEXT, QUESTION, SENTENCE, TEXTS, Call, World


def client(world: World, model: str) -> InferenceClient:
    return InferenceClient(model=world.urls[model])


def labels(world: World, **more: Any) -> list[Any]:
    return [[each.label, each.score] for each in client(world, "topics").text_classification(TEXTS[0], **more)]


def answer(world: World, **more: Any) -> list[Any]:
    found: Any = client(world, "answers").question_answering(QUESTION, CONTEXT, **more)
    first = found[0] if isinstance(found, list) else found
    assert CONTEXT[first.start : first.end] == first.answer
    return [first.answer, first.start, first.score]


def spans(world: World, **more: Any) -> list[Any]:
    found = client(world, "words").token_classification(SENTENCE, **more)
    return [[each.entity_group, each.word, each.start, each.score] for each in found]


def call(shown: str, ask: Any, expected: str = "", refused: str = "") -> Call:
    return Call("huggingface_hub", shown, ask, expected, refused)


CALLS = [
    call("InferenceClient(url).feature_extraction", lambda world: client(world, "twins").feature_extraction(TEXTS),
         "embeddings"),
    call("feature_extraction, a text, normalize", lambda world: client(world, "twins").feature_extraction(
        TEXTS[0], normalize=True, truncate=True, truncation_direction="right"), "embedding"),
    call("feature_extraction, dimensions", lambda world: client(world, "twins").feature_extraction(
        TEXTS, dimensions=8), "short embeddings"),
    call("feature_extraction, encoding_format='base64'", lambda world: client(world, "twins").feature_extraction(
        TEXTS, encoding_format="base64"), refused="422"),
    call("feature_extraction, an unknown prompt", lambda world: client(world, "twins").feature_extraction(
        TEXTS, prompt_name="none"), refused="422"),
    call("sentence_similarity", lambda world: client(world, "twins").sentence_similarity(
        TEXTS[0], other_sentences=TEXTS), "similarities"),
    call("text_classification", labels, "labels"),
    call("text_classification, top_k, function_to_apply", lambda world: labels(
        world, top_k=3, function_to_apply="softmax"), "labels"),
    call("token_classification", spans, "spans"),
    call("token_classification, aggregation_strategy", lambda world: spans(world, aggregation_strategy="simple"),
         refused="422"),
    call("question_answering", answer, "answer"),
    call("question_answering, top_k", lambda world: answer(world, top_k=2), "answer"),
    call("question_answering, max_seq_len", lambda world: answer(world, max_seq_len=8), refused="422"),
]  # fmt: skip
