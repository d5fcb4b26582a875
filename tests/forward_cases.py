"""Random encoders and batches with a precision for every matrix, and what float64 says of their forward pass."""

import itertools
import math
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import pytest
from cases import any_family, random_config, random_head, random_ragged, random_spec, random_weights
from hypothesis import strategies as st
from reference import Arithmetic, Weights, exactly, reference_logits
from rounding import NARROW_EXP_ERROR, U, gamma, to_bf16, to_int8_rows, to_int8_weights

from prunetime._engine import testing
from prunetime.core.arch import ArchSpec, LayerSpec
from prunetime.core.config import EncoderConfig
from prunetime.core.precision import MatrixPlan, Precision, PrecisionPlan
from prunetime.inference.engine import Engine, supported_isas
from prunetime.inference.ragged import Ragged

ISAS = [*supported_isas(), *testing.emulated_isas()]
isas = pytest.mark.parametrize("isa", ISAS)
seeds = st.integers(0, 2**32 - 1)

ODD = {"hidden": 48, "heads": 3, "head_dim": 24, "ffn": 40, "positions": 70}
"""Sizes that are no multiple of anything; heads x head_dim is not hidden."""


PRECISIONS = get_args(Precision)
FLOAT32 = PrecisionPlan()
OF_TOKENS = ("tokens", "token_embeddings")
EMBEDDINGS = ("embedding", "token_embeddings")
HEAD_ROWS = st.sampled_from(["pooled", "embedding", *OF_TOKENS])


@dataclass(frozen=True, repr=False)
class Case:
    """A random encoder and batch, and how it is run."""

    config: EncoderConfig
    spec: ArchSpec
    weights: Weights
    ragged: Ragged
    plan: PrecisionPlan = FLOAT32

    def __repr__(self) -> str:
        return f"Case({self.config}, {self.spec}, lengths {self.ragged.lengths.tolist()}, {self.plan})"

    def engine(self, threads: int = 1, isa: str | None = None) -> Engine:
        return Engine(self.config, self.weights, threads, isa, spec=self.spec, plan=self.plan)


def random_plan(config, rng):
    """Any precision for any matrix."""
    groups = (("query", "key", "value"), ("attention_output",), ("ffn_input",), ("ffn_output",))
    exceptions = []
    for layer, matrices in itertools.product(range(config.dims.layers), groups):
        plan = MatrixPlan(str(rng.choice(PRECISIONS)), sparse=bool(rng.integers(2)))
        exceptions += [(layer, matrix, plan) for matrix in matrices]
    return PrecisionPlan(MatrixPlan(str(rng.choice(PRECISIONS))), tuple(exceptions))


@st.composite
def cases(draw, longest=64, head_rows=HEAD_ROWS):
    """Uneven encoders: no heads, no FFN, pruned output rows, any sizes, blocks, dropped tokens, any precision."""
    rng = np.random.default_rng(draw(seeds))
    config = random_config(rng, **any_family(rng), **(ODD if draw(st.booleans()) else {}))
    rows = draw(head_rows)
    outputs = config.dims.hidden if rows in EMBEDDINGS else config.outputs
    head = random_head(rng) if rows not in OF_TOKENS and draw(st.booleans()) else None
    config = replace(
        config,
        rows=rows,
        outputs=head[-1].width if head else outputs,
        separator=draw(st.sampled_from([None, 3])),
        head=head,
        normalize=rows == "embedding" and draw(st.booleans()),
    )
    can_drop = config.drops_tokens
    tokens = can_drop and draw(st.booleans())
    if draw(st.booleans()):
        spec = random_spec(config, rng, blocks=draw(st.booleans()), tokens=tokens)
    else:
        dims = config.dims
        counts = st.tuples(*(st.integers(0, top) for top in (dims.heads, dims.hidden, dims.ffn, dims.hidden)))
        spec = ArchSpec(tuple(LayerSpec(*draw(counts)) for _ in range(dims.layers)))
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=9))
    plan = draw(
        st.sampled_from(
            [PrecisionPlan(), *(PrecisionPlan(MatrixPlan(p)) for p in PRECISIONS), random_plan(config, rng)]
        )
    )
    ragged = random_ragged(config, rng, lengths)
    if rows not in OF_TOKENS and not any(layer.tokens < 1.0 for layer in spec.layers) and draw(st.booleans()):
        ragged = replace(ragged, skipped=rng.integers(0, 6, len(lengths)).astype(np.int32))
    return Case(config, spec, random_weights(config, spec, rng), ragged, plan)


