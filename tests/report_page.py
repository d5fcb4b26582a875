"""The page of a report, parsed."""

from html.parser import HTMLParser
from pathlib import Path

from prunetime.report.render import render

VOID = {"meta", "br", "hr", "img", "input", "link"}

FILES = (
    "run.json",
    "profile.json",
    "search.json",
    "evaluations.jsonl",
    "mask.json",
    "gate.json",
    "front.json",
    "verify.json",
)
"""The files of a run of a search that a report is made of."""

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"


class Page(HTMLParser):
    """Elements with their attributes, the text, and whether every element was closed in order."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.parents: list[str | None] = []
        self.words: list[str] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.parents.append(self.open[-1] if self.open else None)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def children(self, parent: str, tag: str) -> int:
        return sum(p == parent and name == tag for p, (name, _) in zip(self.parents, self.elements, strict=True))


def page_of(run: Path) -> Page:
    path = render(run)
    assert path == run / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page
