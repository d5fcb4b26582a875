#!/usr/bin/env bash
# transformers 5 reads a BERT with relative positions (config.json: "position_embedding_type": "relative_key", as
# transformers 3 to 4 trained and saved them) as one with absolute positions: the config says nothing of it, the trained
# table of distances is left out, and the hidden states are those of another model. transformers 4 honours the setting.
#
# Seen with torch 2.13.0: transformers 4.57.6 differs from the absolute model by more than 0.1, transformers 5.24.0 by 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/relative.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

transformers.logging.set_verbosity_error()
folder = Path(sys.argv[1]) / "model"
torch.manual_seed(0)
sizes = {"vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
absolute = BertModel(BertConfig(**sizes, max_position_embeddings=16)).eval()
absolute.save_pretrained(folder)
tensors = load_file(folder / "model.safetensors")
for layer in (0, 1):
    name = f"encoder.layer.{layer}.attention.self.distance_embedding.weight"
    tensors[name] = torch.randn(2 * 16 - 1, 16)
save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
config = json.loads((folder / "config.json").read_text())
(folder / "config.json").write_text(json.dumps({**config, "position_embedding_type": "relative_key"}))
relative = BertModel.from_pretrained(folder).eval()
ids = torch.arange(10)[None]
with torch.no_grad():
    difference = (relative(ids).last_hidden_state - absolute(ids).last_hidden_state).abs().max().item()
print(f"transformers {transformers.__version__}: off the absolute model by {difference:.3g}")
sys.exit(0 if (difference > 0.1) == transformers.__version__.startswith("4.") else 1)
PYTHON
for version in 4.57.6 5.24.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet torch==2.13.0 "transformers==$version"
    "$folder/$version/bin/python" "$folder/relative.py" "$folder/$version"
done
