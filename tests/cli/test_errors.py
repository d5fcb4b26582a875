"""What a command that fails prints and returns: bad input 2, our own defects 1, and with --json one object."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from prunetime.cli import main
from prunetime.cli.main import ISSUES
from prunetime.errors import DefectError
from prunetime.latency import doctor


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def only_object(ran: Result) -> dict[str, object]:
    (line,) = ran.stdout.splitlines()
    found: dict[str, object] = json.loads(line)
    return found


@pytest.mark.parametrize("error", [ZeroDivisionError("of nothing\nat all"), DefectError("torch and the engine differ")])
def test_a_defect_of_ours_keeps_its_traceback_and_says_where_to_report_it(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr(doctor, "checkup", fails)
    ran = run("doctor", "--json")
    assert ran.exit_code == 1
    assert "Traceback" in ran.stderr
    last = ran.stderr.splitlines()[-1]
    first = str(error).splitlines()[0]
    assert last.startswith(f"error: {type(error).__name__}: {first}; this is a defect of prunetime")
    assert last.endswith(ISSUES)
    assert only_object(ran) == {"error": last.removeprefix("error: "), "exit_code": 1}


USAGE = {
    "no such command": ("nonsense", "--json"),
    "no such option": ("inspect", "somewhere", "--colour", "--json"),
    "no such choice": ("export", "somewhere", "--to", "gguf", "--out", "x", "--json"),
    "no argument": ("inspect", "--json"),
    "no option": ("prune", "--model", "x", "--json"),
    "no number": ("bench", "mini", "--seq-len", "long", "--json"),
    "of a group": ("experiment", "nonsense", "--json"),
    "of a command of a group": ("experiment", "replay", "--json"),
    "no --json of serve": ("serve", "somewhere", "--json"),
}


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE)
def test_a_command_line_that_cannot_be_parsed_is_one_object(arguments: tuple[str, ...]) -> None:
    ran = run(*arguments)
    assert ran.exit_code == 2
    found = only_object(ran)
    assert found["exit_code"] == 2
    assert f"Error: {found['error']}" in " ".join(ran.stderr.split("\n"))
    plain = run(*(word for word in arguments if word != "--json"), *(["--json=x"] if "serve" in arguments else []))
    assert (plain.exit_code, plain.stdout) == (2, "")


def test_help_is_no_error() -> None:
    assert run("inspect", "--json", "--help").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("score", "{file}", "--text", "a"),
        ("inspect", "{file}/below"),
        ("eval", "nowhere", "--data", "nothing.tsv"),
        ("profile", "--model", "{file}", "--out", "x.json"),
        ("report", "{file}"),
        ("pick", "{file}", "--latency", "40%", "--out", "{file}/below"),
        ("trust", "{file}"),
        ("export", "{file}", "--to", "transformers", "--out", "{file}/below"),
        ("push", "{file}", "me/pruned"),
        ("bench", "{file}"),
        ("serve", "{file}"),
        ("experiment", "replay", "a=x", "--experiment", "{file}/x", "--data", "x", "--key", "k", "--label", "l",
         "--defect", "d"),
        ("demo", "--out", "{file}/below"),
        ("inspect", "n" * 300),
    ],
    ids=lambda arguments: " ".join(arguments)[:30],
)  # fmt: skip
def test_a_path_that_is_not_what_it_should_be_is_bad_input(arguments: tuple[str, ...], tmp_path) -> None:
    (tmp_path / "file").write_text("text")
    ran = run(*(word.replace("{file}", str(tmp_path / "file")) for word in arguments))
    assert ran.exit_code == 2, ran.stderr
    assert ran.stderr.count("error: ") == 1
    assert "Traceback" not in ran.stderr
