"""What the catalogue reads of a run: its events by kind, sums over the many, and what people said of its fields."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from grpo_audit.catalogue.cost import Cost, EvalTokens, StepSums, cost
from grpo_audit.catalogue.evidence import Span
from grpo_audit.catalogue.field import About, Field, Group, about, declared, unknown, value_type
from grpo_audit.catalogue.reader import Entry, RunReader, read_config
from grpo_audit.config.run import RunConfig
from grpo_audit.ledger.annotations import check_annotation
from grpo_audit.ledger.notes import NoteError
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.runs import RunOverview
from grpo_audit.ledger.tables import EvalSampleRow, EventRow, RewardRow, RolloutGroupRow, RolloutRow
from grpo_audit.preflight.rule import node_at
from grpo_audit.record import events as e
from grpo_audit.record.events import EventKind

P = TypeVar("P", bound=e.Payload)
G = TypeVar("G", bound=Group)


@dataclass(frozen=True)
class Sums:
    """What SQL counts of the events that are too many to read one by one."""

    spans: dict[EventKind, Span]
    """Every kind of event of this run: first, last, how many."""
    used: int
    by_reason: dict[str, int]
    """Rollouts left out, by reason."""
    reward_errors: dict[str, int]
    """Failed calls, by reward source."""
    prompts_drawn: int
    """Different prompts."""
    most_drawn: int | None
    """Times the most drawn prompt was drawn."""
    eval_tokens: EvalTokens


@dataclass(frozen=True)
class Run:
    """One run as the catalogue sees it."""

    reader: RunReader
    overview: RunOverview
    sequence: int
    """Position among the runs of the project, from 1."""
    created: e.ProjectCreated
    registered: Entry[e.RunRegistered]
    config: RunConfig
    sums: Sums
    cost: Cost
    steps: StepSums
    last_step: Entry[e.Step] | None
    evaluated: dict[tuple[str, str], Entry[e.EvalTask]]
    """Newest result by phase and task."""
    comparison: Entry[e.Comparison] | None
    saved: Entry[e.ModelSaved] | None
    seal: Entry[e.RunSealed] | None
    decontamination: Entry[e.Decontamination] | None
    probed: tuple[Entry[e.RewardProbed], ...]
    regraded: tuple[Entry[e.RewardRegraded], ...]
    gates: Entry[e.GatesChecked] | None
    artifacts: tuple[Entry[e.Artifact], ...]
    snapshots: tuple[Entry[e.Snapshot], ...]
    findings: tuple[Entry[e.Finding], ...]
    resumed: tuple[Entry[e.RunResumed], ...]
    aborted: tuple[Entry[e.RunAborted], ...]
    abandoned: tuple[Entry[e.RunAbandoned], ...]
    erasures: tuple[Entry[e.Erasure], ...]
    notes: tuple[Entry[e.Annotation], ...]
    """Annotations of this run, oldest first."""
    project_notes: tuple[Entry[e.Annotation], ...]
    """Annotations of the whole project."""
    rotations: tuple[Entry[e.KeyRotated], ...]

    @property
    def at(self) -> int:
        """The registration: what is fixed before step 0 rests on it."""
        return self.registered.seq

    def span(self, kind: EventKind) -> Span | None:
        """All events of a kind."""
        return self.sums.spans.get(kind)

    def by_role(self, role: str) -> list[Entry[e.Artifact]]:
        """Artifacts of a role."""
        return [entry for entry in self.artifacts if entry.payload.role == role]

    def said(self, field: str, info: About, kind: Any = str) -> Field[Any]:
        """What people said of a field: the newest annotation of this run, else of the project, else the recipe."""
        names = {field, info.recipe, None if info.recipe is None else info.recipe.removeprefix("governance.")} - {None}
        for notes, run_id in ((self.notes, self.overview.run_id), (self.project_notes, None)):
            for entry in reversed(notes):
                if entry.payload.field in names:
                    return _annotated(entry, self.reader.project.project_id, run_id, kind)
        if info.recipe is not None and (value := _recipe_value(self.config, info.recipe)) is not None:
            return declared(value, self.at, note=f"recipe: {info.recipe}")
        return unknown(how_to_supply(field, info))


def how_to_supply(field: str, info: About) -> str:
    """What would make a declared field known."""
    command = f"grpo-audit annotate RUN {field} VALUE --author NAME --reason WHY"
    return command if info.recipe is None else f"{info.recipe} in the recipe, or afterwards: {command}"


def fill(group: type[G], name: str, run: Run, **computed: Field[Any]) -> G:
    """A group with what was computed; where that is nothing or unknown, with what people said.

    Raises LookupError for a field that nothing was computed for and that nobody may declare: a mistake of this program.
    """
    fields: dict[str, Field[Any]] = {}
    unused = set(computed) - set(group.model_fields)
    if unused:
        raise LookupError(f"{name} has no field {', '.join(sorted(unused))}")
    for key, info in group.model_fields.items():
        facts, found = about(info), computed.get(key)
        if found is None and not facts.may_be_declared:
            raise LookupError(f"nothing says what {name}.{key} is")
        if facts.may_be_declared and (found is None or found.is_unknown):
            said = run.said(f"{name}.{key}", facts, value_type(info))
            found = said if found is None or not said.is_unknown else _with_a_way(found, f"{name}.{key}", facts)
        assert found is not None
        fields[key] = found
    return group(**fields)


def _with_a_way(found: Field[Any], name: str, info: About) -> Field[Any]:
    """An unknown field, with how to supply it added to why it is unknown."""
    recipe = "" if info.recipe is None else f"{info.recipe} in the recipe, or "
    return found.model_copy(update={"unknown": f"{found.unknown}; or {recipe}grpo-audit annotate {name}"})


def parse_said(text: str, kind: Any) -> Any:
    """An annotation's text as a value of a field's type. Raises ValueError that says what is expected."""
    if not text.strip():
        raise ValueError("an empty text says nothing")
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(f"expected one of {', '.join(get_args(kind))}")
        return text
    if kind is float:
        value = float(text)
        if not 0 <= value < float("inf"):
            raise ValueError("expected a number that is not negative")
        return value
    return text


def _annotated(entry: Entry[e.Annotation], project_id: str, run_id: str | None, kind: Any) -> Field[Any]:
    note = entry.payload
    who = f"annotated by {note.author} ({note.reason})"
    if note.signed:
        try:
            key = check_annotation(note, project_id, run_id)
        except NoteError as error:
            return unknown(f"the annotation of event {entry.seq} does not count: {error}", entry.seq)
        who += f", signed by {key.name}+{key.key_id.hex()}"
    else:
        who += ", not signed by its author"
    try:
        return declared(parse_said(note.value, kind), entry.seq, note=who)
    except ValueError as error:
        return unknown(f"the annotation of event {entry.seq} says {note.value!r}: {error}", entry.seq)


def _recipe_value(config: RunConfig, path: str) -> Any:
    try:
        return node_at(config, path)
    except LookupError:
        return None


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The field that a misspelt name probably means."""
    names = list(names)
    tails = {item.rpartition(".")[2]: item for item in names}
    close = difflib.get_close_matches(name[:100], names, n=1)
    if close:
        return close[0]
    close = difflib.get_close_matches(name[:100].rpartition(".")[2], tails, n=1)
    return tails[close[0]] if close else None


