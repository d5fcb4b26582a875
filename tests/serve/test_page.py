"""The pages in a real browser, for every kind of model."""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlencode

import pytest
from browser import Browser, browsing, dom_of
from served import TASKS, Served, make_artifact
from waiting import eventually

from prunetime import load
from prunetime.core.task import Task

pytestmark = pytest.mark.system

QUERY, TEXTS = "red running shoes", ["Nike <b>running</b> shoes", "garden hose", "red sneakers"]
MEASURED = {
    "budget": {"us": 1900.0, "share": None, "statistic": "p50", "seq_len": 24, "batch": 1},
    "dense": {"p50_us": 5933.3, "metric": "auc", "value": 0.93546},
    "pruned": {"p50_us": 1628.3, "metric": "auc", "value": 0.94093},
    "machine": {"cpu": "AMD <i>EPYC</i>"},
}
HOSTILE = "<img src=x onerror=\"document.title='broken'\">"
OF_KINDS = {
    "pairs": TASKS["pairs"],
    "topics": TASKS["topics"],
    "several": TASKS["several"],
    "answers": TASKS["answers"],
    "words": TASKS["words"],
    "twins": TASKS["twins"],
    "grades": Task("regression", (), ("query", "title"), 24),
    "hostile": Task("classification", (HOSTILE, "<script>alert(1)</script>", "c"), ("<u>text</u>",), 24),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    with pytest.MonkeyPatch.context() as patch:
        for seed, (name, task) in enumerate(OF_KINDS.items()):
            patch.setitem(TASKS, name, task)
            make_artifact(folder / name, name, seed)
    manifest = folder / "pairs" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "provenance": {"measured": MEASURED}}))
    return folder


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served], root: Path) -> Served:
    return serve(*(root / name for name in OF_KINDS))


def page(served: Served, folder: Path, model: str, texts: list[str], query: str | None = None) -> str:
    """The document after a link has asked a model."""
    asked = {"model": model, "text": texts} | ({} if query is None else {"query": query})
    dom = dom_of(f"http://127.0.0.1:{served.port}/?{urlencode(asked, doseq=True)}", folder)
    assert re.search(r'role="alert"></p>', dom), dom
    return dom


