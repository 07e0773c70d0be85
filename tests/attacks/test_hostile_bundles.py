"""Archives that are no bundles, each refused by its name before anything in them is believed."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attacks.bundles import Contents, central_offset, read_members, with_manifest, write_consistent, write_members

from grpo_audit.errors import ExitCode
from grpo_audit.export.bundle import BundleOptions, write_bundle
from grpo_audit.ledger import canonical
from grpo_audit.verify import archive as archive_module
from grpo_audit.verify.archive import BundleError, Refusal, check_names
from grpo_audit.verify.bundle import BundleSource

BuildRecord = Callable[..., str]
Change = Callable[[bytearray], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, build_record: BuildRecord) -> Iterator[Path]:
    """A bundle of a small record, with the model."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(folder / "home"))
        run_id = build_record(folder / "record.db", steps=1, prompts=1, group_size=2)
        options = BundleOptions(with_weights=True)
        write_bundle(folder / "record.db", run_id, folder / run_id, folder / "bundle.zip", options)
    yield folder / "bundle.zip"


@pytest.fixture
def members(good: Path) -> Contents:
    """Its members."""
    return read_members(good)


def refusal(path: Path) -> Refusal:
    """Why the bundle is refused: when it is opened, or at the latest when it is read through."""
    with pytest.raises(BundleError) as caught, BundleSource.open(path) as source:
        for part in (source.events(), source.checkpoints(), source.contents(), source.witnesses()):
            for _ in part:
                pass
    assert f"({caught.value.refusal})" in str(caught.value)
    assert caught.value.exit_code is ExitCode.VERIFICATION_FAILED
    return caught.value.refusal


def read_all(path: Path) -> None:
    """Open a bundle and read everything in it."""
    with BundleSource.open(path) as source:
        for part in (source.events(), source.checkpoints(), source.contents(), source.witnesses()):
            for _ in part:
                pass


def test_the_good_bundle_is_read(good: Path, tmp_path: Path, members: Contents) -> None:
    """What the attacks start from is accepted, also when taken apart and put together again."""
    read_all(good)
    write_consistent(tmp_path / "again.zip", members)
    assert (tmp_path / "again.zip").read_bytes() == good.read_bytes()


# --- names -----------------------------------------------------------------------------------------------------------

NAMES = {
    "files/../../etc/passwd": Refusal.PATH_TRAVERSAL,
    "..": Refusal.PATH_TRAVERSAL,
    "files/./x": Refusal.PATH_TRAVERSAL,
    "/etc/passwd": Refusal.ABSOLUTE_PATH,
    "//host/share": Refusal.ABSOLUTE_PATH,
    "files\\..\\x": Refusal.BACKSLASH,
    "C:/x": Refusal.DRIVE_LETTER,
    "c:x": Refusal.DRIVE_LETTER,
    "files/": Refusal.NOT_A_FILE,
    "files//x": Refusal.BAD_NAME,
    "files/a:stream": Refusal.BAD_NAME,
    "files/nul": Refusal.BAD_NAME,
    "files/COM1.txt": Refusal.BAD_NAME,
    "files/x.": Refusal.BAD_NAME,
    "files/x ": Refusal.BAD_NAME,
    "files/a\x00b": Refusal.BAD_NAME,
    "files/a\nb": Refusal.BAD_NAME,
    "files/a\x1b[31mb": Refusal.BAD_NAME,
    "files/a\u202egpj.exe": Refusal.BAD_NAME,
    "files/a\u200bb": Refusal.BAD_NAME,
    "files/" + "x" * 2000: Refusal.BAD_NAME,
    "evil.txt": Refusal.UNLISTED_MEMBER,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_somewhere(name: str, members: Contents, tmp_path: Path) -> None:
    """A name that is traversal, absolute, another system's path, or not to be seen is refused, though listed."""
    write_consistent(tmp_path / "b.zip", {**members, name: b"x"})
    assert refusal(tmp_path / "b.zip") is NAMES[name]


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ("files/a", "files/a", Refusal.DUPLICATE_NAME),
        ("files/README", "files/readme", Refusal.NAME_COLLISION),
        ("files/STRASSE", "files/straße", Refusal.NAME_COLLISION),
        ("files/caf\u00e9", "files/cafe\u0301", Refusal.NAME_COLLISION),
        ("files/\ufb01le", "files/file", Refusal.NAME_COLLISION),
        ("files/a", "files/a/b", Refusal.NAME_COLLISION),
        ("files/A/x", "files/a", Refusal.NAME_COLLISION),
        ("manifest.json", "MANIFEST.json", Refusal.NAME_COLLISION),
    ],
)
def test_two_names_for_one_file(first: str, second: str, why: Refusal) -> None:
    """Names that are one file on some system are refused: twice the same, by case, by spelling, file and folder."""
    for names in ([first, second], [second, first]):
        with pytest.raises(BundleError) as caught:
            check_names(names)
        assert caught.value.refusal is why


