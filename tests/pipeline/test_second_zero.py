"""What can be known before anything is trained is said then, in one line and with the next step."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import Ran, run
from tiny import FEW_ROWS, QUICK, QUICK_PRUNETIME, prune_command, write_tsv

from prunetime.core.budget import Budget
from prunetime.core.effort import RunPlan
from prunetime.core.precision import PrecisionPlan
from prunetime.errors import InputError, ProfileError
from prunetime.latency import profiling
from prunetime.latency.measure import Samples
from prunetime.pipeline.auto import prune_by_all_methods
from prunetime.pipeline.context import Context
from prunetime.pipeline.progress import ConsoleReporter
from prunetime.pipeline.prune import prune
from prunetime.pipeline.run import Run
from prunetime.pipeline.source import load_source
from prunetime.pipeline.stages import measure
from prunetime.pipeline.stages.profile import check_above_floor
from prunetime.pipeline.verdict import Verdict, check_judged, judge
from prunetime.search.cluster import Workers
from prunetime.settings import Settings
from prunetime.tasks.synthetic import ad_relevance

REPORTER = ConsoleReporter()


@pytest.fixture(scope="module")
def profile(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without blocks, and with all tokens."""
    out = tmp_path_factory.mktemp("profiles") / "plain.json"
    command = ["profile", "--model", str(inputs / "bert"), "--seq-len", "24", "--specs", "3", "--out", str(out)]
    ran = run([*QUICK_PRUNETIME, *command])
    assert ran.returncode == 0, ran.stderr
    return out


def refused(inputs: Path, out: Path, *more: str) -> str:
    """The one line of an error before any training."""
    ran: Ran = run(prune_command(inputs, out, *more))
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (out / "teacher").exists()
    (line,) = (each for each in ran.stderr.splitlines() if each.startswith("error: "))
    return line


def test_a_machine_too_busy_to_profile_is_said_before_any_training(inputs: Path, tmp_path: Path) -> None:
    doubt = "the pieces disagree; this process got 27% of the time"
    doubtful = ["from prunetime.latency import profiling", f"profiling.doubt_of = lambda *_: {doubt!r}"]
    whole = prune_command(inputs, tmp_path / "run")
    python = [sys.executable, "-c", "; ".join([*QUICK, *doubtful, "from prunetime.cli import main", "main()"])]
    ran = run([*python, *whole[len(QUICK_PRUNETIME) :]])
    assert ran.returncode == 2, ran.stderr
    said = " ".join(ran.stderr.split())  # lines are wrapped
    assert said.count(f"so it is taken again: {doubt}") == 2
    assert f"error: 3 latency profiles of this machine cannot be trusted: {doubt}. The machine is too busy" in said
    assert "or give --profile FILE" in said
    assert not (tmp_path / "run" / "teacher").exists()


def settings_of(inputs: Path, **more: Any) -> Settings:
    budget = more.pop("budget", Budget(share=0.7, seq_len=24))
    usual = {"text": ("query", "title"), "label": "label", "group": "query", "effort": RunPlan(**FEW_ROWS)}
    return Settings(str(inputs / "bert"), str(inputs / "ads.tsv"), budget, **usual | more)


def test_a_profile_that_lacks_what_the_run_needs(inputs: Path, profile: Path, tmp_path: Path) -> None:
    line = refused(inputs, tmp_path / "blocks", "--profile", str(profile))
    assert "the latency profile has no blocks: record it with `prunetime profile --blocks 16x16 --tokens`" in line
    with_blocks = json.loads(profile.read_text())
    with_blocks["blocks"] = {"rows": 16, "columns": 16, "densities": [0.0, 1.0], "each": {}}
    (tmp_path / "blocks.json").write_text(json.dumps(with_blocks))
    line = refused(inputs, tmp_path / "tokens", "--profile", str(tmp_path / "blocks.json"))
    assert "recorded with all of them only: record it with `prunetime profile --tokens --blocks 16x16`" in line
    with_blocks["key"] |= {"pooled_row": False}
    (tmp_path / "rows.json").write_text(json.dumps(with_blocks))
    line = refused(inputs, tmp_path / "rows", "--profile", str(tmp_path / "rows.json"))
    assert "its pooled_row is False, here it is True; record it again with `prunetime profile --rows pooled`" in line


