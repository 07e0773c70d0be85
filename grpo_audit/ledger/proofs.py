"""Proofs from a stored record: that an event is in a tree head, that one tree head extends another.

Every subtree that RFC 6962 needs (section 2.1.1 and 2.1.2) is the difference of two frontiers: the stored frontier of
the newest checkpoint inside it already holds the roots of its complete parts, so only the leaves after that checkpoint
are read. A proof costs O(log n) frontiers and transactions' worth of leaves, in constant memory, however long the log
is.

The stored frontiers are not believed: whoever asks for a proof gets one that holds, or an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from sqlalchemy import select

from grpo_audit.ledger.merkle import Frontier, verify_consistency, verify_inclusion
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.storage_errors import DamagedRecordError
from grpo_audit.ledger.tables import CheckpointRow

Range = tuple[int, int]
"""Leaves with start <= index < stop."""


class Leaves(Protocol):
    """What proofs are made from."""

    def leaf_hashes(self, start: int, stop: int) -> Iterator[bytes]:
        """Hashes of the leaves with start <= index < stop."""

    def frontier(self, at_most: int) -> Frontier:
        """The largest known frontier of at most this many leaves; the empty one when there is none."""


class RecordLeaves:
    """The leaves and frontiers of a record."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def leaf_hashes(self, start: int, stop: int) -> Iterator[bytes]:
        """Hashes of the leaves with start <= index < stop, streamed. Raises DamagedRecordError."""
        return self._project.leaf_hashes(start, stop)

    def frontier(self, at_most: int) -> Frontier:
        """The frontier of the newest checkpoint over at most this many events. Raises DamagedRecordError."""
        with self._project.session() as session:
            row = session.execute(
                select(CheckpointRow.size, CheckpointRow.frontier)
                .where(CheckpointRow.size <= at_most)
                .order_by(CheckpointRow.size.desc())
                .limit(1)
            ).first()
        if row is None:
            return Frontier()
        try:
            return Frontier.from_bytes(row.size, row.frontier)
        except ValueError as error:
            raise DamagedRecordError(f"Checkpoint {row.size} has no readable frontier", found=str(error)) from error


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """The subtrees whose roots are PATH(index, D[size]) of RFC 6962, lowest sibling first. Raises IndexError."""
    if not 0 <= index < size:
        raise IndexError(f"leaf {index} of a tree of {size}")
    start, stop, path = 0, size, []
    while stop - start > 1:
        split = start + _split(stop - start)
        if index < split:
            path.append((split, stop))
            stop = split
        else:
            path.append((start, split))
            start = split
    return path[::-1]


def consistency_ranges(old_size: int, size: int) -> list[Range]:
    """The subtrees whose roots are PROOF(old_size, D[size]) of RFC 6962. Raises ValueError unless 0 < old <= size."""
    if not 0 < old_size <= size:
        raise ValueError(f"no consistency proof from size {old_size} to size {size}")
    start, stop, proof = 0, size, []
    while old_size < stop:
        split = start + _split(stop - start)
        if old_size <= split:
            proof.append((split, stop))
            stop = split
        else:
            proof.append((start, split))
            start = split
    if start:
        proof.append((start, stop))
    return proof[::-1]


def subtree_root(leaves: Leaves, start: int, stop: int) -> bytes:
    """Merkle tree hash of a subtree as it occurs in proofs: ``start`` is a multiple of the power of two that holds
    it."""
    part = Frontier()
    if stop - start > 1:
        stored = leaves.frontier(stop)
        if stored.size == stop and (stop - start).bit_count() == 1:
            if stored.size & -stored.size == stop - start:
                return stored.hashes[-1]
            stored = leaves.frontier(stop - 1)  # at its own end the subtree is merged with what stands left of it
        if stored.size > start:
            inside = stored.size - start
            part = Frontier(inside, stored.hashes[len(stored.hashes) - inside.bit_count() :])
    for leaf in leaves.leaf_hashes(start + part.size, stop):
        part.append(leaf)
    return part.root()


def prove_inclusion(leaves: Leaves, index: int, size: int, root: bytes) -> list[bytes]:
    """Inclusion proof of an event in the head (size, root).

    Raises IndexError; DamagedRecordError when the stored leaves and frontiers do not give the root.
    """
    path = [subtree_root(leaves, *part) for part in inclusion_ranges(index, size)]
    leaf = next(leaves.leaf_hashes(index, index + 1))
    if not verify_inclusion(leaf, index, size, path, root):
        raise _damaged(f"event {index} is not proved to be in the head over {size} events")
    return path


def prove_consistency(leaves: Leaves, old_size: int, size: int, root: bytes) -> list[bytes]:
    """Consistency proof from the tree of ``old_size`` leaves to the head (size, root); empty from 0.

    Raises ValueError for an old size beyond the head; DamagedRecordError when the stored leaves and frontiers do not
    give the root.
    """
    if old_size == 0:
        return []
    proof = [subtree_root(leaves, *part) for part in consistency_ranges(old_size, size)]
    if not verify_consistency(old_size, size, proof, root_at(leaves, old_size), root):
        raise _damaged(f"the head over {size} events is not proved to extend the first {old_size}")
    return proof


def root_at(leaves: Leaves, size: int) -> bytes:
    """Root of the first ``size`` leaves, whether or not a checkpoint stands there."""
    frontier = leaves.frontier(size).copy()
    for leaf in leaves.leaf_hashes(frontier.size, size):
        frontier.append(leaf)
    return frontier.root()


def _split(size: int) -> int:
    """Largest power of two below size."""
    return 1 << ((size - 1).bit_length() - 1)


def _damaged(found: str) -> DamagedRecordError:
    return DamagedRecordError("The record contradicts itself", found=found, next_step="Run grpo-audit verify")
