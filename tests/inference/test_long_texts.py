"""What long texts take: memory for what is kept of them, and work for their length, not for its square."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tiny import wordpiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from prunetime.errors import InputError
from prunetime.inference import tokenize as runtime

WORDS = "red sofa with blue legs a lamp for the garden"

MEASURE = """
import resource
from pathlib import Path
from prunetime.inference.tokenize import Tokenizer

words = {words!r}.split()
def text(count, first):
    return " ".join(words[(first + number) % len(words)] for number in range(count))
tokenizer = Tokenizer(Path({file!r}).read_bytes(), {longest})
tokenizer.encode([("red", "sofa")])

class Counted:
    # A tokenizer of the library that counts the characters which it is given.
    def __init__(self, tokenizer):
        self.tokenizer, self.characters = tokenizer, 0
    def __getattr__(self, name):
        return getattr(self.tokenizer, name)
    def encode_batch_fast(self, texts, **more):
        self.characters += sum(map(len, texts))
        return self.tokenizer.encode_batch_fast(texts, **more)

counted = tokenizer._tokenizer = Counted(tokenizer._tokenizer)
rows = [(text({count}, row), text({count} + row % 2, row + 1)) for row in range({rows})]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tokens = tokenizer.encode(rows)
assert tokens.lengths.tolist() == [{longest}] * {rows}
characters = sum(len(text) for row in rows for text in row)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, counted.characters / characters)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tokenizer.json for each side on which texts are cut."""
    folder = tmp_path_factory.mktemp("long")
    found = {side: folder / f"{side}.json" for side in ("right", "left")}
    for side, file in found.items():
        tokenizer = wordpiece([WORDS])
        tokenizer.enable_truncation(8, direction=side)
        tokenizer.save(str(file))
    return found


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("rows", "count", "longest"), [(1, 8_000, 32), (1, 8_000, 31), (20, 1_500, 32)])
def test_long_pairs(
    files: dict[str, Path], side: str, rows: int, count: int, longest: int, run_python: Callable[..., str]
) -> None:
    """The tokenizers library takes 8 GB and 12 s for the first of these."""
    code = MEASURE.format(words=WORDS, file=str(files[side]), rows=rows, count=count, longest=longest)
    megabytes, times_read = map(float, run_python(code, OMP_NUM_THREADS="1").split())
    assert megabytes < 50
    assert times_read < 2


MOST = 4_096
"""Characters of a text that are read at most, in the tests that follow."""

LENGTH = 32

TEXTS = [
    f"{WORDS} " * 1_000,
    "red" * 20_000,
    " " * 40_000 + "red sofa",
    "red sofa" + " " * 40_000,
    "\0" * 40_000 + "red",
    "red\n" * 10_000,
    "red, sofa. " * 4_000,
    "x" * 3_000 + " " + "y" * 3_000 + " red" * 2_000,
    ("x" * 700 + " ") * 60,
    "\u4e00" * 20_000,
    "\u0301" * 20_000,
    "\U0001f6cb " * 10_000,
    "red sofa",
]


def kinds() -> Iterator[Tokenizer]:
    yield wordpiece([WORDS])
    for model, splitter, trainer in (
        (models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), trainers.BpeTrainer),
        (models.Unigram(), pre_tokenizers.Metaspace(), trainers.UnigramTrainer),
        (models.BPE(), None, trainers.BpeTrainer),  # nowhere is it certain that a text can be cut
    ):
        made = Tokenizer(model)
        if splitter:
            made.pre_tokenizer = splitter
        extra = {"unk_token": "<unk>"} if trainer is trainers.UnigramTrainer else {}
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        made.train_from_iterator(
            [WORDS], trainer(special_tokens=["<unk>"], initial_alphabet=alphabet, show_progress=False, **extra)
        )
        yield made


class Counted:
    """A tokenizer of the library that counts the characters which it is given in batches, and the most of a call that
    keeps the interpreter."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.characters, self.kept, self.most = tokenizer, 0, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def encode(self, *texts: str, **more: Any) -> Any:
        self.kept = max(self.kept, sum(map(len, texts)))
        self.characters += sum(map(len, texts))
        return self.tokenizer.encode(*texts, **more)

    def encode_batch_fast(self, texts: Sequence[str], **more: Any) -> Any:
        self.characters += sum(map(len, texts))
        self.most = max(self.most, sum(map(len, texts)))
        return self.tokenizer.encode_batch_fast(texts, **more)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", range(4))
def test_no_more_of_a_text_is_read_than_the_limit(kind: int, side: str) -> None:
    """What can be cut has the tokens that it has without a limit, the rest is refused."""
    library = list(kinds())[kind]
    library.enable_truncation(8, direction=side)
    content = library.to_str().encode()
    free, limited = runtime.Tokenizer(content, LENGTH), runtime.Tokenizer(content, LENGTH, MOST)
    counted = limited._tokenizer = Counted(limited._tokenizer)
    refused = 0
    for first, second in product(TEXTS, ["", TEXTS[0], TEXTS[1], TEXTS[-1]]):
        texts = (first, second) if second else (first,)
        counted.characters = 0
        found = None
        with suppress(InputError):
            found = limited.encode([texts])
        if found is None:
            refused += 1
            assert max(map(len, texts)) > MOST
        else:
            expected = free.encode([texts])
            assert found.ids.tolist() == expected.ids.tolist()
            assert found.types.tolist() == expected.types.tolist()
        # A part is read again when it is made twice as long, and of one text of a pair tokens may be counted.
        assert counted.characters <= 4 * MOST * len(texts)
    assert refused
    assert counted.kept <= runtime.ALONE_CHARACTERS


def test_texts_are_read_in_groups_of_a_size() -> None:
    """Encodings of all texts of a request at once would take 150 bytes a token."""
    tokenizer = runtime.Tokenizer(wordpiece([WORDS]).to_str().encode(), 512, 1 << 16)
    counted = tokenizer._tokenizer = Counted(tokenizer._tokenizer)
    assert len(tokenizer.encode([("red" * 20_000,)] * 64)) == 64
    assert counted.characters >= 64 * 60_000
    assert counted.most <= runtime.GROUP_CHARACTERS + (1 << 16)


def test_counting_stops_where_it_is_enough() -> None:
    tokenizer = runtime.Tokenizer(wordpiece([WORDS]).to_str().encode(), LENGTH)
    counted = tokenizer._tokenizer = Counted(tokenizer._tokenizer)
    assert not tokenizer.fits(f"{WORDS} " * 20_000)
    assert tokenizer.fits("red", "sofa")
    assert not tokenizer.fits("red sofa", f"{WORDS} " * 20_000)
    assert tokenizer.count(f"{WORDS} " * 20_000, 100) > 100
    assert counted.characters < 100_000
    assert tokenizer.count(f"{WORDS} " * 100) == 100 * tokenizer.count(WORDS)
