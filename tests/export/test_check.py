"""``--check``: an export as it left is accepted, and each fault planted into it is found by the step that names it."""

from __future__ import annotations

import base64
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo_audit.errors import ConfigError, ExitCode
from grpo_audit.export import statements
from grpo_audit.export.check import check
from grpo_audit.export.dsse import EcdsaSigner, envelope, key_id, read_public_key
from grpo_audit.export.package import FILES
from grpo_audit.ledger.keys import AttestationKey
from grpo_audit.verify.verdict import Outcome

PROVENANCE = "attestations/provenance.dsse.json"


def run(exported: Any, folder: Path, **options: Any) -> Any:
    """Check with the key known from elsewhere."""
    key = read_public_key(exported.key_file)
    return check(folder, key, key_id(key), **options)


def failed(report: Any) -> dict[int, str]:
    """Number and detail of each step that failed."""
    return {item.number: item.detail for item in report.checks if not item.ok}


def test_an_export_beside_its_weights_is_accepted(exported: Any, published: Path) -> None:
    """In one folder, as on the Hub: every step passes, none for want of something to check."""
    report = run(exported, published)
    assert report.ok and report.exit_code is ExitCode.OK
    assert [item.outcome for item in report.checks] == [Outcome.PASSED] * 7


def test_an_export_with_its_weights_elsewhere_is_accepted(exported: Any) -> None:
    """With the model folder named, too."""
    assert failed(run(exported, exported.folder, model=exported.model)) == {}


def test_the_key_of_the_log_opens_the_statements_too(exported: Any, published: Path) -> None:
    """With the Ed25519 key the statements are accepted; the model signature is by the other key only, which is said."""
    from grpo_audit.export.dsse import Ed25519Signer

    signer = Ed25519Signer(exported.keys.log)
    public = signer._private.public_key()
    assert set(failed(check(published, public, key_id(public)))) == {5}


def test_missing_weights_fail(exported: Any) -> None:
    """Without the weights nothing is shown about them: the check fails, and says how to name them."""
    found = failed(run(exported, exported.folder))
    assert set(found) == {4, 5} and "--model" in found[4]


def test_weights_may_be_left_aside_on_purpose(exported: Any) -> None:
    """With --signatures-only what was signed is checked, and what stays open is said."""
    report = run(exported, exported.folder, weights=False)
    assert report.ok
    assert report.checks[4].outcome is Outcome.NOTHING and "stays open" in report.checks[4].detail


