"""Poolings and head layers against the modules of sentence-transformers that define them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.sentence_transformer.modules import LayerNorm
from sentence_transformers.sentence_transformer.modules import Pooling as TheirPooling
from tiny import bert_folder
from torch import Tensor, nn
from transformers.utils import logging

from prunetime.core.arch import ArchSpec
from prunetime.core.config import EncoderConfig, HeadLayer, Pooling
from prunetime.errors import InputError
from prunetime.export.onnx import export_onnx
from prunetime.export.openvino import export_openvino
from prunetime.inference.engine import Engine
from prunetime.inference.ragged import Ragged
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.models.families import load
from prunetime.models.modeling import PrunetimeConfig, PrunetimeForSequenceClassification, PrunetimeModel
from prunetime.models.pooling import pooled

logging.disable_progress_bar()

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
THEIRS = {"first": "cls", "mean_sqrt_len": "mean_sqrt_len_tokens"}
LENGTHS = [9, 1, 5, 12, 3]
HIDDEN = 64

poolings = pytest.mark.parametrize("pooling", POOLINGS)

Floats = NDArray[np.float32]


def their_pooling(pooling: Pooling, width: int = HIDDEN, include_prompt: bool = True) -> TheirPooling:
    return TheirPooling(width, THEIRS.get(pooling, pooling), include_prompt)


def mask_of(lengths: Sequence[int]) -> Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


@poolings
@pytest.mark.parametrize("prompt", [None, 1, 4])
def test_pooling_is_that_of_sentence_transformers(pooling: Pooling, prompt: int | None) -> None:
    torch.manual_seed(0)
    lengths = [9, 5, 12, 6]
    x, mask = torch.randn(4, 12, 8), mask_of(lengths)
    features = {"token_embeddings": x, "attention_mask": mask} | ({} if prompt is None else {"prompt_length": prompt})
    expected = their_pooling(pooling, 8, include_prompt=False)(features)["sentence_embedding"]
    skipped = None if prompt is None else torch.full((4,), prompt)
    torch.testing.assert_close(pooled(pooling, x, mask.bool(), skipped), expected, rtol=0, atol=1e-6)


@poolings
def test_padding_may_come_before_the_tokens_of_an_embedding(pooling: Pooling) -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(4, 12, 8), mask_of([9, 5, 12, 6]).flip(1)
    features = {"token_embeddings": x, "attention_mask": mask, "prompt_length": 2}
    expected = their_pooling(pooling, 8, include_prompt=False)(features)["sentence_embedding"]
    found = pooled(pooling, x, mask.bool(), torch.full((4,), 2))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@poolings
def test_a_sequence_without_tokens_to_pool_is_zeros(pooling: Pooling) -> None:
    """sentence-transformers has zeros, but for `cls` (the first token's row) and for `max` (-inf)."""
    x, real = torch.randn(2, 6, 8), torch.tensor([[False] * 6, [True] * 6])
    theirs = their_pooling(pooling, 8)({"token_embeddings": x, "attention_mask": real.long()})["sentence_embedding"]
    if pooling == "max":
        assert theirs[0].isneginf().all()
        theirs[0] = 0.0
    torch.testing.assert_close(pooled(pooling, x, real), theirs)
    if pooling != "first":
        assert not theirs[0].any()


@dataclass(frozen=True)
class Embedder:
    """A model of sentence-transformers, and the same in our words."""

    theirs: SentenceTransformer
    config: EncoderConfig
    weights: dict[str, NDArray[np.float32]]

    @property
    def spec(self) -> ArchSpec:
        return ArchSpec.full(self.config.dims)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert") / "bert")


def embedder(
    folder: Path, pooling: Pooling, *modules: nn.Module, prompt: bool = True, rows: str = "embedding"
) -> Embedder:
    """The BERT of `folder` with `modules` after its pooling."""
    pretrained = load(str(folder), None, kind="similarity")
    weights, layers = weights_of(pretrained.model), []
    for module in modules:
        name = f"head.layers.{len(layers)}"
        if isinstance(module, Dense):
            activation = {nn.Tanh: "tanh", nn.GELU: "gelu", nn.ReLU: "relu", nn.Identity: "identity"}
            layers.append(HeadLayer("dense", module.out_features, activation[type(module.activation_function)]))
            weights[f"{name}.weight"] = module.linear.weight.detach().numpy()
            bias = torch.zeros(module.out_features) if module.linear.bias is None else module.linear.bias
            weights[f"{name}.bias"] = bias.detach().numpy()
        elif isinstance(module, LayerNorm):
            layers.append(HeadLayer("norm", module.dimension))
            weights[f"{name}.weight"] = module.norm.weight.detach().numpy()
            weights[f"{name}.bias"] = module.norm.bias.detach().numpy()
    config = replace(
        pretrained.config,
        pooling=pooling,
        rows=rows,
        head=tuple(layers) or None,
        outputs=layers[-1].width if layers else HIDDEN,
        normalize=any(isinstance(module, Normalize) for module in modules),
    )
    all_modules = [Transformer(str(folder)), their_pooling(pooling, HIDDEN, prompt), *modules]
    return Embedder(SentenceTransformer(modules=all_modules), config, weights)


def tokens(lengths: Sequence[int] = LENGTHS, skipped: int | None = None) -> Ragged:
    rng = np.random.default_rng(0)
    ragged = Ragged.of([rng.integers(5, 300, length).tolist() for length in lengths])
    return ragged if skipped is None else replace(ragged, skipped=np.full(len(ragged), skipped, np.int32))


def arrays_of(ragged: Ragged) -> dict[str, NDArray[np.int64]]:
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: array.astype(np.int64) for name, array in zip(names, ragged.padded(0), strict=True)}


