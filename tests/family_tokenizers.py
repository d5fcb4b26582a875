"""Tokenizers of every family, trained on a few texts, as transformers has and saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizer,
    CamembertTokenizer,
    DistilBertTokenizer,
    ElectraTokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from prunetime.inference.tokenize import Tokenizer
from prunetime.models.tokenization import load_tokenizer

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def family_tokenizer(family: str, texts: list[str]) -> PreTrainedTokenizerBase:
    return {
        "bert": lambda: BertTokenizer(vocab=_word_pieces(texts)),
        "roberta": lambda: RobertaTokenizer(*_byte_pairs(texts)),
        "xlm-roberta": lambda: XLMRobertaTokenizer(vocab=_unigrams(texts)),
        "camembert": lambda: CamembertTokenizer(vocab=_unigrams(texts)),
        "distilbert": lambda: DistilBertTokenizer(vocab=_word_pieces(texts), do_lower_case=False),
        "electra": lambda: ElectraTokenizer(vocab=_word_pieces(texts)),
        "modernbert": lambda: _modern(texts),
        "mpnet": lambda: MPNetTokenizer(vocab=_word_pieces(texts, ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"])),
    }[family]()


def tokenizer_of(folder: Path, max_length: int) -> Tokenizer:
    """The tokenizer of a folder, as an artifact of its model has it."""
    return Tokenizer(load_tokenizer(folder, 10_000, max_length).content, max_length)


def _word_pieces(texts: list[str], special: list[str] | None = None) -> dict[str, int]:
    tokenizer = tokenizers.BertWordPieceTokenizer()
    special = special or ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(texts, vocab_size=400, min_frequency=1, special_tokens=special, show_progress=False)
    return tokenizer.get_vocab()


def _modern(texts: list[str]) -> PreTrainedTokenizerFast:
    """ModernBERT's: GPT-NeoX's byte pairs in BERT's template."""
    special = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), bytes_
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    names = {f"{name}_token": token for name, token in special.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _byte_pairs(texts: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    bytes_ = pre_tokenizers.ByteLevel
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=bytes_.alphabet(), show_progress=False
    )
    found = _trained(models.BPE(), bytes_(add_prefix_space=False), trainer, texts)
    return found["vocab"], [tuple(merge) for merge in found["merges"]]


def _unigrams(texts: list[str]) -> list[tuple[str, float]]:
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    found = _trained(models.Unigram(), pre_tokenizers.Metaspace(), trainer, texts)
    # of few digits: the tokenizers library loads some scores of 17 a bit off, and ties between splits end otherwise
    return [(piece, round(score, 6)) for piece, score in found["vocab"]]


def _trained(model: Any, words: Any, trainer: Any, texts: list[str]) -> dict[str, Any]:
    """What the model has learned, as JSON."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = words
    tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.to_str())["model"]
