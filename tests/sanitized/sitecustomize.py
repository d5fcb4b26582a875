"""Makes `prunetime._engine`, in this process and its children, the build that SANITIZED_ENGINE names."""

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec


class SanitizedEngine:
    """Comes before every other finder, an editable install's included."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG004 (importlib gives them)
        if name != "prunetime._engine":
            return None
        return importlib.util.spec_from_file_location(name, os.environ["SANITIZED_ENGINE"])


sys.meta_path.insert(0, SanitizedEngine)
