"""A PostgreSQL server of the tests' own: made in a temporary folder, reached by a socket in it, gone afterwards.

``GRPO_AUDIT_POSTGRES_BIN`` names the folder of ``initdb`` and ``pg_ctl`` when they are neither on the path nor where
Debian puts them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.engine import make_url

USER = "grpo"


def find_programs() -> Path | None:
    """The folder of the newest installed server's programs."""
    named = os.environ.get("GRPO_AUDIT_POSTGRES_BIN")
    if named:
        return Path(named)
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return installed[-1].parent if installed else None


class PostgresServer:
    """A running server. Text is sorted by ICU's rules for English, so that whoever relies on code points is found."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path has at most 107 bytes
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(self.folder, "postgres", "postgres")
        self._run(
            "initdb", "--auth=trust", f"--username={USER}", "--encoding=UTF8", "--no-sync",
            "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US", f"--pgdata={self.folder}/data",
        )  # fmt: skip
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        as_user: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []}
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
            **(as_user if os.geteuid() == 0 else {}),
        )
        if done.returncode:
            log = self.folder / "log"
            raise RuntimeError(f"{program}: {done.stdout.decode()} {log.read_text() if log.exists() else ''}")

    def start(self) -> None:
        """Start and wait until it answers."""
        # no fsync: these tests kill processes, not machines
        settings = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off -c max_connections=50"
        self._run("pg_ctl", "start", "-w", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-o", settings)

    def stop(self, mode: str = "immediate") -> None:
        """Stop; ``immediate`` is a crash: connections break, and the next start recovers."""
        self._run("pg_ctl", "stop", "-w", "-D", f"{self.folder}/data", "-m", mode)

    def remove(self) -> None:
        """Stop and take everything away."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, schema: str = "") -> str:
        """Where a record is, in a schema of its own unless named."""
        schema = schema or f"t_{uuid.uuid4().hex[:12]}"
        return f"postgresql+psycopg://{USER}@/postgres?host={self.folder}&schema={schema}"


def admin(url: str) -> psycopg.Connection[Any]:
    """A connection of somebody who may do everything, in the record's schema."""
    parsed = make_url(url)
    schema = parsed.query["schema"]
    return psycopg.connect(
        host=str(parsed.query["host"]),
        user=parsed.username,
        dbname=parsed.database,
        options=f"-c search_path={schema}",
        autocommit=True,
    )
