"""A server that speaks OpenAI's chat-completions API writes the answers: vLLM, SGLang, llama.cpp's own …

In:  its address (`http://host:8000/v1`, `…/v1#MODEL` where it has several), the teacher's tokenizer, prompts.
Out: a `Writer`: replies as they come, many at a time, asked again where the server was busy or gone for a while.
Does not know: which weights the server holds. What it writes says so (`Answer.server`) and never passes for verified.

Only the given host is spoken to: no redirect is followed, no proxy used. A key is taken from POTSTILL_SERVER_KEY.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from potstill.answers.writers import WINDOW, unknown
from potstill.models.conversation import answer_ids, conversation_ids, messages, text_ids
from potstill.problem import Problem
from potstill.prompts import Prompt
from potstill.recipe import AnswersSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from potstill.models.engine import Reply, Sampling

KEY = "POTSTILL_SERVER_KEY"
"""Environment variable of the server's API key. Not OPENAI_API_KEY: that one is nobody else's business."""
TRIES = 6
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
TIMEOUT_S = 600.0
"""Longest silence: a busy server says nothing until an answer is whole."""
BUSY = {408, 409, 425, 429, 500, 502, 503, 504}
UNWANTED = {400, 413, 422}
"""Said to a prompt that the server's filter or context does not take; or to all, where something is set up wrong."""
TELLING = 50
"""So many refusals in a row, and it is the latter."""
LARGEST_REPLY = 16_000_000


class Refusal(Problem):
    """The server does not take this request; it may take others."""


