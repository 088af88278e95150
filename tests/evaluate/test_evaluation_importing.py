"""Evaluation sets of others: each format, what is wrong with a line, what a reply stands for as a program.

The files themselves are not part of the project: name a folder with them in POTSTILL_EVALUATION_FILES to have them
read, and their own solutions graded.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from potstill.evaluate.code import CodeTask, extract_code, grade
from potstill.evaluate.importing import assembled, read_code_tasks, read_questions
from potstill.evaluate.sandbox import Limits, confinement
from potstill.problem import Problem

LIMITS = Limits(cpu_s=10, wall_s=30, memory_mb=400, processes=8, file_mb=8, output_kb=64)
needs_walls = pytest.mark.skipif(not confinement().available, reason=f"no sandbox: {confinement().reason}")
BEGINNING = '''import math
from typing import List

UNIT = 10


def doubled(number: int) -> int:
    return 2 * number


def roots(numbers: List[int]) -> List[int]:
    """Whole roots of the doubled numbers.

    >>> roots([8])
    [4]
    """
'''
BODY = "    return [math.isqrt(doubled(number)) for number in numbers]\n"
TEST = (
    "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate([8, 2]) == [4, 2]\n"
    "    assert doubled(UNIT) == 20\n"
)
HUMANEVAL = {
    "task_id": "Own/0",
    "prompt": BEGINNING,
    "entry_point": "roots",
    "test": TEST,
    "canonical_solution": BODY,
}
# The docstring's four spaces, the body's two: as in the MBPP that is spelled like HumanEval.
MBPP_LIKE = {
    "task_id": "Own/1",
    "prompt": "def halves(number):\n    '''\n    Halve it.\n    '''\n",
    "entry_point": "halves",
    "test": "def check(candidate):\n    assert halves(4) == 2\n",
    "canonical_solution": "  half = number // 2\n  return (half) \n",
}
MBPP = {
    "task_id": 7,
    "text": "Write a function to add a number to a base.",
    "code": "class Base:\r\n  value = 1\r\ndef add(base, number):\r\n  return base.value + number",
    "test_list": ["assert add(base, 2) == 3", "assert add(base, 0) == 1"],
    "test_setup_code": "base = Base()",
    "challenge_test_list": [],
}
XCOPA = {
    "premise": "雨停了。",
    "choice1": "他收了伞。",
    "choice2": "他撑开伞。",
    "question": "effect",
    "label": 0,
    "idx": 3,
}
CMMLU = {"subject": "weather", "question": "雨从哪里来", "choices": ["云", "海", "井"], "answer": "A"}


def write(folder: Path, *rows: dict[str, Any], name: str = "own.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def task(folder: Path, row: dict[str, Any], kind: str = "humaneval") -> CodeTask:
    (found,) = read_code_tasks(write(folder, row), kind, None)
    return found


def passes(asked: CodeTask, reply: str) -> bool:
    """Whether the program that our own reply stands for passes; nothing here is a model's, so no sandbox."""
    namespace: dict[str, Any] = {"__name__": "answer"}
    try:
        exec("\n".join([extract_code(assembled(asked, reply)), *asked.checks]), namespace)
    except Exception:
        return False
    return True


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def test_humaneval(tmp_path: Path) -> None:
    found = task(tmp_path, HUMANEVAL)
    assert found.id == "Own/0"
    assert found.prompt.endswith(f"```python\n{BEGINNING}```") and "完整的程序" in found.prompt
    assert found.checks == (TEST.replace("check", "checks_of_the_task"), "checks_of_the_task(roots)")
    assert found.solution == BEGINNING + BODY
    assert passes(found, found.solution)


def test_mbpp_spelled_like_humaneval_mends_the_indentation(tmp_path: Path) -> None:
    found = task(tmp_path, MBPP_LIKE, "mbpp")
    assert passes(found, found.solution)


def test_imports_inside_the_function_stay(tmp_path: Path) -> None:
    prompt = "def halves(number):\n    import math\n    '''Halve it.'''\n"
    found = task(
        tmp_path, MBPP_LIKE | {"prompt": prompt, "canonical_solution": "    return math.floor(number / 2)\n"}, "mbpp"
    )
    for reply in (found.solution, "return math.floor(number / 2)", "half = number / 2\n    return math.floor(half)"):
        assert passes(found, reply)