def edit_statement(folder: Path, change: Callable[[dict[str, Any]], object], name: str = PROVENANCE) -> None:
    """Change a signed statement without signing it anew."""
    path = folder / name
    found = json.loads(path.read_text())
    payload = json.loads(base64.b64decode(found["payload"]))
    change(payload)
    found["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    path.write_text(json.dumps(found))


def flip(path: Path) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def other_digest(payload: dict[str, Any]) -> None:
    """Another digest for the first subject."""
    payload["subject"][0]["digest"]["sha256"] = "0" * 64


FAULTS: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "digest in a statement": (
        lambda folder: edit_statement(folder, other_digest),
        1,
        "attestations/provenance.dsse.json: no signature in it is by the given key",
    ),
    "verdict in a statement": (
        lambda folder: edit_statement(
            folder, lambda found: found["predicate"].update(result="PASSED"), "attestations/test-result.dsse.json"
        ),
        1,
        "attestations/test-result.dsse.json: no signature",
    ),
    "digest in the list of files": (lambda folder: edit_statement(folder, other_digest, FILES), 3, "nothing vouches"),
    "list of files removed": (lambda folder: (folder / FILES).unlink(), 3, "nothing vouches"),
    "weights": (lambda folder: flip(folder / "model.safetensors"), 4, "model.safetensors was changed"),
    "tokenizer removed": (lambda folder: (folder / "tokenizer.json").unlink(), 4, "tokenizer.json is not in"),
    "weights by the signature": (lambda folder: flip(folder / "model.safetensors"), 5, "model.safetensors was changed"),
    "file added to the weights": (lambda folder: (folder / "adapter.bin").write_text("x"), 5, "adapter.bin was added"),
    "card": (lambda folder: flip(folder / "README.md"), 3, "README.md was changed"),
    "card removed": (lambda folder: (folder / "README.md").unlink(), 3, "README.md is not in"),
    "bill of materials": (lambda folder: flip(folder / "bom.cdx.json"), 3, "bom.cdx.json was changed"),
    "lineage": (lambda folder: flip(folder / "prov.json"), 3, "prov.json was changed"),
    "results": (lambda folder: flip(folder / ".eval_results/builtin.yaml"), 3, "builtin.yaml was changed"),
    "results added": (
        lambda folder: (folder / ".eval_results/more.yaml").write_text("[]"),
        6,
        ".eval_results/more.yaml is covered by no signature",
    ),
    "model signature": (lambda folder: flip(folder / "model.sig"), 5, "model.sig: "),
    "model signature emptied": (lambda folder: (folder / "model.sig").write_text(""), 5, "model.sig: it is not JSON"),
    "statement replaced by another": (
        lambda folder: shutil.copy(folder / PROVENANCE, folder / FILES),
        3,
        "a statement of another kind",
    ),
    "everything removed": (
        lambda folder: [shutil.rmtree(folder / "attestations"), (folder / "model.sig").unlink()],
        0,
        "nothing here is signed",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(exported: Any, published: Path, fault: str) -> None:
    """The step that is about it fails, names the file, and the exit code is that of a failed verification."""
    plant, number, words = FAULTS[fault]
    plant(published)
    report = run(exported, published)
    assert report.exit_code is ExitCode.VERIFICATION_FAILED
    assert words in failed(report)[number], failed(report)


def test_a_stranger_s_export_is_refused(exported: Any, published: Path, tmp_path: Path) -> None:
    """Signed anew with another key, key file and all: every statement is refused with the key known from elsewhere."""
    stranger = AttestationKey.load_or_create(tmp_path / "stranger" / "key.pem")
    for path in (published / "attestations").glob("*.dsse.json"):
        found = json.loads(base64.b64decode(json.loads(path.read_text())["payload"]))
        path.write_text(json.dumps(envelope(found, [EcdsaSigner(stranger)])))
    (published / "attestations" / "key.pem").write_bytes(stranger.public_pem())
    found = failed(run(exported, published))
    assert "and 1 more" in found[1] and "given key" in found[1]


def sign_again(exported: Any, folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a statement and sign it with the right key."""
    path = folder / name
    found = json.loads(base64.b64decode(json.loads(path.read_text())["payload"]))
    change(found)
    path.write_text(json.dumps(envelope(found, [exported.signer])))


@pytest.mark.parametrize(
    ("change", "number", "words"),
    [
        (other_digest, 2, "other weights"),
        (lambda found: found.update(predicateType="https://example.invalid/x"), 1, "unknown kind"),
        (lambda found: found.update(_type="https://in-toto.io/Statement/v0.1"), 1, "no in-toto statement"),
        (lambda found: found.update(subject=[]), 1, "no subject"),
        (lambda found: found["subject"].append(found["subject"][0]), 1, "one twice"),
        (lambda found: found["subject"][0].pop("digest"), 1, "no SHA-256"),
    ],
)
def test_the_right_key_does_not_excuse_a_wrong_statement(
    exported: Any, published: Path, change: Callable[[Any], object], number: int, words: str
) -> None:
    """Signed by the right key, and still found: other weights than the rest, another kind, no subject."""
    sign_again(exported, published, "attestations/test-result.dsse.json", change)
    assert words in failed(run(exported, published))[number]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b"])
def test_a_statement_cannot_name_a_file_outside(exported: Any, published: Path, name: str) -> None:
    """A path that leaves the folder is refused and not read."""
    sign_again(
        exported,
        published,
        FILES,
        lambda found: found["subject"].append({"name": name, "digest": {"sha256": "0" * 64}}),
    )
    assert "outside of the folder" in failed(run(exported, published))[3]


def test_a_link_is_not_followed(exported: Any, published: Path) -> None:
    """A card replaced by a link to the same bytes is not the card."""
    moved = published.parent / "moved.md"
    (published / "README.md").rename(moved)
    (published / "README.md").symlink_to(moved)
    assert "README.md is not in" in failed(run(exported, published))[3]


def test_no_folder_is_an_error(exported: Any, tmp_path: Path) -> None:
    """A folder that is not there is said, with what to name."""
    with pytest.raises(ConfigError, match="no folder"):
        run(exported, tmp_path / "nothing")


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----", b"\x00" * 99_999])
def test_a_file_without_a_key_is_an_error(tmp_path: Path, content: bytes) -> None:
    """What is no P-256 or Ed25519 key is refused with what is expected."""
    (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(ConfigError, match="ECDSA P-256 or Ed25519"):
        read_public_key(tmp_path / "key.pem")


def test_a_key_of_another_curve_is_an_error(tmp_path: Path) -> None:
    """P-384 is no key of ours."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    (tmp_path / "key.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ConfigError, match="P-256"):
        read_public_key(tmp_path / "key.pem")


def test_kinds_are_known(exported: Any) -> None:
    """Every statement that is exported is of a kind that the check knows."""
    from grpo_audit.export.check import _KINDS

    assert {statements.PROVENANCE, statements.TEST_RESULT, statements.EVALUATION, statements.FILES} == _KINDS


def test_any_flipped_bit_of_any_file_is_found(exported: Any, published: Path) -> None:
    """Twenty bits of every file of a published folder, one at a time: each is found. Only in the list of files itself
    may one be harmless, where it is white space or a key id: then the signed payload is still the same."""
    draw = random.Random(4)
    found = flipped = 0
    for path in sorted(item for item in published.rglob("*") if item.is_file()):
        whole = path.read_bytes()
        for _ in range(20):
            data = bytearray(whole)
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            path.write_bytes(bytes(data))
            flipped += 1
            if run(exported, published).ok:
                assert path.name == "files.dsse.json"
                assert json.loads(data)["payload"] == json.loads(whole)["payload"]
            else:
                found += 1
        path.write_bytes(whole)
    assert run(exported, published).ok and flipped == 20 * 14
    assert found >= flipped - 20
