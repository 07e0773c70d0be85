"""The ``grpo-audit`` program: the commands, and how every error becomes one line and an exit code."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

import grpo_audit
from grpo_audit.errors import ExitCode, GrpoAuditError, StorageError

COMMANDS: Final = {
    "run": "run:run",
    "train": "run:train",
    "lint": "lint:lint",
    "eval": "evaluate:evaluate",
    "decontaminate": "decontaminate:decontaminate",
    "probe": "probe:probe",
    "regrade": "regrade:regrade",
    "report": "report:report",
    "verify": "verify:verify",
    "replay": "replay:replay",
    "compare": "compare:compare",
    "refusals": "refusals:refusals",
    "gate": "gate:gate",
    "coverage": "coverage:coverage",
    "bundle": "bundle:bundle",
    "export": "export:export",
    "runs": "runs:runs",
    "show": "runs:show",
    "log": "log:log",
    "annotate": "annotate:annotate",
    "abandon": "abandon:abandon",
    "erase": "erase:erase",
    "witness": "witness:app",
    "prove": "prove:prove",
    "keys": "keys:app",
    "init": "init:init",
    "upgrade": "upgrade:upgrade",
}
"""Name of each command, in the order of the help, and where it is: module of this package and attribute."""


class Commands(TyperGroup):
    """Imports a command when it is called: all of them together import scipy, statsmodels and matplotlib."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Their names."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """One of them, imported; None when there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        found = getattr(importlib.import_module(f"grpo_audit.cli.{module}"), attribute)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False)
            alone.command(cmd_name)(found)
            found = alone
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(
    name="grpo-audit",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train with GRPO and leave a tamper-evident record that anyone can check.\n\n"
    "Start with [bold]grpo-audit run[/bold]: it evaluates, trains, evaluates again, seals, verifies and "
    "writes the release report on the model that ships with the project.",
)


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
