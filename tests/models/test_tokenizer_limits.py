"""Tokenizers that a model cannot run with are refused when they are read, and what only a class adds is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import SPECIAL, bert_folder, wordpiece, write_tsv
from transformers import AutoTokenizer

from prunetime.core.budget import Budget
from prunetime.errors import InputError
from prunetime.inference.tokenize import Tokenizer
from prunetime.models.tokenization import load_tokenizer
from prunetime.pipeline.source import Source, load_source
from prunetime.settings import Settings
from prunetime.tasks.synthetic import ad_relevance

VOCABULARY = {word: number for number, word in enumerate([*SPECIAL, "red", "sofa", "##s"])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BERT with a tokenizer, and ads to score."""
    write_tsv(ad_relevance(800, 0), tmp_path / "ads.tsv")
    return bert_folder(tmp_path / "bert")


def write(folder: Path, name: str, **settings: Any) -> None:
    """Changes fields of a JSON file, which is made where there is none."""
    file = folder / name
    data = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**data, **settings}))


def source_of(folder: Path, *text: str) -> Source:
    data = str(folder.parent / "ads.tsv")
    settings = Settings(
        str(folder), data, Budget(share=0.5, seq_len=24), text=text or ("query", "title"), label="label"
    )
    return load_source(settings, print)


def with_vocabulary(folder: Path, vocabulary: dict[str, int]) -> Path:
    """A folder of a BERT tokenizer, the other files of which are not read here."""
    tokenizer = json.loads(wordpiece(["red sofa"]).to_str())
    tokenizer["model"]["vocab"] = vocabulary
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] in vocabulary]
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


def test_the_highest_id_counts_and_not_the_number_of_tokens(tmp_path: Path) -> None:
    folder = with_vocabulary(tmp_path / "gap", {**VOCABULARY, "lamp": 40})
    assert load_tokenizer(folder, 41, 8)
    with pytest.raises(InputError, match=r"token 'lamp' with the id 40; .* table end at 39 \(vocab_size 40\)"):
        load_tokenizer(folder, 40, 8)


def test_a_run_begins_with_that(folder: Path) -> None:
    highest = max(AutoTokenizer.from_pretrained(folder).get_vocab().values())
    write(folder, "added_tokens.json", acmecorp=highest + 1)
    with pytest.raises(InputError, match=rf"'acmecorp' with the id {highest + 1}; .* end at {highest} "):
        source_of(folder)


def test_tokens_that_a_class_adds_by_name_alone_are_left_out_where_the_table_ends_before_them(tmp_path: Path) -> None:
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "sofa"])}
    folder = with_vocabulary(tmp_path / "unmasked", vocabulary)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs.mask_token_id == len(vocabulary)  # transformers runs the model all the same
    found = load_tokenizer(folder, len(vocabulary), 8)
    assert "mask_token" not in found.special_tokens
    ids = Tokenizer(found.content, 8).encode([("red sofa", "lamp")]).ids
    assert ids.tolist() == theirs("red sofa", "lamp")["input_ids"]
    write(folder, "tokenizer_config.json", mask_token="[MASK]")
    with pytest.raises(InputError, match=r"token '\[MASK\]' with the id 6"):
        load_tokenizer(folder, len(vocabulary), 8)


def test_token_types_beyond_the_table(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    write(folder, "config.json", type_vocab_size=1)
    tensors = load_file(folder / "model.safetensors")
    types = next(name for name in tensors if "token_type" in name)
    save_file({**tensors, types: tensors[types][:1].clone()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"the type 1; the model has 1 token types \(type_vocab_size\)"):
        source_of(folder)
    source_of(folder, "title")  # one text has no token of type 1
    write(folder, "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    tokens = source_of(folder).train.tokens  # as transformers, which gives the model no types, and it takes 0
    assert tokens.types.max() == 0


def test_a_folder_without_a_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == 5  # to which every word is unknown
    with pytest.raises(InputError, match=r"no usable tokenizer: it has none of tokenizer.json, vocab.txt"):
        load_tokenizer(tmp_path, 50, 8)


def test_classes_in_python_are_refused_by_name(tmp_path: Path) -> None:
    folder = with_vocabulary(tmp_path / "python", VOCABULARY)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    write(folder, "tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer", word_tokenizer_type="basic")
    with pytest.raises(InputError, match=r"tokenizer_class .*BertJapaneseTokenizer"):
        load_tokenizer(folder, 50, 8)


def test_special_tokens_that_are_text_and_no_words_of_the_model(tmp_path: Path) -> None:
    folder = with_vocabulary(tmp_path / "split", VOCABULARY)
    write(folder, "tokenizer_config.json", split_special_tokens=True)
    assert load_tokenizer(folder, 50, 8).splits_special_tokens
    write(folder, "tokenizer_config.json", extra_special_tokens=["[BRAND]"])
    with pytest.raises(InputError, match=r"split_special_tokens .* '\[BRAND\]'"):
        load_tokenizer(folder, 50, 8)


def test_parts_of_tokenizer_json_that_transformers_replaces_are_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source_of(folder)
    assert "AutoTokenizer" not in capsys.readouterr().out
    write(folder, "tokenizer_config.json", do_lower_case=False)
    source_of(folder)
    assert "has the normalizer of its class in transformers" in capsys.readouterr().out
