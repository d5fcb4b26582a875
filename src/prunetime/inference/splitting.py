"""Texts in parts, the tokens of which are one after another the tokens of the whole text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers

from prunetime.errors import InputError

IDEOGRAPHS = r"\u4e00-\u9fff"

LETTERS = (
    rf"0-9A-Za-z\u00c0-\u024f\u0386-\u03ce\u0400-\u0481\u048a-\u052f\u05d0-\u05ea\u0620-\u064a\uac00-\ud7a3{IDEOGRAPHS}"
)
"""The characters of the commonest scripts, without marks, that stand apart from a space before or after them in every
form of normalisation, and share no grapheme with it."""

SPACE = re.compile(rf"(?<=[{LETTERS}]) (?=[{LETTERS}])")
"""A single space between letters: a text may be split before it."""

SPACE_OR_IDEOGRAPH = re.compile(rf"{SPACE.pattern}|(?<=[{IDEOGRAPHS}])(?=[{IDEOGRAPHS}])")
"""The same, and any place between two ideographs, for tokenizers that take every one for a word."""

NORMALIZERS = ("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "StripAccents")
"""Kinds that change no character because of one beyond a boundary: they look at a character, or at a character with its
combining marks, and leave a space between letters as it is."""

PRE_TOKENIZERS = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
"""Kinds that end a piece of text at every space, whatever comes before and after."""


def boundary_of(tokenizer: tokenizers.Tokenizer) -> re.Pattern[str] | None:
    """Where a text may be split so that the tokens of its parts are those of the whole; None: nowhere for certain.

    A text may be split where the model sees no further than a piece of the pre-tokenizer, a piece ends and depends on
    nothing beyond it, and an added token neither spans the place nor takes the space there.
    """
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.rstrip or any(map(str.isspace, token.content)) for token in added):
        return None
    normalizers = _steps(tokenizer.normalizer, "normalizers")
    splitters = _steps(tokenizer.pre_tokenizer, "pretokenizers")
    if not (all(step["type"] in NORMALIZERS for step in normalizers) and _end_at_spaces(splitters)):
        return None
    parts_ideographs = any(step.get("handle_chinese_chars") for step in normalizers)
    if parts_ideographs and not any(re.search(f"[{IDEOGRAPHS}]", token.content) for token in added):
        return SPACE_OR_IDEOGRAPH
    return SPACE


def part_of(
    text: str, characters: int, boundary: re.Pattern[str] | None, most: int | None = None, *, from_end: bool = False
) -> str:
    """The shortest part of at least `characters` with which `text` begins, or ends; all of it where there is none.

    Raises InputError where that is more than `most` characters.
    """
    read = text[-(most or len(text)) :][::-1] if from_end else text[:most]
    found = boundary.search(read, characters) if boundary and len(text) > characters else None
    if not found:
        if most and len(text) > most:
            raise _uncut(text, most)
        return text
    return text[len(text) - found.end() :] if from_end else text[: found.start()]


def pieces(text: str, characters: int, boundary: re.Pattern[str] | None, most: int | None = None) -> Iterator[str]:
    """The parts of `text`, one after another, of at least `characters` each but for the last.

    Raises InputError where one has more than `most` characters.
    """
    start = 0
    while start < len(text):
        end = start + most if most else len(text)
        found = boundary.search(text, start + characters, end) if boundary else None
        if not found and end < len(text):
            raise _uncut(text, end - start)
        stop = found.start() if found else len(text)
        yield text[start:stop]
        start = stop


def _uncut(text: str, characters: int) -> InputError:
    return InputError(
        f"a text of {len(text)} characters, {text[:40]!r}, cannot be cut: nowhere in {characters} characters of it are "
        "its tokens certain not to depend on what follows, as they are at a space between two words; send a shorter one"
    )


def _steps(component: Any, parts: str) -> list[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer (None: no steps), as a tokenizer.json has them."""
    if component is None:
        return []
    state: Mapping[str, Any] = json.loads(component.__getstate__())
    steps = [state]
    while any(step["type"] == "Sequence" for step in steps):
        steps = [inner for step in steps for inner in (step[parts] if step["type"] == "Sequence" else [step])]
    return steps


def _end_at_spaces(steps: list[Mapping[str, Any]]) -> bool:
    """Whether the pieces that a pre-tokenizer of these steps makes end at `SPACE`, and depend on nothing beyond it."""
    match steps:
        case [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "prepend_scheme": scheme}]:
            return scheme in ("always", "never")  # with `first`, a part's first word would be taken for the text's
        case [{"type": "Metaspace", "split": split}]:  # the space before a part becomes the prefix of its first word
            return bool(split)
        case [{"type": "ByteLevel", "use_regex": by_words}]:  # the words of GPT-2, which begin with their space
            return bool(by_words)
        case [{"type": kind}]:
            return kind in PRE_TOKENIZERS
    return False
