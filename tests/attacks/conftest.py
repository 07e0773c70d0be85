"""A sealed record of two runs, on the machine that made it and on another; judged as a record and as a bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attacks.forgery import failed, forge_bundle

from grpo_audit.verify import VerifyReport, verify

BuildRecord = Callable[..., str]


class Judge:
    """Verifies a record as it is, or a bundle that an attacker made of it."""

    def __init__(self, form: str, folder: Path) -> None:
        self.form = form
        self._folder = folder

    @property
    def is_bundle(self) -> bool:
        """Whether it is bundles that are verified."""
        return self.form == "bundle"

    def __call__(self, record: Path, **options: object) -> VerifyReport:
        if not self.is_bundle:
            return verify(record, **options)  # type: ignore[arg-type]
        target = self._folder / "forged.zip"
        forge_bundle(record, target)
        return verify(target, **options)  # type: ignore[arg-type]

    def fails(self, record: Path, *names: str, **options: object) -> None:
        """Exactly these checks fail; there are no projections in a bundle, and no frontiers."""
        assert failed(self(record, **options)) == set(names) - ({"projections"} if self.is_bundle else set())

    def fails_at_least(self, record: Path, *names: str, **options: object) -> None:
        """These checks fail, and others may."""
        found = failed(self(record, **options))
        assert found >= set(names) - ({"projections"} if self.is_bundle else set()), found


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory, build_record: BuildRecord) -> Iterator[Path]:
    """A record of a sealed run with its own home; copied for each test."""
    folder = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(folder / "home"))
        build_record(folder / "runs" / "record.db", steps=2, prompts=2, group_size=2)
        assert verify(folder / "runs" / "record.db").ok
    yield folder


@pytest.fixture
def record(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record on the machine that made it: its key is pinned and its head remembered."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(tmp_path / "home"))
    return tmp_path / "runs" / "record.db"


@pytest.fixture
def foreign(record: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same record on a machine that has never seen it."""
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(own_home))
    return record


@pytest.fixture(params=["record", "bundle"])
def judge(request: pytest.FixtureRequest, tmp_path: Path) -> Judge:
    """Verification of the record itself, and of a bundle of it."""
    return Judge(request.param, tmp_path)
