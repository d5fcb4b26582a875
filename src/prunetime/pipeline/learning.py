"""The stages that learn masks in place of searching: of one level, or of heads and rows and then of blocks of what
these leave (MLPruning, arXiv 2105.14636)."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

from prunetime.core import artifact
from prunetime.core.arch import ArchSpec
from prunetime.core.mask import Mask, Scores
from prunetime.errors import BudgetError
from prunetime.latency.predictor import LatencyProfile
from prunetime.models.compact import compact, in_blocks, prefix_mask
from prunetime.models.distill import Distillation
from prunetime.models.encoder import SequenceClassifier, from_weights, weights_of
from prunetime.pipeline import stages
from prunetime.pipeline.choosing import leave_chosen
from prunetime.pipeline.run import Progress, Run, digest_of
from prunetime.pipeline.settings import Settings
from prunetime.pipeline.source import Source
from prunetime.pruning.block_importance import measure_block_importance
from prunetime.pruning.criteria import ranks
from prunetime.pruning.importance import load_scores
from prunetime.pruning.masks import Learned, MaskStep, mask_of
from prunetime.pruning.methods import LEARNED, LearnedMethod, Level
from prunetime.pruning.pruners import learning_rate
from prunetime.pruning.regularise import Microseconds
from prunetime.search.archive import Archive
from prunetime.training.together import fit_on_every_rank

OF_ROWS = 0.75
"""Of two levels, heads and rows leave this power of the share that is to be left in the end of the latency above the
floor: most of it is theirs, because at the same size they lose less than blocks do (docs/STATUS.md, "Measured")."""

EPOCHS = 2.0
"""For each level, times those of tuning."""

OF = {"rows": "heads and rows", "blocks": "blocks"}


@dataclass(frozen=True)
class Left:
    """What learning a level leaves in the run folder."""

    artifact: str
    mask: str
    ratios: str


ROWS, LAST = Left("rows", "rows.json", "rows-ratios.json"), Left("learned", "mask.json", "learned-ratios.json")


@dataclass(frozen=True)
class Start:
    """What a level begins with: the artifact called `name`, which is what `mask` keeps of the teacher."""

    name: str
    model: artifact.Artifact
    mask: Mask


@dataclass(frozen=True)
class Learning:
    """All levels of a run."""

    run: Run
    source: Source
    settings: Settings
    latency: LatencyProfile

    @property
    def method(self) -> LearnedMethod:
        return LEARNED[self.settings.method]

    @property
    def cost(self) -> Microseconds:
        return Microseconds(self.latency, self.settings.budget)

    @property
    def rows_us(self) -> float:
        """The microseconds to which heads and rows go where blocks follow."""
        floor_us, dense_us = self.latency.floor_and_dense(self.settings.budget)
        wanted_us = self.settings.budget.resolve(dense_us) * stages.MARGIN
        left = max(0.0, min(1.0, (wanted_us - floor_us) / (dense_us - floor_us)))
        return float(floor_us + (dense_us - floor_us) * left**OF_ROWS)

    def rows(self, dense: artifact.Artifact) -> artifact.Artifact:
        """Learns masks of heads and rows of the teacher; leaves what they keep as `rows`, and `rows.json`, the mask."""
        self._learn("rows", Start("teacher", dense, Mask.full(dense.manifest.config.dims)), self.rows_us, ROWS)
        return artifact.read(self.run.path("rows"))

    def searched_rows(self, searched: Path, dense: artifact.Artifact) -> artifact.Artifact:
        """Takes as `rows` the best that the finished search in the folder `searched` has in that latency, tuned.

        Raises BudgetError where all that it has drops tokens, or has blocks already.
        """
        other, config = Run(searched, self.run.reporter), dense.manifest.config
        theirs, elastic = Settings.from_json(other.read("run.json")["settings"]), artifact.read(searched / "elastic")
        space, digest = theirs.space(config.dims), stages.archive_digest(other, theirs)
        with Archive(other.path("evaluations.jsonl"), digest) as archive:
            specs = [space.spec(evaluation.genome) for evaluation in archive.within(self.rows_us)]
        plain = [spec for spec in specs if not any(layer.blocks or layer.tokens < 1.0 for layer in spec.layers)]
        if not plain:
            raise BudgetError(
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

    def last(self, dense: artifact.Artifact, rows: artifact.Artifact | None, target_us: float) -> None:
        """Learns masks of the last level, of the teacher or of what heads and `rows` left of it; leaves what they keep
        as `learned`, the mask of all levels as `mask.json`, and `chosen.json`."""
        start = Start("teacher", dense, Mask.full(dense.manifest.config.dims))
        if rows:
            start = Start("rows", rows, Mask.from_json(self.run.read("rows.json")))
        self._learn(self.method.levels[-1], start, target_us, LAST)
        predicted_us = self.cost(Mask.from_json(self.run.read("mask.json")).spec())
        leave_chosen(self.run, self._digest(start.name, target_us), predicted_us)

    def _learn(self, level: Level, start: Start, target_us: float, left: Left) -> None:
        """Learns masks of one level of `start`, distilled from it."""
        config = start.model.manifest.config

        def work(progress: Progress) -> None:
            model = from_weights(config, start.model.weights, spec=start.mask.spec())
            scores = ranks(self._first_scores(level, model))
            block_shape, pruner = self.settings.block_shape if level == "blocks" else None, self.method.pruner
            step = MaskStep(config.dims, start.mask.spec(), self.cost, target_us, block_shape, scores, pruner=pruner)
            learned = self._train(model, start, step, progress)
            mask = mask_of(step, learned.kept, start.mask)
            weights = weights_of(model)
            kept = in_blocks(weights, mask) if block_shape else compact(weights, mask, config.dims)
            self.run.write(left.mask, mask.to_json())
            names = [f"{layer} {name.replace('_', ' ')}" for layer, own in enumerate(learned.kept) for name in own]
            ratios = learned.ratios.astype(float).round(4).tolist()
            self.run.write(left.ratios, {"of": OF[level], "target_us": target_us, "masks": names, "ratios": ratios})
            self._leave(left.artifact, start.model, kept, mask.spec())

        title = f"Learn which {OF[level]} to keep, down to {target_us:.0f} us"
        self.run.do(f"learn-{level}", title, self._digest(start.name, target_us), [*astuple(left)], work)

    def _first_scores(self, level: Level, model: SequenceClassifier) -> Scores:
        settings = self.settings
        if level == "rows":
            return load_scores(self.run.path("importance.safetensors"), model.config.dims)
        assert settings.block_shape is not None
        rows = settings.effort.importance_rows
        data = self.source.training_data(rows, settings.seed)
        return measure_block_importance(
            model, data, settings.block_shape, settings.importance, rows, settings.seed, threads=stages.THREADS
        )

    def _train(self, model: SequenceClassifier, start: Start, step: MaskStep, progress: Progress) -> Learned:
        from prunetime.training.trainer import discard_checkpoints

        effort, settings = self.settings.effort, self.settings
        data = self.source.training_data(effort.tune_rows, settings.seed + 2)
        training = stages.training_settings(settings, EPOCHS * effort.tune_epochs, effort.tune_learning_rate)
        training = replace(training, distillation=Distillation(attention=1.0))
        step = replace(step, learning_rate=learning_rate(training.steps(len(data)), step.pruner))
        folder = self.run.path(f"work/learn-{'blocks' if step.block_shape else 'rows'}")
        manifest = start.model.manifest
        teacher = from_weights(manifest.config, start.model.weights, spec=manifest.spec)
        learned = fit_on_every_rank(model, data, training, folder, teacher, progress, mask_step=step)
        assert learned is not None
        discard_checkpoints(folder)
        return learned

    def _leave(self, name: str, teacher: artifact.Artifact, weights: artifact.Weights, spec: ArchSpec) -> None:
        model = from_weights(teacher.manifest.config, weights, spec=spec)
        provenance = {"role": name, "model": self.settings.model}
        manifest = stages.manifest_of(self.source, model, teacher.manifest.plan, provenance)
        stages.write_artifact(self.run.path(name), self.source, manifest, weights)

    def _digest(self, start: str, target_us: float) -> str:
        manifest = self.run.path(f"{start}/manifest.json").read_text()
        return digest_of(
            [manifest, target_us, self.settings.block_shape, asdict(self.settings.effort), self.settings.seed]
        )
