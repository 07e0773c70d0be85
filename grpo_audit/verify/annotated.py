"""Step (16): annotations that their author signed with a key of their own."""

from __future__ import annotations

from grpo_audit.ledger.annotations import check_annotation
from grpo_audit.ledger.event import Event
from grpo_audit.ledger.notes import NoteError
from grpo_audit.record.events import Annotation
from grpo_audit.verify.verdict import Tally


class Annotations:
    """Checks each signature under the key that the annotation itself names."""

    def __init__(self, tally: Tally, project_id: str | None) -> None:
        self._tally = tally
        self._project_id = project_id
        self._unsigned = 0
        tally.nothing("no annotation is signed by its author")

    def follow(self, event: Event) -> None:
        """Take the next event into account."""
        if not isinstance(event.payload, Annotation) or not (event.payload.signed or event.payload.public_key):
            return
        self._tally.saw()
        if self._project_id is None:
            self._tally.wrong(f"event {event.seq}: the record names no project that the signature could be about")
            return
        try:
            check_annotation(event.payload, self._project_id, event.run_id)
        except NoteError as error:
            self._tally.wrong(f"event {event.seq}: {error}")
