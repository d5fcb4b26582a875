"""The command `prunetime serve`: each option has a help text, a default or a word on what is without it, and an
environment variable that means the same."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import prunetime.serve.run
from prunetime.cli.serving import serve
from prunetime.serve.settings import ServeSettings

OPTIONS = {each.opts[0]: each for each in serve.params if isinstance(each, click.Option) and not each.hidden}

GIVEN: dict[str, tuple[str, ...]] = {
    "--cascade": ("ads=large,small", "other=large,small"),
    "--host": ("localhost",),
    "--port": ("0",),
    "--uds": ("/tmp/socket",),
    "--allow-host": ("ads.example", "www.ads.example"),
    "--cors": ("https://ads.example", "https://www.ads.example"),
    "--grpc-port": ("9000",),
    "--processes": ("3",),
    "--threads": ("2",),
    "--key-file": ("keys",),
    "--model-root": ("models",),
    "--open-metrics": ("1",),
    "--experiment": ("experiments.toml",),
    "--outcomes": ("postgresql://localhost/outcomes",),
    "--timeout": ("0.5",),
    "--read-seconds": ("3.0",),
    "--drain-seconds": ("4.0",),
    "--queue-tokens": ("1000",),
    "--batch-tokens": ("500",),
    "--cache-mb": ("7",),
}
PAIRS = {**{flag: {flag: values} for flag, values in GIVEN.items()}, "TLS": {"--tls-cert": ("c",), "--tls-key": ("k",)}}


def settings_of(monkeypatch: pytest.MonkeyPatch, *words: str, **variables: str) -> tuple[ServeSettings, str]:
    """The settings that the command serves with, and what it prints."""
    seen: list[ServeSettings] = []
    monkeypatch.setattr(prunetime.serve.run, "serve", lambda settings, _: seen.append(settings))
    ran = CliRunner().invoke(serve, words, env=variables, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return seen[0], ran.output


MODELS = ("large=a", "small=b")


def test_by_default_settings_are_those_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = settings_of(monkeypatch, *MODELS)
    assert found == ServeSettings((("large", Path("a")), ("small", Path("b"))))


@pytest.mark.parametrize("name", PAIRS)
def test_an_environment_variable_means_the_same_as_its_option(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words, variables = list(MODELS), {}
    for flag, values in PAIRS[name].items():
        words += [flag] if OPTIONS[flag].is_flag else [word for value in values for word in (flag, value)]
        variables[f"PRUNETIME_SERVE_{flag[2:].replace('-', '_').upper()}"] = " ".join(values)
    found, _ = settings_of(monkeypatch, **variables, PRUNETIME_SERVE_MODELS=" ".join(MODELS))
    assert found == settings_of(monkeypatch, *words)[0]
    assert found != settings_of(monkeypatch, *MODELS)[0]


def test_the_command_line_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = settings_of(monkeypatch, *MODELS, "--port", "9", PRUNETIME_SERVE_PORT="8")
    assert found.port == 9


def test_every_option_says_what_it_is_for() -> None:
    assert set(OPTIONS) == {flag for pair in PAIRS.values() for flag in pair}
    context = click.Context(serve, show_default=True)
    for option in OPTIONS.values():
        _, shown = option.get_help_record(context)
        assert f"env var: {option.envvar}" in shown
        assert re.search(r"default: |[Ww]ithout it|[Bb]y default|instead of|Use it|besides|--tls-", shown), shown


def test_a_cascade_may_be_called_a_family_for_one_release(monkeypatch: pytest.MonkeyPatch) -> None:
    found, said = settings_of(monkeypatch, *MODELS, "--family", "ads=large,small")
    assert "--family will go in the next release: it is called --cascade" in said
    assert found == settings_of(monkeypatch, *MODELS, "--cascade", "ads=large,small")[0]
