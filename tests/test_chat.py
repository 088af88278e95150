"""Chat: streamed answers, commands, a bounded context."""

from __future__ import annotations

import builtins
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from potstill import chat
from potstill.chat import Conversation, find_models, talk
from potstill.models.engine import Engine, Sampling, default_threads
from potstill.problem import Problem
from potstill.recipe import validate_recipe
from potstill.run import Run, write_json

SAMPLING = Sampling(temperature=0.0, top_p=1.0, top_k=0, seed=0, max_tokens=8, repeat_penalty=1.0)


class Parrot:
    """An engine that counts a token a character and says the last question back, in two pieces."""

    context = 40

    def __init__(self, gguf: Path) -> None:
        self.gguf, self.closed, self.asked = gguf, False, [{"role": "none", "content": ""}]

    def count_tokens(self, prompt: Sequence[dict[str, str]]) -> int:
        return sum(len(message["content"]) for message in prompt)

    def stream(self, messages: Sequence[dict[str, str]], sampling: Sampling) -> Iterator[str]:
        if self.count_tokens(messages) >= self.context:
            raise Problem("The prompt is too long", "Shorten the prompt")
        self.asked = list(messages)
        text = messages[-1]["content"]
        return iter((text[:2], text[2:]))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def opened() -> list[Parrot]:
    return []


@pytest.fixture
def conversation(opened: list[Parrot]) -> Conversation:
    def open_engine(gguf: Path) -> Parrot:
        opened.append(Parrot(gguf))
        return opened[-1]

    models = {name: lambda name=name: Path(f"{name}.gguf") for name in ("student", "teacher")}
    return Conversation(models, open_engine, SAMPLING, "student")  # type: ignore[arg-type]


def ignore(_: str) -> None: ...


@pytest.mark.parametrize(("marks", "shown"), [("keep", "你好,世界!"), ("full", "你好，世界！"), ("half", "你好,世界!")])
def test_marks_are_changed_in_what_is_shown_only(conversation: Conversation, marks: chat.Marks, shown: str) -> None:
    conversation.marks = marks
    pieces: list[str] = []

    conversation.ask("你好,世界!", pieces.append)

    assert "".join(pieces) == shown
    assert conversation.messages[-1]["content"] == "你好,世界!"


def test_an_answer_is_streamed_and_remembered(conversation: Conversation, opened: list[Parrot]) -> None:
    pieces: list[str] = []
    assert conversation.ask("hello", pieces.append) == 0
    assert pieces == ["he", "llo"]
    conversation.ask("you", ignore)
    assert [message["content"] for message in opened[0].asked] == ["hello", "hello", "you"]
    assert [message["role"] for message in opened[0].asked] == ["user", "assistant", "user"]


def test_the_oldest_turns_make_room(conversation: Conversation, opened: list[Parrot]) -> None:
    for word in ("aaaaaa", "bbbbbb"):
        assert conversation.ask(word, ignore) == 0
    assert conversation.ask("cccccccccc", ignore) == 1
    assert [message["content"] for message in opened[0].asked] == ["bbbbbb", "bbbbbb", "cccccccccc"]


def test_a_question_that_is_too_long_leaves_the_conversation_as_it_was(conversation: Conversation) -> None:
    conversation.ask("hello", ignore)
    before = list(conversation.messages)
    with pytest.raises(Problem, match="too long"):
        conversation.ask("x" * 50, ignore)
    assert conversation.messages == before


def test_a_stopped_answer_belongs_to_the_conversation(conversation: Conversation) -> None:
    def stop_at_second(piece: str, seen: list[str] = []) -> None:  # noqa: B006
        seen.append(piece)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.ask("hello", stop_at_second)
    assert conversation.messages[-1] == {"role": "assistant", "content": "hello"}


def test_another_model_starts_anew(conversation: Conversation, opened: list[Parrot]) -> None:
    conversation.ask("hello", ignore)
    conversation.switch("teacher")
    assert opened[0].closed and not opened[1].closed
    assert (opened[1].gguf, conversation.current, conversation.messages) == (Path("teacher.gguf"), "teacher", [])
    with pytest.raises(Problem, match=r"there is no model 'nobody' here.*student, teacher"):
        conversation.switch("nobody")
    assert not opened[1].closed and conversation.current == "teacher"


def test_a_model_out_of_reach_leaves_the_other_one(conversation: Conversation, opened: list[Parrot]) -> None:
    def out_of_reach() -> Path:
        raise Problem("no network", "connect")

    conversation.models = {**conversation.models, "teacher": out_of_reach}
    conversation.ask("hello", ignore)
    with pytest.raises(Problem, match="no network"):
        conversation.switch("teacher")
    assert not opened[0].closed and conversation.current == "student" and conversation.messages


def type_lines(monkeypatch: pytest.MonkeyPatch, lines: Sequence[str]) -> None:
    left = iter(lines)

    def answer(prompt: str = "") -> str:
        line = next(left, None)
        if line is None:
            raise EOFError
        return line

    monkeypatch.setattr(builtins, "input", answer)


