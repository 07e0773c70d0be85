"""The signature over the weights, verified by the OpenSSF's own library."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from model_signing import hashing, signing as reference_signing, verifying

from grpo_audit.errors import ModelError
from grpo_audit.export import signing
from grpo_audit.export.dsse import EnvelopeError


@pytest.fixture
def model(exported: Any, tmp_path: Path) -> Path:
    """A copy of the released weights, under their own name."""
    folder = tmp_path / "model"
    shutil.copytree(exported.model, folder)
    return folder


def library_verify(exported: Any, model: Path, signature: Path | None = None, key: Path | None = None) -> None:
    """As ``model_signing verify key`` does it. Raises ValueError or InvalidSignature."""
    config = verifying.Config().use_elliptic_key_verifier(public_key=key or exported.key_file)
    config.verify(model, signature or exported.folder / "model.sig")


def ours(exported: Any, model: Path) -> list[str]:
    """What our own check says."""
    signed = signing.opened_signature(exported.package.files["model.sig"], exported.keys.attestation.public)
    return signing.differences(signed, model)


def test_the_library_accepts_it(exported: Any, model: Path) -> None:
    """model-signing verifies signature and folder; so do we."""
    library_verify(exported, model)
    assert ours(exported, model) == []


def test_the_library_accepts_it_in_a_published_folder(exported: Any, published: Path) -> None:
    """With the papers of the export beside the weights, as on the Hub, it still verifies."""
    library_verify(exported, published, published / "model.sig")
    assert ours(exported, published) == []


def flip(path: Path) -> None:
    """Change one byte."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: flip(folder / "model.safetensors"), "model.safetensors was changed"),
        (lambda folder: flip(folder / "config.json"), "config.json was changed"),
        (lambda folder: (folder / "extra.bin").write_bytes(b"x"), "extra.bin was added"),
        (lambda folder: (folder / ".hidden").write_bytes(b"x"), ".hidden was added"),
        (lambda folder: (folder / "sub").mkdir() or (folder / "sub" / "a").write_bytes(b""), "sub/a was added"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda folder: (folder / "tokenizer.json").rename(folder / "t.json"), "t.json was added"),
    ],
    ids=["weights", "configuration", "added", "hidden", "nested", "missing", "renamed"],
)
def test_any_change_of_the_folder_is_refused_by_both(
    exported: Any, model: Path, harm: Callable[[Path], object], said: str
) -> None:
    """One byte, one file more or less: the library and we refuse it, and we say which."""
    harm(model)
    with pytest.raises(ValueError, match="mismatch"):
        library_verify(exported, model)
    assert said in ours(exported, model)


def test_a_link_is_refused_by_both(exported: Any, model: Path) -> None:
    """A file replaced by a link to the same bytes is no longer what was signed."""
    moved = model.parent / "elsewhere"
    (model / "config.json").rename(moved)
    (model / "config.json").symlink_to(moved)
    with pytest.raises(ValueError, match="symlink"):
        library_verify(exported, model)
    assert "config.json is a link" in ours(exported, model)


def test_another_key_is_refused_by_both(exported: Any, model: Path, tmp_path: Path) -> None:
    """A stranger's key verifies nothing."""
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    path = tmp_path / "stranger.pem"
    path.write_bytes(stranger.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ValueError, match="Key mismatch"):
        library_verify(exported, model, key=path)
    with pytest.raises(EnvelopeError, match="given key"):
        signing.opened_signature(exported.package.files["model.sig"], stranger)


def test_it_signs_what_the_library_would_sign(exported: Any, model: Path, tmp_path: Path) -> None:
    """The library's own signature over the same folder names the same resources and the same digest of digests."""
    import base64

    out = tmp_path / "reference.sig"
    config = hashing.Config().set_ignored_paths(paths=signing.LEFT_OUT, ignore_git_paths=False)
    key = exported.keys.attestation.path
    reference_signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(config).sign(model, out)

    def statement(data: bytes) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(base64.b64decode(json.loads(data)["dsseEnvelope"]["payload"]))
        found["predicate"]["serialization"]["ignore_paths"].sort()
        return found

    theirs, made = statement(out.read_bytes()), statement(exported.package.files["model.sig"])
    assert theirs["subject"][0]["digest"] == made["subject"][0]["digest"]
    assert theirs["predicate"] == made["predicate"]
    assert signing.opened_signature(out.read_bytes(), exported.keys.attestation.public).files


@pytest.mark.parametrize("name", ["extra.bin", "pytorch_model.bin", ".hidden"])
def test_a_folder_with_another_file_is_not_signed(exported: Any, model: Path, name: str) -> None:
    """A file that the record does not name is refused before anything is signed."""
    (model / name).write_bytes(b"x")
    with pytest.raises(ModelError, match="which the record does not name"):
        signing.model_signature(exported.facts, exported.facts.trained, model, exported.signer, b"")


def test_a_folder_with_a_link_is_not_signed(exported: Any, model: Path) -> None:
    """A link is refused, whatever it is called."""
    (model / "README.md").symlink_to(model / "config.json")
    with pytest.raises(ModelError, match="a link"):
        signing.model_signature(exported.facts, exported.facts.trained, model, exported.signer, b"")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}', b"\x00" * 9]
)
def test_a_broken_signature_file_is_refused(exported: Any, data: bytes) -> None:
    """What is no bundle is refused without a traceback."""
    with pytest.raises(EnvelopeError):
        signing.opened_signature(data, exported.keys.attestation.public)


@pytest.mark.parametrize(
    "edit",
    [
        lambda found: found["predicate"]["resources"][0].update(digest="00" * 32),
        lambda found: found["predicate"]["resources"][0].update(digest="not hex"),
        lambda found: found["predicate"]["resources"].append(found["predicate"]["resources"][0]),
        lambda found: found["subject"].append(found["subject"][0]),
        lambda found: found.pop("predicate"),
        lambda found: found.update(predicateType="https://model_signing/Digests/v0.1"),
        lambda found: found["predicate"]["serialization"].update(hash_type="blake3"),
    ],
)
def test_a_signed_but_inconsistent_statement_is_refused(exported: Any, edit: Callable[[Any], object]) -> None:
    """Even by the right key: the digests must add up, each file stands once, and the kind is known."""
    from grpo_audit.export.dsse import envelope

    found = signing.manifest("m", {"a": "11" * 32, "b": "22" * 32})
    edit(found)
    bundle = {"mediaType": signing.BUNDLE, "dsseEnvelope": envelope(found, [exported.signer])}
    with pytest.raises(EnvelopeError):
        signing.opened_signature(json.dumps(bundle).encode(), exported.keys.attestation.public)
