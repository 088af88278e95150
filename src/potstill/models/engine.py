"""All text generation: llama.cpp's server, inside this process.

In:  a GGUF, conversations (lists of `{"role", "content"}`), sampling settings.
Out: text as it comes, whole replies, many replies at once; prompt lengths before any work.
Does not know: recipes, runs, stages, what the text is for.

Nothing is kept between conversations. Requests go to the server by function call. It insists on a listener
for its HTTP side; that is a Unix socket in a folder only this user can enter, so no port is open.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import queue
import threading
import time
import unicodedata
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from potstill.machine import return_memory
from potstill.models import library
from potstill.models.completion import Answer, Piece, Wishes, Writing, pieces_of_text
from potstill.models.completion import Reply as Reply
from potstill.models.gguf_adapter import parts_of
from potstill.models.library import Waiting
from potstill.models.socket_client import PrivateSocket
from potstill.problem import Problem

Messages = Sequence[dict[str, str]]
_SWITCHED_OFF = (
    *("cache_prompt", "cache_idle_slots", "ctx_shift", "fit_params", "kv_unified"),
    *("prefill_assistant", "ui", "warmup"),
)
NOTHING_MORE = Wishes()
PENALTY_WINDOW = 64
"""How many of the latest tokens the repeat penalty looks at: llama.cpp's own number."""


@dataclass(frozen=True)
class Threads:
    """How many threads do what, and how idle ones wait."""

    decode: int
    """Threads that write, one token at a time."""
    prefill: int
    """Threads that read the prompt, or write for several conversations at once."""
    waiting: Waiting
    """PASSIVE: idle threads sleep at once. ACTIVE: they spin a while: fast alone, terrible in company."""


def default_threads(cores: int) -> Threads:
    """What is never terrible: one thread writes, all cores read, idle threads sleep."""
    return Threads(decode=1, prefill=cores, waiting="PASSIVE")


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: penalty, then top-k, then top-p, then temperature."""

    temperature: float
    """0: always the likeliest token."""
    top_p: float
    """1: off."""
    top_k: int
    """0: off."""
    seed: int
    max_tokens: int
    repeat_penalty: float
    """1: off."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer where they come up; they are not part of it."""

    @classmethod
    def greedy(cls, max_tokens: int, repeat_penalty: float = 1.0, stop: tuple[str, ...] = ()) -> Sampling:
        """Always the likeliest token: no seed matters."""
        return cls(0.0, 1.0, 0, 0, max_tokens, repeat_penalty, stop)


def derive_seed(seed: int, index: int) -> int:
    """A conversation's own seed, in [0, 2³¹): the same for the same pair, whatever else is in the batch."""
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") & 0x7FFFFFFF


