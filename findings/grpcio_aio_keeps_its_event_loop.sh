#!/usr/bin/env bash
# grpc.aio keeps the event loop of a server that was stopped, after asyncio.run has closed the loop, and with it all that
# hangs on the loop, such as the handler of a signal and the models that it names. A program that serves, stops and goes on
# keeps that memory.
#
# Seen with grpcio 1.85.3 on Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet grpcio==1.85.3
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import gc
import weakref

import grpc.aio


class Large:
    """Stands for what a loop may hold."""


async def serve(held: Large, with_grpc: bool) -> None:
    asyncio.get_running_loop().held = held
    if with_grpc:
        server = grpc.aio.server()
        server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await server.stop(None)


def outlives_its_loop(with_grpc: bool) -> bool:
    held = Large()
    known = weakref.ref(held)
    asyncio.run(serve(held, with_grpc))
    del held
    gc.collect()
    return known() is not None


without, with_grpc = outlives_its_loop(False), outlives_its_loop(True)
print(f"held after its loop was closed: without grpc.aio {without}, with it {with_grpc}")
assert (without, with_grpc) == (False, True)
PYTHON
