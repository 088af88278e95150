"""Any number of questions with answers, from the golden ones: their sentences, taken apart and put together anew.

In:  how many, a seed.
Out: rows of question and answer that deduplication keeps; a JSONL file of them, with repetitions if asked for.
Does not know: what they are used for.

The text means nothing. It has the alphabet, the lengths and the rare and common pieces of real questions, but fewer
different pieces than as many real ones: a search for what is nearly alike finds it harder, not easier.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path

from potstill.prompts import golden

QUESTION_PIECES, ANSWER_PIECES = 5, 6
CUT = re.compile(r"(?<=[。！？；：，、\n?!,])")
"""Where a text may be taken apart: behind punctuation."""
SHORTEST = 3
"""Characters of a piece."""


def rows(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """`count` questions, no two the same, each with an answer. No piece of a held-out question is in any of them."""
    training = {prompt.id: prompt.text for prompt in golden() if prompt.split == "train"}
    answers = (files("potstill.answers") / "golden_answers.jsonl").read_text("utf-8")
    replies = [row["text"] for row in map(json.loads, answers.splitlines()) if row["id"] in training]
    asked, said, draw = _pieces(training.values()), _pieces(replies), random.Random(seed)
    seen: set[str] = set()
    while len(seen) < count:
        question = "".join(draw.sample(asked, QUESTION_PIECES)).strip()
        if question not in seen:
            seen.add(question)
            yield {"prompt": question, "answer": "".join(draw.sample(said, ANSWER_PIECES)).strip()}


def write_rows(path: Path, count: int, repeated: float = 0.0, unanswered: float = 0.0, seed: int = 0) -> None:
    """Write `count` rows.

    Args:
        repeated: share of them that are the same as an earlier one, and share that nearly are.
        unanswered: share that bring no answer.
    """
    draw, earlier = random.Random(seed + 1), list[dict[str, str]]()
    with path.open("w", encoding="utf-8") as file:
        for row in rows(count, seed):
            kind = draw.random()
            if earlier and kind < repeated:
                row = draw.choice(earlier)
            elif earlier and kind < 2 * repeated:
                row = {**draw.choice(earlier), "prompt": draw.choice(earlier)["prompt"] + "！"}
            earlier.append(row)
            if draw.random() < unanswered:
                row = {"prompt": row["prompt"]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _pieces(texts: Iterable[str]) -> list[str]:
    return sorted({piece for text in texts for piece in CUT.split(text) if len(piece.strip()) >= SHORTEST})
