"""Proofs made from stored frontiers are those of RFC 6962, and of an implementation that is not ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pymerkle
import pytest
from hypothesis import given, strategies as st
from sqlalchemy import create_engine, text

from grpo_audit.ledger.merkle import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.proofs import (
    RecordLeaves,
    consistency_ranges,
    inclusion_ranges,
    prove_consistency,
    prove_inclusion,
    root_at,
    subtree_root,
)
from grpo_audit.ledger.storage_errors import DamagedRecordError

# Published test vectors of the Certificate Transparency reference implementation (testonly/constants.go).
CT_LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_INCLUSION = {
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CT_CONSISTENCY = {
    (1, 1): [],
    (1, 8): CT_INCLUSION[0, 8],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


@dataclass
class Kept:
    """Leaves in memory, with the frontiers of some sizes, that counts what is read."""

    leaves: list[bytes]
    sizes: list[int]
    read: int = 0
    frontiers: dict[int, Frontier] = field(default_factory=dict)

    def __post_init__(self) -> None:
        growing = Frontier()
        for number, leaf in enumerate(self.leaves, start=1):
            growing.append(leaf)
            if number in self.sizes:
                self.frontiers[number] = growing.copy()

    def leaf_hashes(self, start: int, stop: int) -> Iterator[bytes]:
        for leaf in self.leaves[start:stop]:
            self.read += 1
            yield leaf

    def frontier(self, at_most: int) -> Frontier:
        fitting = [size for size in self.frontiers if size <= at_most]
        return self.frontiers[max(fitting)] if fitting else Frontier()


def _ct(size: int, sizes: list[int]) -> Kept:
    return Kept([leaf_hash(data) for data in CT_LEAVES[:size]], sizes)


@pytest.mark.parametrize("sizes", [[], [8], [1, 3, 4, 6, 8], list(range(1, 9))])
def test_the_published_proofs_come_out_whatever_frontiers_are_kept(sizes: list[int]) -> None:
    """Certificate Transparency's inclusion and consistency proofs, from none, some and all frontiers."""
    for (index, size), expected in CT_INCLUSION.items():
        kept = _ct(size, [item for item in sizes if item <= size])
        assert [item.hex() for item in prove_inclusion(kept, index, size, tree_root(kept.leaves))] == expected
    for (old, size), expected in CT_CONSISTENCY.items():
        kept = _ct(size, [item for item in sizes if item <= size])
        assert [item.hex() for item in prove_consistency(kept, old, size, tree_root(kept.leaves))] == expected


@given(st.integers(1, 130), st.data())
def test_stored_frontiers_give_the_plain_proofs(size: int, data: st.DataObject) -> None:
    """From any set of kept frontiers the proofs are byte for byte those made from all leaves, and they verify."""
    sizes = data.draw(st.lists(st.integers(1, size), unique=True))
    kept = Kept([leaf_hash(number.to_bytes(2, "big")) for number in range(size)], sizes)
    root = tree_root(kept.leaves)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    path = prove_inclusion(kept, index, size, root)
    proof = prove_consistency(kept, old, size, root)
    assert path == inclusion_proof(kept.leaves, index)
    assert proof == consistency_proof(kept.leaves, old)
    assert verify_inclusion(kept.leaves[index], index, size, path, root)
    assert verify_consistency(old, size, proof, tree_root(kept.leaves[:old]), root)
    assert root_at(kept, old) == tree_root(kept.leaves[:old])


