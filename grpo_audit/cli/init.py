"""``grpo-audit init``: a commented recipe to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grpo_audit.config.starter import starter_recipe
from grpo_audit.errors import ConfigError


def init(
    path: Annotated[Path, typer.Argument(help="Where to write it; - for standard output.")] = Path("recipe.yaml"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented starter recipe: every key, what it does, its default.

    It runs as it is on the model that ships with the project; change model, prompts and rewards to yours.
    """
    if str(path) == "-":
        typer.echo(starter_recipe(), nl=False)
        return
    if path.exists() and not overwrite:
        raise ConfigError(f"Refusing to overwrite {path}", next_step="Add --overwrite, or name another file")
    path.write_text(starter_recipe(), encoding="utf-8")
    typer.echo(f"Wrote {path}. Next: grpo-audit run {path} --dry-run")
