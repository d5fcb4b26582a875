"""What long texts take: memory for what is kept of them, and work for their length, not for its square."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import wordpiece

WORDS = "red sofa with blue legs a lamp for the garden"

MEASURE = """
import resource
from pathlib import Path
from prunetime.runtime.tokenize import Tokenizer

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
