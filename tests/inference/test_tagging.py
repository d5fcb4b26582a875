"""The words of a text and the tokens that stand for them: as transformers aligns them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from family_tokenizers import family_tokenizer, tokenizer_of
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from prunetime.core.task import Task
from prunetime.inference.reading import read
from prunetime.inference.tagging import NO_LABEL, Words, words_of
from prunetime.inference.tokenize import Tokenizer

TEXTS = ["Peter Blackburn lives in Łódź , not in New-York", "don't stop", "a\u0301 b \u4e2d\u6587 c", "  spaced   out "]
TASK = Task("token-classification", ("O", "B-X", "I-X"), ("tokens",), 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert")
    family_tokenizer("bert", TEXTS).save_pretrained(path)
    return path


def labels_for(found: Words) -> np.ndarray:
    labels = np.empty(len(found.texts), object)
    for row, words in enumerate(found.words):
        labels[row] = tuple(TASK.labels[i % 3] for i in range(len(words)))
    return labels


def test_first_tokens_and_targets_are_those_of_run_ner(folder: Path) -> None:
    theirs, ours = AutoTokenizer.from_pretrained(folder), tokenizer_of(folder, TASK.max_length)
    found = read(ours, TASK, [(text,) for text in TEXTS])
    assert isinstance(found, Words)
    targets = found.targets(labels_for(found))
    for row, text in enumerate(TEXTS):
        split = theirs(text.split(), is_split_into_words=True, truncation=True, max_length=TASK.max_length)
        at = slice(*found.tokens.offsets[row : row + 2])
        assert found.tokens.ids[at].tolist() == split["input_ids"]
        expected, last = [], None
        for word in split.word_ids():
            expected.append(NO_LABEL if word is None or word == last else word % 3)
            last = word
        assert targets[at].tolist() == expected


@pytest.mark.parametrize("family", ["roberta", "camembert", "modernbert"])
def test_every_word_that_fits_has_one_first_token(family: str, tmp_path: Path) -> None:
    family_tokenizer(family, TEXTS).save_pretrained(tmp_path)
    found = read(tokenizer_of(tmp_path, 128), TASK, [(text,) for text in TEXTS])
    assert isinstance(found, Words)
    for row, text in enumerate(TEXTS):
        word = found.word[slice(*found.tokens.offsets[row : row + 2])]
        assert word[word >= 0].tolist() == list(range(len(text.split())))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_any_text_is_read(folder_texts: list[str]) -> None:
    from tiny import wordpiece

    tokenizer = Tokenizer(wordpiece(TEXTS).to_str().encode(), 8)
    found = read(tokenizer, TASK, [(text,) for text in folder_texts])
    assert isinstance(found, Words)
    scores = found.scores(np.zeros((found.tokens.ids.size, 3), np.float32))
    for text, tagged in zip(folder_texts, scores, strict=True):
        assert tagged.words == words_of(text)
        assert len(tagged.labels) == len(tagged.probabilities) == len(text.split())


def test_labels_are_those_of_the_likeliest_and_cut_words_get_the_first(folder: Path) -> None:
    found = read(tokenizer_of(folder, 5), TASK, [("Peter Peter Peter Peter Peter",), ("stop",)])
    assert isinstance(found, Words)
    logits = np.zeros((found.tokens.ids.size, 3), np.float32)
    logits[:, 2] = np.log(2.0)
    first, second = found.select(np.array([1, 0])).scores(
        np.concatenate([logits[found.tokens.offsets[1] :], logits[: found.tokens.offsets[1]]])
    )
    assert first.labels == ("I-X",)
    assert first.probabilities == (pytest.approx(0.5),)
    assert second.labels[0] == "I-X"
    assert second.labels[-1] == "O"
    assert second.probabilities[-1] == 0.0
    assert second.spans[0].text.startswith("Peter")