def test_tests_get_the_modules_they_forgot_and_leave_the_programs_names_alone(tmp_path: Path) -> None:
    tests = "def check(candidate):\n    assert math.isclose(candidate(2), 1.0)\n    assert check(3) == 'own'\n"
    found = task(tmp_path, MBPP_LIKE | {"test": tests}, "mbpp")
    right = "def halves(number):\n    return number / 2\n\ndef check(number):\n    return 'own'\n"
    assert passes(found, right)
    assert passes(found, f"import math\n{right}")
    assert not passes(found, right.replace("/ 2", "/ 3"))
    assert not passes(found, f"math = None\n{right}")  # the program's own name, and its own fault


def test_mbpp_shows_its_tests_and_runs_the_set_up_before_them(tmp_path: Path) -> None:
    found = task(tmp_path, MBPP, "mbpp")
    assert found.id == "7"
    assert found.prompt.startswith(MBPP["text"]) and "\nassert add(base, 2) == 3\nassert add" in found.prompt
    assert found.checks == ("base = Base()", *MBPP["test_list"])
    assert passes(found, found.solution)
    assert passes(found, f"```python\n{found.solution}\n```")
    assert not passes(found, "def add(base, number): return 0")


def test_sanitized_mbpp_names_its_text_prompt_and_its_imports(tmp_path: Path) -> None:
    row = without(MBPP, "text", "test_setup_code") | {
        "prompt": "Round down.",
        "code": "import math\ndef down(x): return math.floor(x)",
        "test_imports": ["import math"],
        "test_list": ["assert down(math.pi) == 3"],
    }
    found = task(tmp_path, row, "mbpp")
    assert found.prompt.startswith("Round down.")
    assert found.checks == ("import math", "assert down(math.pi) == 3")
    assert passes(found, found.solution)


FUNCTION = "def roots(numbers: List[int]) -> List[int]:\n" + BODY


@pytest.mark.parametrize(
    "reply",
    [
        BEGINNING + BODY,
        f"好的：\n```python\n{BEGINNING}{BODY}```\n说明",
        f"```python\n{FUNCTION}```",  # without imports and helpers
        f"```python\nimport math\n\n{FUNCTION}```",  # with some of them
        f"```python\nfrom __future__ import annotations\n\n{FUNCTION}```",  # which only opens a program
        "from math import isqrt\nroots = lambda numbers: [isqrt(2 * number) for number in numbers]",
        BODY,
        f"```python\n{BODY}```",
        BODY.strip(),
        "# no indentation\nfound = []\nfor number in numbers:\n  found.append(math.isqrt(2 * number))\nreturn found",
        "found = []\n    for number in numbers:\n        found.append(math.isqrt(2 * number))\n    return found",
        "return helper(numbers)\n\ndef helper(many):\n return [math.isqrt(2 * n) for n in many]",
        "roots = [math.isqrt(2 * number) for number in numbers]\n  return roots",
        "\n\n        return [math.isqrt(2 * number) for number in numbers]",
        "    return helper(numbers)\n\ndef helper(numbers):\n    return [math.isqrt(2 * number) for number in numbers]",
        "\tfor _ in numbers:\n\t\treturn helper(numbers)\ndef helper(many):\n return [math.isqrt(2 * n) for n in many]",
        "found = helper(numbers)\n  return found\n\ndef helper(many):\n return [math.isqrt(2 * n) for n in many]",
        " if not numbers:\n \treturn []\n else:\n\t return [math.isqrt(2 * number) for number in numbers]",
    ],
)
def test_what_a_right_reply_leaves_out_is_put_back(tmp_path: Path, reply: str) -> None:
    found = task(tmp_path, HUMANEVAL)
    assert passes(found, reply)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "```python\n```",
        "的的的的的",
        "def other(numbers):\n    return numbers",
        "    return numbers",
        "return [",
        "    pass",
        "roots == 1",
        "class roots_of: pass",
        "def roots(numbers):\n    return []",
        "return " + "(" * 500 + ")" * 500,
        "return 1\0",
    ],
)
def test_a_wrong_reply_stays_wrong(tmp_path: Path, reply: str) -> None:
    assert not passes(task(tmp_path, HUMANEVAL), reply)


