"""SQuAD files and how answers are judged, beside the official script's own functions."""

import json
import re
import string
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetime.core.task import Answer, Task
from prunetime.errors import InputError
from prunetime.tasks.answers import COLUMNS, exact_match, f1, normalized_answer, parse_squad
from prunetime.tasks.data import Examples, examples, guess_columns, task_of
from prunetime.tasks.metrics import default_metric, evaluate, metric
from prunetime.tasks.roles import split_roles
from prunetime.tasks.sources import read_table
from prunetime.tasks.synthetic import question_answering

CONTEXT = "The Broncos, of Denver, beat a team from the Carolinas 24–10."
SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Super Bowl",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "q1",
                            "question": "Who won?",
                            "answers": [
                                {"text": "The Broncos", "answer_start": 0},
                                {"text": "Broncos, of Denver", "answer_start": 4},
                            ],
                        },
                        {"id": "q2", "question": "By how much?", "answers": [{"text": "24–10", "answer_start": 55}]},
                    ],
                },
            ],
        },
    ],
}


def official_normalize_answer(s):
    """Of the official evaluation script for SQuAD v1.1, as are the next two."""

    def remove_articles(text):
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def white_space_fix(text):
        return " ".join(text.split())

    def remove_punc(text):
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    return white_space_fix(remove_articles(remove_punc(s.lower())))


def official_f1_score(prediction, ground_truth):
    prediction_tokens = official_normalize_answer(prediction).split()
    ground_truth_tokens = official_normalize_answer(ground_truth).split()
    common = Counter(prediction_tokens) & Counter(ground_truth_tokens)
    num_same = sum(common.values())
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(prediction_tokens)
    recall = 1.0 * num_same / len(ground_truth_tokens)
    return (2 * precision * recall) / (precision + recall)


def official_exact_match_score(prediction, ground_truth):
    return official_normalize_answer(prediction) == official_normalize_answer(ground_truth)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Denver Broncos!", "denver broncos"),
        ("a cat, an ant; THE end", "cat ant end"),
        ("theatre and another", "theatre and another"),
        ("U.S.A.", "usa"),
        ("24–10", "24–10"),
        ("the a an", ""),
    ],
)
def test_answers_are_normalised(text, expected):
    assert normalized_answer(text) == official_normalize_answer(text) == expected


WORDS = st.lists(st.sampled_from(["the", "A", "red", "Red,", "cat", "dog.", "an", "10", "x-y", "?"]), max_size=6)


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_exact_match_and_f1_are_those_of_the_official_script(said, gold):
    texts = [" ".join(words) for words in gold]
    answer, answers = Answer(" ".join(said), 0), [Answer(text, 0) for text in texts]
    assert exact_match(answer, answers) == max(official_exact_match_score(answer.text, text) for text in texts)
    assert f1(answer, answers) == pytest.approx(max(official_f1_score(answer.text, text) for text in texts))


def read(folder: Path, content: object) -> tuple[Examples, Task]:
    (folder / "dev.json").write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    table = read_table(str(folder / "dev.json"))
    columns, guess = guess_columns(table)
    assert "label = answers; text = question,context; group = context" in guess
    task = task_of(table, columns, 64)
    return examples(table, columns, task), task


def test_a_squad_file_is_a_task_without_options(tmp_path):
    found, task = read(tmp_path, SQUAD)
    assert task == Task("question-answering", (), ("question", "context"), 64, 32)
    assert found.texts == [("Who won?", CONTEXT), ("By how much?", CONTEXT)]
    assert found.labels.tolist() == [
        (Answer("The Broncos", 0), Answer("Broncos, of Denver", 4)),
        (Answer("24–10", 55),),
    ]
    assert found.column("id") == ["q1", "q2"]
    assert found.column("title") == ["Super Bowl"] * 2
    assert len(set(found.groups)) == 1
    assert default_metric(task).name == "f1"


