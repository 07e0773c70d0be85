"""One export: which files it has, made in memory first, then written; same record and same keys, same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from grpo_audit.errors import StorageError
from grpo_audit.export import bom, croissant, hub, prov, signing, statements
from grpo_audit.export.dsse import EcdsaSigner, Ed25519Signer, Signer, envelope
from grpo_audit.export.facts import ExportFacts
from grpo_audit.export.text import json_bytes
from grpo_audit.ledger.keys import AttestationKey, SigningKey
from grpo_audit.record.events import ModelIdentity
from grpo_audit.report.render import write_file

ATTESTATIONS = "attestations"
PUBLIC_KEY = f"{ATTESTATIONS}/key.pem"
FILES = f"{ATTESTATIONS}/files.dsse.json"
BOM, CROISSANT, PROV = "bom.cdx.json", "croissant.json", "prov.json"


class Part(StrEnum):
    """What can be exported."""

    HUB = "hub"
    BOM = "bom"
    CROISSANT = "croissant"
    PROV = "prov"
    ATTEST = "attest"
    SIGN = "sign"


MEANING: Mapping[str, str] = {
    BOM: "CycloneDX bill of materials with a model card",
    CROISSANT: "the prompt set in Croissant",
    PROV: "lineage in PROV-JSON",
    f"{ATTESTATIONS}/provenance.dsse.json": "signed statement how the weights were trained (SLSA provenance)",
    f"{ATTESTATIONS}/test-result.dsse.json": "signed statement how the planned comparison came out",
    f"{ATTESTATIONS}/evaluation.dsse.json": "signed statement of the evaluation results",
    FILES: "signed statement of the digests of all these files",
    PUBLIC_KEY: "the public key of these signatures; compare it with one you got elsewhere",
    signing.SIGNATURE: "OpenSSF signature over the model folder",
}
"""What each file is, for the card."""


@dataclass(frozen=True)
class Keys:
    """Who signs an export."""

    attestation: AttestationKey
    log: SigningKey | None = None
    """Signs the statements too when given."""

    @property
    def signers(self) -> list[Signer]:
        """In the order of the signatures."""
        return [EcdsaSigner(self.attestation), *([Ed25519Signer(self.log)] if self.log else [])]


@dataclass(frozen=True)
class Package:
    """An export that was made and not yet written."""

    files: Mapping[str, bytes]
    """Content by path relative to the export's folder."""
    skipped: Mapping[Part, str]
    """What could not be made, and why."""


def make(facts: ExportFacts, parts: Sequence[Part], keys: Keys | None, cyclonedx: str = "1.7") -> Package:
    """Make the files of an export. ``keys`` is needed for the parts that are signed, unless the run is a draft.

    Raises ModelError when the model folder is not as it was saved.
    """
    files: dict[str, bytes] = {}
    skipped: dict[Part, str] = {}
    plain: dict[Part, Callable[[], dict[str, bytes]]] = {
        Part.BOM: lambda: {BOM: json_bytes(bom.bom(facts, cyclonedx))},
        Part.CROISSANT: lambda: {CROISSANT: json_bytes(croissant.croissant(facts))},
        Part.PROV: lambda: {PROV: json_bytes(prov.prov(facts))},
    }
    for part, produce in plain.items():
        if part in parts:
            files |= produce()
    for part in (Part.ATTEST, Part.SIGN):
        if part in parts:
            reason = _why_not(facts, part)
            if reason:
                skipped[part] = reason
    model = facts.trained
    if Part.SIGN in parts and Part.SIGN not in skipped and model is not None and facts.saved and keys:
        folder = facts.folder / facts.saved.payload.location
        pem = keys.attestation.public_pem()
        signature = signing.model_signature(facts, model, folder, EcdsaSigner(keys.attestation), pem)
        files[signing.SIGNATURE] = json_bytes(signature)
        files[PUBLIC_KEY] = pem
    attested = Part.ATTEST in parts and Part.ATTEST not in skipped and model is not None and keys is not None
    if attested and model is not None and keys is not None:
        files |= _statements(facts, model, keys)
        files[PUBLIC_KEY] = keys.attestation.public_pem()
    if Part.HUB in parts:
        names = sorted({*files, *({FILES} if attested else set())})
        files |= hub.result_files(facts)
        files[hub.CARD] = hub.card_bytes(facts, [(name, MEANING[name]) for name in names])
    if attested and keys is not None:
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        files[FILES] = json_bytes(envelope(statements.exported_files(files, digests, facts), keys.signers))
    return Package(dict(sorted(files.items())), skipped)


def _statements(facts: ExportFacts, model: ModelIdentity, keys: Keys) -> dict[str, bytes]:
    made: dict[str, dict[str, Any] | None] = {
        "provenance": statements.training_provenance(facts, model),
        "test-result": statements.test_result(facts, model),
        "evaluation": statements.evaluation_result(facts, model),
    }
    return {
        f"{ATTESTATIONS}/{name}.dsse.json": json_bytes(envelope(found, keys.signers))
        for name, found in made.items()
        if found is not None
    }


def _why_not(facts: ExportFacts, part: Part) -> str:
    if facts.is_draft:
        return "a draft is not signed"
    if facts.saved is None:
        return "the run kept no trained weights"
    folder = facts.folder / facts.saved.payload.location
    if part is Part.SIGN and not folder.is_dir():
        return f"the trained weights are not in {folder}; name their run folder with --folder"
    return ""


def write(package: Package, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write an export, each file whole or not at all. A file that is there already with other content is not touched
    without ``overwrite``; then nothing at all is written.

    Raises StorageError.
    """
    paths = {folder / name: data for name, data in package.files.items()}
    try:
        if not overwrite:
            _refuse_overwriting(paths)
        for path, data in paths.items():
            if not (path.is_file() and path.read_bytes() == data):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_file(path, data)
    except OSError as error:
        raise StorageError(
            f"Cannot write the export into {folder}",
            found=error.strerror or str(error),
            next_step="Name a folder that can be written with --to",
        ) from error
    return list(paths)


def _refuse_overwriting(paths: Mapping[Path, bytes]) -> None:
    for path, data in paths.items():
        if path.is_symlink() or (path.exists() and (not path.is_file() or path.read_bytes() != data)):
            raise StorageError(
                f"Refusing to overwrite {path} without --overwrite",
                found="other content",
                next_step="Name an empty folder with --to, or add --overwrite",
            )