def test_commands(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_lines(
        monkeypatch, ["hello", "/reset", "you", "", "/model teacher", "/model x", "/what", "x" * 60, "/quit", "no"]
    )
    chat._loop(conversation)
    out = capsys.readouterr().out
    assert all(text in out for text in ("hello", "(forgotten)", "(teacher)", "there is no model 'x'", "/reset forgets"))
    assert "The prompt is too long" in out
    assert conversation.current == "teacher" and conversation.messages == []


def test_reset_forgets(conversation: Conversation, monkeypatch: pytest.MonkeyPatch, opened: list[Parrot]) -> None:
    type_lines(monkeypatch, ["hello", "/reset", "you"])
    chat._loop(conversation)
    assert [message["content"] for message in opened[0].asked] == ["you"]


def test_a_long_line_in_a_terminal_comes_whole() -> None:
    """A terminal of its own hands on 4,095 bytes of a line at most."""
    asked = "问" * 1500
    script = (
        "from potstill import chat\n"
        "class Echo:\n"
        "    current, models = 'student', {'student': None}\n"
        "    def ask(self, question, write): print('ASKED', len(question), 'END'); return 0\n"
        "chat._loop(Echo())\n"
    )
    ours, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", script], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    stopped = threading.Timer(60, child.kill)  # so that a chat that hangs fails here
    stopped.start()
    said, typing = b"", None
    with suppress(OSError):  # how a pseudo-terminal ends
        while True:
            said += os.read(ours, 65536)
            if typing is None and "›".encode() in said:
                typing = threading.Thread(target=os.write, args=(ours, f"{asked}\n/quit\n".encode()))
                typing.start()
    assert child.wait() == 0
    stopped.cancel()
    os.close(ours)
    assert f"ASKED {len(asked)} END".encode() in said


def test_once_prints_one_answer(tiny_gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talk(tiny_gguf, "你好", threads=1)
    first = capsys.readouterr().out
    assert first.strip() and first.endswith("\n")
    talk(tiny_gguf, "你好", threads=1)
    assert capsys.readouterr().out == first


def test_a_real_context_is_never_exceeded(tiny_gguf: Path) -> None:
    threads = default_threads(1)
    talking = Conversation(
        {"tiny": lambda: tiny_gguf}, lambda gguf: Engine(gguf, context=96, slots=1, threads=threads), SAMPLING, "tiny"
    )
    try:
        dropped = [talking.ask("今天天气很好，我们去公园散步吧。", ignore) for _ in range(6)]
        assert dropped[0] == 0 and any(dropped)
        assert talking.engine is not None and talking.engine.count_tokens(talking.messages) <= 96
        with pytest.raises(Problem, match=r"prompt is \d+ tokens long; a context of 96 takes 95"):
            talking.ask("今天天气很好。" * 40, ignore)
        assert talking.ask("你好", ignore) >= 0
    finally:
        talking.close()
    assert talking.engine is None


def exported_run(folder: Path, types: list[str], ship: str) -> Run:
    recipe = validate_recipe(
        {"name": "x", "teacher": {"model": str(folder / "gone.gguf")}, "export": {"types": types, "ship": ship}}, "t"
    )
    run = Run(folder, recipe)
    run.keep_recipe()
    (folder / "export").mkdir()
    files = [{"type": kind, "name": f"x-{kind}.gguf"} for kind in types]
    write_json(folder / "export" / "report.json", {"files": files})
    return run


def test_a_run_offers_what_ships_first(tmp_path: Path) -> None:
    exported_run(tmp_path, ["F16", "Q8_0", "Q4_0"], "Q4_0")
    models = find_models(tmp_path)
    assert list(models) == ["student", "student-F16", "student-Q8_0", "teacher"]
    assert models["student"]() == tmp_path / "export" / "x-Q4_0.gguf"
    with pytest.raises(Problem, match=r"gone\.gguf"):
        models["teacher"]()


def test_a_type_that_is_not_exported_yet_is_told_in_words(tmp_path: Path) -> None:
    run = exported_run(tmp_path, ["F16"], "F16")
    run.recipe = validate_recipe({"name": "x"}, "t")
    run.keep_recipe()
    with pytest.raises(Problem, match=r"holds no IQ4_NL\. potstill export"):
        find_models(tmp_path)


def test_a_run_without_export_is_told_in_words(tmp_path: Path) -> None:
    Run(tmp_path, validate_recipe({"name": "x"}, "t")).keep_recipe()
    with pytest.raises(Problem, match="the stage `export` has not run"):
        find_models(tmp_path)


def test_a_single_file_is_the_only_model(tiny_gguf: Path) -> None:
    models = find_models(tiny_gguf)
    assert [(name, find()) for name, find in models.items()] == [(tiny_gguf.stem, tiny_gguf)]
