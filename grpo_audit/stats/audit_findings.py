"""Rules about what surrounds training: contamination of the prompts, holes in the rewards, shadows that fall."""

from __future__ import annotations

from grpo_audit.config.sections import RESERVED_REWARDS
from grpo_audit.contamination.findings import findings as of_contamination
from grpo_audit.record.events import Finding, Severity
from grpo_audit.stats.run_evidence import RunEvidence, ends_of, noticed


def contamination(evidence: RunEvidence) -> list[Finding]:
    """What the check of the prompts found; see ``grpo_audit.contamination.findings``."""
    if evidence.decontamination is None:
        return []
    seq, found = evidence.decontamination
    return of_contamination(found, evidence.expected, [seq])


def known_exploits(evidence: RunEvidence) -> list[Finding]:
    """Probes found a way to be rewarded without doing the task."""
    findings = []
    for seq, probed in evidence.probed:
        holes = [family for family in probed.families if family.false_positives]
        if not holes:
            continue
        named = ", ".join(f"{family.family} {family.false_positives} of {family.negatives}" for family in holes)
        trained = probed.source in evidence.trained_on
        findings.append(
            noticed(
                "reward-exploit",
                Severity.WARNING if trained else Severity.INFO,
                f"{probed.source} rewards what it must not ({named}).",
                [seq],
            )
        )
    return findings


def reward_hangs(evidence: RunEvidence) -> list[Finding]:
    """A probe made a reward source hang, die or raise."""
    return [
        noticed(
            "reward-probe-failures",
            Severity.WARNING if probed.source in evidence.trained_on else Severity.INFO,
            f"{probed.source} failed on {failures} of {probed.probes} probes "
            f"({', '.join(family.family for family in probed.families if family.failures)}).",
            [seq],
        )
        for seq, probed in evidence.probed
        if (failures := sum(family.failures for family in probed.families))
    ]


def verifiers_disagree(evidence: RunEvidence) -> list[Finding]:
    """The second verifier does not reward what the source rewards, or does so less and less."""
    findings = []
    limits = evidence.limits
    for seq, regraded in evidence.regraded:
        asked = regraded.rollouts + regraded.failures
        if regraded.failures > limits.reward_errors * asked:
            findings.append(
                noticed(
                    "second-verifier-failed",
                    Severity.WARNING,
                    f"{regraded.second} failed on {regraded.failures} of {asked} rollouts: of these it is not known "
                    f"whether {regraded.source} rewards what it should not.",
                    [seq],
                )
            )
        if not regraded.rollouts:
            continue
        share = regraded.only_first / regraded.rollouts
        early, late = regraded.early_only_first, regraded.late_only_first
        events = [seq, *regraded.examples]
        if early is not None and late is not None and late - early > limits.disagreement_rise:
            findings.append(
                noticed(
                    "reward-gamed",
                    Severity.WARNING,
                    f"{regraded.source} pays more and more for what {regraded.second} does not reward: {early:.1%} of "
                    f"the rollouts at the beginning, {late:.1%} at the end.",
                    events,
                )
            )
        elif share > limits.disagreement:
            findings.append(
                noticed(
                    "verifiers-disagree",
                    Severity.WARNING,
                    f"{regraded.source} rewards {regraded.only_first} of {regraded.rollouts} rollouts that "
                    f"{regraded.second} does not reward (limit {limits.disagreement:.0%}).",
                    events,
                )
            )
    return findings


def shadow_falls(evidence: RunEvidence) -> list[Finding]:
    """The reward rose while a shadow source, which training does not see, fell."""
    ends = ends_of(evidence, lambda step: step.reward_mean)
    if not evidence.trained_on or ends is None or ends.last - ends.first <= evidence.limits.reward_rise:
        return []
    names = {name for _, step in evidence.steps for name in step.rewards} - evidence.trained_on - set(RESERVED_REWARDS)
    findings = []
    for name in sorted(names):
        shadow = ends_of(evidence, lambda step, name=name: step.rewards.get(name))  # type: ignore[misc]
        if shadow is None or shadow.first - shadow.last <= evidence.limits.reward_rise:
            continue
        findings.append(
            noticed(
                "reward-up-shadow-down",
                Severity.WARNING,
                f"The mean reward rose from {ends.first:.3g} to {ends.last:.3g} while the shadow source {name} fell "
                f"from {shadow.first:.3g} to {shadow.last:.3g}.",
                [*ends.evidence, *shadow.evidence],
            )
        )
    return findings
