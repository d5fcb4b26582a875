"""Generated tasks, `synthetic:NAME`: tables of a made shop, for tests, examples and trials without data."""

from prunetime.tasks.synthetic.entities import product_entities
from prunetime.tasks.synthetic.intents import intents
from prunetime.tasks.synthetic.questions import question_answering
from prunetime.tasks.synthetic.relevance import ad_relevance

GENERATORS = {
    "ad-relevance": ad_relevance,
    "question-answering": question_answering,
    "product-entities": product_entities,
    "intents": intents,
}
"""Functions of a number of examples and a seed, by the name of their task."""

__all__ = ["GENERATORS", "ad_relevance", "intents", "product_entities", "question_answering"]
