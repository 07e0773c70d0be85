"""The policy: a Hugging Face causal LM with its tokenizer, ready to be sampled, scored and trained.

Weights are float32; ``bfloat16`` is autocast over them. Dropout is off everywhere, in rollouts and in updates.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import MoeModelOutputWithPast

from grpo_audit.config.sections import ModelConfig, SamplingConfig
from grpo_audit.errors import ConfigError, ModelError, PromptError
from grpo_audit.prompts.loading import Prompt
from grpo_audit_trainer import pretrained
from grpo_audit_trainer.adapter import Adapter, add_adapter
from grpo_audit_trainer.attention import use_float32_attention
from grpo_audit_trainer.distributed import World
from grpo_audit_trainer.execution import (
    Execution,
    accelerator,
    enable_checkpointing,
    make_deterministic,
    resolve_execution,
)
from grpo_audit_trainer.pretrained import resolve_folder
from grpo_audit_trainer.rollout.cache import new_cache
from grpo_audit_trainer.sharding import Shards, put

__all__ = ["EncodedPrompt", "Execution", "Policy", "accelerator", "load_policy", "resolve_folder"]


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One prompt as the model sees it."""

    text: str
    """After the chat template, when there is one."""
    ids: list[int]


@dataclass
class Policy:
    """Model and tokenizer. Training changes the model's weights and nothing else."""

    model: Any  # PreTrainedModel: transformers carries no type information
    tokenizer: Any
    execution: Execution
    eos_ids: tuple[int, ...]
    """Every id that ends a completion: the tokenizer's, and those of the generation settings."""
    pad_id: int
    """Filler only: lengths, never ids, say what is padding."""
    folder: Path
    """Where model and tokenizer were loaded from."""
    adapter: Adapter | None = None
    """The adapters that train, when the base weights do not."""
    shards: Shards | None = None
    """How the model is spread over the processes (FSDP); None: every process has all of it."""

    @classmethod
    def load(cls, config: ModelConfig, base_dir: Path, seed: int = 0) -> Policy:
        """See ``load_policy``."""
        return load_policy(config, base_dir, seed)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.execution.device

    @property
    def vocabulary(self) -> int:
        """Size of the distribution that is sampled from: rows of the output layer, unused ones included."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of every forward pass."""
        if not self.execution.autocast:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    # --- text --------------------------------------------------------------------------------------------------------

    def encode_prompt(self, text: str, messages: Sequence[dict[str, Any]] | None = None) -> EncodedPrompt:
        """The prompt through the chat template (as one user message unless ``messages`` says more), else as it is."""
        if not self.execution.chat_template:
            ids = list(self.tokenizer(text)["input_ids"])
            return EncodedPrompt(text, _without_end(ids, self.tokenizer.eos_token_id))
        conversation = list(messages) if messages else [{"role": "user", "content": text}]
        rendered = self.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        # the template has written the special tokens itself
        return EncodedPrompt(rendered, list(self.tokenizer(rendered, add_special_tokens=False)["input_ids"]))

    def decode(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """Texts of completions without their end token. Other special tokens stay visible: what a reward judges and
        the record keeps is what the model wrote."""
        cut = [ids[:-1] if len(ids) and ids[-1] in self.eos_ids else ids for ids in completions]
        return list(self.tokenizer.batch_decode(cut, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def check_prompts(self, prompts: Sequence[Prompt], sampling: SamplingConfig) -> None:
        """Every prompt fits, none is empty, and prompt and completion fit the model's context. Raises PromptError or
        ConfigError; a prompt is never silently cut."""
        longest = 0
        for number, prompt in enumerate(prompts, start=1):
            count = len(self.encode_prompt(prompt.text, prompt.messages).ids)
            longest = max(longest, count)
            if not 1 <= count <= sampling.max_prompt_tokens:
                raise PromptError(
                    f"Prompt {prompt.id} (row {number}) has {count} tokens",
                    expected=f"1 to {sampling.max_prompt_tokens}",
                    next_step="Remove the row, or raise sampling.max_prompt_tokens" if count else "Remove the row",
                )
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if context is not None and longest + sampling.max_completion_tokens > context:
            raise ConfigError(
                "Prompt and completion do not fit the model's context",
                found=f"{longest} + {sampling.max_completion_tokens} tokens",
                expected=f"at most {context}",
                next_step=f"Lower sampling.max_completion_tokens to {max(1, context - longest)} or below",
            )

    # --- forward passes ----------------------------------------------------------------------------------------------

    def hidden(self, input_ids: Tensor, **kwargs: Any) -> Tensor:
        """Last hidden states [B, T, H] of the base model, without the output layer."""
        return self.model.get_decoder()(input_ids=input_ids, **kwargs).last_hidden_state  # type: ignore[no-any-return]

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] in float32 of hidden states [N, H].

        The model's own forward pass runs, with its base replaced by the hidden states at hand. So whatever the
        architecture does around its output layer (softcapping, scaling, bias) is done exactly as it does it.
        """
        output = MoeModelOutputWithPast(last_hidden_state=hidden[None])  # the widest of the base outputs
        placeholder = torch.zeros((1, hidden.shape[0]), dtype=torch.int64, device=hidden.device)
        with _forward_replaced(self.model.get_decoder(), output):
            logits = self.model(input_ids=placeholder, use_cache=False).logits
        return logits[0].float()  # type: ignore[no-any-return]

    def one_pass(self, function: Callable[[], Tensor]) -> Tensor:
        """``function()``, which calls ``hidden`` and ``head``, as one forward pass of the model. With FSDP and without
        a gradient it must run inside ``whole``."""
        if self.shards is None or not torch.is_grad_enabled():
            return function()
        return self.shards.run(function)

    # --- several processes -------------------------------------------------------------------------------------------

    def shard(self, world: World) -> None:
        """Spread the model over the processes."""
        self.shards = Shards(self.model, world)

    def whole(self) -> AbstractContextManager[None]:
        """Inside, this process has all weights. With FSDP all processes enter together, and what is written to the
        weights inside is lost."""
        return contextlib.nullcontext() if self.shards is None else self.shards.whole()

    def gathered(self, *, keep: bool) -> None:
        """Undo ``shard``: the whole model on the processes that ``keep`` it; the others let go of it."""
        if self.shards is None:
            return
        with self.whole():
            held = self.model.named_parameters()
            weights = {name: item.detach().to("cpu", copy=True) for name, item in held} if keep else {}
        self.release()
        self.shards = None
        if not keep:
            return
        model = pretrained.load_model(self.folder, str(self.folder))
        if self.adapter is not None:
            add_adapter(model, self.adapter.settings, seed=0, path=self.adapter.base)
        for name, parameter in model.named_parameters():
            put(parameter, weights[name])
        self.model = model.to(self.device)

    def release(self) -> None:
        """Let go of the weights. The policy cannot be used afterwards."""
        self.model = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def load_policy(config: ModelConfig, base_dir: Path = Path(), seed: int = 0) -> Policy:
    """Load model and tokenizer as the recipe says, on the device, checked.

    Relative folders start at ``base_dir``. ``seed`` is the run's: adapters start from it. Raises ModelError: missing
    folder, unreachable hub id, no causal LM, missing or corrupt weights, no end token, a tokenizer that does not fit, a
    cache whose rows cannot be shared by a group, layers that cannot have an adapter, a device or option that this
    machine or model lacks.
    """
    make_deterministic()
    folder = resolve_folder(config, base_dir)
    model = pretrained.load_model(folder, config.path)
    tokenizer = pretrained.load_tokenizer(folder, config.path)
    eos_ids, pad_id = pretrained.end_and_filler(model, tokenizer, config.path)
    pretrained.check_vocabulary(model, tokenizer, config.path)
    new_cache(model)  # refuses what the engine cannot sample
    execution = resolve_execution(model, tokenizer, config)
    if execution.autocast and execution.device.type == "cpu":
        use_float32_attention(model)
    if execution.gradient_checkpointing:
        enable_checkpointing(model)
    adapter = None if config.lora is None else add_adapter(model, config.lora, seed=seed, path=config.path)
    policy = Policy(model.to(execution.device), tokenizer, execution, eos_ids, pad_id, folder, adapter)
    _check_head(policy, config.path)
    return policy


def _check_head(policy: Policy, path: str) -> None:
    """The output layer on hidden states gives the logits of the whole model; else it cannot be scored here."""
    ids = torch.arange(4, device=policy.device)[None]
    with torch.no_grad():
        whole = policy.model(input_ids=ids, use_cache=False).logits[0].float()
        try:
            parts = policy.head(policy.hidden(ids, use_cache=False)[0])
        except (AttributeError, TypeError, ValueError, RuntimeError):  # the architecture takes its forward pass apart
            parts = torch.full_like(whole, torch.nan)
    if not torch.allclose(whole, parts, rtol=1e-4, atol=1e-5):
        raise ModelError(
            f"The architecture of {path} cannot be trained here",
            found=f"{type(policy.model).__name__}, whose logits depend on more than its last hidden states",
            expected="a decoder followed by an output layer",
            next_step="Choose another model.path",
        )


@contextlib.contextmanager
def _forward_replaced(module: nn.Module, output: object) -> Iterator[None]:
    module.forward = lambda *_args, **_kwargs: output
    try:
        yield
    finally:
        del module.forward  # the method of its class shows again


def _without_end(ids: list[int], eos: int) -> list[int]:
    """Some tokenizers put an end token behind every text; a prompt must not end there."""
    return ids[:-1] if len(ids) > 1 and ids[-1] == eos else ids
