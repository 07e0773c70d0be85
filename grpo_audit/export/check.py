"""``grpo-audit export --check``: are these the files that were exported, and the weights they speak of?

(0) The folder holds statements to check.
(1) Each statement in ``attestations`` is signed by the given key and is an in-toto statement of a known kind.
(2) The statements speak of the same weights.
(3) Each file that the statement of files names is there with its digest.
(4) Each file of the weights has the digest that the statements give it.
(5) The model signature is by the given key, and the model folder is as signed: nothing changed, missing or added.
(6) Nothing lies in the export that no signature covers.

Having nothing to check is not passing: weights that are not at hand fail (4), unless nobody asked for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from grpo_audit.errors import ConfigError, ExitCode
from grpo_audit.export import signing, statements
from grpo_audit.export.dsse import EnvelopeError, PublicKey, opened
from grpo_audit.export.facts import sha256
from grpo_audit.export.package import ATTESTATIONS, FILES, PUBLIC_KEY
from grpo_audit.record.identity import file_digest
from grpo_audit.verify.verdict import Check, Tally

MAX_BYTES = 64 << 20
"""No statement and no signature is longer."""
_KINDS = {statements.PROVENANCE, statements.TEST_RESULT, statements.EVALUATION, statements.FILES}
_NAMES = (
    ("statements", "statements"),
    ("signatures", "signatures"),
    ("one release", "statements"),
    ("exported files", "digests"),
    ("weights", "digests"),
    ("model signature", "files"),
    ("nothing else", "files"),
)
_GIT = (".git", ".gitattributes", ".github", ".gitignore")


@dataclass(frozen=True)
class CheckReport:
    """What became of each step."""

    folder: str
    key_id: str
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every step passed, or had nothing to do that was asked for."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def exit_code(self) -> ExitCode:
        """How a program ends with this."""
        return ExitCode.OK if self.ok else ExitCode.VERIFICATION_FAILED


def check(folder: Path, key: PublicKey, key_id: str, *, model: Path | None = None, weights: bool = True) -> CheckReport:
    """Check an export. ``model`` is the folder of the weights; None when they lie in the export itself. Without
    ``weights`` they are not looked for: what was signed is checked, not what it speaks of.

    Raises ConfigError when there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder", next_step="Name the folder that grpo-audit export wrote")
    procedure = _Procedure(folder, key, model)
    procedure.statements()
    procedure.one_release()
    procedure.files()
    procedure.weights(wanted=weights)
    procedure.signature(wanted=weights)
    procedure.others()
    return CheckReport(str(folder), key_id, [tally.check() for tally in procedure.tallies])


