"""Putting a model on the Hugging Face hub (or what `HF_ENDPOINT` is)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import HfApi, errors
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from prunetime.errors import InputError, first_line
from prunetime.export.transformers import export_transformers

NO_ANSWER: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # it is imported there, and not exported
"""The errors of the HTTP library below huggingface_hub, which differs between its versions."""


def push_to_hub(source: Path, repository: str, *, private: bool = False) -> str:
    """Puts the folder that `export_transformers` makes of the artifact `source` into `repository` (`owner/name`), which
    is made where it is not there. Returns its address.

    What is in the repository already stays in its history.

    Raises InputError where the hub refuses it or does not answer, and ArtifactError as `artifact.read` does.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = export_transformers(source, Path(temporary) / "model", repository)
        api = HfApi()
        try:
            address = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"{source.name}, by prunetime")
        except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError) as error:
            raise InputError(f"{repository}: the hub at {api.endpoint} refuses it: {first_line(error)}") from error
        except (NO_ANSWER, OSError) as error:
            raise InputError(
                f"{repository}: the hub at {api.endpoint} does not answer: {first_line(error)}; look at the network, "
                "HF_ENDPOINT, HF_HUB_OFFLINE and proxies, and run the same command again"
            ) from error
    return str(address)
