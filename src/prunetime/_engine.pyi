from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

BUILD: str

def supported_isas() -> list[str]: ...
def narrow_attention(isa: str) -> str: ...
def number_bytes(isa: str) -> dict[str, int]: ...
def peaks(isa: str) -> dict[str, float]: ...
def read_peak(isa: str, bytes: int) -> float: ...

class Encoder:
    def __init__(
        self,
        config: dict[str, Any],
        plan: dict[str, dict[str, str] | list[float]],
        weights: dict[str, Floats | Ints],
        threads: int,
        isa: str = "",
    ) -> None: ...
    def select(self, heads: list[int], ffn: list[int], tokens: list[float]) -> None: ...
    def forward(self, ids: Ints, types: Ints, offsets: Ints, skipped: Ints | None = None) -> Floats: ...
    def forward_timed(
        self, ids: Ints, types: Ints, offsets: Ints, skipped: Ints | None = None
    ) -> tuple[Floats, NDArray[np.float64]]: ...
    def forward_kept(
        self, ids: Ints, types: Ints, offsets: Ints, skipped: Ints | None = None
    ) -> tuple[Floats, NDArray[np.uint8]]: ...
    def forward_between(
        self,
        ids: Ints,
        types: Ints,
        offsets: Ints,
        first: int,
        start: Floats | None,
        leave: dict[int, Floats],
        skipped: Ints | None = None,
    ) -> Floats: ...
    @property
    def layer_counts(self) -> list[tuple[int, int, int, int]]: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...

class ReferenceKernel:
    def __init__(self, isa: str = "") -> None: ...
    def run(self) -> float: ...
    @property
    def isa(self) -> str: ...

class testing:  # noqa: N801  # a submodule, which the stub of an extension module can only show like this
    @staticmethod
    def emulated_isas() -> list[str]: ...
    @staticmethod
    def gemm(
        isa: str,
        input: Floats,
        weight: Floats | tuple[Floats, Ints],
        bias: Floats,
        activation: str = "identity",
        precision: str = "fp32",
        output_precision: str = "fp32",
        used_inner: int = 0,
    ) -> Floats: ...
    @staticmethod
    def encode(isa: str, rows: Floats, precision: str) -> Floats: ...
    @staticmethod
    def attention(
        isa: str, query: Floats, key: Floats, value: Floats, narrow: bool = False
    ) -> tuple[Floats, Floats]: ...
    @staticmethod
    def add_and_norm(
        isa: str, hidden: Floats, update: Floats, rows: Ints | None, weight: Floats, bias: Floats, eps: float
    ) -> Floats: ...
    @staticmethod
    def embed(
        isa: str, ids: Ints, word: Floats, position: Floats, weight: Floats, bias: Floats, eps: float
    ) -> Floats: ...
