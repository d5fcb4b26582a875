"""What `deploy/` starts can be started: its commands are those of this version."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml
from served import Served

from prunetime.cli import main
from prunetime.serve.settings import ServeSettings
from prunetime.serve.supervisor import KILL_AFTER

DEPLOY = Path(__file__).parents[2] / "deploy"


def of_dockerfile() -> list[str]:
    text = (DEPLOY / "Dockerfile").read_text()
    entry, command = (re.search(rf"^{word} (\[.*\])$", text, re.MULTILINE) for word in ("ENTRYPOINT", "CMD"))
    return json.loads(entry.group(1)) + json.loads(command.group(1))


def of_systemd() -> list[str]:
    line = re.search(r"^ExecStart=(.*)$", (DEPLOY / "prunetime.service").read_text(), re.MULTILINE)
    return shlex.split(line.group(1))


def of_kserve() -> list[str]:
    (container,) = yaml.safe_load((DEPLOY / "kserve.yaml").read_text())["spec"]["predictor"]["containers"]
    return container["command"] + container["args"]


@pytest.mark.parametrize("command", [of_dockerfile(), of_systemd(), of_kserve()])
def test_commands_are_understood(command: list[str]) -> None:
    program, name, *words = command
    assert Path(program).name == "prunetime"
    understood = (
        main.commands[name].make_context(name, words, parent=click.Context(main, **main.context_settings)).params
    )
    assert understood["models"]
    assert understood["key_file"]  # a server that others reach does not start without
    assert (understood["host"], understood["port"]) == ("0.0.0.0", 8080)


def test_what_looks_after_them_asks_for_routes_that_answer(server: Served) -> None:
    (container,) = yaml.safe_load((DEPLOY / "kserve.yaml").read_text())["spec"]["predictor"]["containers"]
    paths = [container[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")]
    paths += re.findall(r"HEALTHCHECK .*8080(/\w+)", (DEPLOY / "Dockerfile").read_text())
    assert len(paths) == 3
    for path in paths:
        assert server.get(path).status == 200


def test_what_stops_them_gives_them_the_time_for_it() -> None:
    """Ten seconds, at most, are for connections to be passed on and for processes that hang."""
    predictor = yaml.safe_load((DEPLOY / "kserve.yaml").read_text())["spec"]["predictor"]
    (container,) = predictor["containers"]
    _, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    drain = next(float(word.partition("=")[2]) for word in container["args"] if word.startswith("--drain-seconds"))
    most = ServeSettings.stop_seconds + 2 * KILL_AFTER
    assert predictor["terminationGracePeriodSeconds"] > float(seconds) + drain + most
    unit = (DEPLOY / "prunetime.service").read_text()
    assert "--drain-seconds" not in unit
    assert float(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1]) > most
