#!/usr/bin/env bash
# AutoTokenizer of transformers 5 makes a tokenizer of a folder that has a config.json and no vocabulary at all: five
# special tokens, to which every word is unknown. No error, no warning: a training on it runs.
#
# Seen with transformers 5.24.0: the tokenizer has 5 tokens, and "red sofa" has the ids [1, 1], both [UNK].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder/model" <<'PYTHON' 2>/dev/null
import sys

from transformers import AutoTokenizer, BertConfig

BertConfig().save_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("red sofa", add_special_tokens=False)["input_ids"]
print(f"{len(tokenizer)} tokens; 'red sofa' is {ids}, {tokenizer.convert_ids_to_tokens(ids)}")
assert len(tokenizer) == 5 and ids == [1, 1]
PYTHON
