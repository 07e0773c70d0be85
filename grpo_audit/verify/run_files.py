"""Step (14): the files of one run, beside the record or in the bundle."""

from __future__ import annotations

from pathlib import Path

from grpo_audit.ledger.store import sqlite_path
from grpo_audit.verify.bundle import BundleSource
from grpo_audit.verify.bundled import BundledFiles
from grpo_audit.verify.course import RunCourse
from grpo_audit.verify.files import Files
from grpo_audit.verify.opening import Opened
from grpo_audit.verify.verdict import Tally


def compare_files(
    found: Opened, course: RunCourse | None, folder: Path | None, tally: Tally, *, required: bool
) -> list[str]:
    """Hash the run's files again. What the record names and is not there to be checked.

    ``folder`` is the run folder; else it is looked for beside the record and where the run's configuration says.
    """
    if course is None:
        tally.nothing("the record holds no run")
        return []
    files: Files | BundledFiles
    if isinstance(found.source, BundleSource):
        files = BundledFiles(found.source, tally, required=required)
    else:
        folder = folder or _run_folder(found.original, course)
        if folder is None or not folder.is_dir():
            tally.nothing("the run folder is not here")
            if required:
                tally.wrong("the run folder is not here; name it with run_folder")
            return ["every file of the run folder"]
        files = Files(folder, tally, required=required)
    files.compare(course)
    tally.nothing("none of the files named in the record is here")
    if files.absent:
        tally.remark(f"not checked, absent: {', '.join(files.absent[:5])}" + (" ..." * (len(files.absent) > 5)))
    return files.absent


def _run_folder(location: str | Path, course: RunCourse) -> Path | None:
    """``FOLDER/RUN`` of the configuration, tried beside the record first: records are moved with their folders."""
    run_id = course.history.run_id
    if Path(run_id).name != run_id:
        return None  # a run id from a foreign record must not lead elsewhere
    path = sqlite_path(location)
    tried = [path.parent / run_id] if path is not None else []
    tried.append(Path(course.record_folder) / run_id)
    return next((folder for folder in tried if folder.is_dir()), None)
