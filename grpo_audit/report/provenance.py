"""Where things come from: prompts, environment, base model, snapshots, released weights, artifacts."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_audit.catalogue.reader import Entry
from grpo_audit.record.events import Artifact, Environment, ModelIdentity, ModelSaved, RunRegistered, Snapshot
from grpo_audit.report.evidence import Absence, Evidence, Fact, Source, absent, declared, derived, measured, series
from grpo_audit.report.model import ArtifactRow, CardFacts, Lineage
from grpo_audit.report.numbers import size, whole


def prompt_facts(registered: Entry[RunRegistered]) -> tuple[Fact, ...]:
    """The prompt distribution and its provenance."""
    found, seq = registered.payload.prompts, registered.seq
    fields = ", ".join(f"{ours} ← {theirs}" for ours, theirs in found.fields.items())
    return (
        measured("Source", found.source, seq),
        declared("Description", found.description, seq),
        _provenance(found.provenance, seq),
        declared("Licence", found.licence, seq),
        measured("Rows", whole(found.rows), seq),
        measured("Duplicate prompts", f"{whole(found.duplicates)} of {whole(found.rows)} rows", seq),
        measured("Digest of the rows", found.digest, seq, mono=True),
        _digest("Digest of the file", found.file_digest, seq, "the source is no single file", Absence.NOT_APPLICABLE),
        _or_absent("Split", found.split, seq, "the source has no splits", Absence.NOT_APPLICABLE),
        _or_absent("Revision", found.revision, seq, "the source has none, or none was pinned", Absence.NOT_DECLARED),
        derived("Field mapping", fields or "none: the source's own names", seq, how="from the recipe"),
        measured("Order", found.order, seq),
    )


def environment_facts(registered: Entry[RunRegistered]) -> tuple[Fact, ...]:
    """The machine, the installation and what makes the run repeatable."""
    found, seq = registered.payload.environment, registered.seq
    memory = None if found.memory_bytes is None else size(found.memory_bytes)
    return (
        measured("Tool", registered.payload.tool, seq),
        _code(found, seq),
        _digest("Digest of the lock", found.lock_digest, seq, "the environment was not installed from a known lock"),
        measured("Python", found.python, seq),
        measured("SQLite", found.sqlite, seq),
        measured("Platform", found.platform, seq),
        measured("Processor", f"{found.processor} ({whole(found.cpu_count)} logical cores)", seq),
        measured("Memory", memory, seq),
        _or_absent("Accelerator", found.accelerator, seq, "none was used", Absence.NOT_APPLICABLE),
        _or_absent("Driver", found.driver, seq, "no accelerator was used", Absence.NOT_APPLICABLE),
        measured("Threads", whole(found.threads), seq),
        measured("Deterministic algorithms", "on" if found.deterministic_algorithms else "off", seq),
        measured("Remote code", "off: no code of the model repository was executed", seq),
    )


def lineage(
    registered: Entry[RunRegistered],
    snapshots: Sequence[Entry[Snapshot]],
    saved: Entry[ModelSaved] | None,
    artifacts: Sequence[Entry[Artifact]],
    before: tuple[Fact, ...],
    after: Fact,
) -> Lineage:
    """Stages before, base model, GRPO, released weights, stages after; what nobody named is shown as missing."""
    base = _model_facts(registered.payload.model, registered.seq)
    stages = [
        ("Stages before this run", before),
        ("Base model", base),
        ("GRPO", _snapshot_facts(snapshots)),
    ]
    if saved is None:
        released: tuple[Fact, ...] = (absent("Weights", "no trained weights were saved"),)
    else:
        location = measured("Folder", saved.payload.location, saved.seq, mono=True)
        released = (*_model_facts(saved.payload.model, saved.seq), location)
    stages += [("Released weights", released), ("Stages after this run", (after,))]
    return Lineage(tuple(stages), tuple(_artifact(entry) for entry in artifacts))


def card_facts(
    registered: Entry[RunRegistered], saved: Entry[ModelSaved] | None, licence: str | None, root: bytes
) -> CardFacts:
    """What the Hub's metadata needs."""
    model, prompts = registered.payload.model, registered.payload.prompts
    return CardFacts(
        base_model=model.source,
        base_revision=model.revision,
        base_weights=model.weights_digest,
        trained_weights=saved.payload.model.weights_digest if saved else None,
        licence=licence or model.licence,
        notice=model.notice,
        record_root=root.hex(),
        dataset=prompts.source.removeprefix("hub:") if prompts.source.startswith("hub:") else None,
    )


def notice(registered: Entry[RunRegistered]) -> Fact:
    """What the base model's own card says every reader must know."""
    return declared(
        "Notice", registered.payload.model.notice, registered.seq, reason="the base model's card has no notice"
    )


def _model_facts(model: ModelIdentity, seq: int) -> tuple[Fact, ...]:
    total = sum(file.size for file in model.files)
    return (
        measured("Source", model.source, seq),
        _or_absent("Revision", model.revision, seq, "not from a repository, or none was pinned", Absence.NOT_DECLARED),
        measured("Architecture", model.architecture, seq),
        measured("Parameters", whole(model.parameters), seq),
        measured("Weights", model.weights_digest, seq, mono=True),
        measured("Tokenizer", model.tokenizer_digest, seq, mono=True),
        _digest("Chat template", model.chat_template_digest, seq, "the tokenizer has none", Absence.NOT_APPLICABLE),
        measured("Configuration", model.config_digest, seq, mono=True),
        measured("Files", f"{len(model.files)}, {size(total)}", seq),
        declared("Licence", model.licence, seq, reason="the model's card names none"),
        _digest("Model card", model.card_digest, seq, "the folder holds no card"),
    )


def _snapshot_facts(snapshots: Sequence[Entry[Snapshot]]) -> tuple[Fact, ...]:
    if not snapshots:
        return (absent("Snapshots", "none was taken"),)
    last = snapshots[-1]
    source = series(Evidence.MEASURED, (entry.seq for entry in snapshots))
    steps = ", ".join(str(entry.payload.step) for entry in snapshots[-8:])
    more = f"the last after steps {steps}" if len(snapshots) > 1 else f"after step {steps}"
    return (
        Fact("Snapshots", f"{len(snapshots)} ({more})", source),
        measured("Weights of the last snapshot", last.payload.weights_digest, last.seq, mono=True),
    )


def _artifact(entry: Entry[Artifact]) -> ArtifactRow:
    found = entry.payload
    source = Source(Evidence.MEASURED, (entry.seq,))
    return ArtifactRow(found.role, found.name, found.digest, found.size, found.location, source)


def _code(found: Environment, seq: int) -> Fact:
    if found.code_revision is None:
        return absent("Code revision", "the tool ran from an installed package, not from a checkout")
    changed = f", with changes ({found.code_dirty_digest})" if found.code_dirty_digest else ", without changes"
    return measured("Code revision", found.code_revision + changed, seq, mono=True)


def _provenance(value: str, seq: int) -> Fact:
    if value == "unknown":
        return absent("Provenance", "the recipe says unknown", Absence.NOT_DECLARED)
    return declared("Provenance", value, seq)


def _or_absent(label: str, value: str | None, seq: int, reason: str, absence: Absence = Absence.NOT_RECORDED) -> Fact:
    return absent(label, reason, absence) if value is None else measured(label, value, seq)


def _digest(label: str, value: str | None, seq: int, reason: str, absence: Absence = Absence.NOT_RECORDED) -> Fact:
    return absent(label, reason, absence) if value is None else measured(label, value, seq, mono=True)
