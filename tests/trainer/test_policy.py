"""Loading: what a good model gives, and the one line a bad one gets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, MambaConfig, MambaForCausalLM, T5Config, T5ForConditionalGeneration

from grpo_audit.config.sections import ModelConfig, SamplingConfig
from grpo_audit.errors import ConfigError, GrpoAuditError, ModelError, PromptError
from grpo_audit.prompts.loading import Prompt
from grpo_audit_trainer.policy import Policy, load_policy
from grpo_audit_trainer.rollout.native import NativeEngine

TEMPLATE = "{% for m in messages %}<mark>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}:{% endif %}"


@pytest.fixture
def folder(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A good model that a test may spoil."""
    return Path(shutil.copytree(model_folder("llama"), tmp_path / "model"))


def load(folder: Path | str, **settings: Any) -> Policy:
    """Load from a folder, on the CPU."""
    return load_policy(ModelConfig(path=str(folder), device="cpu", **settings))


def edit(folder: Path, name: str, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    path = folder / name
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def refusal(folder: Path | str, **settings: Any) -> str:
    """The one line a model is refused with."""
    with pytest.raises(ModelError) as caught:
        load(folder, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_loaded_weights_are_float32_deterministic_and_without_dropout(folder: Path) -> None:
    """bfloat16 files become float32 masters; dropout is off in every module and every attention, eval mode is on."""
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder, "config.json", dtype="bfloat16", attention_dropout=0.3)
    policy = load(folder)
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    assert torch.are_deterministic_algorithms_enabled()
    assert not policy.model.training
    policy.model.train()
    ids = torch.arange(3, 10)[None]
    assert torch.equal(policy.model(ids).logits, policy.model(ids).logits)
    assert policy.eos_ids == (1,) and policy.pad_id == 0


def test_relative_folders_start_at_the_recipe(folder: Path) -> None:
    """The base folder counts, not the working directory."""
    assert load_policy(ModelConfig(path=folder.name, device="cpu"), folder.parent).folder == folder


def test_every_end_token_counts(folder: Path) -> None:
    """The tokenizer's end token and those of the generation settings all end a completion."""
    edit(folder, "generation_config.json", eos_token_id=[1, 2])
    assert load(folder).eos_ids == (1, 2)


def test_chat_template_and_plain_text(folder: Path) -> None:
    """With a template a prompt is one user message, or the messages given; ``never`` and no template leave the text
    as it is."""
    assert load(folder).encode_prompt("ab").text == "ab"
    edit(folder, "tokenizer_config.json", chat_template=TEMPLATE)
    policy = load(folder)
    prompt = policy.encode_prompt("ab")
    assert prompt.text == "<mark>ab:"
    assert prompt.ids == policy.tokenizer("<mark>ab:")["input_ids"] and prompt.ids[0] == 2
    assert policy.encode_prompt("ab", [{"role": "user", "content": "c"}, {"role": "user", "content": "d"}]).text == (
        "<mark>c<mark>d:"
    )
    assert load(folder, chat_template="never").encode_prompt("ab").text == "ab"


def test_a_text_keeps_its_special_tokens_and_loses_its_end(folder: Path) -> None:
    """What a reward sees is what the model wrote, the end token aside."""
    policy = load(folder)
    a = policy.tokenizer("a")["input_ids"]
    assert policy.decode([[*a, 2, *a, 1], [*a]]) == ["a<mark>a", "a"]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("./nowhere", "no such folder"),
        ("/nowhere/at/all", "no such folder"),
        ("nowhere", "no such folder"),
        ("a/b/c", "no such folder"),
    ],
)
def test_a_missing_folder(path: str, found: str) -> None:
    """What cannot be a hub id is never looked for on the hub."""
    assert found in refusal(path)


def test_a_file_or_an_empty_folder(tmp_path: Path) -> None:
    """Both are named as what they are."""
    (tmp_path / "file").write_text("x")
    assert "a file" in refusal(tmp_path / "file")
    assert "without config.json" in refusal(tmp_path)


def test_a_hub_id_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, or not there: one line that says both places were looked at."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "no such folder, and from the hub" in refusal("nobody/nothing")


def save_encoder(folder: Path) -> None:
    """A BERT."""
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=48)
    AutoModel.from_config(config).save_pretrained(folder)


def save_encoder_decoder(folder: Path) -> None:
    """A T5."""
    config = T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=48)
    T5ForConditionalGeneration(config).save_pretrained(folder)


@pytest.mark.parametrize("save", [save_encoder, save_encoder_decoder])
def test_a_model_that_is_no_causal_lm(folder: Path, save: Callable[[Path], None]) -> None:
    """Encoders and encoder-decoders are refused by name of their architecture."""
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        (folder / name).unlink()
    save(folder)
    assert "is not a causal language model" in refusal(folder)


