"""A labelled file through the arms: the same as scoring each row by the model of its arm."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import msgspec
import pytest
from served import ADS, CONFIG

from prunetime import load
from prunetime.errors import InputError
from prunetime.serve.experiments.experiment import report_of
from prunetime.serve.experiments.replay import Judged, replay
from prunetime.serve.experiments.sequential import KeySums
from prunetime.tasks.synthetic import ad_relevance

TABLE = ad_relevance(600, 3)
JUDGED = Judged("query", "label", frozenset({"0"}), 0.4)


def test_rows_are_scored_by_the_model_of_their_arm(artifacts: Path) -> None:
    models = {name: load(artifacts / name) for name in ("pairs", "other")}
    seen: list[tuple[int, int]] = []
    found = replay(ADS, models, TABLE, JUDGED, lambda *done: seen.append(done))
    rows, shown, defects = ({"dense": 0, "pruned": 0} for _ in range(3))
    keys: dict[str, dict[str, list[int]]] = {"dense": {}, "pruned": {}}
    for query, title, label in zip(*(TABLE.columns[name] for name in ("query", "title", "label")), strict=True):
        arm = ADS.arm_of(query)
        rows[arm.name] += 1
        if models[arm.model].score([(query, title)])[0] >= 0.4:
            shown[arm.name] += 1
            defects[arm.name] += label == "0"
            keys[arm.name].setdefault(query, []).append(label == "0")
    assert (found.rows, found.shown) == (rows, shown)
    assert {arm.name: arm.defects for arm in found.report.arms} == defects
    sums = {
        name: KeySums.of([len(each) for each in of_arm.values()], [sum(each) for each in of_arm.values()])
        for name, of_arm in keys.items()
    }
    assert found.report == report_of(ADS, sums)
    assert {arm.name: arm.keys for arm in found.report.arms} == {name: len(of_arm) for name, of_arm in keys.items()}
    assert sum(map(len, keys.values())) < sum(shown.values())  # some keys have several rows
    scores = sum(rows.values()) + rows["pruned"]
    assert seen[-1] == (scores, scores)


def test_the_order_kept_is_of_the_pairs_of_rows_of_a_key(artifacts: Path) -> None:
    """Of each key of the arm, both models score the rows, and a pair counts where the control's model orders it."""
    models = {name: load(artifacts / name) for name in ("pairs", "other")}
    by_key: dict[str, list[tuple[str, str]]] = {}
    for query, title in zip(TABLE.columns["query"], TABLE.columns["title"], strict=True):
        if ADS.arm_of(query).name == "pruned":
            by_key.setdefault(query, []).append((query, title))
    model_of = {arm.name: models[arm.model] for arm in ADS.arms}
    kept = pairs = 0.0
    for texts in by_key.values():
        ours, theirs = (model_of[name].score(texts).tolist() for name in ("pruned", "dense"))
        for (one, its), (other, others) in permutations(zip(ours, theirs, strict=True), 2):
            if its > others:
                pairs += 1
                kept += 0.5 if one == other else one > other
    found = replay(ADS, models, TABLE, JUDGED).order_kept
    assert list(found) == ["pruned"]
    assert found["pruned"].pairs == pairs
    assert found["pruned"].value == pytest.approx(kept / pairs)
    assert found["pruned"].low < found["pruned"].value < found["pruned"].high


def test_an_arm_with_the_model_of_the_control_keeps_all_of_the_order(artifacts: Path) -> None:
    same = msgspec.structs.replace(ADS, arms=[msgspec.structs.replace(arm, model="pairs") for arm in ADS.arms])
    found = replay(same, {"pairs": load(artifacts / "pairs")}, TABLE, JUDGED)
    assert found.order_kept["pruned"].ci95 == (1.0, 1.0)
    apart = replace(TABLE, columns={**TABLE.columns, "query": [f"{row}" for row in range(len(TABLE))]})
    assert replay(same, {"pairs": load(artifacts / "pairs")}, apart, JUDGED).order_kept == {"pruned": None}


def test_labels_are_read_as_those_of_training_are(artifacts: Path) -> None:
    """0 may be written as a float, or be the number of a class that has a name."""
    models = {name: load(artifacts / name) for name in ("pairs", "other")}
    expected = replay(ADS, models, TABLE, JUDGED)
    floats = replace(TABLE, columns={**TABLE.columns, "label": [f"{label}.0" for label in TABLE.columns["label"]]})
    assert replay(ADS, models, floats, JUDGED) == expected
    named = replace(TABLE, class_names={"label": ("bad", "good")})
    assert replay(ADS, models, named, replace(JUDGED, defects=frozenset({"bad"}))) == expected


def test_the_command(artifacts: Path, tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(CONFIG)
    words = ["experiment", "replay", str(artifacts / "pairs"), str(artifacts / "other")]
    words += ["--experiment", str(tmp_path / "one.toml"), "--data", "synthetic:ad-relevance?rows=600&seed=3"]
    words += ["--key", "query", "--label", "label", "--defect", "0", "--shown-from", "0.4"]
    ran = subprocess.run([sys.executable, "-m", "prunetime", *words, "--json"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert sum(found["rows"].values()) == len(TABLE.columns["label"])
    assert found["comparisons"][0]["advice"] == "continue"
    said = subprocess.run([sys.executable, "-m", "prunetime", *words], capture_output=True, text=True).stdout
    assert "pruned less dense: " in said
    kept = found["order_kept"]["pruned"]
    assert f"pruned keeps the order of dense in {kept['value']:.2%} (" in said
    assert f"of {kept['pairs']:,} pairs of rows with the same query" in said


def test_a_file_in_which_nothing_is_bad_is_refused(artifacts: Path) -> None:
    models = {name: load(artifacts / name) for name in ("pairs", "other")}
    with pytest.raises(InputError, match="no row has a label of bad; there is 0, 1"):
        replay(ADS, models, TABLE, Judged("query", "label", frozenset({"bad"})))
    with pytest.raises(InputError, match="no row has a label of bad; there is 0, 1"):
        replay(ADS, models, TABLE, Judged("query", "label", frozenset({"0", "bad"})))
    unlabelled = replace(TABLE, columns={**TABLE.columns, "label": ["", *TABLE.columns["label"][1:]]})
    with pytest.raises(InputError, match="empty or NaN label in row 1"):
        replay(ADS, models, unlabelled, JUDGED)
    topics = {"pairs": load(artifacts / "topics"), "other": models["other"]}
    with pytest.raises(InputError, match="text"):
        replay(ADS, topics, TABLE, JUDGED)