def by_sentence_transformers(model: Embedder, ragged: Ragged) -> Floats:
    features = {name: torch.from_numpy(array) for name, array in arrays_of(ragged).items()}
    if ragged.skipped is not None:
        features["prompt_length"] = int(ragged.skipped[0])
    with torch.no_grad():
        return model.theirs.eval()(features)["sentence_embedding"].numpy()


def by_engine(model: Embedder, ragged: Ragged) -> Floats:
    return Engine(model.config, model.weights).logits(ragged)


def by_torch(model: Embedder, ragged: Ragged) -> Floats:
    skipped = None if ragged.skipped is None else torch.from_numpy(ragged.skipped)
    inputs = {name: torch.from_numpy(array) for name, array in arrays_of(ragged).items()}
    with torch.no_grad():
        return from_weights(model.config, model.weights).eval()(**inputs, skipped=skipped).logits.numpy()


def by_transformers(model: Embedder, arrays: dict[str, NDArray[np.int64]]) -> Floats:
    ours = (PrunetimeModel if model.config.rows == "embedding" else PrunetimeForSequenceClassification)(
        PrunetimeConfig.of(model.config, model.spec)
    )
    ours.load_state_dict({name: torch.from_numpy(array) for name, array in model.weights.items()})
    with torch.no_grad():
        found = ours.eval()(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    return (found.pooler_output if model.config.rows == "embedding" else found.logits).numpy()


def by_onnx_runtime(model: Embedder, arrays: dict[str, NDArray[np.int64]], folder: Path, opset: int = 17) -> Floats:
    export_onnx(model.config, model.weights, folder / "model.onnx", opset)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    name = "sentence_embedding" if model.config.rows == "embedding" else "logits"
    return session.run([name], arrays)[0]


def by_openvino(model: Embedder, arrays: dict[str, NDArray[np.int64]], folder: Path) -> Floats:
    export_openvino(model.config, model.weights, folder / "model.xml")
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    name = "sentence_embedding" if model.config.rows == "embedding" else "logits"
    return compiled(arrays)[name]


HEADS: dict[str, Callable[[], list[nn.Module]]] = {
    "nothing": list,
    "Dense and Normalize": lambda: [Dense(HIDDEN, 24), Normalize()],
    "Normalize": lambda: [Normalize()],
    "modular": lambda: [
        Dense(HIDDEN, 80, bias=False, activation_function=nn.GELU()),
        LayerNorm(80),
        Dense(80, 3, activation_function=nn.Identity()),
    ],
    "wide": lambda: [Dense(HIDDEN, 700, activation_function=nn.ReLU()), Dense(700, 5, activation_function=nn.Tanh())],
    "LayerNorm": lambda: [LayerNorm(HIDDEN)],
}


def check(found: Floats, expected: Floats, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize(
    ("pooling", "head"), [*zip(POOLINGS, HEADS, strict=True), ("mean", "modular"), ("first", "modular")]
)
def test_everything_gives_the_embedding_of_sentence_transformers(
    folder: Path, pooling: Pooling, head: str, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    model = embedder(folder, pooling, *HEADS[head](), rows="pooled" if head == "wide" else "embedding")
    ragged, arrays = tokens(), arrays_of(tokens())
    expected = by_sentence_transformers(model, ragged)
    check(by_engine(model, ragged), expected)
    check(by_torch(model, ragged), expected)
    check(by_transformers(model, arrays), expected)
    check(by_onnx_runtime(model, arrays, tmp_path), expected)
    check(by_openvino(model, arrays, tmp_path), expected)


@pytest.mark.parametrize("pooling", ["max", "weightedmean"])
def test_newer_opsets_pool_alike(folder: Path, pooling: Pooling, tmp_path: Path) -> None:
    model, arrays = embedder(folder, pooling, Normalize()), arrays_of(tokens())
    check(by_onnx_runtime(model, arrays, tmp_path, 23), by_sentence_transformers(model, tokens()))


@poolings
def test_a_prompt_is_left_out_of_pooling(folder: Path, pooling: Pooling) -> None:
    model = embedder(folder, pooling, prompt=False)
    for skipped in (0, 1, 3, 9, 40):
        ragged = tokens([9, 12, 30, 10, 10], skipped)
        expected = by_sentence_transformers(model, ragged)
        expected[np.isneginf(expected)] = 0.0  # `max` of no tokens
        check(by_torch(model, ragged), expected)
        check(by_engine(model, ragged), expected)


@poolings
def test_a_row_that_is_all_padding_is_zeros_everywhere(folder: Path, pooling: Pooling, tmp_path: Path) -> None:
    model, arrays = embedder(folder, pooling, Normalize()), arrays_of(tokens())
    with_padding = {name: np.concatenate([array, np.zeros_like(array[:1])]) for name, array in arrays.items()}
    expected = by_sentence_transformers(model, tokens())
    for found in (
        by_transformers(model, with_padding),
        by_onnx_runtime(model, with_padding, tmp_path),
        by_openvino(model, with_padding, tmp_path),
    ):
        check(found[:-1], expected)
        assert np.isfinite(found).all()
        assert pooling == "first" or not found[-1].any()


def test_tokens_are_not_both_dropped_and_skipped(folder: Path) -> None:
    config = embedder(folder, "first").config
    spec = ArchSpec.full(config.dims).with_layer(0, tokens=0.5)
    model = SequenceClassifier(config, spec).eval()
    inputs = {name: torch.from_numpy(array) for name, array in arrays_of(tokens()).items()}
    with pytest.raises(InputError, match="layer 0 drops tokens, so that pooling cannot skip the first ones"):
        model(**inputs, skipped=torch.ones(len(LENGTHS)))
