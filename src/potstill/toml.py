"""Settings that a person writes in TOML: read, validated, every mistake told at once.

In:  a file; the pydantic model of what may stand in it.
Out: that model, or one `Problem` with the nearest spelling of what is misspelt.
Does not know: what is set.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from potstill.problem import Problem

Settings = TypeVar("Settings", bound=BaseModel)


def read_toml(path: Path, remedy: str) -> dict[str, Any]:
    """The tables of a file. Raises: Problem where it can't be read; `remedy` is for one that isn't there."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # PowerShell begins a file with a mark
    except FileNotFoundError:
        raise Problem(f"{path}: no such file", remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{path}: cannot be read ({error})", "Give a UTF-8 text file in TOML.") from None
    except tomllib.TOMLDecodeError as error:
        raise Problem(f"{path}: not valid TOML: {error}", "Mend that place and try again.") from None


def validated(model: type[Settings], data: dict[str, Any], place: str, remedy: str) -> Settings:
    """`data` as a `model`. Strict: "3" is not a number.

    Args:
        place: the file, as the error names it. remedy: what helps against any mistake.

    Raises: Problem naming every mistake; entries of lists count from 1.
    """
    try:
        return model.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        lines = [_mistake(model, dict(item)) for item in error.errors()]
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        listed = "\n".join(f"  {line}" for line in lines)
        raise Problem(f"{place}: {count}\n{listed}", remedy) from None


def _mistake(model: type[BaseModel], item: dict[str, Any]) -> str:
    keys = list(item["loc"])
    place = ".".join(str(key + 1) if isinstance(key, int) else key for key in keys)
    if item["type"] == "extra_forbidden":
        known = _known_keys(model, keys[:-1])
        near = difflib.get_close_matches(str(keys[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
        return f"{place}: unknown key; {hint}"
    if item["type"] == "missing":
        return f"{place}: missing, and it has no default"
    message = str(item["msg"]).removeprefix("Value error, ")
    given = item.get("input")
    shown = "" if isinstance(given, dict | list) else f" (given: {json.dumps(given, ensure_ascii=False, default=str)})"
    choice = _near_choice(item)
    told = f"{message[:1].lower()}{message[1:]}{choice}{shown}"
    return f"{place}: {told}" if place else told


def _near_choice(item: dict[str, Any]) -> str:
    if item["type"] != "literal_error":
        return ""
    choices = [choice.strip().strip("'") for choice in str(item["ctx"]["expected"]).replace(" or ", ", ").split(",")]
    near = difflib.get_close_matches(str(item["input"]), choices, n=1, cutoff=0.4)
    return f"; did you mean '{near[0]}'?" if near else ""


def _known_keys(model: type[BaseModel], place: list[str | int]) -> list[str]:
    for key in place:
        if isinstance(key, int):
            continue
        annotation = model.model_fields[key].annotation
        inner = [part for part in (annotation, *get_args(annotation)) if isinstance(part, type)]
        sections = [part for part in inner if issubclass(part, BaseModel)]
        if not sections:
            return []
        model = sections[0]
    return list(model.model_fields)
