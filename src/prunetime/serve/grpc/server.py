"""The gRPC server: keys, limits, statuses, health and stopping."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from prunetime.serve.certificate import Certificate
from prunetime.serve.core.records import Records
from prunetime.serve.core.request import ServiceRequest
from prunetime.serve.core.tracing import RequestSpan
from prunetime.serve.errors import GRPC_STATUS, RefusedError, whole_seconds
from prunetime.serve.experiments.experiment import KEY
from prunetime.serve.grpc.methods import HEALTH, INFERENCE, GrpcMethod, GrpcReply, InferenceServicer
from prunetime.serve.grpc.wire import has_more_fields
from prunetime.serve.http.bodies import Bodies
from prunetime.serve.keys import Keys

LOG = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
"""The seconds between two looks at the health for `Watch`."""

DETAILS_BYTES = 2_000
"""The longest message of a status: it goes in trailers, in which each byte takes up to three, and clients take 8
KiB."""

FAULTS = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE")
"""The statuses that OpenTelemetry's semantic conventions count as errors of a server's span."""


@dataclass
class GrpcCall(ServiceRequest):
    """A request over gRPC. gRPC cancels its task when the client leaves or the deadline passes."""

    context: Any
    held: int = 0
    """The bytes of the message, which count as held until the call has ended."""

    def __post_init__(self) -> None:
        self._seconds_left: float | None = self.context.time_remaining()

    @cached_property
    def headers(self) -> dict[str, str]:
        metadata = dict(self.context.invocation_metadata() or ())
        found = {name: value for name, value in metadata.items() if isinstance(value, str)}
        if (key := metadata.get(f"{KEY}-bin")) is not None:  # one that is not ASCII
            found[KEY] = key.decode(errors="backslashreplace")
        return found

    async def listen_for_disconnect(self) -> None:
        await asyncio.get_running_loop().create_future()

    def seconds(self, default: float) -> float:
        """The seconds that the answer may take: until the deadline of the call, or less where another limit is
        lower."""
        given = super().seconds(default)
        return given if self._seconds_left is None else min(given, self._seconds_left)


class GrpcServer:
    """A gRPC server of `methods` on the event loop that starts it. `listening.held_port` reserves its port, so that
    several processes can share it."""

    def __init__(
        self, methods: InferenceServicer, bodies: Bodies, keys: Keys, records: Records, certificate: Certificate | None
    ) -> None:
        self._methods, self._bodies, self._settings, self._keys = methods, bodies, bodies.settings, keys
        self._records, self._certificate = records, certificate
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        settings = self._settings
        milliseconds = int(1e3 * settings.read_seconds)
        options = {
            "grpc.max_receive_message_length": settings.max_body_size,
            "grpc.max_send_message_length": -1,
            "grpc.so_reuseport": 1,
            "grpc.server_handshake_timeout_ms": milliseconds,
        }
        self._server = grpc.aio.server(
            handlers=[_Handlers(self._methods.table(), self._answer, self._watch)],
            options=list(options.items()),
            maximum_concurrent_rpcs=settings.max_connections,
        )
        address = f"[{settings.host}]" if ":" in settings.host else settings.host
        where = f"{address}:{settings.grpc_port}"
        if self._certificate:
            self._server.add_secure_port(where, _credentials(self._certificate))
        else:
            self._server.add_insecure_port(where)
        await self._server.start()

    async def stop(self) -> None:
        """Stops: refuses new calls, and returns once all are answered or `stop_seconds` have passed."""
        self._stopping.set()
        await self._server.stop(self._settings.stop_seconds)

    async def _answer(self, path: str, method: GrpcMethod, context: Any) -> bytes:
        call = self._begin(path, context)
        try:
            if not method.open:
                self._keys.check(call.headers.get("authorization"))
            asked = await self._read(call, method.takes) if method.takes else None
            answer, metadata = await method.handler(call, asked)
            context.set_trailing_metadata(_metadata({"x-request-id": call.id, **metadata}))
            return bytes(answer.SerializeToString())
        except RefusedError as error:  # another, for the traceback of this one holds a model
            refused = RefusedError(error.code, str(error), error.retry_after)
        except Exception:
            LOG.exception("request %s failed", call.id)
            refused = RefusedError("internal", "an error of the server; its log says more")
        return await _abort(context, call, refused)

    def _begin(self, path: str, context: Any) -> GrpcCall:
        call = GrpcCall(context)
        context.add_done_callback(lambda _: self._end(path, call))
        return call

    async def _read(self, call: GrpcCall, kind: Any) -> Any:
        """Reads the message of a call whose key has been checked: a client without a key cannot make the server wait or
        parse."""
        context, seconds = call.context, self._settings.read_seconds
        try:
            message = await asyncio.wait_for(context.read(), seconds)
        except asyncio.TimeoutError:
            raise RefusedError("request_timeout", f"the message has not come within {seconds:g} seconds") from None
        if message is grpc.aio.EOF and context.time_remaining() == 0.0:
            raise RefusedError("deadline", "the deadline of the call has passed")
        if message is grpc.aio.EOF:
            limit = self._settings.max_body_size
            raise RefusedError("too_large", f"the message is larger than the limit of {limit} bytes, or there is none")
        self._bodies.hold(len(message))
        call.held = len(message)
        return await self._bodies.parse(message, partial(_parsed, kind=kind, limit=self._settings.max_body_values))

    async def _watch(self, _: Any, context: Any) -> AsyncIterator[bytes]:
        """Streams the health of a service to a client of `Watch`, each time it changes, until the server stops."""
        call, told = self._begin(f"/{HEALTH}/Watch", context), None
        try:
            asked = await self._read(call, health_pb2.HealthCheckRequest)
        except RefusedError as error:
            await _abort(context, call, error)
            return
        while True:
            status = self._methods.health(asked.service)
            if status != told:
                yield health_pb2.HealthCheckResponse(status=status).SerializeToString()
                told = status
            if self._stopping.is_set():
                return
            try:
                await asyncio.wait_for(self._stopping.wait(), WATCH_SECONDS)
            except asyncio.TimeoutError:
                continue

    def _end(self, path: str, call: GrpcCall) -> None:
        self._bodies.release(call.held)
        code = call.context.code()
        if call.context.done():
            status = "OK" if code is None else code.name
        else:  # it was cancelled
            status = "DEADLINE_EXCEEDED" if call.context.time_remaining() == 0.0 else "CANCELLED"
        service, _, method = path.removeprefix("/").partition("/")
        about = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, "rpc.response.status_code": status}
        self._records.record(call, "gRPC", path, status, RequestSpan(path.removeprefix("/"), about, status in FAULTS))


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Finds the handler of a call by its path. `answer` reads messages as streams of one: gRPC itself would read them
    before the key is checked, and wait for them for ever."""

    def __init__(self, table: dict[str, GrpcMethod], answer: Callable[..., Any], watch: Callable[..., Any]) -> None:
        self._table, self._answer, self._watch = table, answer, watch

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        if path == f"/{HEALTH}/Watch":
            return grpc.stream_stream_rpc_method_handler(self._watch)
        method = self._table.get(path) or _unknown(path, self._table)

        async def answer(_: Any, context: Any) -> bytes:
            return bytes(await self._answer(path if path in self._table else "unknown", method, context))

        return grpc.stream_unary_rpc_method_handler(answer)


