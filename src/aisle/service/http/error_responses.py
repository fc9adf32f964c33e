"""Turn every error of a request into the same JSON form, with the field that is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from aisle.errors import AisleError
from aisle.service.hidden_paths import public_message
from aisle.service.request_errors import STATUS, ErrorKind, RequestError
from aisle.service.responses import ErrorBody, ErrorResponse

__all__ = ["add_error_handlers", "error_response", "error_schemas"]

KIND_OF_STATUS: dict[int, ErrorKind] = {status: kind for kind, status in reversed(STATUS.items())}
JSON_NEEDED = (
    "the body must be a JSON object, sent with the header Content-Type: application/json; see /openapi.json"
)


def add_error_handlers(app: FastAPI) -> None:
    """Let an application answer every error in the form of `ErrorResponse`."""

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return error_response(_invalid(error.errors()))

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> Response:
        kind = KIND_OF_STATUS.get(error.status_code, "invalid_request")
        message = JSON_NEEDED if error.status_code == 400 else str(error.detail)
        return error_response(RequestError(kind, message), status=error.status_code, headers=error.headers)

    @app.exception_handler(AisleError)
    async def unanswered(_: Request, error: AisleError) -> Response:
        return error_response(RequestError("invalid_request", public_message(str(error))))

    @app.exception_handler(Exception)
    async def defect(_: Request, __: Exception) -> Response:  # uvicorn logs the traceback
        return error_response(RequestError("internal_error", "the server failed; its log has the reason"))


def error_schemas(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the descriptions of error responses for a route's schema."""
    return {status: {"model": ErrorResponse} for status in statuses}


def error_response(
    error: RequestError, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the response for an error."""
    given: dict[str, Any] = {"type": error.kind, "message": str(error)}
    if error.field is not None:
        given["field"] = error.field
    sent = dict(headers or {})
    if error.retry_after is not None:
        sent["Retry-After"] = str(error.retry_after)
    if error.kind == "unauthorized":
        sent["WWW-Authenticate"] = "Bearer"
    content = ErrorResponse(error=ErrorBody(**given)).model_dump_json(exclude_unset=True)
    return Response(content, status or error.status, sent, media_type="application/json")


def _invalid(errors: Sequence[Any]) -> RequestError:
    """Return an error for the problems with a body. It never repeats a value, which may be a query."""
    if any(error["type"] == "json_invalid" for error in errors):
        return RequestError("invalid_json", f"the body is not valid JSON: {errors[0]['ctx']['error']}")
    problems: dict[str, list[str]] = {}
    for error in errors:
        # The next parts of the place are positions in a list, and types that the value could have had.
        field = error.get("ctx", {}).get("field") or next(iter(map(str, error["loc"][1:])), "")
        problems.setdefault(field, []).append(_rule(error))
    if list(problems) == [""]:
        kinds = {error["type"] for error in errors}
        message = (
            JSON_NEEDED if kinds & {"missing", "model_attributes_type", "dict_type"} else problems[""][0]
        )
        return RequestError("invalid_request", message)
    lines = [
        f"{field}: {', or '.join(dict.fromkeys(rules))}" if field else ", or ".join(rules)
        for field, rules in problems.items()
    ]
    return RequestError("invalid_request", "; ".join(lines)[:2000], field=next(filter(None, problems), None))


def _rule(error: Mapping[str, Any]) -> str:
    message: str = error["msg"]
    return message[:1].lower() + message[1:]
