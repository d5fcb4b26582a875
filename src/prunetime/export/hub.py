"""Putting a model on the Hugging Face hub (or what `HF_ENDPOINT` is)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from prunetime.errors import InputError
from prunetime.export.transformers import export_transformers


def push_to_hub(source: Path, repository: str, *, private: bool = False) -> str:
    """Puts the folder that `export_transformers` makes of the artifact `source` into `repository` (`owner/name`), which
    is made where it is not there. Returns its address.

    Raises InputError where the hub refuses it, and ArtifactError as `artifact.read` does.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = export_transformers(source, Path(temporary) / "model")
        api = HfApi()
        try:
            address = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"{source.name}, by prunetime")
        except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
            first = str(error).strip().splitlines()[0]
            raise InputError(f"{repository}: the hub at {api.endpoint} refuses it: {first}") from error
    return str(address)
