"""Rules about prompts, rewards and how rollouts are drawn."""

from __future__ import annotations

import re
from typing import Final

from grpo_audit.preflight.rule import Found, Rule, Situation, whole
from grpo_audit.record.events import Severity

COLDEST: Final = 0.5
HOTTEST: Final = 1.5
MANY_EXPOSURES: Final = 10
SLOW_REWARD_S: Final = 300.0
HELD_UP: Final = 6
"""Time limits for which a source whose rows all hang holds a step up (``rewards.sources.RETRY_CAP``, plus two)."""

_FORM: Final = frozenset({"format", "formatting", "tag", "tags", "style", "length", "structure", "syntax"})


def _generation(at: Situation) -> list[Found]:
    own = {"temperature": at.config.sampling.temperature}
    settings = {name: value for name, value in (at.facts.generation or {}).items() if value != own.get(name)}
    if not settings:
        return []
    named = ", ".join(f"{name} {value:g}" for name, value in settings.items())
    return [Found("model.path", f"its generation_config.json asks for {named}; rollouts are drawn without")]


def _temperature(at: Situation) -> list[Found]:
    temperature = at.config.sampling.temperature
    if COLDEST <= temperature <= HOTTEST:
        return []
    what = "the completions of a group are nearly equal" if temperature < COLDEST else "unlikely tokens are drawn often"
    return [Found("sampling.temperature", f"at {temperature:g} {what}")]


def _one_prompt(at: Situation) -> list[Found]:
    prompts, parts = at.config.sampling.prompts_per_step, at.config.training.minibatches
    if prompts == 1:
        return [Found("sampling.prompts_per_step", "each step's gradient comes from one prompt")]
    if prompts // parts == 1:
        return [
            Found("training.minibatches", f"{whole(prompts)} prompts in {whole(parts)} updates: some see one prompt")
        ]
    return []


def _one_round(at: Situation) -> list[Found]:
    sampling = at.config.sampling
    if not sampling.dynamic_sampling or sampling.max_rounds > 1:
        return []
    return [Found("sampling.max_rounds", "groups without signal are dropped, and nothing takes their place")]


def _shaped(at: Situation) -> list[Found]:
    if not at.config.sampling.dynamic_sampling:
        return []
    trained = [item for item in at.config.rewards if item.role == "train" and item.weight != 0]
    graded = [item.name for item in trained if item.kind in ("reward model", "judge")]
    path = "sampling.dynamic_sampling"
    if graded:
        return [
            Found(path, f"{graded[0]} gives graded rewards, which are hardly ever all equal, so no group is dropped")
        ]
    if len(trained) > 1:
        return [Found(path, f"a group of wrong answers is kept when any of {len(trained)} sources tells them apart")]
    return []


def _repeats(at: Situation) -> list[Found]:
    rows, wanted = at.facts.prompts, at.config.sampling.prompts_per_step
    if rows is None or rows >= wanted:
        return []
    return [Found("sampling.prompts_per_step", f"the prompt set has {rows} rows, so prompts come again within a step")]


def _exposures(at: Situation) -> list[Found]:
    rows, drawn = at.facts.prompts, at.config.training.steps * at.config.sampling.prompts_per_step
    if not rows or drawn <= MANY_EXPOSURES * rows:
        return []
    return [Found("training.steps", f"each of the {rows} prompts is drawn about {whole(drawn // rows)} times")]


def _context(at: Situation) -> list[Found]:
    context, limit = at.facts.context, at.config.sampling.max_completion_tokens
    if context is None or limit < context:
        return []
    return [Found("sampling.max_completion_tokens", f"the model's context is {context} tokens, prompt included")]


def _form_only(at: Situation) -> list[Found]:
    trained = [item for item in at.config.rewards if item.role == "train" and item.weight > 0]
    if not trained or any(item.kind not in (None, "rule") for item in trained):
        return []
    for item in trained:
        words = re.split(r"[^a-z]+", f"{item.name} {item.source.rpartition(':')[2]}".lower())
        if not _FORM & set(words):
            return []
    names = ", ".join(item.name for item in trained)
    return [Found("rewards.0.source", f"{names}: nothing says whether an answer is right")]


def _signs(at: Situation) -> list[Found]:
    weights = [item.weight for item in at.config.rewards if item.role == "train"]
    if not (any(weight > 0 for weight in weights) and any(weight < 0 for weight in weights)):
        return []
    return [
        Found(f"rewards.{index}.weight", f"{item.name} is subtracted from what the other sources add")
        for index, item in enumerate(at.config.rewards)
        if item.role == "train" and item.weight < 0
    ]


def _slow_reward(at: Situation) -> list[Found]:
    return [
        Found(
            f"rewards.{index}.time_limit_s",
            f"a source that hangs holds each step up for {HELD_UP * item.time_limit_s / 60:.0f} minutes",
        )
        for index, item in enumerate(at.config.rewards)
        if item.time_limit_s > SLOW_REWARD_S
    ]


