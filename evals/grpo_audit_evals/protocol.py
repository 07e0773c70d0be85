"""The protocol: everything that decides what an answer is worth, in one text whose digest binds two evaluations.

lm-eval's own task hash leaves out generation settings, filters and the scorer's code, so it cannot do this.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from grpo_audit.record.identity import file_digest
from grpo_audit_evals import harness, sampling
from grpo_audit_evals.documents import Document, document_hash, documents_digest

OWN_PACKAGES = ("grpo_audit", "grpo_audit_builtin", "grpo_audit_evals")
"""A scorer may call these; their source is part of the protocol. The version of the harness stands for the rest."""

_PLACES = frozenset({"data_files", "data_dir", "cache_dir", "keep_in_memory"})  # where the data lies; its digest counts
_LABELS = frozenset({"metadata", "tag", "task_alias"})  # what a task is called, not how it is measured


def protocol_text(tasks: Mapping[str, Any], documents: Mapping[str, Sequence[Document]]) -> bytes:
    """The protocol of a suite as JSON; its SHA-256 is the protocol digest. The same on every machine and path."""
    protocol = {
        "harness": harness.HARNESS,
        "fewshot_seed": harness.FEWSHOT_SEED,
        "tasks": {name: _task_protocol(task, documents[name]) for name, task in tasks.items()},
    }
    return json.dumps(protocol, sort_keys=True, ensure_ascii=False, indent=1).encode("utf-8")


def _task_protocol(task: Any, documents: Sequence[Document]) -> dict[str, Any]:
    raw = task.config.to_dict(keep_callable=True)
    config = {key: value for key, value in raw.items() if key not in _LABELS}
    functions: dict[str, Callable[..., Any]] = {}
    described = _described({**config, "dataset_kwargs": _without_places(config.get("dataset_kwargs"))}, functions)
    if type(task).__module__ != "lm_eval.api.task":
        functions[f"{type(task).__module__}.{type(task).__qualname__}"] = type(task)
    sampled = sampling.of(task)
    return {
        "config": described,
        "decoding": "greedy" if sampled is None else sampled.protocol(),
        "version": str(task.VERSION),
        "documents": len(documents),
        "documents_digest": documents_digest([document.digest for document in documents]),
        "examples_digest": _examples_digest(task),
        "sources": _sources(functions.values()),
    }


def _without_places(options: Any) -> Any:
    if not isinstance(options, Mapping):
        return options
    return {key: value for key, value in options.items() if key not in _PLACES} or None


def _described(value: Any, functions: dict[str, Callable[..., Any]]) -> Any:
    """Plain JSON; a function becomes its name, and is noted so that its source is digested."""
    if isinstance(value, Mapping):
        return {str(key): _described(item, functions) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_described(item, functions) for item in value]
    if callable(value):
        name = str(getattr(value, "__qualname__", type(value).__qualname__))
        functions[f"{len(functions)}:{name}"] = value
        return {"function": name}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _examples_digest(task: Any) -> str | None:
    """Digest of the pool that few-shot examples are drawn from; None when no examples are shown."""
    if not task.config.num_fewshot:
        return None
    pool = task.fewshot_docs()
    return documents_digest([document_hash(doc) for doc in pool]) if pool is not None else None


def _sources(functions: Iterable[Callable[..., Any]]) -> dict[str, str]:
    """Digest of each source file that the scorers, filters and document functions consist of, by file name."""
    modules: dict[str, list[ModuleType]] = defaultdict(list)  # lm-eval may load one file under two names
    for module in list(sys.modules.values()):
        if (file := _file(module)) is not None:
            modules[file].append(module)
    files: dict[str, str] = {}
    for function in functions:
        source = inspect.getsourcefile(inspect.unwrap(function))
        if source is not None:
            _collect(source, modules, files)
    return {name: file_digest(Path(path)) for name, path in sorted(files.items())}


def _collect(path: str, modules: Mapping[str, Sequence[ModuleType]], files: dict[str, str]) -> None:
    """This file and, followed through their imports, the files beside it and those of this project."""
    name = _portable(Path(path))
    if name in files:
        return
    files[name] = path
    for module in modules.get(path, ()):
        for imported in _imports(module):
            source = _file(imported)
            own = imported.__name__.split(".")[0] in OWN_PACKAGES
            if source is not None and (own or Path(source).parent == Path(path).parent):
                _collect(source, modules, files)


def _imports(module: ModuleType) -> Iterator[ModuleType]:
    """Modules that a module's global names are or come from."""
    for value in list(vars(module).values()):
        if isinstance(value, ModuleType):
            yield value
        elif (owner := sys.modules.get(getattr(value, "__module__", None) or "")) is not None:
            yield owner


def _file(module: object) -> str | None:
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) and file.endswith(".py") else None


def _portable(path: Path) -> str:
    """A name that does not say where this machine keeps the file."""
    parts = path.parts
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] in (*OWN_PACKAGES, "lm_eval"):
            return "/".join(parts[index:])
    return path.name
