"""Flipped bits of a small record and bundle: all that change what they say are detected. ``make mutate`` does it for
every byte.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from attacks.mutation import Counts, Small, _is_reported, dump, make_small, mutate

SAMPLE = 250


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A record of a few dozen events and its bundle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", "overwritten")
        return make_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(autouse=True)
def _home(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(small.folder / "home"))


def say(name: str, counts: Counts) -> str:
    """The counts, for the log of the test run."""
    line = (
        f"{name}: {counts.flipped} flipped, {counts.semantic} semantic, {counts.detected} detected, {counts.rate:.0%}; "
        f"{counts.harmless} harmless of which {counts.reported} reported, {len(counts.broken)} broken"
    )
    print(line)
    return line


@pytest.mark.slow
def test_flipped_bits_of_a_record(small: Small) -> None:
    """Of single flipped bits all over the file, every one that changes a row or the schema is detected; none crashes or
    hangs verification."""
    size = small.record.stat().st_size
    used = [at for at, byte in enumerate(small.record.read_bytes()) if byte]  # zeros are mostly free space
    rng = random.Random(0)
    positions = {*range(100), *rng.sample(used, SAMPLE), *rng.sample(range(size), SAMPLE // 5)}
    counts = mutate(small.record, small.key, sorted(positions), is_bundle=False)
    assert not counts.broken, counts.broken
    assert counts.detected == counts.semantic > SAMPLE // 4, (say("record", counts), counts.missed)
    assert counts.harmless > 0
    say("record", counts)


@pytest.mark.slow
def test_flipped_bits_of_a_bundle(small: Small) -> None:
    """Every flipped bit of a bundle is detected, wherever it is."""
    size = small.bundle.stat().st_size
    rng = random.Random(0)
    positions = {*range(40), *range(size - 200, size), *rng.sample(range(size), 2 * SAMPLE)}
    counts = mutate(small.bundle, small.key, sorted(positions), is_bundle=True)
    assert not counts.broken, counts.broken
    assert counts.detected == counts.semantic == counts.flipped > SAMPLE, (say("bundle", counts), counts.missed)
    say("bundle", counts)


def test_the_campaign_can_fail(small: Small, tmp_path: Path) -> None:
    """What decides is not blind: an edited row is semantic, unused space is not, and the originals pass."""
    assert not _is_reported(small.record, small.key) and not _is_reported(small.bundle, small.key)
    data = bytearray(small.record.read_bytes())
    at = data.index(b"A. Person")
    data[at] ^= 1
    (tmp_path / "a.db").write_bytes(data)
    assert dump(tmp_path / "a.db") != dump(small.record)
    unused = bytearray(small.record.read_bytes())
    unused[72:92] = b"reserved for growth."  # https://www.sqlite.org/fileformat.html#the_database_header
    (tmp_path / "b.db").write_bytes(unused)
    assert dump(tmp_path / "b.db") == dump(small.record)


@pytest.mark.parametrize("kind", ["record", "bundle"])
def test_cut_and_shifted_files(small: Small, tmp_path: Path, kind: str) -> None:
    """Cut anywhere, a byte put in or taken out anywhere, halves exchanged: reported, never a traceback."""
    original = small.record if kind == "record" else small.bundle
    data = original.read_bytes()
    rng = random.Random(0)
    path = tmp_path / original.name
    middle = len(data) // 2 // 4096 * 4096
    variants = [b"", data[:1], data[:100], data[middle:] + data[:middle]]
    for at in rng.sample(range(len(data)), 15):
        variants += [data[:at], data[:at] + b"\x00" + data[at:], data[:at] + data[at + 1 :]]
    for variant in variants:
        path.write_bytes(variant)
        assert _is_reported(path, small.key)
        for extra in tmp_path.iterdir():
            if extra != path:
                extra.unlink()
