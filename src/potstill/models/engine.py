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
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from potstill.models import library
from potstill.models.library import Waiting
from potstill.models.socket_client import PrivateSocket
from potstill.problem import Problem

Messages = Sequence[dict[str, str]]
_SWITCHED_OFF = (
    *("cache_prompt", "cache_idle_slots", "ctx_shift", "fit_params", "kv_unified"),
    *("prefill_assistant", "ui", "warmup"),
)
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


@dataclass(frozen=True)
class Reply:
    """One finished answer and what it took."""

    text: str
    finish: Literal["stop", "length"]
    """stop: the model ended it. length: `max_tokens` or the context did."""
    prompt_tokens: int
    tokens: int
    """Tokens written; the end-of-turn token counts where there is one."""
    first_token_s: float
    """Seconds until the first token was chosen, everything included that `seconds` includes."""
    seconds: float
    """Seconds to the end: reading the prompt, writing, handing over. In a batch, from a free slot on."""
    arrivals: tuple[float, ...]
    """Seconds from the start until each piece of text came: what a person who reads along feels."""


def derive_seed(seed: int, index: int) -> int:
    """A conversation's own seed, in [0, 2³¹): the same for the same pair, whatever else is in the batch."""
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") & 0x7FFFFFFF


class Engine:
    """A loaded model that writes. Use it as a context manager, or call `close`.

    Any thread may call it; more than `slots` conversations at a time wait for each other.
    """

    def __init__(self, gguf: Path, *, context: int, slots: int, threads: Threads, check: bool = True) -> None:
        """Load a model.

        Args:
            gguf: the file.
            context: tokens of one conversation, prompt and answer together.
            slots: conversations that are written at the same time.
            threads: `waiting` counts only where it is the first choice in this process (see `waiting`).
            check: False where the caller has checked the file already (the check imports numpy: 22 MB).

        Raises: Problem where the file is missing, damaged or of a kind llama.cpp doesn't know, or where
            `context` is more than the model was trained for.
        """
        if min(context, slots, threads.decode, threads.prefill) < 1:
            raise ValueError("context, slots and threads are at least 1")
        self.gguf, self.context, self.slots, self.threads = gguf, context, slots, threads
        self._stop = threading.Event()
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
        # llama.cpp aborts the process when its server goes while a request is still waiting for it
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._server = None
        _open_engines.discard(self)
        self._socket.close()
        gc.collect()
        library.return_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def render(self, messages: Messages) -> str:
        """What the model's own chat template makes of a conversation, up to where the answer begins."""
        return str(self._socket.post("/apply-template", {"messages": list(messages)})["prompt"])

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Token ids of a conversation with everything its template adds, up to where the answer begins."""
        return self._token_ids(self.render(messages), begin=True)

    def count_tokens(self, prompt: str | Messages) -> int:
        """Tokens of a plain text, or of a conversation with everything its template adds."""
        return len(self._token_ids(prompt, begin=False) if isinstance(prompt, str) else self.prompt_ids(prompt))

    def stream(self, messages: Messages, sampling: Sampling) -> Iterator[str]:
        """The answer in pieces, as they come; closing the iterator stops the work at the next token.

        Raises: Problem at once where the prompt doesn't fit into the context.
        """
        return self._stream(self._request(messages, sampling, ignore_end=False))

    def reply(self, messages: Messages, sampling: Sampling, *, ignore_end: bool = False) -> Reply:
        """The whole answer. `ignore_end` writes on to `max_tokens` whatever the model wants, for measuring.

        Raises: Problem where the prompt doesn't fit into the context.
        """
        started = time.perf_counter()
        request = self._request(messages, sampling, ignore_end)
        stop = threading.Event()
        future = self._workers.submit(self._complete, request, stop, _ignore, started)
        try:
            return future.result()
        finally:
            _settle([future], stop)

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
            self._request(messages, sampling, ignore_end=False, seed=seed)
            for messages, seed in zip(conversations, seeds, strict=True)
        ]
        return self._batch(requests)

    def _stream(self, request: dict[str, Any]) -> Iterator[str]:
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        stop = threading.Event()
        future = self._workers.submit(self._complete, request, stop, pieces.put)
        future.add_done_callback(lambda _: pieces.put(None))
        try:
            while (piece := pieces.get()) is not None:
                yield piece
            future.result()
        finally:
            _settle([future], stop)

    def _batch(self, requests: Sequence[dict[str, Any]]) -> Iterator[tuple[int, Reply]]:
        stop = threading.Event()
        places = {
            self._workers.submit(self._complete, request, stop, _ignore): place
            for place, request in enumerate(requests)
        }
        try:
            for future in as_completed(places):
                yield places[future], future.result()
        finally:
            _settle(list(places), stop)

    def _request(
        self, messages: Messages, sampling: Sampling, ignore_end: bool, seed: int | None = None
    ) -> dict[str, Any]:
        if self._server is None:
            raise RuntimeError("The engine is closed.")
        if sampling.max_tokens < 1:
            raise ValueError("max_tokens is at least 1")
        ids = self.prompt_ids(messages)
        if len(ids) >= self.context:
            raise Problem(
                f"The prompt is {len(ids)} tokens long; a context of {self.context} takes {self.context - 1}",
                "Shorten the prompt, or give a larger context.",
            )
        return {
            "prompt": ids,
            "stream": True,
            "stream_options": {"include_usage": True},
            "cache_prompt": False,
            "max_tokens": min(sampling.max_tokens, self.context - len(ids)),
            "ignore_eos": ignore_end,
            "samplers": ["penalties", "top_k", "top_p", "temperature"],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": (sampling.seed if seed is None else seed) & 0x7FFFFFFF,  # 2³² - 1 would mean "any"
            "repeat_penalty": sampling.repeat_penalty,
            "repeat_last_n": PENALTY_WINDOW,
        }

    def _complete(
        self,
        request: dict[str, Any],
        stop: threading.Event,
        on_piece: Callable[[str], None],
        started: float | None = None,
    ) -> Reply:
        """One request, in a worker: in the main thread, llama.cpp's callback would swallow Ctrl-C."""
        begin = time.perf_counter() if started is None else started
        answer = _Answer(on_piece, lambda: stop.is_set() or self._stop.is_set(), begin)
        self._server.handle_completions(request, answer.take)
        return answer.reply()

    def _token_ids(self, text: str, *, begin: bool) -> list[int]:
        # the Qwen family's tokenizers bring text to NFC first; llama.cpp doesn't
        content = unicodedata.normalize("NFC", text)
        ids: list[int] = self._socket.post(
            "/tokenize", {"content": content, "add_special": begin, "parse_special": True}
        )["tokens"]
        return ids

    def _parameters(self, package: Any) -> Any:
        parameters = package.CommonParams()
        parameters.model.path = str(self.gguf)
        parameters.n_ctx = self.context * self.slots
        parameters.n_parallel = self.slots
        parameters.cpuparams.n_threads = self.threads.decode
        parameters.cpuparams_batch.n_threads = self.threads.prefill
        parameters.hostnames = [str(self._socket.path)]
        parameters.n_threads_http = 1
        parameters.endpoint_metrics = True
        parameters.verbosity = -1
        parameters.n_gpu_layers = 0
        # read, not mapped: the weights that llama.cpp repacks (Q4_0) would be in memory twice
        parameters.load_mode = package.llama_load_mode.LLAMA_LOAD_MODE_NONE
        parameters.cache_ram_mib = 0
        parameters.n_ctx_checkpoints = 0
        parameters.slot_prompt_similarity = 0.0
        for switch in _SWITCHED_OFF:
            setattr(parameters, switch, False)
        return parameters


