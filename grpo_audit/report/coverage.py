"""The fields a release record is asked for (the seed list of the design), each with its value or why it is missing.

The right-hand column names who asks: MDF is the Model Documentation Form of the EU Code of Practice; the others are
sections of the EU AI Act's annexes, of NIST AI 600-1 and of ISO/IEC 42001. A row documents what they ask for; it says
nothing about conformity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from grpo_audit.report.evidence import Absence, Evidence, Fact, Source, absent
from grpo_audit.report.governance import value_of
from grpo_audit.report.model import (
    Budget,
    CoverageRow,
    Governance,
    Lineage,
    Method,
    Rejections,
    Release,
    ReleaseRow,
    RewardSource,
)
from grpo_audit.report.numbers import figure, signed, whole

BEHAVIOURS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("Performance", ("performance",), "Annex XI 2(b), MS-2.3-001"),
    ("Hallucination", ("hallucination", "unanswerable"), "MS-2.5-001"),
    ("Refusal calibration", ("refusal",), "MS-2.6-003"),
    ("Jailbreak robustness", ("jailbreak",), "MS-2.7-008"),
    ("Harmful capability", ("harmful", "hazard"), "MS-2.7-008, Annex XI section 2"),
    ("Benchmark contamination", ("contamination",), "MS-2.11-001"),
    ("Multilingual behaviour", ("multilingual", "language"), "MS-2.5-001"),
    ("Tool use", ("tool",), "MS-2.5-001"),
    ("Safety regressions", ("safety",), "MS-2.7-008"),
)
"""Name in the seed list, words by which a task's behaviour is recognised, who asks."""


def coverage(
    method: Method,
    rewards: tuple[RewardSource, ...],
    prompts: tuple[Fact, ...],
    rejections: Rejections,
    budget: Budget,
    release: Release,
    lineage: Lineage,
    governance: Governance,
) -> tuple[CoverageRow, ...]:
    """All rows, in the order of the seed list."""
    rows = [
        *_training_rows(method, rewards, prompts, rejections, lineage),
        *_budget_rows(budget),
        *_release_rows(release, governance),
        *_link_rows(release, governance, prompts),
    ]
    return tuple(rows)


def _training_rows(
    method: Method,
    rewards: tuple[RewardSource, ...],
    prompts: tuple[Fact, ...],
    rejections: Rejections,
    lineage: Lineage,
) -> Iterator[CoverageRow]:
    settings = [fact for _, facts in method.groups for fact in facts]
    base = next(facts for title, facts in lineage.stages if title == "Base model")
    before = next(facts for title, facts in lineage.stages if title == "Stages before this run")

    def row(label: str, fact: Fact, asked: str, anchor: str) -> CoverageRow:
        return _row("Training", label, fact, asked, anchor)

    yield row("Base model", _find(base, "Weights"), "MDF, GV-1.6-003, CycloneDX pedigree", "lineage")
    yield row("Stages before GRPO", before[0], "MDF, Annex XI 2(b)", "lineage")
    yield row("Reference policy", _find(settings, "Reference policy"), "Annex XI 2(b)", "method")
    yield row("Old-policy snapshot", _find(settings, "Old policy"), "Annex XI 2(b)", "method")
    yield row("Reward sources", _reward_fact(rewards), "MS-2.5-002, Annex XI “optimise for”", "rewards")
    yield row("Verifier code or specification", _code_fact(rewards), "MS-2.5-002", "rewards")
    yield row("Prompt distribution", _find(prompts, "Digest of the rows"), "Annex XI 2(c), MDF", "prompts")
    yield row("Prompt provenance", _find(prompts, "Provenance"), "Annex XI 2(c), A.7.5", "prompts")
    yield row("Sampling temperature", _find(settings, "Temperature"), "Annex XI 2(b)", "method")
    yield row("Other sampler settings", _find(settings, "Top-p, top-k, min-p, penalties"), "Annex XI 2(b)", "method")
    yield row("Group size", _find(settings, "Group size G"), "Annex XI 2(b)", "method")
    yield row("Reward normalisation", _find(settings, "Normaliser"), "Annex XI 2(b)", "method")
    yield row("Clip settings", _clip(settings), "Annex XI 2(b)", "method")
    yield row("KL settings", _find(settings, "β, weight of the penalty"), "Annex XI 2(b)", "method")
    yield row("Loss variant", _find(settings, "Aggregation"), "MS-2.9-002", "method")
    yield row("Rejected samples", _rejected(rejections), "MDF", "rejected")
    yield row("Decontamination checks", _find(prompts, "Decontamination"), "MS-2.11-001", "prompts")


def _budget_rows(budget: Budget) -> Iterator[CoverageRow]:
    for label, fact in (
        ("Tokens", _tokens(budget)),
        ("FLOP", _find(budget.facts, "FLOP, all phases")),
        ("Wall-clock", _find(budget.facts, "Wall-clock, all phases")),
        ("Energy", _find(budget.facts, "Energy")),
    ):
        asked = "MS-2.12-003, Annex XI 2(e)" if label == "Energy" else "Annex XI 2(d), MDF"
        yield _row("Budget", label, fact, asked, "budget")


