import json
from dataclasses import asdict

import pytest
from tiny import FEW_ROWS

from prunetime.core.effort import EFFORTS, Effort, RunPlan, effort_from_json
from prunetime.errors import InputError

PLAN = RunPlan(**FEW_ROWS)


@pytest.mark.parametrize(
    ("text", "minutes"), [("quick", 5), ("standard", 30), ("thorough", 240), ("90s", 1.5), ("45m", 45), ("1.5h", 90)]
)
def test_an_effort_is_a_time(text, minutes):
    effort = Effort.named(text)
    assert effort == Effort(minutes)
    assert Effort.named(str(effort)) == effort


def test_the_usual_efforts_have_names():
    assert [str(effort) for effort in EFFORTS.values()] == list(EFFORTS)


def test_the_plan_of_a_run_is_read_from_its_file_and_its_content(tmp_path):
    file = tmp_path / "run-plan.json"
    file.write_text(json.dumps(PLAN.to_json()))
    assert Effort.named(str(file)) == Effort.named(str(PLAN)) == PLAN
    assert effort_from_json(PLAN.to_json()) == PLAN
    assert effort_from_json(Effort(7).to_json()) == Effort(7)


def test_a_plan_of_the_first_version_is_read_and_written_as_it_was():
    assert RunPlan.from_json(FEW_ROWS).to_json() == FEW_ROWS


@pytest.mark.parametrize("text", ["fast", "0m", "-5m", "5", "1e3m", "run-plan.json", "{", '{"minutes": 3}', ""])
def test_what_is_no_effort_is_refused(text):
    with pytest.raises(InputError):
        Effort.named(text)


@pytest.mark.parametrize(
    "name", sorted(asdict(PLAN).keys() - {"name", "looks", "compares", "compared_rows", "elastic_rows"})
)
@pytest.mark.parametrize("value", [0, -1, "many"])
def test_a_plan_has_numbers_above_0(name, value):
    with pytest.raises(InputError, match=name):
        RunPlan.from_json(FEW_ROWS | {name: value})
