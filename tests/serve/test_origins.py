"""What a browser lets any page send, and what this server does with it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from served import Served, make_artifact

from prunetime.errors import InputError
from prunetime.serve.errors import RefusedError
from prunetime.serve.http.origins import Origins, check_media_type
from prunetime.serve.settings import ServeSettings

Serve = Callable[..., Served]
KEYS = Path("keys")
LOADED = "/v2/repository/models/pairs"


def origins(**settings: object) -> Origins:
    return Origins(ServeSettings((), **settings))


def is_let_in(check: Callable[[], None]) -> bool:
    try:
        check()
    except RefusedError:
        return False
    return True


@pytest.mark.parametrize(
    ("settings", "answered", "refused"),
    [
        (
            {},
            ["localhost", "LocalHost.:8080", "127.0.0.1", "127.0.0.1:8080", "127.9.9.9:1", "[::1]:8080"],
            [
                "evil.example",
                "evil.example:8080",
                "localhost.evil.example",
                "a@localhost",
                "10.0.0.1",
                "",
                "local host",
            ],
        ),
        ({"host": "::1"}, ["[::1]", "localhost:1"], ["[fe80::1]:8080", "[::1", "example"]),
        (
            {"allow_hosts": ("Ads.internal",)},
            ["ads.internal:80", "ADS.internal", "localhost"],
            ["internal", "bads.internal"],
        ),
        ({"key_file": KEYS, "host": "0.0.0.0"}, ["ads.internal", "10.0.0.1", "evil.example"], []),
        (
            {"key_file": KEYS, "host": "0.0.0.0", "allow_hosts": ("ads.internal",)},
            ["ads.internal", "10.0.0.1:8080", "[fe80::1]", "localhost"],
            ["evil.example"],
        ),
        ({"key_file": KEYS, "host": "10.0.0.1", "allow_hosts": ("ads",)}, ["10.0.0.1:80", "ads"], ["10.0.0.2"]),
        ({"uds": Path("socket")}, ["localhost", "anything", "evil.example"], []),
    ],
)
def test_hosts(settings: dict[str, object], answered: list[str], refused: list[str]) -> None:
    checked = origins(**settings)
    checked.check_host({})
    for host in answered + refused:
        assert is_let_in(lambda: checked.check_host({"host": host})) is (host in answered), host  # noqa: B023 (it is called at once)


@pytest.mark.parametrize("host", ["http://ads", "ads:8080", "ads/x", "", "*"])
def test_what_is_no_host_is_refused_by_name(host: str) -> None:
    with pytest.raises(InputError, match=r"--allow-host .*without scheme, port and path"):
        ServeSettings((), allow_hosts=(host,))


OF_BROWSERS: list[tuple[dict[str, str], bool]] = [
    ({}, True),
    ({"sec-fetch-site": "same-origin", "origin": "http://localhost:8080"}, True),
    ({"sec-fetch-site": "none"}, True),
    ({"sec-fetch-site": "same-site", "origin": "http://localhost:3000"}, False),
    ({"sec-fetch-site": "cross-site", "origin": "https://evil.example"}, False),
    ({"sec-fetch-site": "cross-site"}, False),
    ({"sec-fetch-site": "cross-site", "origin": "http://localhost:8080"}, False),
    ({"origin": "http://localhost:8080"}, True),
    ({"origin": "http://localhost:3000"}, False),
    ({"origin": "https://evil.example"}, False),
    ({"origin": "null"}, False),
    ({"origin": ""}, False),
    ({"origin": "https://ads.internal"}, True),  # of a proxy that calls this server by another name
    ({"sec-fetch-site": "same-origin", "origin": "https://ads.internal"}, True),
]


@pytest.mark.parametrize(("headers", "let_in"), OF_BROWSERS)
def test_pages_of_other_origins_may_only_read(headers: Mapping[str, str], let_in: bool) -> None:
    checked = origins(allow_hosts=("ads.internal",))
    asked = {"host": "localhost:8080", **headers}
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert is_let_in(lambda: checked.check_page(asked, method)) is let_in  # noqa: B023 (it is called at once)
    for method in ("GET", "HEAD"):
        checked.check_page(asked, method)


PAGE = {"host": "localhost:8080", "origin": "https://shop.example", "sec-fetch-site": "cross-site"}


@pytest.mark.parametrize("cors", [("https://shop.example",), ("http://a", "HTTPS://Shop.example")])
def test_pages_of_named_origins_may_ask_but_change_nothing_without_keys(cors: tuple[str, ...]) -> None:
    without, with_keys = origins(cors=cors), origins(cors=cors, key_file=KEYS)
    for checked in (without, with_keys):
        checked.check_page(PAGE, "POST")
        for other in ("https://shop.example:444", "http://shop.example", "https://evil.example", "null"):
            assert not is_let_in(lambda: checked.check_page(PAGE | {"origin": other}, "POST"))  # noqa: B023 (it is called at once)
    assert not is_let_in(lambda: without.check_page(PAGE, "POST", changes=True))
    with_keys.check_page(PAGE, "POST", changes=True)


@pytest.mark.parametrize("origin", ["*", "shop.example", "https://shop.example/", "https://a b", "null", "ftp://shop"])
def test_what_is_no_origin_is_refused_by_name(origin: str) -> None:
    with pytest.raises(InputError, match="--cors"):
        ServeSettings((), cors=(origin,))
    assert ServeSettings((), cors=("*",), key_file=KEYS).cors == ("*",)


def test_a_browser_is_told_which_pages_may_ask(serve: Serve, artifacts: Path) -> None:
    served = serve(artifacts / "pairs", "--model-root", artifacts, "--cors", "https://shop.example")
    page = PAGE | {"host": f"localhost:{served.port}"}
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    told = served.ask("OPTIONS", "/predict", None, **page, **asks)
    assert (told.status, told.body) == (204, b"")
    assert told.headers["access-control-allow-origin"] == "https://shop.example"
    assert "POST" in told.headers["access-control-allow-methods"].split(", ")
    assert "content-type" in told.headers["access-control-allow-headers"].split(", ")
    answer = served.post("/predict", {"inputs": ["red sofa", "lamp"]}, **page, **{"content-type": "application/json"})
    assert answer.status == 200
    refused = served.post("/predict", {"inputs": [1]}, **page)
    assert refused.status == 422
    for each in (answer, refused):  # else the page could not read them
        assert each.headers["access-control-allow-origin"] == "https://shop.example"
        assert "x-prunetime-model" in each.headers["access-control-expose-headers"]
    assert served.post(f"{LOADED}/unload", {}, **page).status == 403
    other = page | {"origin": "https://evil.example"}
    for reply in (served.ask("OPTIONS", "/predict", None, **other, **asks), served.get("/v2/models/pairs", **other)):
        assert "access-control-allow-origin" not in reply.headers
        assert reply.headers["vary"] == "origin"
    assert "vary" not in serve(artifacts / "pairs").get("/health").headers


def test_a_form_of_a_page_is_not_json() -> None:
    for kind in ("", "application/json", "application/json; charset=utf-8", "Application/JSON ;x"):
        check_media_type({"content-type": kind} if kind else {})
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
    ):
        with pytest.raises(RefusedError, match="content-type: application/json") as refused:
            check_media_type({"content-type": kind})
        assert refused.value.status == 415


@pytest.mark.parametrize("words", [(), ("--key-file",)])
def test_a_page_of_another_origin_changes_nothing(
    serve: Serve, root: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sesame\n")
    served = serve(root / "pairs", "--model-root", root, *words, *([keys] if words else []))
    key = {"authorization": "Bearer sesame"}
    of_page = {"host": f"localhost:{served.port}", "origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    for path, content in ((f"{LOADED}/unload", {}), (f"{LOADED}/load", {"artifact": "other"})):
        for headers, status in (
            (of_page, 403),
            ({name: value for name, value in of_page.items() if name != "sec-fetch-site"}, 403),
            ({"content-type": "text/plain"}, 415),
            ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ):
            answer = served.post(path, content, **headers, **key)
            assert (answer.status, bool(answer.json["error"])) == (status, True)
    index = served.post("/v2/repository/index", {}, **key).json
    assert [f"{each['name']}/{each['version']}" for each in index] == ["pairs/1"]
    curl = {"content-type": "application/x-www-form-urlencoded"}  # `curl -d`, which scores
    assert served.post("/predict", {"inputs": ["red sofa", "lamp"]}, **curl, **key).status == 200
    of_this_page = {"origin": f"http://localhost:{served.port}", "host": f"localhost:{served.port}"}
    asked = served.post(f"{LOADED}/load", {"artifact": "other"}, **of_this_page, **key)
    assert (asked.status, asked.json["version"]) == (200, "2")


def test_a_name_that_was_made_to_mean_this_machine_reads_nothing(serve: Serve, artifacts: Path) -> None:
    served = serve(artifacts / "pairs", "--allow-host", "ads.internal")
    for path in ("/", "/docs", "/health", "/v2/models/pairs", "/metrics", "/openapi.json", "/none"):
        answer = served.get(path, host=f"evil.example:{served.port}")
        assert (answer.status, answer.json["error_type"]) == (403, "forbidden")
        assert "--allow-host" in answer.json["error"]
    assert served.get("/v2/models/pairs", host="ads.internal").status == 200


def test_a_unix_socket_answers_by_any_name(serve: Serve, artifacts: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    serve(artifacts / "pairs", "--uds", path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /health HTTP/1.1\r\nhost: whatever.example\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_all_answers_are_of_the_type_they_say(server: Served) -> None:
    for method, path in (("GET", "/"), ("GET", "/docs"), ("GET", "/health"), ("GET", "/none"), ("POST", "/predict")):
        assert server.ask(method, path).headers["x-content-type-options"] == "nosniff"


def test_refused_loads_name_no_folder_of_the_machine(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", "--model-root", root)
    for name in ("no-weights", "damaged", "other-format"):
        make_artifact(root / name)
    (root / "no-weights" / "model.safetensors").unlink()
    weights = root / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + b"12345678")
    manifest = root / "other-format" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    (root / "file").write_text("")
    (root / "circle").symlink_to(root / "circle")
    for artifact, status in (
        ("no-weights", 422),
        ("damaged", 422),
        ("other-format", 422),
        ("none", 422),
        ("file", 422),
        ("pairs/manifest.json", 422),
        ("circle", 422),
        ("a\0b", 422),
        ("x" * 300, 422),
        ("x/" * 3000, 422),
        ("../away", 403),
        ("/etc", 403),
        (str(root), 422),
    ):
        answer = served.post(f"{LOADED}/load", {"artifact": artifact})
        assert answer.status == status, (artifact[:20], answer.body)
        assert str(root.parent) not in answer.json["error"]
        assert "/" not in answer.json["error"].replace(artifact, "").replace("1/2", "")
    assert str(root / "damaged") in served.said  # the log has it
    assert "Traceback" not in served.said