def as_planned(config, plan, noise=0.0, seed=0, scales=None):
    """x w^T as the plan rounds it, its operands moved at random by a relative `noise` before they are rounded.

    `scales` of int8 weights, by matrix, are those of the rows of `w` where they are not given.
    """
    rng = np.random.default_rng(seed)
    last = next((name for name, layer in reversed(config.head_layers) if layer.kind == "dense"), None)

    def multiply(name, x, w):
        part, _, matrix = name.rpartition(".")
        if part.startswith("layers."):
            precision = plan.of(int(part.split(".")[1]), matrix).precision
        else:  # layers of the head are never as coarse as int8, and the last one is always float32
            precision = "fp32" if name in (last, "embeddings.project") or plan.default.precision == "fp32" else "bf16"
        x = x * (1 + noise * rng.standard_normal(x.shape))
        if precision == "fp32":
            return x @ (w * (1 + noise * rng.standard_normal(w.shape))).T
        if noise and matrix == "ffn_output":  # what GELU may be off by where its results are rounded next
            x = x + 0.5 * np.maximum(2e-6, 2.0**-9 * np.abs(x)) * rng.standard_normal(x.shape)
        if precision == "bf16":
            return to_bf16(x) @ to_bf16(w).T
        scale = None if scales is None else scales[f"{name}.weight"][: len(w)]
        return to_int8_rows(x) @ to_int8_weights(w.astype(np.float32), scale).T

    return multiply


def attend_in_bf16(plan, noise=0.0, seed=0):
    """Attention as a table with products of bf16 computes it where query, key and value are not float32.

    Exponentials, of relative error `NARROW_EXP_ERROR`, are rounded where they are multiplied by values, not in their
    sum.
    """
    rng = np.random.default_rng(seed)

    def attend(layer, q, k, v, bias):
        if plan.of(int(layer.split(".")[1]), "query").precision == "fp32":
            return exactly.attend(layer, q, k, v, bias)
        q, k, v = (to_bf16(x * (1 + noise * rng.standard_normal(x.shape))) for x in (q, k, v))
        scores = q @ k.T / math.sqrt(q.shape[1]) + bias
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        if noise:
            weights *= 1 + NARROW_EXP_ERROR * rng.standard_normal(weights.shape)
        total, rounded = weights.sum(axis=1, keepdims=True), to_bf16(weights)
        return rounded @ v / total, (rounded / total).sum(axis=0)

    return attend


def expected(case: Case, kept=None, scales=None, attention="fp32"):
    """Logits in float64, rounded where the plan rounds, and how far a correct engine may be from them.

    Rounding in a matrix product of inner size k is the same as having moved each weight by a relative gamma(k) at most
    (backward error), and, the roundings being of either sign, by about u sqrt(k) (Higham and Mary, A new approach to
    probabilistic rounding error analysis, 2019). The functions between the products (softmax, GELU within 2e-6,
    LayerNorm) are as accurate. So: measure how much logits move when the operands of every product move at random by
    ten times that. This covers what lies on the edge between two bf16 or two bytes, too: it falls to the other side
    ten times as often as in the engine. Twice that, for what a dozen draws do not show.
    """
    w, spec = case.weights, case.spec

    def logits(noise, seed):
        multiply = as_planned(case.config, case.plan, noise, seed, scales)
        attend = attend_in_bf16(case.plan, noise, seed) if attention == "bf16" else exactly.attend
        return reference_logits(case.config, w, case.ragged, spec, kept, Arithmetic(multiply, attend))

    exact = logits(0.0, 0)
    widest = max(array.shape[-1] for array in w.values() if array.ndim >= 2)
    noise = 10 * math.sqrt(max(widest, case.config.dims.ffn)) * U
    moved = max(np.abs(logits(noise, seed) - exact).max(initial=0.0) for seed in range(12))
    bound = 2 * moved + 1e-9
    ends_in_norm = case.config.head and case.config.head[-1].kind == "norm"
    if case.config.rows in EMBEDDINGS or ends_in_norm:  # no product follows the last LayerNorm, which sums so many
        summed = max(case.config.dims.hidden, case.config.outputs)
        bound += gamma(summed) * np.abs(exact).max(initial=0.0)
    return exact, np.full(exact.shape, bound)


def kept_by_sequence(case: Case, engine: Engine):
    """As `Reference.kept`: of the tokens that come into a layer, those that the engine keeps."""
    _, left = engine.kept(case.ragged)
    last = max((i for i, layer in enumerate(case.spec.layers) if layer.has_attention), default=-1)
    pooled_from = last if case.config.reads_one_token else case.config.dims.layers
    before = np.ones(left.shape[1], bool)
    kept = []
    for layer, now in enumerate(left):
        spans = itertools.pairwise(case.ragged.offsets)
        if layer >= pooled_from:  # one token of each sequence is computed from here on, and only it matters
            now = before
        kept.append([np.flatnonzero(now[start:end][before[start:end]]) for start, end in spans])
        before = now
    return kept
