"""What the teacher would say in tokens that the student lacks, told by the pieces the student begins them with.

In:  states after the teacher's last norm; its head's rows of the tokens that the student lacks.
Out: at each position the likeliest of them, as logits of the student's tokens that they begin with.
Does not know: tokenizers, files, training.

Left out, their probability is shared out among all that the student has: where the teacher means `(domain`, and the
student has `(` and `domain`, a space before the word would be next in line, and `print domain` what it learns to write.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from potstill.vocab.map import VocabMap

CHUNK = 128
"""Rows at a time: 61 MB of logits for the 119,000 tokens that a 32K student of Qwen lacks."""


@dataclass(frozen=True)
class Begun:
    """The likeliest tokens that the student lacks, at N positions.

    Args:
        firsts: [N, K] student tokens that they begin with. logits: [N, K] of all that begin with the same one together,
            so equal tokens of a position have equal logits.
    """

    firsts: Tensor
    logits: Tensor

    def at(self, rows: slice) -> Begun:
        """Those positions alone."""
        return Begun(self.firsts[rows], self.logits[rows])

    def added_to(self, logits: Tensor) -> Tensor:
        """[n, V] with their probability where it belongs; `logits` of the same positions, changed in place."""
        own = logits.gather(1, self.firsts)
        return logits.scatter_(1, self.firsts, torch.logaddexp(own.float(), self.logits.float()).to(logits.dtype))


@dataclass(frozen=True)
class Missing:
    """The tokens that the student lacks.

    Args:
        head: [M, D] the teacher's head over them. firsts: [M] the student's token that each begins with.
        most: K, how many of them are told at a position, the likeliest.
    """

    head: Tensor
    firsts: Tensor
    most: int

    @classmethod
    def of(cls, head: Tensor, vocabulary: VocabMap, most: int) -> Missing | None:
        """From the teacher's whole head [U, D]; None where nothing is missing, or nothing of it is wanted."""
        lacking = torch.from_numpy(vocabulary.lacking)
        if not most or not len(lacking):
            return None
        return cls(head[lacking], torch.from_numpy(vocabulary.firsts)[lacking], min(most, len(lacking)))

    @torch.inference_mode()
    def begun(self, hidden: Tensor) -> Begun:
        """Of states [N, D]."""
        firsts, logits = [], []
        for part in hidden.split(CHUNK):
            top = (part.to(self.head.dtype) @ self.head.T).float().topk(self.most, dim=-1)
            begins = self.firsts[top.indices]
            alike = begins[:, :, None] == begins[:, None, :]
            firsts.append(begins)
            logits.append(top.values[:, None, :].where(alike, float("-inf")).logsumexp(dim=-1))
        return Begun(torch.cat(firsts), torch.cat(logits))


def encode_begun(begun: Begun) -> dict[str, Tensor]:
    """As arrays for the disk: `begun` int32 [N, K], `begun.logits` float16 [N, K]."""
    return {"begun": begun.firsts.int(), "begun.logits": begun.logits.half()}


def decode_begun(arrays: dict[str, Tensor]) -> Begun:
    """From `encode_begun`."""
    return Begun(arrays["begun"].long(), arrays["begun.logits"])
