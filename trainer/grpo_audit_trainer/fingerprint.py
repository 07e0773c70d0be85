"""A cheap fingerprint of the weights: a strided sample of every tensor.

It shows that two runs are at the same weights after a step, and where they part; it does not replace the full digest,
which is taken at snapshots.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn

SAMPLES = 64
"""Elements taken of each tensor."""


def fingerprint(model: nn.Module) -> str:
    """``sha256:`` over name, shape and up to 64 evenly spaced elements (as float32) of each parameter, in order of
    name."""
    digest = hashlib.sha256()
    parameters = sorted(model.named_parameters())
    with torch.no_grad():
        parts = [_sample(parameter) for _, parameter in parameters]
        # one transfer for all tensors: each would be a wait for the device
        sampled = torch.cat(parts).cpu().numpy().astype("<f4").tobytes()
    for name, parameter in parameters:
        digest.update(f"{name}{tuple(parameter.shape)};".encode())
    digest.update(sampled)
    return f"sha256:{digest.hexdigest()}"


def _sample(parameter: nn.Parameter) -> torch.Tensor:
    stride = max(1, -(-parameter.numel() // SAMPLES))
    return parameter.detach().reshape(-1)[::stride].to(torch.float32)
