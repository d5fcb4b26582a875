"""Tiny folders of sentence-transformers, and the artifacts that a run makes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from checkpoints import bert
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Pooling, Transformer
from tiny import SPECIAL, wordpiece, write_tsv
from tokenizers import Tokenizer, normalizers
from transformers import BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from prunetime.core.arch import ArchSpec
from prunetime.core.budget import Budget
from prunetime.core.precision import PrecisionPlan
from prunetime.models.compact import compact, prefix_mask
from prunetime.models.encoder import weights_of
from prunetime.pipeline.source import load_source
from prunetime.pipeline.student import manifest_of, write_artifact
from prunetime.settings import Settings
from prunetime.tasks.synthetic import ad_relevance

LENGTH = 24
TEXTS = ["red sofa", "Velvet couch in RED, 3 seats", "garden hose 20m with a nozzle and a reel for the whole yard"]
PAIRS = [("red sofa", TEXTS[1]), ("garden hose", TEXTS[2]), ("garden hose", "red sofa")]


@cache
def made_tokenizer() -> Tokenizer:
    """A cased tokenizer."""
    columns = ad_relevance(200, 0).columns
    tokenizer = wordpiece(columns["query"] + columns["title"])
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    return tokenizer


def ads(folder: Path) -> Path:
    """Some labelled pairs."""
    return write_tsv(ad_relevance(120, 0), folder / "ads.tsv")


def encoder_folder(folder: Path, model: type[Any] = BertModel, **settings: Any) -> Path:
    """A BERT of transformers with its tokenizer."""
    tokenizer = made_tokenizer()
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 64}
    bert(model, **sizes, **settings).save_pretrained(folder)
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=LENGTH, model_input_names=inputs, **names
    )
    wrapped.save_pretrained(folder)
    return folder


def sentence_folder(folder: Path, *after: Any, mode: str = "mean", **settings: Any) -> Path:
    """A SentenceTransformer: the encoder, Pooling, and the modules `after` it."""
    transformer = Transformer(str(encoder_folder(folder.with_name(f"{folder.name}-encoder"))))
    SentenceTransformer(modules=[transformer, Pooling(32, mode), *after], **settings).save_pretrained(str(folder))
    return folder


def trained_norm() -> LayerNorm:
    """A LayerNorm that is not at its neutral value."""
    torch.manual_seed(2)
    module = LayerNorm(32)
    torch.nn.init.normal_(module.norm.weight)
    torch.nn.init.normal_(module.norm.bias)
    return module


def cross_encoder_folder(folder: Path, **settings: Any) -> Path:
    """A CrossEncoder of one logit: the encoder with the head of transformers."""
    source = encoder_folder(
        folder.with_name(f"{folder.name}-encoder"), BertForSequenceClassification, num_labels=settings.pop("labels", 1)
    )
    CrossEncoder(str(source), **settings).save_pretrained(str(folder))
    return folder


def modular_cross_encoder_folder(folder: Path, labels: int = 1, mode: str = "cls") -> Path:
    """A CrossEncoder as the Ettin rerankers are stored: the head is a chain of modules after Pooling."""
    transformer = Transformer(str(encoder_folder(folder.with_name(f"{folder.name}-encoder"))))
    torch.manual_seed(1)
    last = Dense(32, labels, activation_function=torch.nn.Identity(), module_output_name="scores")
    first = Dense(32, 32, activation_function=torch.nn.GELU())
    modules = [transformer, Pooling(32, mode), first, trained_norm(), last]
    CrossEncoder(modules=modules).save_pretrained(str(folder))
    return folder


def edit(path: Path, change: Mapping[str, Any]) -> None:
    """Changes fields of a JSON file, which need not be there."""
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | dict(change)))


def artifact_of(folder: Path, out: Path, data: Path, pruned: bool = False, **settings: Any) -> Path:
    """The artifact of a model as it is, or of a part of it, as a run with these settings writes it."""
    columns = {"text": ("query", "title"), "label": "label", "group": "product_uid"}
    budget = Budget(share=0.9, seq_len=settings.pop("seq_len", LENGTH))
    source = load_source(Settings(str(folder), str(data), budget, **{"teacher_ready": True} | columns | settings), str)
    model = source.pretrained.model
    manifest, weights = manifest_of(source, model, PrecisionPlan(), {}), weights_of(model)
    if pruned:
        dims = model.config.dims
        mask = prefix_mask(weights, ArchSpec.of(dims, [1, 2], [64, 32]), dims)
        weights, manifest = compact(weights, mask, dims), replace(manifest, spec=mask.spec())
    write_artifact(out, source, manifest, weights)
    return out