def test_records_in_the_columns_of_the_hub_are_the_same_task(tmp_path):
    table = parse_squad(json.dumps(SQUAD), "dev.json")
    records = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*table.columns.values(), strict=True)]
    for record in records:
        record["answers"] = json.loads(record["answers"])
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, records)))
    again = read_table(str(tmp_path / "dev.jsonl"))
    columns, _ = guess_columns(again)
    assert (
        examples(again, columns, task_of(again, columns, 64)).labels.tolist()
        == read(tmp_path, SQUAD)[0].labels.tolist()
    )


def test_parquet_files_as_the_hub_has_them_are_the_same_task(tmp_path):
    import pyarrow
    from pyarrow import parquet

    lists = pyarrow.struct({"text": pyarrow.list_(pyarrow.string()), "answer_start": pyarrow.list_(pyarrow.int32())})
    of_hub = {name: pyarrow.array(values) for name, values in question_answering(20, 0).columns.items()}
    of_hub["answers"] = pyarrow.array([json.loads(value.as_py()) for value in of_hub["answers"]], lists)
    parquet.write_table(pyarrow.table(of_hub), tmp_path / "train.parquet")
    table = read_table(str(tmp_path / "train.parquet"))
    columns, _ = guess_columns(table)
    found = examples(table, columns, task_of(table, columns, 64))
    assert all(
        context[one.start :].startswith(one.text)
        for (_, context), (one,) in zip(found.texts, found.labels, strict=True)
    )
    assert len(found) == 20


def test_doc_stride_is_128_or_half_of_the_window():
    table = parse_squad(json.dumps(SQUAD), "dev.json")
    columns, _ = guess_columns(table)
    assert [task_of(table, columns, length).doc_stride for length in (64, 256, 384)] == [32, 128, 128]
    assert task_of(table, columns, 64, doc_stride=7).doc_stride == 7


def test_no_context_is_in_two_roles():
    table = question_answering(600, 0)
    columns, _ = guess_columns(table)
    roles = split_roles(examples(table, columns, task_of(table, columns, 64)), None, None, 0)
    contexts = [{context for _, context in role.texts} for role in (roles.train, roles.valid, roles.test)]
    assert sum(map(len, contexts)) == len(set.union(*contexts)) == 120
    assert not roles.warnings


def edited(**changes: object) -> dict:
    """`SQUAD` with other fields of its first question, or of its paragraph."""
    copy = json.loads(json.dumps(SQUAD))
    paragraph = copy["data"][0]["paragraphs"][0]
    for name, value in changes.items():
        (paragraph if name in paragraph else paragraph["qas"][0])[name] = value
    return copy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"dev\.json: not JSON .* records a line are \.jsonl"),
        ('{"data": [{"a": "\\ud800"}]}', "half of a surrogate pair"),
        ([SQUAD], r"dev\.json: no list 'data' \(no object\); SQuAD v1\.1 has data > paragraphs"),
        ({"rows": []}, r"dev\.json: no list 'data' \(it has 'rows'\)"),
        ({"data": []}, "has no rows of data"),
        ({"data": [{"title": "x"}]}, r"article 1: no list 'paragraphs' \(it has 'title'\)"),
        (edited(context=None), "article 1, paragraph 1: no text 'context'"),
        (edited(qas=3), "paragraph 1: no list 'qas'"),
        (edited(question=None), "paragraph 1, question 1: no text 'question'"),
        (edited(answers=[{"text": "x", "answer_start": 1.5}]), "question 1: no whole number 'answer_start'"),
        (edited(answers=[{"text": " ", "answer_start": 3}]), r"row 1: the answer ' ' is empty"),
        (
            edited(answers=[{"text": "Broncos", "answer_start": 3}]),
            r"row 1: answer 'Broncos' at 3, but the context of 61 characters does not have it there; it has it at 4: "
            "answer_start counts characters, not bytes",
        ),
        (edited(answers=[{"text": "Bears", "answer_start": -1}]), "answer 'Bears' at -1, .* nor anywhere"),
        (edited(question="  "), "column 'question': no text in row 1"),
        (edited(context=" \n"), "column 'context': no text in rows 1, 2"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, content)


