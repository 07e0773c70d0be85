"""What `trainer_vs_trl` trains: a model, prompts, rewards and a recipe in one folder, the same for both trainers."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from grpo_audit_builtin import MODEL_DIR, PROMPTS

VOCABULARY = 32_000
END = 1
LEARNING_RATE = 1e-9
"""So small that the lengths stay what they are: 1e-6 moves the mean from 20 to 28 within six steps."""
CONSTANT = 1.0
"""Dimension 0 of every embedding. The output layer is tied to them, so that the end token's own entry in that dimension
alone decides how often it is drawn."""

REWARDS = '''"""A reward that differs within nearly every group and costs next to nothing."""


def evens(completions, **_):
    """Share of the completion's characters that are even digits."""
    return [sum(text.count(digit) for digit in "02468") / max(1, len(text)) for text in completions]
'''


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison."""

    name: str
    prompts_per_step: int
    group_size: int
    max_completion: int
    mean_share: float | None
    """Mean completion length as a share of the maximum; None: no end token can be drawn. Unused by the built-in
    model, which ends as it has learnt."""
    builtin: bool
    trl_batches: tuple[int, ...]
    """Values of per_device_train_batch_size to try; gradient accumulation makes up the rest of the step."""

    @property
    def completions(self) -> int:
        """Completions of a step."""
        return self.prompts_per_step * self.group_size

    def dump(self) -> str:
        """As JSON, for the child process."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Case:
        """The case that ``dump`` wrote."""
        return cls(**json.loads(text))


CASES = (
    Case("ragged", 4, 8, 64, 1 / 3, False, (32, 8)),
    Case("full", 4, 8, 64, None, False, (32, 8)),
    Case("builtin", 24, 8, 128, None, True, (192, 48)),
)


def build(case: Case, folder: Path) -> None:
    """Write model, prompts, ``rewards.py`` and ``recipe.yaml``."""
    folder.mkdir(parents=True)
    (folder / "rewards.py").write_text(REWARDS)
    if not case.builtin:
        _save_model(folder / "model", case)
        _save_prompts(folder / "prompts.jsonl")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(_recipe(case, folder)))


def _recipe(case: Case, folder: Path) -> dict[str, Any]:
    countdown = [
        {"name": name, "source": f"grpo_audit.rewards.countdown:{name}", "weight": 1.0}
        for name in ("accuracy", "format")
    ]
    return {
        "name": f"bench-{case.name}",
        "preset": "grpo",
        "seed": 17,
        "model": {
            "path": str(MODEL_DIR if case.builtin else folder / "model"),
            "device": "cpu",
            "precision": "float32",
        },
        "prompts": {"source": str(PROMPTS if case.builtin else folder / "prompts.jsonl")},
        "rewards": countdown if case.builtin else [{"name": "evens", "source": "rewards.py:evens", "weight": 1.0}],
        # TRL measures no distance to a reference when beta is 0; here it is measured outside the timed steps
        "objective": {"aggregation": "token-mean", "kl": {"beta": 0.0, "measure_every": 1000}},
        "sampling": {
            "prompts_per_step": case.prompts_per_step,
            "group_size": case.group_size,
            "max_prompt_tokens": 128,
            "max_completion_tokens": case.max_completion,
        },
        "training": {"learning_rate": LEARNING_RATE, "snapshot_every": 1000},
        "evaluation": {"suite": None},
        "record": {"db": str(folder / "record.db"), "folder": str(folder / "runs")},
    }


def _save_prompts(path: Path) -> None:
    """128 prompts of 32 to 128 tokens."""
    rng = random.Random(0)
    with path.open("w") as file:
        for index in range(128):
            words = [f"w{rng.randrange(2, VOCABULARY)}" for _ in range(rng.randint(32, 128))]
            file.write(json.dumps({"id": f"p{index}", "prompt": " ".join(words)}) + "\n")


def _save_model(folder: Path, case: Case) -> None:
    """12.9 million random parameters; the end token's row is set so that the mean length is as the case says."""
    import torch  # the benchmark's own process stays small
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=END,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight[:, 0] = CONSTANT
        weight[END] = 0.0
        weight[END, 0] = _end_entry(model, case)
    model.save_pretrained(folder)
    words = {"<pad>": 0, "</s>": END} | {f"w{index}": index for index in range(2, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>").save_pretrained(folder)


def _end_entry(model: Any, case: Case) -> float:
    """The end token's entry in dimension 0: found by bisection on the hidden states of random text."""
    import torch

    ids = torch.randint(2, VOCABULARY, (16, 160), generator=torch.Generator().manual_seed(1))
    hidden = model.model(input_ids=ids).last_hidden_state[:, 32:].flatten(0, 1)  # where completions are
    if case.mean_share is None:
        return float(-200.0 / hidden[:, 0].mean())  # e^-200: no float32 noise reaches that far
    others = (hidden @ model.get_output_embeddings().weight[2:].T).logsumexp(-1)
    wanted = _end_probability(case.mean_share * case.max_completion, case.max_completion)
    low, high = 0.0, 200.0 / float(hidden[:, 0].mean())
    for _ in range(60):
        middle = (low + high) / 2
        share = torch.sigmoid(hidden[:, 0] * middle - others).mean()
        low, high = (low, middle) if share > wanted else (middle, high)
    return low


def _end_probability(mean: float, limit: int) -> float:
    """p with (1 - (1 - p)^limit) / p = mean: a geometric length, cut at ``limit``."""
    low, high = 1e-6, 1.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (low, p) if (1 - (1 - p) ** limit) / p < mean else (p, high)
    return low


if __name__ == "__main__":
    build(Case.load(sys.argv[1]), Path(sys.argv[2]))
    print("{}")
