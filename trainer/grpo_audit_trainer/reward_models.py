"""A sequence-classification reward model as a reward source, from a local folder or the hub.

It runs in its own process like every other source (``grpo_audit.rewards``), so it holds memory of its own; where the
policy fills the GPU, choose ``device: cpu``. The digest of its weights goes into the record.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from grpo_audit.config.sections import ModelConfig
from grpo_audit.errors import GrpoAuditError
from grpo_audit.record.identity import weights_digest
from grpo_audit_trainer.pretrained import dropout_off, load_tokenizer, quiet, resolve_folder

KIND = "reward model"
VERSION = "1"
DOMAIN = "what the reward model was trained to prefer"

Device = Literal["auto", "cpu", "cuda"]
Chat = Literal["auto", "never"]
Precision = Literal["float32", "bfloat16"]
_MAX_TOKENS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A loaded reward model."""

    model: Any
    tokenizer: Any
    device: str
    pad: int


def score(
    prompts: list[str],
    completions: list[str],
    *,
    model: str,
    revision: str | None = None,
    device: Device = "auto",
    precision: Precision = "float32",
    batch_size: int = 8,
    max_tokens: int = 4096,
    label: int = 0,
    chat: Chat = "auto",
    base_dir: str = ".",
) -> list[float | Exception]:
    """The logit of one label for each prompt with its completion; unbounded, in the model's own units.

    Args:
        prompts: the prompts, as in the prompt set.
        completions: one text a row.
        model: a folder (relative to the recipe) or a hub id.
        revision: commit, tag or branch on the hub.
        device: ``auto`` takes CUDA when there is one.
        precision: of the weights.
        batch_size: rows at the same time; shorter rows are filled up at the right.
        max_tokens: a longer row is an error, never cut.
        label: which output counts, from 0; reward models have one.
        chat: ``auto`` uses the tokenizer's chat template when it has one: prompt from the user, completion from the
            assistant.
        base_dir: folder of the recipe.
    """
    loaded = _load(model, revision, device, precision, base_dir)
    ids = [_ids(loaded.tokenizer, prompt, text, chat) for prompt, text in zip(prompts, completions, strict=True)]
    rewards: list[float | Exception] = [
        ValueError(f"{len(row)} tokens; the reward model reads up to {max_tokens}") for row in ids
    ]
    # rows of like length together: less padding
    readable = sorted((i for i, row in enumerate(ids) if 0 < len(row) <= max_tokens), key=lambda i: len(ids[i]))
    for start in range(0, len(readable), batch_size):
        chosen = readable[start : start + batch_size]
        for index, value in zip(chosen, _logits(loaded, [ids[i] for i in chosen], label), strict=True):
            rewards[index] = value
    return rewards


def _logits(loaded: RewardModel, rows: list[list[int]], label: int) -> list[float]:
    longest = max(map(len, rows))
    tokens = torch.full((len(rows), longest), loaded.pad)
    mask = torch.zeros_like(tokens)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    with torch.inference_mode():
        output = loaded.model(input_ids=tokens.to(loaded.device), attention_mask=mask.to(loaded.device))
    return [float(value) for value in output.logits[:, label].float().cpu()]


def _ids(tokenizer: Any, prompt: str, completion: str, chat: Chat) -> list[int]:
    # a lone surrogate has no tokens
    prompt, completion = (text.encode("utf-8", "replace").decode() for text in (prompt, completion))
    if chat == "auto" and tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(tokenizer(prompt + completion)["input_ids"])


@lru_cache(maxsize=1)
def _load(path: str, revision: str | None, device: Device, precision: Precision, base_dir: str) -> RewardModel:
    """Raises GrpoAuditError, ValueError."""
    folder = resolve_folder(ModelConfig(path=path, revision=revision), Path(base_dir))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    named = config.architectures or []
    if not any(name.endswith("ForSequenceClassification") for name in named):
        raise ValueError(f"{path} is no reward model: found {', '.join(named) or 'no architecture'}; "
                         "expected a ...ForSequenceClassification")  # fmt: skip
    tokenizer = load_tokenizer(folder, path)
    with quiet():
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, precision),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if report["missing_keys"]:
        raise ValueError(f"{path} lacks weights: {', '.join(sorted(report['missing_keys']))[:120]}")
    dropout_off(model)
    candidates = (tokenizer.pad_token_id, config.pad_token_id, tokenizer.eos_token_id)
    pad = next((item for item in candidates if item is not None), 0)
    model.config.pad_token_id = pad  # decoders find the last token of a row by it
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return RewardModel(model.to(place).eval(), tokenizer, place, pad)


def _on_load(
    model: str,
    revision: str | None,
    device: Device,
    precision: Precision,
    batch_size: int,
    max_tokens: int,
    label: int,
    base_dir: str,
) -> dict[str, str]:
    if batch_size < 1 or not 1 <= max_tokens <= _MAX_TOKENS:
        raise ValueError(f"expected 'batch_size' of 1 or more and 'max_tokens' from 1 to {_MAX_TOKENS}")
    try:
        loaded = _load(model, revision, device, precision, base_dir)
    except GrpoAuditError as error:
        raise ValueError(str(error).rstrip(".")) from error
    if not 0 <= label < loaded.model.config.num_labels:
        raise ValueError(f"option 'label' is {label}; the model has {loaded.model.config.num_labels} outputs")
    folder = resolve_folder(ModelConfig(path=model, revision=revision), Path(base_dir))
    return {"weights_digest": weights_digest(folder), "device": loaded.device, "precision": precision}


ON_LOAD = {"score": _on_load}
