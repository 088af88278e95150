"""The stage itself: given answers are taken, shipped ones used where they fit, the teacher writes the rest.

In:  `prompts/`, the recipe's section `answers`, the teacher; the engine: where or by whom answers are written.
Out: `answers.jsonl` in prompt order, `report.json`; until then `answers.part.jsonl`, which survives a kill.
Does not know: how text is generated; what answers are used for.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.answers.answer import Answer, AnswerLog, save_answers
from potstill.answers.elsewhere import Elsewhere, worker
from potstill.answers.settings import settings_of
from potstill.answers.shipped import package_folder, shipped_answers
from potstill.answers.writers import SENT_WINDOW, Writer, open_writer
from potstill.engines import LOCAL, RAY, results
from potstill.models.conversation import messages
from potstill.models.identity import read_object
from potstill.problem import Problem
from potstill.progress import Progress
from potstill.prompts import Prompt, read_prompts
from potstill.prompts.prompt import GOLDEN, is_made_up
from potstill.recipe import AnswersSection
from potstill.run import Run, begun_dtype, write_json

if TYPE_CHECKING:
    from potstill.models.teacher import Teacher

ROOM = 32
"""Tokens of an answer that must fit behind a prompt for it to be worth asking."""
SHOWN_TOO_LONG = 50
REFUSED = "refused.part.json"
"""Prompts that a server would not answer → why, for a resumed run not to ask them again."""


@dataclass
class Work:
    """How every prompt came to its answer, and which didn't."""

    answers: dict[str, Answer] = field(default_factory=dict)
    shipped: int = 0
    resumed: int = 0
    written: int = 0
    written_tokens: int = 0
    seconds: float = 0.0
    too_long: list[tuple[Prompt, int]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def write_answers(run: Run, folder: Path, engine: str = LOCAL) -> None:
    """Answer every prompt of the run; goes on where a killed run stopped.

    Args:
        engine: `local`; `ray`: the teacher writes on a cluster. A server (`answers.server`) writes for itself.

    Raises: Problem where prompts are too long for the context (before anything is written) and the recipe doesn't
        skip bad lines; where the teacher has nothing to say to any training prompt.
    """
    from potstill.models.teacher import find_teacher

    prompts = read_prompts(run.stage("prompts") / "prompts.jsonl")
    teacher = find_teacher(run.recipe.teacher.model, run.home, run.progress)
    log = AnswerLog(folder / "answers.part.jsonl")
    work = _shipped(run, prompts, teacher)
    left = [prompt for prompt in prompts if prompt.id not in work.answers]
    if left:
        _answer_the_rest(run, folder, teacher, left, engine, log, work)
    answers = [work.answers[prompt.id] for prompt in prompts if prompt.id in work.answers]
    empty = [answer.prompt.id for answer in answers if not answer.text.strip()]
    answers = [answer for answer in answers if answer.text.strip()]
    if not any(answer.prompt.split == "train" for answer in answers):
        raise Problem(
            f"No training prompt has an answer ({len(empty)} came back empty, {len(work.too_long)} are too long"
            + "".join(f"; {why}" for why in [*work.refused.values()][:1])
            + ")",
            "Choose another teacher or other prompts.",
        )
    save_answers(folder / "answers.jsonl", answers)
    write_json(folder / "report.json", _report(run, teacher, engine, answers, empty, work))
    log.remove()
    (folder / REFUSED).unlink(missing_ok=True)
    _say(run.progress, answers, empty, work)


def _shipped(run: Run, prompts: Sequence[Prompt], teacher: Teacher) -> Work:
    work, ours = Work(), [prompt for prompt in prompts if prompt.source == GOLDEN or is_made_up(prompt)]
    if ours and not run.recipe.answers.fresh and run.recipe.answers.server is None:
        shipped, why_not = shipped_answers(package_folder(), ours, teacher.sha256, settings_of(run.recipe.answers))
        work.answers |= shipped
        work.shipped = len(shipped)
        run.progress.say(
            f"answers: not using the shipped ones, {why_not}"
            if why_not
            else f"answers: {work.shipped} of {teacher.name} ship with potstill and are used (answers.fresh = true "
            "writes them anew)"
        )
    return work


def _answer_the_rest(
    run: Run, folder: Path, teacher: Teacher, left: Sequence[Prompt], engine: str, log: AnswerLog, work: Work
) -> None:
    settings, seed = run.recipe.answers, run.recipe.seed
    wanted = sum(prompt.given is None for prompt in left)
    with _writer(teacher, settings, wanted, SENT_WINDOW if engine == RAY else None, folder) as writer:
        work.refused = read_object(folder / REFUSED)
        left = [prompt for prompt in left if prompt.id not in work.refused]
        asked = _measure(writer, left, settings, run.progress, work)
        if work.too_long and not run.recipe.prompts.skip_bad:
            raise _too_long_problem(work.too_long, settings)
        batches = _what_is_left(run, writer, asked, log, work)
        here = worker(writer, settings, seed)
        elsewhere = Elsewhere(
            run.recipe.teacher.model, teacher.sha256, run.home.resolve(), settings, seed, wanted, writer.dtype
        )
        written = results(LOCAL if writer.server else engine, batches, here, elsewhere)
        try:
            _keep(written, sum(map(len, batches)), run.progress, log, work)
        finally:
            work.refused |= writer.refused
            if work.written or work.resumed:  # where nothing is answered, what is refused may be the set-up
                write_json(folder / REFUSED, work.refused)


@contextmanager
def _writer(
    teacher: Teacher, settings: AnswersSection, wanted: int, window: int | None, folder: Path
) -> Iterator[Writer]:
    if settings.server is None:
        with open_writer(teacher, settings, wanted, window, partial(begun_dtype, folder)) as writer:
            yield writer
        return
    from potstill.answers.server import Server
    from potstill.models.teacher import load_tokenizer

    yield Server(settings.server, load_tokenizer(teacher.checkpoint), settings)


def _measure(
    writer: Writer, left: Sequence[Prompt], settings: AnswersSection, progress: Progress, work: Work
) -> list[Prompt]:
    """Take the given answers, set aside what is too long; returns what the teacher has to write."""
    asked = []
    with progress.task("prompts measured", len(left), "prompts") as task:
        for prompt in left:
            if prompt.given is not None:
                tokens = writer.count_tokens(prompt.given)
                work.answers[prompt.id] = Answer(prompt, prompt.given, "given", tokens, None)
            elif (tokens := writer.count_tokens(messages(prompt.text))) > _longest_prompt(settings):
                work.too_long.append((prompt, tokens))
            else:
                asked.append(prompt)
            task.advance()
    return asked


def _what_is_left(run: Run, writer: Writer, asked: Sequence[Prompt], log: AnswerLog, work: Work) -> list[list[Prompt]]:
    """Take what a killed process has finished; returns what has to be written."""
    wanted = {prompt.id: prompt for prompt in asked}
    finished = {
        one.prompt.id: one
        for one in log.finished()
        if wanted.get(one.prompt.id) == one.prompt and one.server == writer.server
    }
    batches = list(writer.batches(asked, finished, run.recipe.answers.max_tokens))
    again = {prompt.id for batch in batches for prompt in batch}
    kept = {name: answer for name, answer in finished.items() if name not in again}
    work.answers |= kept
    work.resumed = len(kept)
    if work.resumed:
        run.progress.say(f"answers: {work.resumed:,} were finished before, going on from there")
    return batches


def _longest_prompt(settings: AnswersSection) -> int:
    return settings.context - min(ROOM, settings.max_tokens)


def _too_long_problem(too_long: Sequence[tuple[Prompt, int]], settings: AnswersSection) -> Problem:
    shown = [f"  {prompt.id} ({prompt.source}): {tokens} tokens" for prompt, tokens in too_long[:SHOWN_TOO_LONG]]
    if len(too_long) > SHOWN_TOO_LONG:
        shown.append(f"  … and {len(too_long) - SHOWN_TOO_LONG} more")
    count = "1 prompt is" if len(too_long) == 1 else f"{len(too_long)} prompts are"
    lines = "\n".join(shown)
    return Problem(
        f"{count} longer than {_longest_prompt(settings)} tokens, all that answers.context = {settings.context} has "
        f"room for beside an answer:\n{lines}\n",
        "Raise answers.context, shorten them, or leave them out with --skip-bad (prompts.skip_bad = true).",
    )


def _keep(written: Iterator[Answer], count: int, progress: Progress, log: AnswerLog, work: Work) -> None:
    started = time.monotonic()
    with progress.task("the teacher writes", count, "answers") as task:
        for answer in written:
            log.append(answer)
            work.answers[answer.prompt.id] = answer
            work.written += 1
            work.written_tokens += answer.tokens
            work.seconds = time.monotonic() - started
            task.advance()
            task.describe(f"{work.written_tokens / max(work.seconds, 1e-9):.0f} tokens/s")


def _report(
    run: Run, teacher: Teacher, engine: str, answers: Sequence[Answer], empty: Sequence[str], work: Work
) -> Mapping[str, Any]:
    """Counts. `seconds` and the rate are of what this process wrote: a resumed run saw only a part of it.

    A server vouches for what it wrote by a name alone, so such answers have no teacher's hash.
    """
    servers = sorted({answer.server for answer in answers if answer.server})
    finishes = Counter(answer.finish for answer in answers)
    return {
        "answers": len(answers),
        "tokens": sum(answer.tokens for answer in answers),
        "finish": {finish: finishes[finish] for finish in ("stop", "length", "given")},
        "origin": {
            "written": work.written,
            "written_before": work.resumed,
            "shipped": work.shipped,
            "given": finishes["given"],
        },
        "empty": list(empty),
        "refused": [{"id": name, "why": why} for name, why in work.refused.items()],
        "too_long": [{"id": prompt.id, "source": prompt.source, "tokens": tokens} for prompt, tokens in work.too_long],
        "longest_prompt": _longest_prompt(run.recipe.answers),
        "seconds": round(work.seconds, 1),
        "tokens_per_second": round(work.written_tokens / work.seconds, 1) if work.written else None,
        "teacher": teacher.name,
        "teacher_sha256": None if servers else teacher.sha256,
        "engine": ", ".join(servers) or engine,
        "settings": settings_of(run.recipe.answers),
        "seed": run.recipe.seed,
    }


def _say(progress: Progress, answers: Sequence[Answer], empty: Sequence[str], work: Work) -> None:
    cut = sum(answer.finish == "length" for answer in answers)
    progress.say(
        f"answers: {len(answers):,} with {sum(answer.tokens for answer in answers):,} tokens"
        + (f", {cut:,} of them cut at the limit" if cut else "")
        + (f"; {len(empty):,} empty ones left out" if empty else "")
        + (f"; {len(work.too_long):,} prompts too long and left out" if work.too_long else "")
        + (f"; {len(work.refused):,} that the server refuses left out (report.json says why)" if work.refused else "")
        + (f"; {work.written_tokens / work.seconds:.0f} tokens/s" if work.written else "")
    )