RULES: Final = (
    Rule(
        id="completion-exceeds-context",
        severity=Severity.ERROR,
        title="Completions may be longer than the model's context",
        explanation=(
            "Behind its last trained position a model has no idea where it is. Prompt and completion together must "
            "fit, or the run would stop after everything has been loaded."
        ),
        remedy="Lower sampling.max_completion_tokens, or choose a model with a longer context",
        source="max_position_embeddings in the model's config.json",
        check=_context,
        needs=("context",),
    ),
    Rule(
        id="generation-config-ignored",
        severity=Severity.INFO,
        title="The model's own sampling settings are not used in rollouts",
        explanation=(
            "top-p, top-k, min-p and penalties change the distribution that is sampled from, not the one that is "
            "scored, which biases every ratio without a sign. Other trainers took them over from the model folder. "
            "Here rollouts use the temperature of the recipe and nothing else."
        ),
        remedy="Nothing to do; deploy with the settings you trained with, or evaluate with those you deploy with",
        source="verl-project/verl#7270, huggingface/trl#6789, PrimeIntellect-ai/prime-rl#886",
        check=_generation,
        needs=("generation",),
    ),
    Rule(
        id="temperature-extreme",
        severity=Severity.WARNING,
        title="A sampling temperature at which groups teach little",
        explanation=(
            "Cold groups hold near copies of one completion, so their rewards are equal and their advantages 0. Hot "
            "ones hold text the model would not write. The papers train at 1."
        ),
        remedy="Set sampling.temperature to 1",
        source="DeepSeek-R1, arXiv 2501.12948; DAPO, arXiv 2503.14476",
        check=_temperature,
    ),
    Rule(
        id="one-prompt-per-update",
        severity=Severity.WARNING,
        title="One prompt for a whole update",
        explanation=(
            "The group is the baseline of one prompt, the batch averages over prompts. With one prompt an update "
            "follows that prompt alone, and a group without signal makes it empty. It is a common default elsewhere."
        ),
        remedy="Raise sampling.prompts_per_step to 16 or more, or lower training.minibatches",
        source="DeepSeek-R1 takes 32 prompts an update (arXiv 2501.12948), DAPO 32 (arXiv 2503.14476)",
        check=_one_prompt,
    ),
    Rule(
        id="dynamic-sampling-one-round",
        severity=Severity.WARNING,
        title="Dynamic sampling without refill",
        explanation=(
            "DAPO draws further prompts until the step is full. With one round it only drops groups: steps shrink as "
            "the model gets better, and the gradient gets noisier."
        ),
        remedy="Set sampling.max_rounds to 10",
        source="DAPO, arXiv 2503.14476, section 3.2",
        check=_one_round,
    ),
    Rule(
        id="dynamic-sampling-shaped",
        severity=Severity.INFO,
        title="Dynamic sampling on more than right or wrong",
        explanation=(
            "DAPO drops groups whose accuracy is 0 or 1. Here a group is dropped when its total rewards are all equal, "
            "so a format source or a graded reward keeps groups that the accuracy would drop."
        ),
        remedy="Train on the accuracy alone and give other sources the role shadow, if DAPO's filter is what you want",
        source="DAPO, arXiv 2503.14476, equation 11",
        check=_shaped,
    ),
    Rule(
        id="prompts-repeat-in-step",
        severity=Severity.WARNING,
        title="Fewer prompts than one step draws",
        explanation=(
            "Prompts then come several times within a step. Their groups are different draws, but each step is the "
            "same few prompts, and the model learns those."
        ),
        remedy="Lower sampling.prompts_per_step, or raise group_size, or find more prompts",
        source="grpo_audit.prompts.order: epochs without gaps",
        check=_repeats,
        needs=("prompts",),
    ),
    Rule(
        id="many-exposures",
        severity=Severity.INFO,
        title="Every prompt is drawn many times",
        explanation=(
            "The training reward then says less and less about prompts the model has not seen. Only the evaluation on "
            "other documents tells."
        ),
        remedy="Find more prompts, or fewer training.steps; the record counts each prompt's exposures",
        source="the exposure of each group in the record",
        check=_exposures,
        needs=("prompts",),
    ),
    Rule(
        id="rewards-form-only",
        severity=Severity.WARNING,
        title="Every reward judges the form",
        explanation=(
            "A model that is paid for tags, style or length learns those within a few steps, and its answers are free "
            "to get worse while the reward rises. Judged by the names of the sources."
        ),
        remedy="Add a source that judges the answer; waive this if one of these does",
        source="huggingface/open-r1#407 and others: rewards that rise while answers get worse",
        check=_form_only,
    ),
    Rule(
        id="rewards-mixed-signs",
        severity=Severity.INFO,
        title="A source with a negative weight",
        explanation=(
            "A negative weight turns a reward into a punishment. That is meant for a penalty, and is a mistake where "
            "the source already returns negative numbers."
        ),
        remedy="Nothing to do for a penalty; else write a positive weight",
        source="the total reward is the weighted sum of the train sources",
        check=_signs,
    ),
    Rule(
        id="reward-time-limit",
        severity=Severity.WARNING,
        title="A reward source may hold every step up for long",
        explanation=(
            "When a call runs into its limit the rows are tried one by one, for six limits altogether. With a long "
            "limit one hanging row makes a step last for hours."
        ),
        remedy="Set time_limit_s to a few times what one call takes",
        source="grpo_audit.rewards.sources.RETRY_CAP",
        check=_slow_reward,
    ),
)
