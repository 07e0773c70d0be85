"""What the objective adds to a reward. Pure functions of the completion lengths."""

from __future__ import annotations

from collections.abc import Sequence


def soft_overlong(lengths: Sequence[int], max_tokens: int, soft_tokens: int) -> list[float]:
    """Soft overlong punishment of each completion, from 0 down to -1.

    With |y| tokens, L = ``max_tokens`` and C = ``soft_tokens``, both in tokens (DAPO, arXiv 2503.14476, eq. 13):

        0 where |y| <= L - C,    (L - C - |y|) / C where L - C < |y| <= L,    -1 above

    Raises ValueError unless 0 < C < L.
    """
    if not 0 < soft_tokens < max_tokens:
        raise ValueError(f"soft_tokens must lie between 0 and max_tokens = {max_tokens}, found {soft_tokens}")
    free = max_tokens - soft_tokens
    return [-min(max(length - free, 0), soft_tokens) / soft_tokens for length in lengths]
