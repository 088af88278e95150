"""llama.cpp's C interface, for what its server doesn't give: the logits of every position.

In:  a GGUF, token ids, text.
Out: float32 logits; token ids; llama.cpp's own words on a file it refuses.
Does not know: sampling, conversations, where the ids come from.

The structs below are those of llama.h in the build inside xllamacpp 2026.10.11549. They travel by value, so
one field too many would be silent garbage: `_interface` compares all defaults before it calls anything else.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from potstill.machine import return_memory
from potstill.models import library
from potstill.models.gguf_adapter import parts_of
from potstill.problem import Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CHUNK = 128
"""Tokens llama.cpp reads at once; more are no faster on a CPU, and each takes two rows of logits."""
_LOG_ERROR = 4
_LogCallback = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)


class _ModelParameters(ctypes.Structure):
    _fields_ = [
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int),
        ("load_mode", c_int),
        ("lazy_mode", c_int),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    ]


class _ContextParameters(ctypes.Structure):
    _fields_ = [
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int),
        ("rope_scaling_type", c_int),
        ("pooling_type", c_int),
        ("attention_type", c_int),
        ("flash_attn_type", c_int),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int),
        ("type_v", c_int),
        ("moe_cache_size", c_size_t),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


_MODEL_DEFAULTS: Mapping[str, float] = {"n_gpu_layers": -1, "load_mode": -1} | dict.fromkeys(
    ("split_mode", "lazy_mode", "use_extra_bufts"), 1
)
_CONTEXT_DEFAULTS: Mapping[str, float] = (
    {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_threads": 4, "n_threads_batch": 4}
    | dict.fromkeys(("rope_scaling_type", "pooling_type", "attention_type", "flash_attn_type"), -1)
    | dict.fromkeys(("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"), -1)
    | {"defrag_thold": -1}
    | dict.fromkeys(("n_seq_max", "n_outputs_max_per_seq", "type_k", "type_v"), 1)
    | dict.fromkeys(("offload_kqv", "no_perf", "op_offload", "swa_full"), 1)
)
"""What the defaults must be; every field that isn't named here is 0, False or null."""

_FUNCTIONS: dict[str, tuple[object, list[object]]] = {
    "llama_backend_init": (None, []),
    "llama_model_default_params": (_ModelParameters, []),
    "llama_context_default_params": (_ContextParameters, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, _ModelParameters]),
    "llama_model_free": (None, [c_void_p]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_init_from_model": (c_void_p, [c_void_p, _ContextParameters]),
    "llama_free": (None, [c_void_p]),
    "llama_adapter_lora_init": (c_void_p, [c_void_p, c_char_p]),
    "llama_set_adapters_lora": (c_int32, [c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_float)]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_clear": (None, [c_void_p, c_bool]),
    "llama_memory_seq_rm": (c_bool, [c_void_p, c_int32, c_int32, c_int32]),
    "llama_n_batch": (c_uint32, [c_void_p]),
    "llama_n_threads_batch": (c_int32, [c_void_p]),
    "llama_batch_init": (_Batch, [c_int32, c_int32, c_int32]),
    "llama_batch_free": (None, [_Batch]),
    "llama_decode": (c_int32, [c_void_p, _Batch]),
    "llama_get_logits": (POINTER(c_float), [c_void_p]),
    "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool]),
}


