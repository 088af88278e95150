"""The page folder as files: nothing inline, nothing from elsewhere, every word in both languages."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

PAGE = Path(str(files("potstill.serve") / "page"))
HTML = sorted(PAGE.glob("*.html"))
SCRIPTS = sorted(PAGE.glob("*.js"))


class Markup(HTMLParser):
    """All tags with their attributes, and the texts inside script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.inline: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._open = tag

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style") and data.strip():
            self.inline.append(data)


def words() -> dict[str, set[str]]:
    text = (PAGE / "words.js").read_text(encoding="utf-8")
    english, chinese = re.search(r"  en: \{(.*?)\n  \},\n  zh: \{(.*?)\n  \},", text, re.DOTALL).groups()  # type: ignore[union-attr]
    return {
        "en": set(re.findall(r'^    "([^"]+)":', english, re.M)),
        "zh": set(re.findall(r'^    "([^"]+)":', chinese, re.M)),
    }


def test_there_are_four_pages() -> None:
    assert [path.name for path in HTML] == ["chat.html", "compare.html", "operate.html", "rate.html"]


@pytest.mark.parametrize("path", HTML, ids=lambda path: path.name)
def test_a_page_lives_under_a_strict_policy(path: Path) -> None:
    markup = Markup(path.read_text(encoding="utf-8"))
    assert markup.inline == []
    for tag, attributes in markup.tags:
        assert not [name for name in attributes if name == "style" or name.startswith("on")], tag
        for name in ("src", "href", "action"):
            if value := attributes.get(name):
                assert value.startswith(("/", "#")) and not value.startswith("//"), value
            if value and value.startswith("/static/"):
                assert (PAGE / value.removeprefix("/static/")).is_file(), value


@pytest.mark.parametrize("path", HTML, ids=lambda path: path.name)
def test_a_page_can_be_found_one_s_way_in(path: Path) -> None:
    markup = Markup(path.read_text(encoding="utf-8"))
    ids = [attributes["id"] for _, attributes in markup.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    tags = [tag for tag, _ in markup.tags]
    assert "main" in tags and "h1" in tags and "noscript" in tags
    for tag, attributes in markup.tags:
        for name in ("for", "aria-labelledby", "aria-controls"):
            assert attributes.get(name) is None or attributes[name] in ids, (tag, attributes)
    named = {attributes["for"] for tag, attributes in markup.tags if tag == "label" and "for" in attributes}
    for tag, attributes in markup.tags:
        if tag in ("select", "textarea"):
            assert attributes["id"] in named or "aria-labelledby" in attributes, attributes


def test_both_languages_have_every_word() -> None:
    found = words()
    assert found["en"] == found["zh"]
    used = {key for path in SCRIPTS for key in re.findall(r'word\("([^"$]+)"', path.read_text(encoding="utf-8"))}
    for path in HTML:
        used |= set(re.findall(r'data-word(?:-\w+)?="([^"]+)"', path.read_text(encoding="utf-8")))
    assert len(used) > 50
    assert used <= found["en"], used - found["en"]


def test_no_word_is_left_over() -> None:
    everything = "".join(path.read_text(encoding="utf-8") for path in [*HTML, *SCRIPTS] if path.name != "words.js")
    built = {f"rate.{side}" for side in ("a", "b", "same")}  # made from a vote's value
    left = {key for key in words()["en"] if f'"{key}"' not in everything} - built
    assert left == set()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_html_or_code_from_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    parsers = r"innerHTML|outerHTML|insertAdjacentHTML|setHTML|DOMParser|createContextualFragment|document\.write"
    ways = parsers + r"|\beval\(|new Function"
    assert re.findall(ways, text) == []
    assert "http:" not in text and "https:" not in text
    for imported in re.findall(r'from "\./([^"]+)"', text):
        assert (PAGE / imported).is_file(), imported


def test_the_style_sheet_asks_for_nothing() -> None:
    text = (PAGE / "style.css").read_text(encoding="utf-8")
    assert "url(" not in text and "@import" not in text


def test_the_rating_page_knows_no_model() -> None:
    reached, todo = set[str](), ["rate.js"]
    while todo:
        name = todo.pop()
        reached.add(name)
        todo += [
            one
            for one in re.findall(r'from "\./([^"]+)"', (PAGE / name).read_text(encoding="utf-8"))
            if one not in reached
        ]
    text = "".join((PAGE / name).read_text(encoding="utf-8") for name in [*reached, "rate.html"]).lower()
    assert "rate.js" in reached and "words.js" in reached
    assert "student" not in text and "teacher" not in text


def test_the_pages_are_small() -> None:
    sizes = [path.stat().st_size for path in PAGE.iterdir()]
    assert sum(sizes) < 150_000
    assert all(len(path.read_text(encoding="utf-8").splitlines()) < 400 for path in PAGE.iterdir())
