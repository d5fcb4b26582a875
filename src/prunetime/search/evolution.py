"""Reinforced evolution inside a latency budget, with the uniform and depth-only baselines beside it.

Ageing evolution (Real et al., "Regularized Evolution for Image Classifier Architecture Search", arXiv 1802.01548) whose
mutator may learn (SwiftPruner, arXiv 2209.00625). A search is a fold of `propose` and `update` over a `SearchState`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from prunetime.core.arch import ArchSpec
from prunetime.core.progress import Progress
from prunetime.errors import BudgetError, InputError, PrunetimeError
from prunetime.search.archive import Archive, Evaluation, ProposalKind, elites, preference
from prunetime.search.evaluate import Scorer
from prunetime.search.mutate import Child, Mutator, UniformMutator
from prunetime.search.policy import Transition
from prunetime.search.space import Genome, Space, fit_to
from prunetime.search.surrogate import Surrogate

Predict = Callable[[ArchSpec], float]
"""Predicts the latency of a spec, in microseconds."""

BASELINE_CHOICES = 20
"""At most this many depth-only choices are scored (all of them up to 6 layers)."""

SEEDED = 0.25
"""Share of the initial population taken from the best baselines."""

FITS_PER_SEED = 4
"""A seed that is over the budget, or well below it, is shrunk or grown at random so often."""

OTHER_BUDGET_BINS = np.linspace(0.5, 1.1, 7)
"""Edges of the latency bins of children for other budgets, in searched budgets."""

ATTEMPTS = 50
"""Rounds of proposals that may be infeasible or already scored before a generation is taken as it is."""


@dataclass(frozen=True)
class SearchSettings:
    """The settings of a search for the best genome within `budget_us`, the predicted latency in microseconds.

    `evaluations` counts distinct genomes, baselines included. The parent is the best of `tournament` members of the
    population, crossed with the best of another tournament for a `crossover` share of the children. A generation has
    `batch` children: those of `screened` times as many proposals with the highest predicted scores. A share of them,
    `elsewhere`, is aimed at other budgets, so that the archive can answer those too. `latency_weight` is w of `Reward`.
    `seeds` are in the first population, in some ways fitted to the budget.
    """

    budget_us: float
    evaluations: int
    population: int = 32
    tournament: int = 6
    batch: int = 8
    crossover: float = 0.2
    screened: int = 12
    elsewhere: float = 0.4
    latency_weight: float = 0.0
    seed: int = 0
    seeds: tuple[Genome, ...] = ()

    def __post_init__(self) -> None:
        if not self.budget_us > 0:
            raise InputError(f"budget is {self.budget_us} us; it must be above 0")
        if min(self.evaluations, self.batch, self.screened) < 1 or not 1 <= self.tournament <= self.population:
            raise InputError(
                f"search of {self.evaluations} evaluations, {self.batch} at a time of {self.screened} times as many, "
                f"tournament {self.tournament} of {self.population} members: at least 1, and up to all members"
            )
        for name in ("crossover", "elsewhere"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name} is {getattr(self, name)}; it is a share of the children, from 0 to 1")


@dataclass(frozen=True)
class Reward:
    """Latency-aware: (score - base) / scale + w log(budget / latency), and minus infinity outside the budget.

    The logarithm of SwiftPruner's quality x (budget / latency)^w, with exp of the standardised score as the quality: so
    that metrics of any sign and offset work. `base` and `scale` are of the baselines and the initial population.
    """

    base: float
    scale: float
    weight: float = 0.0

    def __call__(self, evaluation: Evaluation, budget_us: float) -> float:
        if evaluation.predicted_us > budget_us:
            return -math.inf
        standard = (evaluation.score - self.base) / self.scale
        return standard + self.weight * math.log(budget_us / evaluation.predicted_us)


@dataclass(frozen=True)
class Proposal:
    """A child, and the `parent` that it is to be better than; `predicted_score` is the surrogate's."""

    child: Child
    parent: Evaluation
    target_us: float
    predicted_score: float = math.nan


@dataclass(frozen=True)
class Generation:
    """The proposals to score, and those for the searched budget that are not scored, but have predicted scores."""

    chosen: tuple[Proposal, ...]
    passed_over: tuple[Proposal, ...] = ()


