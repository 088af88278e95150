"""Fixtures: a finished run, its packs, a web server.

In:  finished_pack_run.py.
Out: session-scoped folders nobody writes into; a server a test.
Does not know: any single test.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from finished_pack_run import WebFolders, build_run

from potstill.pack import pack
from potstill.run import Run


@pytest.fixture(scope="session")
def finished_run(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build_run(tmp_path_factory.mktemp("packing") / "run", tiny_checkpoint)


@pytest.fixture(scope="session")
def packs(finished_run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run's packs by kind."""
    base, pro = pack(finished_run, tmp_path_factory.mktemp("packs"))
    return {"base": base, "pro": pro}


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebFolders]:
    root = tmp_path / "web"
    root.mkdir()
    served = WebFolders(root)
    thread = threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join()
