"""One answer as an HTTP response, whole or streamed.

In:  an order, whose it is, the shape of the endpoint.
Out: JSON, or server-sent events that end with `[DONE]`; a refusal in OpenAI's words.
Does not know: routes, keys, models.

Everything an answer holds, it holds inside `__call__`: its place in the queue, its turn, its model. When the client
goes, at whatever moment, that function ends, and all of it is given back.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
from fastapi.responses import JSONResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from potstill.models.completion import Piece
from potstill.punctuation.stream import Stream
from potstill.serve.errors import ApiError
from potstill.serve.openai_replies import Shape
from potstill.serve.pool import Answer, Order, Pool

log = logging.getLogger("potstill.serve")
EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class AnswerResponse(Response):
    """Waits for its turn, answers, and lets go of everything when the client goes.

    Args:
        pool: who answers.
        order: what is asked.
        client: whose turn it takes.
        shape: how the endpoint says it.
        streamed: whether pieces are sent as they come.
        with_usage: whether a stream ends with the count of its tokens.
        marks: what the text goes through; None: it is said as the model wrote it.
        log_text: whether the answer is written into the log.
    """

    def __init__(
        self,
        pool: Pool,
        order: Order,
        client: str,
        shape: Shape,
        *,
        streamed: bool = False,
        with_usage: bool = False,
        marks: Stream | None = None,
        log_text: bool = False,
    ) -> None:
        super().__init__()
        self._pool, self._order, self._client, self._shape = pool, order, client, shape
        self._streamed, self._with_usage, self._marks, self._log_text = streamed, with_usage, marks, log_text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or end early where the client goes."""
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(watch)
            await self._answer(scope, receive, send)
            group.cancel_scope.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        try:
            async with self._pool.answer(self._order, self._client) as answer:
                if self._streamed:
                    await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM})
                    begun = True
                    await self._stream(answer, send)
                else:
                    response = await self._whole(answer)
                    await response(scope, receive, send)
        except ApiError as error:
            if begun:
                await send(_event(error.body(), last=True))
            else:
                await error.response()(scope, receive, send)

    async def _whole(self, answer: Answer) -> Response:
        pieces = [piece async for piece in self._filtered(answer)]
        self._log(answer)
        said = "".join(piece.text for piece in pieces)
        return JSONResponse(self._shape.whole(replace(answer.reply, text=said), pieces))

    async def _stream(self, answer: Answer, send: Send) -> None:
        if opening := self._shape.opening():
            await send(_event(opening))
        async for piece in self._filtered(answer):
            await send(_event(self._shape.chunk(piece)))
        self._log(answer)
        await send(_event(self._shape.closing(answer.reply)))
        if self._with_usage:
            await send(_event(self._shape.usage(answer.reply, _measured(answer))))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def _filtered(self, answer: Answer) -> AsyncIterator[Piece]:
        """The pieces as they are said. The filter holds back a few characters that are not decided yet."""
        async for piece in answer:
            text = self._marks.feed(piece.text) if self._marks else piece.text
            if text:
                yield replace(piece, text=text)
        if self._marks and (rest := self._marks.close()):
            yield Piece(rest, (), time.perf_counter())

    def _log(self, answer: Answer) -> None:
        if self._log_text:
            log.info("%s asked %s: %s", self._client, self._order.model, json.dumps(self._order.prompt))
            log.info("%s answered: %s", self._order.model, json.dumps(answer.reply.text))


def _event(content: dict[str, Any], *, last: bool = False) -> dict[str, Any]:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return {"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": not last}


def _measured(answer: Answer) -> dict[str, float]:
    """What a person felt: the wait, the first text, the pace; milliseconds and tokens a second."""
    reply = answer.reply
    writing_s = reply.seconds - reply.first_token_s
    return {
        "queue_ms": round(1000 * answer.waited_s, 1),
        "first_token_ms": round(1000 * (answer.first_text_s or reply.seconds), 1),
        "tokens_per_s": round((reply.tokens - 1) / writing_s, 1) if writing_s > 0 and reply.tokens > 1 else 0.0,
    }
