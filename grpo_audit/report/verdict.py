"""The box at the top: does the record hold, did the run end, what came out; and what none of this shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from grpo_audit.catalogue.reader import Entry
from grpo_audit.ledger.memory import Head
from grpo_audit.ledger.runs import RunOverview, RunState
from grpo_audit.record.events import Comparison, Finding, RunSealed, Severity, Verdict
from grpo_audit.report.checks import gate_sentence
from grpo_audit.report.evidence import Evidence, Source, nothing
from grpo_audit.report.model import Release, Standing, Statement, VerdictBox
from grpo_audit.report.model_checks import Gates
from grpo_audit.report.numbers import duration, whole
from grpo_audit.report.release import outcome
from grpo_audit.report.visible import shortened
from grpo_audit.stats.paired import NOT_SEEN
from grpo_audit.verify.verdict import Outcome, VerifyReport

UNVERIFIED = (
    "The record was not verified when this page was rendered, so nothing here vouches for what it says.",
    "Run the command under “How to verify”, and render the page again.",
)
"""Said when there is no verification."""

LIMITS = (
    "The evaluations sample behaviour on the listed tasks and languages; they do not bound it elsewhere.",
    "“No regression beyond the margin” means within the margin that was fixed, not without any change.",
    "Rewards are what the reward sources said, not what a person would have said; see their source text above.",
    "Values marked as declared were said by a person and checked by nobody here.",
    "FLOP are derived from token counts.",
    "The check for contamination finds copies, rewordings that keep runs of words, and translations that keep numbers; "
    "nothing that was put into other words. What the base model saw before this run is not known to it.",
    "Probes show holes of the kinds they look for; a reward without a finding is not a reward without a hole.",
    "Examples are picked by rule and are few; the record holds all of them.",
)
"""What the report as a whole does not show."""


def verdict_box(
    run: RunOverview,
    run_source: Source,
    seal: Entry[RunSealed] | None,
    release: Release,
    comparison: Entry[Comparison] | None,
    gates: Gates,
    exploits: str,
    findings: Sequence[Entry[Finding]],
    verification: VerifyReport | None,
    head: Head,
) -> VerdictBox:
    """Three statements, the problems found, and what is not shown. ``head`` is the record's as the report read it,
    ``exploits`` what the reader must know of the rewards, ``findings`` all there are: errors among them take the green
    from the release."""
    errors = [entry for entry in findings if entry.payload.severity is Severity.ERROR]
    checks = verification.checks if verification else []
    return VerdictBox(
        record=_record(verification, head),
        run=_run(run, run_source, seal),
        release=_release(release, comparison, gates, exploits, errors),
        problems=tuple(f"({check.number}) {check.name}: {check.detail}" for check in checks if not check.ok),
        checks=tuple((check.number, check.name, check.outcome.value, check.detail) for check in checks),
        not_shown=tuple(verification.not_shown) if verification else UNVERIFIED,
    )


def _record(verification: VerifyReport | None, head: Head) -> Statement:
    source = Source(Evidence.DERIVED, note="by the procedure listed under “The record”")
    if verification is None:
        return Statement("Record", "Not verified", Standing.OPEN, "", UNVERIFIED[0], nothing())
    if not verification.ok:
        failures = verification.failures
        sentence = (
            f"{len(failures)} of {len(verification.checks)} checks speak against the record. Do not rely on this page."
        )
        if not failures:
            sentence = "No check was made, which is not a pass. Do not rely on this page."
        return Statement("Record", "Does not hold", Standing.BAD, "", sentence, source)
    if (verification.events, verification.root) != (head.size, head.root.hex()):
        sentence = (
            f"Verification saw {whole(verification.events)} events; this page was rendered from {whole(head.size)}. "
            "Verify again."
        )
        return Statement("Record", "Not verified", Standing.OPEN, "", sentence, nothing())
    sentence = (
        f"Level {verification.level} over {whole(verification.events)} events: {_counted(verification)}; signatures "
        f"checked with the key {_key(verification)}.{_tail(verification)}"
    )
    return Statement("Record", "Intact", Standing.GOOD, verification.vouched, sentence, source)


def _counted(verification: VerifyReport) -> str:
    """Having nothing to check is not passing, so the two are counted apart."""
    counts = Counter(check.outcome for check in verification.checks)
    passed = f"{counts[Outcome.PASSED]} of {len(verification.checks)} checks passed"
    empty = counts[Outcome.NOTHING]
    return f"{passed}, {empty} had nothing to check" if empty else passed


def _key(verification: VerifyReport) -> str:
    return verification.key_source.value if verification.key_source else "of unknown origin"


def _tail(verification: VerifyReport) -> str:
    tail = verification.tail
    if tail is None or not tail.events:
        return ""
    return f" Unwitnessed: the newest {whole(tail.events)} events, over {duration(tail.seconds)}."


def _run(run: RunOverview, source: Source, seal: Entry[RunSealed] | None) -> Statement:
    attempts = f" after {run.attempt} attempts" if run.attempt > 1 else ""
    if seal is not None:
        sentence = (
            f"The run ended regularly{attempts}; its seal states {whole(seal.payload.events)} events, and only "
            "annotations may follow it."
        )
        return Statement("Run", "Sealed", Standing.GOOD, "", sentence, source)
    if run.state is RunState.ABORTED:
        error = f"The run ended with an error{attempts}: {shortened(run.detail)}"
        sentence = f"{error}. It can be resumed; nothing vouches for its end."
        return Statement("Run", "Aborted", Standing.BAD, "", sentence, source)
    sentence = (
        "The run is not finished, or was interrupted without a word: no seal vouches for its end, and figures may be "
        "missing because they were never reached."
    )
    return Statement("Run", "Not sealed", Standing.OPEN, "", sentence, source)


def _release(
    release: Release,
    comparison: Entry[Comparison] | None,
    gates: Gates,
    exploits: str,
    errors: Sequence[Entry[Finding]],
) -> Statement:
    seqs = [comparison.seq] if comparison else []
    seqs += [entry.seq for entry in errors]
    seqs += [seq for row in gates.rows for seq in row.source.seqs[:2]]
    source = Source(
        Evidence.DERIVED, tuple(dict.fromkeys(seqs)), note="counted from the comparison, the gates and the findings"
    )
    said = (outcome(release), gate_sentence(gates), _errors_sentence(errors), exploits)
    sentence = " ".join(part for part in said if part)
    badge = {True: "gates hold", False: "gates fail", None: ""}[gates.passed]
    verdicts = {row.verdict for row in release.rows}
    if comparison is None:
        word, standing = "Not compared", Standing.OPEN
    elif Verdict.REGRESSED in verdicts:
        word, standing = "Regression found", Standing.BAD
    elif Verdict.INCONCLUSIVE in verdicts or None in verdicts:
        word, standing = "Partly inconclusive", Standing.OPEN
    else:
        word, standing = "No regression found", Standing.GOOD
    if any(entry.payload.rule == NOT_SEEN for entry in errors):
        word, standing = "Evaluation void", Standing.BAD
    elif errors and standing is Standing.GOOD:
        standing = Standing.OPEN
    if gates.passed is False:
        standing = Standing.BAD
    return Statement("Release", word, standing, badge, sentence, source)


def _errors_sentence(errors: Sequence[Entry[Finding]]) -> str:
    rules = ", ".join(dict.fromkeys(entry.payload.rule for entry in errors))
    return f"Errors among the findings: {rules}." if rules else ""
