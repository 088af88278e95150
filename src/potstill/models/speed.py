"""How fast a GGUF is on this machine, and with which threads it is fastest.

In:  GGUFs, thread settings, conversations.
Out: load time, time to the first token, tokens a second, gaps between pieces, memory, energy.
Does not know: recipes, runs, which model is the teacher.

Every measurement is a process of its own (`python -m potstill.models.speed`, one JSON job in, one JSON line
out): OpenMP's waiting policy is fixed once a process, peak memory only grows, and idle threads of a process
with active waiting burn a core as long as it lives, so it has to be gone before the next one starts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from potstill.machine import energy_joules, peak_memory_mb, resident_memory_mb
from potstill.models.engine import Engine, Messages, Reply, Sampling, Threads, default_threads
from potstill.problem import Problem
from potstill.progress import Progress

_BUSY_PERCENT = 25.0
_LOOK_S = 0.5
_PROBE_TOKENS = 24
_PROBE_CONTEXT = 256
_PROBE_PATIENCE = 3.0
_WARM_UP: Messages = [{"role": "user", "content": "0"}]
_PROBE: Messages = [{"role": "user", "content": "Count from one to one hundred. 从一数到一百。"}]


@dataclass(frozen=True)
class SpeedSample:
    """What one process measured: one model, one thread setting, several prompts."""

    load_s: float
    """Seconds until the model could answer, the file already in the system's cache."""
    first_token_ms: tuple[float, ...]
    """Milliseconds from the question to the first text, for every prompt, on a warmed-up model."""
    decode_tok_s: tuple[float, ...]
    """Tokens a second after the first one, for every prompt."""
    peak_mb: float
    """Largest resident memory of the whole process, in 10⁶ bytes; about 24 of them are Python."""
    steady_mb: float
    """Resident memory after the last answer."""
    gaps_ms: tuple[tuple[float, ...], ...]
    """For every prompt, milliseconds between one piece of text and the next: how it feels to read along."""
    characters_s: tuple[float, ...]
    """Characters a second after the first piece, for every prompt; 0 where it all came at once."""
    joules_per_token: float | None
    """Energy of the processor packages from the first prompt to the last token; None where the machine is silent."""
    prompt_tokens: tuple[int, ...]
    waiting: str
    """The OpenMP policy that was in force."""


def measure(
    gguf: Path,
    threads: Threads,
    conversations: Sequence[Messages],
    *,
    new_tokens: int,
    context: int,
    patience_s: float | None = None,
) -> SpeedSample:
    """Measure one model in a fresh process: greedy, `new_tokens` for each conversation, even past its end.

    Args:
        gguf: the model; checked here, so that the measured process needn't.
        threads: the setting to measure.
        conversations: at least one; different texts, so that nothing can be remembered.
        new_tokens: at least 2.
        context: tokens; every prompt and `new_tokens` must fit.
        patience_s: give up after so long. None: never.

    Raises: Problem where the file is bad or a prompt doesn't fit; TimeoutError where patience ran out.
    """
    from potstill.models.gguf_adapter import parts_of
    from potstill.models.gguf_reader import check_gguf

    if not conversations or new_tokens < 2:
        raise ValueError("at least one conversation and two new tokens are needed")
    check_gguf(parts_of(gguf).model)
    job = {
        "gguf": str(gguf),
        "threads": asdict(threads),
        "conversations": [list(messages) for messages in conversations],
        "new_tokens": new_tokens,
        "context": context,
    }
    answer = _run(job, patience_s)
    if "what" in answer:
        raise Problem(answer["what"], answer["remedy"])
    return sample_from(answer)


def sample_from(fields: Mapping[str, Any]) -> SpeedSample:
    """A `SpeedSample` from its JSON."""
    listed = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    listed["gaps_ms"] = tuple(tuple(gaps) for gaps in fields["gaps_ms"])
    return SpeedSample(**{**fields, **listed})


def alternate(
    models: Mapping[str, tuple[Path, Threads]],
    conversations: Sequence[Messages],
    *,
    rounds: int,
    new_tokens: int,
    context: int,
    progress: Progress,
) -> dict[str, list[SpeedSample]]:
    """Measure several models in turn, `rounds` times over, so that what drifts drifts for all of them.

    Returns: name → one sample a round. Errors as for `measure`.
    """
    samples: dict[str, list[SpeedSample]] = {name: [] for name in models}
    with progress.task("Measuring speed", rounds * len(models), "runs") as task:
        for _ in range(rounds):
            for name, (gguf, threads) in models.items():
                task.describe(name)
                sample = measure(gguf, threads, conversations, new_tokens=new_tokens, context=context)
                samples[name].append(sample)
                task.advance()
    return samples


