"""Answers for many clients at once: each waits for its turn, borrows a model, and lets go of both.

In:  orders: a model's name, a prompt, how to answer.
Out: answers in pieces, as they come. Who leaves early stops the model at its next token.
Does not know: HTTP, JSON, pages.

Three parties work here. A worker thread of the engine writes and never waits for anybody. The event loop takes its
pieces into the answer's own buffer, which `max_tokens` bounds. The client reads from there at its own pace; when the
model has finished, its turn goes to the next one, however far this client has read.

A turn begins when the model's file is here: who waits for a download holds up nobody who asks for another model.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from potstill.machine import usable_cores
from potstill.models.completion import Piece, Reply, Wishes, Writing
from potstill.models.engine import NOTHING_MORE, Engine, Messages, Sampling, default_threads, trained_context
from potstill.problem import Problem
from potstill.serve.engines import Engines
from potstill.serve.errors import ApiError
from potstill.serve.metrics import Metrics
from potstill.serve.settings import Settings
from potstill.serve.turns import LONGEST_RETRY_S, QueueClosed, QueueFull, Turns

log = logging.getLogger("potstill.serve")
_LOOK_FOR_UNUSED_S = 5.0
STRIDE = 64
"""Prompt tokens between two moments in which an answer can be stopped: under a second for a teacher of 0.5B."""


@dataclass(frozen=True)
class Order:
    """What is to be answered, and how."""

    model: str
    prompt: Messages | str
    """A conversation, or a plain text to be written on."""
    sampling: Sampling
    wishes: Wishes = NOTHING_MORE
    room: float = 0.0
    """Share of the context, below 1, that must be left for the answer: a little of it is no answer."""


class CutOff(Exception):
    """Why an answer has no end: its client went, or the server is stopping."""


class Answer:
    """One answer: iterate over its pieces to the end, then read `reply`."""

    def __init__(self, model: str, metrics: Metrics, waited_s: float) -> None:
        self.model, self.waited_s = model, waited_s
        self._metrics = metrics
        self._started = self._latest = time.perf_counter()
        self._first_s: float | None = None
        self._pieces: deque[Piece] = deque()
        self._news = asyncio.Event()
        self._outcome: Reply | Exception | None = None

    @property
    def first_text_s(self) -> float | None:
        """Seconds from the turn's begin to the first text; None while there is none."""
        return self._first_s

    @property
    def reply(self) -> Reply:
        """The finished answer. Raises: ApiError where it was cut off."""
        if isinstance(self._outcome, Reply):
            return self._outcome
        if self._outcome is None:
            raise RuntimeError("The answer is not finished yet.")
        if isinstance(self._outcome, CutOff):
            raise ApiError(503, "The answer was cut off: the server is stopping.", code="stopping")
        raise ApiError(500, "The model failed; the server's log says more.", code="internal_error")

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Pieces as they come. Raises: as `reply`, at the end."""
        while self._pieces or self._outcome is None:
            if not self._pieces:
                self._news.clear()
                await self._news.wait()
                continue
            yield self._pieces.popleft()
        _ = self.reply

    def add(self, piece: Piece) -> None:
        """Another piece came."""
        if self._first_s is None:
            self._first_s = piece.at - self._started
            self._metrics.first_text(self.model, self._first_s)
        else:
            self._metrics.gap(self.model, piece.at - self._latest)
        self._latest = piece.at
        self._pieces.append(piece)
        self._news.set()

    def end(self, outcome: Reply | Exception) -> None:
        """No more will come."""
        self._outcome = outcome
        if isinstance(outcome, Reply):
            self._metrics.finished(self.model, outcome.prompt_tokens, outcome.tokens, outcome.finish)
        else:
            self._metrics.abandoned(self.model)
        self._news.set()


class Pool:
    """All models of one server and the queue before them; belongs to one event loop.

    Args:
        models: name → what finds its GGUF.
        settings: the server's.
        metrics: where everything is counted.
    """

    def __init__(self, models: Mapping[str, Callable[[], Path]], settings: Settings, metrics: Metrics) -> None:
        self._metrics, self._settings = metrics, settings
        self._engines = Engines(models, lambda gguf: open_engine(gguf, settings), settings.loaded)
        self._turns = Turns(settings.slots, settings.queue)
        self._fetching: Counter[str] = Counter()  # who waits for a model's file
        self._writings: set[Writing] = set()
        metrics.watch_queue(lambda: self.waiting, lambda: self.running)
        metrics.watch_models(lambda: len(self._engines.loaded))

    @property
    def names(self) -> tuple[str, ...]:
        """Every model that may be asked, the first one by default."""
        return self._engines.names

    @property
    def loaded(self) -> tuple[str, ...]:
        """Models in memory."""
        return self._engines.loaded

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn, or before that for their model's file."""
        return self._turns.waiting + self._fetching.total()

    @property
    def running(self) -> int:
        """Turns that are taken."""
        return self._turns.running

    @asynccontextmanager
    async def answer(self, order: Order, client: str) -> AsyncIterator[Answer]:
        """Wait for the model's file and a turn, begin an answer; leaving stops what is still being written.

        Args:
            order: what to answer.
            client: whose turn it is; clients take turns in rotation.

        Raises: ApiError: no such model, a prompt that is too long (before it waits, where the model is loaded),
            a full queue, a model that cannot be found or loaded.
        """
        if order.model not in self.names:
            raise ApiError(
                404,
                f"There is no model {order.model!r} here; there are: {', '.join(self.names)}.",
                param="model",
                code="model_not_found",
            )
        with _in_the_words_of_the_api():
            self._turns.check_room(client)
        ids = await self._ids_if_loaded(order)
        gguf = await self._find(order.model)
        asked = time.perf_counter()
        with _in_the_words_of_the_api():
            await self._turns.enter(client)
        waited_s = time.perf_counter() - asked
        self._metrics.waited(waited_s)
        answer, writing = await self._begin(order, gguf, ids, waited_s)
        try:
            yield answer
        finally:
            writing.stop()

    async def close_unused(self) -> None:
        """Give back the memory of models that nobody uses, for as long as it runs."""
        while True:
            await asyncio.sleep(min(_LOOK_FOR_UNUSED_S, self._settings.idle_close_s / 2))
            await self._engines.close_unused(self._settings.idle_close_s)

    def cut(self) -> None:
        """Stop everything that is written, and send away who waits."""
        self._turns.close()
        self._engines.stop_finding(QueueClosed())
        for writing in list(self._writings):
            writing.stop()

    async def close(self) -> None:
        """The end: nothing runs any more, all memory is given back."""
        self.cut()
        await self._engines.close()

    async def _find(self, name: str) -> Path:
        """The model's file. As many may wait for one as have a turn or wait for it: all have room afterwards."""
        if self._fetching[name] >= self._settings.slots + self._settings.queue:
            raise _too_many(LONGEST_RETRY_S)
        self._fetching[name] += 1
        try:
            with _in_the_words_of_the_api(), _a_problem_is_503(name):
                return await self._engines.find(name)
        finally:
            self._fetching[name] -= 1

    async def _begin(self, order: Order, gguf: Path, ids: list[int] | None, waited_s: float) -> tuple[Answer, Writing]:
        """Borrow the model and begin; the turn and the model are given back when the worker has ended."""
        begun = time.perf_counter()
        borrowed = False

        def release() -> None:
            if borrowed:
                self._engines.give_back(order.model)
            self._turns.leave(time.perf_counter() - begun)

        try:
            with _a_problem_is_503(order.model):
                engine = await self._engines.take(order.model, gguf)
            borrowed = True
            if ids is None:
                ids = await self._ids(engine, order)
            answer = Answer(order.model, self._metrics, waited_s)
            writing = self._write(engine, ids, order, answer, release)
        except BaseException:
            release()
            raise
        return answer, writing

    def _write(
        self, engine: Engine, ids: list[int], order: Order, answer: Answer, release: Callable[[], None]
    ) -> Writing:
        loop = asyncio.get_running_loop()

        def soon(call: Callable[..., None], *arguments: object) -> None:
            with suppress(RuntimeError):  # the loop has ended: nobody is interested any more
                loop.call_soon_threadsafe(call, *arguments)

        def ended() -> None:
            self._writings.discard(writing)
            release()
            answer.end(_outcome(writing))

        writing = engine.write(ids, order.sampling, order.wishes, lambda piece: soon(answer.add, piece))
        self._writings.add(writing)
        writing.future.add_done_callback(lambda _: soon(ended))
        return writing

    async def _ids_if_loaded(self, order: Order) -> list[int] | None:
        engine = self._engines.take_if_loaded(order.model)
        if engine is None:
            return None
        try:
            return await self._ids(engine, order)
        finally:
            self._engines.give_back(order.model)

    async def _ids(self, engine: Engine, order: Order) -> list[int]:
        plain = isinstance(order.prompt, str)
        param = "prompt" if plain else "messages"
        try:
            ids = await asyncio.to_thread(engine.text_ids if plain else engine.prompt_ids, order.prompt)  # type: ignore[arg-type]
        except RuntimeError as refused:
            raise ApiError(400, f"The model's template refuses this: {refused}", param=param) from None
        if not ids:
            raise ApiError(400, "The prompt is empty.", param=param, code="invalid_value")
        most = engine.context - max(1, int(engine.context * order.room))
        if len(ids) > most:
            message = f"The prompt is {len(ids)} tokens long; this model takes at most {most} here."
            raise ApiError(400, message, param=param, code="context_length_exceeded")
        return ids


