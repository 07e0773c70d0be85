"""``grpo-audit compare``: before and after, several runs, or models trained anywhere."""

from __future__ import annotations

import contextlib
import json as jsonlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from grpo_audit.cli import console
from grpo_audit.cli.contenders import Asked, cache_folder, evaluations, is_model, understand
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.cli.side_by_side import LETTERS, example_lines, show
from grpo_audit.errors import ConfigError, ExitCode
from grpo_audit.ledger.project import Project
from grpo_audit.stats.evaluated import Evaluated, read_evaluation
from grpo_audit.stats.versus import Versus, as_json, versus


def compare(
    contenders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[A B C...]",
            help="Runs (id, unique prefix or name; RUN:pre is the model before training) and models ('builtin', a "
            "folder with config.json, a hub id), in any mixture. The first is the baseline. One run alone: before and "
            "after RL. Nothing: the newest run.",
            show_default=False,
        ),
    ] = None,
    db: Db = DEFAULT_DB,
    task: Annotated[list[str] | None, typer.Option(help="Only this task. May be repeated.")] = None,
    examples: Annotated[int, typer.Option(min=0, help="Flipped documents a task to show, with both answers.")] = 0,
    suite: Annotated[
        str | None,
        typer.Option(help="Suite for models: 'builtin' or a folder of lm-eval task files. Default: that of the runs."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents a task, for models.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="For models.")] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Evaluate models again, also with weights and protocol seen before.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Also write one self-contained page.", metavar="FILE")] = None,
    json: Json = False,
) -> None:
    """Compare runs and models document by document: the first is the baseline, each other is compared with it.

    Only what was asked the same is compared: protocol, documents and prompts are bound by digests, and a refusal names
    what differs. Verdicts are corrected (Holm) over the primary metrics of each comparison. Exit code 4 when something
    regressed, 1 when two different models gave the same answers throughout.

    [bold]grpo-audit compare[/bold]  the newest run, before and after RL

    [bold]grpo-audit compare run1 run2 run3[/bold]  trained weights of three runs

    [bold]grpo-audit compare run1:pre run1 ./trained-elsewhere --examples 2 --html compare.html[/bold]
    """
    given = contenders or []
    models = [item for item in given if is_model(item)]
    asked = Asked(suite, tuple(task or ()), limit, batch_size, None if no_cache else cache_folder())
    _check(given, models, asked)
    with contextlib.ExitStack() as stack:
        project = None
        if len(models) < len(given) or not given:
            project = stack.enter_context(Project.open(db, mode="read"))
        baseline, *others = _sides(given, project, asked)
        found = versus(baseline, others, examples)
    if html is not None:
        _write(found, html)
    if json:
        typer.echo(jsonlib.dumps(as_json(found), indent=2))
    else:
        show(found)
        for line in example_lines(found):
            console.out.print(line, markup=False, soft_wrap=True)
        if html is not None:
            console.out.print(f"page  {html}", markup=False, soft_wrap=True)
    if found.regressed:
        raise typer.Exit(ExitCode.REGRESSED)
    if found.blind:
        raise typer.Exit(ExitCode.VERIFICATION_FAILED)


def _check(given: Sequence[str], models: Sequence[str], asked: Asked) -> None:
    if len(given) == 1 and models:
        raise ConfigError(
            f"{given[0]} alone is nothing to compare",
            next_step=f"Name a second one: grpo-audit compare builtin {given[0]}",
        )
    if len(given) > len(LETTERS):
        raise ConfigError(f"{len(given)} are too many to show", expected=f"at most {len(LETTERS)}")
    options = (("suite", asked.suite), ("limit", asked.limit), ("batch-size", asked.batch_size))
    without_effect = [f"--{name}" for name, value in options if value is not None]
    if not models and without_effect:
        raise ConfigError(
            f"{' and '.join(without_effect)} says how models are evaluated, and there are runs only",
            next_step="Leave it out: the answers of runs are in the record",
        )


def _sides(given: Sequence[str], project: Project | None, asked: Asked) -> list[Evaluated]:
    if len(given) > 1:
        return evaluations([understand(item, project) for item in given], project, asked)
    assert project is not None
    reference = given[0] if given else None
    if reference is not None and reference.rpartition(":")[2] in ("pre", "post") and ":" in reference:
        raise ConfigError(f"{reference} alone is nothing to compare", next_step="Name a second run or model")
    run_id = project.find_run(reference).run_id
    sides = [read_evaluation(project, run_id, "pre"), read_evaluation(project, run_id, "post")]
    return [side.only(asked.tasks) for side in sides] if asked.tasks else sides


def _write(found: Versus, path: Path) -> None:
    from grpo_audit.report.versus_page import write_page

    write_page(found, path)
