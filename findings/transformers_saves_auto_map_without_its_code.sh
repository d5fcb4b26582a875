#!/usr/bin/env bash
# A model whose config.json has an auto_map, loaded by a class that is registered on this machine, keeps the auto_map when
# transformers saves it again, but not the code that it names: the new folder cannot be loaded with trust_remote_code
# anywhere else, and the error comes only there.
#
# Seen with transformers 5.24.0 and torch 2.13.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
cat > "$folder/tiny.py" <<'PYTHON'
import torch
from transformers import PreTrainedConfig, PreTrainedModel


class TinyConfig(PreTrainedConfig):
    model_type = "tiny-of-ours"


class TinyModel(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(2, 2)
        self.post_init()
PYTHON
cat > "$folder/first.py" <<'PYTHON'
import json
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import tiny
from transformers import AutoConfig, AutoModel

AutoConfig.register("tiny-of-ours", tiny.TinyConfig)
AutoModel.register(tiny.TinyConfig, tiny.TinyModel)
first, again = Path(sys.argv[1]) / "first", Path(sys.argv[1]) / "again"
tiny.TinyModel(tiny.TinyConfig()).save_pretrained(first)
config = json.loads((first / "config.json").read_text())
config["auto_map"] = {"AutoConfig": "tiny.TinyConfig", "AutoModel": "tiny.TinyModel"}
(first / "config.json").write_text(json.dumps(config))
(first / "tiny.py").write_text(Path(sys.argv[1], "tiny.py").read_text())
AutoModel.from_pretrained(first).save_pretrained(again)
has_map = "auto_map" in json.loads((again / "config.json").read_text())
print(f"saved again: auto_map {has_map}, files {sorted(path.name for path in again.iterdir())}")
assert has_map and not (again / "tiny.py").exists()
PYTHON
"$folder/venv/bin/python" "$folder/first.py" "$folder" 2>/dev/null
cd "$folder/again" # where no module tiny is found
if HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -c '
from transformers import AutoModel
AutoModel.from_pretrained(".", trust_remote_code=True)' 2>/dev/null; then
    echo "elsewhere: it loads" && exit 1
fi
echo "elsewhere: it does not load"
