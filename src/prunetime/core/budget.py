"""The latency a model has to meet, and what exactly is timed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from prunetime.core.options import check, option
from prunetime.core.record import Record
from prunetime.errors import InputError

Statistic = Literal["p50", "p99"]
TimingScope = Literal["ids", "text"]
Condition = Literal["hot", "idle"]
ShareOf = Literal["fp32", "bf16", "int8", "same"]

_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(us|ms|s|%)\s*")
_MICROSECONDS = {"us": 1, "ms": 1_000, "s": 1_000_000}


@dataclass(frozen=True)
class Budget(Record):
    """A latency that a model has to meet, in one setting.

    Attributes:
        us: The latency in microseconds, or None where `share` is given.
        share: The latency as a share (0 to 1) of the dense model's, or None where `us` is given.
        statistic: The statistic of the latency of one call, `p50` or `p99`.
        scope: What is timed: token ids to scores (`ids`, the model alone), or texts to scores (`text`, end to end).
        condition: Whether calls follow each other (`hot`, warm caches) or come after a pause (`idle`, cold).
        seq_len: The length of every sequence, in tokens.
        batch: The sequences of one call.
        threads: The threads of the engine.
        share_of: The precision of the dense model that `share` is of; `same` is that of the pruned model.

    Raises:
        InputError: Both or neither of `us` and `share` are given, or a value cannot be used.

    Example:
        >>> str(Budget.ms(1.9, seq_len=48))
        '1900 us (p50, ids to score, hot, 1 x 48 tokens, 1 thread)'
    """

    us: float | None = None
    share: float | None = None
    statistic: Statistic = option("The statistic of the latency of a call.", "budget", "p50")
    scope: TimingScope = option("What a call begins with: token ids, or text, which it tokenises.", "budget", "ids")
    condition: Condition = option("Calls back to back (hot), or each after a pause (idle).", "budget", "hot")
    seq_len: int = option("Tokens of a sequence.", "budget", 128, least=3)
    batch: int = option("Sequences in a call.", "budget", 1, least=1)
    threads: int = option("Threads of the engine.", "budget", 1, least=1)
    share_of: ShareOf = option(
        "The precision of the dense model that a budget in % is of; same: that of the pruned model.", "budget", "fp32"
    )

    def __post_init__(self) -> None:
        if (self.us is None) == (self.share is None):
            raise InputError("a budget is either microseconds or a share of the dense latency")
        if self.us is not None and not 0.0 < self.us < float("inf"):
            raise InputError(f"budget of {self.us} us: it must be above 0")
        if self.share is not None and not 0.0 < self.share <= 1.0:
            raise InputError(f"budget of {self.share:.0%} of dense: it must be above 0 and at most 100 %")
        check(self)
        if self.share is None and self.share_of != "fp32":
            raise InputError(f"--share-of {self.share_of} is for a budget in %: {self.us:g} us is a share of nothing")

    def to_json(self) -> dict[str, Any]:
        """Returns the budget as JSON; `share_of` only where it is not the usual, as budgets of 0.1 are without."""
        return {name: value for name, value in super().to_json().items() if (name, value) != ("share_of", "fp32")}

    @classmethod
    def ms(cls, milliseconds: float, **setting: Any) -> Budget:
        """Returns a budget in milliseconds, such as `Budget.ms(1.9, seq_len=48)`.

        Args:
            milliseconds: The latency.
            setting: The fields from `statistic` on.
        """
        return cls(us=milliseconds * _MICROSECONDS["ms"], **setting)

    @classmethod
    def parse(cls, text: str, **setting: Any) -> Budget:
        """Returns a budget from text.

        Args:
            text: A time (`1.9ms`, `1900us`, `0.002s`) or a share of the dense latency (`40%`).
            setting: The fields from `statistic` on.

        Raises:
            InputError: `text` is neither.
        """
        match = _AMOUNT.fullmatch(text)
        if match is None:
            raise InputError(f"latency {text!r} is no budget: write a time (1.9ms, 1900us) or a share of dense (40%)")
        amount, unit = Decimal(match[1]), match[2]
        if unit == "%":
            return cls(share=float(amount / 100), **setting)
        return cls(us=float(amount * _MICROSECONDS[unit]), **setting)

    @property
    def amount(self) -> str:
        """The time or share as `parse` reads it, without rounding: `1900us`, `40%`."""
        if self.us is not None:
            return f"{Decimal(repr(self.us)).normalize():f}us"
        return f"{(Decimal(repr(self.share)) * 100).normalize():f}%"

    def resolve(self, dense_us: float) -> float:
        """Returns the budget in microseconds.

        Args:
            dense_us: The latency of the dense model in the same setting, in microseconds.
        """
        if self.share is not None:
            return self.share * dense_us
        assert self.us is not None  # one of the two is set
        return self.us

    def __str__(self) -> str:
        dense = {"fp32": "dense", "same": "dense in its precision"}.get(self.share_of, f"dense in {self.share_of}")
        amount = f"{self.us:g} us" if self.us is not None else f"{100 * (self.share or 0):g} % of {dense}"
        where = f"{self.scope} to score, {self.condition}, {self.batch} x {self.seq_len} tokens"
        return f"{amount} ({self.statistic}, {where}, {self.threads} thread{'s' * (self.threads > 1)})"
