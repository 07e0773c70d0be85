"""``grpo-audit lint``: the preflight rules over a recipe, without training anything."""

from __future__ import annotations

import json as jsonlib
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from grpo_audit.cli import console
from grpo_audit.config.load import resolve
from grpo_audit.errors import ConfigError, ExitCode
from grpo_audit.preflight.facts import gather
from grpo_audit.preflight.inspect import Finding, Preflight, inspect
from grpo_audit.preflight.rule import Rule
from grpo_audit.preflight.rules import GRAVITY, RULES, explain, find
from grpo_audit.record.events import Severity

COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "dim"}


def lint(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="Recipe (YAML). Left out: the recipe of the model that ships with the project."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one key. May be repeated.")
    ] = None,
    rule: Annotated[str | None, typer.Option("--explain", metavar="RULE", help="Explain one rule and stop.")] = None,
    rules: Annotated[bool, typer.Option("--rules", help="List every rule and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Look for what would go wrong without a sign: the preflight rules over a recipe.

    Nothing is loaded, downloaded or written. Exit code 0 when no error is left, 2 otherwise. Waive a rule that does not
    apply in the recipe, with the reason: [bold]waive: {RULE: REASON}[/bold].
    """
    if rules or rule is not None:
        if recipe is not None or overrides or (rules and rule is not None):
            raise ConfigError("--rules and --explain stand alone", next_step="Leave the other arguments out")
        _show_rules(list(RULES.values()) if rule is None else [find(rule, where="--explain")], rule is None, json=json)
        return
    if recipe is None:
        from grpo_audit_builtin import RECIPE

        recipe = RECIPE
    resolved = resolve(recipe, overrides or [])
    preflight = inspect(resolved.config, resolved.differences, gather(resolved.config, resolved.base_dir))
    if json:
        typer.echo(jsonlib.dumps(_document(recipe, preflight), indent=2))
    else:
        _show(recipe, preflight)
    if preflight.open(Severity.ERROR):
        raise typer.Exit(ExitCode.BAD_INPUT)


def warn(preflight: Preflight) -> None:
    """One line on stderr for each warning, and for each error or warning that is waived."""
    for item in preflight.findings:
        severity = item.rule.severity
        if severity is Severity.WARNING or (severity is Severity.ERROR and item.waived is not None):
            waived = f", waived ({item.waived})" if item.waived is not None else ""
            console.err.print(_safe(f"preflight {severity.value}{waived}: {item.line}"), soft_wrap=True, markup=False)


def _show(recipe: Path, preflight: Preflight) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("severity", no_wrap=True)
    for name, share in (("rule", 2), ("where", 3), ("what it does, why, and what to write", 8)):
        table.add_column(name, overflow="fold", ratio=share)
    explained: set[str] = set()
    for item in preflight.findings:
        colour = COLOURS[item.rule.severity]
        words = _words(item, explain_it=item.rule.id not in explained)
        explained.add(item.rule.id)
        word = "waived" if item.waived is not None else item.rule.severity.value
        table.add_row(f"[{colour}]{word}[/{colour}]", item.rule.id, _cell(f"{item.where}: {item.value}"), words)
    if preflight.findings:
        console.out.print(table)
    console.out.print(f"{_safe(str(recipe))}: {_summary(preflight)}", soft_wrap=True, markup=False)
    reasons: dict[str, list[str]] = {}
    for rule, reason in preflight.not_checked:
        reasons.setdefault(reason, []).append(rule.id)
    for reason, names in reasons.items():
        console.out.print(f"not checked, because {_safe(reason)}: {', '.join(names)}", soft_wrap=True, markup=False)


def _words(item: Finding, *, explain_it: bool) -> str:
    why = [item.rule.explanation, f"-> {item.rule.remedy}."] if explain_it else []
    parts = [f"{item.message}.", *why]
    if item.waived is not None:
        parts.append(f"Waived: {item.waived}")
    return _cell(" ".join(parts))


def _summary(preflight: Preflight) -> str:
    counts = Counter(item.rule.severity for item in preflight.findings if item.waived is None)
    waived = sum(item.waived is not None for item in preflight.findings)
    parts = [f"{counts[severity]} {severity.value}" for severity in GRAVITY]
    return ", ".join([*parts, *([f"{waived} waived"] if waived else [])])


def _document(recipe: Path, preflight: Preflight) -> dict[str, object]:
    return {
        "recipe": str(recipe),
        "ok": not preflight.open(Severity.ERROR),
        "counts": {severity.value: len(preflight.open(severity)) for severity in GRAVITY},
        "findings": [
            {
                **_plain(item.rule),
                "where": item.where,
                "value": item.value,
                "message": item.message,
                "waived": item.waived,
            }
            for item in preflight.findings
        ],
        "not_checked": [{"rule": rule.id, "reason": reason} for rule, reason in preflight.not_checked],
    }


def _plain(rule: Rule) -> dict[str, object]:
    return {
        "rule": rule.id,
        "severity": rule.severity.value,
        "title": rule.title,
        "explanation": rule.explanation,
        "remedy": rule.remedy,
        "source": rule.source,
    }


def _show_rules(chosen: list[Rule], every: bool, *, json: bool) -> None:
    if json:
        listed = [{**_plain(rule), "needs": list(rule.needs)} for rule in chosen]
        typer.echo(jsonlib.dumps(listed if every else listed[0], indent=2))
        return
    if not every:
        typer.echo(explain(chosen[0]))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("severity", "rule", "what"):
        table.add_column(name)
    for rule in chosen:
        colour = COLOURS[rule.severity]
        table.add_row(f"[{colour}]{rule.severity.value}[/{colour}]", rule.id, escape(rule.title))
    console.out.print(table)


def _cell(text: str) -> str:
    return escape(_safe(text))


def _safe(text: str) -> str:
    return console.visible(text)
