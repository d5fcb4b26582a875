"""Loading an artifact: what is made of it while its files are still being checked counts for nothing if they fail."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cases import random_config, random_spec, random_weights
from tiny import wordpiece

import prunetime
from prunetime.core import artifact
from prunetime.core.precision import PrecisionPlan
from prunetime.core.task import Task
from prunetime.errors import ArtifactError, EngineError

TEXTS = ["red sofa", "blue chair"]


@pytest.fixture
def contents() -> tuple[artifact.Manifest, dict[str, np.ndarray], dict[str, bytes]]:
    """A manifest, weights and files, as `artifact.write` takes them."""
    rng = np.random.default_rng(0)
    tokenizer = wordpiece(TEXTS)
    config = random_config(rng, outputs=2)
    config = replace(config, dims=replace(config.dims, vocabulary=tokenizer.get_vocab_size()))
    spec = random_spec(config, rng)
    manifest = artifact.Manifest(config, spec, PrecisionPlan(), Task("classification", ("a", "b"), ("text",), 16), {})
    return manifest, random_weights(config, spec, rng), {artifact.TOKENIZER: tokenizer.to_str().encode()}


def test_a_loaded_artifact_scores_as_its_engine(contents, tmp_path: Path) -> None:
    model = prunetime.load(artifact.write(tmp_path / "model", *contents))
    tokens = model.tokenize(TEXTS)
    np.testing.assert_array_equal(model.score(TEXTS), model.manifest.task.scores(model.engine.logits(tokens)))


@pytest.mark.parametrize("name", [artifact.WEIGHTS, artifact.TOKENIZER])
def test_a_changed_file_is_refused_even_if_all_can_be_made_of_it(contents, tmp_path: Path, name: str) -> None:
    folder = artifact.write(tmp_path / "model", *contents)
    content = (folder / name).read_bytes()
    last_letter = content.rindex(b"a") if name == artifact.TOKENIZER else len(content) - 4
    (folder / name).write_bytes(content[:last_letter] + b"b" + content[last_letter + 1 :])
    with pytest.raises(ArtifactError, match=f"{name} was changed"):
        prunetime.load(folder)


def test_weights_that_are_not_finite_are_refused(contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents[1]["head.output.bias"][1] = np.inf
    with monkeypatch.context() as careless:
        careless.setattr(artifact, "_check_finite", lambda *_: None)
        folder = artifact.write(tmp_path / "model", *contents)
    with pytest.raises(EngineError, match=r"head\.output\.bias has inf at 1; every weight must be finite"):
        prunetime.load(folder)
    with pytest.raises(ArtifactError, match=r"head\.output\.bias holds a number that is not finite"):
        artifact.read(folder)
