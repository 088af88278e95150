"""The page: what it says, what it never does, and what it does without its material.

In:  a made-up run folder.
Out: pass or fail.
Does not know: models, how it looks.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from finished_run import (
    build_run,
    failures,
    full_scorecard,
    gates,
    reading,
    samples,
    scorecard,
    stability,
    training_log,
)

from potstill.problem import Problem
from potstill.recipe import Recipe
from potstill.report import report
from potstill.report.material import read_material
from potstill.report.page import render
from potstill.report.reading import answer_pieces
from potstill.run import Run, write_json

VOID = {"meta", "link", "input", "br", "img"}


class Page(HTMLParser):
    """What a browser would make of it: texts, attributes, scripts, and whether every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def values(self, attribute: str) -> list[str]:
        return [value for _, attrs in self.tags if (value := attrs.get(attribute)) is not None]


def write_page(run: Run) -> str:
    folder = run.folder / "report"
    folder.mkdir(exist_ok=True)
    report(run, folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def page_with(run: Run, name: str, content: Any) -> Page:
    """The page when one file of the evaluation says this. As JSON writes it: half a surrogate pair can not be UTF-8."""
    (run.folder / "evaluate" / name).write_text(json.dumps(content))
    return Page(write_page(run))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return build_run(tmp_path / "demo")


def test_says_what_was_made_from_what(run: Run) -> None:
    text = Page(write_page(run)).text
    for said in ("demo", "Qwen2.5-Coder 0.5B Instruct", "494.0M", "Apache-2.0", "149.8M", "24 layers × 1,216 neurons"):
        assert said in text


def test_shows_every_value_with_its_interval_and_count(run: Run) -> None:
    text = Page(write_page(run)).text
    for said in (
        "165",
        "159 – 171",
        "n = 12",
        "126",
        "85.4",
        "52.3%",
        "50.5% – 54.1%",
        "n = 40",
        "6.91",
        "1.57",
        "1.18",
    ):
        assert said in text
    assert "2.08×" in text and "1.93 – 2.26×" in text  # 343.2 / 164.8; 331 / 171.3 to 358.4 / 158.9


def test_tells_time_bytes_files_and_how_to_make_it_again(run: Run) -> None:
    text = Page(write_page(run)).text
    for said in ("10 min 2 s", "peak 900 MB", "demo-Q4_0.gguf", "301 MB", "0.410", "6" * 16, "2.13.0+cpu", "2 cores"):
        assert said in text
    assert '"learning_rate"' in text


def test_both_languages_say_everything(run: Run) -> None:
    page = Page(write_page(run))
    classes = page.values("class")
    assert classes.count("en") == classes.count("zh") > 100
    for said in ("首词元延迟", "越低越好", "教师", "学生", "剪枝后", "训练后", "留出"):
        assert said in page.text


def test_the_document_is_whole_and_its_references_lead_somewhere(run: Run) -> None:
    page = Page(write_page(run))
    assert page.open == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert set(page.values("aria-labelledby")) | set(page.values("for")) <= set(ids)
    assert sum(tag == "table" for tag, _ in page.tags) == sum(tag == "caption" for tag, _ in page.tags) > 5


def test_asks_nothing_from_outside(run: Run) -> None:
    html = write_page(run)
    page = Page(html)
    assert "http://" not in html and "https://" not in html and "url(" not in html and "@import" not in html
    assert not page.values("src")
    assert set(page.values("href")) == {"data:,"}


def test_the_policy_allows_our_script_alone(run: Run) -> None:
    page = Page(write_page(run))
    (script,) = page.scripts
    policy = page.values("content")[0]
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy


HOSTILE = "</div></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;{{ 7 * 7 }}\x00\ud800"


@pytest.mark.parametrize("place", ["prompt", "teacher", "student", "id", "category"])
def test_a_held_out_text_stays_text(run: Run, place: str) -> None:
    harmless = samples()[0] | {"category": "mine"}
    write_json(run.folder / "evaluate" / "samples.json", [harmless])
    ordinary = Page(write_page(run))
    entry = harmless | {place: HOSTILE}
    # As JSON writes it: half a surrogate pair can't be UTF-8.
    (run.folder / "evaluate" / "samples.json").write_text(json.dumps([entry]))
    page = Page(write_page(run))
    assert "<script>alert(1)</script>" in page.text and "{{ 7 * 7 }}" in page.text
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in ordinary.tags]


@pytest.mark.parametrize("place", ["kind", "id", "question", "expected", "teacher", "student", "why"])
@pytest.mark.parametrize("kind", ["code", "commonsense"])
def test_a_failure_stays_text(run: Run, place: str, kind: str) -> None:
    entry = next(one for one in failures() if one["kind"] == kind)
    # A kind that nobody knows is shown as commonsense is: its texts are no programs.
    ordinary = page_with(run, "failures.json", [entry | ({"kind": "mine"} if place == "kind" else {})])
    page = page_with(run, "failures.json", [entry | {place: HOSTILE}])
    assert "<script>alert(1)</script>" in page.text and "{{ 7 * 7 }}" in page.text
    assert [tag for tag, _ in page.tags if tag != "span"] == [tag for tag, _ in ordinary.tags if tag != "span"]
    assert not page.values("onerror") and not page.values("src")


