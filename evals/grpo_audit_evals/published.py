"""What a task file says it needs beside itself: published files, and things its scores depend on.

metadata:
  files: [xstest/xstest_prompts.csv]     # below evaluation.data
  published: github.com/...              # where one gets them
  binds: [package.module:function]       # called without arguments; its text becomes part of the protocol
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from grpo_audit.errors import EvaluationError, GrpoAuditError
from grpo_audit_evals import harness
from grpo_audit_evals.release.files import VARIABLE


class Needs(BaseModel):
    """The three keys of ``metadata``; others belong to others."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    files: list[str] = []
    """Relative to ``evaluation.data``."""
    published: str = "an unnamed place"
    binds: list[str] = []
    """Functions whose results decide about scores and are no source code: the version of a detector, say."""


def check(paths: Mapping[str, Path], data: Path | None) -> None:
    """Look for the files of all tasks. Raises EvaluationError, which names the first missing one and all such tasks.

    Args:
        paths: Task file by task.
        data: Folder with published files; None when none is named.
    """
    needed = {name: _needs(name, harness.read_task_file(path, resolve=False)) for name, path in paths.items()}
    absent = [
        (name, file, needs.published)
        for name, needs in needed.items()
        for file in needs.files
        if data is None or not (data / file).is_file()
    ]
    if not absent:
        return
    _, file, place = absent[0]
    tasks, files = list(dict.fromkeys(row[0] for row in absent)), {row[1] for row in absent}
    where = "no folder with published files is named" if data is None else f"{data / file} is missing"
    more = f"{len(files)} files of {len(tasks)} tasks are not there" if len(files) > 1 else ""
    raise EvaluationError(
        f"Task {tasks[0]} needs {file}, and {where}",
        found=more,
        expected=f"the file as published at {place}",
        next_step=f"Set evaluation.data (or the variable {VARIABLE}) to the folder with the files, or name only tasks "
        "that have theirs in evaluation.tasks",
    )


def settings(name: str, config: Mapping[str, Any], data: Path | None) -> dict[str, Any]:
    """What is added to ``dataset_kwargs``: the folder, and what binds the scores. Empty where the task needs neither.

    Raises EvaluationError when a function in ``binds`` cannot be called.
    """
    needs = _needs(name, config)
    found: dict[str, Any] = {"data_dir": str(data)} if needs.files else {}
    if needs.binds:
        found["bound"] = {bind: _called(name, bind) for bind in needs.binds}
    return found


def first_line(error: BaseException) -> str:
    """What an error of another library says, short enough for one line."""
    text = str(error).strip() or type(error).__name__
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}"


def _needs(name: str, config: Mapping[str, Any]) -> Needs:
    try:
        return Needs.model_validate(config.get("metadata") or {})
    except ValidationError as error:
        first = error.errors()[0]
        raise EvaluationError(
            f"Task {name}: metadata.{'.'.join(map(str, first['loc']))} is wrong",
            found=repr(first["input"]),
            expected=first["msg"],
        ) from error


def _called(name: str, bind: str) -> str:
    module, _, function = bind.partition(":")
    try:
        return str(getattr(importlib.import_module(module), function)())
    except GrpoAuditError:
        raise
    except Exception as error:  # the function is the task author's
        raise EvaluationError(
            f"Task {name}: metadata.binds names {bind}, which cannot be called",
            found=first_line(error),
            expected="package.module:function, without arguments",
        ) from error
