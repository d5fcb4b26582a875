#!/usr/bin/env bash
# `import jsonschema` imports rfc3987-syntax where that is installed (cyclonedx-bom, jsonschema[format-nongpl]), which
# compiles a grammar as it is imported: about a second of CPU, in every process. Ray imports jsonschema, so that each of
# the dozen processes that it starts takes twice as long, though nobody checks an IRI.
#
# Seen with jsonschema 4.26.0, rfc3987-syntax 1.1.0 and ray 2.60.0: `import ray` takes 2.5 times as much CPU.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0 jsonschema==4.26.0
cat > "$folder/cpu.py" <<'PYTHON'
import resource
import subprocess
import sys

for _ in range(2):  # the first time, modules are compiled
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-c", "import ray"], check=True)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
print(f"{spent:.2f}")
PYTHON
without=$("$folder/venv/bin/python" "$folder/cpu.py")
"$folder/venv/bin/pip" install --quiet rfc3987-syntax==1.1.0
with=$("$folder/venv/bin/python" "$folder/cpu.py")
echo "import ray: $without s of CPU, and $with s once rfc3987-syntax is installed"
python3 -c "assert $with > 1.5 * $without, 'it costs little now'"
