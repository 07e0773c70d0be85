"""(20) What was registered before step 0 agrees with itself and with the texts recorded beside it."""

from __future__ import annotations

import hashlib

from pydantic import ValidationError

import grpo_audit
from grpo_audit.config.formula import manifest
from grpo_audit.config.load import differences
from grpo_audit.config.presets import PRESETS
from grpo_audit.config.run import RunConfig
from grpo_audit.record.events import EvaluationPlan, RewardIdentity, RunRegistered
from grpo_audit.verify.recompute.texts import Texts
from grpo_audit.verify.verdict import Tally


def read_config(registered: RunRegistered, tally: Tally) -> RunConfig | None:
    """The configuration, when it is a valid and complete one."""
    tally.saw()
    try:
        config = RunConfig.model_validate(registered.config, strict=False)
    except (ValidationError, ValueError) as error:
        tally.wrong(f"the configuration is not valid: {str(error).splitlines()[0]}")
        return None
    return config


def check_registration(registered: RunRegistered, config: RunConfig, tally: Tally) -> None:
    """Formula, preset, rewards and plan are those of the configuration."""
    _check_words(registered, config, tally)
    tally.saw()
    if [item.name for item in registered.rewards] != [item.name for item in config.rewards]:
        tally.wrong("the reward sources registered are not those of the configuration")
    for identity in registered.rewards:
        _check_reward(identity, config, tally)
    _check_plan(registered.evaluation, config, tally)


def _check_words(registered: RunRegistered, config: RunConfig, tally: Tally) -> None:
    """The formula and the preset's differences are words of a program version; another version may word them anew."""
    here = f"grpo-audit {grpo_audit.__version__}"
    if registered.tool != here:
        tally.remark(f"formula and preset differences not compared: written by {registered.tool}, this is {here}")
        return
    tally.saw(3)
    formula = manifest(config.objective, config.sampling)
    for part in sorted(formula.keys() | registered.formula.keys()):
        if formula.get(part) != registered.formula.get(part):
            tally.wrong(f"formula, {part}: recorded {registered.formula.get(part)!r}, the configuration gives another")
    preset = PRESETS.get(config.preset)
    if preset is None or registered.preset != config.preset:
        tally.wrong(f"the preset registered is {registered.preset!r}, the configuration names {config.preset!r}")
        return
    if registered.preset_source != preset.source:
        tally.wrong(f"source of the preset: recorded {registered.preset_source!r}, it is {preset.source!r}")
    found = differences(config, preset)
    if found != registered.preset_differences:
        listed = {item.path for item in found} ^ {item.path for item in registered.preset_differences}
        tally.wrong(f"differences from the preset are other ones: {', '.join(sorted(listed)) or 'other values'}")


def _check_reward(identity: RewardIdentity, config: RunConfig, tally: Tally) -> None:
    tally.saw()
    stated = next((item for item in config.rewards if item.name == identity.name), None)
    if stated is None:
        return
    pairs = {
        "function": (identity.source, stated.source),
        "role": (identity.role, stated.role),
        "weight": (identity.weight, stated.weight),
        "time limit": (identity.time_limit_s, stated.time_limit_s),
        "kind": (identity.kind, stated.kind or identity.kind),
        "options": ({name: identity.options.get(name) for name in stated.options}, dict(stated.options)),
    }
    for what, (registered, configured) in pairs.items():
        if registered != configured:
            tally.wrong(f"reward {identity.name}: {what} registered as {registered!r}, configured as {configured!r}")


def _check_plan(plan: EvaluationPlan | None, config: RunConfig, tally: Tally) -> None:
    tally.saw()
    settings = config.evaluation
    if plan is None:
        if settings.suite is not None:
            tally.wrong(f"no evaluation was planned, although the configuration names the suite {settings.suite}")
        return
    if plan.alpha != settings.alpha:
        tally.wrong(f"alpha of the plan is {plan.alpha}, configured {settings.alpha}")
    for task in plan.tasks:
        tally.saw()
        margin = settings.margins.get(task.task, settings.margin)
        if task.margin != margin:
            tally.wrong(f"margin of {task.task} in the plan is {task.margin}, configured {margin}")


def check_texts(registered: RunRegistered, texts: Texts, tally: Tally) -> None:
    """Each source text that the registration names by digest is there and has that digest."""
    for identity in registered.rewards:
        named = {identity.name: identity.source_digest}
        named |= {f"{identity.name}/{file}": digest for file, digest in identity.modules.items()}
        for name, digest in named.items():
            _check_text(texts, "reward source", name, digest, tally)
    if registered.evaluation is not None:
        for name in texts.names("evaluation protocol"):
            _check_text(texts, "evaluation protocol", name, registered.evaluation.protocol_digest, tally)
    if texts.erased:
        tally.remark(f"{len(texts.erased)} texts were erased: {', '.join(texts.erased[:3])}")


def _check_text(texts: Texts, role: str, name: str, digest: str, tally: Tally) -> None:
    recorded = texts.digest(role, name)
    if recorded is None:
        if texts.names(role):
            tally.wrong(f"{role} {name}: no artifact of this name was recorded")
        return
    tally.saw()
    text = texts.get(role, name)
    if recorded != digest or (text is not None and plain_digest(text) != digest):
        tally.wrong(f"{role} {name}: the text recorded is not the one registered ({digest[:20]})")


def plain_digest(data: bytes) -> str:
    """``sha256:`` and the digest."""
    return "sha256:" + hashlib.sha256(data).hexdigest()
