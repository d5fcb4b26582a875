"""langchain, llama-index and haystack."""

from __future__ import annotations

import os
from typing import Any

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from haystack_integrations.components.embedders.huggingface_api import HuggingFaceAPITextEmbedder
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from huggingface_hub import InferenceClient
from langchain_cohere import CohereRerank as LangchainRerank
from langchain_huggingface import HuggingFaceEndpointEmbeddings
from langchain_openai import OpenAIEmbeddings
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from llama_index.postprocessor.cohere_rerank import CohereRerank as LlamaIndexRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
from world import DOCUMENTS, QUERY, TEXTS, TOP, Call, World

KEY = Secret.from_token("none")


def langchain_openai(world: World, **more: Any) -> list[list[float]]:
    url = f"{world.urls['twins']}/v1"
    made = OpenAIEmbeddings(model="twins", base_url=url, api_key="none", check_embedding_ctx_length=False, **more)
    return made.embed_documents(TEXTS)


def langchain_huggingface(world: World) -> list[list[float]]:
    made = HuggingFaceEndpointEmbeddings(huggingfacehub_api_token="none")
    made.client = InferenceClient(model=world.urls["twins"])  # it takes no URL itself
    assert made.embed_query(TEXTS[0]) == made.embed_documents(TEXTS[:1])[0]
    return made.embed_documents(TEXTS)


def langchain_cohere(world: World) -> list[list[Any]]:
    made = LangchainRerank(model="pairs", cohere_api_key="none", base_url=world.urls["pairs"])
    found = made.rerank(DOCUMENTS, QUERY, top_n=None)
    return [[each["index"], each["relevance_score"]] for each in found]


def llama_index_nodes(reranker: Any) -> list[list[Any]]:
    nodes = [NodeWithScore(node=TextNode(id_=str(i), text=text)) for i, text in enumerate(DOCUMENTS)]
    return [[int(each.node.id_), each.score] for each in reranker.postprocess_nodes(nodes, query_str=QUERY)]


def llama_index_tei(world: World) -> list[list[float]]:
    made = TextEmbeddingsInference(model_name="twins", base_url=world.urls["twins"], query_instruction="",
                                   text_instruction="")  # fmt: skip
    return made.get_text_embedding_batch(TEXTS)


def llama_index_openai(world: World) -> list[list[float]]:
    made = OpenAILikeEmbedding(model_name="twins", api_base=f"{world.urls['twins']}/v1", api_key="none")
    return made.get_text_embedding_batch(TEXTS)


def haystack_openai(world: World) -> list[list[float]]:
    url = f"{world.urls['twins']}/v1"
    single = OpenAITextEmbedder(api_key=KEY, model="twins", api_base_url=url).run(TEXTS[0])["embedding"]
    documents = [Document(content=text) for text in TEXTS]
    made = OpenAIDocumentEmbedder(api_key=KEY, model="twins", api_base_url=url, progress_bar=False)
    found = [each.embedding for each in made.run(documents)["documents"]]
    assert single == found[0]
    return found


def haystack_ranking(ranker: Any) -> list[list[Any]]:
    documents = [Document(id=str(i), content=text) for i, text in enumerate(DOCUMENTS)]
    return [[int(each.id), each.score] for each in ranker.run(query=QUERY, documents=documents)["documents"]]


def haystack_huggingface(world: World, **more: Any) -> list[list[float]]:
    made = HuggingFaceAPITextEmbedder("text_embeddings_inference", {"url": world.urls["twins"]}, token=KEY, **more)
    return [made.run(TEXTS[0])["embedding"]]


CALLS = [
    Call("langchain-openai", "OpenAIEmbeddings(check_embedding_ctx_length=False)", langchain_openai, "embeddings"),
    Call("langchain-openai", "OpenAIEmbeddings(dimensions=8, check_embedding_ctx_length=False)",
         lambda world: langchain_openai(world, dimensions=8), "short embeddings"),
    Call("langchain-huggingface", "HuggingFaceEndpointEmbeddings, its client set to InferenceClient(url)",
         langchain_huggingface, "embeddings"),
    Call("langchain-cohere", "CohereRerank", langchain_cohere, "ranking"),
    Call("llama-index-embeddings-text-embeddings-inference", "TextEmbeddingsInference", llama_index_tei, "embeddings"),
    Call("llama-index-embeddings-openai-like", "OpenAILikeEmbedding", llama_index_openai, "embeddings"),
    Call("llama-index-postprocessor-tei-rerank", "TextEmbeddingInference", lambda world: llama_index_nodes(
        TextEmbeddingInference(base_url=world.urls["pairs"], top_n=TOP)), "best of the ranking"),
    Call("llama-index-postprocessor-cohere-rerank", "CohereRerank", lambda world: llama_index_nodes(
        LlamaIndexRerank(model="pairs", api_key="none", base_url=world.urls["pairs"], top_n=TOP)),
        "best of the ranking"),
    Call("haystack-ai", "OpenAITextEmbedder, OpenAIDocumentEmbedder", haystack_openai, "embeddings"),
    Call("huggingface-api-haystack", "HuggingFaceAPITextEmbedder", haystack_huggingface, "raw embedding"),
    Call("huggingface-api-haystack", "HuggingFaceAPITextEmbedder, normalize=True",
         lambda world: haystack_huggingface(world, normalize=True), "embedding"),
    Call("huggingface-api-haystack", "HuggingFaceTEIRanker", lambda world: haystack_ranking(
        HuggingFaceTEIRanker(url=world.urls["pairs"], top_k=TOP, token=KEY)), "best of the ranking"),
    Call("cohere-haystack", "CohereRanker", lambda world: haystack_ranking(
        CohereRanker(model="pairs", api_key=KEY, api_base_url=world.urls["pairs"], top_k=TOP)), "best of the ranking"),
]  # fmt: skip
