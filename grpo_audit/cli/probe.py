"""``grpo-audit probe``: can a reward source be fooled?"""

from __future__ import annotations

import json as jsonlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from grpo_audit.cli import console
from grpo_audit.cli.probe_table import plain, show
from grpo_audit.cli.runs import Json
from grpo_audit.config.checks import ProbeConfig
from grpo_audit.config.load import resolve
from grpo_audit.config.sections import PromptConfig, RewardConfig
from grpo_audit.errors import ConfigError, ExitCode, RewardError
from grpo_audit.prompts.loading import load
from grpo_audit.rewards.probes import ProbeResult, Row, probe_source
from grpo_audit.rewards.probes.default_rows import default_rows
from grpo_audit.rewards.probes.families import FAMILIES
from grpo_audit.rewards.signature import GIVEN
from grpo_audit.rewards.sources import RewardSource


def probe(
    reward: Annotated[
        str | None, typer.Argument(help="package.module:function, or file.py:function relative to here.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Probe the reward sources of this recipe, on its prompts.")
    ] = None,
    source: Annotated[list[str] | None, typer.Option(help="With --recipe: only this source. Repeatable.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Rows with the columns the source needs: JSONL, CSV or Parquet.")
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option(help="OUR_NAME=COLUMN of the prompts, e.g. prompt=question. Repeatable.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the source. Repeatable.")] = None,
    gold: Annotated[str | None, typer.Option(help="Column with the right answer, where it is not found.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, max=1000, help="Rows of the prompts to probe with. [20]")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="From which reward on a completion is rewarded. [0.5]")
    ] = None,
    time_limit: Annotated[float | None, typer.Option(min=0.1, help="Seconds a call may take. [10]")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the rows.")] = 0,
    examples: Annotated[int, typer.Option(min=0, help="Wrongly judged completions to show.")] = 6,
    json: Json = False,
) -> None:
    """Try to fool a reward source: about 40 families of completions that must or must not be rewarded.

    Among them: nothing, refusals, lists of candidates, two answers, right in the reasoning and wrong in the answer,
    words to the grader, look-alike numbers, notation, bombs, a megabyte of text. docs/probes.md explains each.

    How a right completion looks is found by trying: the reference of each row in every usual form. If none is
    rewarded, only what must never be rewarded is tried, and the result says so.

    [bold]grpo-audit probe grpo_audit.rewards.maths:score[/bold]

    [bold]grpo-audit probe my_rewards.py:right --prompts train.jsonl --field prompt=question[/bold]

    Exit code 0: nothing was found. 1: something is rewarded that must not be, or the source hung or died. 2: wrong
    input, or nothing could be probed. Missed right answers, errors and unstable judgements are shown and do not change
    the code.
    """
    if (reward is None) == (recipe is None):
        raise ConfigError("Probe what?", next_step="Name one of REWARD and --recipe FILE")
    if recipe is not None:
        if option or field:
            raise ConfigError("With --recipe options and fields are the recipe's", next_step="Change them there")
        work = _of_recipe(recipe, source or [], prompts)
    else:
        if source:
            raise ConfigError("--source chooses among the sources of a recipe", next_step="Give --recipe FILE as well")
        work = [_of_function(str(reward), options_of(option), prompts, _pairs(field, "--field"))]
    results = [_one(item, gold, _changes(rows=rows, threshold=threshold), time_limit, seed) for item in work]
    if json:
        typer.echo(jsonlib.dumps([plain(result) for result in results], indent=2))
    else:
        for result in results:
            show(result, examples)
    if all(result.payload.not_probed for result in results):
        raise RewardError("Nothing could be probed", found="; ".join(result.payload.not_probed for result in results))
    if any(result.false_positives or result.hangs for result in results):
        raise typer.Exit(ExitCode.VERIFICATION_FAILED)


@dataclass(frozen=True)
class _Work:
    """A source and what it is probed with."""

    config: RewardConfig
    base_dir: Path
    rows: Sequence[Row]
    settings: ProbeConfig


def _of_recipe(recipe: Path, names: list[str], prompts: Path | None) -> list[_Work]:
    config = resolve(recipe).config
    known = [item.name for item in config.rewards]
    for name in names:
        if name not in known:
            raise ConfigError(f"{recipe} has no reward source {name}", expected=f"one of {', '.join(known)}")
    base_dir = recipe.absolute().parent
    section = config.prompts
    if prompts is not None:
        section = section.model_copy(update={"source": str(prompts.absolute())})
    rows = load(section, base_dir).rows
    return [_Work(item, base_dir, rows, config.probes) for item in config.rewards if not names or item.name in names]


def _of_function(source: str, options: dict[str, Any], prompts: Path | None, fields: dict[str, str]) -> _Work:
    here = Path.cwd()
    try:
        config = RewardConfig(name=_name(source), source=source, options=options)
    except ValidationError as error:
        problem = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"{source} is no reward source: {problem}") from error
    if prompts is not None:
        return _Work(config, here, load(PromptConfig(source=str(prompts), fields=fields), here).rows, ProbeConfig())
    rows = _default(config, here)
    return _Work(config, here, rows, ProbeConfig(rows=len(rows)))


def _name(source: str) -> str:
    """A name for the table: the module's last part and the function."""
    module, _, function = source.rpartition(":")
    name = f"{Path(module.removesuffix('.py').rpartition('.')[2]).name}.{function}"
    return re.sub(r"\A[^A-Za-z]+|[^A-Za-z0-9_.-]", "", name)[:64] or "reward"


def _default(config: RewardConfig, here: Path) -> Sequence[Row]:
    """Rows of our own that have the columns the source asks for; of several sets those it rewards anything in."""
    with _started(config, here) as source:
        named = [name for name in source.loaded.required if name not in GIVEN and name not in source.loaded.options]
        if not named and source.loaded.accepted is not None:
            named = [name for name in source.loaded.named if name in ("answer", "json_schema")][:1]
    sets = default_rows(named)
    if not sets:
        raise RewardError(
            f"{config.source} needs the columns {', '.join(named)}, and we have no rows with them",
            next_step="Name a file with such rows: --prompts FILE",
        )
    if len(sets) == 1:
        return next(iter(sets.values()))
    one = ProbeConfig(rows=1)
    known: list[Row] = []
    for found in sets.values():
        if probe_source(config, here, found, probes=one, only_calibrate=True).payload.gold:
            known += found
    return known or next(iter(sets.values()))


@contextmanager
def _started(config: RewardConfig, here: Path) -> Iterator[RewardSource]:
    source = RewardSource(config, here)
    try:
        source.start()
        yield source
    finally:
        source.close()


def _one(work: _Work, gold: str | None, changes: dict[str, float], time_limit: float | None, seed: int) -> ProbeResult:
    """What the source prints goes nowhere: it would tear the bar."""
    config = work.config if time_limit is None else work.config.model_copy(update={"time_limit_s": time_limit})
    silent = os.open(os.devnull, os.O_WRONLY)
    try:
        with console.bar(f"probe {console.visible(config.name)}", len(FAMILIES) + 2) as bar:
            return probe_source(
                config,
                work.base_dir,
                work.rows,
                probes=work.settings.model_copy(update=changes),
                gold=gold,
                seed=seed,
                log_fd=silent,
                on_progress=lambda done, _, name: bar.update(done, name),
            )
    finally:
        os.close(silent)


def _changes(**given: float | None) -> dict[str, float]:
    return {name: value for name, value in given.items() if value is not None}


def _pairs(given: list[str] | None, what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in given or []:
        name, equals, value = item.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"{what} {item} cannot be read", expected=f"{what} NAME=VALUE")
        found[name] = value
    return found


def options_of(given: list[str] | None) -> dict[str, Any]:
    """Values as in a recipe: true, 3, 0.5, a list in brackets; anything else is text."""
    found: dict[str, Any] = {}
    for name, value in _pairs(given, "--option").items():
        try:
            found[name] = jsonlib.loads(value)
        except ValueError:
            found[name] = value
    return found
