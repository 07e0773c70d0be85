"""A sequence-classification reward model: random weights on disk, through the real process."""

from __future__ import annotations

import itertools

import pytest
import torch
from rewards.attacks import HOSTILE
from tiny_model import byte_tokenizer, save_tiny_model
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from grpo_audit.config.sections import RewardConfig
from grpo_audit.errors import RewardError
from grpo_audit.record.identity import weights_digest
from grpo_audit.rewards.runner import RewardRunner
from grpo_audit_trainer.reward_models import score

SOURCE = "grpo_audit_trainer.reward_models:score"
ARCHITECTURES = {
    "bert": (BertConfig, BertForSequenceClassification),
    "llama": (LlamaConfig, LlamaForSequenceClassification),
    "qwen2": (Qwen2Config, Qwen2ForSequenceClassification),
}


def save_reward_model(folder, architecture="llama", *, labels=1, chat_template=None, seed=0):
    """A random reward model of two layers with a byte tokenizer."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = chat_template
    config, model = ARCHITECTURES[architecture]
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings = sizes | {"num_key_value_heads": 1, "max_position_embeddings": 4096, "num_labels": labels}
    model(config(vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def alone(folder, text, label=0):
    """The oracle: one row, no padding, transformers directly."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        ids = torch.tensor([byte_tokenizer()(text)["input_ids"]])
        return float(model(input_ids=ids).logits[0, label])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_reward_is_the_logit_of_prompt_and_completion(tmp_path, architecture):
    """Equal to transformers on the row alone, whatever the batch: ragged rows, padding and order change nothing."""
    folder = save_reward_model(tmp_path / "m", architecture, labels=2)
    prompts = ["a", "some longer prompt ", "b", "c"]
    completions = ["x", "y" * 50, "", "\u0661 z"]
    for batch_size, label in itertools.product((1, 3, 8), (0, 1)):
        found = score(prompts, completions, model=str(folder), batch_size=batch_size, label=label, device="cpu")
        wanted = [alone(folder, prompt + text, label) for prompt, text in zip(prompts, completions, strict=True)]
        assert found == pytest.approx(wanted, abs=1e-5)
    assert len(set(found)) == 4


def test_a_chat_template_is_used_when_there_is_one(tmp_path):
    """Prompt from the user, completion from the assistant; never, when the recipe says so."""
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    folder = save_reward_model(tmp_path / "m", chat_template=template)
    assert score(["p"], ["c"], model=str(folder)) == pytest.approx([alone(folder, "[user]p[assistant]c")], abs=1e-5)
    assert score(["p"], ["c"], model=str(folder), chat="never") == pytest.approx([alone(folder, "pc")], abs=1e-5)


def test_in_its_process_with_the_digest_of_the_weights(tmp_path):
    """The record names the weights; the folder is relative to the recipe; kind and domain are declared."""
    folder = save_reward_model(tmp_path / "model")
    source = RewardConfig(name="rm", source=SOURCE, options={"model": "model", "device": "cpu"}, time_limit_s=60)
    with RewardRunner([source], tmp_path) as runner:
        runner.check_columns([])
        row = runner.score(["p"], ["c"], {})[0]
        identity = runner.identities()[0]
    assert row.total == pytest.approx(alone(folder, "pc"), abs=1e-5)
    assert identity.kind == "reward model"
    assert identity.facts == {"weights_digest": weights_digest(folder), "device": "cpu", "precision": "float32"}
    assert identity.options["batch_size"] == 8


def test_long_rows_are_errors_and_hostile_ones_are_rows(tmp_path):
    """Nothing is cut in silence; every text has a finite logit or an error of its own."""
    folder = save_reward_model(tmp_path / "m")
    texts = list(HOSTILE.values())
    results = score([""] * len(texts), texts, model=str(folder), max_tokens=200)
    for text, result in zip(texts, results, strict=True):
        tokens = len(text.encode("utf-8", "replace"))
        assert isinstance(result, float) if 0 < tokens <= 200 else "the reward model reads up to 200" in str(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "./none"}, "Cannot load the model ./none; found no such folder"),
        ({"model": "causal"}, "causal is no reward model: found LlamaForCausalLM"),
        ({"model": "good", "label": 1}, "option 'label' is 1; the model has 1 outputs"),
        ({"model": "good", "device": "tpu"}, "option 'device' has the wrong type; found 'tpu'"),
        ({}, "needs the option 'model'"),
    ],
)
def test_wrong_models_are_told_before_training(tmp_path, options, message):
    """One line each."""
    save_reward_model(tmp_path / "good")
    save_tiny_model(tmp_path / "causal")
    with (
        pytest.raises(RewardError) as caught,
        RewardRunner([RewardConfig(name="rm", source=SOURCE, options=options)], tmp_path) as runner,
    ):
        runner.check_columns([])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
