"""``grpo-audit bundle``: one run as one file that a stranger can verify."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from grpo_audit.cli import console
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.export.bundle import BundleOptions, WrittenBundle, write_bundle
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.runs import RunState
from grpo_audit.ledger.store import sqlite_path
from grpo_audit.record.events import EventKind, RunRegistered
from grpo_audit.verify.bundle import BundleSource


def bundle(
    run: Annotated[
        str | None, typer.Argument(help="Run id, unique prefix or name. Left out: the newest run.", metavar="[RUN]")
    ] = None,
    db: Db = DEFAULT_DB,
    to: Annotated[
        Path | None, typer.Option("--to", help="The file to write. Default: bundle.zip in the run folder.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Run folder. Default: beside the record, or where the recipe put it."),
    ] = None,
    with_weights: Annotated[
        bool,
        typer.Option("--with-weights", help="Put the saved model in, too: it can then be checked, and is as large."),
    ] = False,
    without_text: Annotated[
        bool, typer.Option("--without-text", help="Leave out prompts, completions, answers, token ids, and the report.")
    ] = False,
    exports: Annotated[
        Path | None, typer.Option("--exports", help="Folder with what grpo-audit export wrote, to put in.")
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Bundle a run that is not sealed: nothing vouches for its end.")
    ] = False,
    json: Json = False,
) -> None:
    """Write one run as one zip file that anybody can verify, with nothing but the file and the project's key.

    It holds every event of the run, the project's own events, and what became of every other run. Of the other runs'
    remaining events it holds the hashes, so the whole log and every signed head can be recomputed. The same record
    gives the same bytes. Verify it with: grpo-audit verify BUNDLE.zip --key KEY. docs/bundle-format.md describes it.
    """
    run_id, place = _run(db, run, folder, unfinished=unfinished)
    target = to or place / "bundle.zip"
    options = BundleOptions(with_weights=with_weights, without_text=without_text, exports=exports)
    with console.bar("measure", 1) as measure, console.bar("write", 1) as write:
        bars = {"measure": measure, "write": write}
        written = write_bundle(db, run_id, place, target, options, lambda what, done, total: bars[what].of(done, total))
    with BundleSource.open(target) as source:
        lacks = source.not_shown()
    if json:
        typer.echo(jsonlib.dumps(_as_json(written, run_id, lacks), indent=2))
        return
    for item in lacks:
        console.out.print(f"does not hold: {console.visible(item)}", style="dim", markup=False, soft_wrap=True)
    console.out.print(f"bundle  {target}  {written.size:,} bytes", soft_wrap=True, markup=False)
    console.out.print(f"sha256  {written.sha256}", soft_wrap=True)
    console.out.print(f"key     {written.manifest.key}", soft_wrap=True, markup=False)
    console.out.print("Give the key to the verifier by another way than the bundle.", style="dim")


def _run(db: str, reference: str | None, folder: Path | None, *, unfinished: bool) -> tuple[str, Path]:
    """Id and folder of the run. Raises ConfigError when it has no end and that was not asked for."""
    with Project.open(db, mode="read") as project:
        overview = project.find_run(reference)
        event = project.last(overview.run_id, EventKind.RUN_REGISTERED)
    if overview.state is not RunState.SEALED and not unfinished:
        raise ConfigError(
            f"Run {overview.run_id} is not sealed",
            found=str(overview.state),
            next_step="Finish it with grpo-audit run --resume, or say --unfinished: the bundle will say so, too",
        )
    if event is None or not isinstance(event.payload, RunRegistered):
        raise StorageError(f"Run {overview.run_id} has no registration", next_step="Run grpo-audit verify")
    if folder is not None:
        return overview.run_id, folder
    path = sqlite_path(db)
    beside = path.parent / overview.run_id if path is not None else None
    if beside is not None and beside.is_dir():
        return overview.run_id, beside
    return overview.run_id, Path(event.payload.config["record"]["folder"]) / overview.run_id


def _as_json(written: WrittenBundle, run_id: str, lacks: list[str]) -> dict[str, object]:
    manifest = written.manifest
    return {
        "run": run_id,
        "bundle": str(written.path),
        "bytes": written.size,
        "sha256": written.sha256,
        "key": manifest.key,
        "events": manifest.events,
        "withheld": manifest.withheld.model_dump(),
        "members": len(manifest.members) + 1,
        "does_not_hold": lacks,
    }
