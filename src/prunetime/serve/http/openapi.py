"""Makes the OpenAPI description of the routes from the structs that they take and give."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from prunetime._version import __version__
from prunetime.serve.errors import STATUS, Code
from prunetime.serve.http.routing import Route

REFERENCES = "#/components/schemas/{name}"


def described(routes: Sequence[Route]) -> dict[str, Any]:
    """The description of `routes`, in OpenAPI 3.1."""
    kinds = [kind for route in routes for kind in (route.takes, route.gives, route.failure) if kind is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REFERENCES)
    known = dict(zip(map(repr, kinds), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, known)
    return {
        "openapi": "3.1.0",
        "info": {"title": "prunetime", "version": __version__},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(route: Route, known: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "done"}
    if route.gives is not None:
        answer["content"] = _json(known[repr(route.gives)])
    codes: list[Code] = [*route.refuses, "forbidden", *(() if route.open else ("unauthorized",))]
    if route.takes is not None:
        codes += ["bad_request", "request_timeout", "too_large", "unusable", "unsupported_encoding", "overloaded"]
    if route.changes:
        codes.append("unsupported_type")
    failures = {
        str(STATUS[code]): " or ".join(c for c in dict.fromkeys(codes) if STATUS[c] == STATUS[code]) for code in codes
    }
    responses = {"200": answer} | {
        status: {"description": what, "content": _json(known[repr(route.failure)])} for status, what in failures.items()
    }
    operation: dict[str, Any] = {"summary": route.summary, "responses": responses}
    names = re.findall(r"{(\w+)}", route.path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if route.takes is not None:
        operation["requestBody"] = {"required": not route.body_may_be_empty, "content": _json(known[repr(route.takes)])}
    if not route.open:
        operation["security"] = [{"key": []}]
    return operation


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
