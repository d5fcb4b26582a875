"""The configuration of an encoder: everything but its counts, and the closed set of differences between families."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

from prunetime.core.arch import ArchSpec, Dims
from prunetime.core.checks import one_of, whole_number
from prunetime.core.record import Record, strict_keys
from prunetime.errors import InputError

Activation = Literal["identity", "tanh", "relu", "gelu"]
"""The activation after a dense layer of a head; `gelu` is the exact one, with erf."""


@dataclass(frozen=True)
class Family:
    """The differences of one family of encoders from BERT, as far as the forward pass can tell.

    `position_offset` is the position id of a sequence's first token: one after that of padding, where padding has one.
    `head_activation` follows the dense layer on the first token's row, before the output layer. With
    `relative_positions` every head adds to its scores what it has learned of the distance, with `rotary` there is no
    table of positions and they turn queries and keys instead (`core.positions`). With `pre_norm` LayerNorm comes
    before every sub-layer but the first, and once more before the head, not after the residual. With `gated` the FFN
    has a gate (see `Dims`). With `head_norm` every head has a dense layer, and LayerNorm after it.
    """

    name: str
    position_offset: int = 0
    token_types: bool = True
    head_activation: Activation = "tanh"
    relative_positions: bool = False
    rotary: bool = False
    pre_norm: bool = False
    gated: bool = False
    head_norm: bool = False

    @property
    def padding(self) -> int | None:
        """The id of padding that has the position before the first token's wherever it stands, and is not counted in
        the positions of the tokens after it; None where padding in a text is a token as any other."""
        return self.position_offset - 1 if self.position_offset else None


_FAMILIES = (
    Family("bert"),
    Family("roberta", position_offset=2),
    Family("xlm-roberta", position_offset=2),
    Family("camembert", position_offset=2),
    Family("distilbert", token_types=False, head_activation="relu"),
    Family("electra", head_activation="gelu"),
    Family("mpnet", position_offset=2, token_types=False, relative_positions=True),
    Family(
        "modernbert", token_types=False, head_activation="gelu", rotary=True, pre_norm=True, gated=True, head_norm=True
    ),
)
FAMILIES = {family.name: family for family in _FAMILIES}

TaskLogitRows = Literal["pooled", "tokens", "embedding"]
LogitRows = Literal[TaskLogitRows, "token_embeddings"]
EMBEDDINGS: tuple[LogitRows, ...] = ("embedding", "token_embeddings")
"""The outputs of an encoder without the head of its family."""

Pooling = Literal["first", "mean", "max", "mean_sqrt_len", "weightedmean", "lasttoken"]
"""How the rows of a sequence's tokens become one row, as the Pooling module of sentence-transformers defines it (which
calls `first` cls, and `mean_sqrt_len` mean_sqrt_len_tokens). Where no token is left to pool, the row is zeros (`first`:
that of the first token)."""

LEAST_COUNT, LEAST_LENGTH = 1e-9, 1e-12
"""The least divisors of a sum of rows, and of an embedding that is scaled to length 1, as in sentence-transformers:
only zeros stay zeros."""


@dataclass(frozen=True)
class HeadLayer(Record):
    """One layer of a head after pooling, `width` numbers wide: `dense` is a matrix and a bias, followed by an
    `activation`; `norm` is LayerNorm with `eps`."""

    kind: Literal["dense", "norm"]
    width: int
    activation: Activation = "identity"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.kind not in ("dense", "norm"):
            raise InputError(f"a head layer is {self.kind!r}; it must be dense or norm")
        if type(self.width) is not int or self.width < 1:
            raise InputError(f"a head layer is {self.width!r} wide; it must be a whole number of at least 1")
        if self.activation not in get_args(Activation):
            known = ", ".join(get_args(Activation))
            raise InputError(f"the activation {self.activation!r} of a head layer is not supported; use one of {known}")
        if self.kind == "norm" and self.activation != "identity":
            raise InputError(f"a head layer of kind norm has the activation {self.activation}; only dense layers have")
        if not (isinstance(self.eps, float) and 0.0 < self.eps < 1.0):
            raise InputError(f"eps of a head layer is {self.eps!r}; it must be above 0 and below 1")


@dataclass(frozen=True)
class Rotary(Record):
    """The rotary positions of a layer: `theta` is the base of its angles. With sliding-window attention, tokens further
    away than `window` are not attended to; None stands for full attention."""

    theta: float
    window: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.theta, float) and 1.0 < self.theta < math.inf):
            raise InputError(f"rotary theta is {self.theta!r}; it must be a number above 1")
        whole_number("rotary window", self.window, or_none=True)


@dataclass(frozen=True)
class EncoderConfig:
    """Everything the forward pass needs besides the spec and the weights.

    `embedding` is the width of the embedding tables; where it is not `dims.hidden`, a matrix projects it there, as in
    ELECTRA. `outputs` is the number of logits of the head. `rows` says what the head reads: `pooled`, one row made by
    `pooling` of all tokens' (one row of logits per sequence), or `tokens`, every token's (one row of logits per token).
    With `embedding` the pooled row itself is what comes out, with `token_embeddings` every token's, `outputs` their
    width. Where tokens are dropped, those with the id `separator` stay before others do. `rotary` has an entry per
    layer in a family with such positions.

    `head` has the layers between the pooled row and what comes out, in order; None stands for those of the family's own
    head (`head_layers`), which an embedding has none of. With `normalize` an embedding is scaled to length 1.
    """

    family: str
    dims: Dims
    embedding: int
    token_types: int
    layer_norm_eps: float
    outputs: int
    separator: int | None = None
    rows: LogitRows = "pooled"
    pooling: Pooling = "first"
    rotary: tuple[Rotary, ...] = ()
    head: tuple[HeadLayer, ...] | None = None
    normalize: bool = False

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise InputError(f"family {self.family!r} is not supported; supported: {', '.join(FAMILIES)}")
        if self.outputs < 1:
            raise InputError(f"outputs is {self.outputs}: a head has at least one logit")
        if self.rows in EMBEDDINGS and self.head is None and self.outputs != self.dims.hidden:
            raise InputError(f"outputs is {self.outputs}; an embedding is as wide as hidden, {self.dims.hidden}")
        if not 0.0 < self.layer_norm_eps < 1.0:
            raise InputError(f"layer_norm_eps is {self.layer_norm_eps}: it must be above 0 and below 1")
        if self.token_types < 1 or self.embedding < 1:
            raise InputError(f"token_types {self.token_types} and embedding {self.embedding} must be at least 1")
        one_of("rows", self.rows, get_args(LogitRows))
        one_of("pooling", self.pooling, get_args(Pooling))
        family = FAMILIES[self.family]
        if len(self.rotary) != (self.dims.layers if family.rotary else 0):
            raise InputError(f"rotary has {len(self.rotary)} layers; {self.family} of {self.dims.layers} layers")
        if family.rotary and self.dims.head_dim % 2:
            raise InputError(f"head_dim is {self.dims.head_dim}; rotary positions turn pairs of numbers")
        if self.dims.gated != family.gated:
            raise InputError(f"dims.gated is {self.dims.gated}; of {self.family} it is {family.gated}")
        self._check_head()
        last = self.dims.vocabulary - 1
        if self.separator is not None and not (type(self.separator) is int and 0 <= self.separator <= last):
            raise InputError(f"separator is {self.separator!r}; it must be a token id from 0 to {last}, or none")

    def _check_head(self) -> None:
        if type(self.normalize) is not bool or (self.normalize and self.rows != "embedding"):
            raise InputError(f"normalize is {self.normalize!r} with {self.rows} rows; only embeddings are normalised")
        if self.head is None:
            return
        if self.reads_every_token:
            raise InputError(f"head has layers that follow pooling, but rows is {self.rows}, which are not pooled")
        if not self.head:
            raise InputError("head has no layer; use None for the family's own head, or for none of an embedding")
        if self.head[-1].width != self.outputs:
            raise InputError(f"outputs is {self.outputs}; the head's last layer is {self.head[-1].width} wide")
        for before, layer in pairwise((HeadLayer("dense", self.dims.hidden), *self.head)):
            if layer.kind == "norm" and layer.width != before.width:
                raise InputError(f"a norm of the head is {layer.width} wide, the row that it reads {before.width}")

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that there are positions for."""
        return self.dims.positions - FAMILIES[self.family].position_offset

    @property
    def projects(self) -> bool:
        """Whether a matrix follows the embedding."""
        return self.embedding != self.dims.hidden

    @property
    def reads_every_token(self) -> bool:
        """Whether a row comes out of every token rather than of every sequence."""
        return self.rows in ("tokens", "token_embeddings")

    @property
    def reads_one_token(self) -> bool:
        """Whether the head reads one token's row of every sequence and no other: after the last attention, the rows of
        other tokens need not be computed."""
        return not self.reads_every_token and self.pooling in ("first", "lasttoken")

    @property
    def head_layers(self) -> tuple[tuple[str, HeadLayer], ...]:
        """The layers of the head, the family's own or `head`, in order, by the names of their tensors."""
        if self.head is not None:
            return tuple((f"head.layers.{index}", layer) for index, layer in enumerate(self.head))
        if self.rows in EMBEDDINGS:
            return ()
        family, hidden = FAMILIES[self.family], self.dims.hidden
        layers = [("head.output", HeadLayer("dense", self.outputs))]
        if family.head_norm:
            layers.insert(0, ("head.norm", HeadLayer("norm", hidden, eps=self.layer_norm_eps)))
        if self.rows == "pooled" or family.head_norm:
            layers.insert(0, ("head.dense", HeadLayer("dense", hidden, family.head_activation)))
        return tuple(layers)

    @property
    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the head."""
        shapes: dict[str, tuple[int, ...]] = {}
        read = self.dims.hidden
        for name, layer in self.head_layers:
            shapes[f"{name}.weight"] = (layer.width, read) if layer.kind == "dense" else (layer.width,)
            shapes[f"{name}.bias"] = (layer.width,)
            read = layer.width
        return shapes

    def with_outputs(self, outputs: int) -> EncoderConfig:
        """The same encoder whose head ends with `outputs` logits."""
        head = None if self.head is None else (*self.head[:-1], replace(self.head[-1], width=outputs))
        return replace(self, outputs=outputs, head=head)

    def with_token_embeddings(self) -> EncoderConfig:
        """The same encoder with no head: the last hidden row of every token comes out."""
        return replace(self, rows="token_embeddings", outputs=self.dims.hidden, head=None, normalize=False)

    def has_norm(self, layer: int, norm: str) -> bool:
        """Whether a sub-layer that is there has `norm`, its attention_norm or ffn_norm: the first attention has none
        where that would follow on the one of the embedding."""
        return not (FAMILIES[self.family].pre_norm and layer == 0 and norm == "attention_norm")

    @property
    def drops_tokens(self) -> bool:
        """Whether layers may drop tokens: not where distances between them count, or the head reads other tokens than
        the first, which always stays."""
        family = FAMILIES[self.family]
        return self._reads_first_token and not family.relative_positions and not family.rotary

    @property
    def _reads_first_token(self) -> bool:
        return self.reads_one_token and self.pooling == "first"

    def check(self, spec: ArchSpec) -> None:
        """Raises InputError where `spec` does not fit `dims`, or drops tokens whose rows the head reads."""
        spec.check(self.dims)
        dropping = [index for index, layer in enumerate(spec.layers) if layer.tokens < 1.0]
        if not dropping or self.drops_tokens:
            return
        if not self._reads_first_token:
            read = "the last token's row" if self.reads_one_token else "the rows of all tokens"
            raise InputError(
                f"layer {dropping[0]} drops tokens, but the head reads {read}: keep them all or use the first token's "
                "row"
            )
        raise InputError(
            f"layer {dropping[0]} drops tokens, after which distances between tokens are others than those that "
            f"{self.family} has learned: keep them all"
        )

    def to_json(self) -> dict[str, Any]:
        """The fields; `head` and `normalize` only where they say something, so that other encoders read as before."""
        data = asdict(self) | {"rotary": [asdict(layer) for layer in self.rotary]}
        del data["head"], data["normalize"]
        if self.head is not None:
            data["head"] = [asdict(layer) for layer in self.head]
        return data | ({"normalize": True} if self.normalize else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EncoderConfig:
        if "dims" not in data:
            raise InputError("EncoderConfig: dims is missing")
        parts = {"dims": Dims.from_json(data["dims"]), "rotary": tuple(map(Rotary.from_json, data.get("rotary", ())))}
        if data.get("head") is not None:
            parts["head"] = tuple(map(HeadLayer.from_json, data["head"]))
        return cls(**strict_keys(cls, {**data, **parts}))
