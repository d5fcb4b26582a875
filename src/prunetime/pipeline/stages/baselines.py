"""The stage that says how the teacher stands beside models that take seconds: they need no training of an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from prunetime.baselines.static import pair_features
from prunetime.core.arrays import Array, Float32Array, Int64Array
from prunetime.core.config import LEAST_LENGTH
from prunetime.core.precision import PrecisionPlan
from prunetime.core.progress import Progress
from prunetime.errors import InputError
from prunetime.inference.engine import Engine
from prunetime.inference.tokenize import Texts
from prunetime.models import families
from prunetime.models.encoder import weights_of
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.source import check_defined, scaled
from prunetime.pipeline.student import THREADS, engine_of
from prunetime.report.run_record import BASELINES
from prunetime.tasks.metrics import evaluate, evaluate_difference, with_best_threshold
from prunetime.tasks.roles import whole_groups
from prunetime.training.linear import LINEAR_MODELS, STRENGTHS, fit_linear

TRAIN_ROWS, VALID_ROWS = 4_000, 1_500
"""The most rows that they are fitted to, and compared on."""

WORDS = 20_000
"""The most words and pairs of words of the TF-IDF."""

WORD_OR_MARK = r"(?u)\w+|[^\w\s]"


class Features(NamedTuple):
    """The features [rows, width] of a baseline, of the rows that it is `fitted` to and of `others`, and the inverse
    strengths of the regularisation."""

    name: str
    strengths: tuple[float, ...]
    fitted: Any
    others: Any


def tfidf_features(fitted: Sequence[Texts], others: Sequence[Texts]) -> tuple[Any, Any]:
    """Returns the TF-IDF of words and pairs of words of texts, sparse [rows, width], of both lists; those of two texts
    beside each other, their products and their sum, the cosine."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=WORDS, token_pattern=WORD_OR_MARK)
    vectorizer.fit([text for row in fitted for text in row])

    def features(texts: Sequence[Texts]) -> Any:
        first, *other = (vectorizer.transform([row[at] for row in texts]) for at in range(len(texts[0])))
        if not other:
            return first
        products = first.multiply(other[0])
        return hstack((first, other[0], products, products.sum(1)), "csr")

    return features(fitted), features(others)


def cosines(embeddings: Sequence[Float32Array]) -> Array:
    """Returns the cosines [rows, 1] of the embeddings of two texts."""
    first, other = (each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), LEAST_LENGTH) for each in embeddings)
    return np.asarray((first * other).sum(1, keepdims=True))


def _embeddings(context: Context, fitted: Sequence[Texts], others: Sequence[Texts]) -> list[list[Float32Array]]:
    """The embeddings [rows, width] of the first and second texts of both lists, by the encoder as it came, in int8."""
    pretrained = families.load(context.settings.model, None, kind="similarity")  # the run's own was trained in place
    engine = Engine(pretrained.config, weights_of(pretrained.model), THREADS, plan=PrecisionPlan.uniform("int8"))

    def embedded(texts: Sequence[str]) -> Float32Array:
        unique, at = np.unique(texts, return_inverse=True)
        return engine.logits(context.source.tokenizer.encode([(str(text),) for text in unique]))[at]

    columns = range(len(fitted[0]))
    return [[embedded([row[at] for row in texts]) for at in columns] for texts in (fitted, others)]


def _features(context: Context, fitted: Sequence[Texts], others: Sequence[Texts]) -> Iterator[Features]:
    yield Features("tfidf", (10.0,), *tfidf_features(fitted, others))
    try:
        embedded, others_embedded = _embeddings(context, fitted, others)
    except InputError as error:
        context.run.reporter.say(f"no baseline of the encoder's embeddings: {error}")
        return
    features = pair_features(embedded)
    mean, deviation = features.mean(0), float(np.sqrt(features.var(0).mean()))
    scaled_features = ((each - mean) / deviation for each in (features, pair_features(others_embedded)))
    yield Features("embeddings", STRENGTHS, *scaled_features)
    if context.source.task.pair:
        yield Features("cosine", (10.0,), cosines(embedded), cosines(others_embedded))