# --- reading ----------------------------------------------------------------------------------------------------------


def read_run(project: Project, run_id: str) -> Run:
    """Read one run. Memory does not grow with rollouts or steps.

    Raises ConfigError when there is no such run, StorageError when the record cannot be read.
    """
    overview = project.find_run(run_id)
    reader = RunReader(project, overview.run_id)
    registered = reader.registered()
    config = read_config(registered)
    steps, last_step = StepSums(config, registered.payload), None
    for entry in reader.entries(e.Step):
        steps.add(entry)
        last_step = entry
    with project.session() as session:
        sums = _sums(session, overview.run_id)
    resumed = tuple(reader.entries(e.RunResumed))
    created = next(project.events(kinds=[EventKind.PROJECT_CREATED])).payload
    assert isinstance(created, e.ProjectCreated)
    wide = _project_wide(project)
    finished = list(reader.entries(e.PhaseFinished))
    return Run(
        reader=reader,
        overview=overview,
        sequence=1 + [run.run_id for run in project.runs()].index(overview.run_id),
        created=created,
        registered=registered,
        config=config,
        sums=sums,
        cost=cost(registered.payload, config, steps, finished, resumed, sums.eval_tokens),
        steps=steps,
        last_step=last_step,
        evaluated={(entry.payload.phase, entry.payload.task): entry for entry in reader.entries(e.EvalTask)},
        comparison=reader.newest(e.Comparison),
        saved=reader.newest(e.ModelSaved),
        seal=reader.newest(e.RunSealed),
        decontamination=reader.newest(e.Decontamination),
        probed=tuple(reader.entries(e.RewardProbed)),
        regraded=tuple(reader.entries(e.RewardRegraded)),
        gates=reader.newest(e.GatesChecked),
        artifacts=tuple(reader.entries(e.Artifact)),
        snapshots=tuple(reader.entries(e.Snapshot)),
        findings=tuple(reader.entries(e.Finding)),
        resumed=resumed,
        aborted=tuple(reader.entries(e.RunAborted)),
        abandoned=tuple(reader.entries(e.RunAbandoned)),
        erasures=tuple(reader.entries(e.Erasure)),
        notes=tuple(reader.entries(e.Annotation)),
        project_notes=_of(wide, e.Annotation),
        rotations=_of(wide, e.KeyRotated),
    )


