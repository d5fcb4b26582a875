import gc
import tracemalloc
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import wordpiece

from prunetime.inference.tokenize import Tokenizer
from prunetime.serve.core.texts import TextCache

CONTENT = wordpiece(["red sofa with blue legs", "a lamp for the red sofa"]).to_str().encode()
TEXT = st.one_of(
    st.text(max_size=30), st.sampled_from(["red sofa", "a lamp 😀 for 漢字", "sofa " * 30, "e\u0301\u200d\u00ad"])
)
ROW = st.one_of(st.tuples(TEXT), st.tuples(TEXT, TEXT))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(CONTENT, 12)


@given(rows=st.lists(ROW, min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_tokens_put_together_are_those_of_the_whole(tokenizer: Tokenizer, rows: list[tuple[str, ...]]) -> None:
    expected, cache = tokenizer.encode(rows), TextCache(tokenizer, 1 << 20)
    for _ in range(2):  # new, and known
        found = cache.encode(rows)
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.types.tolist() == expected.types.tolist()
        assert found.offsets.tolist() == expected.offsets.tolist()


def test_each_text_is_tokenised_once(tokenizer: Tokenizer) -> None:
    cache = TextCache(tokenizer, 1 << 20)
    cache.encode([("red", "sofa"), ("red", "lamp"), ("red", "sofa")])
    assert (cache.hits, cache.misses, len(cache)) == (3, 3, 3)


def test_what_was_not_used_for_longest_makes_room(tokenizer: Tokenizer) -> None:
    cache = TextCache(tokenizer, 4_000)
    for number in range(50):
        cache.encode([("red sofa",), (f"lamp {number}",)])
    assert len(cache) < 15
    before = cache.hits
    cache.encode([("red sofa",)])
    assert cache.hits == before + 1
    assert cache.bytes <= 4_000


def test_a_text_larger_than_the_cache_is_not_kept(tokenizer: Tokenizer) -> None:
    cache = TextCache(tokenizer, 100)
    assert len(cache.encode([("sofa " * 100,)]).ids) == 12
    assert len(cache) == 0


WORDS = ["".join(letters) for letters in product("abcdefgh", repeat=3)]
MANY_WORDS = wordpiece(WORDS * 2, vocabulary=2_000).to_str().encode()


def is_full_and_as_large_as_its_limit(tokenizer: Tokenizer, text_of: Callable[[int], str]) -> None:
    limit = 400_000
    cache = TextCache(tokenizer, limit)
    cache.encode([("a",)])  # what is made once
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(2_500):
            cache.encode([(text_of(number),)])
        gc.collect()  # which empties the interpreter's lists of tuples to be used again
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert cache.misses > len(cache)
    assert used == pytest.approx(limit, rel=0.1)


# Of ASCII, of one, two and four bytes a character, of more tokens than are kept, and of none.
@pytest.mark.parametrize(
    "text",
    [
        "sofa {}",
        "\u00e9t\u00e9 {}",
        "\u6f22\u5b57 {}",
        "\U0001f600 {}",
        "red {} " + "sofa " * 200,
        " " * 20 + "{}",
    ],
)
def test_the_limit_is_of_the_memory_that_is_used(tokenizer: Tokenizer, text: str) -> None:
    is_full_and_as_large_as_its_limit(tokenizer, text.format)


def test_the_numbers_of_tokens_are_counted() -> None:
    """Integers above 256 are objects of their own."""
    tokenizer = Tokenizer(MANY_WORDS, 64)
    large = [word for word in WORDS if min(tokenizer.single(word).ids) > 256]
    assert len(large) > 100
    words = large * (1 + 2_560 // len(large))
    is_full_and_as_large_as_its_limit(tokenizer, lambda number: " ".join(words[number : number + 60]))
