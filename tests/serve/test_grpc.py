"""The Open Inference Protocol over gRPC, beside the same over HTTP: one service, so the same scores and refusals."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any, get_args

import grpc
import numpy as np
import pytest
from grpc_client import HEALTH, INFERENCE, PAIRS, Client, infer_request, values
from grpc_health.v1 import health_pb2
from grpc_tools import protoc
from served import ADS, CONFIG, Served, make_artifact
from waiting import PATIENCE, eventually

from prunetime import load
from prunetime.serve.errors import GRPC_STATUS, STATUS, Code
from prunetime.serve.grpc import open_inference_pb2 as messages
from prunetime.serve.grpc.wire import has_more_fields
from prunetime.serve.settings import ServeSettings

SOURCE = Path(__file__).parents[2] / "src"
Serve = Callable[..., Served]

CONTEXT = "a sofa with red legs stands beside a lamp for the bath and a blue chair"
COLUMNS = {
    "pairs": PAIRS,
    "topics": {"text": ["red sofa", "a lamp for the bath"]},
    "several": {"text": ["red sofa", "a lamp for the bath"]},
    "ranked": {"query": ["red sofa"], "title": ["a sofa with red legs"]},
    "twins": {"query": ["red sofa", "lamp"], "title": ["a sofa with red legs", "lamp"]},
    "answers": {"question": ["which legs", "which chair"], "context": [CONTEXT, CONTEXT]},
    "words": {"tokens": ["a sofa with red legs", "lamp"]},
}
"""Inputs of a model for each kind of task."""


def over_http(served: Served, name: str, columns: dict[str, list[str]], **more: Any) -> Any:
    inputs = [
        {"name": column, "shape": [len(texts)], "datatype": "BYTES", "data": texts} for column, texts in columns.items()
    ]
    return served.post(f"/v2/models/{name}/infer", {"inputs": inputs, **more})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in COLUMNS:
        make_artifact(folder / name, "prompted pairs" if name == "ranked" else name)
    make_artifact(folder / "other", seed=1)
    return folder


@pytest.fixture(scope="module")
def served(serve: Serve, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A server of all models, in an experiment."""
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "experiments.toml").write_text(CONFIG)
    experiment = "--experiment", folder / "experiments.toml", "--outcomes", folder / "outcomes.sqlite"
    models = [root / name for name in (*COLUMNS, "other")]
    return serve(*models, "--grpc-port", "0", "--model-root", root, *experiment)


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Client]:
    with Client(served) as made:
        yield made


@pytest.mark.parametrize("name", COLUMNS)
def test_scores_are_those_of_http_to_the_bit(name: str, served: Served, client: Client, root: Path) -> None:
    columns = COLUMNS[name]
    said = {each["name"]: each for each in over_http(served, name, columns).json["outputs"]}
    for raw in (False, True):
        request = infer_request(name, columns, raw, id="seven")
        for tensor, content in zip(request.inputs, request.raw_input_contents, strict=False):  # as KServe's clients
            tensor.parameters["binary_data_size"].int64_param = len(content)
        response = client.ask("ModelInfer", request)
        assert (response.id, response.model_name, response.model_version) == ("seven", name, "1")
        assert bool(response.raw_output_contents) == raw
        found = values(response)
        assert list(found) == list(said)
        for output, (shape, data) in found.items():
            assert shape == said[output]["shape"]
            expected = said[output]["data"]
            np.testing.assert_array_equal(data, np.float32(expected) if output == "score" else expected)
    assert client.metadata["x-prunetime-model"] == f"{name}/1"
    assert client.metadata["server-timing"].startswith("tokenize;dur=")
    if name in ("pairs", "topics", "several", "ranked", "twins"):
        rows = list(zip(*columns.values(), strict=True))
        scores = load(root / name).score(rows)
        np.testing.assert_array_equal(found["score"][1].reshape(scores.shape), scores)


def test_parameters_mean_what_they_do_over_http(served: Served, client: Client) -> None:
    request = infer_request("topics", COLUMNS["topics"])
    request.outputs.add(name="score").parameters["classification"].int64_param = 2
    request.parameters["timeout"].int64_param = int(1e6 * PATIENCE)
    request.parameters["priority"].uint64_param = 0
    wanted = [{"name": "score", "parameters": {"classification": 2}}]
    (said,) = over_http(served, "topics", COLUMNS["topics"], outputs=wanted).json["outputs"]
    assert values(client.ask("ModelInfer", request)) == {"score": (said["shape"], said["data"])}


