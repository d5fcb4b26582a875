"""tritonclient[http] and kserve, of the Open Inference Protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import kserve
import numpy as np
import tritonclient.http as triton
from world import DOCUMENTS, QUERY, Call, World

COLUMNS = {"query": [QUERY] * len(DOCUMENTS), "title": DOCUMENTS}


def client(world: World, model: str = "pairs") -> triton.InferenceServerClient:
    return triton.InferenceServerClient(world.urls[model].removeprefix("http://"))


def inputs(binary: bool = True, names: tuple[str, str] = ("query", "title"), times: int = 1) -> list[triton.InferInput]:
    """The columns of texts, so many times one after the other."""
    found = []
    for name, column in zip(names, COLUMNS.values(), strict=True):
        texts = column * times
        tensor = triton.InferInput(name, [len(texts)], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode() for text in texts], np.object_), binary_data=binary)
        found.append(tensor)
    return found


def scores(world: World, binary: bool = True, **more: Any) -> Any:
    return client(world).infer("pairs", inputs(binary), **more).as_numpy("score")


def compressed(world: World, algorithm: str) -> Any:
    """The last scores of so many that the answer is compressed, too."""
    found = client(world).infer("pairs", inputs(times=100), request_compression_algorithm=algorithm,
                                response_compression_algorithm=algorithm)  # fmt: skip
    return found.as_numpy("score")[-len(DOCUMENTS) :]


def best_classes(world: World) -> list[float]:
    """The scores of the class `good`, of all classes as value:index:label."""
    wanted = [triton.InferRequestedOutput("score", class_count=2)]
    rows = client(world).infer("pairs", inputs(), outputs=wanted).as_numpy("score")
    return [float(text.split(b":")[0]) for row in rows for text in row if text.endswith(b":good")]


def unloaded_and_loaded(world: World) -> list[bool]:
    asked = client(world, "topics")
    asked.unload_model("pairs")
    first = asked.is_model_ready("pairs")
    asked.load_model("pairs")
    return [first, asked.is_model_ready("pairs")]


def states(world: World) -> list[str]:
    asked, found = client(world, "topics"), []
    for change in (asked.unload_model, asked.load_model):
        change("words")
        found += [each["state"] for each in asked.get_model_repository_index() if each["name"] == "words"]
    return found


def asynchronous(world: World) -> Any:
    return client(world).async_infer("pairs", inputs()).get_result().as_numpy("score")


def answer(world: World) -> list[Any]:
    from world import CONTEXT, QUESTION

    tensors = []
    for name, text in (("question", QUESTION), ("context", CONTEXT)):
        tensor = triton.InferInput(name, [1], "BYTES")
        tensor.set_data_from_numpy(np.array([text], np.object_))
        tensors.append(tensor)
    found = client(world).infer("answers", tensors)
    text, start, score = (found.as_numpy(name)[0] for name in ("answer", "start", "score"))
    return [text.decode(), int(start), float(score)]


def kserve_scores(world: World, binary: bool) -> Any:
    tensors = []
    for name, texts in COLUMNS.items():
        tensor = kserve.InferInput(name, [len(texts)], "BYTES")
        tensor.set_data_from_numpy(np.array(texts, np.object_), binary_data=binary)
        tensors.append(tensor)

    async def ask() -> Any:
        async with kserve.InferenceRESTClient(kserve.inference_client.RESTConfig(protocol="v2")) as asked:
            request = kserve.InferRequest("pairs", tensors)
            found = await asked.infer(world.urls["pairs"], request, model_name="pairs")
            return found.outputs[0].as_numpy()

    return asyncio.run(ask())


def kserve_ready(world: World) -> bool:
    async def ask() -> bool:
        async with kserve.InferenceRESTClient(kserve.inference_client.RESTConfig(protocol="v2")) as asked:
            url = world.urls["pairs"]
            ready = [await asked.is_server_live(url), await asked.is_server_ready(url)]
            return all([*ready, await asked.is_model_ready(url, "pairs")])

    return asyncio.run(ask())


def _ready(world: World) -> bool:
    asked = client(world)
    return asked.is_server_live() and asked.is_server_ready() and asked.is_model_ready("pairs", "1")


def _described(world: World) -> bool:
    asked = client(world)
    metadata, config = asked.get_model_metadata("pairs"), asked.get_model_config("pairs")
    names = [each["name"] for each in metadata["inputs"]]
    counted = asked.get_inference_statistics("pairs")["model_stats"][0]
    every = asked.get_inference_statistics()["model_stats"]
    same = names == [each["name"] for each in config["input"]] == ["query", "title"]
    return (
        same and counted["name"] == "pairs" and len(every) == 5 and asked.get_server_metadata()["name"] == "prunetime"
    )


def call(shown: str, ask: Any, expected: str = "", refused: str = "", package: str = "tritonclient") -> Call:
    return Call(package, shown, ask, expected, refused)


CALLS = [
    call("is_server_live, is_server_ready, is_model_ready", _ready, "ready"),
    call("get_server_metadata, get_model_metadata, get_model_config, get_inference_statistics", _described, "ready"),
    call("infer, tensors in binary (the default)", scores, "scores"),
    call("infer, tensors in JSON", lambda world: scores(world, binary=False), "scores"),
    call(
        "infer, outputs in JSON",
        lambda world: scores(world, outputs=[triton.InferRequestedOutput("score", binary_data=False)]),
        "scores",
    ),
    call("infer, texts and whole numbers as outputs", answer, "answer"),
    call("infer, model_version", lambda world: scores(world, model_version="1"), "scores"),
    call("infer, request and response in gzip", lambda world: compressed(world, "gzip"), "scores"),
    call("infer, request and response in deflate", lambda world: compressed(world, "deflate"), "scores"),
    call("infer, class_count", best_classes, "scores"),
    call("async_infer", asynchronous, "scores"),
    call("infer, timeout of a microsecond", lambda world: scores(world, timeout=1), refused="[503]"),
    call("infer, priority", lambda world: scores(world, priority=1), refused="priority is '1'"),
    call("infer, sequence_id", lambda world: scores(world, sequence_id=3), refused="sequence_id is '3'"),
    call("infer, parameters", lambda world: scores(world, parameters={"top": 1}), refused="no parameter top"),
    call("infer, an input misspelt", lambda world: client(world).infer("pairs", inputs(names=("query", "titel"))),
         refused="no input is named 'titel'"),
    call("infer, an unknown model", lambda world: client(world).infer("none", inputs()), refused="no model 'none'"),
    call("unload_model, load_model", unloaded_and_loaded, "both ready"),
    call("get_model_repository_index", states, "state"),
    call("load_model, config", lambda world: client(world).load_model("pairs", config="{}"), refused="config"),
    call("get_trace_settings", lambda world: client(world).get_trace_settings(), refused="no settings of traces"),
    call("get_log_settings", lambda world: client(world).get_log_settings(), refused="no settings of logs"),
    call("get_system_shared_memory_status",
         lambda world: client(world).get_system_shared_memory_status() == [], "ready"),
    call("register_system_shared_memory",
         lambda world: client(world).register_system_shared_memory("mine", "/mine", 8),
         refused="'mine' is not registered"),
    call("InferenceRESTClient.infer, JSON", lambda world: kserve_scores(world, False), "scores", package="kserve"),
    call("InferenceRESTClient.infer, binary", lambda world: kserve_scores(world, True), "scores", package="kserve"),
    call("is_server_live, is_server_ready, is_model_ready", kserve_ready, "ready", package="kserve"),
]  # fmt: skip
