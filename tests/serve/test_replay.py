"""A labelled file through the arms: the same as scoring each row by the model of its arm."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

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
    assert seen[-1] == (len(TABLE.columns["label"]), len(TABLE.columns["label"]))


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
