"""The built-in miniature of grpo-audit: a synthetic world, a tiny language model pre-trained on it, and its prompts.

It exists so that the whole pipeline can be tried in minutes on two CPU cores. Nothing about the model is useful
outside that demonstration; see `model/README.md`.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

MODEL_DIR: Path = _HERE / "model"
"""Folder of the model: safetensors, tokenizer, generation settings, card."""
PROMPTS: Path = _HERE / "data" / "rl_train.jsonl"
"""Countdown prompts to train on; fields `id`, `prompt`, `numbers`, `target`."""
HELD_OUT: Path = _HERE / "data" / "held_out.jsonl"
"""Countdown prompts that neither pre-training, nor RL, nor the evaluation suite uses; same fields."""
RECIPE: Path = _HERE / "recipes" / "demo.yaml"
"""The demonstration: what `grpo-audit run` runs when no recipe is named."""

__all__ = ["HELD_OUT", "MODEL_DIR", "PROMPTS", "RECIPE"]
