#!/usr/bin/env bash
# ray.init gives up on a Ray that is slow to start (its agent has 15 s, all of it 30 s, which no setting changes), and
# leaves the processes that it has started: whoever tries again in the same program has gcs_server and others twice.
#
# Seen with ray 2.60.0. The agent is made slow by a sitecustomize.py, as a busy machine makes it
# (https://github.com/ray-project/ray/issues/65983 has the limit of 15 s, not what is left behind).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0 psutil==7.2.2
mkdir "$folder/slow"
cat > "$folder/slow/sitecustomize.py" <<'PYTHON'
import sys
import time

if any("dashboard/agent.py" in word for word in sys.orig_argv):
    time.sleep(60)
PYTHON
PYTHONPATH="$folder/slow" RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" - <<'PYTHON'
import psutil
import ray

try:
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
    assert "timed out during startup" in str(error)
else:
    raise AssertionError("Ray waits for its agent now")
ray.shutdown()
left = [child.name() for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
print(f"after ray.shutdown() there are {left}")
assert "gcs_server" in left, "nothing is left now"
PYTHON