def test_servers_and_models_are_described_as_over_http(served: Served, client: Client) -> None:
    assert client.ask("ServerLive", messages.ServerLiveRequest()).live
    assert client.ask("ServerReady", messages.ServerReadyRequest()).ready
    assert client.ask("ModelReady", messages.ModelReadyRequest(name="pairs", version="1")).ready
    said, found = served.get("/v2").json, client.ask("ServerMetadata", messages.ServerMetadataRequest())
    assert (found.name, found.version) == (said["name"], said["version"])
    assert set(said["extensions"]) - set(found.extensions) == {"model_configuration", "statistics"}
    for name in COLUMNS:
        said = served.get(f"/v2/models/{name}").json
        found = client.ask("ModelMetadata", messages.ModelMetadataRequest(name=name))
        assert (found.name, list(found.versions), found.platform) == (name, said["versions"], said["platform"])
        for tensors in ("inputs", "outputs"):
            shown = [
                {"name": each.name, "datatype": each.datatype, "shape": list(each.shape)}
                for each in getattr(found, tensors)
            ]
            assert shown == said[tensors]
    index = client.ask("RepositoryIndex", messages.RepositoryIndexRequest(ready=True)).models
    fields = ("name", "version", "state", "reason")
    shown = [{field: getattr(each, field) for field in fields} for each in index]
    assert shown == served.post("/v2/repository/index", {}).json


REFUSED_BY_BOTH: dict[str, tuple[str, dict[str, list[str]]]] = {
    "no such model": ("none", PAIRS),
    "a name that is wrong": ("pairs", {"query": ["a"], "titel": ["b"]}),
    "a column that is missing": ("pairs", {"query": ["a"]}),
    "rows that do not go together": ("pairs", {"query": ["a"], "title": ["b", "c"]}),
    "no rows": ("pairs", {"query": [], "title": []}),
}


@pytest.mark.parametrize("which", REFUSED_BY_BOTH)
def test_what_http_refuses_is_refused_in_the_same_words(which: str, served: Served, client: Client) -> None:
    name, columns = REFUSED_BY_BOTH[which]
    said = over_http(served, name, columns).json
    error = client.refused("ModelInfer", infer_request(name, columns))
    assert (error.details(), client.metadata["error-type"]) == (said["error"], said["error_type"])
    assert error.code().name == GRPC_STATUS[said["error_type"]]


def test_contents_that_are_no_texts_are_refused_by_name(client: Client) -> None:
    def edited(edit: Callable[[Any], object], raw: bool = False) -> Any:
        request = infer_request("pairs", PAIRS, raw)
        edit(request)
        return request

    def other_kind(request: Any) -> None:
        request.inputs[1].datatype = "FP32"

    def other_contents(request: Any) -> None:
        request.inputs[1].contents.fp32_contents.append(1.0)

    def parameter(request: Any) -> None:
        request.inputs[0].parameters["binary_data_size"].int64_param = 3

    def form(request: Any) -> None:
        request.parameters["binary_data_output"].bool_param = True

    def form_of_output(request: Any) -> None:
        request.outputs.add(name="score").parameters["binary_data"].bool_param = False

    refused = {
        "datatype is 'FP32'": edited(other_kind),
        "input title has fp32_contents": edited(other_contents),
        "bytes_contents beside raw_input_contents": edited(
            lambda each: each.inputs[0].contents.bytes_contents.append(b"a"), raw=True
        ),
        "1 buffers for 2 inputs": edited(lambda each: each.raw_input_contents.pop(), raw=True),
        "bytes end before the end of element 1": edited(
            lambda each: each.raw_input_contents.__setitem__(0, each.raw_input_contents[0][:-1]), raw=True
        ),
        "not UTF-8": edited(lambda each: each.inputs[0].contents.bytes_contents.__setitem__(0, b"\xff")),
        "binary_data_size is 3, and there are no raw contents": edited(parameter),
        "binary_data_size is 3, and there are 24 bytes of raw contents": edited(parameter, raw=True),
        "the request: binary_data_output is True: outputs are raw where inputs are": edited(form),
        "output score: binary_data is False: outputs are raw where inputs are": edited(form_of_output, raw=True),
        "there is no 'scores'": edited(lambda each: each.outputs.add(name="scores")),
    }
    for says, request in refused.items():
        error = client.refused("ModelInfer", request)
        assert (error.code(), client.metadata["error-type"]) == (grpc.StatusCode.INVALID_ARGUMENT, "unusable")
        assert says in error.details()


