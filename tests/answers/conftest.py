"""The fixture that tests of the stage `answers` share.

In:  tests/answers/fakes.py.
Out: a world in which teacher and engine answer at once.
Does not know: any single test.
"""

from __future__ import annotations

import os

import pytest

from answers.fakes import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Teacher and engine replaced by fakes, and a disk that is done at once."""
    made = World()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr("potstill.models.teacher.find_teacher", made.find_teacher)
    monkeypatch.setattr("potstill.models.engine.Engine", made.open_engine)
    return made
