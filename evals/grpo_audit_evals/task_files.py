"""From names to lm-eval task objects: a suite folder, and lm-eval's own tasks by name."""

from __future__ import annotations

import difflib
import functools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_audit.errors import EvaluationError
from grpo_audit_evals import harness, published
from grpo_audit_evals.published import first_line

__all__ = ["first_line", "load_tasks", "nearest"]

_GLOB = frozenset("*?[")


def load_tasks(
    folder: Path, names: Sequence[str], *, more: Sequence[str] = (), data: Path | None = None
) -> dict[str, Any]:
    """Task objects by name, in the order of ``names``. Every name and every file is looked up before one is loaded.

    Args:
        folder: Where the suite's task files are.
        names: Tasks, groups or tags, of the folder or of lm-eval; empty: all of the folder, and ``more``.
        more: What belongs to the suite beside the folder.
        data: Folder with the published files that tasks name in ``metadata.files``.

    Raises:
        EvaluationError: A file that is no task file, a missing data file, an unknown name, a task that cannot be built.
    """
    _check_files(folder)
    manager = harness.task_index(folder, defaults=False)
    local = {name: entry for name, entry in manager.task_index.items() if entry.kind.name in ("TASK", "PY_TASK")}
    if not local and not names:
        raise EvaluationError(
            f"The suite {folder} has no tasks",
            found="no YAML file with a key 'task'",
            expected="lm-eval task files",
            next_step="Set evaluation.suite to a folder with task files, or name tasks in evaluation.tasks",
        )
    wanted = {name: list(_leaves(name, manager.task_index)) for name in names or [*sorted(local), *more]}
    elsewhere = [name for name, leaves in wanted.items() if not leaves]
    everything = _default_index() if elsewhere else None
    for name in elsewhere:
        _check_name(everything, name, sorted(local))
    paths = {leaf: local[leaf].yaml_path for leaves in wanted.values() for leaf in leaves}
    published.check(paths, data)
    tasks: dict[str, Any] = {}
    for name, leaves in wanted.items():
        if leaves:
            tasks.update({leaf: _build_local(manager, leaf, paths[leaf], data) for leaf in leaves})
        else:
            tasks.update(_build_default(everything, name))
    return tasks


def nearest(name: str, known: Sequence[str]) -> str:
    """For error messages: the names most like this one."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)[:5]
    return ", ".join(close)


def _check_files(folder: Path) -> None:
    """lm-eval skips a file it cannot read; a suite that silently lacks a task is worse than an error."""
    if not folder.is_dir():
        raise EvaluationError(
            f"There is no suite {folder}",
            expected="'builtin', 'release', 'release-local', a folder of lm-eval task files, or null",
            next_step="Check evaluation.suite",
        )
    seen: dict[str, Path] = {}
    for path in sorted(folder.glob("**/*.yaml")):
        try:
            config = harness.read_task_file(path, resolve=False)
        except Exception as error:  # the YAML library and the file system each have their own types
            raise EvaluationError(f"Cannot read the task file {path}", found=first_line(error)) from error
        name = config.get("task")
        if isinstance(name, str) and name in seen:
            raise EvaluationError(f"Two files define the task {name}", found=f"{seen[name].name} and {path.name}")
        if isinstance(name, str):
            seen[name] = path


def _leaves(name: str, index: Mapping[str, Any]) -> Iterator[str]:
    """The tasks a name of the folder stands for: itself, or the members of a group or tag."""
    entry = index.get(name)
    if entry is None:
        return
    if entry.kind.name == "TAG":
        yield from sorted(entry.tags)
    elif entry.kind.name == "GROUP":
        for member in entry.cfg.get("task", []):
            if not isinstance(member, str) or member not in index:
                raise EvaluationError(
                    f"Group {name}: a member is no task of the suite",
                    found=repr(member),
                    expected="names of tasks in the same folder",
                )
            yield from _leaves(member, index)
    else:
        yield name


def _build_local(manager: Any, name: str, path: Path, data: Path | None) -> Any:
    try:
        config = harness.read_task_file(path, resolve=True)
    except Exception as error:  # the task's own Python files run here and may raise anything
        raise EvaluationError(f"Task {name}: cannot import its functions", found=first_line(error)) from error
    config["task"] = name
    config["dataset_kwargs"] = {
        **(config.get("dataset_kwargs") or {}),
        **published.settings(name, config, data),
    } or None
    if config.get("dataset_path") not in harness.LOCAL_FORMATS:
        return _build(manager, config, name)
    with tempfile.TemporaryDirectory(prefix="grpo-audit-data-") as cache, harness.offline():
        config["dataset_kwargs"] = _absolute(name, dict(config.get("dataset_kwargs") or {}), path.parent) | {
            # In memory, and its copy on disk gone with this folder: no stale data, nothing left in the home directory.
            "cache_dir": cache,
            "keep_in_memory": True,
        }
        return _build(manager, config, name)


def _absolute(task: str, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Relative data files are relative to the task file, not to wherever the program was started."""

    def resolve(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: resolve(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [resolve(item) for item in value]
        if not isinstance(value, str) or "://" in value:
            return value
        path = folder / value
        if not _GLOB & set(value) and not path.exists():
            raise EvaluationError(f"Task {task}: no data file {path}", next_step="Check dataset_kwargs of the task")
        return str(path)

    return {key: resolve(value) if key in ("data_files", "data_dir") else value for key, value in options.items()}


def _build(manager: Any, spec: dict[str, Any] | str, name: str) -> Any:
    try:
        with harness.quiet():
            return manager.load([spec])["tasks"][name]
    except Exception as error:  # data, templates and metrics: each library raises its own types
        raise EvaluationError(
            f"Task {name} cannot be loaded",
            found=first_line(error),
            next_step="Check its file against lm-eval's task guide (and the network, for a data set on the hub)",
        ) from error


@functools.cache
def _default_index() -> Any:
    """lm-eval's own tasks, read once a process: it takes seconds."""
    return harness.task_index(None, defaults=True)


def _check_name(manager: Any, name: str, local: Sequence[str]) -> None:
    """Needs no network: lm-eval's names are those of the files it is installed with."""
    if name not in manager.task_index:
        raise EvaluationError(
            f"Unknown evaluation task {name!r}",
            expected=f"something like {nearest(name, [*local, *manager.all_tasks])}",
            next_step="Check evaluation.tasks",
        )


def _build_default(manager: Any, name: str) -> dict[str, Any]:
    try:
        with harness.quiet():
            return dict(manager.load([name])["tasks"])
    except Exception as error:  # as above
        raise EvaluationError(
            f"Task {name} cannot be loaded",
            found=first_line(error),
            next_step=f"Install the package {error.name}"
            if isinstance(error, ModuleNotFoundError)
            else "Its data set lies on the hub: check the network, or download it beforehand (suite release-local "
            "names no such tasks)",
        ) from error