def test_duplicate_members(members: Contents, tmp_path: Path) -> None:
    """The same name twice: programs differ in which one they read."""
    listed = list(with_manifest(members).items())
    write_members(tmp_path / "b.zip", [*listed, ("events.jsonl", b"{}\n")])
    assert refusal(tmp_path / "b.zip") is Refusal.DUPLICATE_NAME


# --- what zip files can be made to say -------------------------------------------------------------------------------


def first_central(data: bytearray) -> int:
    """Offset of the manifest's central header."""
    return central_offset(bytes(data))


def set_u16(data: bytearray, at: int, value: int) -> None:
    """Write a field of two bytes."""
    data[at : at + 2] = struct.pack("<H", value)


def set_u32(data: bytearray, at: int, value: int) -> None:
    """Write a field of four bytes."""
    data[at : at + 4] = struct.pack("<L", value)


def both(offset_local: int, offset_central: int, value: int) -> Change:
    """Set a field in the local and the central header of the manifest."""

    def change(data: bytearray) -> None:
        set_u16(data, offset_local, value)
        set_u16(data, first_central(data) + offset_central, value)

    return change


def mode(value: int) -> Change:
    """Give the manifest a Unix file mode."""
    return lambda data: set_u32(data, first_central(data) + 38, value << 16)


def insert(at: Callable[[bytearray], int], what: bytes) -> Change:
    """Put bytes somewhere, without telling anybody."""

    def change(data: bytearray) -> None:
        place = at(data)
        data[place:place] = what

    return change


def shifted(data: bytearray) -> None:
    """Bytes before the archive, with every offset in it corrected."""
    at = first_central(data)
    set_u32(data, len(data) - 6, at + 7)
    while data[at : at + 4] == b"PK\x01\x02":
        set_u32(data, at + 42, struct.unpack("<L", data[at + 42 : at + 46])[0] + 7)
        name, extra, comment = struct.unpack("<3H", data[at + 28 : at + 34])
        at += 46 + name + extra + comment
    data[:0] = b"#!/bin/"


def gap(data: bytearray) -> None:
    """Bytes between the last member and the central directory."""
    at = first_central(data)
    data[at:at] = b"hidden"
    set_u32(data, len(data) - 6, at + 6)


def overlap(data: bytearray) -> None:
    """The second member points at the first."""
    at = first_central(data)
    name, extra, comment = struct.unpack("<3H", data[at + 28 : at + 34])
    set_u32(data, at + 46 + name + extra + comment + 42, 0)


def commented_member(data: bytearray) -> None:
    """A comment on the last member, accounted for."""
    at = data.rfind(b"PK\x01\x02")
    set_u16(data, at + 32, 4)
    data[-22:-22] = b"note"
    set_u32(data, len(data) - 10, struct.unpack("<L", data[-10:-6])[0] + 4)


def extra_field(data: bytearray) -> None:
    """A Unix time in the last member's central header."""
    at = data.rfind(b"PK\x01\x02")
    set_u16(data, at + 30, 9)
    data[-22:-22] = struct.pack("<HHBL", 0x5455, 5, 1, 0)
    set_u32(data, len(data) - 10, struct.unpack("<L", data[-10:-6])[0] + 9)


def zip64_extra(data: bytearray) -> None:
    """A ZIP64 field on a member that does not need one."""
    at = data.rfind(b"PK\x01\x02")
    set_u16(data, at + 30, 12)
    set_u32(data, at + 42, 0xFFFFFFFF)
    offset = data.rfind(b"PK\x03\x04", 0, first_central(data))
    data[-22:-22] = struct.pack("<HHQ", 1, 8, offset)
    set_u32(data, len(data) - 10, struct.unpack("<L", data[-10:-6])[0] + 12)


