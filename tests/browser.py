"""A page as Chromium leaves it."""

import shutil
import subprocess
from pathlib import Path

from waiting import PATIENCE

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--window-size=1400,1000",
    "--virtual-time-budget=5000",
)  # fmt: skip


def dom_of(url: str, folder: Path) -> str:
    """The document at `url` after its scripts ran; the browser's profile is in `folder` meanwhile."""
    profile = folder / "browser"
    command = ["chromium", *FLAGS, f"--user-data-dir={profile}", "--dump-dom", url]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    shutil.rmtree(profile, ignore_errors=True)
    return dom
