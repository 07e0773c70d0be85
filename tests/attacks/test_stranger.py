"""The two pages of the format suffice: a verifier written from them alone accepts good bundles and rejects bad ones."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attacks.bundles import Contents, read_members, write_consistent
from attacks.stranger import BundleRejected, verify

from grpo_audit.export.bundle import BundleOptions, write_bundle
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.verify.bundle import BundleSource

BuildRecord = Callable[..., str]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, build_record: BuildRecord) -> Iterator[Path]:
    """A bundle of the first of two runs."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(folder / "home"))
        run_id = build_record(folder / "record.db", steps=2, prompts=1, group_size=2)
        build_record(folder / "record.db", steps=1, prompts=1, group_size=2, seed=1)
        write_bundle(folder / "record.db", run_id, folder / run_id, folder / "bundle.zip")
        options = BundleOptions(without_text=True)
        write_bundle(folder / "record.db", run_id, folder / run_id, folder / "quiet.zip", options)
    yield folder / "bundle.zip"


@pytest.fixture(scope="module")
def key(good: Path) -> str:
    """The project's key, known from elsewhere."""
    with BundleSource.open(good) as source:
        return source.manifest.key


def test_the_stranger_imports_nothing_of_ours() -> None:
    """Standard library and ``cryptography``: whoever has these can verify."""
    tree = ast.parse(Path(__file__).with_name("stranger.py").read_text(encoding="utf-8"))
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.partition(".")[0] for name in names} - sys.stdlib_module_names == {"cryptography"}


def test_the_stranger_accepts_a_good_bundle(good: Path, key: str) -> None:
    """As a program of its own, it finds as many events and contents as our reader."""
    command = [sys.executable, "-I", str(Path(__file__).with_name("stranger.py")), str(good), key]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    with BundleSource.open(good) as source:
        expected = {
            "events": source.count(),
            "disclosed": source.count() - source.manifest.withheld.events,
            "contents": sum(1 for _ in source.contents()),
        }
    assert json.loads(done.stdout) == expected


def test_the_stranger_accepts_a_bundle_without_text(good: Path, key: str) -> None:
    """What the manifest withholds may be missing."""
    with good.with_name("quiet.zip").open("rb") as file:
        assert verify(file, key)["contents"] == 1


def test_the_stranger_rejects_another_key(good: Path) -> None:
    """A key that signed nothing here is refused."""
    other = str(SigningKey.generate().signer("grpo-audit/" + "0" * 32).verifier)
    with good.open("rb") as file, pytest.raises(BundleRejected, match="another key"):
        verify(file, other)


def _sub(name: str, old: bytes, new: bytes) -> Callable[[Contents], Contents]:
    def change(members: Contents) -> Contents:
        assert old in members[name]
        return {**members, name: members[name].replace(old, new, 1)}

    return change


def _without_line(name: str, holding: bytes) -> Callable[[Contents], Contents]:
    def change(members: Contents) -> Contents:
        found = members[name].splitlines(keepends=True)
        gone = next(line for line in found if holding in line)
        return {**members, name: b"".join(line for line in found if line != gone)}

    return change


BAD: dict[str, tuple[Callable[[Contents], Contents], str]] = {
    "an edited body": (_sub("events.jsonl", b'"accuracy":"0.0"', b'"accuracy":"1.0"'), "not what was hashed"),
    "an edited text": (_sub("contents.jsonl", b"<think>", b"<thank>"), "content"),
    "a changed leaf": (lambda m: {**m, "leaves.bin": bytes(32) + m["leaves.bin"][32:]}, "not what was hashed"),
    "a withheld leaf changed": (
        lambda m: {**m, "leaves.bin": m["leaves.bin"][:-32] + bytes(32)},
        "another tree|not what",
    ),
    "an event taken out": (_without_line("events.jsonl", b'"kind":"finding"'), "content|seal"),
    "the heads taken out": (lambda m: {**m, "checkpoints.jsonl": b""}, "no head"),
    "the newest head taken out": (
        lambda m: {**m, "checkpoints.jsonl": b"".join(m["checkpoints.jsonl"].splitlines(True)[:-1])},
        "no head",
    ),
    "a signature stripped": (
        _sub("checkpoints.jsonl", "\u2014 grpo-audit".encode(), b"\xe2\x80\x94 other-audit"),
        "signed",
    ),
    "content taken out": (_without_line("contents.jsonl", b'"name":"completion"'), "missing"),
}


@pytest.mark.parametrize("attack", BAD)
def test_the_stranger_rejects_a_bad_bundle(attack: str, good: Path, key: str, tmp_path: Path) -> None:
    """Also when archive and manifest are made to fit what was changed."""
    change, why = BAD[attack]
    write_consistent(tmp_path / "bad.zip", change(read_members(good)))
    with (tmp_path / "bad.zip").open("rb") as file, pytest.raises(BundleRejected, match=why):
        verify(file, key)


def test_the_stranger_rejects_every_cut_and_every_flipped_header(good: Path, key: str, tmp_path: Path) -> None:
    """A sample of single changed bytes and of cuts of the file, each rejected."""
    data = good.read_bytes()
    for at in [*range(0, len(data), len(data) // 60), *range(len(data) - 22, len(data))]:
        for bad in (data[:at], data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]):
            (tmp_path / "bad.zip").write_bytes(bad)
            with (tmp_path / "bad.zip").open("rb") as file, pytest.raises((BundleRejected, ValueError, KeyError)):
                verify(file, key)
