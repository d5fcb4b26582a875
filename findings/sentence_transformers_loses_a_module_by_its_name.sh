#!/usr/bin/env bash
# sentence-transformers keeps the modules of modules.json in a dictionary by "name": of two entries with one name the
# first module is gone, without a word. Here Dense and Normalize are both called "2", and embeddings are of the encoder
# alone, normalised.
#
# Seen with sentence-transformers 6.2.0: 3 modules of 4 are left, and embeddings are 16 wide instead of 4.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 sentence-transformers==6.2.0 transformers==5.24.0
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON' 2>/dev/null
import json
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel

folder = Path(sys.argv[1])
words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "sofa"])}
sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
config = BertConfig(vocab_size=len(words), **sizes)
BertModel(config).save_pretrained(folder / "encoder")
tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
tokenizer.save(str(folder / "encoder" / "tokenizer.json"))
modules = [Transformer(str(folder / "encoder")), Pooling(16), Dense(16, 4), Normalize()]
SentenceTransformer(modules=modules).save_pretrained(str(folder / "model"))
width = SentenceTransformer(str(folder / "model")).encode(["red sofa"]).shape[1]
listed = json.loads((folder / "model" / "modules.json").read_text())
listed[3]["name"] = listed[2]["name"]
(folder / "model" / "modules.json").write_text(json.dumps(listed))
model = SentenceTransformer(str(folder / "model"))
print(f"{len(listed)} modules listed, {len(model)} left; {width} numbers before, {model.encode(['red sofa']).shape[1]} now")
assert (width, len(model), model.encode(["red sofa"]).shape[1]) == (4, 3, 16)
PYTHON
