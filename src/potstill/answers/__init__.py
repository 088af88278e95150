"""Stage `answers`: the teacher answers every prompt.

In:  `prompts/`, the teacher; answers that came with prompts, answers that ship with potstill.
Out: `answers/`: `answers.jsonl` in prompt order, `report.json`.
Does not know: vocabularies, signals, the student.
"""

from __future__ import annotations

from potstill.answers.answer import Answer, answers_of, read_answers
from potstill.answers.writing import write_answers

__all__ = ["Answer", "answers_of", "read_answers", "write_answers"]
