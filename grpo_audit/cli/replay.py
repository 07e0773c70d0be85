"""``grpo-audit replay``: do the recorded rollouts, and the recorded weights, come out again?"""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grpo_audit.cli import console
from grpo_audit.cli.outcome import verdict_line
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json, folder_beside, located
from grpo_audit.errors import ConfigError, ExitCode, VerificationError
from grpo_audit.ledger.project import Project
from grpo_audit.verify.l0 import verify as verify_l0
from grpo_audit.verify.verdict import KeySource, VerifyReport

if TYPE_CHECKING:  # importing these here would load torch for every command
    from grpo_audit_trainer.replay_step import ExecutionReport
    from grpo_audit_trainer.replay_verdict import ReplayReport, RolloutVerdict

L2_DOES_NOT_SHOW = (
    "that the weights came out of the recorded training (level L3 does)",
    "rewards, advantages and statistics (level L1 does)",
    "rollouts that were not drawn, and steps whose weights are gone",
    "a difference that stays below the tolerance",
)
L3_DOES_NOT_SHOW = (
    "steps that were not executed again",
    "that the recorded rewards, prompts and code are the right ones, only that this result follows from them",
)


class Level(StrEnum):
    """What to replay."""

    L2 = "l2"
    L3 = "l3"


def replay(
    run: Annotated[
        str | None, typer.Argument(help="Run id, unique prefix or name. Left out: the newest run.", metavar="[RUN]")
    ] = None,
    level: Annotated[Level, typer.Option(help="l2: rollouts. l3: a whole step.", case_sensitive=False)] = Level.L2,
    rollouts: Annotated[int, typer.Option(min=1, max=1_000_000, help="L2: how many rollouts to draw.")] = 64,
    seed: Annotated[
        str | None,
        typer.Option(help="L2: draws the rollouts. Left out: the hash of the run's seal, so that nobody chooses."),
    ] = None,
    rollout: Annotated[
        list[str] | None,
        typer.Option(metavar="STEP/GROUP/SAMPLE", help="L2: this rollout, instead of drawing. May be repeated."),
    ] = None,
    step: Annotated[int | None, typer.Option(min=0, help="L3: the step to execute again, from 0.")] = None,
    db: Db = DEFAULT_DB,
    folder: Annotated[
        Path | None, typer.Option(help="Run folder with the snapshots. Default: where the recipe put it.")
    ] = None,
    recipe_folder: Annotated[Path, typer.Option(help="Folder of the recipe: its relative paths start here.")] = Path(),
    model: Annotated[Path | None, typer.Option(help="Folder of the base model, when it is elsewhere.")] = None,
    run_recorded_code: Annotated[
        bool,
        typer.Option(
            "--run-recorded-code",
            help="L3: run reward functions from their recorded text. Without it only for records made on this machine.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Run parts of a finished run again and compare with the record. Needs the weights, and the \\[train] extra.

    [bold]L2[/bold] draws rollouts by the run's seal, loads the recorded weights that sampled them, and makes one pass
    over each completion with the recorded noise: every recorded token must win. It shows that the completions follow
    from weights, prompt, temperature and seed of the record. It catches completions of other weights (quantised, or a
    step later), another temperature, seed or prompt, and exchanged or edited completions. It does not show that
    training led to those weights.

    [bold]L3[/bold] executes step N again from the nearest snapshot before it: rollouts, rewards, updates. On like
    hardware rollouts, fingerprints and weights must be bitwise the same; elsewhere the difference is stated. It does
    not show that rewards or prompts are the right ones.

    Both check integrity (L0) first. Exit code 0: it comes out as recorded; 1: it does not; 2: nothing could be
    replayed; 3: it does, but the run is unfinished.
    """
    if (level is Level.L3) != (step is not None):
        raise ConfigError(
            "Level l3 executes one step, and only that level does", next_step="Give --level l3 and --step N together"
        )
    if level is Level.L3 and (rollout or seed is not None):
        raise ConfigError("--rollout and --seed belong to level l2", next_step="Leave them out, or take --level l2")
    with console.bar("verify L0", 1) as bar:
        integrity = verify_l0(db, run=run, run_folder=folder, progress=bar.of)
    if not integrity.ok:
        console.err.print(verdict_line(integrity), soft_wrap=True)
        names = ", ".join(f"({check.number}) {check.name}: {check.detail}" for check in integrity.failures)
        raise VerificationError(
            "The record does not hold, so there is nothing to compare with",
            found=console.visible(names)[:300],
            next_step="grpo-audit verify says what is wrong",
        )
    run_id, recorded_folder = located(db, run)
    places = {"run_folder": _run_folder(db, run_id, recorded_folder, folder), "recipe_folder": recipe_folder}
    with Project.open(db, mode="read") as project:
        if step is None:
            report: ReplayReport | ExecutionReport = _l2(project, run_id, rollouts, seed, rollout or [], model, places)
        else:
            own = integrity.key_source is KeySource.PINNED
            report = _l3(project, run_id, step, model, places, allowed=run_recorded_code or own)
    code = ExitCode.VERIFICATION_FAILED
    if report.ok:
        code = ExitCode.OK if report.sealed else ExitCode.UNSEALED
    if json:
        typer.echo(jsonlib.dumps(_as_json(report, integrity, code), indent=2, default=str, allow_nan=False))
    else:
        _print(report)
    raise typer.Exit(code)


def _run_folder(db: str, run_id: str, recorded: Path, given: Path | None) -> Path:
    """As ``verify`` looks for it: as given, beside the record, where the configuration says."""
    if given is not None:
        return given
    return folder_beside(db, run_id) or recorded


def _l2(
    project: Project,
    run_id: str,
    rollouts: int,
    seed: str | None,
    named: list[str],
    model: Path | None,
    places: dict[str, Path],
) -> ReplayReport:
    from grpo_audit_trainer.replay import ReplayRequest, replay as replay_rollouts
    from grpo_audit_trainer.replay_record import Place

    request = ReplayRequest(rollouts, seed, tuple(Place.parse(item) for item in named))
    with console.bar("replay", rollouts) as bar:
        return replay_rollouts(
            project,
            run_id,
            run_folder=places["run_folder"],
            recipe_folder=places["recipe_folder"],
            model=model,
            request=request,
            on_progress=bar.of,
        )


def _l3(
    project: Project, run_id: str, step: int, model: Path | None, places: dict[str, Path], *, allowed: bool
) -> ExecutionReport:
    from grpo_audit_trainer.replay_step import reexecute

    with console.bar("execute again", step + 1) as bar:
        return reexecute(
            project,
            run_id,
            step,
            run_folder=places["run_folder"],
            recipe_folder=places["recipe_folder"],
            model=model,
            run_recorded_code=allowed,
            on_progress=bar.of,
        )


def _as_json(report: ReplayReport | ExecutionReport, integrity: VerifyReport, code: ExitCode) -> dict[str, Any]:
    """The whole report, for programs."""
    return {
        "ok": report.ok,
        "exit_code": int(code),
        **asdict(report),
        "integrity": {"ok": integrity.ok, "level": integrity.level, "root": integrity.root},
        "not_shown": list(L2_DOES_NOT_SHOW if report.level == "L2" else L3_DOES_NOT_SHOW),
    }


def _print(report: ReplayReport | ExecutionReport) -> None:
    lines = _l2_lines(report) if report.level == "L2" else _l3_lines(report)  # type: ignore[arg-type]  # by its level
    for line in lines:
        console.out.print(console.visible(line), soft_wrap=True, markup=False)
    for item in L2_DOES_NOT_SHOW if report.level == "L2" else L3_DOES_NOT_SHOW:
        console.out.print(f"does not show: {item}", style="dim", markup=False)
    word = "[bold red]NOT REPRODUCED[/bold red]"
    if report.ok:
        word = f"[bold green]{'REPLAYED' if report.level == 'L2' else 'RE-EXECUTED'}[/bold green]"
    unfinished = "" if report.sealed else ", unfinished"
    console.out.print(f"{word}  {report.level}, run {report.run_id}{unfinished}", soft_wrap=True)
    for reason in _reasons(report):
        console.out.print(f"  {console.visible(reason)}", soft_wrap=True, markup=False)


def _reasons(report: Any) -> list[str]:
    return list(report.decision.reasons if report.level == "L2" else report.reasons)


def _l2_lines(report: ReplayReport) -> list[str]:
    coverage, decision = report.coverage, report.decision
    limits, noise = decision.tolerance, decision.calibration
    eligible = ", ".join(str(item) for item in coverage.steps_eligible[:12])
    exact, within, wrong = (
        sum(getattr(item, name) for item in decision.verdicts) for name in ("exact", "within", "mismatches")
    )
    erased = f"; {coverage.erased} more are erased" if coverage.erased else ""
    lines = [
        f"coverage   {coverage.rollouts_eligible:,} of {coverage.rollouts:,} rollouts can be replayed: those of "
        f"{len(coverage.steps_eligible)} of {coverage.steps} steps ({eligible or 'none'})",
        *([f"           {coverage.missing}"] if coverage.missing else []),
        f"drawn      {len(decision.verdicts)} rollouts; by the seed: {report.seed_origin}{erased}",
        f"tokens     {decision.tokens:,}: {exact:,} exact, {within:,} within tolerance, {wrong:,} mismatches",
        f"log-prob.  off by {_number(decision.mean_gap)} nats in the mean; limit {limits.gap:.2g}",
        f"shortfall  {_number(decision.mean_shortfall)} nats in the mean; limit {limits.shortfall:.2g}",
        f"tolerance  {limits.token:.2g} nats a token, from {noise.tokens:,} honest tokens drawn here "
        f"({report.precision} on {report.device}): off by {noise.mean:.2g} in the mean, {noise.largest:.2g} at most",
        f"           {report.false_alarms}",
    ]
    bad = [item for item in decision.verdicts if not item.ok]
    lines += [_rollout_line(item) for item in bad[:8]]
    return lines + ([f"           and {len(bad) - 8} more rollouts"] if len(bad) > 8 else [])


def _rollout_line(verdict: RolloutVerdict) -> str:
    parts = list(verdict.problems)
    if verdict.mismatches:
        first = verdict.first_mismatches[0]
        parts.append(
            f"{verdict.mismatches} of {verdict.tokens} tokens mismatch, the first at position {first.position} "
            f"(margin {_number(first.margin)}, log-probability off by {_number(first.gap)})"
        )
    return f"rollout    {verdict.place} (event {verdict.seq}): {'; '.join(parts)}"


def _l3_lines(report: ExecutionReport) -> list[str]:
    start = f"the snapshot after {report.start} steps" if report.start else "the base model"
    lines = [f"start      {start}"]
    for check in report.steps:
        same = "same" if check.fingerprint == check.recorded_fingerprint else "OTHER"
        lines.append(
            f"step {check.step:<5} {check.same_tokens} of {check.rollouts} rollouts have the same tokens, "
            f"{check.same_rewards} of {check.rollouts + check.erased} the same rewards; {same} fingerprint after it"
        )
    if report.weights_digest is not None:
        same = "same as" if report.weights_digest == report.recorded_weights_digest else "NOT"
        lines.append(f"weights    {report.weights_digest}, {same} recorded")
    if report.update_error is not None:
        lines.append(f"           the update differs from the recorded one by {report.update_error:.3g} of its length")
    machine = "; ".join(report.other_hardware) or "like the recorded one, so everything must be bitwise the same"
    return [
        *lines,
        f"machine    {machine}",
        f"agreement  {report.agreement}",
        *(f"note       {n}" for n in report.notes),
    ]


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.3g}"
