"""The blind rating as an API: what a rater reads and says, and what the operator sees of it.

In:  a rater's token in the address; votes; the pool that answers.
Out: a state without a model's name, two answers at one pace, results for the operator.
Does not know: pages, SQL, how models answer; who the operator is: the guard has let the request in.

What could tell the models apart is kept from the rater. Both answers of a turn are written and stored before either
is shown, so the wait is the same for both; then both appear at one pace, cut into pieces that do not follow tokens.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from potstill.answers.settings import sampling_for
from potstill.models.engine import derive_seed
from potstill.recipe import AnswersSection
from potstill.serve.errors import ApiError
from potstill.serve.pool import Order, Pool
from potstill.serve.rating_settings import RatingSettings, load_rating_settings
from potstill.serve.rating_store import COLUMNS, AlreadyVoted, Better, NameTaken, Rater, RatingStore, Vote
from potstill.serve.settings import Settings

log = logging.getLogger("potstill.serve")
CLIENT = "rating"
"""Whose turn it is in the pool's queue: all raters together are one client."""
MOST_PIECES_PER_SECOND = 25.0
SIGN_OF_LIFE_S = 5.0
LONGEST_PAUSE_S = 30
Score = Annotated[int, Field(ge=1, le=5, strict=True)]
PersonName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80)]


class Ballot(BaseModel):
    """A rater's vote."""

    model_config = ConfigDict(extra="forbid")

    turn: int = Field(ge=1, le=1000, strict=True)
    a: Score
    b: Score
    better: Better


class Invitation(BaseModel):
    """Whom the operator wants a link for."""

    model_config = ConfigDict(extra="forbid")

    name: PersonName
    renew: bool = Field(False, description="End this person's link and make another; the ratings stay.")


class Link(BaseModel):
    """Where a rater goes."""

    url: str


class State(BaseModel):
    """Where a rater stands."""

    questions_total: int
    turn: int
    question: str
    done: bool


def build_router(pool: Pool, settings: Settings) -> APIRouter:
    """All addresses of the rating that `settings.rating` describes.

    Raises: Problem where that file is wrong, or `settings.ratings_file` cannot be used.
    """
    if settings.rating is None or settings.ratings_file is None:
        raise ValueError("a rating needs its description and a file for its ratings")
    rating = load_rating_settings(settings.rating, pool.names)
    store = RatingStore(settings.ratings_file, rating.models, rating.questions, rating.raters_per_conversation)
    writers = Writers(pool, rating, store)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        await writers.close()
        store.close()

    router = APIRouter(tags=["rating"], lifespan=lifespan)
    _add_rater_routes(router, RaterDesk(writers, rating, store))
    _add_operator_routes(router, OperatorDesk(rating, store))
    return router


