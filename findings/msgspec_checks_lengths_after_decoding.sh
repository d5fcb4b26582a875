#!/usr/bin/env bash
# msgspec checks `Meta(max_length=...)` of a list once the whole list is decoded: a limit of ten items saves neither the time
# nor the memory of the other hundred thousand. Who wants to bound what a body costs must count before decoding.
#
# Seen with msgspec 0.22.0: the peak of memory is the same with the limit and without it, and the list is refused.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet msgspec==0.22.0
"$folder/venv/bin/python" - <<'PYTHON'
import tracemalloc
from contextlib import suppress
from typing import Annotated, Any

import msgspec

ITEMS = 100_000
body = b"[" + b",".join(b'"%d"' % number for number in range(ITEMS)) + b"]"


def peak(kind: Any) -> int:
    """Bytes at most while the body is decoded."""
    tracemalloc.start()
    with suppress(msgspec.ValidationError):
        msgspec.json.decode(body, type=kind)
        print(f"{kind}: decoded")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


limited, unlimited = peak(Annotated[list[str], msgspec.Meta(max_length=10)]), peak(list[str])
print(f"bytes at most with a limit of 10 items: {limited}; without: {unlimited}")
assert limited > 0.9 * unlimited
PYTHON