def _parts(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # brackets that do not close
        return urlsplit("")


class Connection:
    """Requests to one server, each on a connection of its own."""

    def __init__(self, address: str) -> None:
        """Raises: Problem where `address` is not an http address of a server."""
        self._over = threading.Event()
        self._open: set[HTTPConnection] = set()
        parts = _parts(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise Problem(f"{address} is not a server's address", f"Write it like http://host:8000/v1; a key: {KEY}.")
        self.address = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._host, self._path = parts.netloc, parts.path.rstrip("/")
        self._kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        key = os.environ.get(KEY, "").strip()  # a file with Windows' line ends leaves one
        if not (key.isascii() and key.isprintable()):
            raise Problem(f"{KEY} holds a character that no key has", "Set it again, without spaces or quotes.")
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of a reply, after as many tries as it takes. Raises: Problem with the server's own words."""
        pause = FIRST_PAUSE_S
        for left in reversed(range(TRIES)):
            if self._over.is_set():
                raise self._problem(0, b"broken off")
            try:
                status, wait, content = self._once(method, path, body)
            except (OSError, HTTPException) as error:
                status, wait, content = 0, None, f"{type(error).__name__}: {error}".encode()
            if status == 200:
                return self._parsed(content)
            if status not in BUSY | {0} or not left:
                raise self._problem(status, content)
            if self._over.wait(min(wait if wait is not None else pause, LONGEST_PAUSE_S)):
                raise self._problem(0, b"broken off")
            pause *= 2
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, float | None, bytes]:
        connection = self._kind(self._host, timeout=TIMEOUT_S)
        self._open.add(connection)
        try:
            content = None if body is None else json.dumps(body).encode()
            connection.connect()
            if self._over.is_set():
                raise OSError("broken off")
            connection.request(method, self._path + path, content, self._headers)
            response = connection.getresponse()
            wait = response.headers.get("Retry-After", "")
            return response.status, float(wait) if wait.isdigit() else None, response.read(LARGEST_REPLY)
        finally:
            self._open.discard(connection)
            connection.close()

    def break_off(self) -> None:
        """Ask nothing more, and let go of what is being waited for."""
        self._over.set()
        for connection in list(self._open):
            if (waiting := connection.sock) is not None:
                with suppress(OSError):
                    waiting.shutdown(socket.SHUT_RDWR)

    def _parsed(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError:
            raise Problem(
                f"{self.address} sent no JSON", "Give the address of the API: it mostly ends in /v1."
            ) from None

    def _problem(self, status: int, content: bytes) -> Problem:
        words = content[:300].decode(errors="replace").strip()
        if not status:
            return Problem(f"{self.address} cannot be reached ({words})", "Start it, and run again: nothing is lost.")
        if 300 <= status < 400:
            return Problem(
                f"{self.address} sends us elsewhere ({status})", "Give the address it means, if you trust it."
            )
        remedy = f"Put its key into {KEY}." if status in (401, 403) else "Mend it, and run again: nothing is lost."
        kind = Refusal if status in UNWANTED else Problem
        return kind(f"{self.address} refuses ({status}: {words})", remedy)


class Server:
    """A `Writer` at the other end of a network. Every answer is for itself; `settings.slots` are asked at a time."""

    dtype: str | None = None

    def __init__(self, address: str, tokenizer: PreTrainedTokenizerBase, settings: AnswersSection) -> None:
        """Ask the server what it serves. Raises: Problem where that is nothing, or several and none is named."""
        self._connection = Connection(address.partition("#")[0])
        self._model = self._choose(address.partition("#")[2])
        self._tokenizer, self._settings = tokenizer, settings
        self.server: str | None = f"{self._model} at {self._connection.address}"
        self._refused: dict[str, str] = {}
        self._in_a_row: dict[str, str] = {}

    @property
    def refused(self) -> Mapping[str, str]:
        """Ids of prompts that the server does not take → its words."""
        return self._refused

    def count_tokens(self, prompt: str | Sequence[dict[str, str]]) -> int:
        """The teacher's tokens of a plain text, or of a conversation with its template."""
        ids = (
            text_ids(self._tokenizer, prompt) if isinstance(prompt, str) else conversation_ids(self._tokenizer, prompt)
        )
        return len(ids)

    def batches(self, prompts: Sequence[Prompt], known: Collection[str], max_tokens: int) -> Iterator[list[Prompt]]:
        """All that are not known."""
        return unknown(prompts, known, WINDOW)

    def write(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> Iterator[tuple[int, Reply]]:
        """Position and reply, in the order of finishing; breaking off asks nothing more.

        Prompts that the server does not take are noted in `refused`. Raises: Problem where it takes none any more.
        """
        crew = ThreadPoolExecutor(self._settings.slots, thread_name_prefix="potstill-server")
        own = [replace(sampling, seed=seed) for seed in seeds]
        asked = {
            crew.submit(self._reply, prompt, one): place
            for place, (prompt, one) in enumerate(zip(prompts, own, strict=True))
        }
        try:
            for future in as_completed(asked):
                try:
                    reply = future.result()
                except Refusal as refusal:
                    self._note(prompts[asked[future]], refusal)
                    continue
                self._settle()
                yield asked[future], reply
        except BaseException as error:
            if not isinstance(error, Refusal):
                self._settle()
            crew.shutdown(wait=False, cancel_futures=True)
            self._connection.break_off()
            raise
        crew.shutdown()
        self._settle()

    def _note(self, prompt: Prompt, refusal: Refusal) -> None:
        self._in_a_row[prompt.id] = refusal.what
        if len(self._in_a_row) >= TELLING:
            raise refusal

    def _settle(self) -> None:
        """The server works: what it refused just now it refuses for what it is."""
        self._refused |= self._in_a_row
        self._in_a_row.clear()

    def _choose(self, named: str) -> str:
        if named:
            return named
        listed = self._connection.ask("GET", "/models")
        try:
            names = [str(one["id"]) for one in listed["data"]]
        except (KeyError, TypeError):
            names = []
        if len(names) != 1:
            found = ", ".join(names) or "none"
            raise Problem(f"{self._connection.address} serves {len(names)} models ({found})", "Name one: …/v1#MODEL.")
        return names[0]

    def _reply(self, prompt: Prompt, sampling: Sampling) -> Reply:
        from potstill.models.engine import Reply

        started, asked = time.perf_counter(), self.count_tokens(messages(prompt.text))
        response = self._connection.ask("POST", "/chat/completions", self._request(prompt, sampling, asked))
        try:
            choice = response["choices"][0]
            text, ended = str(choice["message"]["content"] or ""), choice["finish_reason"] == "stop"
        except (KeyError, IndexError, TypeError):
            what = f"{self._connection.address} sent no chat completion"
            raise Problem(what, "Give the address of an OpenAI-compatible API.") from None
        seconds = time.perf_counter() - started
        tokens = len(answer_ids(self._tokenizer, text, ended))  # the teacher's, whatever the server counts
        return Reply(text, "stop" if ended else "length", asked, tokens, seconds, seconds, (seconds,))

    def _request(self, prompt: Prompt, sampling: Sampling, asked: int) -> dict[str, Any]:
        """OpenAI's fields, and what vLLM, SGLang and llama.cpp take beyond them; a penalty has two names."""
        beyond: dict[str, Any] = {"top_k": sampling.top_k}
        if sampling.repeat_penalty != 1:
            beyond |= dict.fromkeys(("repetition_penalty", "repeat_penalty"), sampling.repeat_penalty)
        return {
            "model": self._model,
            "messages": messages(prompt.text),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "max_tokens": min(sampling.max_tokens, self._settings.context - asked),
            **beyond,
        }
