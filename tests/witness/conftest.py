"""A record, a folder for a witness, and a machine that forgets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from witness.logs import grow


@pytest.fixture
def forget(own_home: Path) -> Callable[[], None]:
    """Make this machine forget the heads it saw, as another machine that was given an old copy."""
    return lambda: shutil.rmtree(own_home / "state", ignore_errors=True)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A record of 8 events: the creation and 7 remarks."""
    grow(tmp_path / "record.db", 7)
    return tmp_path / "record.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a directory witness lives."""
    (tmp_path / "mount").mkdir()
    return tmp_path / "mount"
