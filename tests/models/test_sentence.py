"""Folders of sentence-transformers: what prunetime makes of them gives their numbers, and so does sentence-transformers
of our artifacts, pruned or not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_folders as folders
import torch
from huggingface_hub.utils import filter_repo_objects
from sentence_folders import PAIRS, TEXTS, artifact_of, edit
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Dropout, Normalize
from torch import nn

import prunetime
from prunetime.core import artifact
from prunetime.errors import InputError
from prunetime.inference.model import load_token_engine
from prunetime.models.checkpoint import SAFETENSORS, SMALL_FILES
from prunetime.models.sentence import lower_cased, read_folder
from prunetime.pipeline.source import check_trainable, load_source
from prunetime.settings import Settings

CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.ads(tmp_path_factory.mktemp("data"))


SENTENCE_TRANSFORMERS: dict[str, Callable[[Path], Path]] = {
    **{
        mode: lambda folder, mode=mode: folders.sentence_folder(folder, mode=mode)
        for mode in ("cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    },
    "Normalize": lambda folder: folders.sentence_folder(folder, Normalize()),
    "Dense": lambda folder: folders.sentence_folder(folder, Dense(32, 8), Dropout(0.5), Normalize()),
    "Dense, LayerNorm, Dense": lambda folder: folders.sentence_folder(
        folder,
        Dense(32, 48, activation_function=nn.GELU()),
        Dense(48, 32, bias=False),
        folders.trained_norm(),
        mode="max",
    ),
    "default prompt": lambda folder: folders.sentence_folder(
        folder, Normalize(), prompts={"query": "velvet couch: ", "other": "hose "}, default_prompt_name="query"
    ),
    "truncate_dim": lambda folder: folders.sentence_folder(folder, Normalize(), truncate_dim=12),
}


@pytest.mark.parametrize("name", SENTENCE_TRANSFORMERS)
def test_embeddings_are_those_of_sentence_transformers_both_ways(name: str, data: Path, tmp_path: Path) -> None:
    source = SENTENCE_TRANSFORMERS[name](tmp_path / "source")
    theirs = SentenceTransformer(str(source))
    whole = artifact_of(source, tmp_path / "whole", data, task="similarity")
    expected = theirs.encode(TEXTS)
    np.testing.assert_allclose(prunetime.load(whole).embed(TEXTS), expected, **CLOSE)
    np.testing.assert_allclose(SentenceTransformer(str(whole)).encode(TEXTS), expected, **CLOSE)
    pruned = artifact_of(source, tmp_path / "pruned", data, pruned=True, task="similarity")
    ours, again = prunetime.load(pruned), SentenceTransformer(str(pruned))
    assert np.abs(ours.embed(TEXTS) - expected).max() > 1e-3
    np.testing.assert_allclose(ours.embed(TEXTS), again.encode(TEXTS), **CLOSE)
    tokens = ours.read_single(TEXTS).tokens
    states = load_token_engine(pruned, ours).logits(replace(tokens, skipped=None))
    of_tokens = [rows.numpy() for rows in again.encode(TEXTS, output_value="token_embeddings")]
    np.testing.assert_allclose(states, np.concatenate(of_tokens), **CLOSE)
    assert again.similarity_fn_name == theirs.similarity_fn_name
    assert (again.prompts, again.default_prompt_name) == (theirs.prompts, theirs.default_prompt_name)
    assert again.max_seq_length == folders.LENGTH


def test_prompts_go_before_texts_by_their_names(data: Path, tmp_path: Path) -> None:
    prompts = {"query": "velvet couch: ", "passage": "garden "}
    source = folders.sentence_folder(tmp_path / "source", prompts=prompts, default_prompt_name="query")
    theirs, folder = SentenceTransformer(str(source)), artifact_of(source, tmp_path / "a", data, task="similarity")
    ours, again = prunetime.load(folder), SentenceTransformer(str(folder))
    for chosen in ({}, {"prompt_name": "passage"}, {"prompt_name": "document"}, {"prompt": ""}, {"prompt": "hose "}):
        expected = theirs.encode(TEXTS, **chosen)
        np.testing.assert_allclose(ours.embed(TEXTS, **chosen), expected, **CLOSE)
        np.testing.assert_allclose(again.encode(TEXTS, **chosen), expected, **CLOSE)
    with pytest.raises(InputError, match="no prompt 'passages'; it has query, document, passage"):
        ours.embed(TEXTS, prompt_name="passages")
    with pytest.raises(InputError, match="give one of them"):
        ours.embed(TEXTS, prompt_name="query", prompt="a ")


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_tokens_of_a_prompt_may_be_left_out_of_pooling(mode: str, data: Path, tmp_path: Path) -> None:
    source = folders.sentence_folder(tmp_path / "source", mode=mode, prompts={"query": "velvet couch: "})
    edit(source / "1_Pooling" / "config.json", {"include_prompt": False})
    theirs, folder = SentenceTransformer(str(source)), artifact_of(source, tmp_path / "a", data, task="similarity")
    ours, again = prunetime.load(folder), SentenceTransformer(str(folder))
    for chosen in ({}, {"prompt_name": "query"}, {"prompt": "red"}):
        expected = theirs.encode(TEXTS, **chosen)
        np.testing.assert_allclose(ours.embed(TEXTS, **chosen), expected, **CLOSE)
        np.testing.assert_allclose(again.encode(TEXTS, **chosen), expected, **CLOSE)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
@pytest.mark.parametrize("truncate_dim", [None, 9])
def test_pairs_are_scored_by_the_similarity_of_the_model(
    similarity: str, truncate_dim: int | None, data: Path, tmp_path: Path
) -> None:
    settings = {"similarity_fn_name": similarity, "truncate_dim": truncate_dim}
    source = folders.sentence_folder(tmp_path / "source", **settings)
    theirs = SentenceTransformer(str(source))
    left, right = (theirs.encode([pair[side] for pair in PAIRS]) for side in (0, 1))
    expected = theirs.similarity_pairwise(left, right)
    folder = artifact_of(source, tmp_path / "a", data, task="similarity")
    np.testing.assert_allclose(prunetime.load(folder).score(PAIRS), expected, rtol=1e-5, atol=1e-5)
    assert SentenceTransformer(str(folder)).similarity_fn_name == similarity


@pytest.mark.parametrize(("similarity", "normalized", "fits"), [
    ("cosine", False, True), ("dot", True, True), ("euclidean", True, True),
    ("dot", False, False), ("euclidean", False, False), ("manhattan", True, False),
])  # fmt: skip
def test_a_run_trains_only_where_cosines_order_pairs_as_the_model_does(
    similarity: str, normalized: bool, fits: bool, data: Path, tmp_path: Path
) -> None:
    modules = [Normalize()] if normalized else []
    source = folders.sentence_folder(tmp_path / "source", *modules, similarity_fn_name=similarity)
    settings = settings_of(source, data, task="similarity")
    loaded = load_source(settings, str)
    if fits:
        check_trainable(loaded, settings)
    else:
        with pytest.raises(InputError, match=f"similarity_fn_name '{similarity}'"):
            check_trainable(loaded, settings)


def test_an_encoder_becomes_a_model_of_embeddings_of_length_one(data: Path, tmp_path: Path) -> None:
    source = folders.encoder_folder(tmp_path / "encoder")
    folder = artifact_of(source, tmp_path / "a", data, task="similarity")
    found = prunetime.load(folder).embed(TEXTS)
    expected = SentenceTransformer(str(source)).encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(found, expected, **CLOSE)
    np.testing.assert_allclose(SentenceTransformer(str(folder)).encode(TEXTS), expected, **CLOSE)


def test_embeddings_of_artifacts_of_before_are_of_length_one(data: Path, tmp_path: Path) -> None:
    folder = artifact_of(folders.sentence_folder(tmp_path / "source"), tmp_path / "a", data, task="similarity")
    path = folder / artifact.MANIFEST
    manifest = json.loads(path.read_text())
    for name in ("prompts", "embedding", "activation"):
        del manifest["task"][name]
    path.write_text(json.dumps(manifest))
    found = prunetime.load(folder).embed(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)


def test_longer_texts_than_the_model_reads_are_refused_by_the_name_of_the_limit(data: Path, tmp_path: Path) -> None:
    source = folders.sentence_folder(tmp_path / "source")
    edit(source / "tokenizer_config.json", {"model_max_length": 16})
    with pytest.raises(InputError, match=r"--seq-len 24 is longer than the 16 tokens .*model_max_length"):
        load_source(settings_of(source, data, task="similarity"), str)
    edit(source / "sentence_bert_config.json", {"max_seq_length": 8})  # as it was until version 5
    with pytest.raises(InputError, match=r"--seq-len 24 is longer than the 8 tokens .*max_seq_length"):
        load_source(settings_of(source, data, task="similarity"), str)
    folder = artifact_of(source, tmp_path / "a", data, task="similarity", seq_len=8)
    expected = SentenceTransformer(str(source)).encode(TEXTS)
    np.testing.assert_allclose(prunetime.load(folder).embed(TEXTS), expected, **CLOSE)
    np.testing.assert_allclose(SentenceTransformer(str(folder)).encode(TEXTS), expected, **CLOSE)


@pytest.mark.parametrize(("normalizer", "expected"), [
    (None, {"type": "Lowercase"}),
    ({"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "NFC"}]}),
    ({"type": "Sequence", "normalizers": [{"type": "NFC"}]},
     {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "NFC"}]}),
])  # fmt: skip
def test_a_tokenizer_lower_cases_first(normalizer: Mapping[str, Any] | None, expected: Mapping[str, Any]) -> None:
    assert lower_cased(normalizer) == expected
    assert lower_cased(expected) == expected


def settings_of(folder: Path, data: Path, **settings: Any) -> Settings:
    columns = {"text": ("query", "title"), "label": "label", "group": "product_uid", "teacher_ready": True}
    return Settings(str(folder), str(data), prunetime.Budget(share=0.9, seq_len=folders.LENGTH), **columns | settings)


CROSS_ENCODERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "relevance": (folders.cross_encoder_folder, "relevance"),
    "relevance, Identity": (
        lambda folder: folders.cross_encoder_folder(folder, activation_fn=nn.Identity()),
        "relevance",
    ),
    "regression": (folders.cross_encoder_folder, "regression"),
    "regression, Identity": (
        lambda folder: folders.cross_encoder_folder(folder, activation_fn=nn.Identity()),
        "regression",
    ),
    "classification": (lambda folder: folders.cross_encoder_folder(folder, labels=2), "classification"),
    "classification, Sigmoid": (
        lambda folder: folders.cross_encoder_folder(folder, labels=2, activation_fn=nn.Sigmoid()),
        "classification",
    ),
    "prompts": (
        lambda folder: folders.cross_encoder_folder(folder, prompts={"a": "garden "}, default_prompt_name="a"),
        "relevance",
    ),
    "modular": (folders.modular_cross_encoder_folder, "relevance"),
    "modular, mean": (lambda folder: folders.modular_cross_encoder_folder(folder, mode="mean"), "regression"),
    "modular, two labels": (lambda folder: folders.modular_cross_encoder_folder(folder, labels=2), "classification"),
}


@pytest.mark.parametrize("name", CROSS_ENCODERS)
def test_predictions_are_those_of_cross_encoders_both_ways(name: str, data: Path, tmp_path: Path) -> None:
    make, task = CROSS_ENCODERS[name]
    source = make(tmp_path / "source")
    whole = artifact_of(source, tmp_path / "whole", data, task=task)
    expected = CrossEncoder(str(source)).predict(PAIRS)
    assert np.ptp(expected, axis=0).min() > 1e-3
    np.testing.assert_allclose(prunetime.load(whole).predict(PAIRS), expected, **CLOSE)
    np.testing.assert_allclose(CrossEncoder(str(whole)).predict(PAIRS), expected, **CLOSE)
    pruned = artifact_of(source, tmp_path / "pruned", data, pruned=True, task=task)
    found = prunetime.load(pruned).predict(PAIRS)
    assert np.abs(found - expected).max() > 1e-3
    np.testing.assert_allclose(found, CrossEncoder(str(pruned)).predict(PAIRS), **CLOSE)


def test_an_artifact_is_a_teacher_like_what_it_was_made_of(data: Path, tmp_path: Path) -> None:
    for name, make, task in (
        ("modular", folders.modular_cross_encoder_folder, "relevance"),
        ("sentence", SENTENCE_TRANSFORMERS["Dense"], "similarity"),
    ):
        first = artifact_of(make(tmp_path / name), tmp_path / f"{name}-1", data, task=task)
        again = artifact_of(first, tmp_path / f"{name}-2", data, task=task)
        models = [prunetime.load(folder) for folder in (first, again)]
        numbers = [model.predict(PAIRS) if task == "relevance" else model.embed(TEXTS) for model in models]
        np.testing.assert_array_equal(*numbers)
        assert models[0].manifest.task == models[1].manifest.task


def test_ranks_are_those_of_a_cross_encoder(data: Path, tmp_path: Path) -> None:
    source = folders.cross_encoder_folder(tmp_path / "source", activation_fn=nn.Identity())
    ours = prunetime.load(artifact_of(source, tmp_path / "a", data, task="relevance"))
    expected = CrossEncoder(str(source)).rank("garden hose", TEXTS)
    found = ours.rank("garden hose", TEXTS)
    assert [each["corpus_id"] for each in found] == [each["corpus_id"] for each in expected]
    np.testing.assert_allclose([each["score"] for each in found], [each["score"] for each in expected], **CLOSE)


def test_a_regression_that_is_trained_predicts_its_labels(data: Path, tmp_path: Path) -> None:
    """Its logits are trained to be the labels, so that no sigmoid may follow, whatever the model had before."""
    source = folders.cross_encoder_folder(tmp_path / "source")
    folder = artifact_of(source, tmp_path / "a", data, task="regression", teacher_ready=False)
    ours = prunetime.load(folder)
    np.testing.assert_array_equal(ours.predict(PAIRS), ours.score(PAIRS))
    np.testing.assert_allclose(CrossEncoder(str(folder)).predict(PAIRS), ours.score(PAIRS), **CLOSE)


@pytest.mark.parametrize(("where", "change"), [
    ("config.json", {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}),
    ("config.json", {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}),
    ("config.json", {}),
])  # fmt: skip
def test_activations_are_read_where_earlier_versions_wrote_them(
    where: str, change: Mapping[str, Any], data: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source-encoder"
    shutil.rmtree(folders.cross_encoder_folder(tmp_path / "source"))
    edit(source / where, change)
    ours = prunetime.load(artifact_of(source, tmp_path / "a", data, task="relevance"))
    np.testing.assert_allclose(ours.predict(PAIRS), CrossEncoder(str(source)).predict(PAIRS), **CLOSE)


def test_models_of_another_type_are_taken_as_encoders(data: Path, tmp_path: Path) -> None:
    """As sentence-transformers converts them: with a fresh head, or with mean pooling and no prompts."""
    sentence = folders.sentence_folder(
        tmp_path / "s", Dense(32, 8), prompts={"query": "a "}, default_prompt_name="query"
    )
    loaded = load_source(settings_of(sentence, data, task="relevance", teacher_ready=False), str)
    assert (loaded.pretrained.has_head, loaded.pretrained.config.head) == (False, None)
    assert loaded.task.prompts.resolve() == ""
    cross = folders.modular_cross_encoder_folder(tmp_path / "c")
    folder = artifact_of(cross, tmp_path / "a", data, task="similarity")
    expected = SentenceTransformer(str(cross)).encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(prunetime.load(folder).embed(TEXTS), expected, **CLOSE)


def test_training_reads_what_the_model_will(data: Path, tmp_path: Path) -> None:
    """Texts after the default prompt, whose tokens torch leaves out of pooling, too."""
    source = folders.sentence_folder(
        tmp_path / "source", prompts={"query": "velvet couch: "}, default_prompt_name="query", truncate_dim=7
    )
    edit(source / "1_Pooling" / "config.json", {"include_prompt": False})
    loaded = load_source(settings_of(source, data, task="similarity"), str)
    from prunetime.models.losses import task_losses

    batch = loaded.training_data(4, 0).batch([0, 1])
    labels = batch.pop("labels")
    with torch.no_grad():
        losses = task_losses(loaded.pretrained.model.eval()(**batch).logits, labels, loaded.task)
    chosen = np.sort(np.random.default_rng(0).permutation(len(loaded.roles.train))[:4])[:2]
    theirs = SentenceTransformer(str(source))
    left, right = (theirs.encode([loaded.roles.train.texts[row][side] for row in chosen]) for side in (0, 1))
    cosines = theirs.similarity_pairwise(left, right)
    np.testing.assert_allclose(losses, (cosines - labels) ** 2, rtol=1e-4, atol=1e-5)


def test_the_hub_is_asked_for_every_file_that_is_read(tmp_path: Path) -> None:
    folder = folders.modular_cross_encoder_folder(tmp_path / "source")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    asked = set(filter_repo_objects(names, allow_patterns=[*SMALL_FILES, SAFETENSORS]))
    read = {path.relative_to(folder).as_posix() for path in read_folder(folder, "relevance").files()}
    assert read - {"README.md"} <= asked
    assert {"modules.json", "1_Pooling/config.json", "2_Dense/model.safetensors", "4_Dense/config.json"} <= asked


def test_settings_go_through_json() -> None:
    from prunetime.core.embedding import EmbeddingSettings
    from prunetime.core.prompts import Prompts
    from prunetime.core.task import Task

    task = Task(
        "similarity", (), ("a", "b"), 24, prompts=Prompts({"q": "x"}, "q"),
        embedding=EmbeddingSettings(False, 3, "dot"),
    )  # fmt: skip
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task
    one = Task("relevance", (), ("a", "b"), 24, activation="identity")
    assert Task.from_json(json.loads(json.dumps(one.to_json()))) == one
    for fields, said in (
        (
            {"prompts": Prompts({"q": "x"}), "kind": "question-answering", "doc_stride": 4, "activation": None},
            "prompts",
        ),
        ({"embedding": EmbeddingSettings(truncate_dim=3)}, "truncate_dim=3"),
        ({"activation": "softmax"}, "'softmax'"),
    ):
        with pytest.raises(InputError, match=said):
            replace(one, **fields)