def zip64_end(data: bytearray) -> None:
    """A ZIP64 end of the archive that is not needed."""
    offset, size = struct.unpack("<L", data[-6:-2])[0], struct.unpack("<L", data[-10:-6])[0]
    count = struct.unpack("<H", data[-12:-10])[0]
    record = b"PK\x06\x06" + struct.pack("<Q2H2L4Q", 44, 0x32D, 45, 0, 0, count, count, size, offset)
    record += b"PK\x06\x07" + struct.pack("<LQL", 0, offset + size, 1)
    data[-22:-22] = record
    set_u32(data, len(data) - 6, 0xFFFFFFFF)


STRUCTURES: dict[str, tuple[Change, Refusal]] = {
    "encrypted": (both(6, 8, 1), Refusal.ENCRYPTED),
    "strongly encrypted": (both(6, 8, 0x41), Refusal.ENCRYPTED),
    "deflated": (both(8, 10, 8), Refusal.COMPRESSED),
    "lzma": (both(8, 10, 14), Refusal.COMPRESSED),
    "unknown method": (both(8, 10, 4711), Refusal.COMPRESSED),
    "size declared smaller": (lambda d: set_u32(d, first_central(d) + 24, 3), Refusal.COMPRESSED),
    "both sizes declared larger": (
        lambda d: (set_u32(d, first_central(d) + 20, 1 << 30), set_u32(d, first_central(d) + 24, 1 << 30)),
        Refusal.LOCAL_HEADER,
    ),
    "symbolic link": (mode(stat.S_IFLNK | 0o777), Refusal.NOT_A_FILE),
    "device": (mode(stat.S_IFCHR | 0o666), Refusal.NOT_A_FILE),
    "fifo": (mode(stat.S_IFIFO | 0o666), Refusal.NOT_A_FILE),
    "folder": (mode(stat.S_IFDIR | 0o755), Refusal.NOT_A_FILE),
    "DOS folder": (lambda d: set_u32(d, first_central(d) + 38, 0x10), Refusal.NOT_A_FILE),
    "setuid": (mode(stat.S_IFREG | 0o4755), Refusal.CENTRAL_HEADER),
    "another time": (lambda d: set_u16(d, first_central(d) + 12, 77), Refusal.CENTRAL_HEADER),
    "sizes after the data": (both(6, 8, 8), Refusal.CENTRAL_HEADER),
    "local name differs": (lambda d: d.__setitem__(30, ord("M")), Refusal.LOCAL_HEADER),
    "local checksum differs": (lambda d: set_u32(d, 14, 1), Refusal.LOCAL_HEADER),
    "local size differs": (lambda d: set_u32(d, 18, 1), Refusal.LOCAL_HEADER),
    "local method differs": (lambda d: set_u16(d, 8, 8), Refusal.LOCAL_HEADER),
    "checksum wrong in both": (
        lambda d: (set_u32(d, 14, 1), set_u32(d, first_central(d) + 16, 1)),
        Refusal.CHECKSUM,
    ),
    "overlapping members": (overlap, Refusal.OVERLAP),
    "a gap": (gap, Refusal.OVERLAP),
    "prepended data": (insert(lambda _: 0, b"#!/bin/sh\n"), Refusal.PREPENDED_DATA),
    "prepended data, offsets corrected": (shifted, Refusal.PREPENDED_DATA),
    "trailing data": (lambda d: d.extend(b"x"), Refusal.TRAILING_DATA),
    "a second archive behind": (lambda d: d.extend(bytes(d)), Refusal.PREPENDED_DATA),
    "archive comment": (lambda d: (set_u16(d, len(d) - 2, 5), d.extend(b"hello")), Refusal.COMMENT),
    "comment longer than the file": (lambda d: set_u16(d, len(d) - 2, 5), Refusal.TRUNCATED),
    "member comment": (commented_member, Refusal.COMMENT),
    "extra field": (extra_field, Refusal.CENTRAL_HEADER),
    "ZIP64 field without need": (zip64_extra, Refusal.ZIP64),
    "ZIP64 end without need": (zip64_end, Refusal.ZIP64),
    "several disks": (lambda d: set_u16(d, len(d) - 18, 1), Refusal.ZIP64),
    "too many members": (
        lambda d: (set_u16(d, len(d) - 14, 60_000), set_u16(d, len(d) - 12, 60_000)),
        Refusal.TOO_MANY_MEMBERS,
    ),
    "a member left out of the count": (
        lambda d: (set_u16(d, len(d) - 14, 2), set_u16(d, len(d) - 12, 2)),
        Refusal.CENTRAL_HEADER,
    ),
    "directory elsewhere": (lambda d: set_u32(d, len(d) - 6, 0x7FFFFFFF), Refusal.TRUNCATED),
    "cut at the end": (lambda d: d.__delitem__(slice(-1, None)), Refusal.TRUNCATED),
    "cut in the middle": (lambda d: d.__delitem__(slice(len(d) // 2, None)), Refusal.TRUNCATED),
    "cut from the middle": (lambda d: d.__delitem__(slice(1000, 1100)), Refusal.TRUNCATED),
    "empty": (lambda d: d.clear(), Refusal.NOT_A_ZIP),
    "text": (lambda d: d.__setitem__(slice(None), b"hello"), Refusal.NOT_A_ZIP),
    "zeros": (lambda d: d.__setitem__(slice(None), bytes(100_000)), Refusal.NOT_A_ZIP),
    "one flipped bit of content": (lambda d: d.__setitem__(5000, d[5000] ^ 1), Refusal.CHECKSUM),
}


@pytest.mark.parametrize("attack", STRUCTURES)
def test_a_structure_that_no_bundle_has(attack: str, good: Path, tmp_path: Path) -> None:
    """Whatever else a zip file can be is refused by name."""
    change, why = STRUCTURES[attack]
    data = bytearray(good.read_bytes())
    change(data)
    assert bytes(data) != good.read_bytes()
    (tmp_path / "b.zip").write_bytes(data)
    assert refusal(tmp_path / "b.zip") is why


def test_a_compression_bomb(members: Contents, tmp_path: Path) -> None:
    """Four gigabytes in four megabytes are refused by their method, before a byte of them is unpacked."""
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("manifest.json", members["manifest.json"])
        with bomb.open("files/bomb", "w") as out:
            for _ in range(64):
                out.write(bytes(1 << 20))
    assert refusal(tmp_path / "b.zip") is Refusal.COMPRESSED


def test_the_members_packed_by_another_program(members: Contents, tmp_path: Path) -> None:
    """Right content in another zip's spelling is refused: one bundle has one sequence of bytes."""
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as other:
        for name, data in members.items():
            other.writestr(name, data)
    assert refusal(tmp_path / "b.zip") is Refusal.CENTRAL_HEADER


def test_zip64_is_read_where_it_is_needed(members: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 4 GiB the fields of ZIP64 are written and read back, and ``zipfile`` agrees; here from 500 bytes on."""
    monkeypatch.setattr(archive_module, "ZIP64_FROM", 500)
    write_consistent(tmp_path / "b.zip", members)
    read_all(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as other:
        assert other.testzip() is None
        assert {name: other.read(name) for name in other.namelist()} == with_manifest(members)
    monkeypatch.undo()
    assert refusal(tmp_path / "b.zip") is Refusal.ZIP64


# --- manifest --------------------------------------------------------------------------------------------------------


def remove(name: str) -> Callable[[Contents], Contents]:
    """The members without one, its place in the manifest kept."""
    return lambda members: {key: data for key, data in members.items() if key != name}


def edited(change: Callable[[dict[str, object]], object]) -> Callable[[Contents], Contents]:
    """Another manifest."""

    def edit(members: Contents) -> Contents:
        manifest = canonical.loads(members["manifest.json"])
        change(manifest)
        return {**members, "manifest.json": canonical.dumps(manifest)}

    return edit


def raw(data: bytes) -> Callable[[Contents], Contents]:
    """Other bytes in place of the manifest."""
    return lambda members: {**members, "manifest.json": data}


def appended(name: str, data: bytes) -> Callable[[Contents], Contents]:
    """More bytes in a member, with the manifest as it was."""
    return lambda members: {**members, name: members[name] + data}


def changed(name: str) -> Callable[[Contents], Contents]:
    """Other bytes of the same length in a member, with the manifest as it was."""
    return lambda members: {**members, name: bytes(len(members[name]))}


MANIFESTS: dict[str, tuple[Callable[[Contents], Contents], Refusal]] = {
    "no manifest": (remove("manifest.json"), Refusal.MISSING_MEMBER),
    "a listed file missing": (remove("files/recipe.yaml"), Refusal.MISSING_MEMBER),
    "the leaves missing": (remove("leaves.bin"), Refusal.MISSING_MEMBER),
    "an unlisted file": (lambda members: {**members, "files/z": b""}, Refusal.UNLISTED_MEMBER),
    "a longer file": (appended("files/recipe.yaml", b"x"), Refusal.SIZE_MISMATCH),
    "a changed file": (changed("files/recipe.yaml"), Refusal.DIGEST_MISMATCH),
    "changed events": (changed("events.jsonl"), Refusal.DIGEST_MISMATCH),
    "no JSON": (raw(b"hello"), Refusal.MANIFEST),
    "not canonical": (lambda members: {**members, "manifest.json": members["manifest.json"] + b"\n"}, Refusal.MANIFEST),
    "duplicate keys": (raw(b'{"format":1,"format":1}'), Refusal.MANIFEST),
    "nested too deep": (raw(b"[" * 10_000 + b"]" * 10_000), Refusal.MANIFEST),
    "a number out of range": (raw(b'{"format":1e999}'), Refusal.MANIFEST),
    "too large": (raw(b" " * (17 << 20)), Refusal.TOO_LARGE),
    "no object": (raw(b"[]"), Refusal.MANIFEST),
    "a newer format": (edited(lambda m: m.update(format=2)), Refusal.FORMAT_VERSION),
    "format true": (edited(lambda m: m.update(format=True)), Refusal.MANIFEST),
    "an unknown field": (edited(lambda m: m.update(more=1)), Refusal.MANIFEST),
    "a missing field": (edited(lambda m: m.pop("run")), Refusal.MANIFEST),
    "another project": (edited(lambda m: m.update(project="0" * 32)), Refusal.CONTRADICTION),
    "a project that is a path": (edited(lambda m: m.update(project="../x")), Refusal.MANIFEST),
    "another key": (edited(lambda m: m.update(key="x+00+AA==")), Refusal.SWAPPED_KEY),
    "fewer events": (edited(lambda m: m.update(events=5)), Refusal.CONTRADICTION),
    "negative events": (edited(lambda m: m.update(events=-5)), Refusal.MANIFEST),
    "withheld events invented": (edited(lambda m: m["withheld"].update(events=1)), Refusal.CONTRADICTION),  # type: ignore[attr-defined]
    "unknown content withheld": (edited(lambda m: m["withheld"].update(contents=["x"])), Refusal.MANIFEST),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("attack", MANIFESTS)
def test_a_manifest_that_does_not_fit(attack: str, members: Contents, tmp_path: Path) -> None:
    """The manifest must be canonical, known, and say exactly what is there."""
    change, why = MANIFESTS[attack]
    write_members(tmp_path / "b.zip", list(change(members).items()))
    assert refusal(tmp_path / "b.zip") is why


def test_members_in_another_order(members: Contents, tmp_path: Path) -> None:
    """Members follow the manifest, sorted."""
    write_members(tmp_path / "b.zip", list(reversed(with_manifest(members).items())))
    assert refusal(tmp_path / "b.zip") is Refusal.MEMBER_ORDER


# --- lines -----------------------------------------------------------------------------------------------------------


def lines(change: Callable[[list[bytes]], object]) -> Callable[[bytes], bytes]:
    """Do something to the lines of a member."""

    def edit(data: bytes) -> bytes:
        found = data.splitlines(keepends=True)
        change(found)
        return b"".join(found)

    return edit


def _sub(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new, 1)


LINES: dict[str, tuple[str, Callable[[bytes], bytes], Refusal]] = {
    "no event": ("events.jsonl", lambda _: b"", Refusal.CONTRADICTION),
    "events reversed": ("events.jsonl", lines(list.reverse), Refusal.STRAY_EVENT),
    "an event twice": ("events.jsonl", lines(lambda found: found.insert(3, found[3])), Refusal.STRAY_EVENT),
    "an event of the future": (
        "events.jsonl",
        lines(lambda found: found.append(found[-1].replace(b'"seq":', b'"seq":9'))),
        Refusal.STRAY_EVENT,
    ),
    "a last line without end": ("events.jsonl", lambda data: data[:-1], Refusal.BAD_LINE),
    "half a leaf": ("leaves.bin", lambda data: data[:-16], Refusal.CONTRADICTION),
    "a leaf too many": ("leaves.bin", lambda data: data + bytes(32), Refusal.CONTRADICTION),
    "checkpoints reversed": ("checkpoints.jsonl", lines(list.reverse), Refusal.BAD_LINE),
    "a checkpoint twice": ("checkpoints.jsonl", lambda data: data + data.splitlines(True)[-1], Refusal.BAD_LINE),
    "a root in capitals": (
        "checkpoints.jsonl",
        lambda data: data.replace(b'"root":"', b'"root":"AB'),
        Refusal.BAD_LINE,
    ),
    "an empty line": ("checkpoints.jsonl", lambda data: b"\n" + data, Refusal.BAD_LINE),
    "a line of another shape": ("contents.jsonl", lambda data: b"{}\n" + data, Refusal.BAD_LINE),
    "a line that is no object": ("contents.jsonl", lambda data: b"[]\n" + data, Refusal.BAD_LINE),
    "a duplicate key": (
        "contents.jsonl",
        lambda data: data.replace(b'{"data"', b'{"data":"","data"', 1),
        Refusal.BAD_LINE,
    ),
    "an unknown encoding": ("contents.jsonl", lambda data: data.replace(b'"text"', b'"zlib"', 1), Refusal.BAD_LINE),
    "broken base64": ("contents.jsonl", lambda data: data.replace(b'"text"', b'"base64"', 1), Refusal.BAD_LINE),
    "contents reversed": ("contents.jsonl", lines(list.reverse), Refusal.BAD_LINE),
    "a line without end": ("contents.jsonl", lambda _: b"x" * (20 << 20), Refusal.TOO_LARGE),
    "nesting": ("contents.jsonl", lambda _: b'{"a":' * 50_000 + b"\n", Refusal.BAD_LINE),
    "a witness of another shape": ("witness.jsonl", lambda _: b'{"size":1}\n', Refusal.BAD_LINE),
}


@pytest.mark.parametrize("attack", LINES)
def test_lines_that_are_not_of_the_format(attack: str, members: Contents, tmp_path: Path) -> None:
    """With sizes, digests and manifest made to fit, a member whose lines are not of the format is refused."""
    name, change, why = LINES[attack]
    data = change(members[name])
    assert data != members[name]
    write_consistent(tmp_path / "b.zip", {**members, name: data}, lambda m: m["withheld"].update(events=0))  # type: ignore[attr-defined]
    assert refusal(tmp_path / "b.zip") is why


def test_text_in_base64(members: Contents, tmp_path: Path) -> None:
    """Content has one spelling: a text that stands in base64 is refused."""
    first, _, rest = members["contents.jsonl"].partition(b"\n")
    value = {**canonical.loads(first), "data": "aGVsbG8=", "encoding": "base64"}
    data = canonical.dumps(value) + b"\n" + rest
    write_consistent(tmp_path / "b.zip", {**members, "contents.jsonl": data})
    assert refusal(tmp_path / "b.zip") is Refusal.BAD_LINE


def test_every_refusal_has_a_test_and_a_line_in_the_docs() -> None:
    """Each name of a refusal is expected by an attack in here and explained in docs/bundle-format.md."""
    page = (Path(__file__).parents[2] / "docs" / "bundle-format.md").read_text(encoding="utf-8")
    text = Path(__file__).read_text(encoding="utf-8")
    for item in Refusal:
        assert f"Refusal.{item.name}" in text, item
        assert f"`{item}`" in page, item


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    """What is no file at all is an error of storage that says so, not a traceback."""
    with pytest.raises(Exception, match="Cannot read"):
        BundleSource.open(tmp_path)
    with pytest.raises(Exception, match="Cannot read"):
        BundleSource.open(tmp_path / "missing.zip")


def test_reading_unpacks_nothing(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is opened for writing while a bundle is read."""
    opened: list[str] = []
    plain_open = io.open

    def watching(file: object, mode: str = "r", *arguments: object, **named: object) -> object:
        opened.append(mode)
        return plain_open(file, mode, *arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(io, "open", watching)
    read_all(good)
    assert opened and set(opened) == {"rb"}
