"""Which code a result is of, and where it was made."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from prunetime.core.machine import this_machine


def commit() -> str:
    """The commit that is checked out."""
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()


def provenance() -> dict[str, Any]:
    """Machine, commit and the command that is running."""
    script, *arguments = sys.argv
    command = " ".join([f"bench/{Path(script).name}", *arguments])
    return {"machine": this_machine().to_json(), "commit": commit(), "command": command}
