"""cohere, rerankers and litellm."""

from __future__ import annotations

import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it would ask the network for prices

import cohere
import litellm
from rerankers import Reranker
from world import DOCUMENTS, QUERY, TEXTS, TOP, Call, World

litellm.suppress_debug_info = True


def ranking(results: Any) -> list[list[Any]]:
    return [[each.index, each.relevance_score] for each in results]


def by_cohere(world: World, make: Any = cohere.ClientV2, **more: Any) -> list[list[Any]]:
    asked = {"model": "pairs", "query": QUERY, "documents": DOCUMENTS} | more
    return ranking(make("none", base_url=world.urls["pairs"]).rerank(**asked).results)


def with_documents(world: World) -> list[list[Any]]:
    found = cohere.Client("none", base_url=world.urls["pairs"]).rerank(
        model="pairs", query=QUERY, documents=[{"text": text} for text in DOCUMENTS], return_documents=True,
        rank_fields=["text"],
    )  # fmt: skip
    assert [each.document.text for each in found.results] == [DOCUMENTS[each.index] for each in found.results]
    assert found.meta.api_version.version == "1"
    assert found.meta.tokens.input_tokens > 0
    return ranking(found.results)


def by_rerankers(world: World, provider: str, path: str) -> list[list[Any]]:
    ranker = Reranker("pairs", model_type=provider, api_key="none", url=world.urls["pairs"] + path, verbose=0)
    found = ranker.rank(QUERY, DOCUMENTS, doc_ids=list(range(len(DOCUMENTS))))
    return [[each.doc_id, each.score] for each in found.results]


def by_litellm(world: World, provider: str, **more: Any) -> list[list[Any]]:
    asked = {"model": f"{provider}/pairs", "query": QUERY, "documents": DOCUMENTS, "api_key": "none"} | more
    found = litellm.rerank(api_base=world.urls["pairs"], **asked)
    return [[each["index"], each["relevance_score"]] for each in found.results]


def embeddings_by_litellm(world: World, **more: Any) -> list[list[float]]:
    found = litellm.embedding("openai/twins", input=TEXTS, api_base=f"{world.urls['twins']}/v1", api_key="none", **more)
    return [each["embedding"] for each in found.data]


CALLS = [
    Call("cohere", "ClientV2.rerank", by_cohere, "ranking"),
    Call("cohere", "ClientV2.rerank, top_n, max_tokens_per_doc", lambda world: by_cohere(
        world, top_n=TOP, max_tokens_per_doc=4096), "best of the ranking"),
    Call("cohere", "ClientV2.rerank, priority", lambda world: by_cohere(world, priority=5), refused="priority is 5"),
    Call("cohere", "ClientV2.rerank, top_n=0", lambda world: by_cohere(world, top_n=0), refused="top_n is 0"),
    Call("cohere", "ClientV2.rerank, an unknown model", lambda world: by_cohere(world, model="none"),
         refused="no model 'none'"),
    Call("cohere", "Client.rerank", lambda world: by_cohere(world, cohere.Client), "ranking"),
    Call("cohere", "Client.rerank, documents as objects, return_documents, rank_fields=['text']", with_documents,
         "ranking"),
    Call("cohere", "Client.rerank, rank_fields=['title']", lambda world: by_cohere(
        world, cohere.Client, rank_fields=["title"]), refused="rank_fields"),
    Call("rerankers", "Reranker, model_type='cohere', /v1/rerank", lambda world: by_rerankers(
        world, "cohere", "/v1/rerank"), "ranking"),
    Call("rerankers", "Reranker, model_type='jina', /rerank", lambda world: by_rerankers(
        world, "jina", "/rerank"), "ranking"),
    Call("rerankers", "Reranker, model_type='text-embeddings-inference', /rerank", lambda world: by_rerankers(
        world, "text-embeddings-inference", "/rerank"), "ranking"),
    *(Call("litellm", f"rerank('{provider}/...')", lambda world, provider=provider: by_litellm(world, provider),
           "ranking") for provider in ("cohere", "jina_ai", "hosted_vllm", "huggingface")),
    Call("litellm", "rerank('hosted_vllm/...'), top_n, max_tokens_per_doc", lambda world: by_litellm(
        world, "hosted_vllm", top_n=TOP, max_tokens_per_doc=100), "best of the ranking"),
    Call("litellm", "rerank('hosted_vllm/...'), instruction", lambda world: by_litellm(
        world, "hosted_vllm", instruction="be quick"), refused="instruction"),
    Call("litellm", "embedding('openai/...')", embeddings_by_litellm, "embeddings"),
    Call("litellm", "embedding('openai/...'), dimensions", lambda world: embeddings_by_litellm(
        world, dimensions=8, allowed_openai_params=["dimensions"]), "short embeddings"),
]  # fmt: skip
