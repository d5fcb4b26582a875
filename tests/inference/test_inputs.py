"""Windows and answers, beside a fast tokenizer of transformers, the `run_qa` example's positions, and brute force."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tiny import SPECIAL, wordpiece
from transformers import PreTrainedTokenizerFast

from prunetime.core.task import Answer, Task
from prunetime.errors import InputError
from prunetime.inference.reading import read
from prunetime.inference.tokenize import Tokenizer
from prunetime.inference.windows import LONGEST_ANSWER, Windows, best_spans
from prunetime.tasks.synthetic import question_answering

TABLE = question_answering(60, 0).columns
QUESTIONS, CONTEXTS = TABLE["question"], TABLE["context"]
TOKENIZER = wordpiece(QUESTIONS + CONTEXTS, 300)
FAST = PreTrainedTokenizerFast(tokenizer_object=TOKENIZER, **{f"{name[1:-1].lower()}_token": name for name in SPECIAL})
CONTENT = TOKENIZER.to_str().encode()

texts = st.text(st.sampled_from("abcdeé Üß中\U0001f600,.-'  \n0123"), min_size=1, max_size=200)


def best_of(logits):
    (found,) = best_spans(logits, 1)
    return found


def task(max_length: int, doc_stride: int) -> Task:
    return Task("question-answering", (), ("question", "context"), max_length, doc_stride)


def windows_of(pairs: list[tuple[str, str]], max_length: int, doc_stride: int, content: bytes = CONTENT) -> Windows:
    found = read(Tokenizer(content, max_length), task(max_length, doc_stride), pairs)
    assert isinstance(found, Windows)
    return found


def expected_of(pairs: list[tuple[str, str]], max_length: int, doc_stride: int):
    return FAST(
        *map(list, zip(*pairs, strict=True)),
        truncation="only_second",
        max_length=max_length,
        stride=doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )


def rows_of(found: Windows, values) -> list:
    return [values[start:stop].tolist() for start, stop in pairwise(found.tokens.offsets)]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("max_length", "doc_stride"), [(64, 32), (48, 0), (128, 100), (1024, 128)])
def test_windows_are_those_of_transformers(max_length, doc_stride, side, monkeypatch):
    pairs = list(zip(QUESTIONS, CONTEXTS, strict=True))
    monkeypatch.setattr(FAST, "truncation_side", side)
    cut = tokenizers.Tokenizer.from_buffer(CONTENT)
    cut.enable_truncation(8, direction=side)
    found = windows_of(pairs, max_length, doc_stride, cut.to_str().encode())
    expected = expected_of(pairs, max_length, doc_stride)
    assert rows_of(found, found.tokens.ids) == expected["input_ids"]
    assert rows_of(found, found.tokens.types) == expected["token_type_ids"]
    assert found.owner.tolist() == expected["overflow_to_sample_mapping"]
    for row, (offsets, characters) in enumerate(
        zip(expected["offset_mapping"], rows_of(found, found.characters), strict=True)
    ):
        of_context = [part == 1 for part in expected.sequence_ids(row)]
        assert characters == [list(o) if c else [-1, -1] for o, c in zip(offsets, of_context, strict=True)]
    assert (len(found.tokens) > len(pairs)) == (max_length < 1024)


def run_qa_positions(expected, row: int, answer: Answer) -> tuple[int, int]:
    """As `prepare_train_features` of the `run_qa` example of transformers finds them."""
    offsets, sequence_ids = expected["offset_mapping"][row], expected.sequence_ids(row)
    start_char, end_char = answer.start, answer.start + len(answer.text)
    first = 0
    while sequence_ids[first] != 1:
        first += 1
    last = len(offsets) - 1
    while sequence_ids[last] != 1:
        last -= 1
    if not (offsets[first][0] <= start_char and offsets[last][1] >= end_char):
        return 0, 0
    while first < len(offsets) and offsets[first][0] <= start_char:
        first += 1
        if sequence_ids[first] != 1:
            break
    while offsets[last][1] >= end_char:
        last -= 1
    return first - 1, last + 1


@pytest.mark.parametrize(("max_length", "doc_stride"), [(40, 8), (96, 48)])
def test_positions_to_train_on_are_those_of_run_qa(max_length, doc_stride):
    pairs = list(zip(QUESTIONS, CONTEXTS, strict=True))
    rng, labels = np.random.default_rng(0), []
    for _, context in pairs:
        start = int(rng.integers(0, len(context) - 40))
        text = context[start : start + 1 + int(rng.integers(0, 40))]
        space = len(text) - len(text.lstrip())
        labels.append((Answer(text.strip() or "?", start + space), Answer("", 0)))
    found, expected = windows_of(pairs, max_length, doc_stride), expected_of(pairs, max_length, doc_stride)
    targets = found.targets(np.fromiter(labels, object, len(labels)))
    wanted = [run_qa_positions(expected, row, labels[owner][0]) for row, owner in enumerate(found.owner)]
    assert targets.tolist() == [list(pair) for pair in wanted]
    assert 0 < sum(map(any, wanted)) < len(wanted)


@given(question=texts, context=texts, max_length=st.integers(24, 80), data=st.data())
def test_every_answer_comes_back_from_the_window_that_has_it(question, context, max_length, data):
    encoded = TOKENIZER.encode(question, context)
    spans = [o for o, part in zip(encoded.offsets, encoded.sequence_ids, strict=True) if part == 1]
    room = max_length - (len(encoded.ids) - len(spans))
    if not spans or room < 1:
        return
    doc_stride = data.draw(st.integers(0, min(room, max_length - 4) - 1))
    found = windows_of([(question, context), ("?", "nothing else")], max_length, doc_stride)
    assert found.tokens.lengths.max() <= max_length
    first = data.draw(st.integers(0, len(spans) - 1))
    last = data.draw(st.integers(first, min(len(spans), first + LONGEST_ANSWER) - 1))
    text = context[spans[first][0] : spans[last][1]]
    if not text.strip():
        return
    labels = np.fromiter([(Answer(text, spans[first][0]),), (Answer("else", 8),)], object, 2)
    targets = found.targets(labels)
    mine = targets[found.owner == 0]
    shared = doc_stride if len(mine) > 1 else len(spans)
    if last - first <= shared:  # of up to one token more than neighbouring windows share
        assert mine.any()
    logits = np.zeros((len(found.tokens.ids), 2), np.float32)
    for (start, end), at in zip(targets, found.tokens.offsets, strict=False):
        if start:
            logits[[at + start, at + end], [0, 1]] = 9.0
    said, other = found.scores(logits)
    assert other.text == "else"
    if mine.any():
        assert context[said.start :].startswith(said.text)
        assert (said.start, said.text.strip()) in {(spans[first][0], text.strip())} or overlapping(spans)
        assert said.score > 0.9


def overlapping(spans: list[tuple[int, int]]) -> bool:
    """Whether one character made several tokens, so that an answer may come back with another one's characters."""
    return any(a[1] > b[0] for a, b in pairwise(spans))


