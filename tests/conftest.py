"""Fixtures every test may use: a tiny checkpoint, its tokenizer, and the same model as GGUF.

In:  tests/tiny.py.
Out: session-scoped paths and objects; nobody writes into them.
Does not know: any single test.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from potstill.progress import Silent
from tiny import build_tokenizer, save_checkpoint

torch.set_num_threads(1)  # tiny models: several threads only wait for each other


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """A thread that keeps Python from ending is named after a minute, instead of holding CI for hours."""
    faulthandler.dump_traceback_later(60, exit=True)


@pytest.fixture(scope="session", autouse=True)
def _home_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever runs the tests keeps their own teachers and hashes untouched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POTSTILL_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Transformers folder with a random tiny Qwen2 chat model and its tokenizer."""
    return save_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny tokenizer alone."""
    folder = tmp_path_factory.mktemp("tiny") / "tokenizer"
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer as an object."""
    return build_tokenizer()


@pytest.fixture
def tiny_model(tiny_checkpoint: Path) -> PreTrainedModel:
    """The tiny model, loaded afresh for every test (tests may change it)."""
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype="float32").eval()


@pytest.fixture(scope="session")
def tiny_ggufs(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny checkpoint as GGUF, by quantisation: F16 and Q8_0."""
    from potstill.models.gguf import write_gguf

    folder = tmp_path_factory.mktemp("tiny-gguf")
    paths = {quantisation: folder / f"tiny-{quantisation}.gguf" for quantisation in ("F16", "Q8_0")}
    for quantisation, path in paths.items():
        write_gguf(tiny_checkpoint, path, quantisation, metadata={}, progress=Silent())
    return paths


@pytest.fixture(scope="session")
def tiny_gguf(tiny_ggufs: dict[str, Path]) -> Path:
    """The tiny checkpoint as an F16 GGUF."""
    return tiny_ggufs["F16"]


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An address of fsspec's: in this process's memory, and of a folder."""
    from fsspec.implementations.memory import MemoryFileSystem

    yield f"memory://{tmp_path.name}" if request.param == "memory" else (tmp_path / "away").as_uri()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
