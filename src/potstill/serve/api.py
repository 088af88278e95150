"""The OpenAI-compatible endpoints, and what watches the server.

In:  the pool, the settings, the metrics of one server.
Out: a router for `/v1/…`, `/health` and `/metrics`.
Does not know: pages, keys, hosts: the guard has let the request in.
"""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from potstill.chat import filter_of
from potstill.punctuation.stream import Stream
from potstill.serve.answering import AnswerResponse
from potstill.serve.errors import ApiError
from potstill.serve.guard import client_of
from potstill.serve.metrics import Metrics
from potstill.serve.openai_replies import ChatShape, TextShape
from potstill.serve.openai_requests import ChatRequest, CompletionRequest
from potstill.serve.pool import Order, Pool
from potstill.serve.settings import Settings


def build_router(pool: Pool, settings: Settings, metrics: Metrics) -> APIRouter:
    """All endpoints that programs use."""
    router = APIRouter()
    _add_answers(router, pool, settings)
    _add_models(router, pool)

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server answers at all."""
        return {"status": "ok"}

    @router.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """Counters in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router


def _add_answers(router: APIRouter, pool: Pool, settings: Settings) -> None:
    def answered(
        body: ChatRequest | CompletionRequest, shape: type[ChatShape] | type[TextShape], request: Request
    ) -> Response:
        order = body.order(settings.max_tokens)
        return AnswerResponse(
            pool,
            order,
            client_of(request.scope),
            shape(body.model, order.wishes.logprobs),
            streamed=bool(body.stream),
            with_usage=body.include_usage,
            marks=_marks(shape, order, settings),
            log_text=settings.log_text,
        )

    @router.post("/v1/chat/completions", response_class=JSONResponse)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        return answered(body, ChatShape, request)

    @router.post("/v1/completions", response_class=JSONResponse)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Write a plain text on."""
        return answered(body, TextShape, request)


def _marks(shape: type[ChatShape] | type[TextShape], order: Order, settings: Settings) -> Stream | None:
    """What a chat goes through. A text written on may be code; probabilities belong to the model's own tokens."""
    if shape is TextShape or order.wishes.logprobs is not None:
        return None
    return filter_of(settings.marks or "keep")


def _add_models(router: APIRouter, pool: Pool) -> None:
    started = int(time.time())

    def described(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "potstill"}

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """Every model that may be asked."""
        return {"object": "list", "data": [described(name) for name in pool.names]}

    @router.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        if name not in pool.names:
            raise ApiError(404, f"There is no model {name!r} here.", param="model", code="model_not_found")
        return described(name)