def _project_wide(project: Project) -> list[Entry[e.Payload]]:
    return [
        Entry(event.seq, event.time, event.payload)
        for event in project.events(kinds=[EventKind.ANNOTATION, EventKind.KEY_ROTATED])
        if event.run_id is None
    ]


def _of(entries: Sequence[Entry[e.Payload]], payload: type[P]) -> tuple[Entry[P], ...]:
    return tuple(Entry(entry.seq, entry.at, entry.payload) for entry in entries if isinstance(entry.payload, payload))


def _sums(session: Session, run_id: str) -> Sums:
    spans = {
        EventKind(kind): Span(first, last, count)
        for kind, first, last, count in session.execute(
            select(EventRow.kind, func.min(EventRow.seq), func.max(EventRow.seq), func.count())
            .where(EventRow.run_id == run_id)
            .group_by(EventRow.kind)
        )
    }
    rollouts = session.execute(
        select(RolloutRow.used, RolloutRow.reason, func.count())
        .where(RolloutRow.run_id == run_id)
        .group_by(RolloutRow.used, RolloutRow.reason)
    ).all()
    errors = session.execute(
        select(RewardRow.source, func.count())
        .join(RolloutRow, RolloutRow.seq == RewardRow.seq)
        .where(RolloutRow.run_id == run_id, RewardRow.error.is_not(None))
        .group_by(RewardRow.source)
    )
    drawn = session.execute(
        select(func.count(func.distinct(RolloutGroupRow.prompt_id)), func.max(RolloutGroupRow.exposure)).where(
            RolloutGroupRow.run_id == run_id
        )
    ).one()
    return Sums(
        spans=spans,
        used=sum(count for used, _, count in rollouts if used),
        by_reason={reason: count for used, reason, count in sorted(rollouts) if not used},
        reward_errors={source: count for source, count in sorted(errors)},
        prompts_drawn=int(drawn[0] or 0),
        most_drawn=None if drawn[1] is None else int(drawn[1]) + 1,
        eval_tokens=eval_tokens(session, run_id),
    )


def eval_tokens(session: Session, run_id: str) -> EvalTokens:
    """Completion tokens of the evaluations, by phase."""
    statement = (
        select(
            EvalSampleRow.phase,
            func.sum(EvalSampleRow.completion_tokens),
            func.min(EvalSampleRow.seq),
            func.max(EvalSampleRow.seq),
            func.count(),
        )
        .where(EvalSampleRow.run_id == run_id, EvalSampleRow.completion_tokens.is_not(None))
        .group_by(EvalSampleRow.phase)
    )
    return {
        phase: (int(total or 0), (first or 0, last or 0), count)
        for phase, total, first, last, count in session.execute(statement)
    }