class Writers:
    """Both answers of a turn, written once, whoever asks for them and whoever goes away."""

    def __init__(self, pool: Pool, rating: RatingSettings, store: RatingStore) -> None:
        self._pool, self._rating, self._store = pool, rating, store
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}

    def prepare(self, conversation: str, turn: int) -> asyncio.Task[None]:
        """See to it that both answers are stored. Returns: what to wait for."""
        key = (conversation, turn)
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(self._write(conversation, turn))
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    async def close(self) -> None:
        """Stop writing; what is not stored is written when it is asked for again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: tuple[str, int], task: asyncio.Task[None]) -> None:
        del self._tasks[key]
        if not task.cancelled() and (error := task.exception()):
            log.error("rating, turn %d: %s", key[1], error)

    async def _write(self, conversation: str, turn: int) -> None:
        for model in self._rating.models:
            if await asyncio.to_thread(self._store.answer, conversation, turn, model) is None:
                text = await self._ask(model, turn, derive_seed(zlib.crc32(conversation.encode()), turn))
                await asyncio.to_thread(self._store.keep_answer, conversation, turn, model, text)

    async def _ask(self, model: str, turn: int, seed: int) -> str:
        messages = [{"role": "user", "content": self._rating.questions[turn - 1]}]
        order = Order(model, messages, sampling_for(AnswersSection.model_validate({}), seed, self._rating.max_tokens))
        while True:
            try:
                async with self._pool.answer(order, CLIENT) as answer:
                    async for _ in answer:
                        pass
                    return answer.reply.text
            except ApiError as refused:
                if refused.code != "queue_full":
                    raise
                await asyncio.sleep(min(int(refused.headers.get("Retry-After", 5)), LONGEST_PAUSE_S))


class RaterDesk:
    """What one rater may ask and say, known by a token."""

    def __init__(self, writers: Writers, rating: RatingSettings, store: RatingStore) -> None:
        self._writers, self._rating, self._store = writers, rating, store
        self._total = len(rating.questions)

    async def state(self, token: str) -> State:
        """Which turn is next."""
        return self._state(await self._rater(token))

    async def answer(self, token: str, side: Literal["a", "b"]) -> StreamingResponse:
        """One answer of the turn that is next, as a stream; the same one whenever it is asked for."""
        rater = await self._rater(token)
        if rater.done >= self._total:
            raise ApiError(409, "Every question has been rated.", code="all_rated")
        events = self._replay(rater, rater.done + 1, side)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def vote(self, token: str, ballot: Ballot) -> State:
        """Rate the turn that is next, once."""
        rater = await self._rater(token)
        if ballot.turn <= rater.done:
            raise ApiError(409, "This question has been rated already.", param="turn", code="already_rated")
        if ballot.turn != rater.done + 1 or not await asyncio.to_thread(self._is_written, rater, ballot.turn):
            raise ApiError(409, "This question has not been shown yet.", param="turn", code="not_shown")
        try:
            vote = Vote(ballot.turn, ballot.a, ballot.b, ballot.better)
            await asyncio.to_thread(self._store.vote, rater, vote)
        except AlreadyVoted:
            raise ApiError(409, "This question has been rated already.", param="turn", code="already_rated") from None
        return self._state(await self._rater(token))

    async def _rater(self, token: str) -> Rater:
        rater = await asyncio.to_thread(self._store.find_rater, token)
        if rater is None:
            raise ApiError(404, "This link is not known here, or no longer.", code="unknown_link")
        return rater

    def _state(self, rater: Rater) -> State:
        done = rater.done >= self._total
        turn = min(rater.done + 1, self._total)
        question = "" if done else self._rating.questions[turn - 1]
        return State(questions_total=self._total, turn=turn, question=question, done=done)

    def _is_written(self, rater: Rater, turn: int) -> bool:
        return all(self._store.answer(rater.conversation, turn, model) is not None for model in self._rating.models)

    async def _replay(self, rater: Rater, turn: int, side: Literal["a", "b"]) -> AsyncIterator[str]:
        task = self._writers.prepare(rater.conversation, turn)
        while not task.done():
            yield ": one moment\n\n"  # a line that says nothing is taken for dead
            await asyncio.wait({task}, timeout=SIGN_OF_LIFE_S)
        if task.cancelled() or task.exception():
            # a turn fails as a whole, whichever model it was
            yield _event({"error": "The answers could not be prepared."})
            return
        if turn < self._total:
            self._writers.prepare(rater.conversation, turn + 1)
        model = self._store.order(rater, turn)[0 if side == "a" else 1]
        text = await asyncio.to_thread(self._store.answer, rater.conversation, turn, model) or ""
        async for piece in paced(text, self._rating.characters_per_second):
            yield _event({"text": piece})
        yield _event({"end": True})


class OperatorDesk:
    """What the operator may do and see."""

    def __init__(self, rating: RatingSettings, store: RatingStore) -> None:
        self._rating, self._store = rating, store

    def invite(self, invitation: Invitation) -> Link:
        """A link for a new rater, or another one for a rater whose link is lost."""
        if invitation.renew:
            token = self._store.renew_token(invitation.name)
            if token is None:
                raise ApiError(404, "There is no rater of this name.", param="name", code="unknown_rater")
        else:
            try:
                token = self._store.add_rater(invitation.name)
            except NameTaken:
                raise ApiError(409, "This rater has a link already.", param="name", code="name_taken") from None
        return Link(url=f"/rate/{token}")

    def results(self) -> dict[str, Any]:
        """Raters with their progress, models with their scores."""
        total = len(self._rating.questions)
        tallies = self._store.tallies()
        rows = self._store.rows()
        return {
            "questions_total": total,
            "raters": [
                {"name": rater.name, "alias": rater.alias, "done": rater.done} for rater in self._store.raters()
            ],
            "models": {
                name: {"ratings": one.ratings, "mean": one.mean, "better": one.better} for name, one in tallies.items()
            },
            "same": sum(1 for row in rows if row[6] == "same") // 2,
        }

    def csv(self) -> Response:
        """Every rating as a line; raters bear their made-up names."""
        page = io.StringIO()
        writer = csv.writer(page, lineterminator="\r\n")
        writer.writerow(COLUMNS)
        writer.writerows(self._store.rows())
        headers = {"Content-Disposition": 'attachment; filename="ratings.csv"', "Cache-Control": "no-store"}
        return Response(page.getvalue(), media_type="text/csv", headers=headers)


async def paced(text: str, characters_per_second: float) -> AsyncIterator[str]:
    """`text` in pieces whose times depend on its length alone."""
    begun = time.monotonic()
    step = max(1 / characters_per_second, 1 / MOST_PIECES_PER_SECOND)
    shown = ticks = 0
    while shown < len(text):
        await asyncio.sleep(begun + ticks * step - time.monotonic())
        ticks += 1
        due = max(shown + 1, round(ticks * step * characters_per_second))
        yield text[shown:due]
        shown = due


def _add_rater_routes(router: APIRouter, desk: RaterDesk) -> None:
    router.add_api_route("/rate/{token}/state", desk.state, methods=["GET"])
    router.add_api_route("/rate/{token}/answer/{side}", desk.answer, methods=["GET"], response_class=StreamingResponse)
    router.add_api_route("/rate/{token}/vote", desk.vote, methods=["POST"])


def _add_operator_routes(router: APIRouter, desk: OperatorDesk) -> None:
    router.add_api_route("/operate/raters", desk.invite, methods=["POST"])
    router.add_api_route("/operate/results", desk.results, methods=["GET"])
    router.add_api_route("/operate/results.csv", desk.csv, methods=["GET"], response_class=Response)


def _event(payload: dict[str, Any]) -> str:
    return f"data: {json.dumps(payload, ensure_ascii=False)}\n\n"
