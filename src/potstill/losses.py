"""Divergences between what the teacher and the student expect, and the distance between their hidden states.

In:  logits, sparse signals or hidden states of the same N answer positions.
Out: one value a position, or its mean, in nats (cosine: dimensionless).
Does not know: tokens, batches, padding, models, files.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def forward_kl(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """T² · KL(p_T ‖ q_T) at each position.

    Args:
        teacher_logits: [N, V], any float dtype.
        student_logits: [N, V], same V; gradients flow through it alone.
        temperature: > 0; softens both sides.

    Returns: [N] float32, nats, >= 0, and 0 exactly where the two are equal.
    Raises: ValueError where shapes differ.
    Source: Hinton et al. 2015, arXiv:1503.02531.
    """
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(f"teacher {tuple(teacher_logits.shape)} and student {tuple(student_logits.shape)} differ")
    teacher = functional.log_softmax(teacher_logits.detach().float() / temperature, dim=-1)
    student = functional.log_softmax(student_logits.float() / temperature, dim=-1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=-1)


def bucket_kl(
    ids: Tensor, log_probabilities: Tensor, rest: Tensor, student_logits: Tensor, temperature: float
) -> Tensor:
    """T² · KL over K tokens and one bucket that holds all others, at each position.

    The teacher is never renormalised over its top-k: at T = 3 they hold under a tenth of its probability.

    Args:
        ids: [N, K] the teacher's likeliest tokens.
        log_probabilities: [N, K] their log-probabilities at T = 1.
        rest: [N] log Σ exp(log-probability / T) over all other tokens at *this* temperature; -inf where K = V.
        student_logits: [N, V]; gradients flow through it alone.
        temperature: > 0.

    Returns: [N] float32, nats, >= 0; equal to `forward_kl` where K = V.
    Source: the tail as one exact bucket, against the bias of plain top-k, arXiv:2503.16870.
    """
    scaled = log_probabilities.detach().float() / temperature
    normaliser = torch.logaddexp(scaled.logsumexp(dim=-1), rest.float())
    teacher, teacher_rest = scaled - normaliser[:, None], rest.float() - normaliser
    student = functional.log_softmax(student_logits.float() / temperature, dim=-1)
    kept = student.gather(1, ids.long())
    divergence = (teacher.exp() * (teacher - kept)).sum(dim=-1)
    if ids.shape[1] < student_logits.shape[1]:
        outside = student.scatter(1, ids.long(), float("-inf")).logsumexp(dim=-1)
        divergence = divergence + teacher_rest.exp() * (teacher_rest - outside)
    return temperature**2 * divergence


def hidden_cosine(student_states: Tensor, teacher_states: Tensor) -> Tensor:
    """1 − cos between hidden states of the same width, at each position.

    Args:
        student_states: [N, D], already mapped to the teacher's width.
        teacher_states: [N, D]; no gradient flows into it.

    Returns: [N] float32 in [0, 2], 0 where the directions agree.
    Source: DistilBERT's cosine term, arXiv:1910.01108; FitNets' hints, arXiv:1412.6550.
    """
    return 1.0 - functional.cosine_similarity(student_states.float(), teacher_states.detach().float(), dim=-1)
