"""Rules about the optimiser, the model, the evaluation and what a reader of the record will miss."""

from __future__ import annotations

import re
from statistics import NormalDist
from typing import Final

from grpo_audit.preflight.rule import Found, Rule, Situation, whole
from grpo_audit.record.events import Severity

SMALL_MODEL: Final = 100_000_000
BILLION: Final = 1_000_000_000
HIGHEST_RATE: Final = 1e-4
"""Full fine-tuning, from 100 million parameters. The papers use 1e-6 to 3e-6."""
HIGHEST_RATE_BILLION: Final = 2e-5
"""The same from one billion parameters."""
LOWEST_LORA_RATE: Final = 5e-6
DISCORDANT: Final = 0.1
"""Share of documents whose answer changes between right and wrong, for the size of an evaluation: an assumption."""
WORTH_A_SNAPSHOT: Final = 10
"""Steps from which losing them all hurts."""

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def _rate(at: Situation) -> list[Found]:
    parameters, rate = at.facts.parameters, at.config.training.learning_rate
    if at.config.model.lora is not None or parameters is None or parameters < SMALL_MODEL:
        return []
    limit = HIGHEST_RATE if parameters < BILLION else HIGHEST_RATE_BILLION
    if rate <= limit:
        return []
    size = f"{parameters / 1e6:,.0f} million parameters{at.facts.parameters_source}"
    return [Found("training.learning_rate", f"{rate:g} on all weights of a model of {size}; {limit:g} is already much")]


def _lora_rate(at: Situation) -> list[Found]:
    rate = at.config.training.learning_rate
    if at.config.model.lora is None or rate >= LOWEST_LORA_RATE:
        return []
    return [Found("training.learning_rate", f"{rate:g} is a rate for all weights; adapters hardly move")]


def _warmup(at: Situation) -> list[Found]:
    warmup, steps = at.config.training.warmup_steps, at.config.training.steps
    if 2 * warmup <= steps:
        return []
    return [Found("training.warmup_steps", f"{whole(warmup)} of {whole(steps)} steps run below the learning rate")]


def _no_snapshot(at: Situation) -> list[Found]:
    training = at.config.training
    if training.steps < WORTH_A_SNAPSHOT or training.snapshot_every < training.steps:
        return []
    path = "training.snapshot_every"
    return [Found(path, f"none before step {whole(training.steps)}: an interruption loses everything")]


def _one_snapshot(at: Situation) -> list[Found]:
    training = at.config.training
    if training.keep_snapshots > 1 or training.snapshot_every >= training.steps:
        return []
    return [Found("training.keep_snapshots", "rollouts can be replayed from the base model and one snapshot only")]


def _bfloat16(at: Situation) -> list[Found]:
    model, parameters = at.config.model, at.facts.parameters
    device = at.facts.device or ("cpu" if model.device == "cpu" else None)
    small = parameters is not None and parameters < SMALL_MODEL
    if model.precision != "bfloat16" or device != "cpu" or not small:
        return []
    return [Found("model.precision", "8 bits of mantissa on a small model on the CPU: noisier, and hardly faster")]


def _checkpointing(at: Situation) -> list[Found]:
    parameters = at.facts.parameters
    if at.config.model.gradient_checkpointing != "on" or parameters is None or parameters >= SMALL_MODEL:
        return []
    return [
        Found(
            "model.gradient_checkpointing", f"a second forward pass to save memory of {parameters / 1e6:.1f} M weights"
        )
    ]


def _moves(revision: str | None) -> bool:
    return revision is None or not _COMMIT.fullmatch(revision)


def _model_unpinned(at: Situation) -> list[Found]:
    model = at.config.model
    if not at.facts.model_on_hub or not _moves(model.revision):
        return []
    what = "the newest revision" if model.revision is None else "a branch or tag"
    return [Found("model.revision", f"{what} of the day the run starts")]


def _prompts_unpinned(at: Situation) -> list[Found]:
    prompts = at.config.prompts
    if not prompts.source.startswith("hub:") or not _moves(prompts.revision):
        return []
    what = "the newest revision" if prompts.revision is None else "a branch or tag"
    return [Found("prompts.revision", f"{what} of the day the run starts")]


def _licence(at: Situation) -> list[Found]:
    prompts = at.config.prompts
    if prompts.source == "builtin" or (prompts.licence or "").strip():
        return []
    return [Found("prompts.licence", "the report will show the licence of the training prompts as unknown")]


def _owner(at: Situation) -> list[Found]:
    if (at.config.governance.owner or "").strip():
        return []
    return [Found("governance.owner", "the report will name nobody who answers for the model")]


def _no_evaluation(at: Situation) -> list[Found]:
    if at.config.evaluation.suite is not None:
        return []
    return [Found("evaluation.suite", "the report will not say what got better or worse")]


def _small_evaluation(at: Situation) -> list[Found]:
    evaluation = at.config.evaluation
    if evaluation.suite is None or evaluation.limit is None:
        return []
    margin = min([evaluation.margin, *(value for value in evaluation.margins.values() if value > 0)])
    # half a chance that the interval ends above -margin when nothing changed: z * sqrt(discordant / n) = margin
    needed = DISCORDANT * NormalDist().inv_cdf(min(evaluation.alpha, 0.49)) ** 2 / margin / margin
    if evaluation.limit >= needed:
        return []
    return [
        Found(
            "evaluation.limit",
            f"{whole(evaluation.limit)} documents a task; to exclude a loss of {margin:g} takes about "
            f"{whole(int(min(needed, 1e16)) + 1)} (if one answer in ten changes)",
        )
    ]


