"""The stages that learn masks in place of searching: of heads and rows, then of blocks of what these leave (MLPruning,
arXiv 2105.14636)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from prunetime import artifact
from prunetime.arch import ArchSpec, Grain
from prunetime.errors import InputError
from prunetime.mask import Mask
from prunetime.models.compact import compact, in_blocks, prefix_mask
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.pipeline import stages
from prunetime.pipeline.choosing import leave_chosen
from prunetime.pipeline.run import Progress, Run, digest_of
from prunetime.pipeline.settings import Settings
from prunetime.pipeline.source import Source
from prunetime.pruning.criteria import magnitudes, ranks
from prunetime.pruning.importance import load_scores
from prunetime.pruning.multilevel import Multilevel, learning_rate, mask_of
from prunetime.pruning.regularise import Microseconds
from prunetime.runtime.latency import LatencyProfile
from prunetime.search.archive import Archive
from prunetime.training.distill import Distillation
from prunetime.training.together import fit_on_every_rank

OF_ROWS = 0.75
"""Heads and rows leave this power of the share that is to be left in the end of the latency above the floor: most of it
is theirs, because at the same size they lose less than blocks do (docs/STATUS.md, "Measured")."""

EPOCHS = 2.0
"""For each step, times those of tuning."""

STEPS = {"rows": "heads and rows", "blocks": "blocks"}


@dataclass(frozen=True)
class Learning:
    """Both steps of a run."""

    run: Run
    source: Source
    settings: Settings
    latency: LatencyProfile
    grain: Grain

    @property
    def cost(self) -> Microseconds:
        return Microseconds(self.latency, self.settings.budget)

    @property
    def rows_us(self) -> float:
        """The microseconds to which heads and rows go."""
        floor_us, dense_us = self.latency.floor_and_dense(self.settings.budget)
        wanted_us = self.settings.budget.resolve(dense_us) * stages.MARGIN
        left = max(0.0, min(1.0, (wanted_us - floor_us) / (dense_us - floor_us)))
        return float(floor_us + (dense_us - floor_us) * left**OF_ROWS)

    def rows(self, dense: artifact.Artifact) -> artifact.Artifact:
        """Learns masks of heads and rows of the teacher; leaves what they keep as `rows`, and `rows.json`, the mask."""
        config, target_us = dense.manifest.config, self.rows_us

        def work(progress: Progress) -> None:
            scores = ranks(load_scores(self.run.path("importance.safetensors"), config.dims))
            step = Multilevel(config.dims, ArchSpec.full(config.dims), self.cost, target_us, scores=scores)
            model = from_weights(config, dense.weights)
            mask = self._learn(model, dense, step, Mask.full(config.dims), progress)
            self.run.write("rows.json", mask.to_json())
            self._leave("rows", dense, compact(weights_of(model), mask, config.dims), mask.spec())

        self._do("rows", "teacher", target_us, ["rows", "rows.json"], work)
        return artifact.read(self.run.path("rows"))

    def searched_rows(self, searched: Path, dense: artifact.Artifact) -> artifact.Artifact:
        """Takes as `rows` the best that the finished search in the folder `searched` has in that latency, tuned.

        Raises InputError where all that it has drops tokens, or has blocks already.
        """
        other, config = Run(searched, self.run.reporter), dense.manifest.config
        theirs, elastic = Settings.from_json(other.read("run.json")["settings"]), artifact.read(searched / "elastic")
        space, digest = theirs.space(config.dims), stages.archive_digest(other, theirs)
        with Archive(other.path("evaluations.jsonl"), digest) as archive:
            specs = [space.spec(evaluation.genome) for evaluation in archive.within(self.rows_us)]
        plain = [spec for spec in specs if not any(layer.blocks or layer.tokens < 1.0 for layer in spec.layers)]
        if not plain:
            raise InputError(
                f"the search in {searched} has nothing of heads and rows alone within {self.rows_us:.0f} us"
            )
        mask = prefix_mask(elastic.weights, plain[0], config.dims)

        def work(progress: Progress) -> None:
            from prunetime.training.trainer import discard_checkpoints

            student = from_weights(config, stages.kept_of(elastic, mask), spec=mask.spec())
            stages.distil(self.source, self.settings, dense, student, self.run.path("work/rows"), progress)
            self.run.write("rows.json", mask.to_json())
            self._leave("rows", dense, weights_of(student), mask.spec())
            discard_checkpoints(self.run.path("work/rows"))

        title = f"Tune what the search found within {self.rows_us:.0f} us"
        inputs = [digest, mask.to_json(), self._digest("teacher", self.rows_us)]
        self.run.do("learn-rows", title, inputs, ["rows", "rows.json"], work)
        return artifact.read(self.run.path("rows"))

    def blocks(self, rows: artifact.Artifact, target_us: float) -> None:
        """Learns masks of blocks of what `rows` has, distilled from it; leaves what they keep as `blocks`, the mask of
        both steps as `mask.json`, and `chosen.json`."""
        config = rows.manifest.config

        def work(progress: Progress) -> None:
            mask = Mask.from_json(self.run.read("rows.json"))
            scores = None
            if self.settings.importance == "magnitude":
                scores = ranks(magnitudes(rows.weights, mask.spec(), config.dims, self.grain))
            step = Multilevel(config.dims, mask.spec(), self.cost, target_us, self.grain, scores)
            model = from_weights(config, rows.weights, spec=mask.spec())
            mask = self._learn(model, rows, step, mask, progress)
            self.run.write("mask.json", mask.to_json())
            self._leave("blocks", rows, in_blocks(weights_of(model), mask), mask.spec())
            leave_chosen(self.run, self._digest("rows", target_us), self.cost(mask.spec()))

        self._do("blocks", "rows", target_us, ["blocks", "mask.json", "chosen.json"], work)

    def _learn(
        self, model: SequenceClassifier, teacher: artifact.Artifact, step: Multilevel, mask: Mask, progress: Progress
    ) -> Mask:
        """Trains `model` and masks of it, distilled from `teacher`; returns what is kept with what `mask` has kept."""
        from prunetime.training.trainer import discard_checkpoints

        effort, settings = self.settings.effort, self.settings
        data = self.source.training_data(effort.tune_rows, settings.seed + 2)
        training = stages.training_settings(settings, EPOCHS * effort.tune_epochs, effort.tune_learning_rate)
        training = replace(training, distillation=Distillation(attention=1.0))
        step = replace(step, learning_rate=learning_rate(training.steps(len(data))))
        folder = self.run.path(f"work/learn-{'blocks' if step.grain else 'rows'}")
        manifest = teacher.manifest
        teacher_model = from_weights(manifest.config, teacher.weights, spec=manifest.spec)
        kept = fit_on_every_rank(model, data, training, folder, teacher_model, progress, multilevel=step)
        assert kept is not None
        discard_checkpoints(folder)
        return mask_of(step, kept, mask)

    def _leave(self, name: str, teacher: artifact.Artifact, weights: artifact.Weights, spec: ArchSpec) -> None:
        model = from_weights(teacher.manifest.config, weights, spec=spec)
        provenance = {"role": name, "model": self.settings.model}
        manifest = stages.manifest_of(self.source, model, teacher.manifest.plan, provenance)
        stages.write_artifact(self.run.path(name), self.source, manifest, weights)

    def _do(self, name: str, teacher: str, target_us: float, outputs: list[str], work: Any) -> None:
        title = f"Learn which {STEPS[name]} to keep, down to {target_us:.0f} us"
        self.run.do(f"learn-{name}", title, self._digest(teacher, target_us), outputs, work)

    def _digest(self, teacher: str, target_us: float) -> str:
        manifest = self.run.path(f"{teacher}/manifest.json").read_text()
        return digest_of([manifest, target_us, self.grain, asdict(self.settings.effort), self.settings.seed])
