"""``grpo-audit compare``: before and after, or two runs."""

from __future__ import annotations

import json as jsonlib
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import typer

from grpo_audit.cli import console
from grpo_audit.cli.console import visible
from grpo_audit.cli.outcome import comparison_table
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.errors import ExitCode
from grpo_audit.ledger.project import Project
from grpo_audit.record.events import Verdict
from grpo_audit.stats.runs import Flip, compare_runs


def compare(
    first: Annotated[str | None, typer.Argument(help="Run. Left out: the newest.")] = None,
    second: Annotated[str | None, typer.Argument(help="Another run: compares the trained weights of both.")] = None,
    db: Db = DEFAULT_DB,
    examples: Annotated[int, typer.Option(min=0, help="Flipped documents to show per evaluation.")] = 0,
    json: Json = False,
) -> None:
    """Compare one run before and after RL, or the trained weights of two runs, document by document.

    Refuses what was not evaluated under the same protocol. Exit code 4 when something regressed.
    """
    with Project.open(db, mode="read") as project:
        one = project.find_run(first).run_id
        if second is None:
            result = compare_runs(project, one, one, first_phase="pre", second_phase="post")
            title = f"{one}: before and after RL"
        else:
            two = project.find_run(second).run_id
            result = compare_runs(project, one, two)
            title = f"trained weights of {one} (pre) and {two} (post)"
        shown = _examples(project, result.flips, examples)
    if json:
        flips = [vars(flip) for flip in result.flips]
        typer.echo(jsonlib.dumps({"comparison": result.comparison.model_dump(mode="json"), "flips": flips}, indent=2))
    else:
        console.out.print(comparison_table(result.comparison, title))
        for line in shown:
            console.out.print(line, markup=False, soft_wrap=True)
    if any(row.verdict == Verdict.REGRESSED for row in result.comparison.tasks):
        raise typer.Exit(ExitCode.REGRESSED)


def _examples(project: Project, flips: Sequence[Flip], count: int) -> list[str]:
    """Up to ``count`` flipped documents a task, those that got worse first, with both answers."""
    lines: list[str] = []
    taken: Counter[str] = Counter()
    for flip in flips:
        taken[flip.task] += 1
        if taken[flip.task] > count:
            continue
        prompt = (project.content(flip.post_seq, "prompt") or b"(erased)").decode()
        lines.append(f"{flip.task} {flip.doc_id}: {'gained' if flip.improved else 'lost'}")
        for label, text in (
            ("prompt", prompt),
            ("wanted", flip.target),
            ("before", flip.pre_prediction),
            ("after", flip.post_prediction),
        ):
            lines.append(f"  {label:<7}{visible(text)}")
    return lines