@dataclass(frozen=True)
class SearchState:
    """The state of a search between two generations: its `population`, the oldest first, and all genomes `visited`."""

    levels: Genome
    mutator: Mutator
    reward: Reward
    population: tuple[Evaluation, ...]
    visited: Mapping[Genome, Evaluation]
    generations: int = 0


def propose(
    state: SearchState,
    settings: SearchSettings,
    rng: np.random.Generator,
    *,
    surrogate: Surrogate | None = None,
    attempts: int = ATTEMPTS,
) -> Generation:
    """Returns the next generation: distinct children not visited yet; fewer than a batch where no more are found.

    `surrogate` screens them; by default one is fitted to all that is visited. At most `attempts` rounds are made.
    """
    if surrogate is None and settings.screened > 1:
        surrogate = Surrogate.fit(state.levels, list(state.visited.values()))
    elsewhere = int(rng.binomial(settings.batch, settings.elsewhere))
    chosen: dict[Genome, Proposal] = {}
    passed_over: list[Proposal] = []
    for count, parents in ((settings.batch - elsewhere, winners), (elsewhere, _of_other_budgets)):
        found = _proposals(state, settings, parents, settings.screened * count, attempts, rng)
        if surrogate and found:
            scores = surrogate.predict([p.child.genome for p in found])
            found = [replace(p, predicted_score=float(score)) for p, score in zip(found, scores, strict=True)]
            found.sort(key=lambda p: p.predicted_score - (0.0 if parents is winners else p.parent.score), reverse=True)
        chosen |= {p.child.genome: p for p in found[:count]}
        if parents is winners:
            passed_over = found[count:]
    return Generation(tuple(chosen.values()), tuple(passed_over))


def update(
    state: SearchState, settings: SearchSettings, generation: Generation, scored: Sequence[Evaluation]
) -> SearchState:
    """Returns the state after proposals were `scored`: each child of the searched budget replaces the oldest member."""

    def gain(proposal: Proposal, score: float) -> float:
        child = replace(proposal.parent, predicted_us=proposal.child.predicted_us, score=score)
        return state.reward(child, proposal.target_us) - state.reward(proposal.parent, proposal.target_us)

    # The last generation of a search is scored only as far as evaluations are left.
    here = [(p, e) for p, e in zip(generation.chosen, scored, strict=False) if p.target_us == settings.budget_us]
    transitions = [Transition(p.child.edits, gain(p, e.score), True) for p, e in here]
    transitions += [Transition(p.child.edits, gain(p, p.predicted_score), False) for p in generation.passed_over]
    transitions = [each for each in transitions if math.isfinite(each.gain)]  # parent and child inside the budget
    return replace(
        state,
        mutator=state.mutator.updated(transitions) if transitions else state.mutator,
        population=(*state.population, *(e for _, e in here))[-settings.population :],
        visited={**state.visited, **{e.genome: e for e in scored}},
        generations=state.generations + 1,
    )


Parents = Callable[[SearchState, SearchSettings, int, np.random.Generator], list[tuple[Evaluation, Genome, float]]]
"""Chooses for so many children a parent, the genome to mutate (its own, or a cross with another's), and a target."""


def _proposals(
    state: SearchState, settings: SearchSettings, parents: Parents, count: int, attempts: int, rng: np.random.Generator
) -> list[Proposal]:
    found: dict[Genome, Proposal] = {}
    for _ in range(attempts):
        if len(found) == count:
            break
        chosen = parents(state, settings, count - len(found), rng)
        targets = [target_us for _, _, target_us in chosen]
        children = state.mutator.propose([genome for _, genome, _ in chosen], targets, rng)
        for (parent, _, target_us), child in zip(chosen, children, strict=True):
            if child.predicted_us <= target_us and child.genome not in state.visited:
                found.setdefault(child.genome, Proposal(child, parent, target_us))
    return list(found.values())


