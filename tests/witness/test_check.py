"""What statements are worth to a verifier: nothing without an anchor from elsewhere, and nothing over another head."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from witness.logs import copy, grow, head_of
from witness.test_directory import show

from grpo_audit.errors import ConfigError
from grpo_audit.ledger import keys
from grpo_audit.ledger.merkle import Frontier
from grpo_audit.ledger.notes import Checkpoint
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.tip import origin_of
from grpo_audit.witness import kinds, pins
from grpo_audit.witness.ask import ask_all
from grpo_audit.witness.check import Trust, WitnessFinding, WitnessOutcome, check, standing, wanted_sizes
from grpo_audit.witness.cosignature import Cosigner
from grpo_audit.witness.directory import open_folder
from grpo_audit.witness.pins import Pin
from grpo_audit.witness.protocol import Judged, Judgement

OK, FAILED, NO_ANCHOR, NO_STATEMENT = WitnessOutcome


@dataclass(frozen=True)
class Row:
    """A row of the table witness."""

    size: object
    name: object
    kind: object
    statement: object


def rows_of(record: Path) -> list[Row]:
    """Everything that witnesses said."""
    with Project.open(record, mode="read") as project, project.session() as session:
        found = session.execute(text("select size, name, kind, statement from witness order by size"))
        return [Row(*row) for row in found]


def checked(record: Path, rows: list[Row], *specs: str | Path, project_id: str | None = None) -> list[WitnessFinding]:
    """The findings, with the roots a verifier computes."""
    trust = Trust.parse([str(spec) for spec in specs], project_id)
    with Project.open(record, mode="read") as project:
        origin = origin_of(project.project_id)
        roots = _roots(project, wanted_sizes(rows, origin, trust))
    return check(rows, roots, origin, trust)


def _roots(project: Project, sizes: frozenset[int]) -> Mapping[int, bytes]:
    tree, roots = Frontier(), {}
    for leaf in project.leaf_hashes(0, project.head.size):
        tree.append(leaf)
        if tree.size in sizes:
            roots[tree.size] = tree.root()
    return roots


def outcomes(findings: list[WitnessFinding]) -> list[WitnessOutcome]:
    """Just the outcomes."""
    return [finding.outcome for finding in findings]


@pytest.fixture
def witnessed(record: Path, folder: Path) -> Path:
    """A record whose heads over 8 and 11 events were cosigned."""
    show(record, folder)
    grow(record, 3)
    show(record, folder)
    return record


def test_without_an_anchor_a_statement_counts_for_nothing(witnessed: Path) -> None:
    """A true cosignature whose key nobody named is neither for nor against the record."""
    findings = checked(witnessed, rows_of(witnessed))
    assert outcomes(findings) == [NO_ANCHOR, NO_ANCHOR]
    result = standing(findings, Trust())
    assert (result.witnessed, result.of, result.size) == (0, 0, 0)


def test_with_the_key_every_statement_holds(witnessed: Path, folder: Path) -> None:
    """Given as text or as a file, the witness' key makes each statement count; the newest head has its time."""
    key = str(open_folder(folder).key)
    (folder.parent / "key.txt").write_text(f"{key}\n")
    for spec in (key, f"dir:{key}", f"dir:{folder.parent / 'key.txt'}", str(folder.parent / "key.txt")):
        findings = checked(witnessed, rows_of(witnessed), spec)
        assert outcomes(findings) == [OK, OK]
        result = standing(findings, Trust.parse([spec]))
        assert (result.witnessed, result.of, result.size, result.only_time) == (1, 1, 11, False)
        assert result.at == findings[1].at is not None


def test_the_folder_itself_is_asked_too(witnessed: Path, folder: Path) -> None:
    """With the folder at hand, its memory is compared: it holds even when every statement was stripped."""
    assert outcomes(checked(witnessed, rows_of(witnessed), f"dir:{folder}")) == [OK, OK, OK]
    assert outcomes(checked(witnessed, [], f"dir:{folder}")) == [OK]


def test_newest_events_cut_with_checkpoints_and_statements(
    record: Path, folder: Path, tmp_path: Path, forget: Callable[[], None]
) -> None:
    """A record cut below what the witness saw fails: by the statement where it was left, else by the memory."""
    show(record, folder)
    old = copy(record, tmp_path / "old.db")
    grow(record, 3)
    show(record, folder)
    forget()
    findings = checked(old, rows_of(record), open_folder(folder).anchor())
    assert outcomes(findings) == [OK, FAILED] and "cut off" in findings[1].detail
    findings = checked(old, rows_of(old), f"dir:{folder}")
    assert outcomes(findings) == [OK, FAILED] and "remembers 11 events" in findings[1].detail