@pytest.mark.parametrize("value", ["{not json", '{"text": ["a"]}', '{"text": ["a"], "answer_start": [1, 2]}', "{}"])
def test_answers_of_another_form_are_refused(tmp_path, value):
    (tmp_path / "dev.tsv").write_text(f"question\tcontext\tanswers\nWho?\tMe.\t{value}\n")
    table = read_table(str(tmp_path / "dev.tsv"))
    columns, _ = guess_columns(table)
    with pytest.raises(InputError, match=r"row 1: .* is no object of two lists of one length, text and answer_start"):
        examples(table, columns, task_of(table, columns, 64))


def test_a_stride_without_windows_is_refused():
    table = read_table("synthetic:ad-relevance?rows=50")
    columns, _ = guess_columns(table)
    with pytest.raises(InputError, match="a task of classification reads no windows; leave --doc-stride out"):
        task_of(table, columns, 64, doc_stride=32)


@pytest.mark.parametrize("name", ["f1", "exact"])
def test_metrics_are_means_over_questions_with_an_interval_over_groups(name):
    gold = np.fromiter([(Answer("red cat", 0),), (Answer("dog", 0), Answer("big dog", 0))] * 20, object, 40)
    said = np.fromiter([Answer("the cat", 0), Answer("A dog!", 0)] * 20, object, 40)
    groups = np.r_[np.zeros(11), np.arange(29) // 2 + 1]  # groups of 11, 2 and 1 questions
    estimate = evaluate(metric(name), said, gold, groups)
    assert estimate.value == pytest.approx({"f1": (2 / 3 + 1) / 2, "exact": 0.5}[name])
    assert estimate.ci95[0] < estimate.value < estimate.ci95[1]
    assert estimate.rows == 40
    metric(name).check(Task("question-answering", (), ("question", "context"), 64, 32))


def test_other_metrics_do_not_fit_and_exact_fits_nothing_else():
    with pytest.raises(InputError, match="metric auc does not fit a question-answering task; these do: f1, exact"):
        metric("auc").check(Task("question-answering", (), ("question", "context"), 64, 32))
    with pytest.raises(InputError, match="metric exact does not fit a binary task"):
        metric("exact").check(Task("classification", ("a", "b"), ("text",), 64))


def test_generated_questions():
    table = question_answering(500, 3)
    assert table.columns == {name: values[:500] for name, values in question_answering(900, 3).columns.items()}
    assert table.columns != question_answering(500, 4).columns
    columns, _ = guess_columns(table)
    found = examples(table, columns, task_of(table, columns, 64))  # answers are where they are said to be
    places = [answers[0].start / len(context) for answers, (_, context) in zip(found.labels, found.texts, strict=True)]
    assert np.histogram(places, 4, (0, 1))[0].min() > 80  # anywhere in the context
    assert len({question for question, _ in found.texts}) > 250
    assert 300 < np.mean([len(context) for _, context in found.texts]) < 1500
    with pytest.raises(InputError, match="rows=0: give at least 1"):
        question_answering(0, 0)


def test_questions_without_an_answer(tmp_path):
    """SQuAD v2: they are known from training data on, and an empty answer is then the right one."""
    (tmp_path / "dev.json").write_text(json.dumps(edited(answers=[])))
    table = read_table(str(tmp_path / "dev.json"))
    columns, _ = guess_columns(table)
    task = task_of(table, columns, 48)
    assert task.unanswerable
    labels = examples(table, columns, task).labels
    assert labels[0] == ()
    assert (exact_match(Answer("", 0), ()), f1(Answer("", 0), ())) == (1.0, 1.0)
    assert (exact_match(Answer("x", 0), ()), f1(Answer("x", 0), ())) == (0.0, 0.0)
    assert f1(Answer("", 0), (Answer("x", 0),)) == 0.0
    with pytest.raises(InputError, match="row 1: no answer; there was none without one in the training data"):
        examples(table, columns, replace(task, unanswerable=False))
    with pytest.raises(InputError, match="unanswerable is of question-answering"):
        Task("regression", (), ("text",), 48, unanswerable=True)
