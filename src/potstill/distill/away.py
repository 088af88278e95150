"""A training that outlives its machine: all that is needed to go on is kept in storage at every checkpoint.

In:  the stage's folder while it trains; its storage.
Out: states in storage, the last two; the newest one back in an empty folder.
Does not know: what a checkpoint holds, what else the folder holds.

A state is the whole folder with its newest checkpoint: the log, the scales of the finish and what companions noted fit
that checkpoint only as they are now. While an adapter is trained, the finished student is in it too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from potstill.storage import FETCHING, Storage, files_of

KEPT = 2
"""States kept: the one before is used where the newest is damaged."""
_PREFIX, _CHECKPOINT = "state-", "checkpoint-"
_SUFFIXES = (".safetensors", ".json", ".jsonl", ".jinja")
"""What a state is made of. Trainer pickles the scale of float16 gradients; it is found anew in a few steps."""


def bring_back(storage: Storage, folder: Path) -> None:
    """Put the newest state that is whole into a folder in which no training has come anywhere yet."""
    begun = (folder / "report.json").exists() or any(folder.rglob(f"{_CHECKPOINT}*"))
    if begun and not (folder / FETCHING).exists():
        return
    for name in reversed(_states(storage)):
        if storage.fetch([name], folder):
            storage.progress.say(f"distill goes on from {name} in {storage.url}")
            return


class Away(TrainerCallback):
    """Keeps a state whenever Trainer has written a checkpoint.

    Args:
        storage: of the stage. folder: of the stage, with the checkpoint anywhere in it. tell: shows what is under way.
    """

    def __init__(self, storage: Storage, folder: Path, tell: Callable[[str], None]) -> None:
        self.storage, self.folder, self.tell = storage, folder, tell

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A checkpoint has been written, and those that are too old removed."""
        newest = f"{_CHECKPOINT}{state.global_step}"
        self.tell(f"{newest} goes to storage")
        earlier = _states(self.storage)
        number = int(earlier[-1].removeprefix(_PREFIX)) + 1 if earlier else 1
        self.storage.put(f"{_PREFIX}{number:06d}", self.folder, [*filter(self._belongs(newest), files_of(self.folder))])
        self.storage.remove(earlier[: 1 - KEPT])

    def _belongs(self, newest: str) -> Callable[[Path], bool]:
        def to_it(path: Path) -> bool:
            inside = path.relative_to(self.folder).parts
            return path.suffix in _SUFFIXES and all(p == newest or not p.startswith(_CHECKPOINT) for p in inside)

        return to_it


def _states(storage: Storage) -> list[str]:
    """From the oldest to the newest."""
    return [name for name in storage.names() if name.startswith(_PREFIX)]
