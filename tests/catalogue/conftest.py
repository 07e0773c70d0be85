"""Catalogues of a bare and of a well declared run, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_audit.catalogue.collect import Catalogue, collect
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import EventKind, RunRegistered

DECLARED = {
    "owner": "A. Person",
    "approver": "C. Approver",
    "organisation": "ACME Ltd",
    "contact": "models@example.org",
    "purpose": "arithmetic",
    "rationale": "verifiable answers, so a rule can judge them",
    "intended_use": "arithmetic puzzles",
    "out_of_scope_use": "anything else",
    "acceptable_use": "https://example.org/aup",
    "licence": "Apache-2.0",
    "document_version": "1.2",
    "retention": "ten years",
    "release_date": "2026-12-01",
    "distribution": "hub",
    "integration": "transformers 5",
    "inventory_id": "INV-7",
    "change_ticket": "CHG-12",
    "monitoring_plan": "https://example.org/plan",
    "system_card": "https://example.org/card",
    "data_record": "https://example.org/data",
    "limitations": "three numbers only",
    "bias_assessment": "no people occur",
    "reasoning_trace_policy": "exposed",
    "human_knowledge": "none beyond the rules",
    "known_exploits": "none known",
    "curation": "generated",
    "curation_code": "abc123",
    "personal_data": "none",
    "synthetic_share": 1.0,
}
"""Every key of the governance section."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the records of these tests are."""
    return tmp_path_factory.mktemp("catalogue")


@pytest.fixture(scope="session")
def record(folder: Path, build_record: Callable[..., str]) -> tuple[Path, str]:
    """A sealed run with hardly anything declared, and its id."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(folder / "home"))
        db = folder / "record.db"
        return db, build_record(db)


@pytest.fixture
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The key store that made ``record``; asked for by tests that write to it."""
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(folder / "home"))
    return folder / "home"


@pytest.fixture
def project(record: tuple[Path, str]) -> Iterator[Project]:
    """``record``, open for reading."""
    with Project.open(record[0], mode="read") as opened:
        yield opened


@pytest.fixture
def bare(project: Project, record: tuple[Path, str]) -> Catalogue:
    """Its catalogue."""
    return collect(project, record[1])


class Registered:
    """New records that begin with a changed registration of the sealed run's."""

    def __init__(self, db: Path, run_id: str, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        with Project.open(db, mode="read") as source:
            self.events = [(event.payload, event.run_id) for event in source.events(run_id)]
        self.number = 0

    def registration(self, config: dict[str, Any] | None = None, **update: Any) -> RunRegistered:
        """The registration, with keys of the configuration replaced section by section."""
        payload = self.events[0][0]
        assert isinstance(payload, RunRegistered)
        merged = dict(payload.config)
        for section, values in (config or {}).items():
            merged[section] = {**merged[section], **values} if isinstance(values, dict) else values
        return payload.model_copy(update={"config": merged, **update})

    def project(self, config: dict[str, Any] | None = None, whole: bool = True, **update: Any) -> Project:
        """A record with that registration, and the rest of the run's events when ``whole`` (annotations aside)."""
        self.number += 1
        opened = Project.open(self.tmp_path / f"{self.number}.db", mode="create", key=SigningKey.generate())
        opened.append([NewEvent(self.registration(config, **update), "r-1")])
        if whole:
            rest = [
                payload
                for payload, _ in self.events[1:]
                if payload.kind not in (EventKind.RUN_SEALED, EventKind.ANNOTATION)
            ]
            opened.append([NewEvent(payload, "r-1") for payload in rest])
        return opened


@pytest.fixture
def registered(record: tuple[Path, str], tmp_path: Path) -> Registered:
    """``registered.project({"governance": {...}})``: a record of a run registered with another configuration."""
    return Registered(record[0], record[1], tmp_path)


@pytest.fixture
def declared_fields() -> dict[str, Any]:
    """Every key of the governance section."""
    return dict(DECLARED)
