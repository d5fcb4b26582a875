"""A tiny pretrained BERT on disk and a generated task: real parts, small enough for tests."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

from prunetime.tasks.synthetic import ad_relevance
from prunetime.tasks.table import Table

FEW_CALLS = {
    "PRUNETIME_PRUNE_VERIFY_SECONDS": "0",
    "PRUNETIME_PRUNE_VERIFY_ROUNDS": "4",
    "PRUNETIME_PRUNE_VERIFY_CALLS": "8",
    "PRUNETIME_PRUNE_PROFILE_CALLS": "2",
    "PRUNETIME_PROFILE_PROFILE_CALLS": "2",
}

FEW_ROWS = {
    "name": "quick",
    **{"teacher_rows": 2_000, "teacher_epochs": 1, "tune_rows": 2_000, "tune_epochs": 1, "learning_rate": 1e-4},
    **{"tune_learning_rate": 1e-4, "elastic_learning_rate": 5e-5, "importance_rows": 512, "elastic_rows": 0},
    **{"elastic_epochs": 1, "evaluations": 80, "score_rows": 500, "finalists": 8, "finalist_rows": 1_500},
}
"""The plan of a run that is done in seconds, as version 0.1 recorded it."""

QUICK = [
    "import dataclasses, sys",
    f"sys.path.insert(0, {str(Path(__file__).parent)!r})",
    "import counted_time",
    "counted_time.install_for_command()",
    "import os",
    f"os.environ.update({FEW_CALLS!r})",
    "from prunetime.core.effort import EFFORTS, RunPlan",
    f"EFFORTS['quick'] = RunPlan(**{FEW_ROWS!r})",
]
"""What a process does first in which a run trains for a few steps and times few calls. These are as good as many:
`counted_time` has no noise."""

QUICK_PRUNETIME = [sys.executable, "-c", "; ".join([*QUICK, "from prunetime.cli import main", "main()"])]
"""The real command line in little time."""

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_tsv(table: Table, path: Path, rows: slice = slice(None)) -> Path:
    """The table as a TSV file with a header row."""
    lines = ["\t".join(table.columns), *map("\t".join, list(zip(*table.columns.values(), strict=True))[rows])]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def wordpiece(texts: list[str], vocabulary: int = 400) -> Tokenizer:
    """A WordPiece tokenizer of BERT's kind, of the letters and the commonest words of `texts`.

    It is not trained: of pieces that are as common, a trainer takes others each time, so that models differ each time.
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted(set("".join(words)))
    common = sorted(words, key=lambda word: (-words[word], word))
    pieces = dict.fromkeys([*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *common])
    ids = {piece: index for index, piece in enumerate(list(pieces)[:vocabulary])}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def bert_folder(folder: Path, seed: int = 0, positions: int = 64, texts: list[str] | None = None) -> Path:
    """A random 2-layer BERT with a tokenizer for `texts`, by default of the generated ads, as `save_pretrained` leaves
    it."""
    folder.mkdir(parents=True)
    columns = ad_relevance(200, 0).columns
    tokenizer = wordpiece(columns["query"] + columns["title"] if texts is None else texts)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=positions,
        initializer_range=0.1,  # five times the usual: what every layer adds is of the size of what it adds to
    )
    BertModel(config).save_pretrained(folder)
    return folder


def distilbert_folder(folder: Path, texts: list[str]) -> Path:
    """A random 1-layer DistilBERT of hidden size 32, with a vocabulary of its own."""
    tokenizer = wordpiece(texts)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(1)
    config = DistilBertConfig(
        vocab_size=tokenizer.get_vocab_size(), dim=32, n_layers=1, n_heads=2, hidden_dim=64,
        max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    DistilBertModel(config).save_pretrained(folder)
    return folder


def write_inputs(folder: Path) -> Path:
    """What `prune_command` reads: the BERT, and its ads."""
    bert_folder(folder / "bert")
    write_tsv(ad_relevance(800, 0), folder / "ads.tsv")
    return folder


def prune_command(inputs: Path, out: Path, *more: str) -> list[str]:
    """Prunes the BERT of the folder `inputs` on its ads to 70 % of its latency."""
    return [
        *QUICK_PRUNETIME, "prune", "--model", str(inputs / "bert"), "--data", str(inputs / "ads.tsv"),
        "--text", "query,title", "--label", "label", "--group", "query", "--slice", "unseen:product_uid",
        "--latency", "70%", "--tokens", "--blocks", "16x16", "--seq-len", "24", "--effort", "quick", "--out", str(out),
        "--precision", "fp32", "--json", *more,
    ]  # fmt: skip


def last_object(output: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found
