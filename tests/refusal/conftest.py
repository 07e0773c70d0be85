"""A record with known refusals, and where the published labels lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from refusal.answering import record, says

SHARED = os.environ.get("GRPO_AUDIT_SHARED_DATA")


@pytest.fixture(scope="session")
def xstest() -> Path:
    """The folder with XSTest's human-labelled completions. Nothing of it is in this project."""
    folder = None if SHARED is None else Path(SHARED) / "xstest"
    if folder is None or not folder.is_dir():
        pytest.skip("GRPO_AUDIT_SHARED_DATA names no folder with xstest/")
    return folder


@pytest.fixture
def refusing(tmp_path: Path) -> Path:
    """Path of a record with known refusals."""
    record(tmp_path / "record.db", says)
    return tmp_path / "record.db"
