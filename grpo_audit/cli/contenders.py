"""Who takes part in a comparison: runs of the record, and model folders that are evaluated here and now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import platformdirs

from grpo_audit.cli import console
from grpo_audit.config.sections import EvaluationConfig, ModelConfig
from grpo_audit.errors import ConfigError
from grpo_audit.ledger.folders import HOME_VARIABLE
from grpo_audit.ledger.project import Project
from grpo_audit.record.events import EventKind, RunRegistered
from grpo_audit.stats.binding import Side
from grpo_audit.stats.evaluated import Evaluated, Texts, read_evaluation
from grpo_audit.stats.runs import Bound, bound, check_protocols

if TYPE_CHECKING:
    from grpo_audit_evals.suite import Suite

BUILTIN = "builtin"


@dataclass(frozen=True)
class Asked:
    """How model folders are evaluated, as far as the command line says."""

    suite: str | None = None
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    batch_size: int | None = None
    cache: Path | None = None


@dataclass(frozen=True)
class Contender:
    """One argument of ``compare``, understood."""

    given: str
    run_id: str | None
    """None for a model."""
    phase: Literal["pre", "post"] = "post"


def cache_folder() -> Path:
    """Where answers of model folders are kept between two calls."""
    home = os.environ.get(HOME_VARIABLE)
    return (Path(home) / "cache" if home else Path(platformdirs.user_cache_dir("grpo-audit"))) / "evaluations"


def is_model(given: str) -> bool:
    """Whether an argument means a model: ``builtin``, a folder with config.json, or anything with a slash in it."""
    return given == BUILTIN or "/" in given or os.sep in given or (Path(given) / "config.json").is_file()


def understand(given: str, project: Project | None) -> Contender:
    """A model, or else a run: id, unique prefix or name, with ``:pre`` for its evaluation before training.

    Raises ConfigError for a folder without a model, and for a run that the record does not have.
    """
    path = Path(given).expanduser()
    if is_model(given):
        if path.is_dir() and not (path / "config.json").is_file():
            trained = path / "model"
            raise ConfigError(
                f"{given} is no model folder",
                found="no config.json in it",
                next_step=f"A run is named by its id; its trained weights are in {trained}"
                if trained.is_dir()
                else "Name a folder with config.json, tokenizer and safetensors",
            )
        return Contender(given, None)
    assert project is not None
    reference, colon, phase = given.rpartition(":")
    if colon and phase in ("pre", "post"):
        return Contender(given, project.find_run(reference).run_id, "pre" if phase == "pre" else "post")
    return Contender(given, project.find_run(given).run_id)


def evaluations(contenders: Sequence[Contender], project: Project | None, asked: Asked) -> list[Evaluated]:
    """The evaluation of each: read from the record, or made now.

    Raises ComparisonError or EvaluationError when one cannot be had, ConfigError when the suite cannot be told.
    """
    recorded: dict[Contender, Evaluated] = {}
    for item in contenders:
        if item.run_id is not None:
            assert project is not None
            found = read_evaluation(project, item.run_id, item.phase)
            recorded[item] = found.only(asked.tasks) if asked.tasks else found
    models = [item for item in contenders if item.run_id is None]
    if not models:
        return [recorded[item] for item in contenders]
    first = next((item.run_id for item in contenders if item.run_id is not None), None)
    suite = _suite(asked, None if first is None else _settings(project, first))
    for found in recorded.values():  # before anything is evaluated in vain
        check_protocols(bound(found), Bound(models[0].given, suite.plan, suite.protocol))
    made = {item: _evaluate(item.given, suite, asked) for item in dict.fromkeys(models)}
    return [recorded[item] if item.run_id is not None else made[item] for item in contenders]


def _settings(project: Project | None, run_id: str) -> EvaluationConfig:
    assert project is not None
    event = project.last(run_id, EventKind.RUN_REGISTERED)
    assert event is not None and isinstance(event.payload, RunRegistered)
    return EvaluationConfig.model_validate(event.payload.config["evaluation"], strict=False)


def _suite(asked: Asked, of_run: EvaluationConfig | None) -> Suite:
    """The suite that was asked for, else that of the runs taking part, else the built-in one."""
    from grpo_audit_evals.suite import load_suite

    settings = of_run or EvaluationConfig()
    changes: dict[str, object] = {}
    if asked.suite is not None:
        changes |= {"suite": asked.suite, "tasks": [], "limit": None, "margins": {}}
    elif of_run is not None and of_run.suite not in (None, BUILTIN) and not Path(str(of_run.suite)).is_dir():
        raise ConfigError(
            f"The suite of the runs, {of_run.suite}, is not a folder here",
            next_step="Run this where the recipe was, or name its suite with --suite",
        )
    if asked.tasks:
        changes["tasks"] = list(asked.tasks)
        changes["margins"] = {task: margin for task, margin in settings.margins.items() if task in asked.tasks}
    if asked.limit is not None:
        changes["limit"] = asked.limit
    if asked.batch_size is not None:
        changes["batch_size"] = asked.batch_size
    return load_suite(settings.model_copy(update=changes), Path.cwd())


def _evaluate(model: str, suite: Suite, asked: Asked) -> Evaluated:
    """Every task of the suite on a model, with a progress bar."""
    from grpo_audit.record.identity import model_identity
    from grpo_audit_evals.run import evaluate
    from grpo_audit_trainer.policy import Policy, resolve_folder

    here, settings = Path.cwd(), ModelConfig(path=model)
    weights = model_identity(resolve_folder(settings, here), source=model).weights_digest
    policy = Policy.load(settings, here)
    documents = {task.task: task.documents for task in suite.plan.tasks}
    results = []
    with console.bar(f"evaluate {Path(model).name or model}", sum(documents.values())) as bar:
        finished = 0

        def on_progress(name: str, done: int, _: int) -> None:
            bar.update(finished + done, name)

        for result in evaluate(
            suite, policy, phase="post", weights_digest=weights, cache=asked.cache, on_progress=on_progress
        ):
            finished += documents[result.task.task]
            bar.update(finished, result.task.task)
            results.append(result)
    texts = {
        (result.task.task, sample.payload.doc_id): (sample.prompt, sample.response)
        for result in results
        for sample in result.samples
    }
    side = Side(
        weights=weights,
        protocol=suite.plan.protocol_digest,
        samples={result.task.task: [sample.payload for sample in result.samples] for result in results},
        responses={
            result.task.task: {sample.payload.doc_id: sample.response_digest for sample in result.samples}
            for result in results
        },
    )
    return Evaluated(
        run_id=model,
        phase="post",
        plan=suite.plan,
        side=side,
        sequence={},
        texts=lambda task, document: Texts(*(text.decode("utf-8", "replace") for text in texts[task, document])),
        protocol=suite.protocol,
    )