def test_all_runs_of_auto_ask_for_what_they_need_of_the_profile_at_first(
    inputs: Path, profile: Path, tmp_path: Path
) -> None:
    """Multilevel runs first, with blocks of its own; the search, hours later, would drop tokens."""
    data = json.loads(profile.read_text())
    data["blocks"] = {"rows": 32, "columns": 32, "densities": [0.0, 1.0], "each": {}}
    (tmp_path / "blocks.json").write_text(json.dumps(data))
    with pytest.raises(ProfileError, match="tokens are dropped"):
        prune_by_all_methods(
            settings_of(inputs, method="auto", tokens=True), tmp_path / "run", REPORTER, tmp_path / "blocks.json"
        )
    assert not (tmp_path / "run" / "multilevel").exists()


def test_a_setting_that_the_profile_lacks(inputs: Path, profile: Path, tmp_path: Path) -> None:
    data = json.loads(profile.read_text())
    del data["measured_us"]["text/idle/p99"]
    (tmp_path / "profile.json").write_text(json.dumps(data))
    setting = ("--scope", "text", "--condition", "idle", "--statistic", "p99")
    words = prune_command(inputs, tmp_path / "run", "--profile", str(tmp_path / "profile.json"), *setting)
    plain = [word for word in words if word not in ("--tokens", "--blocks", "16x16")]
    ran = run(plain)
    assert (ran.returncode, "the latency profile has no text/idle/p99" in ran.stderr) == (2, True), ran.stderr


@pytest.mark.parametrize(
    ("budget", "said", "least"),
    [
        (Budget(share=0.01), "1 % of dense", "more than 4.12%"),
        (Budget(us=81.0), "81 us (", "more than 82.47us"),
        (Budget(share=0.041, scope="text", condition="idle"), "text to score, idle", "more than 4.12%"),
    ],
)
def test_a_budget_between_the_floor_and_the_floor_with_its_margin(budget: Budget, said: str, least: str) -> None:
    """The floor is 80 us and dense 2,000: 97 % of the budget must be above 80."""
    with pytest.raises(InputError) as error:
        check_above_floor(budget, 80.0, 2_000.0)
    assert f"the budget {budget} is {budget.resolve(2_000.0):.4g} us" in str(error.value)
    assert said in str(error.value)
    assert str(error.value).endswith(f"give --latency {least}")
    check_above_floor(Budget(us=82.5), 80.0, 2_000.0)
    check_above_floor(Budget(share=0.0413), 80.0, 2_000.0)


def test_a_floor_that_is_nearly_dense_has_no_share() -> None:
    with pytest.raises(InputError, match="give --latency a time, for no share of dense is above it"):
        check_above_floor(Budget(share=0.9), 99.0, 100.0)


def test_a_slice_without_a_row_or_without_a_figure_is_a_warning(inputs: Path) -> None:
    said: list[str] = []
    columns = ad_relevance(800, 0).columns
    of_one_label = next(
        f"product_uid={uid}" for uid in columns["product_uid"] if columns["product_uid"].count(uid) == 1
    )
    slices = ("query=of nobody", of_one_label, "unseen:product_uid")
    source = load_source(settings_of(inputs, slices=slices), said.append)
    assert [part.name for part in source.slices] == ["unseen:product_uid"]
    for name in slices[:2]:
        (warning,) = (each for each in source.roles.warnings if name in each)
        assert warning in said
        assert warning.endswith("the report will have no figure for it")


def test_a_slice_whose_column_only_the_test_data_lack_is_refused(inputs: Path, tmp_path: Path) -> None:
    lines = (inputs / "ads.tsv").read_text().splitlines()
    (tmp_path / "test.tsv").write_text("\n".join([lines[0].replace("product_uid", "uid"), *lines[1:200]]))
    with pytest.raises(InputError, match="has no column 'product_uid'"):
        load_source(settings_of(inputs, slices=("unseen:product_uid",), test=str(tmp_path / "test.tsv")), print)