@pytest.mark.parametrize("place", ["model", "question", "text"])
def test_a_repeated_answer_stays_text(run: Run, place: str) -> None:
    def told(model: str, question: str, text: str) -> Page:
        answers = [{"text": text, "ended": True, "tokens": 3}]
        return page_with(run, "stability.json", {model: [{"question": question, "answers": answers}]})

    harmless = {"model": "mine", "question": "what?", "text": "that"}
    ordinary, page = told(**harmless), told(**(harmless | {place: HOSTILE}))
    assert "<script>alert(1)</script>" in page.text and "{{ 7 * 7 }}" in page.text
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in ordinary.tags]


def test_a_note_and_the_name_of_a_set_stay_text(run: Run) -> None:
    missing = reading(None, None, None, 0, "share") | {"note": HOSTILE}
    page = page_with(run, "scorecard.json", {f"code.runs.{HOSTILE}": {"student": missing}})
    assert page.text.count("<script>alert(1)</script>") == 3  # both languages of the title, and the note
    assert len(page.scripts) == 1 and not page.values("onerror")


@pytest.mark.parametrize("place", ["metric", "rule", "state", "unit"])
def test_a_gate_stays_text(run: Run, place: str) -> None:
    page = Page(render(replace(read_material(run), gates=[gates()[0] | {place: HOSTILE}])))
    assert "<script>alert(1)</script>" in page.text
    assert len(page.scripts) == 1 and not page.values("onerror") and not page.values("src")


def test_names_from_files_stay_text(run: Run) -> None:
    hostile = "<b id=x onclick=y>"
    card = scorecard() | {hostile: {hostile: reading(1.0, None, None, 1, hostile)}}
    write_json(run.folder / "evaluate" / "scorecard.json", card)
    write_json(run.folder / "vocab" / "report.json", {hostile: hostile})
    write_json(run.folder / "export" / "report.json", {"files": [{"name": hostile, "type": hostile}]})
    page = Page(write_page(run))
    assert hostile in page.text
    assert not page.values("onclick") and "x" not in page.values("id")


def test_an_unknown_metric_and_an_unknown_model_get_their_place(run: Run) -> None:
    card = scorecard()
    card["energy.joule_per_token"] = {
        "teacher": reading(3.0, None, None, 5, "J"),
        "somebody": reading(0.75, None, None, 5, "J"),
    }
    write_json(run.folder / "evaluate" / "scorecard.json", card)
    text = Page(write_page(run)).text
    assert "energy.joule_per_token" in text and "somebody" in text and "0.750 J" in text


def test_bad_values_are_shown_as_they_are(run: Run) -> None:
    card = scorecard()
    card["speed.decode_tok_s"]["student"] = reading(14.45, 14.0, 15.0, 12, "tokens/s")
    card["fidelity.kl"]["student"] = reading(2.07, 2.0, 2.1, 40, "nats")
    card["fidelity.perplexity"]["cut"] = reading(float("inf"), None, None, 40, "perplexity")
    card["naturalness.mean"] = {"student": reading(None, None, None, 0, "")}
    write_json(run.folder / "evaluate" / "scorecard.json", card)
    text = Page(write_page(run)).text
    for said in ("2.00× slower", "rounding: 0.920 nats worse", "∞", "not rated", "not measured"):
        assert said in text


def test_an_empty_answer_is_called_empty(run: Run) -> None:
    assert "(an empty answer)" in Page(write_page(run)).text


OPTIONAL = [
    "prompts/report.json", "answers/report.json", "vocab/report.json", "signals/report.json", "prune/report.json",
    "distill/report.json", "distill/log.jsonl", "export/report.json", "evaluate/scorecard.json",
    "evaluate/samples.json", "evaluate/stability.json", "evaluate/failures.json",
    "manifest.json", "recipe.json",
]  # fmt: skip


@pytest.mark.parametrize("name", OPTIONAL)
def test_one_missing_file_takes_nothing_else_along(run: Run, name: str) -> None:
    (run.folder / name).unlink()
    page = Page(write_page(run))
    assert page.open == []
    assert "Qwen2.5-Coder 0.5B Instruct" in page.text
    assert ("2.08×" in page.text) == (name != "evaluate/scorecard.json")


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"name": "new", "teacher": {"model": "/home/me/models/mine.gguf"}})
    run = Run(tmp_path / "new", recipe)
    run.folder.mkdir()
    page = Page(write_page(run))
    assert page.open == []
    for said in ("mine.gguf", "unknown: not in potstill's catalogue", "has not been measured", "No training log"):
        assert said in page.text
    assert "/home/me" not in page.text


def test_a_damaged_file_is_named(run: Run) -> None:
    (run.folder / "evaluate" / "scorecard.json").write_text("{")
    with pytest.raises(Problem, match=r"scorecard\.json"):
        write_page(run)