def _release_rows(release: Release, governance: Governance) -> Iterator[CoverageRow]:
    for label, words, asked in BEHAVIOURS:
        yield _row("Release, before and after", label, _behaviour(release, label, words), asked, "release")
    fact = value_of(governance, "Reasoning traces shown to users")
    yield _row("Release, before and after", "Reasoning-trace policy", fact, "MDF", "governance")


def _link_rows(release: Release, governance: Governance, prompts: tuple[Fact, ...]) -> Iterator[CoverageRow]:
    for label, fact, asked, anchor in (
        ("AI system inventory", value_of(governance, "AI system inventory"), "GV-1.6-003", "governance"),
        ("Model card", _here("MODEL_CARD.md beside this report"), "Hub, MDF", "record"),
        ("Audit trail", _here("the record this report was rendered from"), "A.6.2.8, Art-12-style", "record"),
        ("Data provenance record", _find(prompts, "Digest of the rows"), "A.7.5, SPDX", "prompts"),
        ("Evaluation file", _evaluation(release), "MS-2.3-001", "release"),
        ("Change management", value_of(governance, "Change management"), "Annex IV 2(g)", "governance"),
        ("Post-market monitoring plan", value_of(governance, "Post-market monitoring plan"), "Annex IV", "governance"),
    ):
        yield _row("Links", label, fact, asked, anchor)


def _row(group: str, label: str, fact: Fact, asked: str, anchor: str) -> CoverageRow:
    return CoverageRow(group, Fact(label, fact.value, fact.source, fact.mono), asked, anchor)


def _find(facts: Iterable[Fact], label: str) -> Fact:
    """A fact of another section; its absence there is a mistake of this program, not of the record."""
    for fact in facts:
        if fact.label == label:
            return fact
    raise KeyError(label)


def _reward_fact(rewards: tuple[RewardSource, ...]) -> Fact:
    words = ", ".join(f"{item.name} ({item.kind}, {item.role}, weight {item.weight:g})" for item in rewards)
    return Fact("", words, rewards[0].source) if rewards else absent("", "no reward source was registered")


def _code_fact(rewards: tuple[RewardSource, ...]) -> Fact:
    kept = [item for item in rewards if item.text is not None]
    if not kept:
        return absent("", "the record holds no source text")
    seqs = tuple(dict.fromkeys(seq for item in kept for seq in item.source.seqs))
    return Fact("", f"source text of {len(kept)} of {len(rewards)} sources", Source(Evidence.MEASURED, seqs))


def _clip(settings: list[Fact]) -> Fact:
    low, high = _find(settings, "Clip below, 1 −"), _find(settings, "Clip above, 1 +")
    return Fact("", f"ratio within 1 − {low.value} and 1 + {high.value}", low.source)


def _rejected(rejections: Rejections) -> Fact:
    if rejections.missing:
        return absent("", rejections.missing)
    left_out = rejections.rollouts - rejections.used
    return Fact("", f"{whole(left_out)} of {whole(rejections.rollouts)} rollouts", rejections.source)


def _tokens(budget: Budget) -> Fact:
    rows = [row for row in budget.rows if row.prompt_tokens is not None and row.completion_tokens is not None]
    if not rows:
        return absent("", "no training step was recorded")
    row = rows[0]
    value = f"training: {whole(row.prompt_tokens or 0)} prompt, {whole(row.completion_tokens or 0)} completion"
    return Fact("", value, Source(Evidence.MEASURED, row.source.seqs, row.source.spans))


def _behaviour(release: Release, label: str, words: tuple[str, ...]) -> Fact:
    rows = [row for row in release.rows if any(word in row.behaviour.lower() for word in words)]
    if label == "Safety regressions" and not rows:
        rows = [row for row in release.rows if row.safety]
    if not rows:
        return absent("", "no task of the suite covers it", Absence.NOT_MEASURED)
    compared = [row for row in rows if row.verdict is not None]
    if not compared:
        return absent("", "planned, but no comparison was recorded", Absence.NOT_COMPARED)
    value = "; ".join(_result(row) for row in compared)
    seqs = tuple(dict.fromkeys(seq for row in compared for seq in row.source.seqs))
    return Fact("", value, Source(Evidence.MEASURED, seqs))


def _result(row: ReleaseRow) -> str:
    assert row.pre is not None and row.post is not None and row.difference is not None
    return f"{row.task} {figure(row.pre)} → {figure(row.post)} ({signed(row.difference)}; {row.verdict})"


def _evaluation(release: Release) -> Fact:
    for fact in release.facts:
        if fact.label == "Protocol":
            return fact
    return absent("", "no evaluation plan was registered")


def _here(what: str) -> Fact:
    return Fact("", what, Source(Evidence.DERIVED, note="made from this record"))
