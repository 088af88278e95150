"""Evaluation sets of others, as code tasks and questions of ours.

In:  JSONL files with the fields of HumanEval, MBPP, XCOPA or CMMLU; replies to their code tasks.
Out: `CodeTask`s and `Question`s, taken evenly over the file; the program that a reply stands for.
Does not know: recipes, models, scores.

Sources: HumanEval, Chen et al. 2021, arXiv:2107.03374; MBPP, Austin et al. 2021, arXiv:2108.07732; XCOPA, Ponti et al.
2020, arXiv:2005.00333; CMMLU, Li et al. 2023, arXiv:2306.09212. Instructions around their texts are Chinese, as in
everything else that is asked here, so scores stand beside each other, not beside published ones.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from potstill.evaluate.code import CodeTask, extract_code
from potstill.evaluate.commonsense import LETTERS, Question
from potstill.prompts.evaluation import Line, read_lines

Item = TypeVar("Item")

COMPLETE = "请补全下面的 Python 函数，并给出完整的程序，放在一个代码块里。\n\n```python\n{beginning}```"
WRITE = "{text}\n\n程序要通过下面的测试：\n\n```python\n{tests}\n```\n\n请给出完整的 Python 程序，放在一个代码块里。"
ASKED = {"cause": "这件事最可能的原因是什么？", "effect": "接下来最可能发生什么？"}
CHECK = re.compile(r"^def check\(", re.MULTILINE)
CHECKS = "checks_of_the_task"
FUTURE = re.compile(r"^from __future__ import .*(?:\n|\Z)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Completion(CodeTask):
    """A code task that shows how the program begins.

    Args:
        beginning: imports and helpers, then the function `entry_point` up to where its body is missing.
    """

    beginning: str
    entry_point: str


def read_code_tasks(path: Path, kind: str, limit: int | None) -> list[CodeTask]:
    """Code tasks of a file, at most `limit`. Reply and task go through `assembled` before they are graded.

    humaneval: `task_id`, `prompt`, `entry_point`, `test`, `canonical_solution`. mbpp: the same (as code
    benchmarks in several languages spell it), or `task_id`, `text` or `prompt`, `code`, `test_list`, and
    `test_setup_code` and `test_imports` where they are needed; there the tests are shown, as its authors do.

    Raises: Problem naming file, line and key.
    """
    readers: dict[str, Callable[[Line], CodeTask]] = {"humaneval": _completion, "mbpp": _mbpp}
    return _evenly([readers[kind](line) for line in read_lines(path, kind)], limit)


def read_questions(path: Path, kind: str, limit: int | None) -> list[Question]:
    """Questions of a file, at most `limit`.

    xcopa: `premise`, `choice1`, `choice2`, `question` (cause or effect, which becomes the kind), `label` (0 or 1).
    cmmlu: `question`, `choices` or `A`, `B` …, `answer` (a letter), and `subject`, the kind, where there is one.

    Raises: Problem naming file, line and key.
    """
    readers: dict[str, Callable[[Line], Question]] = {"xcopa": _xcopa, "cmmlu": _cmmlu}
    return _evenly([readers[kind](line) for line in read_lines(path, kind)], limit)


def _evenly(items: list[Item], limit: int | None) -> list[Item]:
    if limit is None or limit >= len(items):
        return items
    return [items[place * len(items) // limit] for place in range(limit)]


def _mbpp(line: Line) -> CodeTask:
    if "test_list" not in line.fields and "entry_point" in line.fields:
        return _completion(line)
    tests = _texts(line, "test_list")
    if not tests:
        raise line.problem("`test_list` is empty")
    before = [*_texts(line, "test_imports", missing=()), *_setup(line)]
    prompt = WRITE.format(text=line.text("text", "prompt").strip(), tests="\n".join(tests))
    return CodeTask(_name(line), prompt, (*before, *tests), line.text("code"))


def _setup(line: Line) -> list[str]:
    setup = line.fields.get("test_setup_code") or ""
    return [line.text("test_setup_code")] if str(setup).strip() else []


def _texts(line: Line, name: str, missing: Sequence[str] | None = None) -> Sequence[str]:
    if missing is not None and name not in line.fields:
        return missing
    values = line.value(name)
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise line.problem(f"`{name}` is not a list of texts")
    return values


def _name(line: Line) -> str:
    name = line.value("task_id")
    if not isinstance(name, str | int):
        raise line.problem("`task_id` is neither text nor a number")
    return str(name)


def _completion(line: Line) -> CodeTask:
    beginning, entry_point = line.text("prompt").rstrip() + "\n", line.text("entry_point").strip()
    if not _definition(entry_point).search(beginning):
        raise line.problem(f"`prompt` does not define the `entry_point` {entry_point}")
    task = Completion(
        id=_name(line),
        prompt=COMPLETE.format(beginning=beginning),
        checks=_checks(line, entry_point),
        solution="",
        beginning=beginning,
        entry_point=entry_point,
    )
    return replace(task, solution=assembled(task, line.text("canonical_solution")))


def _checks(line: Line, entry_point: str) -> tuple[str, ...]:
    """The set's tests, with the modules that its authors left out, under a name that no program has."""
    test, found = CHECK.subn(f"def {CHECKS}(", line.text("test"), count=1)
    if not found:
        raise line.problem("`test` defines no function `check`")
    try:
        used = [node.value for node in ast.walk(_parsed(test)) if isinstance(node, ast.Attribute)]
    except SyntaxError as error:
        raise line.problem(f"`test` is not Python ({error.msg})") from None
    names = {node.id for node in used if isinstance(node, ast.Name)} & sys.stdlib_module_names
    modules = [f"globals().setdefault({name!r}, __import__({name!r}))" for name in sorted(names)]
    return (*modules, test, f"{CHECKS}({entry_point})")


