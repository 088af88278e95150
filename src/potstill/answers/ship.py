"""Turn a finished run's answers to the golden prompts into the ones that ship with potstill.

In:  a run whose teacher has just written all of them: `golden = true`, `answers.fresh = true`.
Out: the package's `golden_answers.jsonl` and `golden_answers.json`.
Does not know: how they are used (`shipped`).

For maintainers, from a checkout: python -m potstill.answers.ship RUN
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from potstill.answers.answer import read_answers
from potstill.answers.shipped import ANSWERS_FILE, ORIGIN_FILE, golden_hash, text_hash
from potstill.problem import Problem
from potstill.prompts import golden
from potstill.run import library_versions, read_json, write_json, write_text


def ship(run_folder: Path, package: Path) -> int:
    """Write both files into `package`; returns the number of answers.

    Raises: Problem where the run did not write them all itself, or one of them is missing or to another text.
    """
    report = read_json(run_folder / "answers" / "report.json")
    if report["origin"]["shipped"]:
        raise Problem(f"{run_folder} used the answers that ship already", "Run with answers.fresh = true.")
    if report["teacher_sha256"] is None:
        raise Problem(
            f"{run_folder} has answers that a server wrote", "Run without --engine http…: what ships is verified."
        )
    answers = {answer.prompt.id: answer for answer in read_answers(run_folder / "answers" / "answers.jsonl")}
    prompts = golden()
    missing = [one.id for one in prompts if one.id not in answers or answers[one.id].prompt.text != one.text]
    if missing:
        raise Problem(f"{run_folder} has no answer to {', '.join(missing)}", "Run again, or with another seed.")
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
    write_text(package / ANSWERS_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    origin = {name: report[name] for name in ("teacher", "teacher_sha256", "settings", "seed")}
    origin |= {"golden_sha256": golden_hash(prompts), "answers": len(rows), "made_with": library_versions()}
    write_json(package / ORIGIN_FILE, origin)
    return len(rows)


def main() -> None:
    """The command line: one argument, the run folder."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m potstill.answers.ship RUN")
    try:
        count = ship(Path(sys.argv[1]), Path(__file__).parent)
    except Problem as problem:
        sys.exit(str(problem))
    sys.stdout.write(f"{count} answers written to {Path(__file__).parent}\n")


if __name__ == "__main__":
    main()
