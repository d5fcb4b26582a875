"""The tokenizer of a model folder, as `AutoTokenizer` of transformers reads it, in one tokenizer.json.

transformers takes much of a tokenizer from elsewhere than its tokenizer.json: from tokenizer_config.json,
special_tokens_map.json and added_tokens.json, and from the class that config.json or tokenizer_config.json names, which
may put its own normalizer, pre-tokenizer and template in the place of the file's. Running a model needs the tokenizers
library alone, so all of it is written into the one file that this library reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunetime.core.artifact import TOKENIZER
from prunetime.core.config import FAMILIES, EncoderConfig
from prunetime.errors import InputError
from prunetime.models.checkpoint import read_json
from prunetime.models.sentence import lower_cased
from prunetime.models.sentence_modules import transformer_settings

TOKENIZER_CONFIG = "tokenizer_config.json"
FILES = (TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json")
"""Where tokens are named; other files have the vocabulary of the model alone."""

TYPE = "token_type_ids"


@dataclass(frozen=True)
class PretrainedTokenizer:
    """A tokenizer that was read from a model folder.

    - `max_length`: in tokens, of the sequences that a model is given
    - `content`: a tokenizer.json from which the tokenizers library makes the ids and token types that `AutoTokenizer`
      makes of the folder; `truncation.direction` in it is the side on which texts are cut
    - `special_tokens`: the fields of a tokenizer_config.json that name special tokens
    - `splits_special_tokens`: whether special tokens that are written out in a text are text
    - `replaced`: the parts of the folder's own tokenizer.json that transformers replaces
    """

    max_length: int
    content: bytes
    special_tokens: Mapping[str, Any]
    splits_special_tokens: bool = False
    replaced: tuple[str, ...] = ()

    def files(self, config: EncoderConfig) -> dict[str, bytes]:
        """`content`, and the tokenizer_config.json with which `AutoTokenizer` reads it as prunetime does, and pads and
        cuts as a model of `config` needs it; by the names of the files."""
        types = [TYPE] if FAMILIES[config.family].token_types else []
        truncation = json.loads(self.content)["truncation"]
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.max_length,
            "model_input_names": ["input_ids", *types, "attention_mask"],
            "truncation_side": "right" if truncation is None else truncation["direction"].lower(),
            **({"split_special_tokens": True} if self.splits_special_tokens else {}),
            **self.special_tokens,
        }
        return {TOKENIZER: self.content, TOKENIZER_CONFIG: json.dumps(settings, indent=1).encode()}


def load_tokenizer(
    folder: Path, vocabulary: int, max_length: int, pad_token_id: int | None = None
) -> PretrainedTokenizer:
    """The tokenizer of a model folder, for a model whose table has `vocabulary` rows and sequences of `max_length`.

    The token of `pad_token_id` is its pad_token where the folder names none.

    Raises InputError where there is no tokenizer, a setting cannot be honoured, or the table lacks a token's id.
    """
    loaded = _as_transformers(folder)
    backend = loaded.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    if loaded.truncation_side == "left":
        backend.enable_truncation(max_length, direction="left")
    data = json.loads(backend.to_str())
    replaced = _replaced(folder / TOKENIZER, data)
    if transformer_settings(folder)[0].get("do_lower_case"):
        data["normalizer"] = lower_cased(data["normalizer"])
    if data["model"].get("dropout"):
        raise InputError(
            f"{folder / TOKENIZER}: dropout is {data['model']['dropout']}, so that ids are drawn at random; set it to "
            "null"
        )
    padding = None if pad_token_id is None else backend.id_to_token(pad_token_id)
    special_tokens = ({} if padding is None else {"pad_token": padding}) | _special_tokens(loaded)
    for token in _beyond(folder, data, loaded.get_vocab(), vocabulary):
        data["added_tokens"] = [each for each in data["added_tokens"] if each["content"] != token]
        special_tokens = {name: value for name, value in special_tokens.items() if value != token}
    if TYPE not in loaded.model_input_names:
        data["post_processor"] = without_types(data["post_processor"])
    if loaded.split_special_tokens:
        data["added_tokens"] = _matched_in_split_texts(folder, data)
    return PretrainedTokenizer(
        max_length,
        json.dumps(data, ensure_ascii=False).encode(),
        special_tokens,
        loaded.split_special_tokens,
        replaced,
    )


def _as_transformers(folder: Path) -> Any:
    """The tokenizer that `AutoTokenizer` makes of the folder; raises InputError where it cannot be honoured."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    import prunetime.models.hf  # noqa: F401 (registers the class by which artifacts are read)

    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception for every kind of broken content
        file = folder / TOKENIZER_CONFIG
        name = read_json(file).get("tokenizer_class") if file.is_file() else None
        named = f" (tokenizer_class {name!r})" if name else ""
        raise InputError(f"{folder} has no usable tokenizer{named}: {error}") from error
    kind = type(loaded).__name__
    if not isinstance(loaded, PreTrainedTokenizerFast):
        raise InputError(
            f"{folder}: tokenizer_class {kind} is code in Python, which an artifact cannot hold; classes that have a "
            f"{TOKENIZER} are supported"
        )
    # transformers gives a class without any vocabulary the five special tokens, and all text is unknown.
    files = [name for name in type(loaded).vocab_files_names.values() if name]
    if not any((folder / name).is_file() for name in files):
        raise InputError(f"{folder} has no usable tokenizer: it has none of {', '.join(sorted(files))}")
    if loaded.padding_side != "right":
        raise InputError(
            f"{folder}: padding_side {loaded.padding_side!r} is not supported: what a model then says of a text "
            "depends on the other texts of its batch; set it to 'right'"
        )
    return loaded


