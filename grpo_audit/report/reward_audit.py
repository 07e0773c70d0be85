"""The rewards under audit: what probes and second verifiers showed, from events to rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from grpo_audit.catalogue.reader import Entry, RunReader
from grpo_audit.record.audits import RewardProbed, RewardRegraded
from grpo_audit.report.evidence import Absence, Evidence, Fact, Source, absent, measured
from grpo_audit.report.model_checks import ExploitRow, Probed, ProbeRow, RegradeRow, RewardAudit
from grpo_audit.report.numbers import significant, whole
from grpo_audit.report.visible import shortened

NOT_PROBED = "The reward sources were not probed, and no second verifier graded rollouts again."
_NOT_MEASURED = Absence.NOT_MEASURED
EXPLOITS = 6
"""Wrongly judged probes that are spelled out for each source."""


def reward_audit(
    reader: RunReader, probed: Sequence[Entry[RewardProbed]], regraded: Sequence[Entry[RewardRegraded]]
) -> RewardAudit:
    """What probes and second verifiers showed of each source."""
    return RewardAudit(
        tuple(_probed(entry, reader.text(entry.seq, "examples")) for entry in probed),
        tuple(_regraded(entry) for entry in regraded),
        "" if probed or regraded else NOT_PROBED,
    )


def _probed(entry: Entry[RewardProbed], texts: str | None) -> Probed:
    payload, seq = entry.payload, entry.seq
    wrong = [item for item in payload.families if _is_wrong(item)]
    probes = _texts(texts)
    facts: tuple[Fact, ...] = ()
    if payload.probes:
        facts = (
            measured("Probes", f"{whole(payload.probes)} in {len(payload.families)} families", seq),
            measured("Rows they are made of", whole(payload.rows), seq),
            _right_completions(payload, seq),
            measured("May be judged either way", _leniency(payload), seq),
            measured("Counts as rewarded", f"from {significant(payload.threshold)}", seq),
            measured(
                "Time for a call",
                f"{significant(1000 * payload.seconds_per_call)} ms in the mean, "
                f"{significant(1000 * payload.seconds_worst)} ms at worst",
                seq,
            ),
        )
    return Probed(
        name=payload.source,
        rows=tuple(
            ProbeRow(
                item.family,
                item.negatives,
                item.false_positives,
                item.false_positive_high,
                item.positives,
                item.false_negatives,
                item.false_negative_high,
                item.failures,
                item.unstable,
            )
            for item in wrong
        ),
        quiet=len(payload.families) - len(wrong),
        exploits=tuple(
            ExploitRow(item.family, shortened(item.what), probes[place] if place < len(probes) else None)
            for place, item in enumerate(payload.examples[:EXPLOITS])
        ),
        facts=facts,
        missing=payload.not_probed,
        source=Source(Evidence.MEASURED, (seq,)),
    )


def _right_completions(payload: RewardProbed, seq: int) -> Fact:
    """Where they came from: without them nothing that must be rewarded could be asked."""
    if not payload.gold:
        return absent("Right completions", "none was found: only what must not be rewarded was asked", _NOT_MEASURED)
    forms = f", as {', '.join(payload.formats)}" if payload.formats else ""
    return measured("Right completions", f"{payload.gold}{forms}", seq)


def _leniency(payload: RewardProbed) -> str:
    """Probes that a verifier may judge as it likes, and how many of them this one rewards."""
    asked = sum(family.open for family in payload.families)
    return f"{whole(sum(family.open_rewarded for family in payload.families))} of {whole(asked)} rewarded"


def _is_wrong(item: object) -> bool:
    return any(getattr(item, name) for name in ("false_positives", "false_negatives", "failures", "unstable"))


def _texts(content: str | None) -> list[str]:
    """The probes' texts, in the order of the examples; none when they were erased or cannot be read."""
    if content is None:
        return []
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return []
    if not isinstance(found, list):
        return []
    return [shortened(str(item.get("completion", "")) if isinstance(item, Mapping) else str(item)) for item in found]


def _regraded(entry: Entry[RewardRegraded]) -> RegradeRow:
    item = entry.payload
    return RegradeRow(
        name=item.source,
        second=item.second,
        rollouts=item.rollouts,
        both=item.both,
        only_first=item.only_first,
        only_second=item.only_second,
        neither=item.neither,
        failures=item.failures,
        kappa=item.kappa,
        early=item.early_only_first,
        late=item.late_only_first,
        source=Source(Evidence.MEASURED, (entry.seq, *item.examples[:3])),
    )


def audit_sentence(found: RewardAudit) -> str:
    """What the reader must know of the rewards; empty when nothing was found or looked at."""
    holes = [item.name for item in found.probed if any(row.false_positives for row in item.rows)]
    if not holes:
        return ""
    return f"Probes found ways to be rewarded without the task: {', '.join(holes)}."
