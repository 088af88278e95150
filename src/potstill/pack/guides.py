"""How to run a pack: words for people, a Modelfile for Ollama.

In:  what is shipped, the GGUF's header, how answers are sampled, the context.
Out: the texts of `RUN.md` and `Modelfile`.
Does not know: runs, scorecards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from potstill.pack.card import Shipped, markdown
from potstill.pack.device import TOKENS
from potstill.pack.manifest import PackRuntime
from potstill.recipe import AnswersSection

QUESTION = "potstill asks"
CHATML = re.compile(
    r"(?:<\|im_start\|>system\n(?P<system>.*?)<\|im_end\|>\n)?<\|im_start\|>user\n"
    + QUESTION
    + r"<\|im_end\|>\n<\|im_start\|>assistant\n",
    re.DOTALL,
)


def run_guide(shipped: Shipped, answers: AnswersSection, context: int, runtime: PackRuntime) -> str:
    """`RUN.md`: the shortest way on each machine, in English and Chinese."""
    return markdown("RUN.md", shipped=shipped, answers=answers, context=context, runtime=runtime, tokens=TOKENS)


def modelfile(
    model: str, metadata: Mapping[str, object], answers: AnswersSection, context: int, adapter: str | None = None
) -> str:
    """What `ollama create NAME -f Modelfile` reads.

    Ollama knows only some templates by their text and takes none for the others, so a ChatML one is spelt out, with
    the system line that the model's own template puts first where a conversation brings none.
    """
    chat = CHATML.fullmatch(rendered(str(metadata.get("tokenizer.chat_template", ""))))
    system = chat["system"] if chat else None
    return markdown(
        "Modelfile",
        model=model,
        adapter=adapter,
        answers=answers,
        context=context,
        chatml=chat is not None,
        system=system,
    )


def rendered(template: str) -> str:
    """What a chat template makes of one question; empty where it can't be rendered."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(template).render(
            messages=[{"role": "user", "content": QUESTION}], add_generation_prompt=True, tools=None
        )
    except TemplateError:
        return ""


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
