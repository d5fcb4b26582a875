"""Every field of a folder of sentence-transformers is honoured or refused by its name: one field changed at a time, and
compared with the library."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import sentence_folders as folders
import torch
from inputs_page import Row, Verdict, check_section, verdict
from numpy.typing import NDArray
from sentence_folders import PAIRS, TEXTS, artifact_of, edit
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Dropout, Normalize
from torch import nn

import prunetime

Numbers = NDArray[np.float32]
Change = Callable[[Path], None]

TRANSFORMER, POOLING = "sentence_bert_config.json", "1_Pooling/config.json"
SETTINGS, MODULES = "config_sentence_transformers.json", "modules.json"


class Try(NamedTuple):
    """A value of a field, as the page shows it, and how a folder comes to have it."""

    file: str
    field: str
    shown: str
    change: Change


def setting(file: str, name: str, *values: Any) -> list[Try]:
    """Values of a field of a JSON object."""
    return [
        Try(file, name, f"`{json.dumps(value)}`", lambda folder, value=value: edit(folder / file, {name: value}))
        for value in values
    ]


def module(kind: str, path: str, *, before: int | None = None, shown: str = "") -> Try:
    """One more entry in modules.json: at the end, or before another one."""

    def change(folder: Path) -> None:
        listed = json.loads((folder / MODULES).read_text())
        at = len(listed) if before is None else before
        listed.insert(at, {"idx": at, "name": f"more{at}", "path": path, "type": kind})
        (folder / MODULES).write_text(json.dumps(listed))

    return Try(MODULES, kind.rpartition(".")[2], shown or "one more", change)


def without(index: int, kind: str) -> Try:
    def change(folder: Path) -> None:
        listed = json.loads((folder / MODULES).read_text())
        del listed[index]
        (folder / MODULES).write_text(json.dumps(listed))

    return Try(MODULES, kind, "left out", change)


def entry(field: str, index: int, value: Any) -> Try:
    """A value of a field of the entry of modules.json at `index`."""

    def change(folder: Path) -> None:
        listed = json.loads((folder / MODULES).read_text())
        listed[index][field] = value
        (folder / MODULES).write_text(json.dumps(listed))

    return Try(MODULES, field, f"`{json.dumps(value)}`", change)


def flags(*on: str) -> Try:
    """Pooling as versions before 6 wrote it: a switch for each way."""
    names = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")

    def change(folder: Path) -> None:
        values = {f"pooling_mode_{name}": name in on for name in names}
        (folder / POOLING).write_text(json.dumps({"word_embedding_dimension": 32, **values}))

    field = f"pooling_mode_{on[0]}" if on else "pooling_mode_*"
    return Try(
        POOLING, field, "`true`" + (f" beside {', '.join(on[1:])}" if on[1:] else "") if on else "all `false`", change
    )


def renamed(old: str, new: str, **settings: Any) -> Try:
    def change(folder: Path) -> None:
        shutil.move(folder / old, folder / new)
        edit(folder / new, settings)

    return Try(new, ", ".join(settings), ", ".join(f"`{json.dumps(value)}`" for value in settings.values()), change)


EMBEDDING_TRIES = [
    *setting(TRANSFORMER, "transformer_task", "feature-extraction", "fill-mask"),
    *setting(TRANSFORMER, "modality_config", {"text": {"method": "forward", "method_output_name": "pooler_output"}}),
    *setting(TRANSFORMER, "module_output_name", "sentence_embedding"),
    *setting(TRANSFORMER, "processing_kwargs", {"text": {"max_length": 6, "truncation": True}}),
    *setting(TRANSFORMER, "unpad_inputs", False),
    *setting(TRANSFORMER, "max_seq_length", folders.LENGTH, 6),
    *setting(TRANSFORMER, "do_lower_case", True),
    *setting(TRANSFORMER, "query_length", 4),
    *setting(TRANSFORMER, "document_length", 4),
    *setting(TRANSFORMER, "query_expansion", {"strategy": "fixed", "length": 8}),
    *setting(TRANSFORMER, "model_args", {"add_pooling_layer": False}, {"attn_implementation": "eager"}),
    *setting(TRANSFORMER, "model_kwargs", {"dtype": "bfloat16"}),
    *setting(TRANSFORMER, "config_args", {"layer_norm_eps": 0.5}),
    *setting(TRANSFORMER, "config_kwargs", {"layer_norm_eps": 0.5}),
    *setting(TRANSFORMER, "tokenizer_args", {"model_max_length": 6}),
    *setting(TRANSFORMER, "processor_kwargs", {"model_max_length": 6}),
    Try(TRANSFORMER, "tokenizer_name_or_path", "another folder",
        lambda folder: edit(folder / TRANSFORMER, {"tokenizer_name_or_path": str(folder)})),
    renamed(TRANSFORMER, "sentence_roberta_config.json", do_lower_case=True),
    *setting("tokenizer_config.json", "model_max_length", 6),
    *setting(POOLING, "pooling_mode", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"),
    *setting(POOLING, "pooling_mode", ["max"], ["cls", "mean"]),
    *(flags(name) for name in ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens")),
    flags("weightedmean_tokens"), flags("lasttoken"), flags(), flags("cls_token", "mean_tokens"),
    *setting(POOLING, "include_prompt", False),
    *setting(POOLING, "another_setting", 1),
    *(
        each
        for name in ("Identity", "ReLU", "GELU", "SiLU")
        for each in setting("2_Dense/config.json", "activation_function", f"torch.nn.{name}")
    ),
    *setting("2_Dense/config.json", "use_residual", True),
    *setting("2_Dense/config.json", "module_input_name", "token_embeddings"),
    *setting("2_Dense/config.json", "module_output_name", "another"),
    *setting("2_Dense/config.json", "another_setting", 1),
    *setting("3_LayerNorm/config.json", "another_setting", 1),
    *setting("4_Dropout/config.json", "dropout", 0.9),
    *setting("5_Normalize/config.json", "module_input_name", "token_embeddings"),
    *setting("5_Normalize/config.json", "module_output_name", "another"),
    without(5, "Normalize"), without(4, "Dropout"), without(3, "LayerNorm"), without(2, "Dense"), without(1, "Pooling"),
    module("sentence_transformers.models.Pooling", "1_Pooling"),
    module("sentence_transformers.models.Dense", "2_Dense", before=2),
    module("sentence_transformers.models.Dense", "2_Dense", shown="one after Normalize"),
    module("sentence_transformers.models.LayerNorm", "3_LayerNorm", before=4),
    module("sentence_transformers.models.Normalize", "5_Normalize"),
    *(
        module(f"sentence_transformers.models.{kind}", f"9_{kind}", before=1)
        for kind in ("WeightedLayerPooling", "CNN", "LSTM", "WordWeights", "BoW", "StaticEmbedding", "CLIPModel")
    ),
    module("sentence_transformers.base.modules.router.Router", "9_Router", before=1),
    module("my_modules.Scaled", "9_Scaled"),
    entry("idx", 2, 77),
    entry("name", 2, "another"),
    entry("name", 2, "3"),
    entry("kwargs", 1, ["task"]),
    *setting(SETTINGS, "prompts", {"query": "velvet ", "passage": "hose "}, {"query": None}, {"query": 5}),
    *setting(SETTINGS, "default_prompt_name", "query", "another"),
    *setting(SETTINGS, "similarity_fn_name", None, "cosine", "dot", "euclidean", "manhattan", "maxsim"),
    *setting(SETTINGS, "truncate_dim", None, 5, 100, -3),
    *setting(SETTINGS, "model_type", "SparseEncoder"),
    *setting(SETTINGS, "__version__", {"sentence_transformers": "5.0.0"}),
]  # fmt: skip

CROSS_ENCODER_TRIES = [
    *(
        each
        for name in ("linear.Identity", "activation.Sigmoid", "activation.Softmax")
        for each in setting(SETTINGS, "activation_fn", f"torch.nn.modules.{name}")
    ),
    *setting(SETTINGS, "activation_fn", None, "my_modules.Scaled"),
    *setting(SETTINGS, "prompts", {"query": "velvet ", "passage": "hose "}),
    *setting(SETTINGS, "default_prompt_name", "query", "another"),
    *setting(SETTINGS, "keep_in_fp32_modules", []),
    *setting(TRANSFORMER, "do_lower_case", True),
    *setting(TRANSFORMER, "max_seq_length", folders.LENGTH, 6),
]
PLAIN_TRIES = [
    Try("config.json", "sentence_transformers.activation_fn", f"`{name}`",
        lambda folder, name=name: edit(folder / "config.json", {"sentence_transformers": {"activation_fn": name}}))
    for name in ("torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid", "torch.nn.ReLU")
] + [
    each
    for name in ("torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid", "torch.nn.ReLU")
    for each in setting("config.json", "sbert_ce_default_activation_function", name)
]  # fmt: skip
MODULAR_TRIES = [
    *setting(POOLING, "pooling_mode", "mean", "max", ["cls", "mean"]),
    *setting(POOLING, "include_prompt", False),
    *setting("2_Dense/config.json", "activation_function", "torch.nn.modules.activation.Tanh", "torch.nn.ELU"),
    *setting("4_Dense/config.json", "module_output_name", "sentence_embedding"),
    *setting("4_Dense/config.json", "module_input_name", "token_embeddings"),
    without(3, "LayerNorm"),
    module("sentence_transformers.models.Normalize", "5_Normalize"),
    module("sentence_transformers.cross_encoder.modules.LogitScore", "5_LogitScore"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.ads(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def their_embeddings(folder: Path) -> Numbers:
    """The numbers of a model of embeddings: with its default prompt, with another one, and of pairs."""
    model = SentenceTransformer(str(folder))
    queries, sides = model.encode(TEXTS, prompt_name="query"), model.encode([text for pair in PAIRS for text in pair])
    similarities = model.similarity_pairwise(sides[0::2], sides[1::2]).numpy()
    return np.concatenate([queries.ravel(), sides.ravel(), similarities])


def our_embeddings(folder: Path) -> Numbers:
    model = prunetime.load(folder)
    queries, sides = model.embed(TEXTS, prompt_name="query"), model.embed([text for pair in PAIRS for text in pair])
    return np.concatenate([queries.ravel(), sides.ravel(), model.score(PAIRS)])


def predictions(model: Any) -> Numbers:
    """The numbers of a CrossEncoder, ours or theirs: with its default prompt, and with each that there is."""
    names = model.manifest.task.prompts.texts if hasattr(model, "manifest") else model.prompts
    return np.concatenate([model.predict(PAIRS), *(model.predict(PAIRS, prompt_name=name) for name in names)])


def rows_of(
    source: Path, tries: Sequence[Try], theirs: Callable[[Path], Numbers], ours: Callable[[Path], Numbers]
) -> list[Row]:
    """A row of the page for every field and verdict, with the values that were tried."""
    usual = theirs(source)
    found: dict[tuple[str, str, Verdict], list[str]] = {}
    for number, each in enumerate(tries):
        folder = source.with_name(f"{source.name}-{number}")
        shutil.copytree(source, folder)
        each.change(folder)
        expected: Numbers | None
        try:
            expected = theirs(folder)
        except Exception:  # the library refuses it, in whichever way
            expected = None
        changed = (
            expected is None or expected.shape != usual.shape or not np.allclose(expected, usual, rtol=0, atol=1e-6)
        )

        def equal(numbers: Any, expected: Numbers | None = expected) -> bool:
            return expected is not None and _close(numbers, expected, 1e-5)

        said = verdict(each.field, lambda folder=folder: ours(folder), changed, equal)
        found.setdefault((each.file, each.field, said), []).append(each.shown)
        shutil.rmtree(folder)
    return [Row(file, field, ", ".join(values), said) for (file, field, said), values in found.items()]


def _close(one: Numbers, other: Numbers, within: float) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=0, atol=within)


def test_every_field_of_a_sentence_transformer(data: Path, work: Path) -> None:
    torch.manual_seed(3)
    modules = (Dense(32, 32, activation_function=nn.Tanh()), folders.trained_norm(), Dropout(0.5), Normalize())
    source = folders.sentence_folder(work / "sentence", *modules, prompts={"query": "velvet couch: "})

    def ours(folder: Path) -> Numbers:
        return our_embeddings(artifact_of(folder, folder / "artifact", data, task="similarity"))

    check_section(
        "A SentenceTransformer",
        "`embed` and `score` of `prunetime.load(..)`, compared with `encode` and `similarity_pairwise` of\n"
        "sentence-transformers 6.2. A longer `--seq-len` than the model's longest text is refused.",
        rows_of(source, EMBEDDING_TRIES, their_embeddings, ours),
    )


def test_every_field_of_a_cross_encoder(data: Path, work: Path) -> None:
    def theirs(folder: Path) -> Numbers:
        return predictions(CrossEncoder(str(folder)))

    def ours(folder: Path) -> Numbers:
        return predictions(prunetime.load(artifact_of(folder, folder / "artifact", data, task="relevance")))

    whole = folders.cross_encoder_folder(work / "whole", prompts={"query": "velvet "})
    modular = folders.modular_cross_encoder_folder(work / "modular")
    rows = rows_of(whole, CROSS_ENCODER_TRIES, theirs, ours)
    rows += rows_of(work / "whole-encoder", PLAIN_TRIES, theirs, ours)
    rows += rows_of(modular, MODULAR_TRIES, theirs, ours)
    check_section(
        "A CrossEncoder",
        "`predict` of `prunetime.load(..)`, compared with that of sentence-transformers 6.2. Files in folders\n"
        "(`1_Pooling` and on) are of a CrossEncoder whose head is a chain of modules. A longer `--seq-len` than the\n"
        "model's longest text is refused.",
        rows,
    )
