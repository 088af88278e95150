"""Packs installed: from a folder and over the wire, broken off and gone on, and everything that is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finished_pack_run import WebFolders

import potstill
from potstill.chat import usual_marks
from potstill.models import download
from potstill.pack import find_pack_model, install, is_pack, read_manifest
from potstill.pack.manifest import MANIFEST, SELF, own_hash
from potstill.problem import Problem
from potstill.progress import Silent
from potstill.run import Run
from potstill.serve import Settings, server

NAME = "tiny-rice-base-1"
MODEL = "tiny-rice-Q4_0.gguf"


@pytest.fixture
def copy(packs: dict[str, Path], tmp_path: Path) -> Path:
    """A pack that a test may damage."""
    return Path(shutil.copytree(packs["base"], tmp_path / "copy" / NAME))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda _: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object], rehash: bool = True) -> None:
    """Change the manifest, as somebody would who knows how its own hash is made."""
    fields = json.loads((folder / MANIFEST).read_text())
    change(fields)
    if rehash:
        fields[SELF] = own_hash(fields)
    (folder / MANIFEST).write_text(json.dumps(fields))


def test_from_a_folder(packs: dict[str, Path], home: Path) -> None:
    folder = install(packs["base"], home, Silent())

    assert folder == home / "packs" / NAME
    assert contents(folder) == contents(packs["base"])
    assert find_pack_model(Path(NAME), home) == folder / MODEL
    assert find_pack_model(folder, home) == folder / MODEL
    assert {path.name for path in (home / "packs").iterdir()} == {NAME, ".lock"}


@pytest.mark.parametrize("ending", ["", "/", "/manifest.json"])
def test_over_the_wire(packs: dict[str, Path], web: WebFolders, home: Path, ending: str) -> None:
    shutil.copytree(packs["base"], web.root / NAME)

    folder = install(f"{web.address}/{NAME}{ending}", home, Silent())

    assert contents(folder) == contents(packs["base"])
    assert web.asked[0] == (MANIFEST, None)


def test_a_broken_download_goes_on_where_it_was(packs: dict[str, Path], web: WebFolders, home: Path) -> None:
    shutil.copytree(packs["base"], web.root / NAME)
    web.breaks = [10_000, 0, 20_000, *[0] * download.ATTEMPTS]
    with pytest.raises(Problem, match=r"30,000 of [\d,]+ bytes are here\. Run the same command again"):
        install(f"{web.address}/{NAME}", home, Silent())
    assert not (home / "packs" / NAME).exists()
    assert find_pack_model(Path(NAME), home) is None
    web.asked.clear()

    folder = install(f"{web.address}/{NAME}", home, Silent())

    assert contents(folder) == contents(packs["base"])
    assert [wanted for name, wanted in web.asked if name == MODEL] == ["bytes=30000-"]
    assert [name for name, _ in web.asked if name == "LICENSE"] == []  # it had come whole before


def test_a_server_without_ranges_is_read_from_the_start(packs: dict[str, Path], web: WebFolders, home: Path) -> None:
    shutil.copytree(packs["base"], web.root / NAME)
    web.knows_ranges, web.breaks = False, [70_000]

    assert contents(install(f"{web.address}/{NAME}", home, Silent())) == contents(packs["base"])


def test_what_came_for_another_manifest_is_not_used(packs: dict[str, Path], copy: Path, home: Path) -> None:
    partial = home / "packs" / f"{NAME}.partial"
    partial.mkdir(parents=True)
    (partial / MANIFEST).write_text("{}")
    (partial / MODEL).write_bytes(b"something else")

    assert contents(install(copy, home, Silent())) == contents(packs["base"])


def test_installing_again_does_nothing_and_mends_what_is_damaged(packs: dict[str, Path], home: Path) -> None:
    folder = install(packs["base"], home, Silent())
    before = (folder / MODEL).stat().st_ino
    install(packs["base"], home, Silent())
    assert (folder / MODEL).stat().st_ino == before
    with (folder / MODEL).open("r+b") as file:
        file.seek(5000)
        file.write(b"\0\0\0\0")
    install(packs["base"], home, Silent())
    assert contents(folder) == contents(packs["base"])


def flip(folder: Path) -> None:
    content = bytearray((folder / MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / MODEL).write_bytes(content)


def truncate(folder: Path) -> None:
    (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:-1])


def lengthen(folder: Path) -> None:
    (folder / MODEL).write_bytes((folder / MODEL).read_bytes() + b"\0")


def remove(folder: Path) -> None:
    (folder / MODEL).unlink()


def wrong_hash(folder: Path) -> None:
    rewrite(folder, lambda fields: fields["files"][0].update(sha256="0" * 64))


def own_hash_wrong(folder: Path) -> None:
    rewrite(folder, lambda fields: fields["teacher"].update(licence="none"), rehash=False)


def no_own_hash(folder: Path) -> None:
    rewrite(folder, lambda fields: fields.pop(SELF), rehash=False)


def newer(folder: Path) -> None:
    rewrite(folder, lambda fields: fields.update(format_version=2))


def another_format(folder: Path) -> None:
    rewrite(folder, lambda fields: fields.update(format="recipe"))


def unknown_key(folder: Path) -> None:
    rewrite(folder, lambda fields: fields.update(run_this="setup.py"))


def not_json(folder: Path) -> None:
    (folder / MANIFEST).write_text("<html>404</html>")


def huge(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b" " * (2 << 20) + (folder / MANIFEST).read_bytes())


def twice(folder: Path) -> None:
    rewrite(folder, lambda fields: fields["files"].append({**fields["files"][0], "name": "license"}))


def model_not_listed(folder: Path) -> None:
    rewrite(folder, lambda fields: fields.update(model="other.gguf"))


def no_model(folder: Path) -> None:
    rewrite(folder, lambda fields: fields.update(model="LICENSE"))


def lists_itself(folder: Path) -> None:
    rewrite(folder, lambda fields: fields["files"].append({**fields["files"][0], "name": MANIFEST}))


def negative(folder: Path) -> None:
    rewrite(folder, lambda fields: fields["files"][0].update(bytes=-1))


BOTH_WAYS = [
    (flip, "not what the manifest promises"),
    (remove, "missing|404"),
    (wrong_hash, "not what the manifest promises"),
    (own_hash_wrong, "its own hash is wrong"),
    (no_own_hash, "its own hash is wrong"),
    (newer, "format version 2; this potstill knows 1"),
    (another_format, "not a pack's manifest"),
    (unknown_key, "run_this"),
    (not_json, "not JSON"),
    (huge, "larger than any manifest"),
    (twice, "listed twice"),
    (model_not_listed, "not among the files"),
    (no_model, "no GGUF"),
    (lists_itself, "lists itself"),
    (negative, "greater than or equal to 0"),
    (truncate, "bytes"),
]


@pytest.mark.parametrize("way", ["folder", "web"])
@pytest.mark.parametrize(("damage", "words"), BOTH_WAYS, ids=[damage.__name__ for damage, _ in BOTH_WAYS])
def test_what_is_damaged_or_forged_is_refused(
    damage: Callable[[Path], None], words: str, way: str, copy: Path, web: WebFolders, home: Path
) -> None:
    damage(copy)
    place: str | Path = copy
    if way == "web":
        copy.rename(web.root / NAME)
        place = f"{web.address}/{NAME}"

    with pytest.raises(Problem, match=words):
        install(place, home, Silent())

    assert not (home / "packs" / NAME).exists()


def test_a_file_that_grew_is_refused(copy: Path, web: WebFolders, home: Path) -> None:
    lengthen(copy)
    with pytest.raises(Problem, match="its manifest says"):
        install(copy, home, Silent())
    copy.rename(web.root / NAME)
    with pytest.raises(Problem, match=r"the file there has [\d,]+ bytes, not"):
        install(f"{web.address}/{NAME}", home, Silent())
    assert not (home / "packs" / NAME).exists()


CLIMBING = [
    "../evil",
    "/tmp/evil",
    "a/b",
    "..\\evil",
    "C:evil",
    "..",
    ".",
    "",
    ".hidden",
    "evil\n",
    "nul",
    "a\0b",
    "x" * 300,
]


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize("field", ["file", "model", "name", "version"])
def test_a_name_that_leaves_its_folder_is_refused(copy: Path, home: Path, name: str, field: str) -> None:
    def climb(fields: dict[str, Any]) -> None:
        if field == "file":
            fields["files"][0]["name"] = name
        else:
            fields[field] = name

    rewrite(copy, climb)
    with pytest.raises(Problem):
        install(copy, home, Silent())
    assert not home.exists() or list((home / "packs").iterdir()) == []
    assert not (copy.parent / "evil").exists()


@pytest.mark.parametrize("name", [MODEL, MANIFEST])
def test_a_link_is_refused(copy: Path, home: Path, tmp_path: Path, name: str) -> None:
    (copy / name).rename(tmp_path / "elsewhere")
    (copy / name).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(Problem, match="link, which may lead anywhere"):
        install(copy, home, Silent())


def test_a_file_that_is_not_listed_is_refused(copy: Path, home: Path) -> None:
    (copy / "setup.py").write_text("print('run me')")

    with pytest.raises(Problem, match=r"'setup\.py', which its manifest does not list"):
        install(copy, home, Silent())


@pytest.mark.parametrize("address", ["ftp://example.com/pack", "file:///etc", "javascript://x"])
def test_other_addresses_are_refused(home: Path, address: str) -> None:
    with pytest.raises(Problem, match="over http or https"):
        install(address, home, Silent())


def test_nobody_at_home(home: Path, web: WebFolders, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="404"):
        install(f"{web.address}/nothing", home, Silent())
    with pytest.raises(Problem, match="missing"):
        install(tmp_path / "nothing", home, Silent())


def test_a_pack_that_was_damaged_after_its_installation_is_not_loaded(packs: dict[str, Path], home: Path) -> None:
    folder = install(packs["base"], home, Silent())
    assert find_pack_model(folder, home)
    flip(folder)
    os.utime(folder / MODEL, ns=(1, 1))
    with pytest.raises(Problem, match="damaged"):
        find_pack_model(folder, home)
    remove(folder)
    with pytest.raises(Problem, match="missing"):
        find_pack_model(folder, home)


def test_what_is_no_pack_is_none(finished_run: Any, home: Path, tmp_path: Path) -> None:
    assert not is_pack(finished_run.folder)  # it has a manifest.json, too
    assert find_pack_model(finished_run.folder, home) is None
    assert find_pack_model(tmp_path, home) is None
    assert find_pack_model(Path("no-such-pack"), home) is None
    (tmp_path / MANIFEST).write_text("{")
    assert not is_pack(tmp_path)
    with pytest.raises(Problem, match="not a pack"):
        read_manifest(finished_run.folder / "export")


OFFLINE = """
import errno, socket, sys
from pathlib import Path
import pyseccomp as seccomp
rules = seccomp.SyscallFilter(seccomp.ALLOW)
rules.add_rule(seccomp.ERRNO(errno.EPERM), "socket", seccomp.Arg(0, seccomp.NE, socket.AF_UNIX))
rules.load()
try:
    socket.socket(socket.AF_INET)
    sys.exit("the network is on")
