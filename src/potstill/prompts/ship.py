"""Turn what a finished run's teacher made up into the prompts that ship with potstill.

In:  a run with `prompts.synthetic.count` above 0.
Out: the package's `made_up/TEACHER.jsonl`: a line for each text, those that fell too, so that a run which wants
     as many or fewer finds everything it would write.
Does not know: how they are used (`synthetic.shipped`), answers.

For maintainers, from a checkout: python -m potstill.prompts.ship RUN
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.problem import Problem
from potstill.prompts.prompt import SYNTHETIC
from potstill.prompts.synthetic import MADE_UP, draw, open_slots
from potstill.recipe import Recipe
from potstill.run import open_run, write_text

if TYPE_CHECKING:
    from potstill.models.engine import Messages


def read_attempts(path: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Kind, number and the fields of every attempt in a `synthetic.jsonl`."""
    for line in path.read_text(encoding="utf-8").strip("\n").split("\n"):
        row = json.loads(line)
        kind, _, number = row["source"].removeprefix(f"{SYNTHETIC}:").rpartition("-")
        fields = {"text": row["text"], "ended": row["outcome"] != "unended", "tokens": row["tokens"]}
        yield kind, int(number), fields


def made_up_rows(
    recipe: Recipe, attempts: Iterator[tuple[str, int, dict[str, Any]]], render: Callable[[Messages], str]
) -> dict[str, Any]:
    """What stands for a place in this recipe and with this template → the attempt's fields."""
    kinds = {kind.name: kind for kind in recipe.prompts.synthetic.kinds}
    slots = open_slots(render, recipe.prompts.synthetic.kinds)
    return {draw(recipe, slots, kinds[kind], number).key: fields for kind, number, fields in attempts}


def ship(folder: Path, package: Path) -> int:
    """Write the file into `package`; returns the number of texts. Raises: Problem where the run has made up none."""
    from potstill.models.conversation import templated
    from potstill.models.teacher import find_teacher, load_tokenizer

    run = open_run(folder)
    made = run.stage("prompts") / "synthetic.jsonl"
    if not made.is_file():
        raise Problem(f"{folder} has no made-up prompts", "Run a recipe with prompts.synthetic.count above 0.")
    teacher = find_teacher(run.recipe.teacher.model, run.home, run.progress)
    tokenizer = load_tokenizer(teacher.checkpoint)
    rows = made_up_rows(run.recipe, read_attempts(made), lambda turns: templated(tokenizer, turns))
    (package / MADE_UP).mkdir(exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows.items())
    write_text(package / MADE_UP / f"{teacher.sha256}.jsonl", "".join(lines))
    return len(rows)


def main() -> None:
    """The command line: one argument, the run folder."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m potstill.prompts.ship RUN")
    try:
        count = ship(Path(sys.argv[1]), Path(__file__).parent)
    except Problem as problem:
        sys.exit(str(problem))
    sys.stdout.write(f"{count} texts written to {Path(__file__).parent / MADE_UP}\n")


if __name__ == "__main__":
    main()
