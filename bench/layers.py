"""A checkpoint with some of the layers of another: the way to an encoder of four layers with real weights."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors.numpy import load_file, save_file

LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
MINILM_L4 = (0, 2, 3, 5)
"""The layers of MiniLM-L6 that `minilm-l4` has."""


def keep_layers(checkpoint: Path, layers: Sequence[int], out: Path) -> Path:
    """Writes to `out` the BERT `checkpoint` (a Hugging Face folder) with these layers only; returns `out`."""
    shutil.copytree(checkpoint, out, dirs_exist_ok=True)
    kept = {}
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        found = LAYER.match(name)
        if found is None:
            kept[name] = tensor
        elif int(found[1]) in layers:
            kept[f"encoder.layer.{layers.index(int(found[1]))}.{name[found.end() :]}"] = tensor
    save_file(kept, out / "model.safetensors", {"format": "pt"})
    config = json.loads((checkpoint / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"num_hidden_layers": len(layers)}, indent=2))
    return out