class _Answer:
    """What one request has brought so far."""

    def __init__(self, on_piece: Callable[[str], None], stopped: Callable[[], bool], started: float) -> None:
        self._on_piece = on_piece
        self._stopped = stopped
        self._started = started
        self._pieces: list[str] = []
        self._arrivals: list[float] = []
        self._finish: Literal["stop", "length"] | None = None
        self._usage: dict[str, int] = {}
        self._decode_s = 0.0
        self._error: str | None = None

    def take(self, chunk: dict[str, Any]) -> bool:
        """One event of the stream. Returns: whether llama.cpp shall stop here."""
        if "error" in chunk:
            self._error = str(chunk["error"].get("message", chunk["error"]))
            return True
        choice = chunk["choices"][0]
        if piece := choice["text"]:
            self._pieces.append(piece)
            self._arrivals.append(time.perf_counter() - self._started)
            self._on_piece(piece)
        if choice["finish_reason"]:
            self._finish = choice["finish_reason"]
            self._usage = chunk["usage"]
            self._decode_s = chunk["timings"]["predicted_ms"] / 1000
        return self._stopped()

    def reply(self) -> Reply:
        """The finished answer. Raises: RuntimeError where it isn't finished."""
        seconds = time.perf_counter() - self._started
        if self._finish is None:
            raise RuntimeError(f"llama.cpp wrote no answer: {self._error or 'it was stopped'}")
        return Reply(
            text="".join(self._pieces),
            finish=self._finish,
            prompt_tokens=self._usage["prompt_tokens"],
            tokens=self._usage["completion_tokens"],
            first_token_s=seconds - self._decode_s,
            seconds=seconds,
            arrivals=tuple(self._arrivals),
        )


def _ignore(piece: str) -> None:
    """For requests of which only the whole is wanted."""


def _settle(futures: Sequence[Future[Reply]], stop: threading.Event) -> None:
    """Leave nothing running: what has not begun never will, what has ends at its next token."""
    stop.set()
    for future in futures:
        future.cancel()
    wait(futures)


def _check_file(gguf: Path, context: int) -> None:
    from potstill.models.gguf_reader import read_metadata

    metadata = read_metadata(gguf)
    trained = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    if isinstance(trained, int) and context > trained:
        raise Problem(f"{gguf} was trained for {trained} tokens of context, not {context}", "Ask for fewer.")


def _refusal(gguf: Path) -> Problem:
    from potstill.models.llama import reason_for_refusal

    return Problem(f"llama.cpp can't load {gguf}: {reason_for_refusal(gguf)}", "Export it again.")


_open_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A server that outlives the interpreter would abort the process."""
    for engine in list(_open_engines):
        engine.close()
