"""What an encoder of the BERT family is besides its counts: the closed set of differences between families."""

from __future__ import annotations

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
    `relative_positions` every head adds to its scores what it has learned of the distance (`prunetime.positions`).
    """

    name: str
    position_offset: int = 0
    token_types: bool = True
    head_activation: str = "tanh"
    relative_positions: bool = False


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
    )
}

Rows = Literal["pooled", "tokens"]


@dataclass(frozen=True)
class EncoderConfig:
    """Everything the forward pass needs besides the spec and the weights.

    `embedding` is the width of the embedding tables; where it is not `dims.hidden`, a matrix projects it there, as in
    ELECTRA. `outputs` is the number of logits of the head. `rows` says what the head reads: `pooled`, the first
    token's row, through a dense layer (one row of logits per sequence), or `tokens`, every token's (one row of logits
    per token, and no dense layer). Where tokens are dropped, those with the id `separator` stay before others do.
    """

    family: str
    dims: Dims
    embedding: int
    token_types: int
    layer_norm_eps: float
    outputs: int
    separator: int | None = None
    rows: Rows = "pooled"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise InputError(f"family {self.family!r} is not supported; supported: {', '.join(FAMILIES)}")
        if self.outputs < 1:
            raise InputError(f"outputs is {self.outputs}: a head has at least one logit")
        if not 0.0 < self.layer_norm_eps < 1.0:
            raise InputError(f"layer_norm_eps is {self.layer_norm_eps}: it must be above 0 and below 1")
        if self.token_types < 1 or self.embedding < 1:
            raise InputError(f"token_types {self.token_types} and embedding {self.embedding} must be at least 1")
        if self.rows not in get_args(Rows):
            raise InputError(f"rows is {self.rows!r}; use one of {', '.join(get_args(Rows))}")
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

    def check(self, spec: ArchSpec) -> None:
        """Raises InputError where `spec` does not fit `dims`, or drops tokens whose rows the head reads."""
        spec.check(self.dims)
        dropping = [index for index, layer in enumerate(spec.layers) if layer.tokens < 1.0]
        if dropping and FAMILIES[self.family].relative_positions:
            raise InputError(
                f"layer {dropping[0]} drops tokens, after which distances between tokens are others than those that "
                f"{self.family} has learned: keep them all"
            )
        if self.rows == "tokens" and dropping:
            raise InputError(
                f"layer {dropping[0]} drops tokens, but the head gives a row of logits for every token: keep them all "
                "or use pooled rows"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EncoderConfig:
        if "dims" not in data:
            raise InputError("EncoderConfig: dims is missing")
        return cls(**strict_keys(cls, {**data, "dims": Dims.from_json(data["dims"])}))
