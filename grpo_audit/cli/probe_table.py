"""What ``grpo-audit probe`` shows: a table of the families, the worst examples, a verdict."""

from __future__ import annotations

import json as jsonlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from grpo_audit.cli import console
from grpo_audit.record.audits import ProbeFamily, RewardProbed
from grpo_audit.rewards.probes import ProbeResult
from grpo_audit.rewards.probes.families import DETERMINISM, FAMILIES, THREADS

_WIDTH = 200
"""Characters of a completion that are shown; --json has more."""
_CATCHES = {family.name: family.catches for family in (*FAMILIES, DETERMINISM, THREADS)}


def plain(result: ProbeResult) -> dict[str, Any]:
    """For --json: the payload, the examples with their texts, the verdict."""
    found = result.payload.model_dump(mode="json")
    return found | {"examples": jsonlib.loads(result.examples), "verdict": verdict(result.payload)}


def verdict(payload: RewardProbed) -> str:
    """One line: what was found, with the largest rate that is still possible where nothing was."""
    if payload.not_probed:
        return f"not probed: {payload.not_probed}"
    wrong = [family.family for family in payload.families if family.false_positives]
    hangs = [family.family for family in payload.families if family.hangs]
    parts = []
    if wrong:
        count = sum(family.false_positives for family in payload.families)
        parts.append(f"CAN BE FOOLED: {count} completions rewarded that must not be ({', '.join(wrong)})")
    if hangs:
        parts.append(f"HANGS OR DIES ({', '.join(hangs)})")
    if not parts:
        tried = sum(family.negatives for family in payload.families)
        parts.append(
            f"no false positive in {tried:,} tries" if tried else "nothing that must not be rewarded was tried"
        )
    for name, what in (("failures", "errors"), ("unstable", "unstable judgements"), ("false_negatives", "missed")):
        count = sum(getattr(family, name) for family in payload.families)
        if count:
            parts.append(f"{count} {what}")
    if not payload.gold:
        parts.append("NO RIGHT COMPLETION IS KNOWN, so what mixes right and wrong was not tried")
    return "; ".join(parts)


def show(result: ProbeResult, examples: int) -> None:
    """On the screen, with so many examples. Texts are escaped."""
    found = result.payload
    print_ = console.out.print
    print_(f"[bold]{console.visible(found.source)}[/bold]  {found.source_digest[:19]}...", soft_wrap=True)
    if not found.not_probed:
        kinds = ", ".join(f"{count} {kind}" for kind, count in found.kinds.items())
        where = f"right answers from {found.gold}, given as {', '.join(found.formats)}" if found.gold else "no gold"
        print_(console.visible(f"{found.rows} rows ({kinds}); {where}"), markup=False, soft_wrap=True)
        console.out.print(_table(found.families))
        _show_skipped(found.skipped)
        _show_examples(result, examples)
        print_(
            f"{found.probes:,} probes in {found.seconds:.1f} s; {1000 * found.seconds_per_call:.2f} ms a completion, "
            f"{1000 * found.seconds_worst:.0f} ms the slowest"
        )
    bad = result.false_positives or result.hangs or found.not_probed or not found.gold
    print_(console.visible(verdict(found)), style="bold red" if bad else "green", markup=False, soft_wrap=True)


def _table(families: Sequence[ProbeFamily]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("family", no_wrap=True)
    for name in ("rewarded wrongly", "at most", "missed", "either way", "errors", "unstable"):
        table.add_column(name, justify="right")
    for item in families:
        bad = bool(item.false_positives or item.hangs)
        table.add_row(
            item.family,
            _of(item.false_positives, item.negatives),
            "-" if item.false_positive_high is None else f"{item.false_positive_high:.0%}",
            _of(item.false_negatives, item.positives),
            _of(item.open_rewarded, item.open),
            (f"{item.failures}" + (f" ({item.hangs} hung)" if item.hangs else "")) if item.failures else "",
            str(item.unstable or ""),
            style="red" if bad else "",
        )
    return table


def _of(count: int, total: int) -> str:
    return f"{count}/{total}" if total else "-"


def _show_skipped(skipped: dict[str, str]) -> None:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for family, reason in skipped.items():
        by_reason[reason].append(family)
    for reason, names in by_reason.items():
        console.out.print(console.visible(f"not tried: {', '.join(names)} ({reason})"), markup=False, style="dim")


def _show_examples(result: ProbeResult, most: int) -> None:
    for item in jsonlib.loads(result.examples)[:most]:
        console.out.print(
            f"{item['family']}: {console.visible(item['what'])}", markup=False, style="bold", soft_wrap=True
        )
        console.out.print(f"  {_CATCHES[item['family']]}", markup=False, style="dim", soft_wrap=True)
        for name in ("columns", "completion", "error"):
            if item[name]:
                shown = console.visible(item[name].replace("\n", "\u23ce"))
                if len(shown) > _WIDTH:
                    size = f" ({item['characters']:,} characters)" if name == "completion" else ""
                    shown = f"{shown[:_WIDTH]}...{size}"
                console.out.print(f"  {name}: {shown}", markup=False, soft_wrap=True)
