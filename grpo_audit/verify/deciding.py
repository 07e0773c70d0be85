"""Step (1): which key the signatures are checked with, and the chain of keys it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field

from grpo_audit.errors import StorageError
from grpo_audit.ledger import keys
from grpo_audit.ledger.canonical import CanonicalError
from grpo_audit.ledger.event import BodyError, parse
from grpo_audit.ledger.folders import is_project_id
from grpo_audit.ledger.notes import NoteError, VerifierKey
from grpo_audit.ledger.tip import origin_of
from grpo_audit.record.events import ProjectCreated
from grpo_audit.verify.keychain import KeyChain, chain_of, rotations
from grpo_audit.verify.source import Source
from grpo_audit.verify.verdict import KeySource, Tally


@dataclass(frozen=True)
class Decided:
    """What step (1) found. Without a key nothing is signed by anybody, and step (6) says so."""

    project_id: str | None = None
    key: VerifierKey | None = None
    key_source: KeySource | None = None
    chain: KeyChain = field(default_factory=lambda: KeyChain(()))


def decide(source: Source, given: VerifierKey | None, tally: Tally) -> Decided:
    """The key given, else the one pinned on this machine when the project was made, else the one the record names."""
    tally.saw()
    try:
        created = created_by(source)
        stated = VerifierKey.parse(created.public_key)
        if stated.name != origin_of(created.project_id):
            tally.wrong(f"the key is named {stated.name}, not {origin_of(created.project_id)}")
    except (CanonicalError, BodyError, NoteError) as error:
        tally.wrong(f"the record does not name its key: {error}")
        return Decided(None, given, KeySource.GIVEN if given else None, KeyChain((given,) if given else ()))
    key, key_source = stated, KeySource.RECORD
    pinned = _pinned(created.project_id, tally)
    if given is not None:
        key, key_source = given, KeySource.GIVEN
    elif pinned is not None:
        key, key_source = pinned, KeySource.PINNED
    chain = _follow_rotations(source, stated, tally)
    if key not in chain.keys:
        tally.wrong(f"the record names the key {stated}, but the key {key_source} is {key}")
        chain = KeyChain((key,))
    tally.remark(f"key from: {key_source}")
    return Decided(created.project_id, key, key_source, chain)


def created_by(source: Source) -> ProjectCreated:
    """The first event. Raises CanonicalError or BodyError when it does not create a project."""
    first = next(iter(source.events(0, 1)), None)
    created = parse(first.body if first and isinstance(first.body, bytes) else b"").event.payload
    if not isinstance(created, ProjectCreated) or not is_project_id(created.project_id):
        raise BodyError("the first event does not create a project")
    return created


def _follow_rotations(source: Source, stated: VerifierKey, tally: Tally) -> KeyChain:
    """The chain of keys: a rotation is vouched for by the old key and by the new one."""
    rotated, problems = rotations(source)
    chain, gaps = chain_of(stated, rotated)
    for problem in problems + gaps:
        tally.wrong(problem)
    if rotated:
        tally.remark(f"rotated {len(rotated)} times; in force: {chain.keys[-1]}")
    return chain


def _pinned(project_id: str, tally: Tally) -> VerifierKey | None:
    try:
        return keys.pinned(project_id)
    except StorageError as error:
        tally.wrong(str(error))
        return None
