"""From a record to report data. Everything in the report passes through here; templates only lay it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from grpo_audit.catalogue.collect import catalogue_of
from grpo_audit.catalogue.reader import Entry, RunReader, read_config
from grpo_audit.catalogue.run import read_run
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.runs import RunOverview
from grpo_audit.ledger.tables import CheckpointRow, RunRow, RunStateRow
from grpo_audit.record.audits import Decontamination, GatesChecked, RewardProbed, RewardRegraded
from grpo_audit.record.events import (
    Annotation,
    Artifact,
    Comparison,
    EvalTask,
    EventKind,
    Finding,
    ModelSaved,
    ProjectCreated,
    RunRegistered,
    RunSealed,
    Severity,
    Snapshot,
    Step,
)
from grpo_audit.report import checks, examples
from grpo_audit.report.budget import budget
from grpo_audit.report.calibration import calibration
from grpo_audit.report.coverage import coverage, standard_rows
from grpo_audit.report.evidence import Evidence, Fact, Source, derived, measured, series
from grpo_audit.report.fields import PROMPT_CHECKS, fact, stages_before
from grpo_audit.report.governance import governance, value_of
from grpo_audit.report.index import evidence_index
from grpo_audit.report.method import method, reward_sources
from grpo_audit.report.model import Attempt, FindingItem, Header, OtherRun, RecordSection, ReportData
from grpo_audit.report.numbers import whole
from grpo_audit.report.others import others
from grpo_audit.report.provenance import card_facts, environment_facts, lineage, notice, prompt_facts
from grpo_audit.report.rejections import rejections
from grpo_audit.report.release import release
from grpo_audit.report.reward_audit import audit_sentence, reward_audit
from grpo_audit.report.training import read_steps, training
from grpo_audit.report.verdict import LIMITS, verdict_box
from grpo_audit.report.visible import shortened
from grpo_audit.verify.verdict import VerifyReport

MAX_NAMED = 12
"""Events a finding names one by one in the report; of a longer list the two ends and their number."""

_GRAVITY = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


def collect(
    project: Project, run_id: str, verification: VerifyReport | None, *, against: Sequence[str] = ()
) -> ReportData:
    """Everything the report says about a run, from its record alone. Same record, same data.

    ``run_id`` is the full id. ``verification`` is the result of ``verify`` on this record; None is shown as "not
    verified", never as a pass. ``against`` names other runs to set this one beside. Memory does not grow with the
    number of rollouts.

    Raises ConfigError when there is no such run, StorageError when the record cannot be read, ComparisonError when this
    run has no evaluation that others could be compared with.
    """
    run = project.find_run(run_id)
    reader = RunReader(project, run.run_id)
    with project.session() as session:
        data = replace(_collect(reader, session, run, verification), others=others(project, run.run_id, against))
        return replace(data, index=evidence_index(session, data))


def _collect(reader: RunReader, session: Session, run: RunOverview, verification: VerifyReport | None) -> ReportData:
    registered = reader.registered()
    config = read_config(registered)
    saved, comparison, seal = reader.newest(ModelSaved), reader.newest(Comparison), reader.newest(RunSealed)
    artifacts = list(reader.entries(Artifact))
    tasks = {(entry.payload.phase, entry.payload.task): entry for entry in reader.entries(EvalTask)}
    steps = read_steps(reader.entries(Step))
    released = release(registered, tasks, comparison, saved)
    held = checks.gates(registered, config, reader.newest(GatesChecked))
    audit = reward_audit(reader, list(reader.entries(RewardProbed)), list(reader.entries(RewardRegraded)))
    trained = training(steps, config.training.steps)
    described = method(registered, config)
    rewards = reward_sources(registered, _source_texts(reader, artifacts))
    rejected = rejections(session, run.run_id)
    read = read_run(reader.project, run.run_id)
    catalogue = catalogue_of(read)
    cost = budget(catalogue, read.cost, steps)
    prompts = (*prompt_facts(registered), *(fact(catalogue, name, label) for name, label in PROMPT_CHECKS))
    before, after = stages_before(catalogue), fact(catalogue, "lineage.stages_after", "Stages after")
    origin = lineage(registered, list(reader.entries(Snapshot)), saved, artifacts, before, after)
    declared = governance(catalogue, list(reader.entries(Annotation)), reader.project.project_id, run.run_id)
    licence = value_of(declared, "Licence of the trained weights").value
    state_source = Source(Evidence.MEASURED, (_state_seq(session, run.run_id),))
    return ReportData(
        header=_header(reader, run, registered, state_source),
        notice=notice(registered),
        verdict=verdict_box(
            run,
            state_source,
            seal,
            released,
            comparison,
            held,
            audit_sentence(audit),
            list(reader.entries(Finding)),
            verification,
            reader.project.head,
        ),
        release=released,
        gates=held,
        beside=checks.beside(comparison, calibration(session, run.run_id, tasks)),
        contamination=checks.contamination(reader.newest(Decontamination), comparison, config),
        audit=audit,
        training=trained,
        rollouts=examples.rollout_examples(reader, session, trained.series),
        flipped=examples.flipped_examples(reader, session, comparison),
        method=described,
        rewards=rewards,
        prompts=prompts,
        rejections=rejected,
        budget=cost,
        environment=environment_facts(registered),
        packages=tuple(registered.payload.environment.packages.items()),
        lineage=origin,
        findings=_findings(list(reader.entries(Finding))),
        governance=declared,
        attempts=_attempts(session, run.run_id),
        runs=_runs(session, reader.project, run.run_id),
        record=_record(reader, session, run, registered),
        coverage=coverage(catalogue),
        standards=standard_rows(catalogue),
        limits=LIMITS,
        card=card_facts(registered, saved, licence, reader.project.head.root),
    )


def _header(reader: RunReader, run: RunOverview, registered: Entry[RunRegistered], state: Source) -> Header:
    created = next(reader.project.events(kinds=[EventKind.PROJECT_CREATED])).payload
    assert isinstance(created, ProjectCreated)
    return Header(
        run_id=run.run_id,
        name=run.name,
        project=created.name,
        tool=registered.payload.tool,
        state=run.state,
        registered_at=registered.at,
        ended_at=run.changed_at if run.changed_at != registered.at else None,
        source=Source(Evidence.MEASURED, (registered.seq, *state.seqs)),
    )


def _source_texts(
    reader: RunReader, artifacts: Sequence[Entry[Artifact]]
) -> dict[str, tuple[Entry[Artifact], str | None]]:
    return {
        entry.payload.digest: (entry, reader.text(entry.seq, "text"))
        for entry in artifacts
        if entry.payload.role == "reward source"
    }


def _findings(entries: Sequence[Entry[Finding]]) -> tuple[FindingItem, ...]:
    """Most severe first, then in the order of the record."""
    ordered = sorted(entries, key=lambda entry: (_GRAVITY[entry.payload.severity], entry.seq))
    return tuple(
        FindingItem(
            rule=entry.payload.rule,
            severity=entry.payload.severity,
            message=shortened(entry.payload.message, 2000),
            source=Source(Evidence.MEASURED, (entry.seq,)),
            rests_on=_named(entry.payload.evidence),
        )
        for entry in ordered
    )


def _named(seqs: Sequence[int]) -> Source:
    if len(seqs) <= MAX_NAMED:
        return Source(Evidence.MEASURED, tuple(seqs))
    return series(Evidence.MEASURED, seqs)


def _attempts(session: Session, run_id: str) -> tuple[Attempt, ...]:
    rows = session.execute(select(RunStateRow).where(RunStateRow.run_id == run_id).order_by(RunStateRow.seq)).scalars()
    return tuple(
        Attempt(row.attempt, row.state, row.at, shortened(row.detail), Source(Evidence.MEASURED, (row.seq,)))
        for row in rows
    )


def _state_seq(session: Session, run_id: str) -> int:
    statement = select(func.max(RunStateRow.seq)).where(RunStateRow.run_id == run_id)
    return session.execute(statement).scalar_one() or 0


def _runs(session: Session, project: Project, run_id: str) -> tuple[OtherRun, ...]:
    seqs = {found: seq for found, seq in session.execute(select(RunRow.run_id, RunRow.seq))}
    return tuple(
        OtherRun(
            run_id=run.run_id,
            name=run.name,
            registered_at=run.registered_at,
            state=run.state.value,
            model=run.model,
            preset=run.preset,
            this=run.run_id == run_id,
            source=Source(Evidence.MEASURED, (seqs[run.run_id],)),
        )
        for run in project.runs()
    )


def _record(reader: RunReader, session: Session, run: RunOverview, registered: Entry[RunRegistered]) -> RecordSection:
    counts = reader.project.counts(run.run_id)
    head = reader.project.head
    note = session.execute(select(CheckpointRow.note).order_by(CheckpointRow.size.desc()).limit(1)).scalar()
    facts: list[Fact] = [
        derived("Events of this run", whole(sum(counts.values())), how="counted; by kind below"),
        derived("Events of the record", whole(head.size), how="size of the newest signed tree head"),
        derived("Root", head.root.hex(), mono=True, how="RFC 6962 tree over all events, SHA-256"),
        measured("Project", reader.project.project_id, 0, mono=True),
        measured("Verifier key", reader.project.public_key, 0, mono=True),
        measured("Registered before step 0", f"as event {registered.seq} at {registered.at}", registered.seq),
    ]
    return RecordSection(
        facts=tuple(facts),
        by_kind=tuple(sorted((kind.value, count) for kind, count in counts.items())),
        checkpoint=None if note is None else note.decode("utf-8", errors="replace"),
        commands=(f"grpo-audit verify {run.run_id} --db RECORD", f"grpo-audit report {run.run_id} --db RECORD"),
    )
