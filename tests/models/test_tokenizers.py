"""Tokenizers of every family: the ids that transformers gives, of texts that nobody would expect."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from family_tokenizers import family_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from prunetime.core.config import FAMILIES
from prunetime.inference import tokenize
from prunetime.inference.tokenize import Tokenizer
from prunetime.models.tokenization import load_tokenizer

NASTY = [
    "",
    " ",
    "\t\n\r\x0b\u00a0\u2003\u3000",
    "red sofa, 3 seats",
    "RED  sofa\u00ad-bed\u2026",
    "na\u00efve cafe\u0301 \u00c5ngstr\u00f6m \u1e9b\u0323 I\u0307stanbul",
    unicodedata.normalize("NFD", "\ud55c\uad6d\uc5b4 \u30ac\u30ae\u30b0 \u00e9\u00e8\u00ea"),
    "\u6c99\u53d1\u548c\u6905\u5b50 \u30bd\u30d5\u30a1 \uc18c\ud30c \u0e42\u0e0b\u0e1f \u0635\u0648\u0641\u0627",
    "\U0001f6cb\ufe0f\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd",
    "Z\u0351\u036b\u0343\u036a\u0302a\u030d\u0319l\u0301\u0330g\u0321o\u0310",
    "\x00\x01\x1f\x7f\x85\ufeff\u200b\u200e\ufffd\ufffe",
    "a" * 1_000,
    "\u00e9" * 300 + " " + "\U0001f600" * 100,
    "supercalifragilistic" * 20,
    "[CLS] red [SEP] sofa [PAD] [MASK] [UNK]",
    "<s> red </s> sofa <pad> <mask> <unk> </s></s>",
    "\u2581red\u2581sofa \u0120red\u0120sofa ##red ##sofa",
    "don't can't I'll we've ''quoted'' \u201cquoted\u201d --- ... !?!",
    "1,234.56 $9.99 50% 10\u00b2 \u00bd \u2167 \ufb01ne \uff26\uff35\uff2c\uff2c",
]

SIDES = st.sampled_from(["Right", "Left"])
TEXTS = st.text(max_size=40) | st.sampled_from(NASTY) | st.lists(st.sampled_from(NASTY), max_size=4).map(" ".join)


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That a tokenizer of the family was saved to."""
    path = tmp_path_factory.mktemp(request.param)
    family_tokenizer(request.param, NASTY).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def theirs(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def content(folder: Path) -> bytes:
    return load_tokenizer(folder, 10_000, 16).content


def same(ours: Tokenizer, theirs: PreTrainedTokenizerBase, texts: tuple[str, ...]) -> None:
    cut = "longest_first" if len(texts) == 2 else True
    columns = [[text] for text in texts]  # one pair alone would be one text to it where the second is empty
    batch = theirs(*columns, truncation=cut, max_length=ours.max_length)
    ids = batch["input_ids"][0]
    types = batch["token_type_ids"][0] if "token_type_ids" in batch else [0] * len(ids)  # what a model then takes
    found = ours.encode([texts])
    assert found.ids.tolist() == ids
    assert found.types.tolist() == types
    assert ours.joined(*map(ours.single, texts)) == (ids, types)  # as the server puts pairs together


@pytest.mark.parametrize("longest", [8, 64])
def test_ids_of_nasty_texts_are_those_of_transformers(
    content: bytes, theirs: PreTrainedTokenizerBase, longest: int
) -> None:
    ours = Tokenizer(content, longest)
    for number, text in enumerate(NASTY):
        same(ours, theirs, (text,))
        same(ours, theirs, (text, NASTY[number - 1]))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(first=TEXTS, second=TEXTS, longest=st.integers(6, 40))
def test_ids_of_any_texts_are_those_of_transformers(
    content: bytes, theirs: PreTrainedTokenizerBase, first: str, second: str, longest: int
) -> None:
    ours = Tokenizer(content, longest)
    same(ours, theirs, (first,))
    same(ours, theirs, (first, second))


WORDS = st.lists(
    st.sampled_from([*NASTY, *["red", "sofa", "3", "Straße", "диван", "沙发"]]),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=WORDS.map(" ".join), second=WORDS.map(" ".join), longest=st.integers(6, 12), side=SIDES)
def test_texts_are_cut_before_they_are_joined_as_transformers_cuts_them(
    content: bytes, theirs: PreTrainedTokenizerBase, first: str, second: str, longest: int, side: str
) -> None:
    """Every text is longer than what is read of it at first, and counted in pieces of a few characters."""
    changed = json.loads(content)
    changed["truncation"] = {"direction": side, "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    ours = Tokenizer(json.dumps(changed).encode(), longest)
    theirs.truncation_side = side.lower()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenize, "CHARACTERS_PER_TOKEN", 1)
        patch.setattr(tokenize, "PIECE", 4)
        same(ours, theirs, (first,))
        same(ours, theirs, (first, second))
    theirs.truncation_side = "right"