def facts(dom: str) -> dict[str, str]:
    return {name: html.unescape(value) for name, value in re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", dom)}


def listed(dom: str) -> list[tuple[str, str]]:
    """Scores and texts, as they are shown."""
    found = re.findall(r'<li><span class="score">(.*?)</span><span>(.*?)</span>', dom)
    return [(score, html.unescape(text)) for score, text in found]


def is_shown(dom: str, id_: str) -> bool:
    return "hidden" not in re.search(rf'<\w+ id="{id_}"[^>]*>', dom)[0]


@pytest.mark.parametrize("name", ["pairs", "twins", "grades"])
def test_texts_are_ranked(served: Served, root: Path, tmp_path: Path, name: str) -> None:
    dom = page(served, tmp_path, name, TEXTS, QUERY)
    scores = load(root / name).score([(QUERY, text) for text in TEXTS])
    order = sorted(range(len(TEXTS)), key=lambda i: -scores[i])
    assert [text for _, text in listed(dom)] == [TEXTS[i] for i in order]
    assert [float(score) for score, _ in listed(dom)] == pytest.approx([scores[i] for i in order], abs=1e-4)
    assert is_shown(dom, "first-place")
    assert ">Query</label>" in dom
    assert ">Title, one a line</label>" in dom
    assert (dom.count('class="bar"') > 0) is (name != "grades")  # of no scale


def test_it_says_what_the_model_is_and_where_the_time_went(served: Served, tmp_path: Path) -> None:
    dom = page(served, tmp_path, "pairs", TEXTS, QUERY)
    said = facts(dom)
    assert said["Task"] == "classification"
    assert said["Labels"] == "bad, good"
    assert said["Reads"] == "query and title, up to 24 tokens"
    assert said["Budget"] == "1.90 ms (p50, 1 × 24 tokens)"
    assert said["Measured"] == "median 1.63 ms (dense 5.93 ms) on AMD <i>EPYC</i>"
    assert said["Quality"] == "auc 0.9409 (dense 0.9355)"
    assert said["Model"] == "pairs/1"
    for stage in ("Tokenize", "Queue", "Compute", "There and back"):
        assert re.fullmatch(r"[\d.]+ ms", said[stage]), said
    assert "µs" not in dom
    choice = re.search(r'<select id="model">(.*?)</select>', dom)[1]
    assert re.findall(r">(.*?)</option>", choice) == [f"{name} (version 1)" for name in OF_KINDS]
    assert facts(page(served, tmp_path, "words", ["red"]))["Measured"] == "not by prunetime prune"


def test_labels_of_a_text_are_bars(served: Served, root: Path, tmp_path: Path) -> None:
    texts = ["red sofa", "running & <i>shoes</i>"]
    dom = page(served, tmp_path, "topics", texts)
    expected = []
    for scores in load(root / "topics").score([(text,) for text in texts]):
        shares = sorted(zip(scores, TASKS["topics"].labels, strict=True), reverse=True)
        expected += [(f"{100 * share:.1f} %", label) for share, label in shares]
    assert listed(dom) == expected
    assert [html.unescape(text) for text in re.findall(r"<h3>(.*?)</h3>", dom)] == texts
    widths = [float(width) for width in re.findall(r'class="bar" style="width: ([\d.]+)%', dom)]
    assert widths == pytest.approx([float(score[:-2]) for score, _ in expected], abs=0.06)
    assert not is_shown(dom, "first-place")


def test_labels_from_the_threshold_on_stand_beside_the_text(served: Served, root: Path, tmp_path: Path) -> None:
    texts, model = ["red sofa", "running shoes", "lamp for the bath"], load(root / "several")
    dom = page(served, tmp_path, "several", texts)
    scores = model.score(texts)
    expected = [", ".join(labels) or "no label" for labels in model.manifest.task.assigned(scores)]
    assert len(set(expected)) > 1
    shown = re.findall(r'<h3>(.*?)<span class="soft"> (.*?)</span></h3>', dom)
    assert shown == list(zip(texts, expected, strict=True))
    assert [score for score, _ in listed(dom)] == [f"{100 * s:.1f} %" for row in scores for s in sorted(row)[::-1]]


def test_spans_are_marked_in_their_text(served: Served, root: Path, tmp_path: Path) -> None:
    texts = ["\U0001f600 red sofa & <b>legs</b> for the lamp", "running shoes"]
    dom = page(served, tmp_path, "words", texts)
    found = re.findall(r'<p class="text">(.*?)</p>', dom)
    assert len(found) == len(texts)
    for text, shown, tagged in zip(texts, found, load(root / "words").score([(text,) for text in texts]), strict=True):
        marks = re.findall(r'<mark>(.*?)<span class="label"> (.*?)</span></mark>', shown)
        expected = [(span.text, f"{span.label} {100 * span.score:.1f} %") for span in tagged.spans]
        assert [(html.unescape(part), html.unescape(said)) for part, said in marks] == expected
        assert expected
        unmarked = re.sub(r'<mark>(.*?)<span class="label">.*?</span></mark>', r"\1", shown)
        assert html.unescape(unmarked) == text


def test_an_answer_is_marked_in_its_context(served: Served, root: Path, tmp_path: Path) -> None:
    context = "\U0001f600 the home team\nwon & the lamp for a <b>red</b> sofa"
    dom = page(served, tmp_path, "answers", [context], "Who won?")
    (answer,) = load(root / "answers").score([("Who won?", context)])
    said, share = re.search(r'<h3>(.*?) <span class="soft">(.*?)</span></h3>', dom, re.DOTALL).groups()
    assert (html.unescape(said), share) == (answer.text, f"{100 * answer.score:.1f} %")
    shown = html.unescape(re.search(r'<p class="text">(.*?)</p>', dom, re.DOTALL)[1])
    before, rest = shown.split("<mark>")
    assert len(before) == answer.start
    assert before + rest.replace("</mark>", "") == context
    assert ">Context</label>" in dom  # which is one text, whatever lines it has


def test_texts_of_models_and_users_are_texts(served: Served, tmp_path: Path) -> None:
    dom = page(served, tmp_path, "hostile", [HOSTILE])
    assert "<title>prunetime</title>" in dom
    body = re.sub(r"<script>.*?</script>", "", dom, count=1, flags=re.DOTALL)  # its own
    assert not re.search(r"<img|<script|<u>", body)
    assert {label for _, label in listed(dom)} == set(OF_KINDS["hostile"].labels)
    assert html.escape("<u>text</u>", quote=False) in body


def test_it_asks_for_a_key_only_where_one_is_set(
    serve: Callable[..., Served], served: Served, root: Path, tmp_path: Path
) -> None:
    assert 'id="key-place"></div>' in page(served, tmp_path, "topics", ["red"])
    keys = tmp_path / "keys"
    keys.write_text("sesame\n")
    locked = serve(root / "topics", "--key-file", keys)
    dom = dom_of(f"http://127.0.0.1:{locked.port}/", tmp_path)
    assert re.search(r'id="key-place"><section><label for="key">Key</label><input type="password" id="key"', dom)
    assert re.search(r'role="alert">give a key', dom)


def test_one_model_is_no_choice(serve: Callable[..., Served], root: Path, tmp_path: Path) -> None:
    dom = dom_of(f"http://127.0.0.1:{serve(root / 'words').port}/", tmp_path)
    assert not is_shown(dom, "model-place")
    assert facts(dom)["Model"] == "words (version 1)"
    assert not is_shown(dom, "times-place")
    labelled = set(re.findall(r'<label for="(\w+)"', dom))
    assert set(re.findall(r'<(?:input type="text"|input type="password"|select|textarea) id="(\w+)"', dom)) <= labelled


def test_the_api_is_described(served: Served, tmp_path: Path) -> None:
    dom = dom_of(f"http://127.0.0.1:{served.port}/docs", tmp_path)
    assert "/v2/models/{model}/infer" in dom
    assert "return_documents" in dom


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as made:
        yield made


def text_of(browser: Browser, id_: str) -> str:
    return browser.run(f"document.getElementById('{id_}').textContent")


def focused(browser: Browser) -> str:
    return browser.run("document.activeElement.id")


def test_it_is_used_by_keyboard(browser: Browser, serve: Callable[..., Served], root: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sesame\n")
    served = serve(root / "topics", root / "words", "--key-file", keys)
    browser.open(f"http://127.0.0.1:{served.port}/")
    eventually(lambda: text_of(browser, "problem").startswith("give a key"))
    browser.run("document.querySelector('a').focus()")
    browser.press("Tab")
    assert focused(browser) == "key"
    browser.type("sesame")
    browser.press("Tab")
    eventually(lambda: "shoes, sofas" in text_of(browser, "about"))
    assert browser.run("document.getElementById('model').options.length") == 2
    assert text_of(browser, "problem") == ""
    assert focused(browser) == "model"
    browser.press("Tab")
    assert focused(browser) == "second"  # there is one text only
    browser.run("document.getElementById('second').select()")
    browser.type("red sofa")
    browser.press("Tab")
    assert focused(browser) == "ask"
    browser.press("Enter")
    eventually(lambda: "red sofa" in text_of(browser, "results"))
    (scores,) = load(root / "topics").score([("red sofa",)])
    assert f"{100 * max(scores):.1f} %" in text_of(browser, "results")
    assert browser.run("document.getElementById('results').ariaLive") == "polite"


def test_another_model_is_chosen_and_one_that_was_swapped_is_found_again(
    browser: Browser, serve: Callable[..., Served], root: Path
) -> None:
    served = serve(root / "topics", root / "answers")
    browser.open(f"http://127.0.0.1:{served.port}/")
    eventually(lambda: "shoes, sofas" in text_of(browser, "about"))
    assert "shoes for kids" in browser.run("document.getElementById('second').value")
    choose = "model.selectedIndex = 1, model.dispatchEvent(new Event('change'))"
    browser.run(f"(() => {{ const model = document.getElementById('model'); {choose}; }})()")
    eventually(lambda: "question and context" in text_of(browser, "about"))
    assert browser.run("document.getElementById('first').value") == "Who won?"  # nobody had written anything
    served.post("/v2/repository/models/answers/load", {})
    browser.run("document.getElementById('ask').click()")
    eventually(lambda: "has no version '1'" in text_of(browser, "problem"))
    eventually(lambda: browser.run("document.getElementById('model').selectedOptions[0].text") == "answers (version 2)")
    browser.run("document.getElementById('ask').click()")
    eventually(lambda: browser.run("document.querySelectorAll('#results article').length") == 1)
    assert text_of(browser, "problem") == ""


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(browser: Browser, served: Served, width: int) -> None:
    browser.resize(width)
    for model, text in (
        ("pairs", "a" * 300),
        ("words", "red sofa " * 30),
        ("answers", "red " * 60),
        ("hostile", HOSTILE),
    ):
        query = urlencode({"model": model, "query": "b" * 300, "text": text})
        browser.open(f"http://127.0.0.1:{served.port}/?{query}")
        eventually(lambda: "ms" in text_of(browser, "times"))
        assert browser.run("document.documentElement.scrollWidth") == width, model
    browser.open(f"http://127.0.0.1:{served.port}/docs")
    eventually(lambda: browser.run("document.querySelectorAll('section').length") > 10)
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_nothing_is_read_from_elsewhere_or_shown_elsewhere(served: Served, path: str) -> None:
    reply = served.get(path)
    text = reply.body.decode()
    policy = dict(each.strip().split(" ", 1) for each in reply.headers["content-security-policy"].split(";"))
    for kind in ("style", "script"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        assert policy[f"{kind}-src"] == f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"
    nothing = {name for name, value in policy.items() if value == "'none'"}
    assert nothing == {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert policy["connect-src"] == "'self'"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"(src|href)=.?(https?:)?//", text)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", text)


class Blank(BaseHTTPRequestHandler):
    """The page of another site."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def another_site() -> Iterator[str]:
    """Its origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Blank) as site:
        thread = Thread(target=site.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{site.server_port}"
        site.shutdown()
        thread.join()


def test_a_page_of_another_site_reads_answers_where_it_may(
    browser: Browser, serve: Callable[..., Served], root: Path
) -> None:
    with another_site() as named, another_site() as other:
        served = serve(root / "pairs", "--cors", named)
        request = {"method": "POST", "headers": {"content-type": "application/json", "x-request-timeout-ms": "300000"}}
        request |= {"body": json.dumps({"inputs": [QUERY, TEXTS[0]]})}
        asks = (
            f"window.found = ''; fetch('http://127.0.0.1:{served.port}/predict', {json.dumps(request)})"
            ".then(answer => answer.json().then(body => answer.headers.get('x-prunetime-model') + ' ' + body.length))"
            ".catch(error => error.name).then(found => window.found = found); 0"
        )
        for site, expected in ((named, "pairs/1 2"), (other, "TypeError")):
            browser.open(site)
            browser.run(asks)
            eventually(lambda: browser.run("window.found") != "")
            assert browser.run("window.found") == expected
