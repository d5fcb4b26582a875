"""The whole road on a tiny model: prune, resume after kill -9 in every stage, pick, and what bad input gets."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from forked import Command, kill_soon_after, run
from tiny import FEW_ROWS, QUICK_PRUNETIME, last_object, prune_command

from prunetime.pipeline.run import WRITTEN
from prunetime.pipeline.stages.profile import MARGIN
from prunetime.tasks.synthetic import ad_relevance

STAGES = ("plan", "profile", "teacher", "importance", "repair", "search", "gate", "front", "tune", "verify")


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("runs") / "whole"
    ran = subprocess.run(prune_command(inputs, out), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return out, last_object(ran.stdout)


def with_the_teacher_of(whole: Path, out: Path) -> Path:
    """The folder of a run that goes on from a finished run's teacher, which no budget changes."""
    (out / "stages").mkdir(parents=True)
    shutil.copytree(whole / "teacher", out / "teacher")
    for name in ("importance.safetensors", "stages/teacher.json", "stages/importance.json"):
        shutil.copy(whole / name, out / name)
    return out


def test_the_result_is_measured_inside_the_budget(finished: tuple[Path, dict]) -> None:
    out, result = finished
    assert set(result) == {"budget_us", "dense", "pruned", "spec", "artifact", "report"}
    for row in (result["dense"], result["pruned"]):
        assert set(row) == {"p50_us", "p99_us", "ci95_us", "metric", "value", "ci95", "params"}
        assert row["ci95_us"][0] <= row["p50_us"] <= row["ci95_us"][1]
    assert result["pruned"]["params"] < result["dense"]["params"]
    verified = json.loads((out / "verify.json").read_text())
    assert verified["verdict"]["met"]
    assert verified["verdict"]["ci95"][1] <= 0.70
    assert {"all", "unseen:product_uid"} == set(verified["quality"])
    assert Path(result["report"]).read_text().startswith("<!DOCTYPE html>")
    assert not (out / "candidate").exists()
    assert {path.name for path in out.iterdir()} <= {*WRITTEN, ".lock"}


def evaluated(run: Path) -> dict[tuple[int, ...], dict]:
    lines = (run / "evaluations.jsonl").read_text().splitlines()[1:]
    return {tuple(found["genome"]): found for found in map(json.loads, lines)}


def check_front(run: Path) -> None:
    """In front.json are, fastest first, the chosen evaluation and undominated ones, with what they measured."""
    front = json.loads((run / "front.json").read_text())
    search, found = json.loads((run / "search.json").read_text()), evaluated(run)
    points = front["points"]
    assert 2 <= len(points) <= 6
    assert points == sorted(points, key=lambda point: point["predicted_us"])
    assert search["chosen"]["genome"] in [point["genome"] for point in points]
    for point in points:
        assert point["genome"] in [*search["front"], search["chosen"]["genome"]]
        assert {name: found[tuple(point["genome"])][name] for name in ("predicted_us", "score")} == {
            name: point[name] for name in ("predicted_us", "score")
        }
        assert 0 < point["ci95_us"][0] <= point["measured_us"] <= point["ci95_us"][1]
        assert point["measured_us"] == pytest.approx(point["predicted_us"], rel=0.15)
    assert points[0]["measured_us"] < points[-1]["measured_us"]
    assert f"On the {len(points)} points that were timed" in (run / "report.html").read_text()


def test_the_search_drops_tokens_and_blocks(finished: tuple[Path, dict]) -> None:
    genomes = np.array(list(evaluated(finished[0])))  # of two layers: four widths, one of tokens, four of blocks
    assert genomes.shape[1] == 4 + 1 + 4
    assert (genomes[:, 4:].min(0) < 7).all()


def test_points_of_the_front_are_measured(finished: tuple[Path, dict]) -> None:
    check_front(finished[0])


