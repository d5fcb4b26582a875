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
    cache = TextCache(tokenizer, 1_000)
    for number in range(50):
        cache.encode([("red sofa",), (f"lamp {number}",)])
    assert len(cache) < 10
    before = cache.hits
    cache.encode([("red sofa",)])
    assert cache.hits == before + 1
    assert cache._bytes <= 1_000


def test_a_text_larger_than_the_cache_is_not_kept(tokenizer: Tokenizer) -> None:
    cache = TextCache(tokenizer, 100)
    assert len(cache.encode([("sofa " * 100,)]).ids) == 12
    assert len(cache) == 0
