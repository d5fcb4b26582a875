import numpy as np
import pytest
import torch
from cases import random_config, random_ragged, random_weights

from prunetime.arch import ArchSpec
from prunetime.mask import PARTS, rank
from prunetime.models.compact import ordered
from prunetime.models.encoder import from_weights
from prunetime.models.gates import from_mask
from prunetime.runtime.engine import Engine
from prunetime.search.evaluate import ElasticScorer, ScoringRows
from prunetime.search.space import Space
from prunetime.task import Task
from prunetime.tasks.metrics import metric


@pytest.mark.parametrize(("kind", "name", "sign"), [("relevance", "auc", 1), ("regression", "rmse", -1)])
def test_it_scores_what_gated_torch_scores(kind, name, sign):
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=3, outputs=1)
    dims, space = config.dims, Space(config.dims, tokens=True)
    weights = random_weights(config, ArchSpec.full(dims), rng)
    widths = dict(zip(PARTS, (dims.heads, dims.hidden, dims.ffn, dims.hidden), strict=True))
    importance = [{part: rng.random(width) for part, width in widths.items()} for _ in range(dims.layers)]
    tokens = random_ragged(config, rng, rng.integers(1, 20, 80))
    labels = rng.integers(0, 2, 80).astype(np.float32)
    task = Task(kind, (), ("text",), 32)
    rows = ScoringRows(tokens, labels, np.arange(80), task)
    specs = [ArchSpec.full(dims), ArchSpec.floor(dims), *(space.spec(space.random(rng)) for _ in range(6))]

    whole = ordered(weights, importance, dims)
    model = from_weights(config, weights).eval()
    ids, mask, types = (torch.from_numpy(array.astype(np.int64)) for array in tokens.padded(0))
    expected = []
    for spec in specs:
        with torch.no_grad():
            logits = model(ids, mask, types, gates=from_mask(rank(importance, spec))).logits.numpy()
        expected.append(sign * metric(name).value(task.scores(logits), labels, np.arange(80)))

    scores = list(ElasticScorer(Engine(config, whole), rows, metric(name))(specs))
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert len(set(np.round(scores, 6))) > 4
