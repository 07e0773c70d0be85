"""One sealed record with hostile text in it, its report data and its two files, made once for all report tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from grpo_audit.ledger.project import Project
from grpo_audit.report.data import collect
from grpo_audit.report.model import ReportData
from grpo_audit.report.render import render_card, render_html
from grpo_audit.verify.l0 import verify
from grpo_audit.verify.verdict import VerifyReport


@dataclass(frozen=True)
class Made:
    """A record on disk and what was made of it."""

    db: Path
    run_id: str
    other: str
    """An unsealed run of the same project."""

    verification: VerifyReport
    data: ReportData
    html: str
    card: str


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, build_record: Callable[..., str]) -> Iterator[Made]:
    """Two runs in one record: an unfinished one, and a sealed one that was interrupted once."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(folder / "home"))
        db = folder / "record.db"
        other = build_record(db, steps=2, sealed=False, seed=7)
        run_id = build_record(db, steps=12)
        verification = verify(db, run=run_id, run_folder=folder / run_id)
        assert verification.ok, verification.failures
        with Project.open(db, mode="read") as project:
            data = collect(project, run_id, verification)
        yield Made(db, run_id, other, verification, data, render_html(data), render_card(data))


@pytest.fixture(scope="session")
def data(made: Made) -> ReportData:
    """The report data of the sealed run."""
    return made.data


def _poison(value: Any, text: str) -> Any:
    if isinstance(value, Enum) or value is None:
        return value
    if isinstance(value, str):
        return text
    if isinstance(value, tuple):
        return tuple(_poison(item, text) for item in value)
    if isinstance(value, dict):
        return {f"{text}{number}": _poison(item, text) for number, item in enumerate(value.values())}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _poison(getattr(value, field.name), text) for field in fields(value)})
    return value


@pytest.fixture(scope="session")
def poison() -> Callable[[ReportData, str], ReportData]:
    """``poison(data, text)``: the same data with every text in it replaced, ours and the record's alike."""
    return _poison