def test_the_artifact_scores_as_its_torch_twin_and_as_transformers(finished: tuple[Path, dict]) -> None:
    from transformers import AutoModelForSequenceClassification

    import prunetime.models.hf  # registers the class

    artifact = finished[1]["artifact"]
    model = prunetime.load(artifact)
    pairs = list(zip(*[ad_relevance(50, 1).columns[name] for name in ("query", "title")], strict=True))
    tokens = model.tokenize(pairs)
    import torch

    twin = AutoModelForSequenceClassification.from_pretrained(artifact).eval()
    ids, mask, types = (torch.from_numpy(a.astype(np.int64)) for a in tokens.padded(0))
    with torch.no_grad():
        logits = twin(input_ids=ids, attention_mask=mask, token_type_ids=types).logits.numpy()
    np.testing.assert_allclose(model.engine.logits(tokens), logits, atol=2e-5)
    np.testing.assert_array_equal(model.score(pairs), model.score_tokens(tokens))
    assert model.score(pairs[:1])[0] == model.score(pairs)[0]


def test_a_finished_run_is_not_done_again(inputs: Path, finished: tuple[Path, dict]) -> None:
    out, result = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    ran = run(prune_command(inputs, out))
    assert ran.returncode == 0, ran.stderr
    assert last_object(ran.stdout) == result
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_command_in_the_same_folder_is_refused(inputs: Path, finished: tuple[Path, dict]) -> None:
    ran = run(prune_command(inputs, finished[0], "--seed", "1"))
    assert ran.returncode == 2
    assert "holds another run: its seed differ" in ran.stderr
    assert last_object(ran.stdout)["exit_code"] == 2


