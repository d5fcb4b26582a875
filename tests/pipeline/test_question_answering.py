"""A SQuAD file in, a verified model that answers questions out; and the commands that read it."""

import json
import re
from pathlib import Path

import counted_time
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny import FEW_ROWS, bert_folder, last_object

import prunetime
from prunetime.cli import main
from prunetime.tasks.answers import exact_match, f1, gold_answers
from prunetime.tasks.synthetic import question_answering
from prunetime.tasks.table import Table

SEQ_LEN = 96


def write_squad(table: Table, path: Path, contexts: slice) -> list[dict]:
    """Some contexts of `table` as a SQuAD v1.1 file; returns its questions."""
    records = [dict(zip(table.columns, row, strict=True)) for row in zip(*table.columns.values(), strict=True)]
    paragraphs: dict[str, list[dict]] = {}
    for record in records:
        answers = json.loads(record["answers"])
        pairs = zip(answers["text"], answers["answer_start"], strict=True)
        asked = {"id": record["id"], "question": record["question"]}
        asked["answers"] = [{"text": text, "answer_start": start} for text, start in pairs]
        paragraphs.setdefault(record["context"], []).append(asked)
    chosen = [{"context": context, "qas": qas} for context, qas in list(paragraphs.items())[contexts]]
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "made", "paragraphs": chosen}]}))
    kept = {paragraph["context"] for paragraph in chosen}
    return [record for record in records if record["context"] in kept]


PLAN = json.dumps(FEW_ROWS)


@pytest.fixture(scope="module")
def squad(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """A BERT, train.json and dev.json; and the questions of the latter."""
    folder, table = tmp_path_factory.mktemp("squad"), question_answering(150, 0)
    bert_folder(folder / "bert", positions=SEQ_LEN, texts=table.columns["question"] + table.columns["context"])
    write_squad(table, folder / "train.json", slice(12))
    return folder, write_squad(table, folder / "dev.json", slice(12, 30))


@pytest.fixture(scope="module")
def artifact(squad: tuple[Path, list[dict]]) -> Path:
    """In this process, because that takes half of the time."""
    folder, _ = squad
    given = ["--data", folder / "train.json", "--valid", folder / "dev.json", "--latency", "75%", "--effort", PLAN]
    model = ["--model", folder / "bert", "--seq-len", SEQ_LEN]
    command = [
        "prune",
        *model,
        *given,
        "--precision",
        "fp32",
        "--verify-seconds",
        0,
        "--doc-stride",
        24,
        "--profile",
        folder / "profile.json",
    ]
    with pytest.MonkeyPatch.context() as patch:
        counted_time.install(patch.setattr)
        patch.setenv("PYTHONPATH", counted_time.python_path())
        call("profile", *model, "--rows", "tokens", "--specs", 3, "--out", folder / "profile.json")
        result = call(*command, "--out", folder / "run")
    assert result["dense"]["metric"] == "f1"
    assert result["pruned"]["ci95_us"][0] < result["dense"]["p50_us"]
    verified = json.loads((folder / "run" / "verify.json").read_text())
    assert verified["verdict"]["met"]
    assert verified["parity"] < 1e-3
    assert verified["quality"]["all"]["pruned"]["rows"] < 90  # half of dev's contexts, in questions and not in windows
    report = (folder / "run" / "report.html").read_text()
    assert "--doc-stride 24" in report
    assert "pipeline_tag: question-answering" in (folder / "run" / "artifact" / "model_card.md").read_text()
    return Path(result["artifact"])


def call(*arguments: object, stdin: str = "") -> dict:
    ran = CliRunner().invoke(main, [str(argument) for argument in (*arguments, "--json")], input=stdin)
    assert ran.exit_code == 0, ran.stderr
    return last_object(ran.stdout)


def test_the_artifact_answers_as_its_twin_in_transformers(artifact: Path, squad: tuple[Path, list[dict]]) -> None:
    from transformers import AutoModelForQuestionAnswering

    import prunetime.models.hf

    model, (_, asked) = prunetime.load(artifact), squad
    assert model.manifest.task.doc_stride == 24
    pairs = [(record["question"], record["context"]) for record in asked[:10]]
    inputs = model.read(pairs)
    assert len(inputs.tokens) > len(pairs)
    ids, mask, types = (torch.from_numpy(array.astype(np.int64)) for array in inputs.tokens.padded(0))
    with torch.no_grad():
        output = AutoModelForQuestionAnswering.from_pretrained(artifact)(ids, mask, types)
    logits = torch.stack((output.start_logits, output.end_logits), -1)[mask == 1].numpy()
    np.testing.assert_allclose(model.engine.logits(inputs.tokens), logits, atol=2e-5)
    for (_, context), answer in zip(pairs, model.score(pairs), strict=True):
        assert answer.text
        assert context[answer.start :].startswith(answer.text)
        assert 0 < answer.score <= 1
    assert model.score(pairs[3:4])[0] == model.score(pairs)[3]


def test_score_prints_answers(artifact: Path, squad: tuple[Path, list[dict]]) -> None:
    pair = squad[1][0]["question"], squad[1][0]["context"]
    expected = prunetime.load(artifact).score([pair])[0]._asdict()
    assert call("score", artifact, "--text", pair[0], "--pair", pair[1]) == {"scores": [expected]}
    assert call("score", artifact, stdin="\t".join(pair) + "\n") == {"scores": [expected]}
    one = CliRunner().invoke(main, ["score", str(artifact), "--text", pair[0], "--json"])
    assert one.exit_code == 2
    assert "this model scores 2: question, context" in one.stderr


@pytest.mark.parametrize(("name", "judge"), [("f1", f1), ("exact", exact_match)])
def test_eval_is_the_mean_over_questions(artifact: Path, squad: tuple[Path, list[dict]], name: str, judge) -> None:
    folder, asked = squad
    said = prunetime.load(artifact).score([(record["question"], record["context"]) for record in asked])
    gold = gold_answers("dev", *([record[column] for record in asked] for column in ("answers", "context")))
    expected = np.mean([judge(*pair) for pair in zip(said, gold, strict=True)])
    metric = ("--metric", name) if name != "f1" else ()
    result = call("eval", artifact, "--data", folder / "dev.json", *metric)
    assert (result["metric"], result["rows"]) == (name, len(asked))
    assert result["value"] == pytest.approx(expected)
    assert result["ci95"][0] <= result["value"] <= result["ci95"][1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tokens",), "no token of this model can be dropped"),
        (("--metric", "auc"), "metric auc does not fit a question-answering task"),
        (("--doc-stride", "95"), "windows of 96 tokens can share 0 to 91 of them"),
        (
            ("--doc-stride", "88"),
            r"train\.json: question '.*' has .* room for \d+ of the context, and windows share 88",
        ),
        (("--seq-len", "128"), "longer than the 96 positions"),
    ],
)
def test_what_does_not_fit_is_refused(squad: tuple[Path, list[dict]], tmp_path: Path, options, message) -> None:
    folder, _ = squad
    data = ["--data", folder / "train.json", "--valid", folder / "dev.json"]
    given = ["--model", folder / "bert", *data, "--latency", "70%", "--seq-len", SEQ_LEN, "--out", tmp_path / "run"]
    ran = CliRunner().invoke(main, [str(argument) for argument in ("prune", *given, *options)])
    assert ran.exit_code == 2, ran.stderr
    assert re.search(message, ran.stderr), ran.stderr
