"""A teacher and an engine that answer at once.

In:  prompts.
Out: answers that depend on prompt and seed alone; what was asked.
Does not know: any single test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Self

from listening import Listening
from potstill.models.engine import Reply, Sampling
from potstill.prompts import Prompt, write_prompts
from potstill.recipe import Recipe
from potstill.run import Run

TEMPLATE_TOKENS = 10


class World:
    """What stands in for teacher and engine, and what they were asked."""

    def __init__(self) -> None:
        self.sha256 = "f" * 64
        self.opened = 0
        self.asked: list[str] = []
        self.dies_after: int | None = None
        self.silent: set[str] = set()

    def find_teacher(self, name: str, home: Path, progress: object) -> SimpleNamespace:
        return SimpleNamespace(name=name, gguf=Path("teacher.gguf"), sha256=self.sha256)

    def open_engine(self, gguf: Path, *, context: int, slots: int, threads: object) -> FakeEngine:
        self.opened += 1
        return FakeEngine(self)


class FakeEngine:
    """Counts a character as a token; answers in reverse order; dies where its world says so."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def count_tokens(self, prompt: str | Sequence[dict[str, str]]) -> int:
        if isinstance(prompt, str):
            return len(prompt)
        return TEMPLATE_TOKENS + sum(len(message["content"]) for message in prompt)

    def batch(
        self, conversations: Sequence[Sequence[dict[str, str]]], sampling: Sampling, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Reply]]:
        for place in reversed(range(len(conversations))):
            if self.world.dies_after is not None and len(self.world.asked) >= self.world.dies_after:
                raise KeyboardInterrupt
            question = conversations[place][0]["content"]
            self.world.asked.append(question)
            text = "" if question in self.world.silent else f"{question}{seeds[place]}"
            finish: Literal["stop", "length"] = "length" if len(question) % 2 else "stop"
            yield place, _reply(text, finish)


def _reply(text: str, finish: Literal["stop", "length"]) -> Reply:
    return Reply(
        text=text,
        finish=finish,
        prompt_tokens=TEMPLATE_TOKENS,
        tokens=len(text) + 1,
        first_token_s=0.1,
        seconds=0.2,
        arrivals=(0.1, 0.2),
    )


def own(count: int, **fields: Any) -> list[Prompt]:
    """Prompts of growing length, none of them golden."""
    return [
        Prompt(f"own-{place}", "问" * (place + 1), "own", f"own.txt:{place + 1}", "train", **fields)
        for place in range(count)
    ]


def run_with(folder: Path, prompts: Sequence[Prompt], /, **sections: Any) -> Run:
    """A run whose stage `prompts` is finished; llama.cpp writes, or who stands in for it, unless told otherwise."""
    answers = {"writer": "slots"} | sections.pop("answers", {})
    recipe = Recipe.model_validate({"name": "t", "answers": answers, **sections})
    (folder / "prompts").mkdir(parents=True)
    write_prompts(folder / "prompts" / "prompts.jsonl", prompts)
    return Run(folder, recipe, folder / "home", Listening())


def lines_of(run: Run) -> list[str]:
    """What the run has said."""
    assert isinstance(run.progress, Listening)
    return run.progress.lines
