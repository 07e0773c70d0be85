"""Segments verified by several processes, given back in order, a bounded number of them under way."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from grpo_audit.errors import StorageError
from grpo_audit.ledger.store import Store
from grpo_audit.verify.reader import DatabaseReader
from grpo_audit.verify.segment import Segment, Task, read_and_verify

WORTH_IT = 6
"""Segments from which on several processes are faster than one."""
_AHEAD = 2
"""Segments under way per process."""


class PoolBrokenError(Exception):
    """A process that verifies was killed: says nothing about the record, which one process can verify as well."""


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Processes that each read the record through a connection of their own. A context manager."""

    def __init__(self, location: str | Path, jobs: int) -> None:
        # not forked: the parent may have threads, and has an open database
        context = multiprocessing.get_context("spawn")
        self._jobs = jobs
        self._executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=_open, initargs=(location,))

    def pages(self) -> Callable[[], list[str]]:
        """Begin to have SQLite look at every page; what is returned waits for what it finds wrong."""
        found = self._executor.submit(_pages)

        def wait() -> list[str]:
            try:
                return found.result()
            except BrokenProcessPool as error:
                raise PoolBrokenError from error

        return wait

    def segments(self, tasks: Iterable[Task]) -> Iterator[Segment]:
        """The segments in order. Raises StorageError, and PoolBrokenError when a process is killed."""
        under_way: deque[Future[Segment | str]] = deque()
        waiting = iter(tasks)
        try:
            while True:
                while len(under_way) < self._jobs * _AHEAD and (task := next(waiting, None)) is not None:
                    under_way.append(self._executor.submit(_verify, task))
                if not under_way:
                    return
                result = under_way.popleft().result()
                if isinstance(result, str):
                    raise StorageError(result)
                yield result
        except BrokenProcessPool as error:
            raise PoolBrokenError from error

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


_CACHE_KIB = 64 * 1024


def page_problems(connection: object) -> list[str]:
    """What ``PRAGMA integrity_check`` finds: pages, and indexes beside their tables."""
    run = connection.exec_driver_sql  # type: ignore[attr-defined]
    (usual,) = run("PRAGMA cache_size").one()
    run(
        f"PRAGMA cache_size=-{_CACHE_KIB}"
    )  # SQLite's own 2 MiB lose an index's pages to each large content: 2.7 times slower
    try:
        found = [str(row[0]) for row in run("PRAGMA integrity_check(3)")]
    finally:
        run(f"PRAGMA cache_size={usual}")
    return [] if found == ["ok"] else found


_store: Store | None = None


def _open(location: str | Path) -> None:
    global _store
    _store = Store.read(location)


def _verify(task: Task) -> Segment | str:
    """The segment, or why the record cannot be read: exceptions with arguments of their own do not travel well."""
    assert _store is not None
    try:
        with _store.connect() as connection:
            return read_and_verify(task, DatabaseReader(connection))
    except StorageError as error:
        return str(error)


def _pages() -> list[str]:
    assert _store is not None
    try:
        with _store.connect() as connection:
            return page_problems(connection)
    except StorageError as error:
        return [str(error)]
