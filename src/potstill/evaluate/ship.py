"""Turn what an evaluation has learnt of the default teacher into what ships with potstill: asking it takes minutes.

In:  a POTSTILL_HOME in which a run with the default teacher and the default sizes was evaluated.
Out: the package's `shipped/<SHA-256 of the teacher>.jsonl`, with nothing in it that the default sizes do not ask.
Does not know: how it is used (`replies.open_notebook`).

For maintainers, from a checkout: python -m potstill.evaluate.ship POTSTILL_HOME
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from potstill.evaluate.exam import asks_of, items_of, set_exam
from potstill.evaluate.replies import SHIPPED, likelihood_key, reply_key
from potstill.models.catalogue import CATALOGUE
from potstill.notebook import Notebook
from potstill.problem import Problem
from potstill.recipe import Recipe
from potstill.run import write_text


def default_keys() -> list[str]:
    """Keys of everything that the teacher is asked by a recipe that says nothing of `evaluate`."""
    recipe = Recipe.model_validate({"name": "default"})
    section = recipe.evaluate
    exam = set_exam(section, [])
    asks = [ask for group in asks_of(exam, section, recipe.answers, recipe.seed).values() for ask in group]
    items = [item for questions in exam.questions.values() for item in items_of(questions)]
    return [
        *(reply_key(ask, section.reply_context) for ask in asks),
        *(likelihood_key(question, choices, section.reply_context) for question, choices in items),
    ]


def ship(home: Path, package: Path) -> int:
    """Write the file; returns the number of its lines. Raises: Problem where something has not been asked."""
    name = f"{CATALOGUE[0].sha256}.jsonl"
    notebook, keys = Notebook(home / "replies" / name), default_keys()
    missing = sum(key not in notebook for key in keys)
    if missing:
        raise Problem(f"{home / 'replies' / name}: {missing} replies are not there", "Evaluate a run with this home.")
    lines = [json.dumps([key, notebook[key]], ensure_ascii=False) + "\n" for key in keys]
    (package / SHIPPED).mkdir(exist_ok=True)
    write_text(package / SHIPPED / name, "".join(lines))
    return len(lines)


def main() -> None:
    """The command line: one argument, the home."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m potstill.evaluate.ship POTSTILL_HOME")
    try:
        count = ship(Path(sys.argv[1]), Path(__file__).parent)
    except Problem as problem:
        sys.exit(str(problem))
    sys.stdout.write(f"{count} replies written to {Path(__file__).parent / SHIPPED}\n")


if __name__ == "__main__":
    main()