def test_messages_over_the_limit_are_refused_however_they_are_compressed(served: Served, client: Client) -> None:
    name = "a" * (ServeSettings(()).max_body_size + 1)
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        error = client.refused("ModelInfer", messages.ModelInferRequest(model_name=name), compression=compression)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    many = messages.ModelInferRequest(model_name="pairs")
    for _ in range(ServeSettings(()).max_body_values):
        many.inputs.add()
    error = client.refused("ModelInfer", many)
    assert (error.code(), client.metadata["error-type"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too_large")
    rows = ["lamp"] * 1025
    error = client.refused("ModelInfer", infer_request("topics", {"text": rows}))
    assert (error.code(), client.metadata["error-type"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too_large")
    assert client.ask("ModelInfer", infer_request("pairs", PAIRS), compression=grpc.Compression.Gzip)
    assert "Traceback" not in served.said


def test_what_is_no_method_and_no_message_is_said(client: Client) -> None:
    for name, code, says in (
        ("ModelStreamInfer", "UNIMPLEMENTED", "ModelStreamInfer; inference.GRPCInferenceService has ServerLive,"),
        ("ModelInfer", "INVALID_ARGUMENT", "the message is no inference.ModelInferRequest"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            client.channel.unary_unary(f"/{INFERENCE}/{name}")(b"\xff\xff", timeout=PATIENCE)
        assert refused.value.code().name == code
        assert says in refused.value.details()


def test_requests_are_counted_and_logged_with_their_ids(served: Served, client: Client) -> None:
    client.ask("ModelInfer", infer_request("pairs", PAIRS), metadata=[("x-request-id", "mine")])
    assert client.metadata["x-request-id"] == "mine"
    client.refused("ModelReady", messages.ModelReadyRequest(name="none"), metadata=[("x-request-id", "no such")])
    assert re.fullmatch("[0-9a-f]{16}", client.metadata["x-request-id"])  # a blank cannot be logged

    def line(of: str) -> dict[str, Any]:
        lines = [json.loads(line) for line in served.said.splitlines() if line.startswith("{")]
        return next((each for each in lines if each["id"] == of), {})

    eventually(lambda: bool(line("mine") and line(client.metadata["x-request-id"])))
    route = f"/{INFERENCE}/ModelInfer"
    assert line("mine").items() >= {"method": "gRPC", "route": route, "status": "OK", "model": "pairs/1"}.items()
    counted = served.get("/metrics").body.decode()
    assert f'prunetime_requests_total{{route="{route}",status="OK"}}' in counted
    assert f'prunetime_requests_total{{route="/{INFERENCE}/ModelReady",status="NOT_FOUND"}}' in counted


@pytest.mark.parametrize("key", ["a", "b", "c", "m\u00fcller"])
def test_a_key_of_an_experiment_chooses_the_arm(key: str, client: Client) -> None:
    metadata = [("x-experiment-key", key)] if key.isascii() else [("x-experiment-key-bin", key.encode())]
    response = client.ask("ModelInfer", infer_request("pairs", PAIRS), metadata=metadata)
    arm = ADS.arm_of(key)
    assert (response.model_name, client.metadata["x-prunetime-arm"]) == (arm.model, f"ads/{arm.name}")


def test_models_are_loaded_and_unloaded_as_clients_of_triton_and_kserve_do(serve: Serve, root: Path) -> None:
    served = serve(root / "pairs", root / "topics", "--grpc-port", "0", "--model-root", root)
    with Client(served) as client:
        triton = messages.RepositoryModelLoadRequest(model_name="pairs")
        triton.parameters["artifact"].string_param = "other"
        loaded = client.ask("RepositoryModelLoad", triton)
        assert (loaded.model_name, loaded.is_loaded) == ("pairs", True)
        response = client.ask("ModelInfer", infer_request("pairs", PAIRS))
        rows = list(zip(*PAIRS.values(), strict=True))
        np.testing.assert_array_equal(values(response)["score"][1], load(root / "other").score(rows))
        assert response.model_version == "2"
        kserve = messages.RepositoryModelUnloadRequest(repository_or_model_name="topics")
        unloaded = client.ask("RepositoryModelUnload", kserve)
        assert (unloaded.model_name, unloaded.is_unloaded) == ("topics", True)
        index = client.ask("RepositoryIndex", messages.RepositoryIndexRequest())
        assert [(each.name, each.state) for each in index.models] == [("pairs", "READY"), ("topics", "UNAVAILABLE")]
        assert len(client.ask("RepositoryIndex", messages.RepositoryIndexRequest(ready=True)).models) == 1
        assert client.refused("RepositoryModelUnload", kserve).code() == grpc.StatusCode.NOT_FOUND
        for name in ("config", "keep"):  # of which one is not known, and the other no string
            triton.parameters[name].string_param = "{}"
            error = client.refused("RepositoryModelLoad", triton)
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert name in error.details()
            del triton.parameters[name]
        triton.parameters["artifact"].string_param = "/etc"
        assert client.refused("RepositoryModelLoad", triton).code() == grpc.StatusCode.PERMISSION_DENIED
        watch = client.channel.unary_stream(
            f"/{HEALTH}/Watch",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        seen = watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        status = health_pb2.HealthCheckResponse
        assert next(seen).status == status.SERVING
        unload = messages.RepositoryModelUnloadRequest(model_name="pairs")
        unload.parameters["unload_dependents"].bool_param = False  # as tritonclient sends
        client.ask("RepositoryModelUnload", unload)
        assert next(seen).status == status.NOT_SERVING
        assert not client.ask("ServerReady", messages.ServerReadyRequest()).ready
        health = health_pb2.HealthCheckRequest(service=INFERENCE)
        assert client.ask("Check", health, of=HEALTH).status == status.NOT_SERVING
        error = client.refused("Check", health_pb2.HealthCheckRequest(service="none"), of=HEALTH)
        assert error.code() == grpc.StatusCode.NOT_FOUND
        served.signal(signal.SIGTERM)
        assert list(seen) == []  # it ends, and does not keep the server
    assert served.stop()[0] == 0


def test_with_keys_only_health_answers_without_one(serve: Serve, root: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("old\n")
    served = serve(root / "pairs", "--grpc-port", "0", "--key-file", keys)
    request = infer_request("pairs", PAIRS)
    with Client(served) as client:
        assert client.ask("ServerLive", messages.ServerLiveRequest()).live
        assert client.ask("Check", health_pb2.HealthCheckRequest(), of=HEALTH).status == 1
        for metadata in ([], [("authorization", "Bearer new")]):
            assert client.refused("ModelInfer", request, metadata=metadata).code() == grpc.StatusCode.UNAUTHENTICATED
        silent, over = client.channel.stream_unary(f"/{INFERENCE}/ModelInfer"), Event()
        with pytest.raises(grpc.RpcError) as refused:  # before its message comes
            silent((over.wait(PATIENCE) for _ in range(1)), timeout=PATIENCE)
        over.set()
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert client.ask("ModelInfer", request, metadata=[("authorization", "Bearer old")])
        keys.write_text("new\n")
        served.signal(signal.SIGHUP)
        eventually(lambda: "reloaded" in served.said)
        assert client.ask("ModelInfer", request, metadata=[("authorization", "Bearer new")])


def test_every_refusal_has_a_status_of_grpc() -> None:
    assert GRPC_STATUS.keys() == STATUS.keys() == set(get_args(Code))
    assert set(GRPC_STATUS.values()) <= {each.name for each in grpc.StatusCode}


def test_the_messages_are_made_of_the_proto(tmp_path: Path) -> None:
    proto = "prunetime/serve/grpc/open_inference.proto"
    descriptors = Path(proto).with_suffix(".binpb")
    (tmp_path / descriptors).parent.mkdir(parents=True)
    made = f"--descriptor_set_out={tmp_path / descriptors}", f"--pyi_out={tmp_path}"
    assert protoc.main(["", f"-I{SOURCE}", *made, proto]) == 0
    for name in (descriptors, Path(proto).with_name("open_inference_pb2.pyi")):
        assert (tmp_path / name).read_bytes() == (SOURCE / name).read_bytes(), "run `make proto`"


def test_fields_are_counted_as_the_parser_finds_them() -> None:
    request = infer_request("pairs", PAIRS, id="seven")
    request.inputs[0].parameters["content_type"].string_param = "str"
    request.inputs[1].contents.fp32_contents.extend([1.0, 2.0])

    def count(message: Any) -> int:
        """The fields that are set, with those within; numbers one after the other as their bytes."""
        found = 0
        for field, value in message.ListFields():
            many = list(value) if field.is_repeated else [value]
            if field.message_type and field.message_type.GetOptions().map_entry:
                found += sum(3 + count(value[key]) for key in many)  # the entry, its key and its value
            elif field.message_type:
                found += sum(1 + count(each) for each in many)
            elif field.is_packed:
                found += 1 + len(many) * {field.TYPE_INT64: 1, field.TYPE_FLOAT: 4}[field.type]
            else:
                found += len(many)
        return found

    content, kind, fields = request.SerializeToString(), messages.ModelInferRequest.DESCRIPTOR, count(request)
    assert not has_more_fields(content, kind, fields)
    assert has_more_fields(content, kind, fields - 1)
    for end in range(len(content)):  # what is cut off is no message, and counted without an error
        has_more_fields(content[:end], kind, fields)
