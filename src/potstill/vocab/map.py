"""Which teacher token each student token is.

In:  the kept teacher ids.
Out: `VocabMap`, and its file.
Does not know: tokenizers, text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from potstill.problem import Problem

MAP = "vocab_map.safetensors"
"""In the folder of the stage `vocab`, where the student's tokens are some of the teacher's."""


@dataclass(frozen=True)
class VocabMap:
    """Student id → teacher id.

    Args:
        teacher_ids: [V] int64, ascending; element i is the teacher's id of student token i.
    """

    teacher_ids: NDArray[np.int64]

    @classmethod
    def from_kept(cls, kept: Iterable[int]) -> VocabMap:
        """A map from ascending teacher ids."""
        return cls(np.fromiter(kept, dtype=np.int64))

    @classmethod
    def load(cls, path: Path) -> VocabMap:
        """Read a map. Raises: Problem where the file is missing or damaged."""
        try:
            return cls(load_file(path)["teacher_ids"])
        except (OSError, KeyError, SafetensorError) as error:
            raise Problem(f"{path}: not a vocabulary map ({error})", "Run the stage `vocab` again.") from None

    def save(self, path: Path) -> None:
        """Write the map as safetensors."""
        save_file({"teacher_ids": self.teacher_ids}, path, metadata={"format": "potstill vocab map 1"})

    @property
    def size(self) -> int:
        """V, the number of kept tokens."""
        return len(self.teacher_ids)
