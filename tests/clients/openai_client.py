"""openai."""

from __future__ import annotations

from typing import Any

from openai import OpenAI, UnprocessableEntityError
from world import TEXTS, Call, World


def client(world: World) -> OpenAI:
    return OpenAI(base_url=f"{world.urls['twins']}/v1", api_key="none", max_retries=0)


def embeddings(world: World, **more: Any) -> list[list[float]]:
    with client(world) as asked:
        asked_for = {"input": TEXTS, "model": "twins"} | more
        return [each.embedding for each in asked.embeddings.create(**asked_for).data]


def names(world: World) -> list[str]:
    with client(world) as asked:
        listed = [each.id for each in asked.models.list()]
        assert [asked.models.retrieve(name).id for name in listed] == listed
        return sorted(listed)


def error(world: World) -> bool:
    """Whether errors have their type, code and request id where the client looks for them."""
    with client(world) as asked:
        try:
            asked.embeddings.create(input="a", model="twins", dimensions=10**6)
        except UnprocessableEntityError as wrong:
            return wrong.type == "invalid_request_error" and wrong.code == "unusable" and wrong.request_id is not None
    return False


CALLS = [
    Call("openai", "embeddings.create (base64, the default)", embeddings, "embeddings"),
    Call("openai", "embeddings.create, encoding_format='float', user", lambda world: embeddings(
        world, encoding_format="float", user="me"), "embeddings"),
    Call("openai", "embeddings.create, dimensions", lambda world: embeddings(world, dimensions=8), "short embeddings"),
    Call("openai", "embeddings.create, token ids of the model's tokenizer", lambda world: embeddings(
        world, input=world.expected["ids"]), "embeddings"),
    Call("openai", "embeddings.create, token ids of one text", lambda world: embeddings(
        world, input=world.expected["ids"][0]), "embedding"),
    Call("openai", "embeddings.create, token ids of another tokenizer (tiktoken)", lambda world: embeddings(
        world, input=[[1171, 50376]]), refused="is none of the model's tokenizer"),
    Call("openai", "models.list, models.retrieve", names, "models"),
    Call("openai", "type, code and request_id of errors", error, "ready"),
    Call("openai", "embeddings.create, an unknown model", lambda world: embeddings(world, model="none"),
         refused="no model 'none'"),
    Call("openai", "embeddings.create, dimensions=1000000", lambda world: embeddings(world, dimensions=10**6),
         refused="dimensions is 1000000"),
]  # fmt: skip
