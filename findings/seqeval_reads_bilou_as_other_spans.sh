#!/usr/bin/env bash
# seqeval scores BILOU labels in its default mode without a word and finds other spans than the labels say: L- and U- are
# unknown there, so that B-X L-X U-X is one span of three words, and a prediction that has one of two entities right has F1 0.
# With mode="strict" and scheme=BILOU it is 2/3, as precision 1 and recall 1/2 say.
#
# Seen with seqeval 1.2.2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet setuptools wheel
"$folder/venv/bin/pip" install --quiet seqeval==1.2.2
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU

gold, said = [["B-X", "L-X", "U-X", "O"]], [["B-X", "L-X", "O", "O"]]
default = f1_score(gold, said)
strict = f1_score(gold, said, mode="strict", scheme=BILOU)
print(f"spans of {gold[0]}: {get_entities(gold[0])}; F1 by default {default:.3f}, as BILOU {strict:.3f}")
assert default == 0.0 and abs(strict - 2 / 3) < 1e-9
PYTHON
