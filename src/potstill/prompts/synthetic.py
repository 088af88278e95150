"""Prompts that the teacher makes up: its chat template stops where a user would speak, and the teacher goes on.

In:  the recipe's section `prompts.synthetic`, the teacher, a sieve that knows all other prompts.
Out: prompts to train with; `synthetic.jsonl`, everything that was written and what became of it.
Does not know: other prompts, what they overlap with, how text is generated.

A model that was trained on conversations has learnt what users ask (Magpie: Xu et al. 2024, arXiv:2406.08464). What
is written depends on teacher, recipe and place in the list alone, and a batch that was cut short is written again as
a whole, so a run that was killed ends like one that wasn't.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jinja2 import TemplateError

from potstill.notebook import Notebook
from potstill.problem import Problem
from potstill.progress import Progress
from potstill.prompts.faults import FAULTS, Fault, first_fault
from potstill.prompts.normalise import normalise
from potstill.prompts.prompt import SYNTHETIC, Prompt
from potstill.prompts.sifting import Dropped
from potstill.recipe import Recipe
from potstill.recipe.synthetic import SyntheticKind, SyntheticSection
from potstill.run import Run, begun_dtype, digest, write_text

if TYPE_CHECKING:
    from potstill.models.engine import Messages, Reply, Sampling
    from potstill.models.teacher import Teacher

UNFINISHED = "synthetic.part.jsonl"
"""What has been written so far, in the folder of the unfinished stage."""
MADE_UP = "made_up"
"""Folder of the package with what has been made up already, a file for each teacher."""
MARKER = "POTSTILL-USER-SPEAKS-HERE"
KEPT = "kept"
SIFTED = ("exact", "near", "overlap")
"""Why the sieve drops a prompt."""
SHOWN = 2
"""Examples of each kind in the report."""

Sieve = Callable[[Sequence[Prompt]], tuple[list[Prompt], list[Dropped]]]
"""Made-up prompts, beside all others → what stays of all together, and what doesn't."""