def test_two_histories_shown_to_two_people(
    record: Path, folder: Path, tmp_path: Path, forget: Callable[[], None]
) -> None:
    """The history that the witness did not see fails, with the witnessed statements and with the witness' memory."""
    fork = copy(record, tmp_path / "fork.db")
    grow(record, 3, say="true")
    show(record, folder)
    forget()
    grow(fork, 3, say="false")
    assert outcomes(checked(fork, rows_of(record), open_folder(folder).anchor()))[0] is FAILED
    findings = checked(fork, [], f"dir:{folder}")
    assert outcomes(findings) == [FAILED] and "another history" in findings[0].detail


def test_a_statement_copied_from_another_log_fails(witnessed: Path, folder: Path, tmp_path: Path) -> None:
    """The same witness cosigned another project's head over as many events: it does not hold here."""
    grow(tmp_path / "other.db", 10)
    show(tmp_path / "other.db", folder)
    findings = checked(witnessed, rows_of(tmp_path / "other.db"), open_folder(folder).anchor())
    assert outcomes(findings) == [FAILED, FAILED]
    assert "does not hold over this head" in findings[0].detail


def test_a_cosignature_over_another_size_fails(witnessed: Path, folder: Path) -> None:
    """Statements exchanged between two heads of the same log do not hold."""
    first, second = rows_of(witnessed)
    swapped = [replace(first, statement=second.statement), replace(second, statement=first.statement)]
    assert outcomes(checked(witnessed, swapped, open_folder(folder).anchor()))[:2] == [FAILED, FAILED]


def test_a_forged_cosignature_fails(witnessed: Path, folder: Path) -> None:
    """A cosignature in the witness' name by another key, and one with the right key id, are found out."""
    key = open_folder(folder).key
    head = head_of(witnessed)
    thief = Cosigner(key.name, Ed25519PrivateKey.generate())
    line = thief.cosign(head, 1_700_000_000)
    findings = checked(witnessed, [Row(11, key.name, "directory", line)], str(key))
    assert findings[0].outcome is FAILED and "another key" in findings[0].detail
    blob = bytearray(base64.b64decode(line.split()[-1]))
    blob[:4] = key.key_id
    forged = f"— {key.name} {base64.b64encode(bytes(blob)).decode()}\n".encode()
    findings = checked(witnessed, [Row(11, key.name, "directory", forged)], str(key))
    assert findings[0].outcome is FAILED and "forged" in findings[0].detail


def test_a_true_cosignature_kept_under_another_name_fails(witnessed: Path, folder: Path) -> None:
    """One witness is not counted twice by keeping its statement under a second name."""
    (row, *_) = rows_of(witnessed)
    findings = checked(witnessed, [row, replace(row, name="second witness")], open_folder(folder).anchor())
    assert outcomes(findings) == [OK, FAILED]
    assert standing(findings, Trust.parse([open_folder(folder).anchor()])).witnessed == 1


def test_a_clock_that_went_back_shows(witnessed: Path, folder: Path) -> None:
    """Cosignatures by the true key whose times run against their sizes are reported."""
    key = open_folder(folder).key
    cosigner = Cosigner(key.name, keys.SigningKey.load(folder / "witness.key").private)
    rows = [
        Row(8, key.name, "directory", cosigner.cosign(head_of(witnessed, 8), 1_700_000_100)),
        Row(11, key.name, "directory", cosigner.cosign(head_of(witnessed, 11), 1_700_000_000)),
    ]
    findings = checked(witnessed, rows, str(key))
    assert outcomes(findings) == [OK, OK, FAILED] and "earlier time" in findings[2].detail


def test_a_witness_that_was_named_must_have_spoken(record: Path, folder: Path) -> None:
    """Statements stripped from the record: the witness the verifier named is missing, and that fails."""
    key = open_folder(folder).anchor()
    findings = checked(record, [], key)
    assert outcomes(findings) == [FAILED] and "no statement" in findings[0].detail


def test_pinned_witnesses_are_believed_without_being_named(record: Path, folder: Path, tmp_path: Path) -> None:
    """What was pinned when the witness was added is enough on this machine; one that never spoke is only reported."""
    with Project.open(record, mode="write") as project:
        project_id = project.project_id
        ask_all(project, [f"dir:{folder}"])
    assert outcomes(checked(record, rows_of(record), project_id=project_id)) == [OK, OK]
    folder.rename(tmp_path / "unmounted")
    assert outcomes(checked(record, rows_of(record), project_id=project_id)) == [OK]
    assert outcomes(checked(record, [], project_id=project_id)) == [NO_STATEMENT]


def test_a_pinned_folder_is_asked_when_it_is_mounted(
    record: Path, folder: Path, tmp_path: Path, forget: Callable[[], None]
) -> None:
    """On the machine that added the witness, a cut record fails without any --witness."""
    old = copy(record, tmp_path / "old.db")
    grow(record, 1)
    with Project.open(record, mode="write") as project:
        project_id = project.project_id
        ask_all(project, [f"dir:{folder}"])
    forget()
    assert outcomes(checked(old, [], project_id=project_id)) == [FAILED]


