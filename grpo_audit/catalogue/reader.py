"""What catalogue and report ask of a record: the events of one run by type, contents as text, its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import ValidationError

from grpo_audit.config.run import RunConfig
from grpo_audit.errors import StorageError
from grpo_audit.ledger.project import Project
from grpo_audit.record.events import Payload, RunRegistered

P = TypeVar("P", bound=Payload)


@dataclass(frozen=True)
class Entry(Generic[P]):
    """A payload, where it stands in the record, and when it was written."""

    seq: int
    at: str
    payload: P


class RunReader:
    """One run of an open project."""

    def __init__(self, project: Project, run_id: str) -> None:
        self.project = project
        self.run_id = run_id

    def entries(self, payload: type[P]) -> Iterator[Entry[P]]:
        """All events of one kind, in the order of the record, one at a time."""
        for event in self.project.events(self.run_id, kinds=[payload.kind]):
            assert isinstance(event.payload, payload)
            yield Entry(event.seq, event.time, event.payload)

    def newest(self, payload: type[P]) -> Entry[P] | None:
        """The last event of a kind, when there is one."""
        event = self.project.last(self.run_id, payload.kind)
        if event is None:
            return None
        assert isinstance(event.payload, payload)
        return Entry(event.seq, event.time, event.payload)

    def registered(self) -> Entry[RunRegistered]:
        """The registration; the ledger lets no run begin without it."""
        return next(self.entries(RunRegistered))

    def text(self, seq: int, name: str) -> str | None:
        """Content of an event as text; None when there is none or it was erased. Broken UTF-8 is shown as U+FFFD."""
        data = self.project.content(seq, name)
        return None if data is None else data.decode("utf-8", errors="replace")


def read_config(registered: Entry[RunRegistered]) -> RunConfig:
    """The resolved configuration of a run. Raises StorageError when this version cannot read it."""
    try:
        return RunConfig.model_validate(registered.payload.config, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        raise StorageError(
            f"Cannot read the configuration registered by event {registered.seq}",
            found=f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
            next_step="Use the version of grpo-audit that wrote the record",
        ) from error