def test_a_cache_that_cannot_be_expanded(folder: Path) -> None:
    """A state-space model is refused when it is loaded, not sampled wrongly."""
    (folder / "model.safetensors").unlink()
    config = MambaConfig(
        vocab_size=48, hidden_size=16, state_size=4, num_hidden_layers=1, eos_token_id=1, pad_token_id=0
    )
    MambaForCausalLM(config).save_pretrained(folder)
    with pytest.raises(ModelError, match="cannot be sampled"):
        load(folder)


def test_a_tokenizer_without_end_token(folder: Path) -> None:
    """Neither with nor without a pad token can a completion end without one."""
    edit(folder, "tokenizer_config.json", eos_token=None)
    assert "has no end token; found a pad token only" in refusal(folder)
    edit(folder, "tokenizer_config.json", pad_token=None)
    assert "neither an eos nor a pad token" in refusal(folder)


def test_a_tokenizer_without_pad_token_is_filled_up_with_end_tokens(folder: Path) -> None:
    """Lengths say what is padding, so real end tokens are kept: the completions are those with a pad token."""
    whole = load(folder)
    edit(folder, "tokenizer_config.json", pad_token=None)
    bare = load(folder)
    assert bare.pad_id == 1
    prompts = [whole.encode_prompt(text).ids for text in ("a longer prompt", "b")]
    keys = torch.arange(8)
    one, two = (NativeEngine(p).sample(prompts, 4, keys, temperature=1.0, max_tokens=16) for p in (whole, bare))
    assert one.tokens.tolist() == two.tokens.tolist() and one.stopped.any()


def test_a_tokenizer_that_does_not_fit(folder: Path) -> None:
    """More token ids than rows of the embedding would be an index error in the middle of training."""
    edit(folder, "tokenizer_config.json", pad_token="<another>")
    assert "does not fit the model; found token id 48 with 48 rows" in refusal(folder)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "missing", "no weights", "pickle", "wrong shape"])
def test_weights_that_cannot_be_used(folder: Path, damage: str) -> None:
    """Cut short, empty, no safetensors, incomplete, absent, pickled, or of another shape: one line each, and never
    silently initialised at random."""
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    match damage:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "empty":
            weights.write_bytes(b"")
        case "text":
            weights.write_text("version https://git-lfs.github.com/spec/v1")
        case "missing":
            tensors.pop("model.norm.weight")
            save_file(tensors, weights, metadata={"format": "pt"})
        case "no weights":
            weights.unlink()
        case "pickle":
            weights.unlink()
            torch.save(tensors, folder / "pytorch_model.bin")
        case _:
            tensors["model.norm.weight"] = torch.ones(7)
            save_file(tensors, weights, metadata={"format": "pt"})
    assert "Cannot load the weights" in refusal(folder)


def test_a_broken_tokenizer_or_config(folder: Path) -> None:
    """Malformed JSON is a line about the file's owner."""
    kept = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text("{")
    assert "Cannot load the tokenizer" in refusal(folder)
    (folder / "tokenizer.json").write_text(kept)
    (folder / "config.json").write_text("{")
    assert "Cannot load the model" in refusal(folder)


def test_code_of_the_model_is_never_run(folder: Path) -> None:
    """A configuration that needs its own code is refused, and the code is not imported."""
    edit(
        folder, "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.M"}
    )
    (folder / "mine.py").write_text("open('ran', 'w')")
    refusal(folder)
    assert not Path("ran").exists() and not (folder / "ran").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there(folder: Path) -> None:
    """Asked for by name, a missing device is an error, not a fallback."""
    with pytest.raises(ModelError, match="no CUDA device"):
        load_policy(ModelConfig(path=str(folder), device="cuda"))


@pytest.mark.parametrize(
    ("text", "sampling", "message"),
    [
        ("", {}, "Prompt bad .row 2. has 0 tokens"),
        ("x" * 40, {"max_prompt_tokens": 39}, "Prompt bad .row 2. has 40 tokens; expected 1 to 39"),
        ("x" * 40, {"max_completion_tokens": 100}, "found 40 [+] 100 tokens; expected at most 128.*to 88 or below"),
    ],
)
def test_prompts_that_do_not_fit(folder: Path, text: str, sampling: dict[str, int], message: str) -> None:
    """An empty prompt, one that is too long, and a context that is too small are found before training."""
    prompts = [Prompt("good", "ab", None, {}), Prompt("bad", text, None, {})]
    with pytest.raises((PromptError, ConfigError), match=message) as caught:
        load(folder).check_prompts(prompts, SamplingConfig(**{"max_completion_tokens": 8, **sampling}))
    assert isinstance(caught.value, GrpoAuditError)