class LlamaReader:
    """A model that reads: token ids in, logits out. Use it as a context manager, or call `close`."""

    def __init__(self, gguf: Path, *, context: int, threads: int, exact: bool = False) -> None:
        """Load a model.

        Args:
            gguf: a model's file, or a named adapter's, which is loaded with its model (see `gguf_adapter`).
            context: longest sequence, in tokens.
            threads: all of them read.
            exact: keep attention in float32, to compare files; otherwise as llama.cpp runs by default.

        Raises: Problem where the file is missing, damaged or unknown to llama.cpp, or where this build of
            llama.cpp has another interface.
        """
        from potstill.models.gguf_reader import check_gguf

        parts = parts_of(gguf)
        check_gguf(parts.model)
        self.gguf, self.context, self.threads, self.exact = gguf, context, threads, exact
        self._llama = _interface()
        defaults = self._llama.llama_model_default_params()
        self._model = self._llama.llama_model_load_from_file(bytes(parts.model), defaults)
        if not self._model:
            raise Problem(f"llama.cpp can't load {gguf}: {reason_for_refusal(parts.model)}", "Use another file.")
        self._vocabulary = self._llama.llama_model_get_vocab(self._model)
        self._context = self._llama.llama_init_from_model(self._model, self._context_parameters())
        if not self._context:
            self._llama.llama_model_free(self._model)
            raise Problem(f"llama.cpp finds no memory for {context} tokens of {gguf}", "Ask for fewer.")
        self._batch = self._llama.llama_batch_init(_CHUNK, 0, 1)
        if parts.adapters:
            self._add_adapters(parts.adapters)
        self._held: list[int] = []

    @property
    def vocabulary_size(self) -> int:
        """V: rows of the output head."""
        return int(self._llama.llama_vocab_n_tokens(self._vocabulary))

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        if self._context is not None:
            self._llama.llama_batch_free(self._batch)
            self._llama.llama_free(self._context)
            self._llama.llama_model_free(self._model)
            self._context = self._model = None
            return_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _add_adapters(self, paths: Sequence[Path]) -> None:
        """Load adapters at full strength; they go with the model."""
        count = len(paths)
        adapters = [self._llama.llama_adapter_lora_init(self._model, bytes(path)) for path in paths]
        if not all(adapters) or self._llama.llama_set_adapters_lora(
            self._context, (c_void_p * count)(*adapters), count, (c_float * count)(*[1.0] * count)
        ):
            self.close()
            told = " and ".join(map(str, paths))
            raise Problem(f"llama.cpp can't use {told} with {parts_of(self.gguf).model.name}", "Export both again.")

    def logits(self, token_ids: Sequence[int], start: int = 0) -> NDArray[np.float32]:
        """What the model predicts after each token of one sequence.

        Args:
            token_ids: [T], as they are: nothing is added.
            start: first position to give out; leaving a prompt out saves its share of the output head.

        Returns: [T - start, V] float32; row i predicts token `start + i + 1`.
        Raises: Problem where the sequence is longer than the context; ValueError where an id or `start` is
            out of range.
        """
        self._check(token_ids, start)
        self._forget(0)
        return self._read_all(token_ids, 0, start)

    def log_likelihoods(
        self, token_ids: Sequence[int], continuations: Sequence[Sequence[int]], shared: int = 0
    ) -> list[float]:
        """How likely each continuation is after the same beginning, which is read once.

        Args:
            token_ids: [T] the beginning, at least one token.
            continuations: token ids, at least one each.
            shared: so many first tokens are likely to be those of the call before; then they aren't read again. They
                are always read apart from the rest, so that the result doesn't depend on what was asked before.

        Returns: sums of log-probabilities, nats. Errors as for `logits`.
        """
        import numpy as np

        end = len(token_ids)
        shared = min(shared, end - 1)
        self._check(token_ids, end - 1)
        if not shared or list(token_ids[:shared]) != self._held:
            self._forget(0)
            self._read_all(token_ids[:shared], 0, shared)
        self._held = list(token_ids[:shared])
        self._forget(shared)
        first = self._read_all(token_ids[shared:], shared, end - 1)
        found = []
        for ids in continuations:
            self._check([*token_ids, *ids], 0)
            # what follows the last token is of no interest, so that is not read
            rows = np.concatenate([first, self._read_all(ids[:-1], end, end)]).astype(np.float64)
            self._forget(end)
            peak = rows.max(axis=1)
            totals = peak + np.log(np.exp(rows - peak[:, None]).sum(axis=1))
            found.append(float((rows[np.arange(len(ids)), list(ids)] - totals).sum()))
        return found

    def _forget(self, begin: int) -> None:
        """Drop what was read from position `begin` on."""
        memory = self._llama.llama_get_memory(self._context)
        if begin == 0:
            self._held = []
            self._llama.llama_memory_clear(memory, True)
        else:
            self._llama.llama_memory_seq_rm(memory, 0, begin, -1)

    def _read_all(self, token_ids: Sequence[int], begin: int, start: int) -> NDArray[np.float32]:
        """Read tokens that begin at position `begin`; returns the logits [n, V] from position `start` on."""
        import numpy as np

        width = self.vocabulary_size
        rows = [
            self._read(token_ids[place : place + _CHUNK], begin + place, start)
            for place in range(0, len(token_ids), _CHUNK)
        ]
        return np.concatenate([np.empty((0, width), dtype=np.float32), *rows])

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of `text`, nothing added. `special`: names of special tokens in it are those tokens."""
        encoded = text.encode("utf-8")
        size = len(encoded) + 8
        ids = (c_int32 * size)()
        count = self._llama.llama_tokenize(self._vocabulary, encoded, len(encoded), ids, size, False, special)
        if count < 0:
            raise RuntimeError(f"llama_tokenize wanted {-count} places for {len(encoded)} bytes")
        return ids[:count]

    def _context_parameters(self) -> _ContextParameters:
        parameters: _ContextParameters = self._llama.llama_context_default_params()
        parameters.n_ctx = self.context
        parameters.n_batch = parameters.n_ubatch = _CHUNK
        parameters.n_outputs_max_per_seq = 0  # all; the default allows one position a sequence
        parameters.n_threads = parameters.n_threads_batch = self.threads
        if self.exact:  # no float16 cache, no flash attention
            parameters.type_k = parameters.type_v = parameters.flash_attn_type = 0
        return parameters

    def _check(self, token_ids: Sequence[int], start: int) -> None:
        if self._context is None:
            raise RuntimeError("The reader is closed.")
        if not 0 <= start < len(token_ids):
            raise ValueError(f"start {start} lies outside a sequence of {len(token_ids)} tokens")
        if len(token_ids) > self.context:
            raise Problem(
                f"The sequence is {len(token_ids)} tokens long, the context {self.context}",
                "Shorten it, or open the reader with a longer context.",
            )
        if not 0 <= min(token_ids) <= max(token_ids) < self.vocabulary_size:
            raise ValueError(f"token ids lie in 0 … {self.vocabulary_size - 1}")

    def _read(self, token_ids: Sequence[int], begin: int, start: int) -> NDArray[np.float32]:
        """Read one chunk that begins at position `begin`; returns the logits [n, V] from position `start` on."""
        import numpy as np

        batch = self._batch
        batch.n_tokens = len(token_ids)
        for place, token in enumerate(token_ids):
            batch.token[place] = token
            batch.pos[place] = begin + place
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = 0
            batch.logits[place] = begin + place >= start
        code = self._llama.llama_decode(self._context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode failed with code {code} at position {begin} of {self.gguf}")
        rows = max(0, begin + len(token_ids) - max(begin, start))
        if not rows:
            return np.empty((0, self.vocabulary_size), dtype=np.float32)
        return np.ctypeslib.as_array(self._llama.llama_get_logits(self._context), (rows, self.vocabulary_size)).copy()


def reason_for_refusal(gguf: Path) -> str:
    """llama.cpp's own words on why it doesn't load a file."""
    llama = _interface()
    lines: list[str] = []

    def listen(level: int, text: bytes | None, _: object) -> None:
        if level == _LOG_ERROR and text:
            lines.append(text.decode("utf-8", errors="replace").strip())

    callback = _LogCallback(listen)
    llama.llama_log_set(ctypes.cast(callback, c_void_p), None)
    try:
        model = llama.llama_model_load_from_file(bytes(gguf), llama.llama_model_default_params())
    finally:
        library.silence(llama)
    if model:
        llama.llama_model_free(model)
        return "its weights load, but there is no memory for its context, or its chat template is broken"
    return lines[0].rpartition("error loading model: ")[2] if lines else "it gives no reason"


@cache
def _interface() -> ctypes.CDLL:
    """The functions used here, with their types. Raises: Problem where the structs are not the ones above."""
    llama = library.shared_library("PASSIVE")
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(llama, name, None)
        if function is None:
            raise _unknown_build(f"it has no {name}")
        function.restype, function.argtypes = result, arguments
    _compare(llama.llama_model_default_params(), _MODEL_DEFAULTS)
    _compare(llama.llama_context_default_params(), _CONTEXT_DEFAULTS)
    llama.llama_backend_init()
    return llama


def _compare(parameters: ctypes.Structure, expected: Mapping[str, float]) -> None:
    for name, *_ in parameters._fields_:
        value = getattr(parameters, name) or 0
        if value != expected.get(name, 0):
            raise _unknown_build(f"its default {name} is {value} where {expected.get(name, 0)} was due")


def _unknown_build(why: str) -> Problem:
    return Problem(
        f"This build of llama.cpp has another interface than the one potstill knows: {why}",
        "Install the tested version: pip install xllamacpp==2026.10.11549",
    )
