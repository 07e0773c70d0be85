"""Group K: how the record protects itself."""

from __future__ import annotations

from typing import Annotated, Any, Final

import grpo_audit
from grpo_audit.catalogue.evidence import Span
from grpo_audit.catalogue.field import Field, Group, declared, derived, for_all, for_regulator, measured, unknown
from grpo_audit.catalogue.run import Run, fill
from grpo_audit.ledger.tables import WitnessRow

PROCEDURE: Final = "docs/verification.md"


class Integrity(Group):
    """How the record protects itself."""

    events: Annotated[Field[int], for_all()]
    """Events of the record when this was read; each is numbered and hashed into the tree."""
    root: Annotated[Field[str], for_all()]
    """Root of the Merkle tree over them (RFC 6962, SHA-256), hexadecimal."""
    key: Annotated[Field[str], for_all()]
    """Verifier key in force of the signed tree heads."""
    rotations: Annotated[Field[int], for_regulator()]
    """Times the key was changed."""
    seal: Annotated[Field[str], for_all()]
    """The event that states the run's size and its released weights."""
    witnesses: Annotated[Field[list[str]], for_all()]
    """Who else remembers a head of this log, and at which size."""
    signed_statements: Annotated[Field[str], for_regulator()]
    """How many annotations carry their author's own signature."""
    verifier: Annotated[Field[str], for_all()]
    """The version that reads the record, and where the procedure of verification is written."""
    detection: Annotated[Field[str], for_regulator(annotate=True)]
    """Measured reliability of the integrity checks: false positives and false negatives."""


def integrity(run: Run) -> Integrity:
    """Group K of a run."""
    head = run.reader.project.head
    whole = Span(0, head.size - 1, head.size) if head.size > 1 else None
    notes = [*run.notes, *run.project_notes]
    signed = [entry for entry in notes if entry.payload.signed]
    newest = run.rotations[-1] if run.rotations else None
    return fill(
        Integrity,
        "integrity",
        run,
        events=derived(head.size, 0, whole, note="size of the newest signed tree head"),
        root=derived(head.root.hex(), 0, whole, note="RFC 6962 tree over all events"),
        key=measured(newest.payload.new_key, newest.seq) if newest else measured(run.created.public_key, 0),
        rotations=measured(len(run.rotations), 0, *(entry.seq for entry in run.rotations)),
        seal=_seal(run),
        witnesses=_witnesses(run),
        signed_statements=declared(
            f"{len(signed)} of {len(notes)} annotations", *([entry.seq for entry in notes[-3:]] or [run.at])
        ),
        verifier=derived(f"grpo-audit {grpo_audit.__version__}; {PROCEDURE}", run.at, note="the version that reads"),
        detection=unknown("no measurement of the checks' reliability is recorded for this installation"),
    )


def _seal(run: Run) -> Field[Any]:
    if run.seal is None:
        return unknown("the run is not sealed: nothing states its end")
    return measured(f"event {run.seal.seq}, over {run.seal.payload.events:,} events", run.seal.seq)


def _witnesses(run: Run) -> Field[Any]:
    with run.reader.project.session() as session:
        rows = session.query(WitnessRow.name, WitnessRow.kind, WitnessRow.size).order_by(WitnessRow.size).all()
    newest = {(name, kind): size for name, kind, size in rows}
    if not newest:
        return unknown("nobody else remembers a head of this log: docs of grpo-audit witness")
    seen = [f"{name} ({kind}) saw {size} events" for (name, kind), size in newest.items()]
    return measured(seen, *(size - 1 for size in newest.values() if size > 0), note="statements; verify checks them")
