"""Whether a pack runs on this machine, and how well: what somebody tries before relying on it.

In:  a pack (folder or name), or a GGUF.
Out: its hash verified, sixteen tokens written, the time and memory that took, what llama.cpp uses of the processor.
Does not know: other models, scorecards; nothing is kept.

The published wheels of llama.cpp have code for one kind of processor each: AVX2, FMA, F16C and BMI2 on x86-64 (without
them it ends in an illegal instruction), plain armv8-a on arm64. What a processor offers beyond that is named.
"""

from __future__ import annotations

import ctypes
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from potstill.machine import available_memory_mb, usable_cores
from potstill.models import library
from potstill.models.engine import default_threads
from potstill.models.gguf_adapter import parts_of
from potstill.models.speed import SpeedSample, measure
from potstill.pack.find import find_pack_model
from potstill.pack.runtime import NAME, VERSION
from potstill.problem import Problem
from potstill.recipe import EvaluateSection
from potstill.run import describe_machine

TOKENS = 16
QUESTION = "请用一句话介绍你自己。Introduce yourself in one sentence."
CPUINFO = Path("/proc/cpuinfo")
TRIAL = """
import ctypes
from potstill.models.library import shared_library
row, packed = (ctypes.c_float * 256)(*range(256)), ctypes.create_string_buffer(512)
quantize = shared_library("PASSIVE").quantize_row_q8_0
quantize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
quantize(row, packed, 256)
assert any(packed.raw)
"""
"""A little of llama.cpp's arithmetic that is written in the processor's own instructions."""
NEEDED = {"x86_64": ("avx2", "fma", "f16c", "bmi2"), "aarch64": ("asimd",)}
"""Linux' names of what the published wheels' code takes for granted."""
FASTER = {"avx512f": "AVX512", "avx_vnni": "AVX_VNNI", "asimddp": "DOTPROD", "i8mm": "MATMUL_INT8", "sve": "SVE"}
"""Linux' names of what a build made on the machine itself would use → llama.cpp's own names."""


@dataclass(frozen=True)
class Device:
    """What was seen. MB are 10⁶ bytes."""

    model: str
    megabytes: float
    verified: bool
    """Whether the file's hash is that of a manifest; a bare GGUF has none."""
    machine: str
    used: tuple[str, ...]
    """Of the processor, in llama.cpp's words."""
    unused: tuple[str, ...]
    """What it offers beside that, and this build of llama.cpp does not use."""
    threads: int
    load_s: float
    prompt_tokens: int
    first_token_ms: float
    tokens_per_s: float
    peak_mb: float
    free_mb: float
    """Before the model was loaded."""

    def lines(self) -> list[str]:
        """For people."""
        proof = "as its manifest says" if self.verified else "a bare file: nothing to verify it by"
        rows = {
            "model": f"{self.model}, {self.megabytes:.1f} MB, {proof}",
            "machine": self.machine,
            "processor": f"llama.cpp uses {', '.join(self.used) or 'nothing special'}",
            "loaded in": f"{self.load_s:.1f} s",
            "first token": f"{self.first_token_ms:.0f} ms after {self.prompt_tokens} tokens of question",
            "writes": f"{self.tokens_per_s:.0f} tokens/s with {self.threads} thread{'s' * (self.threads != 1)}",
            "memory": f"{self.peak_mb:.0f} MB at most, {self.free_mb:,.0f} MB were free",
        }
        lines = [f"{name:<12}{words}" for name, words in rows.items()]
        if self.unused:
            more = ", ".join(self.unused)
            lines.append(f"This processor also has {more}: llama.cpp built on this machine may be faster (RUN.md).")
        return lines

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def check_device(place: Path, home: Path | None = None) -> Device:
    """Verify, load, write, measure: a few seconds, in a process of its own.

    Args:
        place: a pack's folder, the name of an installed pack, or a GGUF.
        home: where packs are installed; the usual place if not given.

    Raises: Problem where there is no model, where it is damaged, or where llama.cpp does not run on this processor.
    """
    verified = not place.is_file()
    gguf = find_pack_model(place, home) if verified else place
    if gguf is None:
        raise Problem(f"{place} is neither a pack nor a GGUF", "Give a pack's folder, or the name of an installed one.")
    threads, free_mb = default_threads(usable_cores()), available_memory_mb()
    flags = processor_flags()
    context = EvaluateSection.model_validate({}).context
    try:
        sample: SpeedSample = measure(
            gguf, threads, [[{"role": "user", "content": QUESTION}]], new_tokens=TOKENS, context=context
        )
    except Problem as problem:
        raise _explained(problem, flags) from None
    used = features_in_use()
    return Device(
        model=gguf.name,
        megabytes=parts_of(gguf).bytes / 1e6,
        verified=verified,
        machine=describe_machine(),
        used=used,
        unused=tuple(name for flag, name in FASTER.items() if flag in flags and name not in used),
        threads=threads.decode,
        load_s=sample.load_s,
        prompt_tokens=sample.prompt_tokens[0],
        first_token_ms=sample.first_token_ms[0],
        tokens_per_s=sample.decode_tok_s[0],
        peak_mb=sample.peak_mb,
        free_mb=free_mb,
    )


def processor_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """What Linux says that the processor can do; empty on other systems."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(lines[0].split()) if lines else frozenset()


def features_in_use() -> tuple[str, ...]:
    """What llama.cpp says that it was built to use. Only where it is known to run here: it may end the process."""
    llama = library.shared_library("PASSIVE")
    llama.llama_print_system_info.restype = ctypes.c_char_p
    return tuple(re.findall(r"(\w+) = 1", llama.llama_print_system_info().decode()))


def missing(flags: frozenset[str], machine: str) -> Sequence[str]:
    """What the published wheel needs and the processor lacks; nothing where the system does not say."""
    return [flag for flag in NEEDED.get(machine, ()) if flags and flag not in flags]


def refuse_processor(cpuinfo: Path = CPUINFO) -> None:
    """Raises: Problem where llama.cpp does not run on this processor; a build made for it passes.

    Tried in a process of its own, and only where the processor lacks what the published wheel takes for granted.
    """
    if lacking := missing(processor_flags(cpuinfo), platform.machine()):
        tried = subprocess.run([sys.executable, "-c", TRIAL], capture_output=True, check=False)
        if tried.returncode == -signal.SIGILL:
            raise _does_not_run(lacking)


def _explained(problem: Problem, flags: frozenset[str]) -> Problem:
    lacking = missing(flags, platform.machine())
    return _does_not_run(lacking) if lacking else problem


def _does_not_run(lacking: Sequence[str]) -> Problem:
    return Problem(
        f"llama.cpp's wheel does not run on this processor, which has no {', '.join(lacking)}",
        f"Build it here, with a C++ compiler and CMake: {sys.executable} -m pip install --force-reinstall --no-deps "
        f"--no-binary {NAME} {NAME}=={VERSION}; or run a pack with llama.cpp's own programs, as its RUN.md says.",
    )
