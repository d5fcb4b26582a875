"""The page in a real browser, on a phone, a desk and paper: nothing is cut off, out of sight or written over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browsing

from prunetime.core.arch import Dims
from prunetime.report.render import render

MEASURE = """(() => {
  const width = document.documentElement.clientWidth;
  const visible = [...document.body.querySelectorAll('*')].filter((e) => e.getClientRects().length);
  const box = (e) => e.getBoundingClientRect();
  const inner = (e) => {  // of a text in a cell or a drawing: without the padding around it
    const range = document.createRange();
    range.selectNodeContents(e);
    return e.matches('text, line') ? box(e) : range.getBoundingClientRect();
  };
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const crosses = (text, line) => text.left < line.left && line.left < text.right
    && text.top < line.bottom - 1 && line.top < text.bottom - 1;
  const overlaps = [];
  for (const group of document.querySelectorAll('table, svg')) {
    const texts = [...group.querySelectorAll('th, td, text')].filter((e) => visible.includes(e));
    const lines = [...group.querySelectorAll('line.limit, line.target')].filter((e) => visible.includes(e));
    texts.forEach((a, i) => {
      for (const b of texts.slice(i + 1))
        if (meet(inner(a), inner(b))) overlaps.push(a.textContent + ' | ' + b.textContent);
      for (const line of lines)
        if (crosses(inner(a), box(line))) overlaps.push(a.textContent + ' | ' + line.getAttribute('class'));
    });
  }
  const wide = visible.filter((e) => {
    const card = e.closest('.card, .tile');
    const limit = card && card !== e ? box(card).right : width;
    return box(e).right > limit + 0.5 || box(e).left < -0.5;
  });
  const cut = visible.filter((e) => e.tagName === 'text').filter((e) => {
    const drawing = box(e.ownerSVGElement);
    return box(e).left < drawing.left - 1 || box(e).right > drawing.right + 1 || box(e).bottom > drawing.bottom + 1;
  });
  const scrolled = visible.filter((e) => !e.closest('svg') && e.scrollWidth > e.clientWidth + 1
    && getComputedStyle(e).overflowX !== 'visible');
  const said = (elements) => elements.map((e) => e.tagName + ' ' + e.textContent.slice(0, 40));
  return {
    width, scroll_width: document.documentElement.scrollWidth, elements: visible.length,
    charts: visible.filter((e) => e.matches('.chart')).length,
    shortened: said(visible.filter((e) => e.tagName === 'text' && e.textContent.includes('…'))),
    smallest: Math.min(...visible.filter((e) => e.matches('.chart text')).map((e) => box(e).height)),
    wide: said(wide), cut: said(cut), scrolled: said(scrolled), overlaps,
  };
})()"""
"""What sticks out (of the window, of its card, of its drawing), what must be scrolled to, what lies over what."""

A4 = 703
"""Pixels between the margins of a page of paper."""

BERT = Dims(layers=12, hidden=768, heads=12, head_dim=64, ffn=3072, vocabulary=30522, positions=512)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def measured(browser: Browser, page: Path, width: int) -> dict[str, Any]:
    """What the browser makes of the page in a window of `width` pixels."""
    browser.resize(width)
    browser.open(page.as_uri())
    return browser.run(MEASURE)


@pytest.mark.system
@pytest.mark.parametrize("long_names", [False, True])
def test_nothing_sticks_out(make_run: Callable[..., Path], browser: Browser, long_names: bool) -> None:
    name = "w" * 200 if long_names else "query"
    run = make_run(
        model=f"models/{name}",
        columns={"text": [name, "title"], "group": name},
        slices={"all": 2400, f"unseen:{name}": 310},
        warnings=[f"{name} leaks"],
        **({"dims": BERT} if long_names else {}),
    )
    page = render(run.rename(run.with_name(name)))
    for media, width in (*(("screen", width) for width in (320, 390, 640, 899, 900, 1280)), ("print", A4)):
        browser.show_as(media)
        found = measured(browser, page, width)
        assert found["width"] == width
        assert found["elements"] > 500
        assert found["charts"] == 7
        assert found["scroll_width"] <= width
        for fault in ("wide", "cut", "scrolled", "overlaps", *(() if long_names else ("shortened",))):
            assert found[fault] == [], f"at {width} pixels: {fault}"
        assert found["smallest"] > 8, f"at {width} pixels text of charts is too small to read"
