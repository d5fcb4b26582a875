"""tritonclient[grpc] and kserve, of the Open Inference Protocol over gRPC.

Both have messages of the same names, and cannot be imported in one process: this file is run as a script, too, in which
tritonclient does what it is asked, `python triton_grpc.py TARGET CALL`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from queue import Queue
from typing import Any

import numpy as np
from world import CONTEXT, DOCUMENTS, QUERY, QUESTION, Call, World

COLUMNS = {"query": [QUERY] * len(DOCUMENTS), "title": DOCUMENTS}


class Asked:
    """What is asked of tritonclient."""

    def __init__(self, target: str) -> None:
        import tritonclient.grpc

        self.triton = tritonclient.grpc
        self.client = self.triton.InferenceServerClient(target)

    def inputs(self, columns: dict[str, list[str]] = COLUMNS) -> list[Any]:
        found = []
        for name, texts in columns.items():
            found.append(self.triton.InferInput(name, [len(texts)], "BYTES"))
            found[-1].set_data_from_numpy(np.array(texts, np.object_))
        return found

    def scores(self, **more: Any) -> list[float]:
        return self.client.infer("pairs", self.inputs(), **more).as_numpy("score").tolist()

    def compressed(self) -> list[float]:
        return self.scores(compression_algorithm="gzip")

    def best_classes(self) -> list[float]:
        wanted = [self.triton.InferRequestedOutput("score", class_count=2)]
        rows = self.client.infer("pairs", self.inputs(), outputs=wanted).as_numpy("score")
        return [float(text.split(b":")[0]) for row in rows for text in row if text.endswith(b":good")]

    def asynchronous(self) -> list[float]:
        answered: Queue[Any] = Queue()
        self.client.async_infer("pairs", self.inputs(), lambda result, error: answered.put(error or result))
        return answered.get().as_numpy("score").tolist()

    def answer(self) -> list[Any]:
        found = self.client.infer("answers", self.inputs({"question": [QUESTION], "context": [CONTEXT]}))
        text, start, score = (found.as_numpy(name)[0] for name in ("answer", "start", "score"))
        return [text.decode(), int(start), float(score)]

    def ready(self) -> bool:
        asked = self.client
        return asked.is_server_live() and asked.is_server_ready() and asked.is_model_ready("pairs", "1")

    def described(self) -> bool:
        names = [each.name for each in self.client.get_model_metadata("pairs").inputs]
        return names == ["query", "title"] and self.client.get_server_metadata().name == "prunetime"

    def unloaded_and_loaded(self) -> list[bool]:
        self.client.unload_model("pairs")
        first = self.client.is_server_ready() and self._has("pairs")
        self.client.load_model("pairs")
        return [first, self._has("pairs")]

    def _has(self, name: str) -> bool:
        index = self.client.get_model_repository_index().models
        return any((each.name, each.state) == (name, "READY") for each in index)

    def late(self) -> Any:
        return self.scores(client_timeout=1e-6)

    def misspelt(self) -> Any:
        return self.client.infer("pairs", self.inputs({"query": ["a"], "titel": ["b"]}))

    def unknown(self) -> Any:
        return self.client.infer("none", self.inputs())

    def config(self) -> Any:
        return self.client.get_model_config("pairs")

    def statistics(self) -> Any:
        return self.client.get_inference_statistics()


def triton(shown: str, name: str, expected: str = "", refused: str = "") -> Call:
    """A call of tritonclient, which is made in another process."""

    def ask(world: World) -> Any:
        command = [sys.executable, __file__, world.grpc["pairs"], name]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise RuntimeError(ran.stderr.splitlines()[-1])
        return json.loads(ran.stdout)

    return Call("tritonclient", f"gRPC: {shown}", ask, expected, refused)


def kserve_scores(world: World) -> Any:
    import kserve

    tensors = []
    for name, texts in COLUMNS.items():
        tensors.append(kserve.InferInput(name, [len(texts)], "BYTES"))
        tensors[-1].set_data_from_numpy(np.array(texts, np.object_))

    async def ask() -> Any:
        async with kserve.InferenceGRPCClient(world.grpc["pairs"]) as asked:
            found = await asked.infer(kserve.InferRequest("pairs", tensors))
            return found.outputs[0].as_numpy()

    return asyncio.run(ask())


def kserve_ready(world: World) -> bool:
    import kserve

    async def ask() -> bool:
        async with kserve.InferenceGRPCClient(world.grpc["pairs"]) as asked:
            return all(
                [await asked.is_server_live(), await asked.is_server_ready(), await asked.is_model_ready("pairs")]
            )

    return asyncio.run(ask())


CALLS = [
    triton("is_server_live, is_server_ready, is_model_ready", "ready", "ready"),
    triton("get_server_metadata, get_model_metadata", "described", "ready"),
    triton("infer", "scores", "scores"),
    triton("infer, compression_algorithm", "compressed", "scores"),
    triton("infer, class_count", "best_classes", "scores"),
    triton("infer, texts and whole numbers as outputs", "answer", "answer"),
    triton("async_infer", "asynchronous", "scores"),
    triton("unload_model, load_model, get_model_repository_index", "unloaded_and_loaded", "both ready"),
    triton("infer, client_timeout of a microsecond", "late", refused="Deadline Exceeded"),
    triton("infer, an input misspelt", "misspelt", refused="no input is named 'titel'"),
    triton("infer, an unknown model", "unknown", refused="no model 'none'"),
    triton("get_model_config", "config", refused="no method /inference.GRPCInferenceService/ModelConfig"),
    triton(
        "get_inference_statistics", "statistics", refused="no method /inference.GRPCInferenceService/ModelStatistics"
    ),
    Call("kserve", "InferenceGRPCClient.infer", kserve_scores, "scores"),
    Call("kserve", "gRPC: is_server_live, is_server_ready, is_model_ready", kserve_ready, "ready"),
]

if __name__ == "__main__":
    print(json.dumps(getattr(Asked(sys.argv[1]), sys.argv[2])()))
