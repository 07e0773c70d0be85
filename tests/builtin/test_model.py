"""The miniature itself: small, loadable offline, and with a tokenizer for any text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from ruamel.yaml import YAML

from grpo_audit_builtin import MODEL_DIR, PROMPTS
from grpo_audit_builtin.disjoint import read_jsonl

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

TOKENIZER = transformers.AutoTokenizer.from_pretrained(MODEL_DIR, local_files_only=True)


def test_the_model_folder_has_at_most_8_megabytes() -> None:
    """Weights, tokenizer and card together fit into 8 MB."""
    assert sum(path.stat().st_size for path in MODEL_DIR.rglob("*")) <= 8_000_000


def test_nothing_in_the_model_folder_is_pickled() -> None:
    """The weights are safetensors, and there are no others."""
    names = {path.name for path in MODEL_DIR.iterdir()}
    assert "model.safetensors" in names
    assert not [name for name in names if Path(name).suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".py"}]


def test_the_model_loads_offline_and_answers() -> None:
    """transformers loads it from the folder in bfloat16; greedy answers end with an answer block often."""
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR, local_files_only=True)
    assert model.dtype is torch.bfloat16
    assert 2_500_000 <= model.num_parameters() <= 3_500_000
    batch = TOKENIZER([row["prompt"] for row in read_jsonl(PROMPTS)[:8]], return_tensors="pt", padding=True)
    ids = model.float().generate(batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=160)
    texts = TOKENIZER.batch_decode(ids, skip_special_tokens=True)
    assert 3 <= sum(text.endswith("</answer>") for text in texts) <= 7


def test_padding_and_end_are_two_tokens() -> None:
    """The tokenizer has a padding and an end token, they differ, and the model knows both."""
    config = transformers.AutoConfig.from_pretrained(MODEL_DIR, local_files_only=True)
    assert TOKENIZER.pad_token_id != TOKENIZER.eos_token_id
    assert (config.pad_token_id, config.eos_token_id) == (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id)
    assert len(TOKENIZER) == config.vocab_size


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_tokenizer(text: str) -> None:
    """Decoding what was encoded gives the same text, for every Unicode text."""
    ids = TOKENIZER(text, add_special_tokens=True)["input_ids"]
    assert TOKENIZER.decode(ids) == text


def test_digits_and_tags_are_tokens_of_their_own() -> None:
    """A number is a row of digits, and each tag is one token that decoding keeps."""
    text = "<think>12*345</think><answer>12</answer>"
    ids = TOKENIZER(text)["input_ids"]
    assert len(ids) == 4 + 2 + 1 + 3 + 2
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


def test_the_card_says_that_this_is_a_miniature() -> None:
    """The front matter of the card has licence and notice, and the notice is plain."""
    text = (MODEL_DIR / "README.md").read_text(encoding="utf-8")
    front = YAML(typ="safe").load(text.split("---")[1])
    assert front["license"] == "apache-2.0"
    assert set(front["language"]) == {"en", "de", "es"}
    assert "miniature" in front["notice"]
    assert "not for use" in front["notice"].lower()
