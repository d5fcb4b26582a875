"""A client of the Open Inference Protocol over gRPC, of grpcio and our messages alone."""

from __future__ import annotations

import struct
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from served import Served
from waiting import PATIENCE

from prunetime.serve.grpc import open_inference_pb2 as messages

INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
PAIRS = {"query": ["red sofa", "red sofa"], "title": ["a sofa with red legs", "blaue Lampe \u00fc"]}


class Client:
    """Calls methods by their names, and keeps the trailing metadata of the last one."""

    def __init__(self, served: Served | int, credentials: grpc.ChannelCredentials | None = None) -> None:
        port = served if isinstance(served, int) else served.grpc_port
        options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
        if credentials:
            self.channel = grpc.secure_channel(f"localhost:{port}", credentials, options)
        else:
            self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
        self.metadata: dict[str, str] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def ask(self, name: str, request: Any, *, of: str = INFERENCE, **call: Any) -> Any:
        kind = health_pb2.HealthCheckResponse if of == HEALTH else getattr(messages, f"{name}Response")
        method = self.channel.unary_unary(f"/{of}/{name}", type(request).SerializeToString, kind.FromString)
        response, done = method.with_call(request, timeout=PATIENCE, **call)
        self.metadata = dict(done.trailing_metadata())
        return response

    def refused(self, name: str, request: Any, **call: Any) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as error:
            self.ask(name, request, **call)
        self.metadata = dict(error.value.trailing_metadata())
        return error.value


def infer_request(name: str, columns: dict[str, list[str]], raw: bool = False, **more: Any) -> Any:
    request = messages.ModelInferRequest(model_name=name, **more)
    for column, texts in columns.items():
        made = request.inputs.add(name=column, datatype="BYTES", shape=[len(texts)])
        encoded = [text.encode() for text in texts]
        if raw:
            request.raw_input_contents.append(b"".join(struct.pack("<I", len(text)) + text for text in encoded))
        else:
            made.contents.bytes_contents.extend(encoded)
    return request


def values(response: Any) -> dict[str, tuple[list[int], Any]]:
    """Shape and values of every output, of contents or of raw contents, by name."""
    found = {}
    for number, tensor in enumerate(response.outputs):
        kind = {"FP32": np.float32, "INT64": np.int64, "BYTES": bytes}[tensor.datatype]
        if not response.raw_output_contents:
            field = {np.float32: "fp32_contents", np.int64: "int64_contents", bytes: "bytes_contents"}[kind]
            assert [each.name for each, _ in tensor.contents.ListFields()] == [field]
            data = list(getattr(tensor.contents, field))
        elif kind is bytes:
            content, data = response.raw_output_contents[number], []
            while content:
                (length,) = struct.unpack_from("<I", content)
                data.append(content[4 : 4 + length])
                content = content[4 + length :]
        else:
            data = np.frombuffer(response.raw_output_contents[number], np.dtype(kind).newbyteorder("<")).tolist()
        found[tensor.name] = list(tensor.shape), [each.decode() for each in data] if kind is bytes else kind(data)
    return found