def test_a_run_killed_in_every_stage_ends_as_an_uninterrupted_one(
    inputs: Path, finished: tuple[Path, dict], tmp_path: Path
) -> None:
    whole = finished[0]
    out = tmp_path / "killed"
    with_profile = prune_command(inputs, out, "--profile", str(whole / "profile.json"))
    for before in (out / "run.json", *(out / "stages" / f"{stage}.json" for stage in STAGES[:-1])):
        if before.exists():  # a short stage ended before the kill
            continue
        kill_soon_after(before, with_profile, 0.15)
    ran = run(with_profile)
    assert ran.returncode == 0, ran.stderr
    for name in ("mask.json", "artifact/model.safetensors", "evaluations.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_interrupting_leaves_a_run_that_resumes(inputs: Path, finished: tuple[Path, dict], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with_profile = prune_command(inputs, out, "--profile", str(finished[0] / "profile.json"))
    errors = interrupted(with_profile, (out / "stages" / "profile.json").exists)
    assert "run the same command again to resume" in errors


def interrupted(command: list[str], come_so_far: Callable[[], bool]) -> str:
    """What the command says that gets Ctrl-C once it has come so far."""
    process = Command(command)
    while not come_so_far():
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    ran = process.finish()
    assert ran.returncode == 130
    return ran.stderr


def test_workers_interrupted_and_none_after_them_end_in_the_same_search(
    inputs: Path, finished: tuple[Path, dict], tmp_path: Path
) -> None:
    whole, out = finished[0], tmp_path / "run"
    shutil.copytree(whole, out)
    for name in ("evaluations.jsonl", "mask.json", "result.json", "stages/search.json"):
        (out / name).unlink()
    with_profile = prune_command(inputs, out, "--profile", str(whole / "profile.json"))
    scored = out / "evaluations.jsonl"
    after_20 = (
        "import os, signal; from prunetime.search.archive import Archive; add = Archive.add; Archive.add = "
        "lambda self, one: (add(self, one), len(self) == 20 and os.kill(os.getpid(), signal.SIGINT))"
    )
    with_workers = [*with_profile, "--workers", "2"]
    with_workers[2] = f"{after_20}; {with_workers[2]}"
    ran = run(with_workers)
    assert ran.returncode == 130
    assert "Prepare the repair of sub-networks: done before" in ran.stderr
    assert ran.stderr.splitlines()[-1] == "error: interrupted; run the same command again to resume"
    assert 20 <= scored.read_bytes().count(b"\n") - 1 < (whole / scored.name).read_bytes().count(b"\n") - 1
    ran = run(with_profile)
    assert ran.returncode == 0, ran.stderr
    for name in ("mask.json", "artifact/model.safetensors", "evaluations.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_pick_takes_seven_tenths_of_the_budget_off_the_archive_and_asks_its_surrogate(
    finished: tuple[Path, dict], tmp_path: Path
) -> None:
    whole, out = finished[0], tmp_path / "picked"
    ran = run([*QUICK_PRUNETIME, "pick", str(whole), "--latency", "49%", "--json", "--out", str(out)])
    assert ran.returncode == 0, ran.stderr
    result = last_object(ran.stdout)
    assert result["pruned"]["params"] < result["dense"]["params"]
    assert json.loads((out / "verify.json").read_text())["verdict"]["ci95"][1] <= 0.49
    assert (out / "evaluations.jsonl").read_bytes().startswith((whole / "evaluations.jsonl").read_bytes())
    proposed = {tuple(genome) for genome in json.loads((out / "proposed.json").read_text())["genomes"]}
    assert evaluated(out).keys() - evaluated(whole).keys() == proposed
    assert 1 <= len(proposed) <= FEW_ROWS["finalists"]
    assert {path.stem for path in (out / "stages").iterdir()} == {
        "profile",
        "propose",
        "search",
        "gate",
        "front",
        "tune",
        "verify",
    }
    finalists = json.loads((out / "search.json").read_text())["finalists"]
    assert 1 <= len(finalists) <= FEW_ROWS["finalists"]
    assert {tuple(one["genome"]) for one in finalists} <= evaluated(out).keys()
    check_front(out)


def test_trust_tunes_a_sample_and_says_in_the_report_how_far_scores_order_it(
    finished: tuple[Path, dict], tmp_path: Path
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "run")
    assert "prunetime trust" in (out / "report.html").read_text()
    few = "from prunetime.pipeline import trust; trust.SHARES, trust.GENOMES, trust.DRAWN = (1.0, 0.8), 3, 6; "
    command = [sys.executable, "-c", f"{few}from prunetime.cli import main; main()", "trust", str(out), "--json"]
    process = Command(command)
    while len(list(out.glob("stages/trust-*.json"))) < 3:  # the sample, and two that are tuned
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.finish()
    done = [json.loads(stage.read_text())["outputs"] for stage in out.glob("stages/trust-*.json")]
    before = {out / path: (out / path).stat().st_mtime_ns for paths in done for path in paths}
    ran = run(command)
    assert ran.returncode == 0, ran.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = last_object(ran.stdout)
    assert [point["share"] for point in found["points"]] == [1.0] * 3 + [0.8] * 3
    assert found["ci95"][0] <= found["within"] <= found["ci95"][1]
    for share in (1.0, 0.8):
        scores = [point["score"] for point in found["points"] if point["share"] == share]
        assert scores == sorted(set(scores))
    qualities = [point["quality"] for point in found["points"]]  # AUC of a tiny model on few rows: a coin, about
    assert all(0.0 < quality <= 1.0 for quality in qualities)
    assert sum(qualities) / len(qualities) > 0.4
    report = (out / "report.html").read_text()
    assert "Trust in scores" in report
    assert f"{found['overall']:.2f}".replace("-", "−") in report
    assert "prunetime trust" not in report


def test_a_budget_below_the_floor_is_refused_with_both_numbers_before_any_training(
    inputs: Path, finished: tuple[Path, dict], tmp_path: Path
) -> None:
    profile = ("--profile", str(finished[0] / "profile.json"))
    ran = run(prune_command(inputs, tmp_path / "run", *profile, "--latency", "1us"))
    assert ran.returncode == 2
    floor = json.loads((tmp_path / "run" / "profile.json").read_text())["measured_us"]["ids/hot/p50"][0]
    assert f"is 1 us, of which the search aims at {MARGIN:.0%}, {MARGIN:.4g} us" in ran.stderr
    assert f"not above the floor of {floor:.4g} us" in ran.stderr
    assert f"give --latency more than {floor / MARGIN:.4g}us" in ran.stderr
    assert not (tmp_path / "run" / "teacher").exists()


def test_a_stale_profile_is_refused(inputs: Path, finished: tuple[Path, dict], tmp_path: Path) -> None:
    data = json.loads((finished[0] / "profile.json").read_text())
    data["key"]["machine"] = "another"
    (tmp_path / "old.json").write_text(json.dumps(data))
    ran = run(prune_command(inputs, tmp_path / "run", "--profile", str(tmp_path / "old.json")))
    assert ran.returncode == 2
    assert "its machine is another" in ran.stderr


def with_wrong_latencies(profile: Path, floor_us: float, dense_us: float, out: Path) -> Path:
    data = json.loads(profile.read_text())
    data["measured_us"] = {name: [floor_us, dense_us] for name in data["measured_us"]}
    out.write_text(json.dumps(data))
    return out


def test_a_predictor_that_is_far_off_is_tightened_until_the_budget_is_met(
    inputs: Path, finished: tuple[Path, dict], tmp_path: Path
) -> None:
    dense_us = finished[1]["dense"]["p50_us"]
    profile = with_wrong_latencies(finished[0] / "profile.json", 0.2, 0.4 * dense_us, tmp_path / "profile.json")
    out = with_the_teacher_of(finished[0], tmp_path / "run")
    more = ("--profile", str(profile), "--latency", f"{0.45 * dense_us:.1f}us")
    ran = run(prune_command(inputs, out, *more))
    assert ran.returncode == 0, ran.stderr
    assert "choosing again with the predictor tightened" in ran.stderr
    assert json.loads((out / "attempts.json").read_text())[0]["measured_over_predicted"] > 1.2
    assert json.loads((out / "verify.json").read_text())["verdict"]["ci95"][1] <= 0.45 * dense_us


def test_a_predictor_that_is_too_high_is_loosened_and_the_budget_used(
    inputs: Path, finished: tuple[Path, dict], tmp_path: Path
) -> None:
    dense_us = finished[1]["dense"]["p50_us"]
    profile = with_wrong_latencies(finished[0] / "profile.json", 0.2, 1.8 * dense_us, tmp_path / "profile.json")
    out = with_the_teacher_of(finished[0], tmp_path / "run")
    command = prune_command(inputs, out, "--profile", str(profile), "--latency", f"{0.8 * dense_us:.1f}us")
    ran = run(command)
    assert ran.returncode == 0, ran.stderr
    assert "choosing again with the predictor loosened" in ran.stderr
    first, *_ = json.loads((out / "attempts.json").read_text())
    assert first["measured_over_predicted"] < 0.75
    verdict = json.loads((out / "verify.json").read_text())["verdict"]
    assert verdict["met"]
    assert verdict["measured"] > 1.3 * 0.8 * 0.8 / 1.8 * dense_us  # it was without the 1.3 at first
    assert "after which the search aimed" in (out / "report.html").read_text()


def test_a_budget_that_cannot_be_met_fails_with_both_numbers_and_no_artifact(
    inputs: Path, finished: tuple[Path, dict], tmp_path: Path
) -> None:
    profile = with_wrong_latencies(finished[0] / "profile.json", 0.001, 0.01, tmp_path / "profile.json")
    out = with_the_teacher_of(finished[0], tmp_path / "run")
    ran = run(prune_command(inputs, out, "--profile", str(profile), "--latency", "0.5us"))
    assert ran.returncode == 3, ran.stderr
    assert "the budget is 0.5 us" in ran.stderr
    assert "the pruned model measured" in ran.stderr
    assert not (out / "artifact").exists()
    assert not (out / "candidate").exists()


def test_a_budget_on_the_tail_from_text_after_a_pause_is_judged_in_that_setting(
    inputs: Path, finished: tuple[Path, dict], tmp_path: Path
) -> None:
    out = with_the_teacher_of(finished[0], tmp_path / "run")
    setting = ("--statistic", "p99", "--scope", "text", "--condition", "idle", "--latency", "1s")
    profile = ("--profile", str(finished[0] / "profile.json"))
    command = prune_command(inputs, out, *setting, *profile)
    ran = run([*command, "--verify-rounds", "8", "--verify-calls", "2"])  # every call comes after 20 ms
    assert ran.returncode == 0, ran.stderr
    verified = json.loads((out / "verify.json").read_text())
    assert verified["verdict"]["measured"] == verified["latency"]["text/idle"]["pruned"]["p99_us"]
