import hashlib
import json
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import RidgeClassifier

from prunetime.tasks.data import examples, guess_columns, task_of
from prunetime.tasks.metrics import metric
from prunetime.tasks.roles import parse_slice, split_roles
from prunetime.tasks.sources import read_table
from prunetime.tasks.synthetic import ad_relevance, intents
from prunetime.tasks.synthetic.vocabulary import KINDS, UNITS

DIGEST = "568f3a852e703843f12cd46a505416f8ccd8f74d14316f1502c270930659de33"


def digest(table):
    return hashlib.sha256(json.dumps(table.columns).encode()).hexdigest()


@pytest.fixture(scope="module")
def roles():
    table = read_table("synthetic:ad-relevance")
    columns, _ = guess_columns(table)
    assert (columns.text, columns.label, columns.group) == (("query", "title"), "label", "query")
    return split_roles(examples(table, columns, task_of(table, columns, 48)), None, None, 0)


def test_same_seed_same_bytes(run_python):
    assert digest(ad_relevance(2000, 3)) == DIGEST
    assert digest(ad_relevance(2000, 4)) != DIGEST
    code = (
        "import hashlib, json; from prunetime.tasks.synthetic import ad_relevance;"
        "print(hashlib.sha256(json.dumps(ad_relevance(2000, 3).columns).encode()).hexdigest())"
    )
    assert [run_python(code, PYTHONHASHSEED=seed).strip() for seed in ("1", "2")] == [DIGEST, DIGEST]


def test_a_longer_table_starts_with_the_shorter_one():
    short, long = ad_relevance(100, 0), ad_relevance(3000, 0)
    assert {name: values[:100] for name, values in long.columns.items()} == short.columns
    assert len(short) == 100


def words(text):
    return set(re.findall(r"[a-z0-9]+", text.lower()))


@pytest.mark.parametrize(
    "overlap", [lambda q, t: len(q & t) / len(q), lambda q, t: len(q & t) / len(q | t), lambda q, t: len(q & t)]
)
@pytest.mark.parametrize("cut", [None, 4])
def test_word_overlap_alone_says_little(roles, overlap, cut):
    def known(text):
        return {word[:cut] for word in words(text)}

    test = roles.test
    assert len(test) >= 2000
    scores = np.array([overlap(known(query), known(title)) for query, title in test.texts])
    assert metric("auc").value(scores, test.labels, test.groups) <= 0.65


def test_neither_text_alone_says_anything(roles):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    for side in (0, 1):
        vectorizer = CountVectorizer(ngram_range=(1, 2), min_df=3)
        model = LogisticRegression(C=0.3, max_iter=300)
        model.fit(vectorizer.fit_transform([texts[side] for texts in roles.train.texts]), roles.train.labels)
        scores = model.decision_function(vectorizer.transform([texts[side] for texts in roles.test.texts]))
        assert metric("auc").value(scores, roles.test.labels, roles.test.groups) < 0.6


def test_shape_of_the_data(roles):
    table = ad_relevance(20_000, 1)
    queries = Counter(table.columns["query"])
    labels = np.array(table.columns["label"], int)
    assert 0.4 <= labels.mean() <= 0.5
    assert 8 <= np.mean(list(queries.values())) <= 15
    titles = defaultdict(set)
    for uid, title in zip(table.columns["product_uid"], table.columns["title"], strict=True):
        titles[uid].add(title)
    assert all(len(t) == 1 for t in titles.values()), "a product has one title"
    assert len(set(table.columns["title"])) == len(titles), "a title belongs to one product"
    assert len(set(zip(table.columns["query"], table.columns["title"], strict=True))) == 20_000, "no pair comes twice"
    unseen = parse_slice("unseen:product_uid").select(roles.test, roles.train)
    assert 0.2 <= len(unseen) / len(roles.test) <= 0.8


def test_the_vocabulary_is_sound():
    assert len({kind.names[0] for kind in KINDS}) == len(KINDS)
    names = Counter(name for kind in KINDS for name in kind.names)
    assert max(names.values()) == 1, "a name means one kind"
    for kind in KINDS:
        assert min(map(len, (kind.names, kind.parts, kind.materials, kind.sizes))) >= 2, kind
        assert kind.unit in UNITS, kind
        assert sum(other.category == kind.category for other in KINDS) >= 2, kind


def test_intents_are_many_classes_on_few_rows_and_words_do_not_say_them_all():
    table = read_table("synthetic:intents?rows=3000&seed=1")
    assert table.columns == intents(3000, 1).columns
    assert {name: values[:50] for name, values in table.columns.items()} == intents(50, 1).columns
    labels = Counter(table.columns["intent"])
    assert len(labels) == 77
    assert max(labels.values()) < 3 * min(labels.values())
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    features, answers = words.fit_transform(table.columns["text"]), np.array(table.columns["intent"])
    linear = RidgeClassifier().fit(features[:2000], answers[:2000])
    assert 0.3 < np.mean(linear.predict(features[2000:]) == answers[2000:]) < 0.8
