"""A run folder that is damaged, or has not come to its end, is refused by the name of what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from report_page import FILES

from prunetime.errors import InputError
from prunetime.report.render import render

MakeRun = Callable[..., Path]


@pytest.mark.parametrize("content", ["null", "[1]", '[{"generation": 1, "preferences": [[0.5, 0.5]]}]', "[{"])
def test_a_damaged_log_of_the_policy_is_refused(make_run: MakeRun, content: str) -> None:
    run = make_run(evaluations=20)
    (run / "policy.json").write_text(content)
    with pytest.raises(InputError, match=r"policy\.json"):
        render(run)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "null", "other"])
def test_damaged_runs_are_refused_by_name(make_run: MakeRun, name: str, damage: str) -> None:
    run = make_run(evaluations=20)
    path = run / name
    whole = path.read_text()
    if damage == "missing":
        path.unlink()
    else:
        path.write_text(
            {"cut": whole[: len(whole) // 2] + "\n", "empty": "", "null": "null", "other": '{"a": [1]}'}[damage]
        )
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        render(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("value", [float("nan"), "12", None, True])
def test_a_figure_that_is_none_is_refused(make_run: MakeRun, value: object) -> None:
    run = make_run(evaluations=20)
    verified = json.loads((run / "verify.json").read_text())
    verified["latency"]["ids/hot"]["pruned"]["p50_us"] = value
    (run / "verify.json").write_text(json.dumps(verified))
    with pytest.raises(InputError, match=r"verify\.json is damaged"):
        render(run)


def test_a_run_between_two_attempts_is_not_finished(make_run: MakeRun) -> None:
    run = make_run(evaluations=20)
    mask = json.loads((run / "mask.json").read_text())
    mask[0]["heads"]["kept"] = [] if mask[0]["heads"]["kept"] else [0]
    (run / "mask.json").write_text(json.dumps(mask))
    with pytest.raises(InputError, match="has not come to its end"):
        render(run)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no finished run: cannot read run\.json"):
        render(tmp_path)