def assembled(task: CodeTask, reply: str) -> str:
    """What to grade a reply as: the whole program, where the task has shown how it begins; else the reply.

    Models repeat less than is asked for. A reply that defines the function is put behind what comes before it in the
    task (imports, helpers, constants); where it has its own of these, they come later and win. A reply that does not,
    but is a function's body that returns something, completes the beginning, whatever its indentation. Any
    other reply counts as a program that forgot the function. An empty reply stays empty.
    """
    code = extract_code(reply)
    if not isinstance(task, Completion) or not code.strip():
        return reply
    if not _definition(task.entry_point).search(code):
        for program in _completed(task, code):
            if _returns(program, task.entry_point):
                return program
    prelude = task.beginning[: _last_start(task)]
    if not prelude.strip():
        return code
    return "".join(FUTURE.findall(code)) + prelude + FUTURE.sub("", code)


def _definition(entry_point: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b", re.MULTILINE)


def _last_start(task: Completion) -> int:
    return [found.start() for found in _definition(task.entry_point).finditer(task.beginning)][-1]


def _completed(task: Completion, code: str) -> Iterator[str]:
    """The beginning with the code as its body: as it stands; with its own indentation, or none in line 1, or none.

    A docstring's indentation binds what follows it, so but for the first try it is left out.
    """
    yield task.beginning + code
    header = _header(task)
    yield header + code
    first, _, rest = code.strip().partition("\n")
    body = itertools.takewhile(lambda line: not line.strip() or line[0].isspace(), rest.split("\n"))
    margins = [line[: len(line) - len(line.lstrip())] for line in body if line.strip()]
    yield f"{header}{min(margins, key=len, default='    ')}{first}\n{rest}"
    yield header + textwrap.indent(textwrap.dedent(code), " " * 4)


def _header(task: Completion) -> str:
    """The beginning without the docstring that ends it, if one does."""
    try:
        last = _function(_parsed(task.beginning), task.entry_point).body[-1]
    except (SyntaxError, LookupError):
        return task.beginning
    is_text = isinstance(last, ast.Expr) and isinstance(last.value, ast.Constant)
    return "".join(task.beginning.splitlines(keepends=True)[: last.lineno - 1]) if is_text else task.beginning


def _parsed(program: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(program)


def _function(tree: ast.Module, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    """The last of that name at the top. Raises: IndexError where there is none."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [node for node in functions if node.name == name][-1]


def _returns(program: str, name: str) -> bool:
    """Whether the program compiles, and its function returns or yields something itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(program, "reply", "exec", dont_inherit=True)
        function = _function(_parsed(program), name)
    except (SyntaxError, ValueError, LookupError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, ast.Return | ast.Yield | ast.YieldFrom) for node in _own_nodes(function))


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function, without the functions and classes in it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield child
            yield from _own_nodes(child)


def _xcopa(line: Line) -> Question:
    kind, label = line.text("question"), line.value("label")
    if kind not in ASKED:
        raise line.problem(f"`question` is neither {' nor '.join(ASKED)} but {kind!r}")
    if type(label) is not int or label not in (0, 1):
        raise line.problem(f"`label` is neither 0 nor 1 but {label!r}")
    choices = line.text("choice1").strip(), line.text("choice2").strip()
    text = f"{line.text('premise').strip()}\n{ASKED[kind]}"
    return Question(f"{line.path.stem}-{line.number}", kind, text, choices, label)


def _cmmlu(line: Line) -> Question:
    if "choices" in line.fields:
        choices = tuple(choice.strip() for choice in _texts(line, "choices"))
    else:
        present = [letter for letter in LETTERS if letter in line.fields]
        choices = tuple(line.text(letter).strip() for letter in LETTERS[: max(2, len(present))])
    if not 2 <= len(choices) <= len(LETTERS):
        raise line.problem(f"`choices` are {len(choices)}, not 2 to {len(LETTERS)}")
    answer = line.text("answer", "Answer").strip()
    if answer not in tuple(LETTERS[: len(choices)]):
        raise line.problem(f"`answer` is not one of the letters {LETTERS[: len(choices)]} but {answer!r}")
    kind = line.text("subject", "Subject") if {"subject", "Subject"} & line.fields.keys() else "cmmlu"
    text = line.text("question", "Question").strip()
    return Question(f"{line.path.stem}-{line.number}", kind, text, choices, LETTERS.index(answer))