@given(st.integers(0, 10_000), st.integers(1, 70))
def test_the_best_span_is_that_of_all(seed, tokens):
    logits = np.random.default_rng(seed).normal(size=(tokens, 2)).round(1)
    start, end = best_of(logits)
    sums = {
        (i, j): logits[i, 0] + logits[j, 1] for i in range(tokens) for j in range(i, min(tokens, i + LONGEST_ANSWER))
    }
    assert (start, end) in sums
    assert sums[start, end] == max(sums.values())


def test_the_answer_is_of_the_window_where_the_logits_are_largest_and_of_its_context():
    pairs = list(zip(QUESTIONS, CONTEXTS, strict=True))[:3]
    found = windows_of(pairs, 48, 16)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(len(found.tokens.ids), 2)).astype(np.float32)
    outside = found.characters[:, 0] < 0
    logits[outside] = 50.0
    for number, answer in enumerate(found.scores(logits)):
        of_question = np.repeat(found.owner == number, found.tokens.lengths) & ~outside
        assert answer.text
        assert CONTEXTS[number][answer.start :].startswith(answer.text)
        best = 0.0
        for row in np.flatnonzero(found.owner == number):
            part = slice(*found.tokens.offsets[row : row + 2])
            context = logits[part][of_question[part]]
            start, end = best_of(context.astype(np.float64))
            best = max(best, float(context[start, 0] + context[end, 1]))
        (at,) = np.nonzero(of_question & (found.characters[:, 0] == answer.start))
        (to,) = np.nonzero(of_question & (found.characters[:, 1] == answer.start + len(answer.text)))
        assert max(logits[i, 0] + logits[j, 1] for i in at for j in to) == pytest.approx(best)


def test_the_score_is_a_probability_of_the_window():
    found = windows_of([("which is it", "red or blue")], 32, 8)
    logits = np.log(np.random.default_rng(1).dirichlet(np.ones(len(found.tokens.ids)), 2).T).astype(np.float32)
    (answer,) = found.scores(logits)
    tokens = {(a, b): i for i, (a, b) in enumerate(found.characters.tolist())}
    start = min(i for (a, _), i in tokens.items() if a == answer.start)
    end = max(i for (_, b), i in tokens.items() if b == answer.start + len(answer.text))
    assert answer.score == pytest.approx(float(np.exp(logits[start, 0] + logits[end, 1])), rel=1e-4)
    (shifted,) = found.scores(logits + np.float32(3.0))
    assert shifted.score == pytest.approx(answer.score, rel=1e-4)


