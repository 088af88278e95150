"""Stage `prompts`: what the teacher is asked, and what is held out.

In:  the golden 200 that ship with potstill, files of the recipe, the evaluation sets (to keep away from); the teacher,
     where it shall make up prompts itself.
Out: `prompts/`: `prompts.jsonl`, `dropped.jsonl`, `report.json`; `synthetic.jsonl` where there are such.
Does not know: the teacher's answers.
"""

from __future__ import annotations

from potstill.prompts.collection import collect
from potstill.prompts.prompt import Prompt, golden, read_prompts, write_prompts

__all__ = ["Prompt", "collect", "golden", "read_prompts", "write_prompts"]
