"""Texts to ragged batches: as transformers' tokenizer makes them, cut from the longer text."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import wordpiece

from prunetime.errors import InputError
from prunetime.inference.ragged import Ragged
from prunetime.inference.tokenize import Tokenizer

WORDS = ["red sofa for two", "velvet couch", "cordless drill with battery", "blue shirt in cotton"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = wordpiece(WORDS, 60)
    tokenizer.enable_padding(length=32)
    tokenizer.enable_truncation(5)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


NASTY = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.tuples(NASTY) | st.tuples(NASTY, NASTY), min_size=1, max_size=4), length=st.integers(5, 20))
def test_ids_are_those_of_transformers(file: Path, texts: list[tuple[str, ...]], length: int) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(file), pad_token="[PAD]", model_input_names=["input_ids", "token_type_ids"]
    )
    got = Tokenizer(file.read_bytes(), length).encode(texts)
    for row, text in enumerate(texts):
        expected = theirs(*text, truncation="longest_first", max_length=length)
        span = slice(got.offsets[row], got.offsets[row + 1])
        assert got.ids[span].tolist() == expected["input_ids"]
        assert got.types[span].tolist() == expected["token_type_ids"]


def test_the_longer_text_is_cut_first(file: Path) -> None:
    tokens = Tokenizer(file.read_bytes(), 20).encode([("red sofa", " ".join(WORDS * 3))])
    assert tokens.lengths.tolist() == [20]
    assert (tokens.types == 0).sum() == len(Tokenizer(file.read_bytes(), 99).encode([("red sofa",)]).ids)


def test_bytes_that_are_no_tokenizer_are_refused() -> None:
    with pytest.raises(InputError, match="tokenizer cannot be read"):
        Tokenizer(b"{}", 16)


ROWS = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=12)


@given(ROWS, st.data())
def test_selecting_batching_and_padding_keep_every_sequence(rows: list[list[int]], data: st.DataObject) -> None:
    ragged = Ragged.of(rows, [[i % 2 for i in row] for row in rows])
    order = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    chosen = ragged.select(order)
    unpacked = [chosen.ids[a:b].tolist() for a, b in zip(chosen.offsets[:-1], chosen.offsets[1:], strict=True)]
    assert unpacked == [rows[i] for i in order]
    limit = data.draw(st.integers(1, 30))
    parts = list(ragged.batches(limit))
    assert np.concatenate([part.ids for part in parts]).tolist() == ragged.ids.tolist()
    assert all(len(part.ids) <= limit or len(part) == 1 for part in parts)
    ids, mask, types = ragged.padded(0)
    assert ids[mask == 1].tolist() == ragged.ids.tolist()
    assert types[mask == 1].tolist() == ragged.types.tolist()
    assert (ids[mask == 0] == 0).all()