def test_selected_questions_have_their_windows():
    pairs = list(zip(QUESTIONS, CONTEXTS, strict=True))
    whole, chosen = windows_of(pairs, 48, 16), np.array([31, 2, 7])
    part, alone = whole.select(chosen), windows_of([pairs[i] for i in chosen], 48, 16)
    for name in ("ids", "types", "offsets"):
        np.testing.assert_array_equal(getattr(part.tokens, name), getattr(alone.tokens, name))
    np.testing.assert_array_equal(part.owner, alone.owner)
    np.testing.assert_array_equal(part.characters, alone.characters)
    assert part.contexts == alone.contexts


def test_no_questions_have_no_answers():
    found = windows_of([], 48, 16)
    assert len(found.tokens) == len(found.scores(np.zeros((0, 2), np.float32))) == 0


def test_rows_of_other_tasks_are_their_texts():
    classes = Task("classification", ("a", "b"), ("text",), 16)
    found = read(Tokenizer(CONTENT, 16), classes, [("red",), ("blue",), ("green couch",)])
    labels, logits = np.array([1, 0, 1]), np.arange(6, dtype=np.float32).reshape(3, 2)
    assert found.targets(labels) is labels
    np.testing.assert_array_equal(found.scores(logits), classes.scores(logits))
    assert found.select(np.array([2])).tokens.ids.tolist() == found.tokens.select([2]).ids.tolist()


def test_what_no_window_can_hold_is_refused():
    long = r"question '\? \? .*has 40 tokens, so that a window of 48 has room for 5 .* and windows share 5"
    with pytest.raises(InputError, match=long):
        windows_of([("?", "me"), ("? " * 40, "a red sofa")], 48, 5)
    with pytest.raises(InputError, match="room for 0 of the context, and windows share 0: shorten it, or give"):
        windows_of([("? " * 60, "a red sofa")], 48, 0)
    with pytest.raises(InputError, match=r"question 'who': its context has no token"):
        windows_of([("who", "\u200b\u0000")], 48, 5)


def test_a_stride_that_does_not_fit_is_refused():
    for stride in (None, -1, 44, 2.0):
        with pytest.raises(InputError, match="windows of 48 tokens can share 0 to 43 of them"):
            task(48, stride)
    with pytest.raises(InputError, match="question-answering has two texts"):
        Task("question-answering", (), ("text",), 48, 8)
    with pytest.raises(InputError, match="classification reads no windows"):
        Task("classification", ("a", "b"), ("text",), 48, 8)
    with pytest.raises(InputError, match="logits of question-answering are no scores"):
        task(48, 8).scores(np.zeros((3, 2), np.float32))
    assert Task.from_json(task(48, 8).to_json()) == task(48, 8)
    assert replace(task(48, 8), doc_stride=0).doc_stride == 0
    assert (task(48, 8).outputs, task(48, 8).rows) == (2, "tokens")


def test_the_best_answers_are_those_of_all_spans():
    """Beside a search through every span of every window."""
    rng = np.random.default_rng(0)
    texts = [("who sat", " ".join(f"word{i}" for i in range(60))), ("where", "on a red sofa in the hall")]
    inputs = windows_of(texts, 24, 6)
    logits = rng.normal(size=(inputs.tokens.ids.size, 2)).astype(np.float32)
    found = inputs.best(logits, 5)
    for example, (_, context) in enumerate(texts):
        every = {}
        for row in np.flatnonzero(inputs.owner == example):
            at = slice(*inputs.tokens.offsets[row : row + 2])
            characters, of_window = inputs.characters[at], logits[at].astype(np.float64)
            (tokens,) = np.nonzero(characters[:, 0] >= 0)
            for start in tokens:
                for end in tokens[(tokens >= start) & (tokens < start + LONGEST_ANSWER)]:
                    span = int(characters[start, 0]), int(characters[end, 1])
                    total = of_window[start, 0] + of_window[end, 1]
                    every[span] = max(total, every.get(span, -np.inf))
        best = sorted(every, key=every.get, reverse=True)[:5]
        assert [(each.start, each.start + len(each.text)) for each in found[example]] == best
        assert all(each.text == context[each.start : each.start + len(each.text)] for each in found[example])
    assert [answers[0] for answers in found] == inputs.scores(logits).tolist()


def test_no_answer_wins_where_every_window_says_so():
    inputs = windows_of([("who sat", " ".join(f"word{i}" for i in range(60)))], 24, 6)
    inputs = replace(inputs, task=replace(inputs.task, unanswerable=True))
    logits = np.zeros((inputs.tokens.ids.size, 2), np.float32)
    logits[inputs.tokens.offsets[:-1]] = 3.0
    assert inputs.scores(logits)[0][:2] == ("", 0)
    assert [each.text != "" for each in inputs.best(logits, 3)[0]] == [False, True, True]
    logits[inputs.tokens.offsets[1]] = -1.0  # one window that holds an answer
    assert inputs.scores(logits)[0].text != ""
    assert inputs.targets(objects_of(()))[0].tolist() == [0, 0]


def objects_of(*values):
    found = np.empty(len(values), object)
    found[:] = values
    return found
