"""The ``grpo-audit`` program: the commands, and how every error becomes one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import grpo_audit
from grpo_audit.cli import (
    abandon,
    annotate,
    bundle,
    compare,
    coverage,
    decontaminate,
    erase,
    evaluate,
    export,
    init,
    keys,
    lint,
    log,
    prove,
    replay,
    report,
    run,
    runs,
    upgrade,
    verify,
    witness,
)
from grpo_audit.errors import ExitCode, GrpoAuditError, StorageError

app = typer.Typer(
    name="grpo-audit",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train with GRPO and leave a tamper-evident record that anyone can check.\n\n"
    "Start with [bold]grpo-audit run[/bold]: it evaluates, trains, evaluates again, seals, verifies and "
    "writes the release report on the model that ships with the project.",
)
app.command("run")(run.run)
app.command("train")(run.train)
app.command("lint")(lint.lint)
app.command("eval")(evaluate.evaluate)
app.command("decontaminate")(decontaminate.decontaminate)
app.command("report")(report.report)
app.command("verify")(verify.verify)
app.command("replay")(replay.replay)
app.command("compare")(compare.compare)
app.command("runs")(runs.runs)
app.command("show")(runs.show)
app.command("log")(log.log)
app.command("abandon")(abandon.abandon)
app.command("annotate")(annotate.annotate)
app.command("coverage")(coverage.coverage)
app.command("erase")(erase.erase)
app.command("upgrade")(upgrade.upgrade)
app.command("export")(export.export)
app.command("bundle")(bundle.bundle)
app.command("prove")(prove.prove)
app.add_typer(witness.app, name="witness")
app.add_typer(keys.app, name="keys")
app.command("init")(init.init)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"grpo-audit {grpo_audit.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that hold for every command."""


def main() -> None:
    """Run the program; a user-fixable error is one line on stderr and an exit code of the README's table."""
    try:
        app()
    except GrpoAuditError as error:
        _fail(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EPERM):
            raise
        _fail(_storage(error))
    except SystemExit as end:  # the command-line library turns Ctrl-C into this code
        if end.code == ExitCode.INTERRUPTED:
            print(
                "Interrupted. Nothing is lost: a registered run goes on with grpo-audit run --resume", file=sys.stderr
            )
        raise


def _fail(error: GrpoAuditError) -> None:
    print(f"grpo-audit: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def _storage(error: OSError) -> StorageError:
    where = error.filename or Path.cwd()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        step = "Free some space, or put record.db and record.folder elsewhere, then grpo-audit run --resume"
        return StorageError(f"The disk that holds {where} is full", next_step=step)
    return StorageError(
        f"{where} cannot be written",
        found=os.strerror(error.errno or 0),
        next_step="Choose another place with --set record.db=PATH and --set record.folder=PATH",
    )