def test_a_log_that_is_witnessed_while_it_is_verified_does_not_fail(record: Path, folder: Path) -> None:
    """The memory that counts is the one from before the verified state was read, not one that grew since."""
    show(record, folder)
    trust = Trust.parse([f"dir:{folder}"])
    origin, rows = head_of(record).origin, rows_of(record)
    sizes = wanted_sizes(rows, origin, trust)
    with Project.open(record, mode="read") as project:
        roots = _roots(project, sizes)
    grow(record, 2)
    show(record, folder)
    assert outcomes(check(rows, roots, origin, trust)) == [OK, OK]


def test_a_pin_that_cannot_be_used_is_reported(record: Path, tmp_path: Path) -> None:
    """A clone that moved away does not keep the record from being verified."""
    with Project.open(record, mode="read") as project:
        project_id = project.project_id
    pins.keep(project_id, Pin(f"git:{tmp_path}/gone", "git/gone#main", "git", f"{tmp_path}/gone#main"))
    (finding,) = checked(record, [], project_id=project_id)
    assert finding.outcome is NO_STATEMENT and "no git repository" in finding.detail


def test_a_broken_memory_of_a_named_witness_fails(witnessed: Path, folder: Path) -> None:
    """Statements that hold do not make up for a memory that somebody spoilt."""
    next((folder / "heads").glob("*.json")).write_text("{}")
    assert outcomes(checked(witnessed, rows_of(witnessed), f"dir:{folder}")) == [OK, OK, FAILED]


@pytest.mark.parametrize(
    "row",
    [
        Row(None, "w", "directory", b"x"),
        Row(8, None, "directory", b"x"),
        Row(8, "w", None, b"x"),
        Row(8, "w", "directory", "text"),
        Row(8, "w", "directory", bytes(2 << 20)),
        Row(8, "w", "rfc3161", b"x"),
        Row(8, "w", "git", b"x"),
        Row(99, "w", "directory", b"x"),
        Row(0, "w", "directory", b"x"),
        Row(-1, "w", "directory", b"x"),
        Row(True, "w", "directory", b"x"),
    ],
)
def test_malformed_rows_fail(record: Path, row: Row) -> None:
    """A row of the wrong types, of no statement, or about a head that cannot be, fails with or without an anchor."""
    assert outcomes(checked(record, [row])) == [FAILED]


def test_an_unknown_kind_counts_for_nothing(record: Path) -> None:
    """A witness whose plug-in is not installed is reported, not believed."""
    assert outcomes(checked(record, [Row(8, "w", "blockchain", b"x")])) == [NO_ANCHOR]


def test_a_specification_that_names_nothing_is_refused() -> None:
    """Unknown prefixes, empty rests and a log's own key raise ConfigError that lists the kinds."""
    key = str(keys.SigningKey.generate().signer("grpo-audit/x").verifier)
    for spec in ("", "dir:", "ftp:x", "dir", key, "NAME+00000000+AAAA"):
        with pytest.raises(ConfigError, match="dir:"):
            Trust.parse([spec])


class Notary:
    """A kind of somebody else's: the statement is the text of the head."""

    name, prefix, label = "notary", "notary", "notary"

    def settled(self, rest: str) -> str:
        return rest

    def trusted(self, rest: str) -> Notary:
        return self

    def contradiction(self, statement: bytes, head: Checkpoint) -> str | None:
        return None if statement == head.text().encode() else "not the text of this head"

    def judge(self, name: str, statement: bytes, head: Checkpoint):
        return Judged(Judgement.HOLDS, "noted", "2026-01-01T00:00:00Z")

    def memory(self, origin: str) -> None:
        return None


def test_kinds_of_others_are_found_by_entry_point(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object of the entry point group grpo_audit.witnesses is a kind like ours; it cannot replace one of ours."""

    class Point:
        value = "elsewhere:Notary"

        def __init__(self, kind: object) -> None:
            self.kind = kind

        def load(self) -> object:
            return self.kind

    class Impostor(Notary):
        name = "directory"

    monkeypatch.setattr(kinds, "entry_points", lambda group: [Point(Notary()), Point(Impostor())] if group else [])
    kinds.installed.cache_clear()
    try:
        row = Row(8, "n", "notary", head_of(record).text().encode())
        assert outcomes(checked(record, [row], "notary:x")) == [OK]
        assert outcomes(checked(record, [replace(row, statement=b"other")], "notary:x"))[0] is FAILED
        assert not isinstance(kinds.by_name("directory"), Notary)
    finally:
        kinds.installed.cache_clear()
