#!/usr/bin/env bash
# AutoTokenizer of transformers 5 makes a tokenizer of a folder that has a config.json and no vocabulary at all: five
# special tokens, to which every word is unknown. No error, no warning: a training on it runs.
#
# Seen with transformers 5.24.0: "red sofa" has the ids [1, 1] ([UNK]); transformers 4.57.6 raises OSError.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/load.py" <<'PYTHON'
import sys

import transformers
from transformers import AutoTokenizer, BertConfig

BertConfig().save_pretrained(sys.argv[1])
try:
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
except (OSError, TypeError, ValueError) as error:
    found = f"{type(error).__name__}"
else:
    found = f"{len(tokenizer)} tokens, 'red sofa' is {tokenizer('red sofa', add_special_tokens=False)['input_ids']}"
print(f"transformers {transformers.__version__}: {found}")
expected = "5 tokens, 'red sofa' is [1, 1]" if transformers.__version__.startswith("5.") else found
sys.exit(0 if found == expected and (transformers.__version__.startswith("5.") or "Error" in found) else 1)
PYTHON
for version in 4.57.6 5.24.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "transformers==$version"
    HF_HUB_OFFLINE=1 "$folder/$version/bin/python" "$folder/load.py" "$folder/model-$version" 2>/dev/null
done
