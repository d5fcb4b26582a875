#!/usr/bin/env bash
# AutoTokenizer of transformers 5 puts the normalizer and the pre-tokenizer of its own class in the place of those in the
# tokenizer.json beside a BERT, without a word: the file says that "Red-Sofa" is one token, the tokenizer that is loaded
# from it lower-cases and splits it in three. Saving that tokenizer writes the replaced parts into tokenizer.json.
#
# Seen with transformers 5.24.0 and tokenizers 0.23.3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 tokenizers==0.23.3
"$folder/venv/bin/python" - "$folder/model" <<'PYTHON' 2>/dev/null
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, BertConfig

folder = Path(sys.argv[1])
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Red-Sofa", "red", "-", "sofa"]
tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
BertConfig(vocab_size=len(words)).save_pretrained(folder)
tokenizer.save(str(folder / "tokenizer.json"))
of_file = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("Red-Sofa").tokens
of_transformers = AutoTokenizer.from_pretrained(folder).tokenize("Red-Sofa")
print(f"tokenizer.json: {of_file}; AutoTokenizer: {of_transformers}")
assert of_file == ["Red-Sofa"] and of_transformers == ["red", "-", "sofa"]
PYTHON