RULES: Final = (
    Rule(
        id="learning-rate-high",
        severity=Severity.WARNING,
        title="A learning rate far above what models of this size stand",
        explanation=(
            "The papers train all weights at 1e-6 to 3e-6. Policy gradients are noisy, and at a rate for supervised "
            "training a large model forgets what it knew within a few steps."
        ),
        remedy="Set training.learning_rate to 1e-6, or train adapters with model.lora",
        source="DeepSeekMath, arXiv 2402.03300; DAPO, arXiv 2503.14476; DeepSeek-R1, arXiv 2501.12948",
        check=_rate,
        needs=("parameters",),
    ),
    Rule(
        id="lora-learning-rate-low",
        severity=Severity.WARNING,
        title="Adapters at a learning rate for all weights",
        explanation=(
            "One factor of an adapter starts at 0, and both are small. The best rate for adapters was found to be "
            "about ten times that for all weights; at 1e-6 a run looks healthy and hardly learns."
        ),
        remedy="Set training.learning_rate to 1e-5 or more",
        source="Schulman et al. 2025, LoRA Without Regret (Thinking Machines Lab)",
        check=_lora_rate,
    ),
    Rule(
        id="warmup-long",
        severity=Severity.WARNING,
        title="The warm-up takes most of the run",
        explanation="What is written as the learning rate is then reached only near the end, or never for long.",
        remedy="Set training.warmup_steps to a tenth of training.steps or less",
        source="DAPO warms up for 20 steps (arXiv 2503.14476, section 4.1)",
        check=_warmup,
    ),
    Rule(
        id="no-snapshot-before-end",
        severity=Severity.WARNING,
        title="No snapshot before the end",
        explanation=(
            "A run resumes from its newest snapshot. Without one it starts again, and an auditor can replay the "
            "rollouts of step 0 only."
        ),
        remedy="Set training.snapshot_every to a tenth of training.steps",
        source="grpo-audit run --resume; rollouts are replayed under recorded snapshots",
        check=_no_snapshot,
    ),
    Rule(
        id="one-snapshot-kept",
        severity=Severity.INFO,
        title="Only the newest snapshot is kept",
        explanation="A rollout can be replayed only while the weights that drew it are on disk.",
        remedy="Raise training.keep_snapshots where there is room",
        source="each snapshot holds weights and two moments in float32",
        check=_one_snapshot,
    ),
    Rule(
        id="bfloat16-small-cpu",
        severity=Severity.WARNING,
        title="bfloat16 for a small model on the CPU",
        explanation=(
            "Large matrix products gain from it, the small ones of a small model hardly do, and sampler and scorer "
            "agree less well. Other trainers have it on by default."
        ),
        remedy="Set model.precision to auto",
        source="TRL 1.16 has bf16 on by default",
        check=_bfloat16,
        needs=("parameters",),
    ),
    Rule(
        id="checkpointing-small",
        severity=Severity.WARNING,
        title="Gradient checkpointing for a small model",
        explanation="Every forward pass is done twice to save activations that would have fitted.",
        remedy="Set model.gradient_checkpointing to auto",
        source="Chen et al. 2016, arXiv 1604.06174",
        check=_checkpointing,
        needs=("parameters",),
    ),
    Rule(
        id="model-unpinned",
        severity=Severity.WARNING,
        title="A hub model without a pinned commit",
        explanation=(
            "A branch moves. The record names the weights by digest, but a reader who wants them back needs the commit."
        ),
        remedy="Set model.revision to the 40 digits of the commit",
        source="on the hub a revision is a branch, a tag or a commit",
        check=_model_unpinned,
        needs=("model_on_hub",),
    ),
    Rule(
        id="prompts-unpinned",
        severity=Severity.WARNING,
        title="A hub data set without a pinned commit",
        explanation=(
            "A branch moves, and rows with it. A resumed run would then refuse to go on with another prompt set."
        ),
        remedy="Set prompts.revision to the 40 digits of the commit",
        source="on the hub a revision is a branch, a tag or a commit",
        check=_prompts_unpinned,
    ),
    Rule(
        id="prompts-no-licence",
        severity=Severity.INFO,
        title="The prompt set has no licence",
        explanation=(
            "Whoever signs off the release will ask what the model was trained on and whether that was allowed."
        ),
        remedy="Set prompts.licence to an SPDX identifier",
        source="the report's section on data",
        check=_licence,
    ),
    Rule(
        id="owner-missing",
        severity=Severity.INFO,
        title="Nobody is named as owner",
        explanation="The record says what happened, not who answers for it. Only a person can declare that.",
        remedy="Set governance.owner",
        source="the report's section on people",
        check=_owner,
    ),
    Rule(
        id="evaluation-off",
        severity=Severity.WARNING,
        title="Nothing is evaluated before and after",
        explanation=(
            "The training reward says what was optimised. What the model lost elsewhere shows only in the same "
            "questions asked before and after."
        ),
        remedy="Set evaluation.suite to a folder of lm-eval tasks",
        source="the report's section on the release",
        check=_no_evaluation,
    ),
    Rule(
        id="evaluation-too-small",
        severity=Severity.WARNING,
        title="An evaluation too small for its margin",
        explanation=(
            "With few documents the interval of the difference is wider than the margin, so the verdict is "
            "inconclusive even when nothing changed. The number assumes an even chance of a clear verdict."
        ),
        remedy="Raise evaluation.limit or remove it, or state a wider evaluation.margin",
        source="paired proportions: margin = z * sqrt(discordant share / n)",
        check=_small_evaluation,
    ),
)
