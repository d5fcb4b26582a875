"""The codes of refusals, with their statuses of HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

from prunetime.errors import PrunetimeError

Code = Literal[
    "bad_request",
    "unauthorized",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "request_timeout",
    "too_large",
    "uri_too_long",
    "unsupported_encoding",
    "unsupported_type",
    "unusable",
    "overloaded",
    "headers_too_large",
    "client_left",
    "internal",
    "not_ready",
    "deadline",
    "stopping",
    "unavailable",
]

STATUSES: dict[Code, tuple[int, str]] = {
    "bad_request": (400, "INVALID_ARGUMENT"),
    "unauthorized": (401, "UNAUTHENTICATED"),
    "forbidden": (403, "PERMISSION_DENIED"),
    "not_found": (404, "NOT_FOUND"),
    "method_not_allowed": (405, "UNIMPLEMENTED"),
    "request_timeout": (408, "DEADLINE_EXCEEDED"),
    "too_large": (413, "RESOURCE_EXHAUSTED"),
    "uri_too_long": (414, "INVALID_ARGUMENT"),
    "unsupported_encoding": (415, "UNIMPLEMENTED"),
    "unsupported_type": (415, "UNIMPLEMENTED"),
    "unusable": (422, "INVALID_ARGUMENT"),
    "overloaded": (429, "RESOURCE_EXHAUSTED"),
    "headers_too_large": (431, "RESOURCE_EXHAUSTED"),
    "client_left": (499, "CANCELLED"),
    "internal": (500, "INTERNAL"),
    "not_ready": (503, "UNAVAILABLE"),
    "deadline": (503, "DEADLINE_EXCEEDED"),
    "stopping": (503, "UNAVAILABLE"),
    "unavailable": (503, "UNAVAILABLE"),
}
"""The status of each code over HTTP and over gRPC. `unusable` is a well-formed request that cannot be scored. 499 is
never sent: nobody is there to read it."""

STATUS = {code: over_http for code, (over_http, _) in STATUSES.items()}

GRPC_STATUS = {code: over_grpc for code, (_, over_grpc) in STATUSES.items()}


class RefusedError(PrunetimeError):
    """A refusal of a request. The client may come again after `retry_after` seconds, or with one of the `allowed`
    methods, where these are given. `field` is the part of the body that is at fault, where one is known."""

    def __init__(
        self,
        code: Code,
        message: str,
        retry_after: float | None = None,
        allowed: Sequence[str] = (),
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code: Code = code
        self.field = field
        self.retry_after, self.allowed = retry_after, allowed

    @property
    def status(self) -> int:
        return STATUS[self.code]


class Failure(Struct):
    """The body of a refusal: `error` is a sentence, `error_type` a code."""

    error: str
    error_type: str
    request_id: str

    @classmethod
    def of(cls, error: RefusedError, request_id: str) -> Failure:
        return cls(str(error), error.code, request_id)


class FailureBody(Protocol):
    """The body of a refusal in the form of a protocol."""

    @classmethod
    def of(cls, error: RefusedError, request_id: str) -> Struct: ...


def whole_seconds(retry_after: float) -> str:
    """The value of the header `Retry-After`: whole seconds, at least one."""
    return str(max(1, round(retry_after)))
