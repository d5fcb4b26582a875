"""What transformers calls our models, and what their heads are for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

OWN_MODEL_TYPE = "prunetime"
"""`model_type` in the config.json of the folders that prunetime writes."""

Head = Literal["pooled", "answers", "tags", "embedding"]
"""What a head is for: sequences, where answers are, the words of a text; or none, the pooled row is what comes out."""

CLASSES: Mapping[Head, str] = {
    "pooled": "ForSequenceClassification",
    "answers": "ForQuestionAnswering",
    "tags": "ForTokenClassification",
}
"""How transformers' classes of models with these heads end."""
