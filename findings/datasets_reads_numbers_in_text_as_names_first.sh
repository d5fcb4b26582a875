#!/usr/bin/env bash
# datasets casts a column of text to ClassLabel by name first and by number second, value by value: with the names "1" and
# "0" the label "0" becomes 1, and with other names "1" is taken for the class of that number in the same column in which
# "pos" is taken by its name. A column in which two ways of writing labels are mixed casts without a word.
#
# Seen with datasets 5.2.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0
HF_HUB_OFFLINE=1 HF_HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
from datasets import ClassLabel, Dataset, Features


def cast(labels: list[str], names: list[str]) -> list[int]:
    return Dataset.from_dict({"label": labels}).cast(Features({"label": ClassLabel(names=names)}))["label"][:]


swapped, mixed = cast(["0", "1"], ["1", "0"]), cast(["pos", "0", "1"], ["neg", "pos"])
print(f"names 1, 0: '0', '1' are {swapped}; names neg, pos: 'pos', '0', '1' are {mixed}")
assert swapped == [1, 0] and mixed == [1, 0, 1]
PYTHON
