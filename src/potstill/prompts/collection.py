"""The stage itself: golden prompts, the user's and the teacher's own, sifted into one list.

In:  the recipe's section `prompts`, the files it names, the evaluation sets to keep away from.
Out: `prompts.jsonl`; `dropped.jsonl`, a line for each prompt that did not stay; `report.json`, their counts.
Does not know: how the teacher makes up prompts, later stages.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from potstill.problem import Problem
from potstill.progress import Progress
from potstill.prompts.evaluation import evaluation_sets
from potstill.prompts.importing import BadLine, Question, read_questions
from potstill.prompts.prompt import GOLDEN, Prompt, Split, golden, write_prompts
from potstill.prompts.sifting import HELD_OUT, Dropped, limit_training, sift
from potstill.prompts.synthetic import UNFINISHED, make_up, say_made_up, synthetic_report
from potstill.recipe import PromptFile
from potstill.run import Run, write_json, write_text

SHOWN_BAD_LINES = 10


def collect(run: Run, folder: Path) -> None:
    """Gather the prompts of a run into `folder`.

    Raises: Problem naming file and line where one can't be read and the recipe doesn't skip bad lines; where
        a file, or what is left of all of them, has no prompt; where the teacher can't be made to ask.
    """
    settings = run.recipe.prompts
    shipped = golden()
    imported, bad_lines = _import(settings.files)
    if bad_lines and not settings.skip_bad:
        raise _bad_lines_problem(bad_lines)
    read = (shipped if settings.golden else []) + imported
    held_out = [prompt.text for prompt in shipped if prompt.split == "held-out"]
    kept_away = evaluation_sets(run.recipe.evaluate.files) | {HELD_OUT: held_out}

    def sieve(made_up: Sequence[Prompt]) -> tuple[list[Prompt], list[Dropped]]:
        asked = [*read, *made_up]
        with run.progress.task("prompts compared", len(asked), "prompts") as task:
            return sift(asked, kept_away, settings.near_duplicate, task)

    made = make_up(run, folder, sieve)
    read += made.prompts
    kept, over = limit_training(made.kept, settings.limit, run.recipe.seed)
    dropped = made.dropped + over
    if not any(prompt.split == "train" for prompt in kept):
        raise Problem(
            f"None of {len(read)} prompts is left to train with ({_reasons(dropped, bad_lines)})",
            "Give other prompts, or set prompts.golden = true.",
        )
    write_prompts(folder / "prompts.jsonl", kept)
    lines = [json.dumps(vars(one), ensure_ascii=False) + "\n" for one in dropped]
    write_text(folder / "dropped.jsonl", "".join(lines))
    report = _report(read, kept, dropped, bad_lines) | synthetic_report(settings.synthetic, made)
    write_json(folder / "report.json", report)
    _say(run.progress, report["read"], kept, dropped, bad_lines)
    say_made_up(run.progress, report)
    (folder / UNFINISHED).unlink(missing_ok=True)


def _import(files: Sequence[PromptFile]) -> tuple[list[Prompt], list[BadLine]]:
    prompts: list[Prompt] = []
    bad_lines: list[BadLine] = []
    for file in files:
        before = len(prompts), len(bad_lines)
        try:
            for found in read_questions(file):
                if isinstance(found, BadLine):
                    bad_lines.append(found)
                else:
                    prompts.append(_prompt(found, file.held_out_share))
        except OSError as error:
            raise Problem(f"{file.path}: cannot be read ({error})", "Check its permissions.") from None
        if before == (len(prompts), len(bad_lines)):
            raise Problem(f"{file.path}: holds no prompts", "Fill it, or take it out of prompts.files.")
    return prompts, bad_lines


def _prompt(question: Question, held_out_share: float) -> Prompt:
    text_hash = hashlib.sha256(question.text.encode()).hexdigest()
    split: Split = "held-out" if int(text_hash[:8], 16) < held_out_share * 2**32 else "train"
    return Prompt(
        id=f"own-{text_hash[-16:]}",
        text=question.text,
        category=question.category,
        source=f"{question.path.name}:{question.line}",
        split=split,
        given=question.given,
    )


def _bad_lines_problem(bad_lines: Sequence[BadLine]) -> Problem:
    shown = [f"  {bad.path}:{bad.line}: {bad.why}" for bad in bad_lines[:SHOWN_BAD_LINES]]
    if len(bad_lines) > SHOWN_BAD_LINES:
        shown.append(f"  … and {len(bad_lines) - SHOWN_BAD_LINES} more")
    lines = "\n".join(shown)
    count = "1 line holds" if len(bad_lines) == 1 else f"{len(bad_lines)} lines hold"
    remedy = "Mend them (text must be UTF-8), or leave them out with --skip-bad (prompts.skip_bad = true)."
    return Problem(f"{count} no prompt:\n{lines}\n", remedy)


def _report(
    read: Sequence[Prompt], kept: Sequence[Prompt], dropped: Sequence[Dropped], bad_lines: Sequence[BadLine]
) -> dict[str, Any]:
    """Counts; `read` is `kept` and everything under `dropped`."""
    categories: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for prompt in kept:
        categories[prompt.category][prompt.split] += 1
    splits = Counter(prompt.split for prompt in kept)
    reasons = Counter(one.reason for one in dropped)
    return {
        "read": len(read) + len(bad_lines),
        "kept": len(kept),
        "splits": {"train": splits["train"], "held-out": splits["held-out"]},
        "categories": {name: dict(counts) for name, counts in sorted(categories.items())},
        "given": sum(prompt.given is not None for prompt in kept),
        "dropped": {
            "exact": reasons["exact"],
            "near": reasons["near"],
            "overlap": dict(sorted(Counter(one.like for one in dropped if one.reason == "overlap").items())),
            "limit": reasons["limit"],
            "bad": len(bad_lines),
        },
        "sources": {
            "read": _by_source([prompt.source for prompt in read]),
            "kept": _by_source([prompt.source for prompt in kept]),
        },
        "bad_lines": [{"file": bad.path.name, "line": bad.line, "why": bad.why} for bad in bad_lines],
    }


def _by_source(sources: Sequence[str]) -> dict[str, int]:
    return dict(Counter(source if source == GOLDEN else source.rpartition(":")[0] for source in sources))


def _reasons(dropped: Sequence[Dropped], bad_lines: Sequence[BadLine]) -> str:
    counts: Counter[str] = Counter()
    for one in dropped:
        counts[f"overlap with {one.like}" if one.reason == "overlap" else _REASONS[one.reason]] += 1
    counts["bad lines"] = len(bad_lines)
    return ", ".join(f"{reason}: {count}" for reason, count in counts.items() if count)


_REASONS = {"exact": "exact duplicates", "near": "near duplicates", "limit": "over prompts.limit"}


def _say(
    progress: Progress,
    read: int,
    kept: Sequence[Prompt],
    dropped: Sequence[Dropped],
    bad_lines: Sequence[BadLine],
) -> None:
    held_out = sum(prompt.split == "held-out" for prompt in kept)
    reasons = _reasons(dropped, bad_lines)
    progress.say(
        f"prompts: {len(kept):,} of {read:,} kept, {len(kept) - held_out:,} to train with and "
        f"{held_out:,} held out" + (f"; left out: {reasons}" if reasons else "")
    )
    if not held_out:
        progress.say("prompts: nothing is held out to measure with; set held_out_share under [[prompts.files]]")
