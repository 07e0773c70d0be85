"""``grpo-audit export``: what leaves the project, and whether it is still what left."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from grpo_audit.cli import console
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json, folder_beside, located
from grpo_audit.cli.verify import MARK
from grpo_audit.errors import ConfigError, ExitCode, VerificationError
from grpo_audit.export import bom
from grpo_audit.export.check import CheckReport, check as check_export
from grpo_audit.export.dsse import key_id, read_public_key
from grpo_audit.export.facts import ExportFacts, gather
from grpo_audit.export.package import Keys, Package, Part, make, write
from grpo_audit.ledger.attestation_key import attestation_path
from grpo_audit.ledger.keys import AttestationKey, SigningKey
from grpo_audit.ledger.project import Project
from grpo_audit.verify.l0 import verify

SIGNED = {Part.ATTEST, Part.SIGN}


def export(
    run: Annotated[
        str | None, typer.Argument(help="Run id, unique prefix or name. Left out: the newest run.", metavar="[RUN]")
    ] = None,
    db: Db = DEFAULT_DB,
    to: Annotated[Path | None, typer.Option("--to", help="Folder to write into. Default: RUN FOLDER/export.")] = None,
    only: Annotated[
        str | None, typer.Option(help=f"Some of: {', '.join(Part)}; with commas. Default: all.", metavar="PARTS")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Run folder with the trained weights. Default: where the recipe put it.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Verifier key of the record, NAME+HASH+BASE64 or a file that holds it; as of verify."),
    ] = None,
    attestation_key: Annotated[
        Path | None,
        typer.Option(
            help="ECDSA P-256 key in PEM. To export: the private key that signs (default: yours, made on first use). "
            "With --check: the public key you trust."
        ),
    ] = None,
    log_key: Annotated[
        bool, typer.Option("--log-key", help="Sign the statements with the Ed25519 key of the log too.")
    ] = False,
    cyclonedx: Annotated[str, typer.Option(help="Version of CycloneDX: 1.7 or 1.6.")] = "1.7",
    unsafe_draft: Annotated[
        bool,
        typer.Option(
            "--unsafe-draft",
            help="Export a run that is not sealed, or a record that does not hold. Every file is marked as a draft, "
            "and none is signed.",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that differ.")] = False,
    check: Annotated[
        Path | None,
        typer.Option(help="Check an export instead: its signatures, its files, the weights.", metavar="DIR"),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="With --check: folder of the weights. Default: the export's own folder, else model beside it."
        ),
    ] = None,
    signatures_only: Annotated[
        bool, typer.Option("--signatures-only", help="With --check: leave the weights aside.")
    ] = False,
    json: Json = False,
) -> None:
    """Write what leaves the project: cards, bill of materials, attestations, lineage.

    [bold]hub[/bold] README.md and .eval_results for the Hugging Face Hub.

    [bold]bom[/bold] CycloneDX ML-BOM with a model card.

    [bold]croissant[/bold] The prompt set as a data card.

    [bold]prov[/bold] Lineage in PROV-JSON.

    [bold]attest[/bold] Signed in-toto statements: training provenance, tests, evaluation.

    [bold]sign[/bold] OpenSSF signature over the weights.

    The run is verified first. Same record and same keys give the same bytes. The weights are not copied: to publish,
    put the export beside them.

    Exit code 0: written, or everything checked; 1: the record does not hold, or the check failed; 3: the run is not
    sealed; 5: cannot be written.
    """
    if check is not None:
        _check(check, attestation_key, model, weights=not signatures_only, json=json)
        return
    parts = _parts(only)
    if cyclonedx not in bom.VERSIONS:
        raise ConfigError(f"CycloneDX {cyclonedx} cannot be written", expected=" or ".join(bom.VERSIONS))
    facts = _facts(db, run, folder, key, unsafe_draft=unsafe_draft)
    keys = _keys(facts, parts, attestation_key, log_key=log_key)
    package = make(facts, parts, keys, cyclonedx)
    if only is not None and package.skipped:
        part, reason = next(iter(package.skipped.items()))
        raise ConfigError(f"{part} of run {facts.run_id} cannot be exported", found=reason)
    target = to or facts.folder / "export"
    write(package, target, overwrite=overwrite)
    _say(facts, package, target, keys, json=json)


def _parts(only: str | None) -> list[Part]:
    if only is None:
        return list(Part)
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in set(Part)]
    if unknown or not names:
        raise ConfigError(
            f"--only {only} cannot be understood",
            found=f"{unknown[0]!r}" if unknown else "no part",
            expected=f"some of {', '.join(Part)}, with commas",
        )
    return [part for part in Part if part in names]


def _facts(db: str, run: str | None, folder: Path | None, key: str | None, *, unsafe_draft: bool) -> ExportFacts:
    run_id, place = located(db, run)
    if key is not None and Path(key).is_file():
        key = Path(key).read_text(encoding="utf-8")
    place = folder or (place if place.is_dir() else folder_beside(db, run_id) or place)
    with console.bar("verify", 1) as bar:
        verification = verify(db, run=run_id, key=key, run_folder=place if place.is_dir() else None, progress=bar.of)
    with Project.open(db, mode="read") as project:
        facts = gather(project, run_id, verification, place)
    if facts.is_draft and not unsafe_draft:
        error = VerificationError(
            f"Refusing to export run {run_id} as a release",
            found="; ".join(facts.draft),
            next_step="grpo-audit verify says more. --unsafe-draft writes it all the same, marked and unsigned",
        )
        if verification.ok:
            error.exit_code = ExitCode.UNSEALED
        raise error
    return facts


def _keys(facts: ExportFacts, parts: list[Part], path: Path | None, *, log_key: bool) -> Keys | None:
    if facts.is_draft or not SIGNED & set(parts):
        return None
    key = AttestationKey.load(path) if path is not None else AttestationKey.load_or_create()
    return Keys(key, SigningKey.load_or_create() if log_key else None)


def _say(facts: ExportFacts, package: Package, target: Path, keys: Keys | None, *, json: bool) -> None:
    if json:
        result = {
            "run": facts.run_id,
            "folder": str(target),
            "draft": list(facts.draft),
            "files": list(package.files),
            "skipped": {part.value: reason for part, reason in package.skipped.items()},
            "key_id": keys.attestation.key_id if keys else None,
        }
        typer.echo(jsonlib.dumps(result, indent=2))
        return
    if facts.is_draft:
        console.out.print(
            f"[bold yellow]DRAFT[/bold yellow]  {console.visible('; '.join(facts.draft))}", soft_wrap=True
        )
    for name, data in package.files.items():
        console.out.print(f"{len(data):>9,} B  {target / name}", soft_wrap=True, markup=False)
    for part, reason in package.skipped.items():
        console.out.print(f"not made: {part}: {console.visible(reason)}", soft_wrap=True, markup=False)
    if keys is not None:
        console.out.print(f"signed by key {keys.attestation.key_id}", soft_wrap=True)
        console.out.print(f"check with    grpo-audit export --check {target} --attestation-key KEY.pem", soft_wrap=True)


def _check(folder: Path, key_path: Path | None, model: Path | None, *, weights: bool, json: bool) -> None:
    own = key_path is None
    path = key_path or attestation_path()
    if own and not path.is_file():
        raise ConfigError(
            "There is no key to check with",
            next_step="Name the public key you got from whoever made the export with --attestation-key; the one inside "
            "the export proves nothing",
        )
    key = read_public_key(path)
    report = check_export(folder, key, key_id(key), model=model or _beside(folder), weights=weights)
    if json:
        typer.echo(jsonlib.dumps(_as_json(report), indent=2))
    else:
        for item in report.checks:
            console.out.print(f"({item.number}) {MARK[item.outcome]} {item.name:<16}", soft_wrap=True, end="")
            console.out.print(console.visible(item.detail), soft_wrap=True, markup=False)
        console.out.print()
        whose = "your own key" if own else f"the key in {path}"
        word = "[bold green]AS EXPORTED[/bold green]" if report.ok else "[bold red]NOT AS EXPORTED[/bold red]"
        console.out.print(f"{word}  {folder}, checked with {whose} ({report.key_id[:16]}...)", soft_wrap=True)
    raise typer.Exit(report.exit_code)


def _beside(folder: Path) -> Path | None:
    """Where a run keeps its weights: beside the export that it was made into."""
    beside = folder.resolve().parent / "model"
    has_own = any(folder.glob("*.safetensors"))
    return beside if not has_own and beside.is_dir() else None


def _as_json(report: CheckReport) -> dict[str, object]:
    checks = [
        {"number": c.number, "name": c.name, "outcome": c.outcome.value, "detail": c.detail} for c in report.checks
    ]
    return {"ok": report.ok, "folder": report.folder, "key_id": report.key_id, "checks": checks}
