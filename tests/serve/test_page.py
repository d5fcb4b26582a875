"""The pages in a real browser."""

import html
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
from browser import dom_of
from served import Served

from prunetime import load

pytestmark = pytest.mark.system

QUERY, TEXTS = "red running shoes", ["Nike <b>running</b> shoes", "garden hose", "red sneakers"]


def asking(served: Served) -> str:
    return f"http://127.0.0.1:{served.port}/?{urlencode({'query': QUERY, 'text': TEXTS}, doseq=True)}"


def test_it_ranks_what_is_typed(serve: Callable[..., Served], artifacts: Path, tmp_path: Path) -> None:
    served = serve(artifacts / "pairs", artifacts / "topics")
    dom = dom_of(asking(served), tmp_path)
    items = re.findall(r'<li><span class="score">([\d.]+)</span><span>(.*?)</span>', dom)
    ranked = load(artifacts / "pairs").rank(QUERY, TEXTS)
    assert [html.unescape(text) for _, text in items] == [TEXTS[each.index] for each in ranked]
    assert [float(score) for score, _ in items] == pytest.approx([each.score for each in ranked], abs=1e-4)
    assert re.search(r"pairs/1: tokenize \d+ µs, queue \d+ µs, compute \d+ µs", dom)
    assert ">topics (version 1)</option>" in dom
    assert "<polyline" in dom
    assert not re.search(r'role="alert">[^<]', dom)


def test_it_asks_for_the_key_where_one_is_set(serve: Callable[..., Served], artifacts: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("sesame\n")
    served = serve(artifacts / "pairs", "--key-file", tmp_path / "keys")
    dom = dom_of(asking(served), tmp_path)
    assert 'id="key-line">' in dom
    assert "give a key" in dom


def test_the_api_is_described(server: Served, tmp_path: Path) -> None:
    dom = dom_of(f"http://127.0.0.1:{server.port}/docs", tmp_path)
    assert "/v2/models/{model}/infer" in dom
    assert "return_documents" in dom


def test_nothing_is_read_from_elsewhere(server: Served) -> None:
    for path in ("/", "/docs"):
        page = server.get(path)
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert not re.search(r"(src|href)=.?(https?:)?//", page.body.decode())
