"""Real servers with tiny models behind them.

In:  the tiny GGUFs.
Out: `start` starts one with any settings; `served` is one that tests share.
Does not know: any single test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tiny_server import Served, Start, running

from potstill.serve.settings import Settings


@pytest.fixture(scope="session")
def tiny_models(tiny_ggufs: dict[str, Path]) -> dict[str, Callable[[], Path]]:
    """Two names, two files."""
    return {"student": lambda: tiny_ggufs["F16"], "student-Q8_0": lambda: tiny_ggufs["Q8_0"]}


@pytest.fixture(scope="session")
def served(tiny_models: dict[str, Callable[[], Path]]) -> Iterator[Served]:
    with running(tiny_models, Settings(port=0, context=256, max_tokens=200)) as started:
        yield started


@pytest.fixture
def start(tiny_models: dict[str, Callable[[], Path]]) -> Iterator[Start]:
    """`start(slots=1, …)`: a server of the test's own."""
    with ExitStack() as stack:

        def starting(models: Mapping[str, Callable[[], Path]] | None = None, **settings: Any) -> Served:
            chosen = Settings(**{"port": 0, "context": 256, "max_tokens": 200, **settings})
            return stack.enter_context(running(models or tiny_models, chosen))

        yield starting
