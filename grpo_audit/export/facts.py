"""What the exports say, gathered once: the report's own data, and the events it was made from. No export reads the
record past this module, so a value stands in every file as it stands in the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from grpo_audit.catalogue import collect as catalogue
from grpo_audit.catalogue.collect import Catalogue
from grpo_audit.catalogue.lineage import Stage
from grpo_audit.catalogue.reader import Entry, RunReader
from grpo_audit.errors import VerificationError
from grpo_audit.ledger.annotations import check_annotation
from grpo_audit.ledger.notes import NoteError
from grpo_audit.ledger.project import Project
from grpo_audit.record.events import Annotation, Comparison, EvalTask, ModelSaved, PhaseFinished, RunRegistered
from grpo_audit.record.identities import ModelIdentity
from grpo_audit.report.data import collect
from grpo_audit.report.evidence import Evidence, Source
from grpo_audit.report.model import ReportData, Standing, Statement
from grpo_audit.report.numbers import whole
from grpo_audit.verify.verdict import VerifyReport

NOT_SHOWN = (
    "that the machine told the truth while it recorded",
    "that no run was made without being registered in this record",
    "whose key signed the record: compare it with one you got elsewhere, with verify --key",
    "anything that happened to these files since: check them with grpo-audit export --check",
)
"""What an exported card says of its own limits. The same on every machine, unlike what a verification says."""


@dataclass(frozen=True)
class ExportFacts:
    """One run, as it leaves the project."""

    data: ReportData
    catalogue: Catalogue
    """Every field of the run, with its evidence."""

    project_id: str
    run_id: str
    registered: Entry[RunRegistered]
    saved: Entry[ModelSaved] | None
    """None when the run kept no trained weights: then nothing can be attested or signed."""

    comparison: Entry[Comparison] | None
    results: Mapping[str, Entry[EvalTask]]
    """Newest evaluation after training, by task."""

    phases: Mapping[str, Entry[PhaseFinished]]
    """Newest end of each phase: ``pre``, ``train``, ``post``."""

    annotations: Sequence[Annotation]
    """What people said afterwards, oldest first; an annotation whose signature does not hold says nothing."""

    size: int
    """Events of the record when this was gathered."""

    root: str
    """Root of the tree over them, hexadecimal."""

    changed_at: str
    """When the run came into its state, RFC 3339, by the record's own clock."""

    folder: Path
    """Where the run's files are on this machine. Never written into an export."""

    draft: tuple[str, ...]
    """Why this is no release; empty for a sealed run of a record that holds. Every file says so, and none is signed."""

    @property
    def is_draft(self) -> bool:
        """Whether every file must be marked."""
        return bool(self.draft)

    @property
    def mark(self) -> str:
        """The mark of a draft in one sentence; empty for a release."""
        return f"DRAFT, not a release: {'; '.join(self.draft)}" if self.draft else ""

    @property
    def name(self) -> str:
        """Name of the run, which names the trained model too."""
        return self.registered.payload.name

    @property
    def base(self) -> ModelIdentity:
        """The base model."""
        return self.registered.payload.model

    @property
    def trained(self) -> ModelIdentity | None:
        """The released weights."""
        return self.saved.payload.model if self.saved else None

    @property
    def stages(self) -> Sequence[Stage]:
        """The model's life before this run, oldest first: as declared, and what the record shows of it."""
        return self.catalogue.lineage.stages_before.value or []

    def said(self, name: str) -> str | None:
        """A field of the catalogue by its name, as text; None when it is not known. Raises KeyError."""
        return self.catalogue[name].text()


def gather(project: Project, run_id: str, verification: VerifyReport, folder: Path) -> ExportFacts:
    """Everything the exports say about a run. Same record, same facts: nothing of this machine enters.

    Raises VerificationError when the record changed since it was verified, StorageError when it cannot be read.
    """
    reader = RunReader(project, run_id)
    run = project.find_run(run_id)
    head, found = project.head, catalogue.collect(project, run_id)
    if verification.ok and (verification.events, verification.root) != (head.size, head.root.hex()):
        raise VerificationError(
            "The record grew while it was exported",
            found=f"{head.size} events",
            expected=f"{verification.events}, as verified",
            next_step="Export again",
        )
    return ExportFacts(
        data=_portable(collect(project, run_id, verification), verification, found.integrity.witnesses.text()),
        catalogue=found,
        project_id=project.project_id,
        run_id=run_id,
        registered=reader.registered(),
        saved=reader.newest(ModelSaved),
        comparison=reader.newest(Comparison),
        results={entry.payload.task: entry for entry in reader.entries(EvalTask) if entry.payload.phase == "post"},
        phases={entry.payload.phase: entry for entry in reader.entries(PhaseFinished)},
        annotations=believed((entry.payload for entry in reader.entries(Annotation)), project.project_id, run_id),
        size=head.size,
        root=head.root.hex(),
        changed_at=run.changed_at,
        folder=folder,
        draft=_draft(verification),
    )


def believed(notes: Iterable[Annotation], project_id: str, run_id: str) -> tuple[Annotation, ...]:
    """Those without a signature of their author's, and those whose signature holds for this project and run."""
    return tuple(note for note in notes if not note.signed or _holds(note, project_id, run_id))


def _holds(note: Annotation, project_id: str, run_id: str) -> bool:
    try:
        check_annotation(note, project_id, run_id)
    except NoteError:
        return False
    return True


def _draft(verification: VerifyReport) -> tuple[str, ...]:
    reasons = [f"the record does not hold: ({check.number}) {check.name}" for check in verification.failures]
    if not verification.ok and not reasons:
        reasons.append("the record was not verified")
    if not verification.sealed:
        state = verification.run.state.value if verification.run else "unknown"
        reasons.append(f"the run is not sealed ({state})")
    return tuple(reasons)


def _portable(data: ReportData, verification: VerifyReport, witnesses: str | None) -> ReportData:
    """The verdict without what depends on who verified where: remembered heads, pinned keys and trusted witnesses."""
    if not verification.ok:
        return data
    sentence = (
        f"Level {verification.level} over {whole(verification.events)} events when it was exported; root "
        f"{verification.root}, signed by {verification.public_key}. Witnesses: {witnesses or 'none in the record'}."
    )
    source = Source(Evidence.DERIVED, note="by the procedure of grpo-audit verify")
    # no badge: which witnesses count depends on whom the verifier believes
    record = Statement("Record", "Intact", Standing.GOOD, "", sentence, source)
    return replace(data, verdict=replace(data.verdict, record=record, not_shown=NOT_SHOWN))


def sha256(digest: str) -> str:
    """The 64 hexadecimal digits of a ``sha256:`` digest."""
    return digest.removeprefix("sha256:")


def prompt_source(source: str) -> str:
    """The prompt set as the recipe names it, without the folders of a machine."""
    if source == "builtin" or source.startswith("hub:"):
        return source
    return PurePath(source.replace("\\", "/")).name or "unknown"
