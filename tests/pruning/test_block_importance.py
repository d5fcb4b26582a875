import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import random_config, random_ragged, random_weights

from prunetime.core.arch import ArchSpec
from prunetime.core.blocks import block_norms
from prunetime.core.task import Task
from prunetime.models.batches import TrainingData
from prunetime.models.encoder import SequenceClassifier, from_weights
from prunetime.models.losses import task_losses
from prunetime.pruning.importance import measure_block_importance

BLOCK_SHAPE = (16, 16)
ROWS = 6
TASK = Task("classification", ("a", "b", "c"), ("text",), 32)


def made() -> tuple[SequenceClassifier, TrainingData]:
    """A compact encoder whose second layer has matrices that blocks reach over."""
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=2, hidden=64, heads=4, head_dim=8, ffn=104, outputs=3)
    spec = ArchSpec.of(config.dims, [4, 3], [96, 104])
    model = from_weights(config, random_weights(config, spec, rng)).eval()
    return model, TrainingData(random_ragged(config, rng, rng.integers(2, 20, ROWS)), rng.integers(0, 3, ROWS), TASK, 0)


def loss_of(model: SequenceClassifier, data: TrainingData, row: int) -> float:
    batch = data.batch([row])
    labels = batch.pop("labels")
    with torch.no_grad():
        return task_losses(model(**batch).logits, labels, data.task).item()


@pytest.mark.parametrize("criterion", ["fisher", "taylor"])
def test_it_is_the_mean_over_samples_of_what_scaling_a_block_does_to_the_loss(criterion: str) -> None:
    model, data = made()
    model.double()
    found = measure_block_importance(model, data, BLOCK_SHAPE, criterion, threads=1)
    assert [set(layer) for layer in found] == [set(model.layers[0].spec.matrix_shapes(model.config.dims))] * 2
    for layer, matrix, block in ((0, "ffn_input", (2, 1)), (1, "query", (1, 3)), (1, "ffn_output", (3, 2))):
        weight = getattr(model.layers[layer], matrix).weight
        part = weight.data[16 * block[0] : 16 * block[0] + 16, 16 * block[1] : 16 * block[1] + 16]
        whole, slopes = part.clone(), np.zeros(ROWS)
        for scale in (1e-5, -1e-5):
            part.copy_(whole * (1 + scale))
            slopes += [loss_of(model, data, row) / (2 * scale) for row in range(ROWS)]
        part.copy_(whole)
        expected = np.square(slopes).mean() if criterion == "fisher" else np.abs(slopes).mean()
        assert found[layer][matrix][block] == pytest.approx(expected, rel=1e-5)


def test_without_data_blocks_go_by_their_magnitudes_or_by_nothing() -> None:
    model, data = made()
    weight = model.layers[1].ffn_input.weight.detach().numpy()
    found = measure_block_importance(model, data, BLOCK_SHAPE, "magnitude")
    np.testing.assert_allclose(found[1]["ffn_input"], block_norms(weight, *BLOCK_SHAPE), rtol=1e-5)
    assert not any(
        values.any()
        for layer in measure_block_importance(model, data, BLOCK_SHAPE, "movement")
        for values in layer.values()
    )


def test_memory_does_not_grow_with_the_rows_that_are_looked_at() -> None:
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=1, hidden=512, heads=8, head_dim=64, ffn=2048, outputs=3)
    model = from_weights(config, random_weights(config, ArchSpec.full(config.dims), rng)).eval()
    data = TrainingData(random_ragged(config, rng, [4] * 40), rng.integers(0, 3, 40), TASK, 0)
    resident: list[int] = []

    def look(*_: int) -> None:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        resident.append(pages * resource.getpagesize())

    measure_block_importance(model, data, (32, 32), threads=1, on_progress=look)
    of_one_row = 4 * ArchSpec.full(config.dims).weights(config.dims)
    assert len(resident) == 40
    assert resident[-1] - resident[9] < 5 * of_one_row  # thirty rows later
