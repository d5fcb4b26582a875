"""Static embeddings of model2vec: the numbers of that library, from its folders."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny import wordpiece

from prunetime.baselines.static import StaticModel, is_static, pair_features, read_model2vec
from prunetime.core.task import Task
from prunetime.errors import InputError

TEXTS = ["red sofa in the garden", "blue lamp zzz", "", "a small chair of wood " * 30, "zzz"]
TOKENIZER = wordpiece([TEXTS[0], TEXTS[3]])
TOKENS = TOKENIZER.get_vocab_size()
RNG = np.random.default_rng(0)
VECTORS, CLUSTERS = (RNG.normal(size=(rows, 16)).astype(np.float32) for rows in (TOKENS, 9))
WEIGHTS, MAPPING = RNG.random(TOKENS), RNG.integers(0, 9, TOKENS)

CASES: dict[str, dict[str, Any]] = {
    "plain": {"embeddings": VECTORS},
    "of length 1": {"embeddings": VECTORS, "normalize": True},
    "short": {"embeddings": VECTORS, "max_length": 7},
    "as long as texts are": {"embeddings": VECTORS, "max_length": None},
    "weighed": {"embeddings": VECTORS, "weights": WEIGHTS},
    "clusters": {"embeddings": CLUSTERS, "weights": WEIGHTS, "mapping": MAPPING, "normalize": True},
    "int8": {"embeddings": (30 * VECTORS).astype(np.int8)},
}


def written(folder: Path, **values: Any) -> Path:
    """A folder as `StaticModel.save_pretrained` of model2vec 0.10 leaves it."""
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    save_file(arrays, folder / "model.safetensors")
    TOKENIZER.save(str(folder / "tokenizer.json"))
    settings = {name: value for name, value in values.items() if name not in arrays}
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec"} | settings))
    return folder


def encoded(folder: Path, texts: list[str]) -> Any:
    model = read_model2vec(folder)
    return model.logits(model.tokenizer.encode([(text,) for text in texts]))


def reference(values: dict[str, Any], text: str) -> Any:
    """The embedding of one text in float64, as model2vec 0.10 computes it."""
    tokens, most = TOKENIZER.get_vocab(), values.get("max_length", 512)
    kept = text if most is None else text[: most * int(np.median([len(token) for token in tokens]))]
    ids = [i for i in TOKENIZER.encode(kept, add_special_tokens=False).ids[:most] if i != tokens["[UNK]"]]
    mapping, weights = values.get("mapping", np.arange(TOKENS)), values.get("weights", np.ones(TOKENS))
    vectors = values["embeddings"].astype(np.float64)[mapping[ids]] * weights[ids][:, None]
    mean = vectors.mean(0) if ids else np.zeros(vectors.shape[1])
    return mean / (np.linalg.norm(mean) + 1e-32) if values.get("normalize") else mean


@pytest.mark.parametrize("case", CASES)
def test_embeddings_are_those_of_model2vec(case: str, tmp_path: Path) -> None:
    folder = written(tmp_path, **CASES[case])
    assert is_static(folder)
    found = encoded(folder, TEXTS)
    np.testing.assert_allclose(found, [reference(CASES[case], text) for text in TEXTS], rtol=1e-5, atol=1e-6)
    if find_spec("model2vec"):
        import model2vec

        np.testing.assert_allclose(
            found, model2vec.StaticModel.from_pretrained(folder).encode(TEXTS), rtol=1e-5, atol=1e-6
        )


def test_an_embedding_is_the_mean_of_the_vectors_of_known_tokens(tmp_path: Path) -> None:
    found = encoded(written(tmp_path, embeddings=VECTORS, weights=WEIGHTS), ["red sofa", "zzz red", "zzz", ""])
    red, sofa = (TOKENIZER.token_to_id(word) for word in ("red", "sofa"))
    first = (VECTORS[red] * WEIGHTS[red] + VECTORS[sofa] * WEIGHTS[sofa]) / 2
    np.testing.assert_allclose(found[0], first, rtol=1e-5)
    assert TOKENIZER.encode("zzz", add_special_tokens=False).tokens == ["[UNK]"]
    np.testing.assert_allclose(found[1], VECTORS[red] * WEIGHTS[red], rtol=1e-5)
    assert not found[2:].any()


def test_a_head_reads_both_texts_of_a_pair(tmp_path: Path) -> None:
    """Pairs of equal texts are good ones: only what two embeddings are beside each other says so."""
    words = ["red", "sofa", "garden", "blue", "lamp", "chair", "wood"]
    pairs = [(one, other) for one in words for other in words for _ in range(6 if one == other else 1)]
    labels = np.array([one == other for one, other in pairs], np.int64)
    task = Task("classification", ("no", "yes"), ("text", "other"), 16)
    model = read_model2vec(written(tmp_path, embeddings=VECTORS))
    tokens = model.tokenizer.encode(pairs)
    fitted = model.fitted(task, tokens, labels)
    logits = fitted.logits(tokens)
    assert np.mean((logits[:, 1] > logits[:, 0]) == labels) > 0.95
    sides = [encoded(tmp_path, [pair[side] for pair in pairs]) for side in (0, 1)]
    np.testing.assert_allclose(fitted.features(tokens), pair_features(sides), rtol=1e-5, atol=1e-6)
    fitted.write(tmp_path / "kept")
    np.testing.assert_array_equal(StaticModel.read(tmp_path / "kept").logits(tokens), logits)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embeddings": VECTORS[1:]}, f"has {TOKENS - 1} vectors for the {TOKENS} tokens of its tokenizer.json"),
        ({"embeddings": VECTORS, "weights": WEIGHTS[1:]}, "vectors for the"),
        ({"embeddings": VECTORS * np.nan}, "has vectors that are not finite"),
        ({"embeddings": VECTORS, "head_config": {"kind": "mlp"}}, "has a classifier of its own"),
        ({"embeddings": VECTORS, "max_length": "many"}, "is no static embedding that can be read"),
    ],
)
def test_a_folder_that_is_no_embedding_is_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_model2vec(written(tmp_path, **values))
