"""Group E: what the model was rewarded for."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict

from grpo_audit.catalogue.field import (
    Field,
    Group,
    about,
    derived,
    for_all,
    for_regulator,
    measured,
    not_applicable,
    unknown,
)
from grpo_audit.catalogue.run import Run, fill
from grpo_audit.record.events import EventKind


class Source(BaseModel):
    """One reward source as registered."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    name: str
    """As the record calls it."""
    role: str
    """``train`` or ``shadow``."""
    weight: float
    """Factor in the sum of rewards."""
    kind: str
    """Rule, verifier, reward model or judge."""
    function: str
    """Module and function."""
    digest: str
    """SHA-256 of its source file."""
    version: str
    """Its version."""
    domain: str | None
    """What it can judge."""
    time_limit_s: float
    """Seconds one call may take."""
    facts: dict[str, str]
    """What it found out about itself: digest of its weights, what its sandbox enforces."""

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}, {self.role}, weight {self.weight:g})"


class Rewards(Group):
    """What the model was rewarded for."""

    sources: Annotated[Field[list[Source]], for_all()]
    """Each reward source: name, role, weight, kind, source digest, version, domain, limits."""
    source_texts: Annotated[Field[str], for_regulator()]
    """The source text of the reward functions, kept in the record by digest."""
    judge: Annotated[Field[str], for_regulator()]
    """Model and prompt of a judge, and the weights of a reward model, as the source reported them."""
    error_policy: Annotated[Field[str], for_regulator()]
    """What happens when a source fails or hangs."""
    errors: Annotated[Field[dict[str, int]], for_regulator()]
    """Failed calls by source."""
    human_knowledge: Annotated[Field[str], for_regulator("governance.human_knowledge")]
    """Human knowledge that entered through rewards and prompts: labels, preferences, rubrics."""
    probes: Annotated[Field[str], for_regulator(annotate=True)]
    """What probing the sources with degenerate answers showed."""
    known_exploits: Annotated[Field[str], for_regulator("governance.known_exploits")]
    """Known ways to get reward without doing the task."""
    changes: Annotated[Field[str], for_regulator()]
    """Changes of a source during the run."""


def rewards(run: Run) -> Rewards:
    """Group E of a run."""
    registered, at = run.registered.payload, run.at
    found = [
        Source(
            **item.model_dump(include={"name", "role", "weight", "kind", "version", "domain", "time_limit_s", "facts"}),
            function=item.source,
            digest=item.source_digest,
        )
        for item in registered.rewards
    ]
    return fill(
        Rewards,
        "rewards",
        run,
        sources=measured(found, at),
        source_texts=_texts(run),
        judge=_judge(run, found),
        error_policy=derived(
            "a call that fails or exceeds its limit gives no reward; the completion is left out, not given 0",
            at,
            note="how this version of the trainer treats them",
        ),
        errors=_errors(run),
        probes=_probes(run),
        known_exploits=_known_exploits(run),
        changes=derived(
            "none: a run goes on only with the registered sources, by digest",
            at,
            *(entry.seq for entry in run.resumed),
            note="resuming compares source digests, options and modules",
        ),
    )


def _texts(run: Run) -> Field[Any]:
    kept = {entry.payload.digest: entry for entry in run.by_role("reward source")}
    wanted = [item.source_digest for item in run.registered.payload.rewards]
    have = [kept[digest] for digest in dict.fromkeys(wanted) if digest in kept]
    if not have:
        return unknown("the record holds no source text of a reward source")
    text = f"source text of {sum(digest in kept for digest in wanted)} of {len(wanted)} sources"
    return measured(text, *(entry.seq for entry in have), *(entry.payload.digest for entry in have))


def _judge(run: Run, found: list[Source]) -> Field[Any]:
    models = [item for item in found if item.kind in ("judge", "reward model")]
    if not models:
        return not_applicable("no source is a judge or a reward model", run.at)
    said = [f"{item.name}: {key} {value}" for item in models for key, value in sorted(item.facts.items())]
    return measured("; ".join(said) or None, run.at, unknown="the sources reported nothing about their model")


def _errors(run: Run) -> Field[Any]:
    span = run.span(EventKind.ROLLOUT)
    if span is None:
        return unknown("no rollout was recorded")
    return derived(run.sums.reward_errors, span, note="counted over every rollout")


def _probes(run: Run) -> Field[Any]:
    """What was asked of each source, and how often it was wrong."""
    if not run.probed:
        return unknown("the reward sources were not probed")
    parts = []
    for entry in run.probed:
        found = entry.payload
        if not found.probes:
            parts.append(f"{found.source}: not probed ({found.not_probed})")
            continue
        wrong = sum(family.false_positives for family in found.families)
        missed = sum(family.false_negatives for family in found.families)
        failed = sum(family.failures for family in found.families)
        parts.append(
            f"{found.source}: {found.probes} probes in {len(found.families)} families, {wrong} wrongly rewarded, "
            f"{missed} wrongly refused, {failed} failed"
        )
    parts += [
        f"{entry.payload.source}: {entry.payload.only_first} of {entry.payload.rollouts} rollouts rewarded that the "
        f"second verifier {entry.payload.second} does not reward"
        for entry in run.regraded
    ]
    return measured("; ".join(parts), *(entry.seq for entry in run.probed), *(entry.seq for entry in run.regraded))


def _known_exploits(run: Run) -> Field[Any]:
    """The families of probes that were rewarded wrongly, and what people declare."""
    said = run.said("rewards.known_exploits", about(Rewards.model_fields["known_exploits"]))
    asked = [entry for entry in run.probed if entry.payload.probes]
    if not asked:
        return said
    found = [
        f"{entry.payload.source}: {family.family} ({family.false_positives} of {family.negatives})"
        for entry in asked
        for family in entry.payload.families
        if family.false_positives
    ]
    text = "; ".join(found) or f"none found by {sum(entry.payload.probes for entry in asked):,} probes"
    if said.value is not None:
        text += f"; declared: {said.value}"
    return measured(text, *(entry.seq for entry in asked), *said.pointer.seqs, note="found by probing")
