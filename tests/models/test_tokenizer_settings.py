"""Every setting of a tokenizer that lies in a model folder: the ids, token types and cuts of `AutoTokenizer`, and the
same from the artifact."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
from cases import family_fields, random_config
from family_tokenizers import family_tokenizer
from inputs_page import Row, Verdict, check_section, verdict
from transformers import AutoTokenizer

import prunetime.models.hf  # registers the class by which artifacts are read
from prunetime.inference.tokenize import Tokenizer
from prunetime.models.tokenization import load_tokenizer

LONGEST = 12
TEXTS = [
    "Red SOFA in Paris",
    "caf\u00e9 cr\u00e8me \u6c99\u53d1 don't",
    "a [SEP] b [PAD] [MASK]<mask> zqx x </s> <pad> y <s>z",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
]
FAMILIES = ("bert", "roberta", "xlm-roberta", "modernbert")
"""One of each kind of class: those of CamemBERT, DistilBERT, ELECTRA and MPNet read their settings as one of these."""


class Sample(NamedTuple):
    """What a tokenizer makes of texts and of pairs: the ids, and the token types that a model takes with them; and the
    names of its special tokens."""

    ids: list[list[int]]
    types: list[list[int]]
    special: dict[str, Any]


class Change(NamedTuple):
    """One field of a file of a model folder, with another value."""

    file: str
    field: str
    value: Any

    def apply(self, folder: Path) -> None:
        file = folder / self.file
        data = json.loads(file.read_text()) if file.is_file() else {}
        *way, last = self.field.split(".")
        place = data
        for step in way:
            place = place[step]
        place[last] = self.value
        file.write_text(json.dumps(data))


def changes(file: str, values: dict[str, list[Any]]) -> list[Change]:
    return [Change(file, field, value) for field, tried in values.items() for value in tried]


def token(content: str, **flags: bool) -> dict[str, Any]:
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return {"content": content, **plain, **flags}


NAMES = [f"{name}_token" for name in ("unk", "sep", "cls", "pad", "mask", "bos", "eos")]
TOKEN = {"__type": "AddedToken", **token("zqx", lstrip=True)}
TYPES = ["input_ids", "token_type_ids", "attention_mask"]
ADDED = {"900": token("zqx", rstrip=True, special=False)}
TRUNCATION = {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 8,
    "pad_id": 1, "pad_type_id": 1, "pad_token": "<pad>",
}  # fmt: skip
BERT_PROCESSING = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BOTH = {"type": "Sequence", "processors": [BYTES, BERT_PROCESSING]}

CHANGES = [
    *changes(
        "tokenizer_config.json",
        {
            "do_lower_case": [True, False],
            "strip_accents": [True, False],
            "tokenize_chinese_chars": [False],
            "add_prefix_space": [True, False],
            "trim_offsets": [False],
            "truncation_side": ["left"],
            "padding_side": ["left"],
            "model_input_names": [TYPES[::2], TYPES],
            "split_special_tokens": [True],
            "model_max_length": [7],
            "tokenizer_class": ["BertTokenizerFast", "RobertaTokenizer", "PreTrainedTokenizerFast"],
            **{name: ["zqx", TOKEN] for name in NAMES},
            "extra_special_tokens": [["zqx", "x"]],
            "additional_special_tokens": [["zqx"]],
            "image_token": ["zqx"],
            "auto_map": [{"AutoTokenizer": ["mine.MyTokenizer", None]}],
            "added_tokens_decoder": [ADDED],
            "add_bos_token": [True],
            "add_eos_token": [True],
            "clean_up_tokenization_spaces": [True],
            "errors": ["ignore"],
            "chat_template": ["{{ messages }}"],
            "max_length": [5],
            "stride": [2],
            "truncation_strategy": ["only_first"],
            "pad_to_multiple_of": [8],
            "pad_token_type_id": [1],
        },
    ),
    *changes(
        "special_tokens_map.json",
        {**{name: ["zqx"] for name in NAMES}, "additional_special_tokens": [["zqx"]]},
    ),
    *changes("added_tokens.json", {"zqx": [900]}),
    *changes(
        "tokenizer.json",
        {
            "normalizer": [{"type": "Lowercase"}],
            "pre_tokenizer": [{"type": "WhitespaceSplit"}],
            "post_processor": [BERT_PROCESSING, BYTES, BOTH, None],
            "truncation": [TRUNCATION],
            "padding": [PADDING, {**PADDING, "direction": "Left"}],
            "added_tokens": [[{"id": 5, **token("x", special=False, single_word=True)}]],
            "decoder": [None],
            "model.dropout": [0.5],
        },
    ),
    *changes("config.json", {"tokenizer_class": ["BertTokenizer", "RobertaTokenizer"]}),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tokenizer as transformers saves it."""

    @cache
    def saved(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family)
        family_tokenizer(family, [text.replace("zqx", "") for text in TEXTS]).save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps({"model_type": family}))
        return folder

    return saved


