"""Turn a finished run's answers into the ones that ship with potstill: to the golden prompts, or to made-up ones.

In:  a run whose teacher has just written all of them (golden: `golden = true`, `answers.fresh = true`).
Out: the package's `golden_answers.jsonl` and `.json`, or `made_up_answers.jsonl` and `.json`.
Does not know: how they are used (`shipped`).

For maintainers, from a checkout: python -m potstill.answers.ship RUN golden_answers|made_up_answers
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from potstill.answers.answer import Answer, read_answers
from potstill.answers.shipped import GOLDEN_ANSWERS, MADE_UP_ANSWERS, prompts_hash, text_hash
from potstill.problem import Problem
from potstill.prompts import Prompt, golden
from potstill.prompts.prompt import GOLDEN, is_made_up
from potstill.run import library_versions, read_json, write_json, write_text


def ship(run_folder: Path, package: Path, name: str = GOLDEN_ANSWERS) -> int:
    """Write both files of a set into `package`; returns the number of answers.

    Raises: Problem where the run did not write them all itself, or a golden one is missing or to another text.
    """
    report = read_json(run_folder / "answers" / "report.json")
    answers = {answer.prompt.id: answer for answer in read_answers(run_folder / "answers" / "answers.jsonl")}
    prompts = golden() if name == GOLDEN_ANSWERS else [one.prompt for one in answers.values() if is_made_up(one.prompt)]
    may_ship = 0 if name == GOLDEN_ANSWERS else sum(one.prompt.source == GOLDEN for one in answers.values())
    if report["origin"]["shipped"] > may_ship:
        raise Problem(f"{run_folder} used the answers that ship already", "Run with answers.fresh = true.")
    if report["teacher_sha256"] is None:
        raise Problem(
            f"{run_folder} has answers that a server wrote", "Run without --engine http…: what ships is verified."
        )
    missing = [one.id for one in prompts if one.id not in answers or answers[one.id].prompt.text != one.text]
    if missing or not prompts:
        which = ", ".join(missing) or "made-up prompts"
        raise Problem(f"{run_folder} has no answer to {which}", "Run again, or with another seed.")
    _write(package, name, prompts, answers, report)
    return len(prompts)


def _write(
    package: Path, name: str, prompts: Sequence[Prompt], answers: Mapping[str, Answer], report: Mapping[str, Any]
) -> None:
    rows = [
        {
            "id": one.id,
            "prompt_sha256": text_hash(one.text),
            "text": answers[one.id].text,
            "finish": answers[one.id].finish,
            "tokens": answers[one.id].tokens,
        }
        for one in prompts
    ]
    write_text(package / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    origin = {name: report[name] for name in ("teacher", "teacher_sha256", "settings", "seed")}
    origin |= {"prompts_sha256": prompts_hash(prompts), "answers": len(rows), "made_with": library_versions()}
    write_json(package / f"{name}.json", origin)


def main() -> None:
    """The command line: the run folder, and which set."""
    if len(sys.argv) != 3 or sys.argv[2] not in (GOLDEN_ANSWERS, MADE_UP_ANSWERS):
        sys.exit(f"usage: python -m potstill.answers.ship RUN {GOLDEN_ANSWERS}|{MADE_UP_ANSWERS}")
    try:
        count = ship(Path(sys.argv[1]), Path(__file__).parent, sys.argv[2])
    except Problem as problem:
        sys.exit(str(problem))
    sys.stdout.write(f"{count} answers written to {Path(__file__).parent}\n")


if __name__ == "__main__":
    main()
