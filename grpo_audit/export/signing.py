"""OpenSSF model signing of the released weights (https://github.com/ossf/model-signing-spec, as model-signing 1.x reads
it): a sigstore bundle around an in-toto statement that names every file of the model folder.

Written here and not by the model-signing package: that one draws a random nonce and writes a set in hash order, so the
same weights never give the same bytes; and it brings a client of online services to a machine that needs none. The
tests verify every signature with it.

The signature covers exactly the files that the record names. A file beside them makes verification fail, except the
papers of the export and what git keeps, which are named in the signature as left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from grpo_audit.errors import ModelError
from grpo_audit.export.dsse import EnvelopeError, PublicKey, Signer, envelope, opened_object
from grpo_audit.export.facts import ExportFacts, sha256
from grpo_audit.export.statements import statement
from grpo_audit.export.text import parse_json
from grpo_audit.record.identities import ModelIdentity
from grpo_audit.record.identity import file_digest

SIGNATURE = "model.sig"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE = "https://model_signing/signature/v1.0"
LEFT_OUT = (
    ".eval_results",
    ".git",
    ".gitattributes",
    ".github",
    ".gitignore",
    "README.md",
    "attestations",
    "bom.cdx.json",
    "croissant.json",
    SIGNATURE,
    "prov.json",
)
"""Beside the weights in a published repository, and not part of the model."""


def model_signature(facts: ExportFacts, model: ModelIdentity, folder: Path, signer: Signer, public_pem: bytes) -> Any:
    """The sigstore bundle over a model folder, as JSON. Digests are the record's, which verification has just compared
    with the files; here it is only looked whether a file is there that the record does not name.

    Raises ModelError.
    """
    _refuse_others(folder, {file.name for file in model.files})
    resources = {file.name: sha256(file.digest) for file in model.files if not _is_left_out(file.name)}
    return {
        "mediaType": BUNDLE,
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(public_pem).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": envelope(manifest(facts.name, resources), [signer]),
    }


def manifest(name: str, resources: Mapping[str, str]) -> dict[str, Any]:
    """The statement: the digest of all digests as subject, each file as a resource, in the order of names."""
    whole = hashlib.sha256()
    for file in sorted(resources):
        whole.update(bytes.fromhex(resources[file]))
    return statement(
        [{"name": name or "model", "digest": {"sha256": whole.hexdigest()}}],
        PREDICATE,
        {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(LEFT_OUT),
            },
            "resources": [
                {"name": file, "algorithm": "sha256", "digest": resources[file]} for file in sorted(resources)
            ],
        },
    )


@dataclass(frozen=True)
class SignedModel:
    """What a signature says."""

    name: str
    files: Mapping[str, str]
    """SHA-256 by file, hexadecimal."""
    left_out: tuple[str, ...]


def opened_signature(data: bytes, key: PublicKey) -> SignedModel:
    """The content of a signature file, after its signature by ``key`` and its own consistency were checked.

    Raises EnvelopeError.
    """
    try:
        bundle = parse_json(data)
    except ValueError as error:
        raise EnvelopeError(f"it is not JSON: {error}") from error
    if not isinstance(bundle, dict) or bundle.get("mediaType") != BUNDLE:
        raise EnvelopeError("it is no sigstore bundle of version 0.3")
    try:
        return _signed(opened_object(bundle.get("dsseEnvelope"), key))
    except EnvelopeError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise EnvelopeError("its statement is no model signature") from error


def _signed(found: Any) -> SignedModel:
    predicate, (subject,) = found["predicate"], found["subject"]
    serialization = predicate["serialization"]
    if found["predicateType"] != PREDICATE or (serialization["method"], serialization["hash_type"]) != (
        "files",
        "sha256",
    ):
        raise EnvelopeError("it is a model signature of another kind")
    files = {str(item["name"]): str(item["digest"]) for item in predicate["resources"]}
    if len(files) != len(predicate["resources"]):
        raise EnvelopeError("it names a file twice")
    left_out = tuple(str(path) for path in serialization.get("ignore_paths", []))
    try:
        inside = hashlib.sha256(b"".join(bytes.fromhex(item["digest"]) for item in predicate["resources"])).hexdigest()
    except ValueError as error:
        raise EnvelopeError("a digest in it is malformed") from error
    if inside != subject["digest"]["sha256"]:
        raise EnvelopeError("its digest of digests is not that of the files it names")
    return SignedModel(str(subject["name"]), files, left_out)


def differences(signed: SignedModel, folder: Path) -> list[str]:
    """What is not as signed: a file changed, missing, added, or a link. Empty when all is well. Raises OSError."""
    problems: list[str] = []
    found = dict(_entries(folder))
    for name in sorted(found):
        path = found[name]
        if path.is_symlink():
            problems.append(f"{name} is a link")
        elif name not in signed.files and not _under(name, signed.left_out):
            problems.append(f"{name} was added")
    for name, digest in sorted(signed.files.items()):
        if name not in found:
            problems.append(f"{name} is missing")
        elif not found[name].is_symlink() and sha256(file_digest(found[name])) != digest:
            problems.append(f"{name} was changed")
    return problems


def _refuse_others(folder: Path, known: set[str]) -> None:
    for name, path in _entries(folder):
        if name in known and not path.is_symlink():
            continue
        if not _is_left_out(name) or path.is_symlink():
            raise ModelError(
                f"Refusing to sign {folder}",
                found=f"{name}, which the record does not name" if not path.is_symlink() else f"{name}, a link",
                expected="the files that were saved and no other",
                next_step="Remove it, or name the untouched folder with --folder",
            )


def _entries(folder: Path) -> Iterable[tuple[str, Path]]:
    """Every file and link below a folder by its relative name; links are not followed."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix(), path


def _is_left_out(name: str) -> bool:
    return _under(name, LEFT_OUT)


def _under(name: str, folders: Iterable[str]) -> bool:
    path = PurePosixPath(name)
    return any(path == PurePosixPath(item) or PurePosixPath(item) in path.parents for item in folders)
