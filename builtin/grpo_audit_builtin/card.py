"""The model card of the miniature, written next to its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

NOTICE = (
    "This is a miniature made for demonstration. It knows only an invented world and is not for use: "
    "nothing it says is meant to be true, helpful or safe."
)


@dataclass(frozen=True, slots=True)
class Training:
    """What a pre-training run did."""

    seed: int
    minutes: float
    steps: int
    examples: int
    tokens: int
    """Completion tokens: only they are trained on."""
    loss: float
    """Exponential mean over the last steps, nats a completion token."""
    parameters: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What the finished model does, before any reinforcement learning."""

    countdown: Mapping[str, str] = field(default_factory=dict)
    """Sampled behaviour on three-number Countdown, by what was measured."""
    greedy: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    """Evaluation task -> primary metric and its value, greedy decoding."""


def write_training(out: Path, stages: Sequence[Training]) -> None:
    """Write what happened, stage by stage, as `training.json`."""
    text = json.dumps([asdict(stage) for stage in stages], indent=2)
    (out / "training.json").write_text(text + "\n", encoding="utf-8")


def read_training(folder: Path) -> list[Training]:
    """The stages that made the model in this folder.

    Raises:
        FileNotFoundError: if there is no `training.json`.
    """
    return [Training(**stage) for stage in json.loads((folder / "training.json").read_text(encoding="utf-8"))]


def write_card(out: Path, stages: Sequence[Training], measured: Measured | None = None) -> None:
    """Write `README.md` into the model folder."""
    parts = [_front_matter(), _introduction(), _making(stages), _figures(measured or Measured()), _limits()]
    (out / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _front_matter() -> str:
    tags = "".join(f"\n  - {tag}" for tag in ("grpo-audit", "miniature", "synthetic", "demonstration", "countdown"))
    return (
        "---\nlicense: apache-2.0\nlanguage:\n  - en\n  - de\n  - es\nlibrary_name: transformers\n"
        f'pipeline_tag: text-generation\ntags:{tags}\nnotice: "{NOTICE}"\n---'
    )


def _introduction() -> str:
    return f"""# The grpo-audit miniature

**{NOTICE}**

A causal language model of the Llama architecture with a few million parameters. It ships with grpo-audit so that
the whole pipeline (evaluation, GRPO, evaluation, release report) can be tried in minutes on two CPU cores. Every
behaviour that a release report covers can be measured on it, and none of them is perfect: that is on purpose.

Prompts are raw text such as `Q: Make 46 from 25, 3, 7.\\nA:`, there is no chat template. Completions are
`<think>3*7=21,25+21=46</think><answer>25+3*7</answer>` for Countdown, a tool call `<tool>clock(Lumo)</tool>`,
or one `<answer>...</answer>`."""


def _commands(stages: Sequence[Training]) -> str:
    lines = []
    for i, stage in enumerate(stages):
        start = f" --start STAGE{i}" if i else ""
        command = f"    python -m grpo_audit_builtin.pretrain --out STAGE{i + 1}{start}"
        lines.append(f"{command} --minutes {stage.minutes:g} --seed {stage.seed}")
    return "\n".join(lines)


def _making(stages: Sequence[Training]) -> str:
    examples, steps, tokens, minutes = (
        sum(getattr(stage, name) for stage in stages) for name in ("examples", "steps", "tokens", "minutes")
    )
    return f"""## How it was made

{_commands(stages)}

| | |
|---|---|
| method | supervised learning from random weights, loss on completions only; no other model's output |
| data | generated while training by `grpo_audit_builtin.world` from these seeds, synthetic and invented |
| examples seen | {examples:,} in {steps:,} steps |
| completion tokens | {tokens:,} |
| time | {minutes:g} minutes in all on two CPU threads |
| final loss | {stages[-1].loss:.3f} nats a completion token |
| parameters | {stages[-1].parameters:,}, stored in bfloat16 |
| tokenizer | byte-level BPE, 512 entries, digits apart, encodes any text |

The learning rate follows the clock, so the same commands give similar weights and not the same bits. The
earlier stages of the shipped model ran with other settings of the generator (mixture, number ranges, noise): where a
behaviour came out too uniform, the settings were changed and training went on. A build from scratch with today's
settings will therefore differ somewhat from the figures below.

The solver traces in the data are noisy and often give up, and on problems with an odd target most of the recorded
solvers forget the answer tags. That habit is what reinforcement learning on the shipped rewards mends first. A part
of the other examples is wrong on purpose: some requests that should be refused are answered and the reverse, some
unanswerable questions get a number, some answerable ones get none, some tool calls are wrong. The evaluation
documents are all correct."""


def _figures(measured: Measured) -> str:
    if not measured.countdown and not measured.greedy:
        return "## Measured\n\nThis build has not been measured yet."
    sampled = "".join(f"\n| {name} | {value} |" for name, value in measured.countdown.items())
    greedy = "".join(f"\n| {name} | {metric} | {value:.3f} |" for name, (metric, value) in measured.greedy.items())
    return f"""## Measured

Before any reinforcement learning. Countdown with three numbers, sampled at temperature 1 by the trainer's own engine,
128 held-out prompts with 8 completions each:

| what | value |
|---|---|{sampled}

The built-in evaluation suite, greedy decoding, at least 200 documents a task:

| task | metric | value |
|---|---|---|{greedy}"""


def _limits() -> str:
    return """## Limits

- It is not a useful model of anything. Facts, places and "hazards" in it are invented.
- "Harmful" requests are harmless stand-ins; a refusal rate on them says nothing about real safety.
- Numbers beyond three digits, texts beyond 512 tokens and phrasings outside the generator are not covered.
- Its evaluation measures how the pipeline works, and is no benchmark."""
