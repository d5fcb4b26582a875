"""A folder that transformers loads with `trust_remote_code=True` where prunetime is not installed: an artifact, and the
modules of ours that its classes need, as they are but for where they import each other from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from prunetime.core import artifact
from prunetime.errors import InputError
from prunetime.export.card import AUTO, transformers_card
from prunetime.models import modeling
from prunetime.models.hf import modules_of
from prunetime.models.modeling import OF_HEAD, PrunetimeConfig


def export_transformers(source: Path, folder: Path, name: str = ".") -> Path:
    """Writes `folder` from the artifact `source`; the code in its README.md loads it by `name`.

    Raises ArtifactError as `artifact.read` does, and InputError where `folder` exists or cannot be written.
    """
    found = artifact.read(source)
    if folder.exists():
        raise InputError(f"{folder} exists: choose another folder or remove it")
    with artifact.replacing_folder(folder) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
        path, head = temporary / "config.json", found.manifest.task.traits.head
        module = modeling.__name__.rpartition(".")[2]
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings["auto_map"] = {
            "AutoConfig": f"{module}.{PrunetimeConfig.__name__}",
            AUTO[head]: f"{module}.{OF_HEAD[head].__name__}",
        }
        path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        (temporary / "model_card.md").unlink(missing_ok=True)  # whose code needs prunetime
        (temporary / "README.md").write_text(transformers_card(found.manifest, name), encoding="utf-8")
        (temporary / artifact.MANIFEST).unlink()  # it says what files there were
        for name, code in modules_of(modeling.__name__).items():
            (temporary / name).write_text(code, encoding="utf-8")
    return folder
