"""Encoders of every family, loaded from what transformers saves: the same logits there, in torch and in the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import family_fields
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.utils import logging

from prunetime.core.config import FAMILIES
from prunetime.errors import InputError
from prunetime.inference.engine import Engine, supported_isas
from prunetime.inference.ragged import Ragged
from prunetime.models.encoder import weights_of
from prunetime.models.families import load
from prunetime.models.names import NAMES

logging.disable_progress_bar()

families = pytest.mark.parametrize("family", list(FAMILIES))

SIZES = {"layers": 3, "hidden": 64, "heads": 4, "ffn": 96, "vocabulary": 60, "positions": 34, "embedding": 48}


def made(family: str, auto: Any, seed: int = 0, pooling: str = "cls", **sizes: int) -> PreTrainedModel:
    """A model of transformers with activations of order one and no weight at its neutral value."""
    names = NAMES[family].sizes
    settings: dict[str, Any] = {names[name]: size for name, size in {**SIZES, **sizes}.items() if name in names}
    settings |= {key: value for key, value in NAMES[family].fixed.items() if key == "pad_token_id"}
    if family == "modernbert":
        settings |= {f"{name}_token_id": 0 for name in ("pad", "eos", "bos", "cls", "sep")}
        settings |= {"local_attention": 8, "classifier_pooling": pooling}
    settings["type_vocab_size"] = token_types(family)
    torch.manual_seed(seed)
    model = auto.from_config(AutoConfig.for_model(family, initializer_range=0.125, num_labels=2, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def batch(family: str, lengths: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    """As a tokenizer of the family gives it, with padding; of every second text over 3 tokens some is written out."""
    rng, pad = np.random.default_rng(seed), NAMES[family].fixed.get("pad_token_id", 0)
    mask = torch.from_numpy((np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64))
    ids = torch.from_numpy(rng.integers(2, 60, mask.shape))
    ids[::2, 3:6:2] = pad
    found = {"input_ids": torch.where(mask == 1, ids, pad), "attention_mask": mask}
    if FAMILIES[family].token_types:
        types = rng.integers(0, token_types(family), mask.shape)
        found["token_type_ids"] = torch.from_numpy(types)
    return found


def token_types(family: str) -> int:
    return family_fields(family).get("token_types", 2)


def ragged(inputs: dict[str, torch.Tensor]) -> Ragged:
    rows = [row[mask == 1].tolist() for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    types = inputs.get("token_type_ids", torch.zeros_like(inputs["input_ids"]))
    return Ragged.of(rows, [row[: len(ids)].tolist() for row, ids in zip(types, rows, strict=True)])


@families
@pytest.mark.parametrize("seed", range(5))
def test_outputs_equal_transformers(family: str, seed: int, tmp_path: Path) -> None:
    sizes = {"heads": (1, 2, 4, 4, 8)[seed], "ffn": 40 + 17 * seed, "layers": 1 + seed % 3}
    theirs = made(family, AutoModelForSequenceClassification, seed, ("cls", "mean")[seed % 2], **sizes)
    theirs.save_pretrained(tmp_path)
    ours = load(str(tmp_path), 2)
    assert ours.has_head
    assert ours.config.family == family
    longest = ours.config.longest
    inputs = batch(family, [longest, 7, 1, 19], seed)
    with torch.no_grad():
        got, expected = ours.model.eval()(**inputs), theirs(**inputs, output_hidden_states=True)
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-5, atol=1e-5)
    real = inputs["attention_mask"] == 1
    for state, reference in zip(got.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(state[real], reference[real], rtol=1e-5, atol=1e-5)
    for isa in supported_isas():
        logits = Engine(ours.config, weights_of(ours.model), isa=isa).logits(ragged(inputs))
        np.testing.assert_allclose(logits, expected.logits.numpy(), rtol=1e-5, atol=1e-5, err_msg=isa)
    with pytest.raises(InputError, match=f"positions for at most {longest}"):
        ours.model(**batch(family, [longest + 1]))


@families
def test_answers_equal_transformers(family: str, tmp_path: Path) -> None:
    theirs = made(family, AutoModelForQuestionAnswering)
    theirs.save_pretrained(tmp_path)
    ours = load(str(tmp_path), 2, kind="question-answering")
    assert ours.has_head
    inputs = batch(family, [17, 30])
    with torch.no_grad():
        got, expected = ours.model.eval()(**inputs).logits, theirs(**inputs)
    logits = Engine(ours.config, weights_of(ours.model)).logits(ragged(inputs))
    real = inputs["attention_mask"] == 1
    for output, name in enumerate(("start_logits", "end_logits")):
        torch.testing.assert_close(got[real][:, output], expected[name][real], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(logits[:, output], expected[name][real].numpy(), rtol=1e-5, atol=1e-5)


@families
def test_labels_of_words_equal_transformers(family: str, tmp_path: Path) -> None:
    theirs = made(family, AutoModelForTokenClassification)
    theirs.save_pretrained(tmp_path)
    ours = load(str(tmp_path), 2, kind="token-classification")
    assert ours.has_head
    assert not load(str(tmp_path), 2, kind="question-answering").has_head
    assert not load(str(tmp_path), 2).has_head
    inputs = batch(family, [17, 30])
    with torch.no_grad():
        got, expected = ours.model.eval()(**inputs).logits, theirs(**inputs).logits
    real = inputs["attention_mask"] == 1
    torch.testing.assert_close(got[real], expected[real], rtol=1e-5, atol=1e-5)
    logits = Engine(ours.config, weights_of(ours.model)).logits(ragged(inputs))
    np.testing.assert_allclose(logits, expected[real].numpy(), rtol=1e-5, atol=1e-5)


@families
def test_embeddings_are_the_means_of_what_transformers_gives_of_length_one(family: str, tmp_path: Path) -> None:
    theirs = made(family, AutoModelForSequenceClassification).base_model
    theirs.save_pretrained(tmp_path)
    ours = load(str(tmp_path), None, kind="similarity")
    inputs = batch(family, [17, 30, 1])
    with torch.no_grad():
        rows, got = theirs(**inputs).last_hidden_state, ours.model.eval()(**inputs).logits
    real = inputs["attention_mask"].unsqueeze(-1)
    expected = functional.normalize((rows * real).sum(1) / real.sum(1), dim=1)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for isa in supported_isas():
        for threads in (1, 2):
            engine = Engine(ours.config, weights_of(ours.model), threads, isa)
            np.testing.assert_allclose(engine.logits(ragged(inputs)), expected.numpy(), rtol=1e-5, atol=1e-5)


@families
def test_a_bare_encoder_gets_a_fresh_head(family: str, tmp_path: Path) -> None:
    whole = made(family, AutoModelForSequenceClassification)
    whole.base_model.save_pretrained(tmp_path)
    ours = load(str(tmp_path), 2)
    assert not ours.has_head
    inputs = batch(family, [9, 4])
    with torch.no_grad():
        states = whole.base_model(**inputs).last_hidden_state
        torch.testing.assert_close(ours.model.eval()(**inputs).hidden_states[-1][0], states[0], rtol=1e-5, atol=1e-5)


def test_an_embedding_as_wide_as_the_encoder_is_not_projected(tmp_path: Path) -> None:
    theirs = made("electra", AutoModelForSequenceClassification, embedding=64)
    theirs.save_pretrained(tmp_path)
    ours, inputs = load(str(tmp_path), 2), batch("electra", [11])
    assert not any("project" in name for name in ours.model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours.model.eval()(**inputs).logits, theirs(**inputs).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert"])
def test_padding_of_another_id_is_refused(family: str, tmp_path: Path) -> None:
    """Positions count from it in these families."""
    model = made(family, AutoModelForSequenceClassification)
    model.config.pad_token_id = 0
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="pad_token_id 0 is not supported"):
        load(str(tmp_path), 2)