def trial_rates(
    gguf: Path,
    candidates: Sequence[Threads],
    conversations: Sequence[Messages],
    *,
    new_tokens: int,
    context: int,
) -> list[float]:
    """Tokens a second with each candidate (median over the conversations).

    The first has all the time it wants; one that takes several times as long has lost, and counts as 0.

    Raises: as `measure`.
    """
    rates: list[float] = []
    patience_s = None
    for threads in candidates:
        begin = time.perf_counter()
        try:
            sample = measure(
                gguf, threads, conversations, new_tokens=new_tokens, context=context, patience_s=patience_s
            )
        except TimeoutError:
            rates.append(0.0)
            continue
        if patience_s is None:
            patience_s = _PROBE_PATIENCE * (time.perf_counter() - begin)
        rates.append(statistics.median(sample.decode_tok_s))
    return rates


def fastest(candidates: Sequence[Threads], rates: Sequence[float]) -> Threads:
    """The candidate with the highest rate; the earlier one where they tie."""
    return candidates[max(range(len(rates)), key=lambda place: (rates[place], -place))]


def choose_threads(gguf: Path, cores: int) -> Threads:
    """A few seconds' probe for the thread setting to use. Errors as for `measure`.

    The safe default stands first. All cores with active waiting are tried only on a machine that is idle now:
    with one other job on one of two cores they fell to 1 to 4 tokens a second.
    """
    candidates = candidate_threads(cores, idle=is_idle())
    if len(candidates) == 1:
        return candidates[0]
    return fastest(
        candidates, trial_rates(gguf, candidates, [_PROBE], new_tokens=_PROBE_TOKENS, context=_PROBE_CONTEXT)
    )


def candidate_threads(cores: int, *, idle: bool) -> list[Threads]:
    """Settings worth trying on so many cores, the safe one first."""
    candidates = [default_threads(cores)]
    if cores > 1:
        candidates.append(Threads(decode=cores, prefill=cores, waiting="PASSIVE"))
        if idle:
            candidates.append(Threads(decode=cores, prefill=cores, waiting="ACTIVE"))
    return candidates


def is_idle() -> bool:
    """Whether less than a quarter of the machine is in use, by half a second's look.

    The load average would still show a training that ended a minute ago.
    """
    import psutil

    return float(psutil.cpu_percent(interval=_LOOK_S)) < _BUSY_PERCENT


def _run(job: dict[str, Any], patience_s: float | None) -> dict[str, Any]:
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        finished = subprocess.run(
            [sys.executable, "-m", "potstill.models.speed"],
            input=json.dumps(job),
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"},
            timeout=patience_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{job['gguf']} took longer than {patience_s:.0f} s") from error
    if finished.returncode != 0:
        last = finished.stderr.strip().splitlines()[-1:] or [f"exit code {finished.returncode}"]
        raise Problem(f"Measuring {job['gguf']} broke off: {last[0]}", "If memory ran out, free some.")
    answer: dict[str, Any] = json.loads(finished.stdout)
    return answer


def _measure_here(job: dict[str, Any]) -> SpeedSample:
    """The measured process's own part."""
    length = job["new_tokens"]
    greedy = Sampling.greedy(length)
    begin = time.perf_counter()
    with Engine(
        Path(job["gguf"]), context=job["context"], slots=1, threads=Threads(**job["threads"]), check=False
    ) as engine:
        load_s = time.perf_counter() - begin
        for messages in job["conversations"]:
            _check_room(engine, messages, length)
        engine.reply(_WARM_UP, greedy, ignore_end=True)
        before = energy_joules()
        replies = [engine.reply(messages, greedy, ignore_end=True) for messages in job["conversations"]]
        after, steady_mb = energy_joules(), resident_memory_mb()
        return SpeedSample(
            load_s=load_s,
            first_token_ms=tuple(1000 * reply.first_token_s for reply in replies),
            decode_tok_s=tuple((length - 1) / (reply.seconds - reply.first_token_s) for reply in replies),
            peak_mb=max(peak_memory_mb(), steady_mb),  # the kernel's own peak may lag by a page
            steady_mb=steady_mb,
            gaps_ms=tuple(tuple(1000 * gap for gap in _gaps(reply)) for reply in replies),
            characters_s=tuple(_characters_s(reply) for reply in replies),
            joules_per_token=None if before is None or after is None else (after - before) / (length * len(replies)),
            prompt_tokens=tuple(reply.prompt_tokens for reply in replies),
            waiting=engine.waiting,
        )


def _gaps(reply: Reply) -> list[float]:
    return [later - earlier for earlier, later in pairwise(reply.arrivals)]


def _characters_s(reply: Reply) -> float:
    seconds = sum(_gaps(reply))
    return len(reply.text) / seconds if seconds else 0.0


def _check_room(engine: Engine, messages: Messages, new_tokens: int) -> None:
    prompt = engine.count_tokens(messages)
    if prompt + new_tokens > engine.context:
        raise Problem(
            f"A prompt of {prompt} tokens and {new_tokens} new ones exceed a context of {engine.context}",
            "Raise evaluate.context, lower evaluate.new_tokens, or measure with shorter prompts.",
        )


def _main() -> None:
    job = json.load(sys.stdin)
    try:
        answer = asdict(_measure_here(job))
    except Problem as problem:
        answer = {"what": problem.what, "remedy": problem.remedy}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    _main()
