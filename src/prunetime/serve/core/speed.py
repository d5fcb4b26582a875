"""An estimate of how long a batch takes, learned from the batches before it."""

from __future__ import annotations

import math
import time

FORGOTTEN_AFTER = 1.0
"""The weight of a batch falls by a factor e in this many seconds."""

CLIPPED = 3.0
"""A batch counts as taking at most this many times what was expected: a pause of the process says nothing about its
engine. An engine that has become slower is still followed, by at most this factor a batch."""

LOADED = 1.0
"""The measurement at load time weighs as much as this many new batches of each kind."""

LOADED_TOKENS = 64
"""The tokens of the load-time batch that the cost of a token is measured on."""

MAX_TOKENS = 1 << 31
"""The size of a batch whose tokens cost nothing."""


class Speed:
    """A linear model of a batch's time: `fixed_us`, and `token_us` for each token.

    Both are scaled from the load-time measurement by weighted least squares over recent batches. The variance of a
    batch's time is taken to grow with its size, so that large batches determine `token_us` and small ones `fixed_us`.
    Batches are forgotten in time and the load-time measurement is not: without new batches the estimate returns to it.
    """

    def __init__(self, fixed_us: float, token_us: float) -> None:
        self._loaded = fixed_us, token_us
        self.fixed_us, self.token_us = fixed_us, token_us
        self._at = -math.inf
        # Of scales (a, b) in us = a * fixed + b * token * tokens: the normal equations of batches, weighted.
        self._aa = self._ab = self._bb = self._ay = self._by = 0.0

    def of(self, tokens: int) -> float:
        """Seconds that a batch of so many tokens is expected to take."""
        return (self.fixed_us + self.token_us * tokens) / 1e6

    def tokens_within(self, seconds: float) -> int:
        """The tokens of a batch that takes `seconds`; at least 0."""
        us = max(0.0, 1e6 * seconds - self.fixed_us)
        return int(min(us / self.token_us, MAX_TOKENS)) if self.token_us else MAX_TOKENS

    def learn(self, tokens: int, seconds: float) -> None:
        """Updates the estimate with a batch that has just taken `seconds`."""
        now = time.monotonic()
        kept = math.exp((self._at - now) / FORGOTTEN_AFTER)
        self._at = now
        fixed, token = self._loaded
        us = min(1e6 * seconds, CLIPPED * 1e6 * self.of(tokens))
        a, b = fixed, token * tokens
        weight = 1.0 / (a + b) if a + b else 0.0
        self._aa = kept * self._aa + weight * a * a
        self._ab = kept * self._ab + weight * a * b
        self._bb = kept * self._bb + weight * b * b
        self._ay = kept * self._ay + weight * a * us
        self._by = kept * self._by + weight * b * us
        self._solve()

    def _solve(self) -> None:
        fixed, token = self._loaded
        for_fixed, for_token = LOADED * fixed, LOADED * token * LOADED_TOKENS
        aa, bb, ab = self._aa + for_fixed, self._bb + for_token, self._ab
        ay, by = self._ay + for_fixed, self._by + for_token
        determinant = aa * bb - ab * ab
        a, b = (ay * bb - by * ab, by * aa - ay * ab) if determinant > 0.0 else (-1.0, -1.0)
        if a < 0.0:  # all of the time is that of the tokens
            a, b = 0.0, (by / bb if bb else 0.0)
        elif b < 0.0:
            a, b = ay / aa, 0.0
        else:
            a, b = a / determinant, b / determinant
        self.fixed_us, self.token_us = a * fixed, b * token
