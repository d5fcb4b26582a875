"""Masks learned in an ordinary training script, with transformers' own Trainer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainers import arguments, bert, logits, rows, weights_kept
from transformers import (
    AutoModelForSequenceClassification,
    BertForQuestionAnswering,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

import prunetime.models.hf  # noqa: F401 (registers the classes)
from prunetime.errors import InputError
from prunetime.models.distill import Distillation
from prunetime.models.encoder import from_weights
from prunetime.models.transformed import AttentionScores, encoder_of, weights_from
from prunetime.pruning.callback import MultilevelPruning

FAST = {"learning_rate": 0.3}


def trainer(
    model: PreTrainedModel, pruning: MultilevelPruning, settings: TrainingArguments, data: list | None = None
) -> Trainer:
    optimizers = (pruning.optimizer(settings), None)
    return Trainer(model, settings, train_dataset=data or rows(), callbacks=[pruning], optimizers=optimizers)


def test_both_steps_leave_a_model_that_computes_what_was_trained_and_loads_anywhere(tmp_path: Path) -> None:
    model, teacher = bert(), bert()
    pruning = MultilevelPruning(model, 0.6, teacher=teacher, **FAST)
    trainer(model, pruning, arguments(tmp_path)).train()
    masked = logits(model)
    model = pruning.compact()
    torch.testing.assert_close(logits(model), masked, atol=1e-5, rtol=0)
    assert weights_kept(model) <= 0.6

    pruning = MultilevelPruning(model, 0.3, (16, 16), **FAST)
    trainer(model, pruning, arguments(tmp_path)).train()
    masked, last = logits(model), pruning.compact()
    torch.testing.assert_close(logits(last), masked, atol=1e-5, rtol=0)
    assert 0.29 < weights_kept(last) <= 0.3
    last.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(loaded), logits(last))


def test_after_the_step_the_model_of_the_script_has_no_masks_left(tmp_path: Path) -> None:
    model, names = bert(), list(bert().state_dict())
    pruning = MultilevelPruning(model, 0.6, **FAST)
    trainer(model, pruning, arguments(tmp_path)).train()
    masked, _ = logits(model), pruning.compact()
    assert list(model.state_dict()) == names
    assert torch.equal(logits(model), masked)


def test_accumulated_batches_learn_what_whole_ones_do(tmp_path: Path) -> None:
    found = []
    for changes in ({}, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}):
        model = bert()
        pruning = MultilevelPruning(model, 0.5, teacher=bert(), **FAST)
        trainer(model, pruning, arguments(tmp_path, max_steps=8, **changes)).train()
        found.append((pruning.share, logits(model)))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1], atol=2e-3, rtol=0)


def test_a_training_that_is_resumed_ends_in_the_same_model(tmp_path: Path) -> None:
    found = []
    for again in (False, True):
        model = bert()
        pruning = MultilevelPruning(model, 0.5, **FAST)
        settings = arguments(tmp_path, save_strategy="steps", save_steps=10)
        last = tmp_path / "checkpoint-10"
        trainer(model, pruning, settings).train(resume_from_checkpoint=str(last) if again else None)
        found.append(pruning.compact())
    for name, tensor in found[0].state_dict().items():
        assert torch.equal(tensor, found[1].state_dict()[name]), name


def test_two_ranks_learn_what_one_process_does(tmp_path: Path) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(here), str(here.parent))), "OMP_NUM_THREADS": "1"}
    words = [*command, str(here / "callback_distributed_run.py"), str(tmp_path), "4"]
    ran = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    model = bert()
    pruning = MultilevelPruning(model, 0.5, teacher=bert(), **FAST)
    trainer(model, pruning, arguments(tmp_path, max_steps=8)).train()
    found = torch.load(tmp_path / "found.pt")
    assert found["share"] == pruning.share
    torch.testing.assert_close(found["logits"], logits(model), atol=2e-3, rtol=0)


def test_it_learns_under_autocast(tmp_path: Path) -> None:
    model = bert()
    pruning = MultilevelPruning(model, 0.5, teacher=bert(), **FAST)
    trainer(model, pruning, arguments(tmp_path, bf16=True, max_steps=6)).train()
    assert pruning.share <= 0.5


def test_a_model_that_answers_questions_is_pruned_as_well(tmp_path: Path) -> None:
    model, data = bert(BertForQuestionAnswering), rows(start_positions=9, end_positions=9)
    pruning = MultilevelPruning(model, 0.5, (16, 16), bert(BertForQuestionAnswering), **FAST)
    trainer(model, pruning, arguments(tmp_path, max_steps=6), data).train()
    inputs = {name: torch.stack([row[name] for row in data]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        masked = model.eval()(**inputs).start_logits[:, :9]  # the padding is no answer to ours
        pruned = pruning.compact().eval()(**inputs).start_logits[:, :9]
    torch.testing.assert_close(pruned, masked, atol=1e-5, rtol=0)


def test_attention_scores_are_distilled_as_our_own_encoder_gives_them(tmp_path: Path) -> None:
    model, teacher = bert().eval(), bert()
    seen, data = AttentionScores(model), rows()
    logits(model)
    config = encoder_of(model).config
    ours = from_weights(config, weights_from(model, config)).eval()
    inputs = [torch.stack([row[name] for row in data]) for name in ("input_ids", "attention_mask")]
    for a, b in zip(seen.take(), ours(*inputs, want_scores=True).attention_scores, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    seen.remove()

    with torch.no_grad():
        teacher.bert.encoder.layer[0].attention.self.query.weight *= 3.0
    found = []
    for attention in (0.0, 10.0):
        model = bert()
        pruning = MultilevelPruning(model, 0.9, teacher=teacher, distillation=Distillation(attention=attention), **FAST)
        trainer(model, pruning, arguments(tmp_path)).train()
        pruning.compact()
        first, second = (each.bert.encoder.layer[0].attention.self.query.weight for each in (model, teacher))
        found.append((first - second).norm().item())
    assert found[1] < found[0]


@pytest.mark.parametrize(
    ("problem", "is_seen"), [("multi_label_classification", True), ("single_label_classification", False)]
)
def test_a_teacher_of_several_labels_is_not_distilled_by_a_softmax(problem: str, is_seen: bool) -> None:
    """A softmax does not see what all logits of a row have in common."""
    data, losses = rows(), []
    batch = {name: torch.stack([row[name] for row in data]) for name in ("input_ids", "attention_mask")}
    for shift in (0.0, 1.0):
        model, teacher = bert(), bert()
        teacher.classifier.bias.data += shift
        model.config.problem_type = problem
        MultilevelPruning(model, 1.0, teacher=teacher, distillation=Distillation(hidden=0.0), **FAST)
        labels = torch.zeros(len(data), 2) if is_seen else torch.zeros(len(data), dtype=torch.long)
        losses.append(model.train()(**batch, labels=labels).loss.item())
    assert (losses[1] > losses[0] + 0.05) == is_seen
    assert is_seen or losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_what_cannot_be_pruned_is_refused() -> None:
    with pytest.raises(InputError, match="weights is 0"):
        MultilevelPruning(bert(), 0.0)
    from transformers import BertForMaskedLM

    with pytest.raises(InputError, match="BertForMaskedLM of family 'bert' is not supported"):
        MultilevelPruning(bert(BertForMaskedLM), 0.5)


def test_the_name_of_block_shape_in_the_last_release_still_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="grain will go in the next release: use block_shape"):
        pruning = MultilevelPruning(bert(), 0.5, grain=(16, 16))
    assert pruning._step.block_shape == (16, 16)