def _compared_rows(context: Context) -> Int64Array:
    """Indices of valid rows of whole groups; all of them where the metric says nothing about so few."""
    source, valid = context.source, context.source.roles.valid
    chosen = whole_groups(valid.groups, VALID_ROWS, context.settings.seed)
    part = valid.select(chosen)
    try:
        check_defined(source.metric, source.task, part, "valid")
    except InputError:
        return np.arange(len(valid))
    return chosen if len(np.unique(part.groups)) > 1 else np.arange(len(valid))


@stage(
    "baselines",
    "Compare the teacher with models that need no training",
    ["baselines.json"],
    inputs=lambda context: context.run.path("teacher/manifest.json").read_text(),
)
def compare_baselines(context: Context, _: Progress) -> None:
    """Says how far the teacher is above models that take seconds, on valid rows: a linear model of TF-IDF, one of the
    embeddings of the encoder as it came and, of pairs, their cosine.

    Leaves their metrics and the teacher's in `baselines.json`; a task whose labels are of tokens has none.
    """
    source, metric = context.source, context.source.metric
    task, roles = source.task, source.roles
    if task.rows == "tokens" or task.kind not in LINEAR_MODELS or not (roles.train.labelled and roles.valid.labelled):
        context.run.write("baselines.json", {"metric": metric.name, "rows": 0, "teacher": None, "baselines": {}})
        of = task.kind if roles.train.labelled else "data without labels"
        context.run.reporter.say(f"{of} has no baselines that take seconds: the teacher is compared with none")
        return
    order = np.random.default_rng(context.settings.seed).permutation(len(roles.train))
    train, chosen = roles.train.select(np.sort(order[:TRAIN_ROWS])), _compared_rows(context)
    valid = roles.valid.select(chosen)
    inputs = source.valid.select(chosen)
    teacher_scores = inputs.scores(engine_of(context.teacher).logits(inputs.tokens))
    teacher_scores = with_best_threshold(task, teacher_scores, valid.labels).at_half(teacher_scores)
    teacher = evaluate(metric, teacher_scores, valid.labels, valid.groups)
    labels, found = scaled(task, train.labels), {}
    outputs = task.outputs or 1
    for each in _features(context, train.texts, valid.texts):
        logits = fit_linear(task.kind, each.fitted, labels, outputs, each.strengths).logits(each.others)
        scores = task.scores(logits) if task.rows == "pooled" else logits[:, 0]
        scores = with_best_threshold(task, scores, valid.labels).at_half(scores)
        estimate = evaluate(metric, scores, valid.labels, valid.groups)
        difference = evaluate_difference(metric, teacher_scores, scores, valid.labels, valid.groups)
        found[each.name] = estimate.to_json() | {"difference": difference.to_json()}
    record = {"metric": metric.name, "rows": len(valid), "teacher": teacher.to_json(), "baselines": found}
    context.run.write("baselines.json", record)
    for line in sentences(record, context.better):
        context.run.reporter.say(line)


def sentences(record: Mapping[str, Any], better: Callable[[float], float]) -> list[str]:
    """Returns what `baselines.json` says, for people; a second sentence warns where the teacher is below a baseline.

    Args:
        record: What the file has.
        better: Gives a value of the metric such that higher is better.
    """
    found, teacher = record["baselines"], record["teacher"]
    figures = ", ".join(f"{BASELINES[name]} {_figure(one)}" for name, one in found.items())
    said = [f"the teacher's {record['metric']} on {record['rows']:,} valid rows: {_figure(teacher)}; {figures}"]
    above = [name for name, one in found.items() if better(one["difference"]["value"]) < 0]
    if above:
        best = max(above, key=lambda name: better(found[name]["value"]))
        low, high = found[best]["difference"]["ci95"]
        said.append(
            f"the teacher is below {BASELINES[best]} by {abs(found[best]['difference']['value']):.4f} (difference "
            f"{low:+.4f} to {high:+.4f}): a pruned model will hardly be above its teacher. Train longer (--effort), "
            "give more rows, or take another --model"
        )
    return said


def _figure(estimate: Mapping[str, Any]) -> str:
    low, high = estimate["ci95"]
    return f"{estimate['value']:.4f} ({low:.4f} to {high:.4f})"