class Writer(Protocol):
    """What this stage needs of a model."""

    def plan(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Positions that are written together, batch by batch."""

    def batch(self, texts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> Iterator[tuple[int, Reply]]:
        """Position and reply, in the order of finishing; each goes on with its text."""


@dataclass(frozen=True)
class Slot:
    """A template cut off where the user's words begin."""

    text: str
    stop: tuple[str, ...]
    """What a user's words end with, for templates whose mark is plain text to the model."""


@dataclass(frozen=True)
class Attempt:
    """One text that the teacher wrote in a user's place."""

    kind: SyntheticKind
    number: int
    """Counts from 0 in each kind."""
    text: str
    tokens: int
    fault: Fault | None

    @property
    def source(self) -> str:
        """`synthetic:office-zh-7`."""
        return f"{SYNTHETIC}:{self.kind.name}-{self.number}"

    @property
    def prompt(self) -> Prompt:
        """To train with: what measures is never made up."""
        name = f"{SYNTHETIC}-{hashlib.sha256(self.text.encode()).hexdigest()[-16:]}"
        return Prompt(name, self.text, self.kind.category, self.source, "train")


@dataclass(frozen=True)
class Made:
    """What came of it: everything written, and what the sieve made of all prompts together."""

    attempts: Sequence[Attempt]
    kept: list[Prompt]
    dropped: list[Dropped]

    @property
    def prompts(self) -> list[Prompt]:
        """Those that can be asked, before the sieve."""
        return _askable(self.attempts)

    def outcomes(self) -> list[str]:
        """What became of every attempt: `KEPT`, its fault, or why the sieve dropped it."""
        dropped: dict[str, str] = {one.source: one.reason for one in self.dropped}
        return [attempt.fault or dropped.get(attempt.source, KEPT) for attempt in self.attempts]


def make_up(run: Run, folder: Path, sieve: Sieve) -> Made:
    """Let the teacher write until every kind has its prompts or its tries are used up; goes on after a kill.

    The teacher is not looked for where the recipe wants no such prompts.

    Raises: Problem where the teacher's template has no place for a user's words, or for the recipe's systems.
    """
    settings = run.recipe.prompts.synthetic
    if not settings.count:
        return Made((), *sieve(()))
    from potstill.models.conversation import templated
    from potstill.models.teacher import find_teacher, load_tokenizer

    teacher = find_teacher(run.recipe.teacher.model, run.home, run.progress)
    tokenizer = load_tokenizer(teacher.checkpoint)
    slots = open_slots(lambda turns: templated(tokenizer, turns), settings.kinds)
    scribe = _Scribe(run, slots, cache(lambda: _writer(teacher, folder)), folder / UNFINISHED, shipped(teacher.sha256))
    attempts, made = list[Attempt](), Made((), [], [])
    while places := next_round(settings, made):
        attempts += scribe.attempts(places)
        made = Made(attempts, *sieve(_askable(attempts)))
    _keep(folder / "synthetic.jsonl", made)
    return made


def _writer(teacher: Teacher, folder: Path) -> Writer:
    import torch

    from potstill.models.bulk import BulkWriter
    from potstill.models.teacher import load_model, load_tokenizer

    model = load_model(teacher.checkpoint, getattr(torch, begun_dtype(folder)))
    return BulkWriter(model, load_tokenizer(teacher.checkpoint))


def shipped(teacher_sha256: str) -> dict[str, Any]:
    """What this teacher has written already and ships with potstill: `Drawn.key` → fields of an attempt."""
    file = importlib.resources.files("potstill.prompts") / MADE_UP / f"{teacher_sha256}.jsonl"
    if not file.is_file():
        return {}
    return dict(json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line)


def _askable(attempts: Sequence[Attempt]) -> list[Prompt]:
    return [attempt.prompt for attempt in attempts if attempt.fault is None]


def _keep(path: Path, made: Made) -> None:
    """Everything that was written, with what became of it: a JSON line each."""
    rows = [
        {"source": one.source, "outcome": outcome, "tokens": one.tokens, "text": one.text}
        for one, outcome in zip(made.attempts, made.outcomes(), strict=True)
    ]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def open_slots(render: Callable[[Messages], str], kinds: Sequence[SyntheticKind]) -> dict[str, Slot]:
    """System message ("": the template's own) → the open slot behind it. Errors as for `open_user_slot`."""
    systems = {system for kind in kinds for system in kind.systems or ("",)}
    return {system: open_user_slot(render, system) for system in systems}


def open_user_slot(render: Callable[[Messages], str], system: str) -> Slot:
    """A conversation up to where its user's words begin, found by rendering it with a marker in their place.

    Args:
        render: the template: a conversation → text. TemplateError where it refuses.
        system: message before the user's; "": the template's own, if it has any.

    Raises: Problem where the template refuses it, changes a user's words, or gives no sign that a user speaks.
    """
    turns = [{"role": "system", "content": system}] if system else []
    try:
        text = render([*turns, {"role": "user", "content": MARKER}])
    except TemplateError as error:
        raise _unfit(f"refuses a conversation ({error})") from None
    before, marker, after = text.partition(MARKER)
    if not marker or MARKER in after:
        raise _unfit("doesn't give a user's words as they are")
    if system.strip() not in before:
        raise _unfit("leaves out system messages")
    if not before.replace(system.strip(), "").strip():
        raise _unfit("has no mark before a user's words")
    return Slot(before, tuple(after.split()[:1]))


def _unfit(what: str) -> Problem:
    return Problem(
        f"The teacher's chat template {what}: it can't be made to ask",
        "Give prompts.synthetic.kinds without systems, another teacher, or set prompts.synthetic.count = 0.",
    )


def quotas(settings: SyntheticSection) -> dict[str, int]:
    """Name of each kind → how many of `count` it is to have: in proportion to its share, largest remainders first."""
    whole = sum(kind.share for kind in settings.kinds)
    exact = {kind.name: settings.count * kind.share / whole for kind in settings.kinds}
    given = {name: int(amount) for name, amount in exact.items()}
    by_remainder = sorted(exact, key=lambda name: given[name] - exact[name])
    for name in by_remainder[: settings.count - sum(given.values())]:
        given[name] += 1
    return given


def next_round(settings: SyntheticSection, made: Made) -> list[tuple[SyntheticKind, int]]:
    """What to write next: kind and number; as many as each kind lacks, as long as it has tries left."""
    wanted = quotas(settings)
    written = Counter(attempt.kind.name for attempt in made.attempts)
    kept = _kept_by_kind(made)
    places = []
    for kind in settings.kinds:
        begin, limit = written[kind.name], settings.tries * wanted[kind.name]
        lacking = wanted[kind.name] - kept[kind.name]
        places += [(kind, number) for number in range(begin, min(begin + lacking, limit))]
    return sorted(places, key=lambda place: place[1])  # kinds well mixed, so that the time left is told rightly


def _kept_by_kind(made: Made) -> Counter[str]:
    outcomes = zip(made.attempts, made.outcomes(), strict=True)
    return Counter(attempt.kind.name for attempt, outcome in outcomes if outcome == KEPT)


@dataclass(frozen=True)
class Drawn:
    """One place of the list: the same for the same place in the same recipe, whatever else is wanted."""

    opening: str
    """First words of the prompt."""
    text: str
    """What the teacher goes on with, first words included."""
    sampling: Sampling

    @property
    def key(self) -> str:
        """Stands for everything that decides what is written here, but for the teacher."""
        return digest([self.text, asdict(self.sampling)])


class _Scribe:
    """Writes what is asked for, but for what ships, and keeps it."""

    def __init__(
        self, run: Run, slots: Mapping[str, Slot], writer: Callable[[], Writer], notes: Path, ready: Mapping[str, Any]
    ) -> None:
        """Args: writer: gives the model, loaded where it has something to write. ready: what ships, by key."""
        self._run, self._slots, self._writer = run, slots, writer
        self._notebook, self._ready = Notebook(notes), ready

    def attempts(self, places: Sequence[tuple[SyntheticKind, int]]) -> list[Attempt]:
        """An attempt for each place, in their order."""
        drawn = [draw(self._run.recipe, self._slots, kind, number) for kind, number in places]
        self._write([one for one in drawn if one.key not in self._ready])
        return [
            _attempt(kind, number, **(self._ready.get(one.key) or self._notebook[one.key]))
            for (kind, number), one in zip(places, drawn, strict=True)
        ]

    def _write(self, drawn: Sequence[Drawn]) -> None:
        """All of them into the notebook, batch by batch; batches that it has as a whole are not written again."""
        if all(one.key in self._notebook for one in drawn):
            return
        writer, tokens, started = self._writer(), 0, time.monotonic()
        with self._run.progress.task("the teacher makes up prompts", len(drawn), "prompts") as task:
            for places in writer.plan([one.text for one in drawn], drawn[0].sampling.max_tokens):
                batch = [drawn[place] for place in places]
                if all(one.key in self._notebook for one in batch):
                    task.resume(len(batch))
                    continue
                seeds = [one.sampling.seed for one in batch]
                for number, reply in writer.batch([one.text for one in batch], batch[0].sampling, seeds):
                    self._keep(batch[number], reply)
                    tokens += reply.tokens
                    task.advance()
                    task.describe(f"{tokens / max(time.monotonic() - started, 1e-9):.0f} tokens/s")

    def _keep(self, one: Drawn, reply: Reply) -> None:
        text = normalise(one.opening + reply.text)
        self._notebook.put(one.key, {"text": text, "ended": reply.finish == "stop", "tokens": reply.tokens})


def draw(recipe: Recipe, slots: Mapping[str, Slot], kind: SyntheticKind, number: int) -> Drawn:
    """What is asked of the teacher at one place of the list."""
    from potstill.models.engine import Sampling

    settings = recipe.prompts.synthetic
    chance = random.Random(f"{recipe.seed}:{kind.name}:{number}")
    system, opening = (chance.choice(texts or ("",)) for texts in (kind.systems, kind.openings))
    sampling = Sampling(
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        seed=chance.getrandbits(31),
        max_tokens=settings.max_tokens,
        repeat_penalty=1.0,
        stop=(*slots[system].stop, *(("\n",) if settings.one_line else ())),
    )
    return Drawn(opening, slots[system].text + opening, sampling)


def _attempt(kind: SyntheticKind, number: int, text: str, ended: bool, tokens: int) -> Attempt:
    return Attempt(kind, number, text, tokens, first_fault(text, ended, kind.language))


def synthetic_report(settings: SyntheticSection, made: Made) -> dict[str, Any]:
    """What the stage's report says of them, under `synthetic`: `written` is `kept` and everything under `fallen`.

    Nothing where none were wanted.
    """
    if not settings.count:
        return {}
    outcomes = made.outcomes()
    kept, reasons = _kept_by_kind(made), Counter(outcomes)
    counts = {
        "wanted": settings.count,
        "written": len(made.attempts),
        "tokens": sum(attempt.tokens for attempt in made.attempts),
        "kept": reasons[KEPT],
        "kinds": {name: {"wanted": wanted, "kept": kept[name]} for name, wanted in quotas(settings).items()},
        "fallen": {reason: reasons[reason] for reason in (*FAULTS, *SIFTED) if reasons[reason]},
    }
    return {SYNTHETIC: {**counts, "examples": _examples(made, outcomes)}}


def _examples(made: Made, outcomes: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for attempt, outcome in zip(made.attempts, outcomes, strict=True):
        if outcome == KEPT:
            found.setdefault(attempt.kind.name, []).append(attempt.text)
    return {name: texts[:SHOWN] for name, texts in found.items()}


def say_made_up(progress: Progress, report: Mapping[str, Any]) -> None:
    """How many were written and kept, why others fell, and which kinds have fewer than wanted."""
    made = report.get(SYNTHETIC)
    if made is None:
        return
    fallen = ", ".join(f"{reason}: {count}" for reason, count in made["fallen"].items())
    progress.say(
        f"prompts: the teacher wrote {made['written']:,} in a user's place ({made['tokens']:,} tokens), "
        f"{made['kept']:,} of {made['wanted']:,} wanted stay" + (f"; fallen: {fallen}" if fallen else "")
    )
    kinds = made["kinds"].items()
    short = [f"{name} {kind['kept']} of {kind['wanted']}" for name, kind in kinds if kind["kept"] < kind["wanted"]]
    if short:
        progress.say(
            f"prompts: no tries left for {', '.join(short)}: raise prompts.synthetic.tries, or give these kinds other "
            "systems or openings (synthetic.jsonl holds all that was written)"
        )
