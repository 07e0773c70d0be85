"""A tiny policy with random weights, and suites loaded from the assets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grpo_audit.config.sections import EvaluationConfig, ModelConfig
from grpo_audit_evals.suite import Suite, load_suite
from grpo_audit_trainer.policy import Policy, load_policy

ASSETS = Path(__file__).parent / "assets"
CHARACTERS = "abcdefghijklmnopqrstuvwxyz =\n0123456789?:<>/"
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def save_tiny_model(folder: Path, *, seed: int, chat: bool = False, context: int = 128) -> Path:
    """A Llama of some thousand parameters and a character tokenizer, saved as a user's model would be."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "</s>", *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        initializer_range=0.6,  # large, so that answers differ from prompt to prompt
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_policy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Policy]:
    """Builds policies; equal seeds give equal weights."""

    def make(seed: int = 0, *, chat: bool = False, context: int = 128) -> Policy:
        folder = save_tiny_model(tmp_path_factory.mktemp("model"), seed=seed, chat=chat, context=context)
        return load_policy(ModelConfig(path=str(folder), device="cpu"))

    return make


@pytest.fixture(scope="session")
def policy(make_policy: Callable[..., Policy]) -> Policy:
    """A tiny policy with random weights."""
    return make_policy()


@pytest.fixture(scope="session")
def tiny_suite() -> Suite:
    """The suite a user might have written."""
    return load_suite(EvaluationConfig(suite="tiny", batch_size=8), ASSETS)