def test_test_rows_on_which_the_metric_is_not_defined_are_refused(inputs: Path, tmp_path: Path) -> None:
    """Graded labels, of which all in the test rows are below a half: there are no good ones for an AUC."""
    table = ad_relevance(800, 0)
    graded = [str(0.25 + 0.5 * int(label)) for label in table.columns["label"]]
    table.columns["label"] = graded
    train = write_tsv(table, tmp_path / "train.tsv")
    table.columns["label"] = [str(0.1 + 0.2 * (row % 2)) for row in range(len(table))]
    test = write_tsv(table, tmp_path / "test.tsv", slice(0, 100))
    more = {"task": "relevance", "metric": "auc"}
    settings = settings_of(inputs, **more)
    wrong = Settings(**{**vars(settings), "data": str(train), "test": str(test)})
    with pytest.raises(InputError, match="the 100 rows of test: auc is not defined on these rows"):
        load_source(wrong, print)


def test_tokens_of_a_head_that_reads_every_row_are_refused(inputs: Path, tmp_path: Path) -> None:
    table = ad_relevance(800, 0)
    table.columns["label"] = [str(float(label)) for label in table.columns["label"]]
    data = write_tsv(table, tmp_path / "pairs.tsv")
    line = refused(inputs, tmp_path / "run", "--data", str(data), "--task", "similarity", "--metric", "spearman")
    assert line.startswith("error: --tokens: no token of this model can be dropped")
    assert line.endswith("leave it out")


def test_ray_that_does_not_start(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # the cluster of this machine, which is none
    said = r"Ray does not start \(RAY_ADDRESS is auto\): Could not find any running Ray instance.*leave --workers out"
    for method, into in (("search", prune), ("auto", prune_by_all_methods)):
        out = tmp_path / method
        with pytest.raises(InputError, match=said):
            into(settings_of(inputs, method=method), out, REPORTER, workers=Workers(2))
        assert {path.name for path in out.iterdir()} <= {".lock", "run.json", "computer.json"}


def test_workers_without_a_search_are_refused(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--workers score the candidates of a search, and --method multilevel has"):
        prune(settings_of(inputs, method="multilevel"), tmp_path / "run", REPORTER, workers=Workers(2))


def p99_verdict(spread: float, budget: Budget) -> Verdict:
    """Of two calls that take the same time in every round, but that each is interrupted on its own."""
    one, other = (100.0 * np.exp(spread * np.random.default_rng(seed).standard_normal((24, 120))) for seed in (0, 1))
    return judge(budget, {("ids", "hot"): {"dense": Samples.of_wall(one), "pruned": Samples.of_wall(other)}})


@pytest.mark.parametrize("budget", [Budget(us=50.0, statistic="p99"), Budget(share=0.5, statistic="p99")])
def test_a_p99_that_this_machine_cannot_judge(budget: Budget) -> None:
    check_judged(p99_verdict(0.001, budget))
    with pytest.raises(InputError, match=r"too noisy to judge a p99: run it again when it is quiet.*--statistic p50"):
        check_judged(p99_verdict(0.5, budget))


def test_a_p99_is_measured_before_anything_is_trained_where_it_can_matter(
    inputs: Path, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, recorded = settings_of(inputs), json.loads(profile.read_text())
    _, dense_us = profiling.parse(profile).floor_and_dense(Budget(share=1.0, statistic="p99", seq_len=24))
    run, timed = Run(tmp_path, REPORTER), []
    run.write("profile.json", recorded)
    run.write("plan.json", PrecisionPlan().to_json())
    time_budget = measure.time_budget
    monkeypatch.setattr(measure, "time_budget", lambda *given: timed.append(time_budget(*given)) or timed[-1])
    for budget in (Budget(us=3 * dense_us, statistic="p99", seq_len=24), Budget(share=0.5, seq_len=24)):
        measure.check_tail(Context(run, settings.with_budget(budget)))
        assert not timed
    with suppress(InputError):  # the machine of the test may be noisy
        budget = Budget(share=0.5, statistic="p99", seq_len=24)
        measure.check_tail(Context(run, settings.with_budget(budget)))
    assert timed[0]["dense"].wall_us.shape == (settings.timing.verify_rounds, 3 * settings.timing.verify_calls)
