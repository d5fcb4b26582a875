import gc
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import wordpiece

from prunetime.runtime.tokenize import Tokenizer
from prunetime.serve.texts import TextCache

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


# Of ASCII, of one, two and four bytes a character, and of no token.
@pytest.mark.parametrize(
    "letters",
    ["sofa {}", "\u00e9t\u00e9 {}", "\u6f22\u5b57 {}", "\U0001f600 {}", "red {} " + "sofa " * 200, " " * 20 + "{}"],
)
def test_the_limit_is_of_the_memory_that_is_used(tokenizer: Tokenizer, letters: str) -> None:
    limit = 400_000
    cache = TextCache(tokenizer, limit)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(3_000):
            cache.encode([(letters.format(number),)])
        gc.collect()  # which empties the interpreter's lists of tuples to be used again
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert cache.misses > len(cache)  # it is full
    assert used == pytest.approx(limit, rel=0.1)
