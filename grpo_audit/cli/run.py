"""``grpo-audit run`` and ``grpo-audit train``."""

from __future__ import annotations

import json as jsonlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from grpo_audit.cli import console
from grpo_audit.cli.lint import warn
from grpo_audit.cli.outcome import finish
from grpo_audit.cli.runs import DB_HELP, DB_VARIABLE, DEFAULT_DB
from grpo_audit.cli.together import follow, is_first, one_voice
from grpo_audit.config.checks import DecontaminationConfig
from grpo_audit.config.load import Resolved, differences, dump, resolve
from grpo_audit.config.presets import find
from grpo_audit.config.run import RunConfig
from grpo_audit.config.sections import EvaluationConfig
from grpo_audit.errors import ConfigError
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.runs import RunState
from grpo_audit.preflight.facts import gather, of_model
from grpo_audit.preflight.inspect import inspect
from grpo_audit.record.events import Artifact, EventKind, RunRegistered

Recipe = Annotated[
    Path | None,
    typer.Argument(help="Recipe (YAML). Left out: the recipe of the model that ships with the project."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override one key, e.g. --set training.steps=20. May be repeated."),
]
Db = Annotated[
    str | None, typer.Option("--db", help=f"{DB_HELP} Default: record.db of the recipe.", envvar=DB_VARIABLE)
]
Json = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON on standard output.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved configuration, apply the preflight rules and stop.")
]

BASE_DIR_FILE = "base_dir.txt"
"""In the run folder: where the recipe's relative paths start, for --resume. Not part of the record."""


def run(
    recipe: Recipe = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest unfinished run (or --run) of the record.")
    ] = False,
    run_ref: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Which run to resume.")] = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Evaluate, train with GRPO, evaluate again, compare, seal, verify, write the report.

    Examples: [bold]grpo-audit run[/bold] (the built-in demonstration), [bold]grpo-audit run recipe.yaml --set
    training.steps=50[/bold], [bold]grpo-audit run --resume[/bold] after an interruption.

    Exit code 0: the run is complete and verified, also where a behaviour regressed or a release gate does not hold. In
    CI ask [bold]grpo-audit gate[/bold] (7) or [bold]grpo-audit compare[/bold] (4) afterwards.
    """
    if resume:
        if recipe is not None or overrides or dry_run:
            raise ConfigError(
                "--resume goes on with the recorded configuration",
                found="a recipe, --set or --dry-run beside it",
                next_step="Use --resume alone, with --db and --run where needed",
            )
        with one_voice():
            _resume(db or DEFAULT_DB, run_ref, json=json)
        return
    if run_ref is not None:
        raise ConfigError("--run names a run to resume", next_step="Add --resume")
    with one_voice():
        _start(_resolved(recipe, overrides, db), dry_run=dry_run, json=json)


def train(
    recipe: Recipe = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Train and record, without the evaluations before and after.

    The same as [bold]run[/bold] with [bold]evaluation.suite: null[/bold]: the report then has no figures on behaviour,
    prompts are compared with nothing, and release gates are left out.
    """
    with one_voice():
        resolved = _resolved(recipe, overrides, db)
        if resolved.config.gates:
            console.say("without evaluations the release gates of the recipe are left out")
        without = {
            "evaluation": EvaluationConfig(suite=None),
            "decontamination": DecontaminationConfig(check=False),
            "gates": [],
        }
        config = resolved.config.model_copy(update=without)
        _start(replace(resolved, config=config), dry_run=dry_run, json=json)


def _resolved(recipe: Path | None, overrides: list[str] | None, db: str | None) -> Resolved:
    if recipe is None:
        from grpo_audit_builtin import RECIPE

        recipe = RECIPE
    settings = [*(overrides or []), *([f"record.db={jsonlib.dumps(db)}"] if db else [])]
    return resolve(recipe, settings)


