"""Every rule: first what makes a run wrong, then what makes it weak, then what a reader of the record will miss."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from grpo_audit.config.run import RunConfig
from grpo_audit.errors import ConfigError
from grpo_audit.preflight import objective_rules, run_rules, sampling_rules, surrogate_rules
from grpo_audit.preflight.rule import Rule
from grpo_audit.record.events import Severity

UNUSED_WAIVER: Final = Rule(
    id="unused-waiver",
    severity=Severity.INFO,
    title="A waiver that nothing triggers",
    explanation="The rule it names found nothing, so the reason stands in the record for a problem that is not there.",
    remedy="Remove it from waive",
    source="waive in the recipe",
    check=lambda _: [],
)
"""Found by ``inspect`` itself, once all others have been looked at."""

_ALL: Final = (*surrogate_rules.RULES, *objective_rules.RULES, *sampling_rules.RULES, *run_rules.RULES, UNUSED_WAIVER)

GRAVITY: Final = tuple(reversed(Severity))
"""Most severe first."""

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {rule.id: rule for rule in sorted(_ALL, key=lambda rule: GRAVITY.index(rule.severity))}
)
"""By id: errors first, then warnings, then what is only worth knowing."""


def find(rule_id: str, *, where: str) -> Rule:
    """The rule of this id. ``where`` says who asked for it. Raises ConfigError naming the nearest one."""
    rule = RULES.get(rule_id)
    if rule is not None:
        return rule
    near = difflib.get_close_matches(rule_id[:100].lower(), RULES, n=1, cutoff=0.4)
    raise ConfigError(
        f"Unknown preflight rule in {where}",
        found=repr(rule_id if len(rule_id) <= 60 else rule_id[:57] + "..."),
        expected=f"something like {near[0]}" if near else "the id of a rule",
        next_step="grpo-audit lint --rules names all of them",
    )


def check_waivers(config: RunConfig) -> None:
    """Every waiver names a rule and gives a reason. Raises ConfigError."""
    for rule_id, reason in config.waive.items():
        rule = find(rule_id, where="waive")
        if rule is UNUSED_WAIVER:
            raise ConfigError(f"waive.{rule_id} waives nothing", next_step="Remove the waiver that is not used instead")
        if not reason.strip():
            raise ConfigError(
                f"waive.{rule_id} has no reason",
                expected="a sentence for the record that says why the rule does not apply",
            )
        if not reason.isascii() and reason.encode(errors="ignore").decode() != reason:
            raise ConfigError(
                f"waive.{rule_id} cannot be recorded",
                found="half of a surrogate pair",
                expected="a reason in plain text",
            )


def explain(rule: Rule) -> str:
    """A rule in full, as plain text."""
    return "\n".join(
        (
            f"{rule.id}  ({rule.severity.value})",
            rule.title + ".",
            "",
            rule.explanation,
            "",
            f"Remedy: {rule.remedy}.",
            f"Source: {rule.source}.",
            *([f"Needs to know: {', '.join(rule.needs)}."] if rule.needs else []),
            *([] if rule is UNUSED_WAIVER else [f"To waive it: waive: {{{rule.id}: the reason, for the record}}"]),
        )
    )