def test_a_torn_last_line_of_the_log_is_left_out(run: Run) -> None:
    before = write_page(run)
    with (run.folder / "distill" / "log.jsonl").open("a") as file:
        file.write('{"step": 241, "lo')
    drawn = re.findall(r' d="([^"]*)"', before)
    assert drawn and re.findall(r' d="([^"]*)"', write_page(run)) == drawn


def test_every_loss_is_drawn(run: Run) -> None:
    lines: list[dict[str, Any]] = [line | {"hidden_12_24": 0.4} for line in training_log(50)]
    (run.folder / "distill" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Page(write_page(run))
    assert page.values("class").count("panel") == 3  # logits, hidden, total
    assert "student 12 ↔ teacher 24" in page.text


def test_the_same_run_gives_the_same_page(run: Run) -> None:
    first = write_page(run)
    manifest = json.loads((run.folder / "manifest.json").read_text())
    manifest["stages"]["report"] = manifest["stages"]["evaluate"] | {"seconds": 77.7}
    write_json(run.folder / "manifest.json", manifest)
    assert write_page(run) == first  # though a report, its time and its bytes are there by now


@pytest.mark.parametrize(
    "text", ["plain", "a\n```python\nx = 1\n```\nb", "```\nnever closed", "\n\n```sh\nls\n```", "``` a\r\nb\n```  \nc"]
)
def test_code_is_told_apart_and_nothing_is_lost(text: str) -> None:
    pieces = answer_pieces(text)
    assert "".join(part for _, part in pieces) == text
    assert any(fenced for fenced, _ in pieces) == ("```" in text)
    assert all("```" not in part for fenced, part in pieces if not fenced)


def test_a_blank_answer_has_no_pieces() -> None:
    assert answer_pieces(" \n\t") == ()


def test_a_run_of_the_first_version_still_has_its_page(run: Run) -> None:
    write_json(run.folder / "evaluate" / "scorecard.json", scorecard())
    for name in ("stability.json", "failures.json"):
        (run.folder / "evaluate" / name).unlink()
    page = Page(write_page(run))
    assert page.open == [] and "2.08×" in page.text and "at a glance" in page.text
    assert not {"failures-title", "repeats-title"} & set(page.values("id"))


def test_empty_files_of_the_evaluation_take_nothing_along(run: Run) -> None:
    for name, empty in (("stability.json", {}), ("failures.json", []), ("scorecard.json", {})):
        write_json(run.folder / "evaluate" / name, empty)
    page = Page(write_page(run))
    assert page.open == [] and "has not been measured" in page.text


def test_the_verdict_is_by_the_gates_that_the_recipe_has_now(run: Run) -> None:
    gates = dict(run.recipe.gates)
    easy = {**gates, "code.runs": ">= 0.1", "commonsense.error": "<= 0.9"}
    del easy["naturalness.mean"]
    assert "Don't ship" in Page(write_page(run)).text
    now = replace(run, recipe=run.recipe.model_copy(update={"gates": easy}))
    text = Page(write_page(now)).text
    assert "Don't ship" not in text and "5 met" in text


def test_the_verdict_stands_at_the_top_and_says_why(run: Run) -> None:
    text = Page(write_page(run)).text
    for said in (
        "Don't ship", "3 met", "1 missed", "at least the teacher's minus 6 points",
        "10,000 more questions or even more",
        "不宜发布", "未达到",
    ):  # fmt: skip
        assert said in text
    assert text.index("Don't ship") < text.index("at a glance") < text.index("Every measure")


def test_parts_of_a_metric_lie_in_what_opens_by_a_click(run: Run) -> None:
    page = Page(write_page(run))
    for said in ("By category", "By position in the answer", "By prompt length", "By threads", "By quantisation"):
        assert said in page.text
    for said in ("KL divergence · office", "tokens 17 – 64", "long prompt", "2 threads", "Student Q8_0", "学生 Q8_0"):
        assert said in page.text
    assert page.text.count("Distance from the teacher") == 1
    assert page.values("class").count("bars") == 4 + 2  # four ladders, none for a category; time and bytes


def test_failures_are_shown_up_to_what_a_person_reads(run: Run) -> None:
    page = Page(write_page(run))
    assert page.values("class").count("sample failure") == 3 + 20
    for said in (": 26 failed", "And 6 more", "AssertionError", "the teacher had 2 of them right"):
        assert said in page.text


def test_every_metric_of_a_full_evaluation_has_words(run: Run) -> None:
    text = Page(write_page(run)).text
    assert "no explanation is known" not in text
    assert not [key for key in full_scorecard() if key in text.partition("To make it again")[0]]


def test_repeated_answers_are_counted(run: Run) -> None:
    text = Page(write_page(run)).text
    answers = [answer for entry in stability()["student"] for answer in entry["answers"]]
    ended = sum(answer["ended"] for answer in answers)
    assert f"{ended} of {len(answers)} ended by themselves" in text and ", cut off" in text
