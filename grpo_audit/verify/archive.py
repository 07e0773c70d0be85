"""The zip file under a bundle, in the one spelling this project writes: PKWARE's APPNOTE 6.3.10, members stored.

``zipfile`` reads what it can make sense of; here everything it would overlook is refused by name. Each header that is
read is built again from what it says and compared byte for byte, so a bundle has no byte that nobody looked at: members
follow each other without gaps from byte 0, then the central directory, then its end, then nothing. Nothing is
decompressed, so nothing can swell, and nothing is written to disk.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from grpo_audit.errors import ExitCode
from grpo_audit.ledger.storage_errors import DamagedRecordError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_MEMBERS = 10_000
MAX_NAME = 1024
"""Bytes of UTF-8."""
ZIP64_FROM = 0xFFFFFFFF
"""From this size or offset on, the field is all ones and the number stands in a ZIP64 extra field (4.5.3)."""
_ONES = 0xFFFFFFFF
_CHUNK = 1 << 20
_LOCAL, _CENTRAL, _END, _END64, _LOCATOR = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_UNIX, _REGULAR_FILE = 3, 0o100644 << 16
_DATE, _TIME = 0x0021, 0  # 1980-01-01 00:00:00, the earliest there is
_ENCRYPTED, _UTF8, _PATCHED = 0x2041, 0x0800, 0x0008
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


class Refusal(StrEnum):
    """Why a bundle is not read. The values are stable."""

    NOT_A_ZIP = "not-a-zip"
    TRUNCATED = "truncated"
    PREPENDED_DATA = "prepended-data"
    TRAILING_DATA = "trailing-data"
    COMMENT = "comment"
    ZIP64 = "zip64"
    TOO_MANY_MEMBERS = "too-many-members"
    PATH_TRAVERSAL = "path-traversal"
    ABSOLUTE_PATH = "absolute-path"
    BACKSLASH = "backslash"
    DRIVE_LETTER = "drive-letter"
    BAD_NAME = "bad-name"
    NOT_A_FILE = "not-a-file"
    ENCRYPTED = "encrypted"
    COMPRESSED = "compressed"
    DUPLICATE_NAME = "duplicate-name"
    NAME_COLLISION = "name-collision"
    MEMBER_ORDER = "member-order"
    OVERLAP = "overlap"
    LOCAL_HEADER = "local-header"
    CENTRAL_HEADER = "central-header"
    CHECKSUM = "checksum"
    MANIFEST = "manifest"
    FORMAT_VERSION = "format-version"
    UNLISTED_MEMBER = "unlisted-member"
    MISSING_MEMBER = "missing-member"
    SIZE_MISMATCH = "size-mismatch"
    DIGEST_MISMATCH = "digest-mismatch"
    BAD_LINE = "bad-line"
    TOO_LARGE = "too-large"
    STRAY_EVENT = "stray-event"
    SWAPPED_KEY = "swapped-key"
    CONTRADICTION = "contradiction"


class BundleError(DamagedRecordError):
    """A bundle that is refused, by name."""

    exit_code = ExitCode.VERIFICATION_FAILED

    def __init__(self, refusal: Refusal, found: str, *, where: str = "") -> None:
        self.refusal = refusal
        super().__init__(
            f"The bundle is refused ({refusal})",
            found=f"{where}: {found}" if where else found,
            next_step="Ask for another copy, as grpo-audit bundle wrote it",
        )


@dataclass(frozen=True)
class Member:
    """A file in the archive. Its two headers follow from these five values; nothing else can be said of a member."""

    name: str
    size: int
    """Bytes; stored, so also the packed size."""
    crc: int
    offset: int
    """Of its local header."""

    @property
    def data_offset(self) -> int:
        """Of its first byte."""
        return self.offset + len(self.local_header())

    @property
    def end(self) -> int:
        """Where the next thing begins."""
        return self.data_offset + self.size

    def local_header(self) -> bytes:
        """4.3.7; with the ZIP64 field of 4.5.3 when the size needs it."""
        large = self.size >= ZIP64_FROM
        extra = struct.pack("<HHQQ", 1, 16, self.size, self.size) if large else b""
        size = _ONES if large else self.size
        name = self.name.encode()
        fixed = (45 if large else 20, self._flags(), 0, _TIME, _DATE, self.crc, size, size, len(name), len(extra))
        return _LOCAL + struct.pack("<5H3L2H", *fixed) + name + extra

    def central_header(self) -> bytes:
        """4.3.12."""
        large, far = self.size >= ZIP64_FROM, self.offset >= ZIP64_FROM
        numbers = [self.size, self.size] * large + [self.offset] * far
        extra = struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
        size, offset = _ONES if large else self.size, _ONES if far else self.offset
        version = 45 if large or far else 20
        name = self.name.encode()
        fixed = (_UNIX << 8 | version, version, self._flags(), 0, _TIME, _DATE, self.crc, size, size)
        rest = (len(name), len(extra), 0, 0, 0, _REGULAR_FILE, offset)
        return _CENTRAL + struct.pack("<6H3L", *fixed) + struct.pack("<5H2L", *rest) + name + extra

    def _flags(self) -> int:
        return 0 if self.name.isascii() else _UTF8


def end_of_archive(count: int, offset: int, size: int) -> bytes:
    """What follows a central directory of ``count`` headers, ``size`` bytes at ``offset``: 4.3.14 to 4.3.16."""
    end64 = b""
    if offset >= ZIP64_FROM:
        version = (_UNIX << 8 | 45, 45)
        end64 = _END64 + struct.pack("<Q2H2L4Q", 44, *version, 0, 0, count, count, size, offset)
        end64 += _LOCATOR + struct.pack("<LQL", 0, offset + size, 1)
        offset = _ONES
    return end64 + _END + struct.pack("<4H2LH", 0, 0, count, count, size, offset, 0)


def check_name(name: str) -> None:
    """Refuse a name that could lead somewhere, on any system, when somebody unpacks the archive. Raises BundleError."""
    shown = f"the name {name[:80]!r}"
    if not name or len(name.encode(errors="replace")) > MAX_NAME:
        raise BundleError(Refusal.BAD_NAME, shown)
    if "\\" in name:
        raise BundleError(Refusal.BACKSLASH, shown)
    if name.startswith("/"):
        raise BundleError(Refusal.ABSOLUTE_PATH, shown)
    if re.match(r"[A-Za-z]:", name):
        raise BundleError(Refusal.DRIVE_LETTER, shown)
    if name.endswith("/"):
        raise BundleError(Refusal.NOT_A_FILE, f"a folder, {shown}")
    parts = name.split("/")
    if any(part in (".", "..") for part in parts):
        raise BundleError(Refusal.PATH_TRAVERSAL, shown)
    for part in parts:
        # what Windows cannot hold or takes for a device, and what a terminal or a reader would not see
        hidden = any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in part)
        if not part or part[-1] in " ." or hidden or _DEVICE.fullmatch(part) or set(part) & set(':*?"<>|'):
            raise BundleError(Refusal.BAD_NAME, shown)


def check_names(names: Iterable[str]) -> None:
    """Refuse names that are one file on some system: twice the same, or alike but for case, spelling of accents, or a
    file that is also a folder. Raises BundleError."""
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        check_name(name)
        alike = _alike(name)
        if alike in seen:
            refusal = Refusal.DUPLICATE_NAME if seen[alike] == name else Refusal.NAME_COLLISION
            raise BundleError(refusal, f"{seen[alike][:80]!r} and {name[:80]!r}")
        seen[alike] = name
        parts = alike.split("/")
        folders.update({"/".join(parts[:depth]): name for depth in range(1, len(parts))})
    for folder in folders.keys() & seen.keys():
        raise BundleError(Refusal.NAME_COLLISION, f"{seen[folder][:80]!r} and {folders[folder][:80]!r}")


def _alike(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


class _Central(NamedTuple):
    """A central directory header as it stands."""

    made_by: int
    needed: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    packed: int
    size: int
    name_length: int
    extra_length: int
    comment_length: int
    disk: int
    internal: int
    external: int
    offset: int


class Archive:
    """An open archive whose structure holds and whose members have their checksums. Raises BundleError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.members = {member.name: member for member in self._read_structure()}
        """By name, in the order in which they lie in the file."""

    def close(self) -> None:
        """Close the file; no member can be read any more."""
        self._file.close()

    def open(self, name: str) -> io.BufferedReader:
        """A member's bytes, streamed. Raises KeyError when there is none of that name."""
        member = self.members[name]
        return io.BufferedReader(_Part(self._file, member.data_offset, member.size), _CHUNK)

    def digests(self) -> dict[str, str]:
        """Hexadecimal SHA-256 of every member; the checksums are compared on the way. Raises BundleError."""
        found = {}
        for name, member in self.members.items():
            sha256, crc = hashlib.sha256(), 0
            with self.open(name) as stream:
                while piece := stream.read(_CHUNK):
                    sha256.update(piece)
                    crc = zlib.crc32(piece, crc)
            if crc != member.crc:
                raise BundleError(Refusal.CHECKSUM, f"CRC-32 {crc:08x}, declared {member.crc:08x}", where=name)
            found[name] = sha256.hexdigest()
        return found

    def _at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def _read_structure(self) -> list[Member]:
        total = self._file.seek(0, io.SEEK_END)
        end = self._find_end(total)
        count, size, offset, start = self._read_end(end)
        members = self._read_directory(count, size, offset)
        check_names(member.name for member in members)
        at = 0
        for member in members:
            if member.offset != at:
                raise BundleError(Refusal.OVERLAP, f"begins at {member.offset}, expected {at}", where=member.name)
            header = member.local_header()
            if self._at(at, len(header)) != header:
                found = "a local header that differs from the central directory"
                raise BundleError(Refusal.LOCAL_HEADER, found, where=member.name)
            at = member.end
            if at > offset:
                raise BundleError(Refusal.OVERLAP, f"ends at {at}, behind the directory's {offset}", where=member.name)
        if at != offset:
            raise BundleError(Refusal.OVERLAP, f"{offset - at} bytes between the last member and the directory")
        if self._at(start, total - start) != end_of_archive(count, offset, size):
            raise BundleError(Refusal.ZIP64, "an end of the archive that is not as this format writes it")
        return members

    def _find_end(self, total: int) -> int:
        """Offset of the end record, which must be the last 22 bytes."""
        tail = self._at(max(0, total - 22 - 0xFFFF), 22 + 0xFFFF)
        is_zip = self._at(0, 4) in (_LOCAL, _END)
        at = tail.rfind(_END)
        while at >= 0 and len(tail) - at < 22:
            at = tail.rfind(_END, 0, at)
        if at < 0:
            found = "no end of the archive" if is_zip else "no zip file"
            raise BundleError(Refusal.TRUNCATED if is_zip else Refusal.NOT_A_ZIP, found)
        behind = len(tail) - at - 22
        comment = int.from_bytes(tail[at + 20 : at + 22], "little")
        if comment or behind:
            why = Refusal.COMMENT if comment == behind else Refusal.TRUNCATED if comment > behind else None
            raise BundleError(why or Refusal.TRAILING_DATA, f"{behind} bytes behind the end of the archive")
        if not is_zip:
            raise BundleError(Refusal.PREPENDED_DATA, "something before the first member")
        return total - 22

    def _read_end(self, end: int) -> tuple[int, int, int, int]:
        """Entries, size and offset of the central directory; where what follows it begins."""
        disk, directory_disk, here, count, size, offset, _ = struct.unpack("<4H2LH", self._at(end + 4, 18))
        start = end
        if (disk, directory_disk) != (0, 0) or here != count:
            raise BundleError(Refusal.ZIP64, "an archive of several parts")
        if offset == _ONES or self._at(max(0, end - 20), 4) == _LOCATOR:
            record = self._at(max(0, end - 76), 56)
            if len(record) != 56 or record[:4] != _END64 or offset != _ONES:
                raise BundleError(Refusal.ZIP64, "a ZIP64 end of the archive that is not needed or not whole")
            offset, start = struct.unpack("<Q", record[48:])[0], end - 76
            if offset < ZIP64_FROM:
                raise BundleError(Refusal.ZIP64, "a ZIP64 end of the archive that is not needed")
        if count > MAX_MEMBERS:
            raise BundleError(Refusal.TOO_MANY_MEMBERS, f"{count} members; at most {MAX_MEMBERS} are read")
        if offset + size < start:
            raise BundleError(Refusal.PREPENDED_DATA, f"{start - offset - size} bytes that no offset accounts for")
        if offset + size > start:
            raise BundleError(Refusal.TRUNCATED, f"{offset + size - start} bytes fewer than the directory says")
        return count, size, offset, start

    def _read_directory(self, count: int, size: int, offset: int) -> list[Member]:
        if size > count * (46 + MAX_NAME + 28):
            raise BundleError(Refusal.CENTRAL_HEADER, f"a central directory of {size} bytes for {count} members")
        directory, at, members = self._at(offset, size), 0, []
        for _ in range(count):
            fixed = directory[at : at + 46]
            if len(fixed) != 46 or fixed[:4] != _CENTRAL:
                raise BundleError(Refusal.CENTRAL_HEADER, f"no header at {offset + at}")
            header = _Central(*struct.unpack("<6H3L5H2L", fixed[4:]))
            length = 46 + header.name_length + header.extra_length + header.comment_length
            members.append(_member(header, directory[at : at + length]))
            at += length
        if at != size:
            raise BundleError(Refusal.CENTRAL_HEADER, f"{size - at} bytes behind the last header")
        return members


