"""The protocols that requests and answers come in, a module each, over one `Service`.

Of the fields of requests that a protocol has, each that changes a number is honoured or refused by name. Of fields that
it has not, OpenAI's and Cohere's routes refuse every one, text-embeddings-inference's pass over them as it does itself,
and the Open Inference Protocol has `parameters` for them, of which an unknown one is refused.
"""

from __future__ import annotations

from prunetime.serve.fleet import Fleet
from prunetime.serve.http import Route
from prunetime.serve.protocols.cohere import Cohere
from prunetime.serve.protocols.huggingface import InferenceClientRoute
from prunetime.serve.protocols.oip.routes import OpenInference
from prunetime.serve.protocols.oip.triton import TritonExtensions
from prunetime.serve.protocols.openai import OpenAI
from prunetime.serve.protocols.tei.routes import TextEmbeddingsInference
from prunetime.serve.service import Service


def routes_of(service: Service, fleet: Fleet) -> list[Route]:
    """The routes of all protocols."""
    return [
        *OpenInference(service).routes(),
        *TritonExtensions(service, fleet).routes(),
        *TextEmbeddingsInference(service).routes(),
        *InferenceClientRoute(service).routes(),
        *Cohere(service).routes(),
        *OpenAI(service).routes(),
    ]
