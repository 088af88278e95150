"""Refusals in the words of OpenAI's API.

In:  what is wrong with a request, or what went wrong in the server.
Out: a status and `{"error": {"message", "type", "param", "code"}}`.
Does not know: models, queues; what went wrong inside is logged, never told to a client.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded_error",
}


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        message: for the person who wrote the client.
        param: the field that is wrong.
        code: what a program can tell it by.
        headers: such as Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """What is sent."""
        kind = _TYPES.get(HTTPStatus(self.status), "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """As a whole response."""
        return JSONResponse(self.body(), self.status, self.headers)


def install_handlers(app: FastAPI) -> None:
    """Every refusal of `app`, whoever found it, leaves in this one shape."""
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error.response()


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.", code="invalid_json").response()
    # the first part says body, path or query; what was sent is not repeated
    places = [str(part) for part in first["loc"][1:] if isinstance(part, int) or part.isidentifier()]
    param = ".".join(places) or None
    message = f"{param}: {first['msg']}" if param else f"The body must be a JSON object ({first['msg']})."
    return ApiError(400, message, param=param, code=_code(first["type"])).response()


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    response = ApiError(error.status_code, str(error.detail)).response()
    response.headers.update(error.headers or {})
    return response


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return ApiError(500, "The server failed; its log says more.", code="internal_error").response()


def _code(kind: str) -> str:
    return "missing_required_parameter" if kind == "missing" else "invalid_value"