def theirs(folder: Path) -> Sample:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids, types = [], []
    for texts in ((TEXTS,), (TEXTS, TEXTS[::-1])):
        batch = tokenizer(*texts, truncation=True, max_length=LONGEST)
        ids += batch["input_ids"]
        types += batch.get("token_type_ids", [[0] * len(row) for row in batch["input_ids"]])
    return Sample(ids, types, {**tokenizer.special_tokens_map, "extra": tokenizer.extra_special_tokens})


def ours(folder: Path, family: str) -> Sample:
    """What the tokenizer of an artifact makes of the texts, with the engine's tokenizer as with `AutoTokenizer`."""
    pretrained = load_tokenizer(folder, 10_000, LONGEST)
    tokenizer = Tokenizer(pretrained.content, LONGEST)
    found = tokenizer.encode([*((text,) for text in TEXTS), *zip(TEXTS, TEXTS[::-1], strict=True)])
    parts = [[row.tolist() for row in np.split(values, found.offsets[1:-1])] for values in (found.ids, found.types)]
    artifact = folder / "artifact"
    artifact.mkdir()
    config = random_config(np.random.default_rng(0), **family_fields(family))
    for name, content in pretrained.files(config).items():
        (artifact / name).write_bytes(content)
    (artifact / "config.json").write_text(json.dumps({"model_type": prunetime.models.hf.OWN_MODEL_TYPE}))
    by_transformers = theirs(artifact)
    assert by_transformers[:2] == tuple(parts)
    return by_transformers


def test_every_setting_is_honoured_or_refused(
    folder_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    unchanged = {family: theirs(folder_of(family)) for family in FAMILIES}

    def judged(family: str, change: Change) -> Verdict:
        folder = tmp_path_factory.mktemp(family) / "model"
        shutil.copytree(folder_of(family), folder)
        change.apply(folder)
        expected = theirs(folder)
        changed = expected[:2] != unchanged[family][:2]
        return verdict(change.field, lambda: ours(folder, family), changed, lambda numbers: numbers == expected)

    values: dict[tuple[str, str, Verdict], list[str]] = {}
    for change in CHANGES:
        verdicts = {judged(family, change) for family in FAMILIES}
        strongest = next(each for each in get_args(Verdict) if each in verdicts)
        values.setdefault((change.file, change.field, strongest), []).append(shown(change.value))
    rows = [Row(file, field, ", ".join(tried), said) for (file, field, said), tried in values.items()]
    check_section("Tokenizers", INTRODUCTION, rows)


def shown(value: Any) -> str:
    """A value as the page shows it, in its beginning."""
    text = json.dumps(value)
    return f"`{text if len(text) < 64 else text[:60] + ' ...'}`"


INTRODUCTION = """\
The files of a tokenizer are read as `AutoTokenizer` of transformers reads them for the model of the folder, and with
its classes: most of these put a normalizer and a pre-tokenizer of their own in the place of those in tokenizer.json (a
line says so where they differ). All of it is written into the one tokenizer.json of the artifact. A value is honoured
where it changes the ids, the token types or the cuts of texts or pairs in one family or another, and they are then
those of `AutoTokenizer`, of the model's folder and of the artifact's. `model_max_length` and `max_length` give way to
`--seq-len`. Refused, too, are a token with an id beyond the rows of the model's word table, and a token type beyond
those of its table of types."""
