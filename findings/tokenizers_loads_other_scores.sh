#!/usr/bin/env bash
# tokenizers saves the scores of a Unigram model to the last bit and loads about one in seven of them a bit off: its
# reader of JSON does not round decimals of 17 digits correctly, as Python's does. A tokenizer that is loaded from its own
# file then splits some texts otherwise than the one that was saved, where two splits of a text have equal scores.
#
# Seen with tokenizers 0.23.3: 688 of 5,000 scores differ after one save and load, each by one unit in the last place.
# Of pieces "aa" and "aaa" with scores s and 1.5 s, six a's are two pieces as made and three as loaded.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
import json
import math
import random

from tokenizers import Tokenizer, models

PAIR = -7.183689966753317


def scores(tokenizer: Tokenizer) -> list[float]:
    return [score for _, score in json.loads(tokenizer.to_str())["model"]["vocab"]]


rng = random.Random(0)
given = [0.0, *(-15 * rng.random() for _ in range(5_000))]
saved = Tokenizer(models.Unigram([(f"t{number}", score) for number, score in enumerate(given)], 0, False))
assert scores(saved) == given, "saving alone changes scores"
loaded = Tokenizer.from_str(saved.to_str())
other = [(a, b) for a, b in zip(given, scores(loaded), strict=True) if a != b]
print(f"{len(other)} of {len(given) - 1} scores differ after a save and a load, the first {other[0]}")
assert 500 < len(other) < 900, len(other)
assert all(abs(a - b) <= math.ulp(a) for a, b in other), "by more than one unit in the last place"

saved = Tokenizer(models.Unigram([("<unk>", 0.0), ("aa", PAIR), ("aaa", 1.5 * PAIR), ("a", -20.5)], 0, False))
loaded = Tokenizer.from_str(saved.to_str())
before, after = saved.encode("aaaaaa").tokens, loaded.encode("aaaaaa").tokens
print(f"six a's: {before} as made, {after} as loaded from its own file")
assert (before, after) == (["aaa", "aaa"], ["aa", "aa", "aa"]), (before, after)
PYTHON
