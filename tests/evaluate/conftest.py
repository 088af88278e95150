"""The walls that programs are tried in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confined import KINDS, LIMITS

from potstill.evaluate import sandbox
from potstill.evaluate.sandbox import Confinement, run_python


@pytest.fixture(params=KINDS)
def walls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Confinement]:
    """Each kind of wall that this machine gives, in turn; afterwards, all must be as it was."""
    found = KINDS[request.param]
    if not found.available:
        pytest.skip(f"no confinement: {found.reason}")
    monkeypatch.setattr(sandbox, "confinement", lambda: found)
    yield found
    assert run_python("print(6 * 7)", LIMITS).stdout == "42\n"
