#!/usr/bin/env bash
# tokenizers cuts a pair of long texts to max_length and makes, though nobody asked for overflow, an encoding for every
# combination of the windows that each of the texts would have had: memory and time grow with the square of the length.
#
# Seen with tokenizers 0.23.3: pairs of 250, 500 and 1,000 words, cut to 32 tokens, have 305, 1,223 and 4,823 encodings
# left over, each with ids, offsets and masks of its own: four times as many for twice the words.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
from tokenizers import Tokenizer, models, pre_tokenizers, processors

tokenizer = Tokenizer(models.WordLevel({"[CLS]": 0, "[SEP]": 1, "a": 2}, unk_token="a"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
)
tokenizer.enable_truncation(32)
found = {}
for words in (250, 500, 1000):
    encoding = tokenizer.encode("a " * words, "a " * words)
    found[words] = len(encoding.overflowing)
    print(f"{words} words each: {len(encoding.ids)} tokens kept, {found[words]} encodings left over")
assert found[500] > 3.5 * found[250] and found[1000] > 3.5 * found[500], found
PYTHON
