from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy
from numpy.typing import NDArray


BUILD: str = ...

def isa_tables() -> list[tuple[str, str, list[str]]]:
    """
    Name, description and required instruction sets of each table of this build.
    """

def supported_isas() -> list[str]:
    """The names of the tables that this CPU runs, slowest first."""

def chosen_isa() -> str:
    """The name of the table that runs where none is named."""

def narrow_attention(arg: str, /) -> Literal['fp32', 'bf16', 'int8']: ...

def number_bytes(arg: str, /) -> dict[str, int]: ...

class HeadLayerConfig:
    """A layer of the head."""

    def __init__(self, *, name: str, kind: Literal['dense', 'norm'], width: int, activation: Literal['identity', 'tanh', 'relu', 'gelu'], eps: float) -> None: ...

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Literal['dense', 'norm']: ...

    @property
    def width(self) -> int: ...

    @property
    def activation(self) -> Literal['identity', 'tanh', 'relu', 'gelu']: ...

    @property
    def eps(self) -> float: ...

class ForwardConfig:
    """All that the forward pass needs besides the weights and their plan."""

    def __init__(self, *, layers: int, embedding: int, hidden: int, heads: int, head_dim: int, ffn: int, vocabulary: int, positions: int, position_offset: int, token_types: int, outputs: int, layer_norm_eps: float, relative_positions: bool, rotary_theta: Sequence[float], rotary_window: Sequence[int], pre_norm: bool, gated: bool, rows: Literal['first', 'lasttoken', 'mean', 'max', 'mean_sqrt_len', 'weightedmean', 'all'], head: Sequence[HeadLayerConfig], normalize: bool, separator: int) -> None: ...

    @property
    def layers(self) -> int: ...

    @property
    def embedding(self) -> int: ...

    @property
    def hidden(self) -> int: ...

    @property
    def heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...

    @property
    def ffn(self) -> int: ...

    @property
    def vocabulary(self) -> int: ...

    @property
    def positions(self) -> int: ...

    @property
    def position_offset(self) -> int: ...

    @property
    def token_types(self) -> int: ...

    @property
    def outputs(self) -> int: ...

    @property
    def layer_norm_eps(self) -> float: ...

    @property
    def relative_positions(self) -> bool: ...

    @property
    def rotary_theta(self) -> list[float]: ...

    @property
    def rotary_window(self) -> list[int]: ...

    @property
    def pre_norm(self) -> bool: ...

    @property
    def gated(self) -> bool: ...

    @property
    def rows(self) -> Literal['first', 'lasttoken', 'mean', 'max', 'mean_sqrt_len', 'weightedmean', 'all']: ...

    @property
    def head(self) -> list[HeadLayerConfig]: ...

    @property
    def normalize(self) -> bool: ...

    @property
    def separator(self) -> int: ...

class ForwardPlan:
    """How the weights are run."""

    def __init__(self, *, precision: Mapping[str, Literal['fp32', 'bf16', 'int8']], dense: Sequence[str], tokens: Sequence[float]) -> None: ...

    @property
    def precision(self) -> dict[str, Literal['fp32', 'bf16', 'int8']]: ...

    @property
    def dense(self) -> list[str]: ...

    @property
    def tokens(self) -> list[float]: ...

class SharedEncoder:
    def __init__(self, config: ForwardConfig, plan: ForwardPlan, weights: Mapping[str, NDArray[Any]], threads: int, isa: str = ...) -> None: ...

    def select(self, heads: Sequence[int], ffn: Sequence[int], tokens: Sequence[float]) -> None: ...

    def forward(self, ids: object | None, types: object | None, offsets: object | None, skipped: object | None = ...) -> NDArray[numpy.float32]: ...

    def forward_timed(self, ids: object | None, types: object | None, offsets: object | None, skipped: object | None = ...) -> tuple[NDArray[numpy.float32], NDArray[numpy.float64]]: ...

    def forward_kept(self, ids: object | None, types: object | None, offsets: object | None, skipped: object | None = ...) -> tuple[NDArray[numpy.float32], NDArray[numpy.uint8]]: ...

    def forward_between(self, ids: object | None, types: object | None, offsets: object | None, first: int, start: object | None, leave: Mapping[int, object], skipped: object | None = ...) -> NDArray[numpy.float32]: ...

    @property
    def layer_counts(self) -> list[tuple[int, int, int, int]]: ...

    @property
    def isa(self) -> str: ...

    @property
    def threads(self) -> int: ...

    @property
    def weight_bytes(self) -> int: ...

class ReferenceKernel:
    def __init__(self, isa: str = ...) -> None: ...

    def run(self) -> float: ...

    @property
    def isa(self) -> str: ...

def peaks(isa: str) -> dict[str, float]:
    """Multiply-adds, or numbers, per second of every kind of work."""

def read_peak(isa: str, bytes: int) -> float:
    """Bytes per second of reading so many, in turn."""