def test_no_reply_is_made_to_run(tmp_path: Path) -> None:
    found = task(tmp_path, HUMANEVAL)
    for empty in ("", " \n", "```python\n\n```"):
        assert assembled(found, empty) == empty
    # Words in the place of a body would run, since nobody calls the function.
    with pytest.raises(NameError):
        exec(assembled(found, "的的的"), {})
    # A function of another name runs and passes nothing, as in our own tasks.
    exec(assembled(found, "def other():\n    return 1"), {})


def test_a_reply_to_any_other_task_is_left_alone(tmp_path: Path) -> None:
    found = task(tmp_path, MBPP, "mbpp")
    for reply in ("", "说明\n```python\nx = 1\n```", "return 1"):
        assert assembled(found, reply) == reply


def test_the_replys_own_helpers_win(tmp_path: Path) -> None:
    reply = f"def doubled(number):\n    return 0\n\n{FUNCTION}"
    namespace: dict[str, Any] = {}
    exec(assembled(task(tmp_path, HUMANEVAL), reply), namespace)
    assert namespace["roots"]([8]) == [0]


@needs_walls
def test_assembled_programs_are_graded_in_the_sandbox(tmp_path: Path) -> None:
    found = task(tmp_path, HUMANEVAL)
    right, wrong, empty = (grade(found, assembled(found, reply), LIMITS) for reply in (BODY, "return []", ""))
    assert (right.runs, right.passes, right.error) == (True, True, "")
    assert (wrong.runs, wrong.passes) == (True, False)
    assert (empty.runs, empty.passes, empty.error) == (False, False, "empty")


def test_xcopa(tmp_path: Path) -> None:
    cause = XCOPA | {"question": "cause", "label": 1}
    effects = read_questions(write(tmp_path, XCOPA, cause, name="xcopa.jsonl"), "xcopa", None)
    assert [(one.id, one.kind, one.answer) for one in effects] == [("xcopa-1", "effect", 0), ("xcopa-2", "cause", 1)]
    assert effects[0].choices == ("他收了伞。", "他撑开伞。")
    assert all(one.question.startswith("雨停了。\n") for one in effects)
    assert effects[0].question != effects[1].question


@pytest.mark.parametrize(
    ("row", "choices", "answer", "kind"),
    [
        (CMMLU, ("云", "海", "井"), 0, "weather"),
        (
            {"Question": "雨从哪里来", "A": "云", "B": "海", "C": "井", "D": "山", "Answer": "C"},
            ("云", "海", "井", "山"),
            2,
            "cmmlu",
        ),
    ],
)
def test_cmmlu(tmp_path: Path, row: dict[str, Any], choices: tuple[str, ...], answer: int, kind: str) -> None:
    (found,) = read_questions(write(tmp_path, row), "cmmlu", None)
    assert (found.question, found.choices, found.answer, found.kind) == ("雨从哪里来", choices, answer, kind)


