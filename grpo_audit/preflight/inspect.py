"""All rules over one recipe: what they found, what is waived and why, and what could not be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grpo_audit.config.presets import PresetDifference
from grpo_audit.config.run import RunConfig
from grpo_audit.errors import ConfigError
from grpo_audit.preflight.rule import Facts, Found, Rule, Situation, value_of
from grpo_audit.preflight.rules import RULES, UNUSED_WAIVER, check_waivers
from grpo_audit.record import events
from grpo_audit.record.events import Severity

PREFIX: Final = "preflight/"
"""Before the rule's id in the record, where other checks write findings too."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule found at one key."""

    rule: Rule
    where: str
    value: str
    """Of the key, as a recipe would write it."""
    message: str
    waived: str | None = None
    """The reason, where the recipe waives the rule."""

    @property
    def line(self) -> str:
        """One line for people: which rule, where, what it does, what to write."""
        return f"{self.rule.id}: {self.where} is {self.value}: {self.message}. {self.rule.remedy}."

    def event(self, evidence: Sequence[int]) -> events.Finding:
        """For the record. A waived finding is only worth knowing, and says which severity was waived and why."""
        what = f"{self.rule.title}: {self.where} is {self.value}; {self.message}."
        severity = self.rule.severity
        if self.waived is not None:
            what, severity = f"{what} Waived ({severity.value}): {self.waived}", Severity.INFO
        return events.Finding(rule=PREFIX + self.rule.id, severity=severity, message=what, evidence=list(evidence))


@dataclass(frozen=True, slots=True)
class Preflight:
    """The outcome."""

    findings: tuple[Finding, ...]
    """Most severe first, then in the order of the rules."""
    not_checked: tuple[tuple[Rule, str], ...]
    """Rules that need to know something unknown, and why it is."""

    def open(self, severity: Severity) -> list[Finding]:
        """Findings of a severity that are not waived."""
        return [item for item in self.findings if item.rule.severity is severity and item.waived is None]

    def refuse_errors(self) -> None:
        """Raise ConfigError for the first error that is not waived; further ones are counted."""
        errors = self.open(Severity.ERROR)
        if not errors:
            return
        first, more = errors[0], len(errors) - 1
        counted = f"{more} more error{'s' if more > 1 else ''} after this one: see grpo-audit lint. " if more else ""
        raise ConfigError(
            f"Preflight: {first.rule.title} ({first.rule.id})",
            found=f"{first.where} is {first.value}: {first.message}",
            next_step=f"{first.rule.remedy}, or waive it: waive: {{{first.rule.id}: REASON}}. {counted}",
        )


def inspect(config: RunConfig, differences: Sequence[PresetDifference], facts: Facts | None = None) -> Preflight:
    """Look at a configuration with every rule.

    Args:
        config: the resolved configuration.
        differences: numbers of the preset that it does not use, as ``config.load`` finds them.
        facts: what is known besides; None for nothing.

    Raises ConfigError for a waiver that names no rule or gives no reason.
    """
    check_waivers(config)
    situation = Situation(config, differences, facts or Facts())
    findings: list[Finding] = []
    not_checked: list[tuple[Rule, str]] = []
    for rule in RULES.values():
        missing = [name for name in rule.needs if getattr(situation.facts, name) is None]
        if missing:
            not_checked.append((rule, situation.facts.unknown.get(missing[0], f"{missing[0]} is not known")))
        findings += [_finding(config, rule, item) for item in rule.check(situation)] if not missing else []
    findings += _unused(config, findings, {rule.id for rule, _ in not_checked})  # the last rule of all
    return Preflight(tuple(findings), tuple(not_checked))


def _finding(config: RunConfig, rule: Rule, found: Found) -> Finding:
    return Finding(rule, found.where, value_of(config, found.where), found.message, config.waive.get(rule.id))


def _unused(config: RunConfig, findings: Sequence[Finding], not_checked: set[str]) -> list[Finding]:
    """A waiver of a rule that was not looked at may still be needed."""
    used = {item.rule.id for item in findings} | not_checked
    return [
        Finding(UNUSED_WAIVER, f"waive.{rule_id}", "set", f"{rule_id} found nothing here")
        for rule_id in config.waive
        if rule_id not in used
    ]
