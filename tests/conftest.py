"""What every test needs: no test touches the keys or the memory of the person who runs it."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from postgres_server import PostgresServer, find_programs

settings.register_profile("suite", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("suite")


def _load_factory() -> Callable[..., str]:
    name = "record_factory"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("record_factory.py"))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    build: Callable[..., str] = sys.modules[name].build_record
    return build


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key store and a memory of heads for this test alone."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def build_record() -> Callable[..., str]:
    """``build_record(path, *, steps=6, prompts=4, group_size=4, sealed=True, seed=0) -> run id``."""
    return _load_factory()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server for these tests alone. Without its programs tests fail in CI and are skipped elsewhere."""
    programs = find_programs()
    if programs is None:
        why = "PostgreSQL is not installed (Debian: apt-get install postgresql), so records in it are not tested"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    server = PostgresServer(programs)
    yield server
    server.remove()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of a record that does not exist yet, in a schema of its own."""
    return postgres_server.url()