def open_engine(gguf: Path, settings: Settings) -> Engine:
    """A model as the server uses it, with the context it was trained for at most. Raises: Problem."""
    trained = trained_context(gguf) or settings.context
    threads = default_threads(usable_cores())
    return Engine(gguf, context=min(settings.context, trained), slots=settings.slots, threads=threads, stride=STRIDE)


@contextmanager
def _a_problem_is_503(name: str) -> Iterator[None]:
    try:
        yield
    except Problem as problem:
        log.error("%s: %s", name, problem)
        raise ApiError(
            503, f"The model {name!r} cannot be loaded; the server's log says why.", code="model_unavailable"
        ) from None


@contextmanager
def _in_the_words_of_the_api() -> Iterator[None]:
    try:
        yield
    except QueueFull as full:
        raise _too_many(full.retry_after_s) from None
    except QueueClosed:
        raise ApiError(503, "The server is stopping.", code="stopping", headers={"Retry-After": "5"}) from None


def _too_many(retry_after_s: int) -> ApiError:
    headers = {"Retry-After": str(retry_after_s)}
    return ApiError(503, "Too many requests wait already.", code="queue_full", headers=headers)


def _outcome(writing: Writing) -> Reply | Exception:
    if writing.stopped:
        return CutOff()
    failure = writing.future.exception()
    if failure is not None:
        log.error("the model failed: %s", failure)
        return RuntimeError(str(failure))
    return writing.future.result()
