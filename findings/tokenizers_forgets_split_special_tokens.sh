#!/usr/bin/env bash
# tokenizers can read special tokens that are written out in a text as text (encode_special_tokens = True), but neither
# tokenizer.json nor a copy made by it holds that: the same file, loaded again, makes other ids of the same text.
#
# Seen with tokenizers 0.23.3: "a [SEP]" is ['a', '[', 'sep', ']'] before and ['a', '[SEP]'] after a round trip.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

words = ["[UNK]", "a", "[", "sep", "]"]
tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.normalizer = normalizers.Lowercase()
tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
tokenizer.add_special_tokens(["[SEP]"])
tokenizer.encode_special_tokens = True
before = tokenizer.encode("a [SEP]").tokens
after = Tokenizer.from_str(tokenizer.to_str()).encode("a [SEP]").tokens
print(f"before: {before}; after a round trip: {after}")
assert before == ["a", "[", "sep", "]"] and after == ["a", "[SEP]"]
PYTHON