def winners(
    state: SearchState, settings: SearchSettings, count: int, rng: np.random.Generator
) -> list[tuple[Evaluation, Genome, float]]:
    """Returns winners of tournaments, a share of them crossed with another winner, gene by gene."""
    size = min(settings.tournament, len(state.population))

    def winner() -> Evaluation:
        members = (state.population[i] for i in rng.choice(len(state.population), size=size, replace=False))
        best: Evaluation = max(members, key=lambda e: (state.reward(e, settings.budget_us), e.genome))
        return best

    found = []
    for _ in range(count):
        parent = winner()
        genome = parent.genome
        if rng.random() < settings.crossover:
            other, taken = winner().genome, rng.random(len(genome)) < 0.5
            genome = tuple(b if take else a for a, b, take in zip(genome, other, taken, strict=True))
        found.append((parent, genome, settings.budget_us))
    return found


def _of_other_budgets(
    state: SearchState, settings: SearchSettings, count: int, rng: np.random.Generator
) -> list[tuple[Evaluation, Genome, float]]:
    """Returns the elite whose latency is nearest to a random target from `OTHER_BUDGET_BINS`."""
    edges = (OTHER_BUDGET_BINS * settings.budget_us).tolist()
    bins = elites(state.visited.values(), edges) or list(state.population)
    targets = rng.uniform(edges[0], edges[-1], count).tolist()
    nearest = [min(bins, key=lambda e: abs(e.predicted_us - target)) for target in targets]
    return [(parent, parent.genome, target) for parent, target in zip(nearest, targets, strict=True)]


def search(
    space: Space,
    predict: Predict,
    scorer: Scorer,
    archive: Archive,
    settings: SearchSettings,
    *,
    mutator: Mutator | None = None,
    on_progress: Progress | None = None,
    on_generation: Callable[[SearchState], None] | None = None,
) -> Evaluation:
    """Returns the best evaluation in the archive inside the budget, after `settings.evaluations` distinct genomes.

    A function of its arguments: what the archive holds already is not scored again, so a killed search that is run
    again with the same arguments ends in the same archive as an uninterrupted one. `mutator` is uniform by default;
    `on_progress` gets (done, of), `on_generation` the state after each generation.

    Raises BudgetError where not even the floor is inside the budget.
    """
    floor = predict(ArchSpec.floor(space.dims))
    if floor > settings.budget_us:
        raise BudgetError(
            f"the budget of {settings.budget_us:.0f} us is below the floor: with every layer gone the model is "
            f"predicted to take {floor:.0f} us; give a larger budget"
        )
    run = _SearchRun(space, predict, scorer, archive, settings, on_progress)
    state = _initial(run, mutator or UniformMutator(space.levels, run.latency))
    while run.left > 0:
        generation = propose(state, settings, np.random.default_rng([settings.seed, 1, state.generations]))
        if not generation.chosen:
            break
        number = state.generations + 1
        candidates = [run.candidate(p.child.genome, "evolution", number, p.parent.genome) for p in generation.chosen]
        state = update(state, settings, generation, run.score(candidates))
        if on_generation:
            on_generation(state)
    best = archive.best_within(settings.budget_us)
    assert best is not None  # the uniform baselines include the floor where nothing else fits
    return best


def score_into(
    archive: Archive, space: Space, candidates: Sequence[Evaluation], scorer: Scorer, on_progress: Progress
) -> None:
    """Adds those of `candidates` that are not in the archive, each as soon as it is scored."""
    missing = [c for c in candidates if c.genome not in archive]
    scores = scorer([space.spec(c.genome) for c in missing])
    for done, (candidate, score) in enumerate(zip(missing, scores, strict=True), len(candidates) - len(missing) + 1):
        if not math.isfinite(score):
            raise PrunetimeError(f"the score of {candidate.genome} is {score}; a score must be a finite number")
        archive.add(replace(candidate, score=float(score)))
        on_progress(done, len(candidates))


def rescore(space: Space, evaluations: Sequence[Evaluation], scorer: Scorer) -> list[Evaluation]:
    """Returns `evaluations` with scores by `scorer`, best first.

    The winner of a search on few rows is partly a winner by luck; finalists scored again on more rows are less so
    (the last round of successive halving, arXiv 1502.07943).
    """
    scores = scorer([space.spec(e.genome) for e in evaluations])
    return sorted((replace(e, score=s) for e, s in zip(evaluations, scores, strict=True)), key=preference)


