"""What an encoder of the BERT family is besides its counts: the closed set of differences between families."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from prunetime.arch import ArchSpec, Dims, strict_keys
from prunetime.errors import InputError


@dataclass(frozen=True)
class Family:
    """How one family of encoders differs from BERT, as far as the forward pass can tell.

    `position_offset` is the position id of a sequence's first token: one after that of padding, where padding has one.
    `head_activation` follows the dense layer on the first token's row, before the output layer. With
    `relative_positions` every head adds to its scores what it has learned of the distance, with `rotary` there is no
    table of positions and they turn queries and keys instead (`prunetime.positions`). With `pre_norm` LayerNorm comes
    before every sub-layer but the first, and once more before the head, not after the residual. With `gated` the FFN
    has a gate (see `Dims`). With `head_norm` every head has a dense layer, and LayerNorm after it.
    """

    name: str
    position_offset: int = 0
    token_types: bool = True
    head_activation: str = "tanh"
    relative_positions: bool = False
    rotary: bool = False
    pre_norm: bool = False
    gated: bool = False
    head_norm: bool = False


FAMILIES = {
    family.name: family
    for family in (
        Family("bert"),
        Family("roberta", position_offset=2),
        Family("xlm-roberta", position_offset=2),
        Family("camembert", position_offset=2),
        Family("distilbert", token_types=False, head_activation="relu"),
        Family("electra", head_activation="gelu"),
        Family("mpnet", position_offset=2, token_types=False, relative_positions=True),
        Family(
            "modernbert",
            token_types=False,
            head_activation="gelu",
            rotary=True,
            pre_norm=True,
            gated=True,
            head_norm=True,
        ),
    )
}

Rows = Literal["pooled", "tokens", "embedding"]
Pooling = Literal["first", "mean"]


@dataclass(frozen=True)
class Rotary:
    """How a layer of a family with rotary positions sees them: `theta` is the base of its angles, and tokens further
    away than `window` are not attended to (None: all are)."""

    theta: float
    window: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.theta, float) and 1.0 < self.theta < math.inf):
            raise InputError(f"rotary theta is {self.theta!r}; it must be a number above 1")
        if self.window is not None and (type(self.window) is not int or self.window < 1):
            raise InputError(f"rotary window is {self.window!r}; it must be a whole number of at least 1, or none")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rotary:
        return cls(**strict_keys(cls, data))


@dataclass(frozen=True)
class EncoderConfig:
    """Everything the forward pass needs besides the spec and the weights.

    `embedding` is the width of the embedding tables; where it is not `dims.hidden`, a matrix projects it there, as in
    ELECTRA. `outputs` is the number of logits of the head. `rows` says what the head reads: `pooled`, the first
    token's row or (`pooling`) the mean of all, through a dense layer (one row of logits per sequence), or `tokens`,
    every token's (one row of logits per token, and mostly no dense layer). With `embedding` there is no head: the
    pooled row itself is what comes out, `outputs` its width. Where tokens are dropped, those with the id `separator`
    stay before others do. `rotary` has an entry per layer in a family with such positions.
    """

    family: str
    dims: Dims
    embedding: int
    token_types: int
    layer_norm_eps: float
    outputs: int
    separator: int | None = None
    rows: Rows = "pooled"
    pooling: Pooling = "first"
    rotary: tuple[Rotary, ...] = ()

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise InputError(f"family {self.family!r} is not supported; supported: {', '.join(FAMILIES)}")
        if self.outputs < 1:
            raise InputError(f"outputs is {self.outputs}: a head has at least one logit")
        if self.rows == "embedding" and self.outputs != self.dims.hidden:
            raise InputError(f"outputs is {self.outputs}; an embedding is as wide as hidden, {self.dims.hidden}")
        if not 0.0 < self.layer_norm_eps < 1.0:
            raise InputError(f"layer_norm_eps is {self.layer_norm_eps}: it must be above 0 and below 1")
        if self.token_types < 1 or self.embedding < 1:
            raise InputError(f"token_types {self.token_types} and embedding {self.embedding} must be at least 1")
        if self.rows not in get_args(Rows):
            raise InputError(f"rows is {self.rows!r}; use one of {', '.join(get_args(Rows))}")
        if self.pooling not in get_args(Pooling):
            raise InputError(f"pooling is {self.pooling!r}; use one of {', '.join(get_args(Pooling))}")
        family = FAMILIES[self.family]
        if len(self.rotary) != (self.dims.layers if family.rotary else 0):
            raise InputError(f"rotary has {len(self.rotary)} layers; {self.family} of {self.dims.layers} layers")
        if family.rotary and self.dims.head_dim % 2:
            raise InputError(f"head_dim is {self.dims.head_dim}; rotary positions turn pairs of numbers")
        if self.dims.gated != family.gated:
            raise InputError(f"dims.gated is {self.dims.gated}; of {self.family} it is {family.gated}")
        last = self.dims.vocabulary - 1
        if self.separator is not None and not (type(self.separator) is int and 0 <= self.separator <= last):
            raise InputError(f"separator is {self.separator!r}; it must be a token id from 0 to {last}, or none")

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that there are positions for."""
        return self.dims.positions - FAMILIES[self.family].position_offset

    @property
    def projects(self) -> bool:
        """Whether a matrix follows the embedding."""
        return self.embedding != self.dims.hidden

    @property
    def first_token_only(self) -> bool:
        """Whether the head reads the first token's row and no other."""
        return self.rows != "tokens" and self.pooling == "first"

    @property
    def has_dense(self) -> bool:
        """Whether the head has a dense layer before its output layer."""
        return self.rows == "pooled" or (self.rows == "tokens" and FAMILIES[self.family].head_norm)

    @property
    def has_head_norm(self) -> bool:
        """Whether LayerNorm follows that dense layer."""
        return self.has_dense and FAMILIES[self.family].head_norm

    def has_norm(self, layer: int, norm: str) -> bool:
        """Whether a sub-layer that is there has `norm`, its attention_norm or ffn_norm: the first attention has none
        where that would follow on the one of the embedding."""
        return not (FAMILIES[self.family].pre_norm and layer == 0 and norm == "attention_norm")

    @property
    def drops_tokens(self) -> bool:
        """Whether layers may drop tokens: not where distances between them count, or the head reads all."""
        family = FAMILIES[self.family]
        return self.first_token_only and not family.relative_positions and not family.rotary

    def check(self, spec: ArchSpec) -> None:
        """Raises InputError where `spec` does not fit `dims`, or drops tokens whose rows the head reads."""
        spec.check(self.dims)
        dropping = [index for index, layer in enumerate(spec.layers) if layer.tokens < 1.0]
        if not dropping or self.drops_tokens:
            return
        if not self.first_token_only:
            raise InputError(
                f"layer {dropping[0]} drops tokens, but the head reads the rows of all tokens: keep them all or use "
                "the first token's row"
            )
        raise InputError(
            f"layer {dropping[0]} drops tokens, after which distances between tokens are others than those that "
            f"{self.family} has learned: keep them all"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"rotary": [asdict(layer) for layer in self.rotary]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EncoderConfig:
        if "dims" not in data:
            raise InputError("EncoderConfig: dims is missing")
        rotary = tuple(Rotary.from_json(layer) for layer in data.get("rotary", ()))
        return cls(**strict_keys(cls, {**data, "dims": Dims.from_json(data["dims"]), "rotary": rotary}))
