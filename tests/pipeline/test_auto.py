"""The runs of `--method auto` share what they make of equal inputs, also where one of them was killed."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from quiet import TIMING, Quiet, count_time
from tiny import FEW_ROWS, distilbert_folder

from prunetime.core.budget import Budget
from prunetime.core.effort import RunPlan
from prunetime.pipeline.auto import METHODS, prune_by_method
from prunetime.pipeline.run import Run
from prunetime.settings import Settings
from prunetime.tasks.synthetic import ad_relevance

ROWS = {"teacher_rows": 320, "tune_rows": 160, "evaluations": 30, "score_rows": 100}
PLAN = RunPlan(**FEW_ROWS | ROWS | {"importance_rows": 64, "looks": 2, "compares": True})

COMPARE = "Compare with what one would take instead"

ONCE = (
    *("Choose the precision to search in", "Profile this machine", "Fine-tune the dense teacher"),
    "Importance of heads and rows",
    *(f"Tune what one would take instead: {name}" for name in ("dense, tuned as long", "first layer")),
    "Quantise the dense model with ONNX Runtime",
)
"""The stages whose inputs do not depend on the method."""


class Killed(Quiet):
    """A reporter of a run that is killed where the stage `title` begins for the `time`-th time."""

    def __init__(self, title: str, time: int) -> None:
        super().__init__()
        self.title, self.time = title, time

    def stage(self, title: str) -> Any:
        if title == self.title and self.stages.count(title) + 1 == self.time:
            raise KeyboardInterrupt
        return super().stage(title)


@pytest.fixture(scope="module")
def settings(inputs: Path) -> Settings:
    small = distilbert_folder(inputs / "small", ad_relevance(200, 0).columns["title"])
    budget = Budget(share=0.7, seq_len=24)
    given: dict[str, Any] = {"text": ("query", "title"), "label": "label", "group": "query", "effort": PLAN}
    given |= {"timing": TIMING, "precision": "fp32", "blocks": (16, 16), "method": "auto", "beside": (str(small),)}
    return Settings(str(inputs / "bert"), str(inputs / "ads.tsv"), budget, **given)


@pytest.fixture(scope="module", autouse=True)
def counted() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        count_time(patch)
        # One library is enough: OpenVINO takes as long as all else.
        patch.setattr("prunetime.baselines.libraries.find_spec", lambda name: None if name == "nncf" else name)
        yield


@pytest.fixture(scope="module")
def stages(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counter[str]]:
    """The folder of a run that was killed when its search was to be compared, and resumed; and its stages, counted."""
    out = tmp_path_factory.mktemp("runs") / "auto"
    killed, resumed = Killed(COMPARE, 2), Quiet()
    with pytest.raises(KeyboardInterrupt):
        prune_by_method(settings, out, killed)
    taken = out / "search/alternatives/dense-tuned/model.safetensors"
    assert taken.samefile(out / "multilevel/alternatives/dense-tuned/model.safetensors")  # it has no bytes of its own
    prune_by_method(settings, out, resumed)
    return out, Counter([*killed.stages, *resumed.stages])


def test_what_does_not_depend_on_the_method_is_made_once(stages: tuple[Path, Counter[str]], settings: Settings) -> None:
    out, counts = stages
    assert {title: counts[title] for title in ONCE} == dict.fromkeys(ONCE, 1)
    assert counts[f"Tune what stands beside it: {settings.beside[0]}"] == 1
    assert counts["Tune what one would take instead: uniform"] == 1
    assert counts[COMPARE] == len(METHODS)
    assert not list(out.glob("*/alternatives"))


def test_an_alternative_that_is_taken_over_is_the_one_that_would_be_made(
    stages: tuple[Path, Counter[str]], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = stages
    compared = json.loads((out / "joined/alternatives.json").read_text())
    artifact = (out / "joined/artifact/model.safetensors").read_bytes()
    for name in ("result.json", "joined/result.json"):
        (out / name).unlink()
    for record in (out / "joined/stages").glob("alternative*.json"):
        record.unlink()
    alone = Quiet()
    monkeypatch.setattr(Run, "_take_over", lambda *_: pytest.fail("what is compared was thrown away with its run"))
    prune_by_method(settings, out, alone)
    assert {title for title in ONCE if title.startswith(("Tune", "Quantise"))} <= set(alone.stages)
    assert json.loads((out / "joined/alternatives.json").read_text()) == compared
    assert (out / "joined/artifact/model.safetensors").read_bytes() == artifact
