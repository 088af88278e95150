"""What lies beside a pack: what file managers leave in it, ratings that stay out of it, other packs that are named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from potstill.chat import find_models
from potstill.evaluate.naturalness import ratings_file
from potstill.pack import install
from potstill.problem import Problem
from potstill.progress import Silent
from potstill.serve import Settings, server
from potstill.serve.rating_store import RatingStore

NAME = "tiny-rice-base-1"
MODEL = "tiny-rice-Q4_0.gguf"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty POTSTILL_HOME, and a working folder of the test's own."""
    monkeypatch.setenv("POTSTILL_HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini"])
def test_what_a_file_manager_leaves_is_neither_refused_nor_copied(
    packs: dict[str, Path], home: Path, tmp_path: Path, name: str
) -> None:
    looked_at = Path(shutil.copytree(packs["base"], tmp_path / "looked-at"))
    (looked_at / name).write_bytes(b"icons")

    folder = install(looked_at, home, Silent())

    assert contents(folder) == contents(packs["base"])
    (folder / name).write_bytes(b"icons")
    before = (folder / MODEL).stat().st_ino
    install(looked_at, home, Silent())
    assert (folder / MODEL).stat().st_ino == before  # it still counts as whole


def test_ratings_of_a_pack_stay_out_of_it(
    packs: dict[str, Path], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it could not be installed any more, and installing it again would remove what people said."""
    files: list[Path] = []

    def stop(models: object, settings: Settings) -> None:
        assert settings.ratings_file is not None
        files.append(settings.ratings_file)
        RatingStore(settings.ratings_file, ("student", "teacher"), ["?"], 1).close()
        raise Problem("far enough", "")

    monkeypatch.setattr(server, "create_app", stop)
    before = contents(packs["base"])
    installed = install(packs["base"], home, Silent())
    lone = Path(shutil.copy(packs["base"] / MODEL, tmp_path))
    for place in (packs["base"], packs["base"] / MODEL, Path(NAME), lone):
        with pytest.raises(Problem, match="far enough"):
            server.serve(place, Settings(port=0, rating=tmp_path / "rating.toml"))

    assert files == [*[ratings_file(home / "ratings", lone)] * 3, ratings_file(tmp_path, lone)]
    assert all(file.is_file() for file in files)
    assert contents(packs["base"]) == contents(installed) == before
    assert list(Path().iterdir()) == []


def test_a_name_that_is_none_is_answered_with_the_installed_packs(
    packs: dict[str, Path], home: Path, tmp_path: Path
) -> None:
    for place in (Path("tiny-rice-base-2"), tmp_path / "typo.gguf", tmp_path):
        with pytest.raises(Problem, match=r"neither a run folder, a pack .* nor a GGUF.*potstill install PACK"):
            find_models(place)
    folder = install(packs["base"], home, Silent())
    shutil.copytree(folder, folder.with_name("other-base-1.partial"))

    with pytest.raises(Problem, match=rf"^tiny-rice-base-2 is neither .* Installed packs: {NAME}\.$"):
        find_models(Path("tiny-rice-base-2"))
