"""Each peer's own Python: the libraries that we are measured with beneath, its own on top.

In:  a folder, the peer's name.
Out: its interpreter, made with pip on the first call and kept; or the reason why it cannot be had.
Does not know: what the peer is asked to do.

PyTorch, Transformers and whatever else a peer accepts at our version is looked up where ours lies, so that nobody is
measured with another PyTorch, and a peer costs seconds and megabytes. What it wants otherwise is installed on top.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from potstill.run import write_text

DISTILLKIT = "https://github.com/arcee-ai/DistillKit"
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "trl": ("trl==1.16.0",),
    "soup": ("soup-cli[train]==0.77.0",),
    # Its wheel lacks `distillkit.signals`, which its own modules import, so it is installed as its README does it.
    # Transformers 4 would read our checkpoints' `rope_parameters` as something else, without a word.
    "distillkit": (f"--editable=git+{DISTILLKIT}#egg=distillkit", "transformers>=5"),
}


class Unavailable(Exception):
    """A peer that this machine cannot have; the text is one line that says why."""


def python_of(peer: str, folder: Path) -> Path:
    """The interpreter of a peer's environment under `folder`; made where it is not there yet.

    Raises: Unavailable where pip cannot install the peer. The reason is kept, and delivered again until it is removed.
    """
    place = folder / peer
    python, ready, refused = place / "bin" / "python", place / ".ready", folder / f"{peer}.refused"
    ours = sysconfig.get_path("purelib")
    wanted = "\n".join([*REQUIREMENTS[peer], ours])
    if ready.exists() and ready.read_text() == wanted:
        return python
    if refused.exists():
        raise Unavailable(f"{refused.read_text().strip()} (remove {refused.name} to try again)")
    shutil.rmtree(place, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    # A line of a .pth file comes behind the environment's own packages: what pip installs there is found first.
    own = sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)})
    write_text(Path(own) / "ours.pth", f"{ours}\n")
    _install(python, REQUIREMENTS[peer], refused)
    write_text(ready, wanted)
    return python


def _install(python: Path, arguments: Sequence[str], refused: Path) -> None:
    # Our pip installs for the other Python, and leaves alone what lies outside of that one's environment.
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    done = subprocess.run([*pip, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines()]
        told = [line for line in lines if "fatal:" in line] or [line for line in lines if line.startswith("ERROR")]
        reason = (told or lines or ["pip said nothing"])[0]
        write_text(refused, f"not installable here: {reason}\n")
        raise Unavailable(f"not installable here: {reason}")