class Engine:
    """A loaded model that writes. Use it as a context manager, or call `close`.

    Any thread may call it; more than `slots` conversations at a time wait for each other.
    """

    def __init__(
        self,
        gguf: Path,
        *,
        context: int,
        slots: int,
        threads: Threads,
        check: bool = True,
        stride: int | None = None,
    ) -> None:
        """Load a model.

        Args:
            gguf: a model's file, or a named adapter's, which is loaded with its model (see `gguf_adapter`).
            context: tokens of one conversation, prompt and answer together.
            slots: conversations that are written at the same time.
            threads: `waiting` counts only where it is the first choice in this process (see `waiting`).
            check: False where the caller has checked the file already (the check imports numpy: 22 MB).
            stride: prompt tokens read at a time; between two strides a request can be stopped. None: as
                llama.cpp likes it, which reads any prompt of usual length in one go.

        Raises: Problem where the file is missing, damaged or of a kind llama.cpp doesn't know, or where
            `context` is more than the model was trained for.
        """
        if min(context, slots, threads.decode, threads.prefill) < 1:
            raise ValueError("context, slots and threads are at least 1")
        self.gguf, self.context, self.slots, self.threads = gguf, context, slots, threads
        self._stride = stride
        self._stop, self._asking = threading.Event(), threading.Lock()
        self._workers = ThreadPoolExecutor(slots, thread_name_prefix="potstill-engine")
        if check:
            _check_file(gguf, context)
        package = library.load(threads.waiting)
        self._socket = PrivateSocket()
        try:
            self._server: Any = package.Server(self._parameters(package))
        except RuntimeError as error:
            self._socket.close()
            raise _refusal(gguf) from error
        # only its loop answers this: closing a server whose loop has not begun yet would wait for ever
        self._server.handle_metrics()
        _open_engines.add(self)

    @property
    def waiting(self) -> str:
        """The waiting policy in force: another than asked for where OpenMP had been loaded before."""
        return library.waiting_in_force()

    def close(self) -> None:
        """Stop what is being written and give the memory back. Safe to call twice."""
        self._stop.set()
        # llama.cpp aborts the process when its server goes while a request is still waiting for it. What has not
        # begun is left to the workers to refuse: futures that `shutdown` cancels never wake those who `wait` for them.
        self._workers.shutdown(wait=True)
        # A server that goes holds Python's lock and waits for its connections; whoever is at one waits for that lock.
        with self._asking:
            self._server = None
        _open_engines.discard(self)
        self._socket.close()
        gc.collect()
        return_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def render(self, messages: Messages) -> str:
        """What the model's own chat template makes of a conversation, up to where the answer begins."""
        return str(self._ask("/apply-template", {"messages": list(messages)})["prompt"])

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Token ids of a conversation with everything its template adds, up to where the answer begins."""
        return self._token_ids(self.render(messages), begin=True)

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a plain text that is to be written on."""
        return self._token_ids(text, begin=True)

    def count_tokens(self, prompt: str | Messages) -> int:
        """Tokens of a plain text, or of a conversation with everything its template adds."""
        return len(self._token_ids(prompt, begin=False) if isinstance(prompt, str) else self.prompt_ids(prompt))

    def stream(self, messages: Messages, sampling: Sampling) -> Iterator[str]:
        """The answer in pieces, as they come; closing the iterator stops the work at the next token.

        Raises: Problem at once where the prompt doesn't fit into the context.
        """
        return self._stream(self._request(self.prompt_ids(messages), sampling))

    def reply(self, prompt: str | Messages, sampling: Sampling, *, ignore_end: bool = False) -> Reply:
        """The whole answer to a conversation, or what a plain text goes on with.

        `ignore_end` writes on to `max_tokens` whatever the model wants, for measuring.
        Raises: Problem where the prompt doesn't fit into the context.
        """
        started = time.perf_counter()
        ids = self.text_ids(prompt) if isinstance(prompt, str) else self.prompt_ids(prompt)
        request = self._request(ids, sampling, Wishes(ignore_end=ignore_end))
        writing = self._submit(request, _ignore, started)
        try:
            return writing.future.result()
        finally:
            _settle([writing])

    def write(
        self, prompt: Sequence[int], sampling: Sampling, wishes: Wishes, on_piece: Callable[[Piece], None]
    ) -> Writing:
        """Begin an answer to a prompt of token ids, and return at once.

        `on_piece` is called by the worker that writes, so it must not wait.
        Raises: Problem where the prompt doesn't fit into the context.
        """
        return self._submit(self._request(prompt, sampling, wishes), on_piece)

    def batch(
        self, conversations: Sequence[Messages], sampling: Sampling, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Reply]]:
        """Many answers, `slots` at a time, each given out as it is finished.

        Args:
            conversations: what to answer.
            sampling: for all of them; `sampling.seed` is not used as it is.
            seeds: one for each; by default derived from `sampling.seed` and the position. Pass them where
                only some of the conversations are left to do.

        Returns: pairs of position and reply, in the order of finishing. Closing the iterator stops the work.
        Raises: Problem, before any work, where a prompt doesn't fit into the context.
        """
        if seeds is None:
            seeds = [derive_seed(sampling.seed, index) for index in range(len(conversations))]
        requests = [
            self._request(self.prompt_ids(messages), replace(sampling, seed=seed))
            for messages, seed in zip(conversations, seeds, strict=True)
        ]
        return self._batch(requests)

    def _stream(self, request: dict[str, Any]) -> Iterator[str]:
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        writing = self._submit(request, pieces_of_text(pieces.put))
        writing.future.add_done_callback(lambda _: pieces.put(None))
        try:
            while (piece := pieces.get()) is not None:
                yield piece
            writing.future.result()
        finally:
            _settle([writing])

    def _batch(self, requests: Sequence[dict[str, Any]]) -> Iterator[tuple[int, Reply]]:
        writings = [self._submit(request, _ignore) for request in requests]
        places = {writing.future: place for place, writing in enumerate(writings)}
        try:
            for future in as_completed(places):
                yield places[future], future.result()
        finally:
            _settle(writings)

    def _request(self, ids: Sequence[int], sampling: Sampling, wishes: Wishes = NOTHING_MORE) -> dict[str, Any]:
        if self._server is None:
            raise RuntimeError("The engine is closed.")
        if sampling.max_tokens < 1:
            raise ValueError("max_tokens is at least 1")
        if len(ids) >= self.context:
            raise Problem(
                f"The prompt is {len(ids)} tokens long; a context of {self.context} takes {self.context - 1}",
                "Shorten the prompt, or give a larger context.",
            )
        return {
            "prompt": list(ids),
            "stream": True,
            "stream_options": {"include_usage": True},
            "cache_prompt": False,
            "max_tokens": min(sampling.max_tokens, self.context - len(ids)),
            "samplers": ["penalties", "top_k", "top_p", "temperature"],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": sampling.seed & 0x7FFFFFFF,  # 2³² - 1 would mean "any"
            "repeat_penalty": sampling.repeat_penalty,
            "repeat_last_n": PENALTY_WINDOW,
            "stop": list(sampling.stop),
            "return_progress": self._stride is not None,  # an event for every stride, at which it can be stopped
            **wishes.fields(),
        }

    def _submit(
        self, request: dict[str, Any], on_piece: Callable[[Piece], None], started: float | None = None
    ) -> Writing:
        stop = threading.Event()
        return Writing(self._workers.submit(self._complete, request, stop, on_piece, started), stop)

    def _complete(
        self,
        request: dict[str, Any],
        stop: threading.Event,
        on_piece: Callable[[Piece], None],
        started: float | None,
    ) -> Reply:
        """One request, in a worker: in the main thread, llama.cpp's callback would swallow Ctrl-C."""
        if self._stop.is_set():
            raise RuntimeError("The answer was stopped.")
        begin = time.perf_counter() if started is None else started
        answer = Answer(on_piece, lambda: stop.is_set() or self._stop.is_set(), begin)
        self._server.handle_completions(request, answer.take)
        return answer.reply()

    def _token_ids(self, text: str, *, begin: bool) -> list[int]:
        # the Qwen family's tokenizers bring text to NFC first; llama.cpp doesn't
        content = unicodedata.normalize("NFC", text)
        ids: list[int] = self._ask("/tokenize", {"content": content, "add_special": begin, "parse_special": True})[
            "tokens"
        ]
        return ids

    def _ask(self, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        with self._asking:
            if self._server is None or self._stop.is_set():
                raise RuntimeError("The engine is closed.")
            return self._socket.post(endpoint, body)

    def _parameters(self, package: Any) -> Any:
        parameters = package.CommonParams()
        parts = parts_of(self.gguf)
        parameters.model.path = str(parts.model)
        parameters.lora_adapters = [package.CommonAdapterLoraInfo(str(adapter), 1.0) for adapter in parts.adapters]
        parameters.n_ctx = self.context * self.slots
        parameters.n_parallel = self.slots
        parameters.cpuparams.n_threads = self.threads.decode
        parameters.cpuparams_batch.n_threads = self.threads.prefill
        if self._stride is not None:
            parameters.n_batch = max(self._stride, self.slots)
        parameters.hostnames = [str(self._socket.path)]
        parameters.n_threads_http = 1
        parameters.endpoint_metrics = True
        parameters.verbosity = -1
        parameters.n_gpu_layers = 0
        # read, not mapped: the weights that llama.cpp repacks (Q4_0, IQ4_NL) would be in memory twice
        parameters.load_mode = package.llama_load_mode.LLAMA_LOAD_MODE_NONE
        parameters.cache_ram_mib = 0
        parameters.n_ctx_checkpoints = 0
        parameters.slot_prompt_similarity = 0.0
        for switch in _SWITCHED_OFF:
            setattr(parameters, switch, False)
        return parameters


def _ignore(piece: Piece) -> None:
    """For requests of which only the whole is wanted."""


def _settle(writings: Sequence[Writing]) -> None:
    """Leave nothing running: what has not begun never will, what has ends at its next token."""
    for writing in writings:
        writing.stop()
    wait([writing.future for writing in writings])


def trained_context(gguf: Path) -> int | None:
    """Tokens of context a model was trained for, where its file says so. Raises: Problem for a damaged file."""
    from potstill.models.gguf_reader import read_metadata

    metadata = read_metadata(parts_of(gguf).model)
    trained = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return trained if isinstance(trained, int) else None


def _check_file(gguf: Path, context: int) -> None:
    trained = trained_context(gguf)
    if trained is not None and context > trained:
        raise Problem(f"{gguf} was trained for {trained} tokens of context, not {context}", "Ask for fewer.")


def _refusal(gguf: Path) -> Problem:
    from potstill.models.llama import reason_for_refusal

    return Problem(f"llama.cpp can't load {gguf}: {reason_for_refusal(parts_of(gguf).model)}", "Export it again.")


_open_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A server that outlives the interpreter would abort the process."""
    for engine in list(_open_engines):
        engine.close()
