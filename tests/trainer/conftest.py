"""Random models of several architectures on disk, prompts, and rewards without processes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from grpo_audit.config.run import RunConfig
from grpo_audit.config.sections import ModelConfig
from grpo_audit.prompts.loading import Prompt
from grpo_audit.rewards.runner import RowReward
from grpo_audit_trainer.policy import Policy, load_policy

CHARACTERS = "abcdefghijklmnopqrstuvwxyz 0123456789+-*=?.:\n"
SPECIAL = ["<pad>", "</s>", "<mark>"]
SHAPE = {
    "vocab_size": len(SPECIAL) + len(CHARACTERS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # large, so that tokens differ in probability
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen2": {"tie_word_embeddings": False},
    "llama": {"tie_word_embeddings": False},
    # soft-capped logits, and a window that the rows outgrow
    "gemma2": {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "cohere": {"logit_scale": 0.3},  # scaled logits
}
TRAINED = ("qwen2", "llama", "gemma2")


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<mark>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")


def save_model(folder: Path, architecture: str, seed: int = 0) -> Path:
    """A model of two layers with ragged completions: dimension 0 of the embedding is constant, and the end token's
    row of the output layer reads it, so that a completion ends with a probability of some percent at each token."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(architecture, **{**SHAPE, **ARCHITECTURES[architecture]})
    model = AutoModelForCausalLM.from_config(config)
    if not config.tie_word_embeddings:
        with torch.no_grad():
            model.get_input_embeddings().weight[:, 0] = 3.0
            model.get_output_embeddings().weight[1, 0] = 0.7
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Bits must not depend on the machine the tests run on."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an architecture, made once."""
    made: dict[str, Path] = {}

    def get(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = save_model(tmp_path_factory.mktemp(architecture), architecture)
        return made[architecture]

    return get


@pytest.fixture
def make_policy(model_folder: Callable[[str], Path]) -> Callable[..., Policy]:
    """Loads a fresh policy."""

    def make(architecture: str = "llama", **settings: Any) -> Policy:
        return load_policy(ModelConfig(path=str(model_folder(architecture)), device="cpu", **settings))

    return make


class LetterRewards:
    """Two sources, in process: the share of vowels, and a length that does not apply to odd rows."""

    def score(
        self, prompts: list[str], completions: list[str], columns: dict[str, list[object]]
    ) -> Sequence[RowReward]:
        assert len(prompts) == len(completions) == len(columns["level"])
        return [self._row(text) for text in completions]

    def _row(self, text: str) -> RowReward:
        vowels = sum(letter in "aeiou" for letter in text) / max(1, len(text))
        short = None if len(text) % 2 else 1.0
        return RowReward({"vowels": vowels, "short": short}, {}, round(vowels, 1))


class Prompts:
    """The rows of a prompt set; its identity is not the trainer's business."""

    def __init__(self, rows: Sequence[Prompt]) -> None:
        self.rows = tuple(rows)


def prompt_rows(count: int = 10) -> Prompts:
    """Prompts of different length."""
    rng = random.Random(0)
    texts = ["".join(rng.choices(CHARACTERS[:26], k=rng.randrange(3, 14))) + "=" for _ in range(count)]
    return Prompts([Prompt(f"p{index}", text, None, {"level": index}) for index, text in enumerate(texts)])


def run_config(path: Path | str, **sections: dict[str, Any]) -> RunConfig:
    """A small run; each keyword updates one section."""
    base: dict[str, dict[str, Any]] = {
        "model": {"path": str(path), "device": "cpu"},
        "prompts": {"source": "builtin"},
        "objective": {"kl": {"beta": 0.0, "measure_every": 2}},
        "sampling": {"group_size": 4, "prompts_per_step": 3, "max_completion_tokens": 20, "max_prompt_tokens": 16},
        "training": {
            "steps": 4,
            "learning_rate": 3e-3,
            "snapshot_every": 1,
            "keep_snapshots": 8,
            "microbatch_tokens": 120,
        },
    }
    merged: dict[str, Any] = {name: {**base.get(name, {}), **sections.get(name, {})} for name in base | sections}
    merged["rewards"] = [{"name": "vowels", "source": "rewards.py:vowels"}]
    merged["seed"] = sections.get("run", {}).get("seed", 0)
    merged.pop("run", None)
    return RunConfig.model_validate(merged)


@pytest.fixture
def prompts() -> Prompts:
    """Ten prompts."""
    return prompt_rows()


@pytest.fixture
def rewards() -> LetterRewards:
    """Rewards that differ within most groups."""
    return LetterRewards()


@pytest.fixture
def make_config(model_folder: Callable[[str], Path]) -> Callable[..., RunConfig]:
    """Builds configurations of small runs."""

    def make(architecture: str = "llama", **sections: dict[str, Any]) -> RunConfig:
        return run_config(model_folder(architecture), **sections)

    return make
