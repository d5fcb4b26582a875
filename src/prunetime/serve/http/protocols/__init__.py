"""The protocols, a module each, over one `Service`.

Of a protocol's own fields, each that changes a number is honoured or refused by name. Unknown fields are refused by the
routes of OpenAI and Cohere, ignored by those of text-embeddings-inference as it does itself, and belong into
`parameters` in the Open Inference Protocol, where an unknown one is refused.
"""

from __future__ import annotations

from prunetime.serve.core.service import Service
from prunetime.serve.http.protocols.cohere import cohere_routes
from prunetime.serve.http.protocols.huggingface import InferenceClientRoute
from prunetime.serve.http.protocols.oip.routes import OpenInference
from prunetime.serve.http.protocols.oip.triton import TritonExtensions
from prunetime.serve.http.protocols.openai import OpenAI
from prunetime.serve.http.protocols.tei.routes import TextEmbeddingsInference
from prunetime.serve.http.routing import Route
from prunetime.serve.workers.control import MessageHandler


def routes_of(service: Service, pool: MessageHandler) -> list[Route]:
    """The routes of all protocols."""
    return [
        *OpenInference(service).routes(),
        *TritonExtensions(service, pool).routes(),
        *TextEmbeddingsInference(service).routes(),
        *InferenceClientRoute(service).routes(),
        *cohere_routes(service),
        *OpenAI(service).routes(),
    ]
