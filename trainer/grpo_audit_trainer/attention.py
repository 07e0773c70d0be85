"""Attention in float32 under bfloat16 autocast, for CPUs.

Matrix products are about twice as fast in bfloat16 on a CPU with AVX-512 BF16, but torch's attention kernels for CPUs
are slower in it: forward 1.7 times while decoding, backward 2.6 times (one core, 200 rows, 4 heads of 64). So the
products stay in bfloat16, and attention, like the cache it reads while decoding, is float32.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME: Final = "sdpa_float32"


def float32_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' scaled dot product attention, in float32; the result has the type of ``query``."""
    with torch.autocast(query.device.type, enabled=False):
        output, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **kwargs)
    return output.to(query.dtype), None


def use_float32_attention(model: Any) -> None:
    """Switch a model over, when it uses scaled dot product attention; others compute it out of single products."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, float32_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def uses_float32_attention(model: Any) -> bool:
    """Whether the model was switched over."""
    return bool(model.config._attn_implementation == NAME)
