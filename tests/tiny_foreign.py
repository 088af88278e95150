"""A teacher and a student that cut text in their own ways: Qwen-like bytes beside Phi-3-like characters.

In:  tests/tiny.py.
Out: their speakers; examples made by hand.
Does not know: any test.
"""

from __future__ import annotations

from potstill.answers.answer import Answer
from potstill.prompts import Prompt
from potstill.vocab.pairs import Speaker
from tiny import SENTENCES, VOCABULARY, build_phi3_tokenizer, build_tokenizer

TEXTS = (
    "今天天气很好，我们一起去公园散步吧。",
    "微信 WeChat wechat：会议改到下周三。",
    "🙂👨‍👩‍👧‍👦 👍🏽 😀",
    "def f(x):\n    if x:\n\treturn  x\n\n\n        # 注释\n",
    "  leading,   double  spaces\t\ttabs and trailing   ",
    "first\r\nsecond\r\n\r\n",
    "e\u0301 a\u0308 n\u0303 कि ﷽",
    "",
    " ",
    "\n",
    "x",
    *SENTENCES,
)


def teacher_speaker() -> Speaker:
    return Speaker.of(build_tokenizer(), VOCABULARY)


def student_speaker() -> Speaker:
    return Speaker.of(build_phi3_tokenizer(), VOCABULARY)


def some_answers() -> list[Answer]:
    """An answer a sentence; the last one was cut off."""
    return [
        Answer(
            Prompt(id=f"a{place}", text=SENTENCES[place - 1], category="test", source="test", split="train"),
            text,
            "length" if place == len(SENTENCES) - 1 else "stop",
            tokens=0,
            sampling=None,
        )
        for place, text in enumerate(SENTENCES)
    ]