@given(st.integers(1, 40), st.data())
def test_an_independent_implementation_makes_the_same_proofs(size: int, data: st.DataObject) -> None:
    """pymerkle (leaves from 1, its own leaf in the path, rules for the order) holds the same siblings and accepts
    them."""
    entries = [number.to_bytes(2, "big") for number in range(size)]
    other = pymerkle.InmemoryTree.init_from_entries(entries, algorithm="sha256")
    kept = Kept([leaf_hash(entry) for entry in entries], [size // 2] if size > 1 else [])
    assert other.get_root() == tree_root(kept.leaves)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    theirs = other.prove_inclusion(index + 1)
    ours = prove_inclusion(kept, index, size, other.get_root())
    assert sorted([kept.leaves[index], *ours]) == sorted(theirs.path)
    pymerkle.verify_inclusion(kept.leaves[index], other.get_root(), theirs)
    consistency = other.prove_consistency(old, size)
    proof = prove_consistency(kept, old, size, other.get_root())
    pymerkle.verify_consistency(other.get_root(old), other.get_root(), consistency)
    assert verify_consistency(old, size, proof, other.get_root(old), other.get_root())


@given(st.integers(2, 1 << 20), st.data())
def test_only_the_leaves_behind_a_checkpoint_are_read(size: int, data: st.DataObject) -> None:
    """With a frontier at least every 64 leaves, each subtree of a proof costs fewer than 64 leaves."""
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))

    class Counting:
        """A tree whose leaves are all alike, so that any frontier is computed from its size alone."""

        read = 0

        def leaf_hashes(self, start: int, stop: int) -> Iterator[bytes]:
            for _ in range(start, stop):
                self.read += 1
                yield leaf_hash(b"")

        def frontier(self, at_most: int) -> Frontier:
            at = at_most - at_most % 64
            return Frontier(at, [_perfect(bit) for bit in range(at.bit_length() - 1, -1, -1) if at >> bit & 1])

    ranges = [*inclusion_ranges(index, size), *consistency_ranges(old, size)]
    for start, stop in ranges:
        leaves = Counting()
        subtree_root(leaves, start, stop)
        assert leaves.read <= 64
    assert len(ranges) <= 2 * size.bit_length() + 1


def _perfect(height: int, _cache: dict[int, bytes] = {}) -> bytes:  # noqa: B006  a cache
    from grpo_audit.ledger.merkle import node_hash

    if height not in _cache:
        _cache[height] = leaf_hash(b"") if height == 0 else node_hash(_perfect(height - 1), _perfect(height - 1))
    return _cache[height]


def test_a_record_proves_each_of_its_events_and_heads(tmp_path: Path, build_record: Callable[..., str]) -> None:
    """Every event is proved to be in the newest signed head, and every signed head to be a beginning of it."""
    build_record(tmp_path / "record.db", steps=2)
    with Project.open(tmp_path / "record.db", mode="read") as project:
        leaves = RecordLeaves(project)
        size, root, _ = project.checkpoint()
        hashes = list(project.leaf_hashes(0, size))
        for index in range(size):
            assert prove_inclusion(leaves, index, size, root) == inclusion_proof(hashes, index)
        for old in range(1, size + 1):
            assert prove_consistency(leaves, old, size, root) == consistency_proof(hashes, old)


def test_a_broken_frontier_gives_no_proof(tmp_path: Path, build_record: Callable[..., str]) -> None:
    """A stored frontier that was changed ends in an error, never in a proof that does not hold."""
    build_record(tmp_path / "record.db", steps=2)
    with Project.open(tmp_path / "record.db", mode="read") as project:
        size, root, _ = project.checkpoint()
    engine = create_engine(f"sqlite:///{tmp_path / 'record.db'}")
    with engine.begin() as connection:
        sizes = connection.execute(text("select size from checkpoint where size > 1 order by size")).scalars().all()
        connection.execute(
            text("update checkpoint set frontier = zeroblob(length(frontier)) where size = :size"), {"size": sizes[0]}
        )
    engine.dispose()
    with Project.open(tmp_path / "record.db", mode="read") as project, pytest.raises(DamagedRecordError):
        for index in range(size):
            prove_inclusion(RecordLeaves(project), index, size, root)


def test_proofs_outside_of_the_tree_are_refused() -> None:
    """A leaf beyond the head and a head older than nothing have no proof."""
    with pytest.raises(IndexError):
        inclusion_ranges(3, 3)
    with pytest.raises(ValueError, match="from size 4"):
        consistency_ranges(4, 3)
    with pytest.raises(ValueError, match="from size 0"):
        consistency_ranges(0, 3)