def _start(resolved: Resolved, *, dry_run: bool, json: bool) -> None:
    config = resolved.config
    if dry_run:
        if not is_first():
            return
        if json:
            typer.echo(jsonlib.dumps(config.model_dump(mode="json"), indent=2))
        else:
            typer.echo(dump(config), nl=False)
        preflight = inspect(config, resolved.differences, gather(config, resolved.base_dir))
        warn(preflight)
        preflight.refuse_errors()
        return
    # what the recipe alone shows, before a model is downloaded
    inspect(config, resolved.differences, of_model(config.model, resolved.base_dir)).refuse_errors()
    from grpo_audit.cli.pipeline import Pipeline, new_run_id
    from grpo_audit.cli.prepare import facts, prepare
    from grpo_audit_trainer.distributed import join, leave

    world = join(config.model.device)
    if not world.first:
        follow(resolved, world)
        leave()
        return
    console.summary(resolved)
    with prepare(resolved, world) as prepared:
        preflight = inspect(config, resolved.differences, facts(prepared))
        warn(preflight)
        preflight.refuse_errors()
        with Project.open(config.record.db, mode="create") as project:
            pipeline = Pipeline(prepared, project, new_run_id(config.name))
            # before the registration: a registered run can be resumed whenever it is killed
            pipeline.folder.mkdir(parents=True, exist_ok=True)
            (pipeline.folder / BASE_DIR_FILE).write_text(str(resolved.base_dir.absolute()), encoding="utf-8")
            (pipeline.folder / "config.yaml").write_text(dump(config), encoding="utf-8")
            pipeline.register(preflight.findings)
            console.say(f"registered run {pipeline.run_id} in {project.name}")
            pipeline.execute(None)
    leave()
    finish(config.record.db, pipeline.run_id, pipeline.folder, json=json)


def _resume(db: str, run_ref: str | None, *, json: bool) -> None:
    from grpo_audit.cli.pipeline import Pipeline
    from grpo_audit.cli.prepare import prepare
    from grpo_audit_trainer.distributed import join, leave

    if not is_first():
        with Project.open(db, mode="read") as project:
            resolved = _registered(project, _unfinished(project, run_ref))
        follow(resolved, join(resolved.config.model.device))
        leave()
        return
    with Project.open(db, mode="write") as project:
        run_id = _unfinished(project, run_ref)
        resolved = _registered(project, run_id)
        console.say(f"resuming {run_id}")
        world = join(resolved.config.model.device)
        with prepare(resolved, world) as prepared:
            pipeline = Pipeline(prepared, project, run_id)
            pipeline.folder.mkdir(parents=True, exist_ok=True)
            start = pipeline.resume()
            console.say(f"attempt {pipeline.attempt}, from step {start.step if start else 0}")
            pipeline.execute(start)
    leave()
    finish(db, run_id, pipeline.folder, json=json)


def _unfinished(project: Project, run_ref: str | None) -> str:
    if run_ref is not None:
        run = project.find_run(run_ref)
        if run.state == RunState.SEALED:
            raise ConfigError(f"Run {run.run_id} is sealed, so there is nothing to resume")
        return run.run_id
    unfinished = [run.run_id for run in project.runs() if run.state != RunState.SEALED]
    if not unfinished:
        raise ConfigError(
            f"{project.name} has no unfinished run", next_step="Start one with grpo-audit run RECIPE.yaml"
        )
    return unfinished[-1]


def _registered(project: Project, run_id: str) -> Resolved:
    """The configuration as it was registered before step 0."""
    event = project.last(run_id, EventKind.RUN_REGISTERED)
    if event is None or not isinstance(event.payload, RunRegistered):
        raise ConfigError(f"Run {run_id} was never registered", next_step="Start a new run")
    config = RunConfig.model_validate(event.payload.config, strict=False)
    origin = Path(config.record.folder) / run_id / BASE_DIR_FILE
    base_dir = Path(origin.read_text(encoding="utf-8")) if origin.is_file() else Path.cwd()
    recipe = b""
    for artifact in project.events(run_id, kinds={EventKind.ARTIFACT}):
        if isinstance(artifact.payload, Artifact) and artifact.payload.role == "recipe":
            recipe = project.content(artifact.seq, "text") or b""
    preset = find(config.preset, where="the record")
    return Resolved(config, base_dir, recipe.decode(), preset, differences(config, preset))
