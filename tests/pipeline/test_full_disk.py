"""A run on a disk that fills up: a clear error, exit code 2, and a folder that resumes."""

import json
import subprocess
from pathlib import Path

import pytest
from tiny import QUICK_PRUNETIME, bert_folder, write_tsv

from prunetime.tasks.synthetic import ad_relevance

FILL_THEN_GROW = """
set -e
mount -t tmpfs -o size={small} tmpfs {disk}
"$@" --out {disk}/run --json && exit 9 || test $? = 2
test ! -e {disk}/run/artifact
mount -o remount,size=64m {disk}
"$@" --out {disk}/run --json
"""


@pytest.mark.system
@pytest.mark.parametrize("small", [pytest.param("64k", marks=pytest.mark.full), "1200k"])
def test_a_run_on_a_full_disk_says_so_and_resumes_when_there_is_room(tmp_path: Path, small: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [
        *QUICK_PRUNETIME, "prune", "--model", str(bert_folder(tmp_path / "bert")),
        "--data", str(write_tsv(ad_relevance(400, 0), tmp_path / "ads.tsv")), "--text", "query,title",
        "--label", "label", "--latency", "95%", "--seq-len", "24", "--effort", "quick",
    ]  # fmt: skip
    script = FILL_THEN_GROW.format(disk=disk, small=small)
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", *command]
    ran = subprocess.run(namespace, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert f"the disk of {disk}/run is full" in ran.stderr
    assert "Traceback" not in ran.stderr
    refused, finished = (json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{"))
    assert refused["exit_code"] == 2
    assert finished["artifact"] == f"{disk}/run/artifact"