def _unknown(path: str, known: Iterable[str]) -> GrpcMethod:
    """Makes the handler for methods that do not exist."""
    names = ", ".join(each.rpartition("/")[2] for each in known if each.startswith(f"/{INFERENCE}/"))

    async def refuse(*_: Any) -> GrpcReply:
        raise RefusedError("method_not_allowed", f"there is no method {path[:200]}; {INFERENCE} has {names}")

    return GrpcMethod(None, refuse, open=True)


def _parsed(message: bytes, kind: Any, limit: int) -> Any:
    """Parses a message of type `kind`. Raises RefusedError where it is none, or has too many fields."""
    if len(message) > limit and has_more_fields(message, kind.DESCRIPTOR, limit):
        raise RefusedError("too_large", f"the message has more than {limit} fields and elements")
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise RefusedError("bad_request", f"the message is no {kind.DESCRIPTOR.full_name}: {error}") from None


async def _abort(context: Any, call: GrpcCall, error: RefusedError) -> bytes:
    """Ends a call with the status of an error, and with its retry time in the trailing metadata."""
    metadata = {"x-request-id": call.id, "error-type": error.code}
    if error.retry_after is not None:
        metadata["retry-after"] = whole_seconds(error.retry_after)
        # What gRPC's own retries wait for (proposal A6): https://github.com/grpc/proposal/blob/master/A6-client-retries.md
        metadata["grpc-retry-pushback-ms"] = str(max(1, round(1e3 * error.retry_after)))
    details = str(error).encode()[:DETAILS_BYTES].decode(errors="ignore")
    with suppress(
        grpc.aio.InternalError
    ):  # the call has ended before: gRPC has refused its message, or the client left
        await context.abort(grpc.StatusCode[GRPC_STATUS[error.code]], details, _metadata(metadata))
    return b""


def _metadata(named: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Converts headers to metadata, whose values are ASCII."""
    return tuple((name, value.encode("ascii", "replace").decode()) for name, value in named.items())


def _credentials(certificate: Certificate) -> Any:
    """Server credentials; new connections use the certificate that was read last."""

    def current() -> Any:
        chain, private_key = certificate.content
        return grpc.ssl_server_certificate_configuration([(private_key, chain)])

    return grpc.dynamic_ssl_server_credentials(current(), current)