def _special_tokens(loaded: Any) -> dict[str, Any]:
    named = {name: str(token) for name, token in loaded.special_tokens_map.items() if isinstance(token, str)}
    extra = [str(token) for token in loaded.extra_special_tokens]
    return named | ({"extra_special_tokens": extra} if extra else {})


def _beyond(folder: Path, data: Mapping[str, Any], ids: Mapping[str, int], vocabulary: int) -> list[str]:
    """The tokens with ids that the table lacks, which only a class of transformers has added, by name.

    Raises InputError where the folder's files have such a token.
    """
    beyond = sorted((token for token, number in ids.items() if number >= vocabulary), key=ids.__getitem__)
    if not beyond:
        return []
    files = (path for name in FILES if (path := folder / name).is_file())
    texts = [path.read_text(encoding="utf-8") for path in files]
    model = _words_of_model(data)
    template = json.dumps(data["post_processor"])
    own = [
        token
        for token in beyond
        if token in model or json.dumps(token) in template or any(json.dumps(token) in text for text in texts)
    ]
    if own:
        raise InputError(
            f"the tokenizer of {folder} has the token {own[-1]!r} with the id {ids[own[-1]]}; the ids of the model's "
            f"table end at {vocabulary - 1} (vocab_size {vocabulary}): resize the table, or take the token out"
        )
    return beyond


def _words_of_model(data: Mapping[str, Any]) -> set[str]:
    """The vocabulary of the model alone, which is a list of (piece, score) in Unigram."""
    vocabulary = data["model"]["vocab"]
    return set(vocabulary) if isinstance(vocabulary, dict) else {piece for piece, _ in vocabulary}


def _matched_in_split_texts(folder: Path, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The added tokens that are found in texts under `split_special_tokens`, which a tokenizer.json cannot hold: those
    that are not special. A special token is then left out, which takes nothing from the model that has it, too.

    Raises InputError where the model lacks a special token.
    """
    known = _words_of_model(data)
    lacking = [each["content"] for each in data["added_tokens"] if each["special"] and each["content"] not in known]
    if lacking:
        raise InputError(
            f"{folder}: split_special_tokens is not supported where a special token is none of the model's vocabulary, "
            f"as {lacking[0]!r} is: set it to false"
        )
    return [each for each in data["added_tokens"] if not each["special"]]


def without_types(processor: Mapping[str, Any] | None) -> dict[str, Any]:
    """The `post_processor` of a tokenizer.json that makes the same tokens, all of type 0."""
    if processor is None:
        return _template([("Sequence", "A")], [("Sequence", "A"), ("Sequence", "B")], {})
    kind = processor["type"]
    if kind == "RobertaProcessing":  # whose types are 0
        return dict(processor)
    if kind == "BertProcessing":
        (cls, cls_id), (sep, sep_id) = processor["cls"], processor["sep"]
        single = [("SpecialToken", cls), ("Sequence", "A"), ("SpecialToken", sep)]
        return _template(single, [*single, ("Sequence", "B"), ("SpecialToken", sep)], {cls: cls_id, sep: sep_id})
    if kind == "TemplateProcessing":
        templates = {
            name: [{key: {**value, "type_id": 0} for key, value in piece.items()} for piece in processor[name]]
            for name in ("single", "pair")
        }
        return {**processor, **templates}
    processors = [dict(each) for each in processor["processors"]] if kind == "Sequence" else [dict(processor)]
    changed = [each if each["type"] == "ByteLevel" else without_types(each) for each in processors]
    if all(each["type"] == "ByteLevel" for each in changed):  # which trims offsets and adds nothing
        changed.append(without_types(None))
    return {"type": "Sequence", "processors": changed}


def _template(
    single: Sequence[tuple[str, str]], pair: Sequence[tuple[str, str]], special: Mapping[str, int]
) -> dict[str, Any]:
    def pieces(template: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        return [{kind: {"id": name, "type_id": 0}} for kind, name in template]

    tokens = {token: {"id": token, "ids": [number], "tokens": [token]} for token, number in special.items()}
    return {
        "type": "TemplateProcessing",
        "single": pieces(single),
        "pair": pieces(pair),
        "special_tokens": tokens,
    }


def _replaced(file: Path, data: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts of a tokenizer.json that make other pieces of a text than those of `data` do."""
    if not file.is_file():
        return ()
    from tokenizers import Tokenizer

    own = json.loads(Tokenizer.from_file(str(file)).to_str())  # with all defaults written out
    parts = [name for name in ("normalizer", "pre_tokenizer") if own[name] != data[name]]
    return (*parts, *(["model"] if own["model"]["type"] != data["model"]["type"] else []))
