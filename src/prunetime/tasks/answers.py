"""Question answering on SQuAD v1.1: its JSON format, and how its official script judges an answer.

Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", arXiv 1606.05250.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from prunetime.core.arrays import Array
from prunetime.core.task import Answer
from prunetime.errors import InputError
from prunetime.tasks.table import Table, parse_json

COLUMNS = ("id", "title", "context", "question", "answers")
"""As the `datasets` library has them: `answers` is an object of two lists, `text` and `answer_start`."""

UNANSWERABLE = "there was none without one in the training data, so that the model always gives one: remove it"


def parse_squad(text: str, name: str) -> Table:
    """The questions of a SQuAD v1.1 file with the columns `COLUMNS`, a row each; messages call the file `name`.

    Raises InputError where it is no JSON or has another form. Answers are checked by `gold_answers`.
    """
    content = parse_json(text, name, "a SQuAD file is one object, records a line are .jsonl")
    rows = []
    for i, article in enumerate(_part(content, "data", list, name)):
        at_article = f"{name}, article {i + 1}"
        for j, paragraph in enumerate(_part(article, "paragraphs", list, at_article)):
            at = f"{at_article}, paragraph {j + 1}"
            context = _part(paragraph, "context", str, at)
            for k, asked in enumerate(_part(paragraph, "qas", list, at)):
                at_question = f"{at}, question {k + 1}"
                question = _part(asked, "question", str, at_question)
                answers = _part(asked, "answers", list, at_question)
                kinds = {"text": str, "answer_start": int}
                lists = {key: [_part(each, key, kind, at_question) for each in answers] for key, kind in kinds.items()}
                number, title = str(asked.get("id", "")), str(article.get("title", ""))
                rows.append((number, title, context, question, json.dumps(lists, ensure_ascii=False)))
    return Table.of_rows(name, COLUMNS, rows)


def _part(holder: Any, key: str, kind: type, where: str) -> Any:
    value = holder.get(key) if isinstance(holder, dict) else None
    if type(value) is not kind:
        names = {list: "list", str: "text", int: "whole number"}
        has = ", ".join(map(repr, list(holder)[:8])) if isinstance(holder, dict) else ""
        found = f"it has {has or 'none'}" if isinstance(holder, dict) else "no object"
        raise InputError(
            f"{where}: no {names[kind]} {key!r} ({found}); SQuAD v1.1 has data > paragraphs > context and qas > "
            "question and answers > text and answer_start"
        )
    return value


def is_squad(table: Table) -> bool:
    """Whether the columns are those of question answering."""
    return set(COLUMNS[2:]) <= table.columns.keys() and table.columns["answers"][0].lstrip().startswith("{")


def gold_answers(where: str, values: Sequence[str], contexts: Sequence[str], unanswerable: bool = False) -> Array:
    """The answers to each question, tuples of `Answer`, [questions] of objects, from `answers` as in `COLUMNS`. Those
    of a question without any are empty.

    Raises InputError, naming rows, for what is no such object, an empty answer, one that is not in its context where it
    says, and, if none is `unanswerable`, for a question without one.
    """
    pairs = enumerate(zip(values, contexts, strict=True))
    found = [_gold(f"{where}, row {row + 1}", *pair, unanswerable) for row, pair in pairs]
    return np.fromiter(found, object, len(found))


def lacks_answers(values: Sequence[str]) -> bool:
    """Whether some question has none (SQuAD v2); what is no object of answers is not looked at."""
    for value in values:
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            if json.loads(value)["text"] == []:
                return True
    return False


def _gold(where: str, value: str, context: str, unanswerable: bool) -> tuple[Answer, ...]:
    try:
        lists = json.loads(value)
        pairs = list(zip(lists["text"], lists["answer_start"], strict=True))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{where}: {value[:60]!r} is no object of two lists of one length, text and answer_start"
        ) from error
    if not pairs and not unanswerable:
        raise InputError(f"{where}: no answer; {UNANSWERABLE}")
    for text, start in pairs:
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: the answer {text!r} is empty or no text; {UNANSWERABLE}")
        if type(start) is not int or not 0 <= start < len(context) or not context.startswith(text, start):
            there = context.find(text)
            says = f"the context of {len(context)} characters does not have it there"
            hint = f"; it has it at {there}" if there >= 0 else "; nor anywhere"
            raise InputError(
                f"{where}: answer {text[:40]!r} at {start!r}, but {says}{hint}: answer_start counts characters, not "
                "bytes or words"
            )
    return tuple(Answer(text, start) for text, start in pairs)


def normalized_answer(text: str) -> str:
    """In lower case, without punctuation (of ASCII), articles and superfluous white space; as the official script."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(answer: Answer, gold: Sequence[Answer]) -> float:
    """1 where the answer is one of `gold` but for normalisation, else 0; of none, where it is empty (SQuAD v2)."""
    accepted = {normalized_answer(one.text) for one in gold} or {""}
    return float(normalized_answer(answer.text) in accepted)


def f1(answer: Answer, gold: Sequence[Answer]) -> float:
    """The harmonic mean of precision and recall of the answer's words, for the one of `gold` where it is largest; of
    none as `exact_match`."""
    said = Counter(normalized_answer(answer.text).split())
    if not gold:
        return float(not said)
    words = [Counter(normalized_answer(one.text).split()) for one in gold]
    return max(2 * (said & each).total() / max(1, said.total() + each.total()) for each in words)
