"""`embed`, `similarity`, `predict` and `rank` take the arguments of `encode`, `similarity`, `predict` and `rank` of
sentence-transformers, and give the same for the same folder, field by field."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_folders as folders
from sentence_folders import PAIRS, TEXTS, artifact_of
from sentence_transformers import CrossEncoder, SentenceTransformer

import prunetime
from prunetime import Model

CLOSE = {"rtol": 0, "atol": 1e-5}
PROMPTS = {"query": "velvet couch: ", "other": "hose "}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.ads(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def sentences(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, SentenceTransformer]:
    """The same bi-encoder, ours and theirs."""
    root = tmp_path_factory.mktemp("sentences")
    source = folders.sentence_folder(root / "source", prompts=PROMPTS)
    ours = prunetime.load(artifact_of(source, root / "artifact", data, task="similarity"))
    return ours, SentenceTransformer(str(source))


@pytest.fixture(scope="module")
def pairs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, CrossEncoder]:
    """The same CrossEncoder, ours and theirs."""
    root = tmp_path_factory.mktemp("pairs")
    source = folders.cross_encoder_folder(root / "source", prompts=PROMPTS)
    ours = prunetime.load(artifact_of(source, root / "artifact", data, task="relevance"))
    return ours, CrossEncoder(str(source))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(Model.embed, SentenceTransformer.encode), (Model.predict, CrossEncoder.predict), (Model.rank, CrossEncoder.rank)],
)
def test_arguments_have_their_names_defaults_and_order(ours: Callable[..., Any], theirs: Callable[..., Any]) -> None:
    mine, others = (inspect.signature(each).parameters for each in (ours, theirs))
    assert [name for name in others if name in mine] == list(mine)
    assert {name: each.default for name, each in mine.items()} == {name: others[name].default for name in mine}
    positional = [name for name, each in mine.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert positional == list(others)[: len(positional)]


@pytest.mark.parametrize("options", [
    {}, {"batch_size": 1}, {"batch_size": 2, "show_progress_bar": True}, {"normalize_embeddings": True},
    {"truncate_dim": 5}, {"truncate_dim": 5, "normalize_embeddings": True, "prompt_name": "query"}, {"prompt": "hose "},
])  # fmt: skip
@pytest.mark.parametrize("inputs", [TEXTS, tuple(TEXTS), np.array(TEXTS), TEXTS[0], []])
def test_embeddings(options: dict[str, Any], inputs: Any, sentences: tuple[Model, SentenceTransformer]) -> None:
    ours, theirs = sentences[0].embed(inputs, **options), sentences[1].encode(inputs, **options)
    assert len(ours) == len(theirs)
    if len(inputs):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, **CLOSE)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities(name: str, data: Path, tmp_path: Path) -> None:
    source = folders.sentence_folder(tmp_path / "source", similarity_fn_name=name)
    ours = prunetime.load(artifact_of(source, tmp_path / "artifact", data, task="similarity"))
    theirs, found = SentenceTransformer(str(source)), ours.embed(TEXTS)
    for left, right in ((found, found[:2]), (found[0], found), (found[0], found[1])):
        expected = theirs.similarity(left, right).numpy()
        similarities = ours.similarity(left, right)
        assert (similarities.shape, similarities.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(similarities, expected, rtol=1e-5, atol=2e-3 if name == "euclidean" else 1e-5)


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"prompt_name": "query"}, {"prompt": "hose "}])
@pytest.mark.parametrize(
    "inputs", [PAIRS, [list(pair) for pair in PAIRS], np.array(PAIRS), PAIRS[0], list(PAIRS[0]), []]
)
def test_predictions(options: dict[str, Any], inputs: Any, pairs: tuple[Model, CrossEncoder]) -> None:
    ours, theirs = (model.predict(inputs, **options) for model in pairs)
    assert np.shape(ours) == np.shape(theirs)
    np.testing.assert_allclose(ours, theirs, **CLOSE)


@pytest.mark.parametrize("options", [
    {}, {"top_k": 2}, {"top_k": 9, "return_documents": True}, {"prompt_name": "query", "batch_size": 1},
    {"prompt": "hose "},
])  # fmt: skip
@pytest.mark.parametrize("documents", [TEXTS, []])
def test_ranks(options: dict[str, Any], documents: list[str], pairs: tuple[Model, CrossEncoder]) -> None:
    ours, theirs = (model.rank("garden hose", documents, **options) for model in pairs)
    assert [each | {"score": None} for each in ours] == [each | {"score": None} for each in theirs]
    assert all(type(each["score"]) is float for each in ours)
    np.testing.assert_allclose([each["score"] for each in ours], [each["score"] for each in theirs], **CLOSE)


def test_of_equal_documents_the_first_comes_first(pairs: tuple[Model, CrossEncoder]) -> None:
    """Theirs may get other bits beside texts of other lengths, which pad them; ours are the same bits."""
    found = pairs[0].rank("garden hose", [TEXTS[0], TEXTS[1], TEXTS[0]], batch_size=2)
    same = [each for each in found if each["corpus_id"] != 1]
    assert [each["corpus_id"] for each in same] == [0, 2]
    assert same[0]["score"] == same[1]["score"]


def test_progress_is_drawn_where_it_is_asked_for_and_else_as_the_logger_says(
    pairs: tuple[Model, CrossEncoder], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for level, options, drawn in (
        (logging.WARNING, {}, False), (logging.WARNING, {"show_progress_bar": True}, True),
        (logging.INFO, {}, True), (logging.INFO, {"show_progress_bar": False}, False),
    ):  # fmt: skip
        with caplog.at_level(level):
            for model in pairs:
                model.predict(PAIRS, **options)
                assert ("Batches" in capsys.readouterr().err) == drawn


def test_what_cannot_be_honoured_is_refused(
    sentences: tuple[Model, SentenceTransformer], pairs: tuple[Model, CrossEncoder]
) -> None:
    for size in (0, -1):
        for ask in (sentences[0].embed, sentences[1].encode, *(model.predict for model in pairs)):
            with pytest.raises(ValueError, match=rf"batch_size.*{size}"):
                ask(PAIRS if getattr(ask, "__name__", "") == "predict" else TEXTS, batch_size=size)
    with pytest.raises(ValueError, match="truncate_dim is 0"):
        sentences[0].embed(TEXTS, truncate_dim=0)
    with pytest.raises(TypeError, match="device"):
        pairs[0].predict(PAIRS, device="cuda")


def test_names_of_before_are_still_taken(
    sentences: tuple[Model, SentenceTransformer], pairs: tuple[Model, CrossEncoder]
) -> None:
    with pytest.warns(DeprecationWarning, match="texts will go in the next release: use inputs"):
        np.testing.assert_array_equal(sentences[0].embed(texts=TEXTS), sentences[0].embed(TEXTS))
    with pytest.warns(DeprecationWarning, match="use inputs"):
        np.testing.assert_array_equal(pairs[0].predict(texts=PAIRS), pairs[0].predict(PAIRS))
    best = pairs[0].rank("garden hose", TEXTS)[0]
    with pytest.warns(DeprecationWarning, match="corpus_id"):
        assert best.index == best["corpus_id"]
    with pytest.warns(DeprecationWarning, match="score"):
        assert best.score == best["score"]