except PermissionError:
    pass
from potstill.models.engine import Engine, Sampling, default_threads
from potstill.pack import find_pack_model
model = find_pack_model(Path(sys.argv[1]), Path(sys.argv[2]))
with Engine(model, context=64, slots=1, threads=default_threads(1)) as engine:
    reply = engine.reply([{"role": "user", "content": "hello"}], Sampling(0.0, 1.0, 0, 1, 8, 1.0))
print(reply.tokens)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
def test_an_installed_pack_answers_with_the_network_off(copy: Path, home: Path) -> None:
    pytest.importorskip("pyseccomp", exc_type=(ImportError, RuntimeError))
    install(copy, home, Silent())
    shutil.rmtree(copy)
    environment = {**os.environ, "PYTHONPATH": str(Path(potstill.__file__).parents[1])}

    finished = subprocess.run(
        [sys.executable, "-c", OFFLINE, NAME, str(home)],
        capture_output=True, text=True, env=environment, timeout=60, check=False,
    )  # fmt: skip

    assert (finished.returncode, finished.stderr) == (0, "")
    assert int(finished.stdout) > 0


def test_a_pack_is_shown_with_full_width_marks(
    packs: dict[str, Path], finished_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the terminal and behind a server, unless somebody chose otherwise."""
    served: list[Settings] = []

    def stop(models: object, settings: Settings) -> None:
        served.append(settings)
        raise Problem("far enough", "")

    monkeypatch.setattr(server, "create_app", stop)
    gguf = next(packs["base"].glob("*.gguf"))
    for place, wanted in ((packs["base"], None), (gguf, None), (finished_run.folder, None), (packs["base"], "keep")):
        with pytest.raises(Problem, match="far enough"):
            server.serve(place, Settings(port=0, marks=wanted))
    assert [one.marks for one in served] == ["full", "keep", "keep", "keep"]
    assert [usual_marks(place) for place in (packs["base"], gguf)] == ["full", "keep"]
