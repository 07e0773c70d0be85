"""``grpo-audit erase``: remove text from the record on purpose. The tree stays whole, and the erasure shows."""

from __future__ import annotations

import json as jsonlib
import re
from collections.abc import Iterable
from typing import Annotated

import typer
from sqlalchemy import text

from grpo_audit.cli import console
from grpo_audit.cli.abandon import Author, Reason, said_by_whom_and_why
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.errors import ConfigError
from grpo_audit.ledger.project import Project

_ROLLOUT = re.compile(r"(\d+):(\d+):(\d+)")
COPIES = (
    "Not touched, and to be looked after by you: reports, bundles and exports already made of this run, its recipe and "
    "prompt files, snapshots, backups of the record."
)


def erase(
    author: Author,
    reason: Reason,
    run: Annotated[str | None, typer.Argument(help="Run id, prefix or name. Left out: the newest run.")] = None,
    rollout: Annotated[
        list[str] | None,
        typer.Option("--rollout", metavar="STEP:GROUP:SAMPLE", help="A completion, with its tokens. Repeatable."),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="ID", help="A prompt, wherever this run drew it. Repeatable."),
    ] = None,
    completions: Annotated[
        bool, typer.Option("--completions", help="With --prompt: its completions and their tokens too.")
    ] = False,
    document: Annotated[
        list[str] | None,
        typer.Option(
            "--document", metavar="TASK:ID", help="Prompt and response of an evaluation document. Repeatable."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Erase texts and their salts from the record, for good.

    Digests, numbers and the tree stay, so the record still verifies; verify, log and report say what was erased, by
    whom and why. Works on sealed runs. Rewards that rest on an erased text can no longer be computed again (L1).
    """
    said_by_whom_and_why(author, reason)
    with Project.open(db, mode="write") as project:
        run_id = project.find_run(run).run_id
        chosen = [
            *_rollouts(project, run_id, rollout or []),
            *_prompts(project, run_id, prompt or [], completions=completions),
            *_documents(project, run_id, document or []),
        ]
        items = _there(project, chosen)
        pieces = sum(len(names) for _, names in items)
        if not yes:
            console.out.print(f"{run_id}: {pieces} texts of {len(items)} events will be gone for good.", markup=False)
            typer.confirm("Erase them?", abort=True)
        head = project.erase(run_id, items, author=author, reason=reason)
    result = {"run": run_id, "event": head.size - 1, "events": len(items), "contents": pieces}
    if json:
        typer.echo(jsonlib.dumps(result))
        return
    console.out.print(f"erased {pieces} texts of {len(items)} events; event {head.size - 1} says so", markup=False)
    console.out.print(COPIES, style="dim", markup=False)


def _rollouts(project: Project, run_id: str, references: list[str]) -> list[tuple[int, list[str]]]:
    found = []
    for reference in references:
        match = _ROLLOUT.fullmatch(reference)
        if match is None:
            raise ConfigError(
                f"{reference!r} names no rollout", expected="STEP:GROUP:SAMPLE, as grpo-audit show lists them"
            )
        seqs = _seqs(
            project,
            "SELECT seq FROM rollout WHERE run_id = :run AND step = :step AND group_index = :grp AND sample = :sample",
            run=run_id,
            step=int(match[1]),
            grp=int(match[2]),
            sample=int(match[3]),
        )
        if not seqs:
            raise ConfigError(
                f"Run {run_id} has no rollout {reference}", next_step="grpo-audit show --step N lists them"
            )
        found += [(seq, ["completion", "trace"]) for seq in seqs]
    return found


def _prompts(project: Project, run_id: str, references: list[str], *, completions: bool) -> list[tuple[int, list[str]]]:
    found = []
    for reference in references:
        seqs = _seqs(
            project,
            "SELECT seq FROM rollout_group WHERE run_id = :run AND prompt_id = :prompt",
            run=run_id,
            prompt=reference,
        )
        if not seqs:
            raise ConfigError(f"Run {run_id} never drew prompt {reference!r}")
        found += [(seq, ["prompt", "fields"]) for seq in seqs]
        if completions:
            answers = _seqs(
                project,
                "SELECT r.seq FROM rollout AS r JOIN rollout_group AS g ON g.run_id = r.run_id AND g.step = r.step "
                "AND g.attempt = r.attempt AND g.group_index = r.group_index "
                "WHERE g.run_id = :run AND g.prompt_id = :prompt ORDER BY r.seq",
                run=run_id,
                prompt=reference,
            )
            found += [(seq, ["completion", "trace"]) for seq in answers]
    return found


def _documents(project: Project, run_id: str, references: list[str]) -> list[tuple[int, list[str]]]:
    found = []
    for reference in references:
        task, _, doc = reference.partition(":")
        seqs = _seqs(
            project,
            "SELECT seq FROM eval_sample WHERE run_id = :run AND task = :task AND doc_id = :doc",
            run=run_id,
            task=task,
            doc=doc,
        )
        if not seqs:
            raise ConfigError(f"Run {run_id} has no evaluation document {reference!r}", expected="TASK:ID")
        found += [(seq, ["prompt", "response"]) for seq in seqs]
    return found


def _seqs(project: Project, query: str, **parameters: object) -> list[int]:
    with project.session() as session:
        return list(session.execute(text(query), parameters).scalars())


def _there(project: Project, chosen: Iterable[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """What of it is still there, each event once, in order. Raises ConfigError when nothing is."""
    wanted: dict[int, set[str]] = {}
    for seq, names in chosen:
        wanted.setdefault(seq, set()).update(names)
    items = []
    for seq in sorted(wanted):
        names = [name for name in sorted(wanted[seq]) if project.content(seq, name) is not None]
        if names:
            items.append((seq, names))
    if not items:
        raise ConfigError(
            "There is nothing to erase",
            found="nothing was named, or all of it is gone already",
            next_step="Name texts with --rollout, --prompt or --document; grpo-audit log shows earlier erasures",
        )
    return items
