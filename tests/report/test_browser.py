"""The page in a real browser: nothing is wider than the window, on a phone or on a desk."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import dom_of

from prunetime.report.render import render

MEASURE = """
const frame = document.querySelector('iframe');
frame.onload = () => {
  const page = frame.contentDocument, width = page.documentElement.clientWidth;
  const inBox = (e) => e.closest('.scroll') && !e.classList.contains('scroll');
  const visible = [...page.body.querySelectorAll('*')].filter((e) => e.getClientRects().length);
  const wide = visible.filter((e) => {
    const box = e.getBoundingClientRect(), card = e.closest('.card, .tile');
    const limit = card && !inBox(e) && card !== e ? card.getBoundingClientRect().right : width;
    return (!inBox(e) && box.right > limit + 0.5) || box.left < -0.5;
  });
  const cut = visible.filter((e) => e.tagName === 'text').filter((e) => {
    const box = e.getBoundingClientRect(), drawing = e.ownerSVGElement.getBoundingClientRect();
    return box.left < drawing.left - 1 || box.right > drawing.right + 1;
  });
  const found = {
    width, scroll_width: page.documentElement.scrollWidth, elements: visible.length,
    charts: visible.filter((e) => e.matches('.chart')).length,
    wide: wide.map((e) => e.tagName + ' ' + e.textContent.slice(0, 40)), cut: cut.map((e) => e.textContent),
  };
  document.title = JSON.stringify(found);
};
"""
"""Looks into the frame and leaves in the title what sticks out: of the window, of its card, of its drawing."""


def measured(page: Path, width: int, folder: Path) -> dict:
    """What the browser makes of the page in a window of `width` pixels (its own windows are never below 500)."""
    outer = folder / "outer.html"
    source = json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/")
    outer.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><title></title><iframe style="border:0;width:{width}px;height:900px">'
        f"</iframe><script>{MEASURE}\nframe.srcdoc = {source};</script>"
    )
    title = re.search(r"<title>(.*?)</title>", dom_of(outer.as_uri(), folder), re.DOTALL)
    assert title
    assert title[1], "the page did not load in the frame"
    return json.loads(html.unescape(title[1]))


@pytest.mark.system
@pytest.mark.parametrize("width", [380, 1280])
@pytest.mark.parametrize("long_names", [False, True])
def test_nothing_sticks_out(make_run: Callable[..., Path], tmp_path: Path, width: int, long_names: bool) -> None:
    name = "w" * 200 if long_names else "query"
    run = make_run(
        model=f"models/{name}",
        columns={"text": [name, "title"], "group": name},
        slices={"all": 2400, f"unseen:{name}": 310},
        warnings=[f"{name} leaks"],
    )
    found = measured(render(run), width, tmp_path)
    assert found["width"] == width
    assert found["elements"] > 500
    assert found["charts"] == 7
    assert found["scroll_width"] <= width
    assert found["wide"] == []
    assert found["cut"] == []