class _Procedure:
    """State of one check."""

    def __init__(self, folder: Path, key: PublicKey, model: Path | None) -> None:
        self._folder, self._key, self._model = folder, key, model
        self.tallies = [Tally(number, name, unit) for number, (name, unit) in enumerate(_NAMES)]
        self._opened: dict[str, Mapping[str, Any]] = {}
        self._subjects: dict[str, str] = {}
        """SHA-256 by file of the weights, as the statements give it."""
        self._covered: set[str] = set()

    def statements(self) -> None:
        """(0) and (1)."""
        paths = sorted((self._folder / ATTESTATIONS).glob("*.dsse.json"))
        signature = self._folder / signing.SIGNATURE
        self.tallies[0].saw(len(paths) + signature.is_file())
        if not paths and not signature.is_file():
            self.tallies[0].wrong(f"no {ATTESTATIONS}/*.dsse.json and no {signing.SIGNATURE}: nothing here is signed")
        self.tallies[1].nothing("no statements")
        for path in paths:
            name = path.relative_to(self._folder).as_posix()
            self.tallies[1].saw()
            self._covered.add(name)
            try:
                self._opened[name] = _statement(opened(_read(path), self._key))
            except EnvelopeError as error:
                self.tallies[1].wrong(f"{name}: {error}")

    def one_release(self) -> None:
        """(2)."""
        tally = self.tallies[2]
        tally.nothing("no statements about weights")
        for name, found in self._opened.items():
            if found["predicateType"] == statements.FILES:
                continue
            tally.saw()
            subjects = _digests(found)
            if self._subjects and subjects != self._subjects:
                tally.wrong(f"{name} speaks of other weights than the statements before it")
            self._subjects = self._subjects or subjects

    def files(self) -> None:
        """(3)."""
        tally = self.tallies[3]
        tally.nothing(f"no {FILES}")
        found = self._opened.get(FILES)
        if found is None:
            if self._opened:
                tally.wrong(f"{FILES} is missing or not signed: nothing vouches for the other files")
            return
        if found["predicateType"] != statements.FILES:
            tally.wrong(f"{FILES} is a statement of another kind")
            return
        for name, digest in sorted(_digests(found).items()):
            tally.saw()
            self._covered.add(name)
            self._compare(tally, self._folder, name, digest)

    def weights(self, *, wanted: bool) -> None:
        """(4)."""
        tally = self.tallies[4]
        if not self._subjects:
            tally.nothing("no statement about weights")
            return
        if not wanted:
            tally.nothing("not asked for: whether the weights are those of the statements stays open")
            return
        folder = self._model or self._folder
        left_out = {PurePosixPath(path) for path in signing.LEFT_OUT}
        for name, digest in sorted(self._subjects.items()):
            if self._model is None and PurePosixPath(name) in left_out:
                tally.remark(f"{name} of the model folder gave way to the export's")
                continue
            tally.saw()
            self._covered.add(name)
            self._compare(tally, folder, name, digest, hint="; name the model folder with --model")

    def signature(self, *, wanted: bool) -> None:
        """(5)."""
        tally, path = self.tallies[5], self._folder / signing.SIGNATURE
        if not path.is_file():
            tally.nothing(f"no {signing.SIGNATURE}")
            return
        self._covered.add(signing.SIGNATURE)
        try:
            signed = signing.opened_signature(_read(path), self._key)
        except EnvelopeError as error:
            tally.wrong(f"{signing.SIGNATURE}: {error}")
            return
        for name, digest in signed.files.items():
            if self._subjects and self._subjects.get(name) != digest:
                tally.wrong(f"{name}: the signature names another digest than the statements")
        if not wanted:
            tally.saw()
            tally.remark("the signature holds; the folder it covers was not asked for")
            return
        folder = self._model or self._folder
        tally.saw(len(signed.files))
        self._covered |= signed.files.keys()
        try:
            for problem in signing.differences(signed, folder):
                tally.wrong(f"{problem} ({folder})")
        except OSError as error:
            tally.wrong(f"{folder} cannot be read: {error.strerror}")

    def others(self) -> None:
        """(6)."""
        tally = self.tallies[6]
        tally.nothing("the folder is empty")
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder).as_posix()
            if (path.is_dir() and not path.is_symlink()) or name.split("/")[0] in _GIT:
                continue
            tally.saw()
            # the public key is there for convenience: the key that counts came by another way
            if name not in self._covered and name != PUBLIC_KEY:
                tally.wrong(f"{name} is covered by no signature")

    def _compare(self, tally: Tally, folder: Path, name: str, digest: str, hint: str = "") -> None:
        path = folder / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            tally.wrong(f"a statement names a file outside of the folder: {name!r:.80}")
            return
        try:
            if path.is_symlink() or not path.is_file():
                tally.wrong(f"{name} is not in {folder}{hint}")
            elif sha256(file_digest(path)) != digest:
                tally.wrong(f"{name} was changed")
        except OSError as error:
            tally.wrong(f"{name} cannot be read: {error.strerror}")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise EnvelopeError(f"it cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise EnvelopeError(f"it is longer than {MAX_BYTES:,} bytes")
    return data


def _statement(found: object) -> Mapping[str, Any]:
    if not isinstance(found, dict) or found.get("_type") != statements.STATEMENT:
        raise EnvelopeError("its payload is no in-toto statement of version 1")
    if found.get("predicateType") not in _KINDS:
        raise EnvelopeError(f"it is a statement of an unknown kind: {str(found.get('predicateType'))[:80]}")
    _digests(found)
    return found


def _digests(found: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 by name of a statement's subjects. Raises EnvelopeError."""
    try:
        pairs = [(str(item["name"]), str(item["digest"]["sha256"])) for item in found["subject"]]
    except (KeyError, TypeError) as error:
        raise EnvelopeError("a subject of it has no name or no SHA-256") from error
    if not pairs or len(dict(pairs)) != len(pairs):
        raise EnvelopeError("it has no subject, or one twice")
    return dict(pairs)