def uniform_baselines(space: Space, predict: Predict, budget_us: float) -> list[Genome]:
    """Uniform genomes inside the budget for which no larger uniform genome is inside it as well."""
    feasible = [g for g in space.uniform() if predict(space.spec(g)) <= budget_us]
    largest: list[Genome] = []
    for genome in reversed(feasible):  # by falling heads: a larger genome comes first
        if not any(other[0] >= genome[0] and other[1] >= genome[1] for other in largest):
            largest.append(genome)
    return largest


def depth_baselines(space: Space, predict: Predict, budget_us: float) -> list[Genome]:
    """Depth-only genomes inside the budget that keep as many layers as fit it."""
    for kept in range(space.dims.layers, 0, -1):
        choices = space.depth(kept, BASELINE_CHOICES)
        feasible = [g for g in choices if predict(space.spec(g)) <= budget_us]
        if feasible:
            return feasible
    return []


def _initial(run: _SearchRun, mutator: Mutator) -> SearchState:
    """Scores the baselines, then fills a population with the best of them and random genomes that use the budget."""
    space, settings = run.space, run.settings
    uniform = uniform_baselines(space, run.predict, settings.budget_us)
    depth = depth_baselines(space, run.predict, settings.budget_us)
    base = max((e.score for e in run.score([run.candidate(g, kind="uniform") for g in uniform])), default=0.0)
    run.score([run.candidate(g, kind="depth") for g in depth])
    population = sorted(run.visited.values(), key=preference)[: int(SEEDED * settings.population)]
    rng = np.random.default_rng([settings.seed, 2])
    seeds = (seed for seed in settings.seeds for _ in range(FITS_PER_SEED))
    fits = [fit_to(space.levels, run.latency, seed, settings.budget_us, rng) for seed in seeds]
    population += run.score([run.candidate(genome) for genome in dict.fromkeys(fit[0] for fit in fits if fit)])
    rng = np.random.default_rng([settings.seed, 0])
    fresh: dict[Genome, Evaluation] = {}
    for _ in range(ATTEMPTS * settings.population):
        if len(population) + len(fresh) >= settings.population:
            break
        fitted = fit_to(space.levels, run.latency, space.random(rng), settings.budget_us, rng)
        if fitted and fitted[0] not in run.visited:
            fresh[fitted[0]] = run.candidate(fitted[0])
    population += run.score(fresh.values())
    deviation = float(np.std([e.score for e in population])) if population else 0.0
    return SearchState(
        space.levels,
        mutator,
        Reward(base, deviation or 1.0, settings.latency_weight),
        tuple(population),
        dict(run.visited),
    )


@dataclass
class _SearchRun:
    """One search and the genomes that it has `visited`; in a replay the archive also has genomes that it has yet to."""

    space: Space
    predict: Predict
    scorer: Scorer
    archive: Archive
    settings: SearchSettings
    on_progress: Progress | None
    visited: dict[Genome, Evaluation] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return self.settings.evaluations - len(self.visited)

    def latency(self, genome: Genome) -> float:
        """Predicted microseconds."""
        return self.predict(self.space.spec(genome))

    def candidate(
        self, genome: Genome, kind: ProposalKind = "evolution", generation: int = 0, parent: Genome | None = None
    ) -> Evaluation:
        """Returns an evaluation whose score is not known yet."""
        return Evaluation(genome, self.latency(genome), math.nan, kind, generation, parent)

    def score(self, candidates: Iterable[Evaluation]) -> list[Evaluation]:
        """Scores the candidates not visited yet, as many as are left to evaluate, by the archive or the scorer."""
        chosen = [c for c in candidates if c.genome not in self.visited][: self.left]
        before = self.settings.evaluations - self.left

        def progress(done: int, _: int) -> None:
            if self.on_progress:
                self.on_progress(before + done, self.settings.evaluations)

        score_into(self.archive, self.space, chosen, self.scorer, progress)
        scored = [self.archive[c.genome] for c in chosen]
        self.visited.update((e.genome, e) for e in scored)
        return scored