@pytest.mark.parametrize(
    ("kind", "row", "why"),
    [
        *(("humaneval", without(HUMANEVAL, name), f"no `{name}` among") for name in HUMANEVAL),
        ("humaneval", HUMANEVAL | {"entry_point": "root"}, "`prompt` does not define the `entry_point` root"),
        ("humaneval", HUMANEVAL | {"test": "assert True"}, "`test` defines no function `check`"),
        ("humaneval", HUMANEVAL | {"test": "def check(candidate):\n  assert ("}, "`test` is not Python"),
        ("humaneval", HUMANEVAL | {"test": 3}, "`test` is not text but a int"),
        ("humaneval", HUMANEVAL | {"prompt": " "}, "`prompt` is empty"),
        ("humaneval", HUMANEVAL | {"task_id": None}, "`task_id` is neither text nor a number"),
        ("mbpp", without(MBPP, "text"), "no `text` or `prompt` among"),
        ("mbpp", without(MBPP, "code"), "no `code` among"),
        ("mbpp", without(MBPP, "test_list"), "no `test_list` among"),
        ("mbpp", MBPP | {"test_list": []}, "`test_list` is empty"),
        ("mbpp", MBPP | {"test_list": "assert"}, "`test_list` is not a list of texts"),
        ("mbpp", MBPP | {"test_setup_code": 5}, "`test_setup_code` is not text"),
        ("mbpp", without(MBPP_LIKE, "test"), "no `test` among"),
        *(("xcopa", without(XCOPA, name), f"no `{name}` among") for name in XCOPA if name != "idx"),
        ("xcopa", XCOPA | {"question": "why"}, "`question` is neither cause nor effect but 'why'"),
        ("xcopa", XCOPA | {"label": 2}, "`label` is neither 0 nor 1 but 2"),
        ("xcopa", XCOPA | {"label": True}, "`label` is neither 0 nor 1 but True"),
        ("cmmlu", without(CMMLU, "question"), "no `question` or `Question` among"),
        ("cmmlu", without(CMMLU, "answer"), "no `answer` or `Answer` among"),
        ("cmmlu", without(CMMLU, "choices"), "no `A` among"),
        ("cmmlu", without(CMMLU, "choices") | {"A": "云", "C": "井"}, "no `B` among"),
        ("cmmlu", CMMLU | {"choices": ["云"]}, "`choices` are 1, not 2 to 8"),
        ("cmmlu", CMMLU | {"choices": ["云", 3]}, "`choices` is not a list of texts"),
        ("cmmlu", CMMLU | {"answer": "D"}, "`answer` is not one of the letters ABC but 'D'"),
        ("cmmlu", CMMLU | {"answer": "AB"}, "`answer` is not one of the letters ABC but 'AB'"),
    ],
)
def test_a_bad_line_is_told_with_its_place_and_what_to_do(
    tmp_path: Path, kind: str, row: dict[str, Any], why: str
) -> None:
    good = {"humaneval": HUMANEVAL, "mbpp": MBPP, "xcopa": XCOPA, "cmmlu": CMMLU}[kind]
    path = write(tmp_path, good, row)
    read = read_code_tasks if kind in ("humaneval", "mbpp") else read_questions
    with pytest.raises(Problem) as caught:
        read(path, kind, 1)  # what isn't chosen is checked too
    assert caught.value.what.startswith(f"{path}:2: {why}")
    assert f'"{kind}"' in caught.value.remedy and "[[evaluate.files]]" in caught.value.remedy


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, range(10)), (10, range(10)), (99, range(10)), (5, [0, 2, 4, 6, 8]), (3, [0, 3, 6]), (1, [0])],
)
def test_a_limit_is_even_over_the_file(tmp_path: Path, limit: int | None, expected: list[int]) -> None:
    path = write(tmp_path, *(CMMLU | {"question": str(number)} for number in range(10)))
    assert [one.question for one in read_questions(path, "cmmlu", limit)] == [str(number) for number in expected]


FILES = [
    ("humaneval.jsonl", "humaneval", 164),
    ("mbpp_sanitized_200.jsonl", "mbpp", 200),
    ("xcopa_zh_val.jsonl", "xcopa", 100),
    ("cmmlu_dev.jsonl", "cmmlu", 335),
]


def real_file(name: str) -> Path:
    folder = os.environ.get("POTSTILL_EVALUATION_FILES")
    if not folder or not (Path(folder) / name).is_file():
        pytest.skip(f"POTSTILL_EVALUATION_FILES names no folder that holds {name}")
    return Path(folder) / name


@pytest.mark.parametrize(("name", "kind", "count"), FILES[2:])
def test_real_questions_are_read(name: str, kind: str, count: int) -> None:
    questions = read_questions(real_file(name), kind, None)
    assert len(questions) == len({one.id for one in questions}) == count
    assert {one.answer for one in questions} == set(range(max(len(one.choices) for one in questions)))


@needs_walls
@pytest.mark.parametrize(("name", "kind", "count"), FILES[:2])
def test_real_solutions_pass_their_own_checks(name: str, kind: str, count: int) -> None:
    path = real_file(name)
    assert len(read_code_tasks(path, kind, None)) == count
    failed = {}
    for one in read_code_tasks(path, kind, 20):
        result = grade(one, assembled(one, f"```python\n{one.solution}\n```"), LIMITS)
        if not result.passes:
            failed[one.id] = result.error
    assert failed == {}


@pytest.mark.parametrize(("name", "kind", "count"), FILES[:2])
def test_real_prompts_alone_pass_nothing(name: str, kind: str, count: int) -> None:
    for one in read_code_tasks(real_file(name), kind, None):
        assert assembled(one, "") == ""
        assert one.solution != assembled(one, "不知道")
