#!/usr/bin/env bash
# tokenizers gives the interpreter to other threads while it encodes a batch, of one text as well, but keeps it for all of
# Tokenizer.encode: a server that tokenises a long text with `encode` in a thread stands still meanwhile, and one that calls
# `encode_batch([text])` does not. What is seen is how long another thread that sleeps for a millisecond at a time was kept
# waiting at most, as a share of the call.
#
# Seen with tokenizers 0.23.3: encode 0.9 to 1.0, encode_batch below 0.2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3
TOKENIZERS_PARALLELISM=false "$folder/venv/bin/python" - <<'PYTHON'
import time
from collections.abc import Callable
from threading import Thread

from tokenizers import Tokenizer, models, pre_tokenizers

tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "red": 1, "sofa": 2}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
text = "red sofa " * 200_000


def longest_wait(call: Callable[[], object]) -> float:
    """Of this thread beside the call, as a share of what the call takes."""
    worker, waits = Thread(target=call), [0.0]
    start = last = time.perf_counter()
    worker.start()
    while worker.is_alive():
        time.sleep(0.001)
        now = time.perf_counter()
        waits.append(now - last)
        last = now
    return max(waits) / (time.perf_counter() - start)


alone, batch = longest_wait(lambda: tokenizer.encode(text)), longest_wait(lambda: tokenizer.encode_batch([text]))
print(f"the longest wait beside encode: {alone:.2f} of the call; beside encode_batch: {batch:.2f}")
assert alone > 0.6 > batch
PYTHON
