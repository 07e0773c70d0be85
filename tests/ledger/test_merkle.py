"""The tree is that of RFC 6962 and RFC 9162."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, strategies as st

from grpo_audit.ledger.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)

# Published test vectors of the Certificate Transparency reference implementation (testonly/constants.go).
CT_LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CT_INCLUSION_0_8 = [
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
]
CT_INCLUSION_5_8 = [
    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
]
CT_CONSISTENCY = {
    (1, 8): CT_INCLUSION_0_8,
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


def _hashes(count: int) -> list[bytes]:
    return [leaf_hash(data) for data in CT_LEAVES[:count]]


def _naive_root(entries: list[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, word for word, over the data entries."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    split = 1
    while split * 2 < len(entries):
        split *= 2
    return hashlib.sha256(b"\x01" + _naive_root(entries[:split]) + _naive_root(entries[split:])).digest()


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size: int) -> None:
    """The roots of the first 0 to 8 reference leaves are those of Certificate Transparency."""
    assert tree_root(_hashes(size)).hex() == CT_ROOTS[size]


def test_proofs_are_the_published_ones() -> None:
    """Inclusion and consistency proofs are those of Certificate Transparency."""
    leaves = _hashes(8)
    assert [item.hex() for item in inclusion_proof(leaves, 0)] == CT_INCLUSION_0_8
    assert [item.hex() for item in inclusion_proof(leaves, 5)] == CT_INCLUSION_5_8
    for (old, new), proof in CT_CONSISTENCY.items():
        assert [item.hex() for item in consistency_proof(_hashes(new), old)] == proof


@given(st.lists(st.binary(max_size=4), max_size=70))
def test_the_frontier_gives_the_root_of_the_definition(entries: list[bytes]) -> None:
    """Appending leaf by leaf gives the recursive definition's root, from at most one hash per set bit of the size."""
    frontier = Frontier()
    for number, entry in enumerate(entries):
        frontier.append(leaf_hash(entry))
        assert len(frontier.hashes) == (number + 1).bit_count() <= 64
    assert frontier.root() == _naive_root(entries)
    assert Frontier.from_bytes(frontier.size, frontier.to_bytes()).root() == frontier.root()


@given(st.integers(1, 70), st.data())
def test_every_leaf_is_proved_to_be_where_it_is_and_nowhere_else(size: int, data: st.DataObject) -> None:
    """An inclusion proof holds for its leaf, index, size and root, and for no other."""
    leaves = [leaf_hash(bytes([number])) for number in range(size)]
    index = data.draw(st.integers(0, size - 1))
    root, proof = tree_root(leaves), inclusion_proof(leaves, index)
    assert verify_inclusion(leaves[index], index, size, proof, root)
    assert not verify_inclusion(leaf_hash(b"other"), index, size, proof, root)
    assert not verify_inclusion(leaves[index], index, size, [*proof, root], root)
    assert not verify_inclusion(leaves[index], index, size, proof, EMPTY_ROOT)
    if size > 1:
        other = data.draw(st.integers(0, size - 1).filter(lambda i: i != index))
        assert not verify_inclusion(leaves[index], other, size, proof, root)
        assert not verify_inclusion(leaves[index], index, size, proof[:-1], root)
    assert not verify_inclusion(leaves[index], size, size, proof, root)


@given(st.integers(1, 70), st.data())
def test_a_longer_log_is_proved_to_contain_the_shorter(size: int, data: st.DataObject) -> None:
    """A consistency proof holds between the two roots, and fails when history was changed."""
    leaves = [leaf_hash(bytes([number])) for number in range(size)]
    old = data.draw(st.integers(1, size))
    old_root, root, proof = tree_root(leaves[:old]), tree_root(leaves), consistency_proof(leaves, old)
    assert verify_consistency(old, size, proof, old_root, root)
    rewritten = tree_root([leaf_hash(b"other"), *leaves[1:old]])
    assert not verify_consistency(old, size, proof, rewritten, root)
    assert not verify_consistency(old, size, [*proof, root], old_root, root)
    assert not verify_consistency(0, size, proof, EMPTY_ROOT, root)
    if proof:
        assert not verify_consistency(old, size, proof[:-1], old_root, root)
        assert not verify_consistency(old, size, [root, *proof[1:]], old_root, root)


def test_impossible_trees_are_refused() -> None:
    """A frontier whose hashes do not fit its size, and proofs outside of the tree, raise."""
    with pytest.raises(ValueError, match="complete subtrees"):
        Frontier.from_bytes(3, bytes(32))
    with pytest.raises(ValueError, match="complete subtrees"):
        Frontier.from_bytes(1, bytes(31))
    with pytest.raises(IndexError):
        inclusion_proof(_hashes(3), 3)
    with pytest.raises(ValueError, match="from size 4"):
        consistency_proof(_hashes(3), 4)