def _member(header: _Central, raw: bytes) -> Member:
    """The member that a central header speaks of; the header must be the very one that we would write."""
    try:
        name = raw[46 : 46 + header.name_length].decode()
    except UnicodeDecodeError as error:
        raise BundleError(Refusal.BAD_NAME, "a name that is not UTF-8") from error
    check_name(name)
    kind = header.external >> 16 & 0o170000
    if kind not in (0, 0o100000) or header.external & 0x10:
        raise BundleError(Refusal.NOT_A_FILE, f"file mode {header.external >> 16:o}", where=name)
    if header.flags & _ENCRYPTED:
        raise BundleError(Refusal.ENCRYPTED, f"flags {header.flags:#06x}", where=name)
    if header.method != 0:
        raise BundleError(Refusal.COMPRESSED, f"compression method {header.method}; members are stored", where=name)
    if header.comment_length:
        raise BundleError(Refusal.COMMENT, "a comment", where=name)
    size, packed, offset = _sizes(header, raw[46 + header.name_length :], name)
    if size != packed:
        raise BundleError(Refusal.COMPRESSED, f"{packed} bytes that unpack to {size}", where=name)
    member = Member(name, size, header.crc, offset)
    if member.central_header() != raw:
        raise BundleError(Refusal.CENTRAL_HEADER, "a header that is not as this format writes it", where=name)
    return member


