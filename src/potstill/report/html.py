"""A page of ours as one self-contained HTML text, in English and in Chinese.

In:  a template, what it shows, what its macros may ask.
Out: HTML that needs nothing from outside and runs no script but its own.
Does not know: what is shown.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render_page(
    template: str,
    content: Mapping[str, Any],
    *,
    packages: Sequence[str] = (),
    styles: Sequence[str] = (),
    asked: Mapping[str, Callable[..., Any]] | None = None,
) -> str:
    """The page. The same content always gives the same text.

    Args:
        template: extends base.html. content: what it names.
        packages: with templates of their own, before those of the report. styles: sheets after the common one.
        asked: functions that macros call.
    """
    loader = ChoiceLoader([PackageLoader(package) for package in (*packages, "potstill.report")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(asked or {})

    def source(name: str) -> str:
        """A file of ours as it is; nothing of a run ever goes through here."""
        return loader.get_source(environment, name)[0]

    script = source("language.js")
    page = environment.get_template(template).render(
        style=Markup("".join(source(name) for name in ("style.css", *styles))),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **content,
    )
    # JSON can hold half a surrogate pair, UTF-8 can't.
    return page.encode("utf-8", "replace").decode("utf-8") + "\n"