def _sizes(header: _Central, extra: bytes, name: str) -> tuple[int, int, int]:
    """Size, packed size and offset, from the header or its ZIP64 field."""
    values = [header.size, header.packed, header.offset]
    wanted = [index for index, value in enumerate(values) if value == _ONES]
    expected = struct.pack("<HH", 1, 8 * len(wanted)) if wanted else b""
    if len(extra) != len(expected) + 8 * len(wanted) or not extra.startswith(expected):
        refusal = Refusal.ZIP64 if wanted or extra[:2] == b"\x01\x00" else Refusal.CENTRAL_HEADER
        raise BundleError(refusal, f"an extra field of {len(extra)} bytes", where=name)
    for index, (value,) in zip(wanted, struct.iter_unpack("<Q", extra[4:]), strict=True):
        if value < ZIP64_FROM:
            raise BundleError(Refusal.ZIP64, f"{value} in a ZIP64 field, which it does not need", where=name)
        values[index] = value
    return values[0], values[1], values[2]


class _Part(io.RawIOBase):
    """A range of a file as a stream."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        self._file.seek(self._start + self._at)
        piece = self._file.read(max(0, min(len(view), self._size - self._at)))
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def open_archive(path: Path) -> Archive:
    """Open the archive at ``path``, to be closed by the caller. Raises OSError and BundleError."""
    file = path.open("rb")
    try:
        return Archive(file)
    except BaseException:
        file.close()
        raise
