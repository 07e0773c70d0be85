"""Following a log from one key to the next.

Two signatures under one head prove nothing by themselves: anybody can add a second one. What hands the log over is the
event ``key.rotated`` in the tree that the old key signed.
"""

from __future__ import annotations

from grpo_audit.ledger.canonical import CanonicalError
from grpo_audit.ledger.event import BodyError, parse
from grpo_audit.ledger.merkle import leaf_hash, verify_inclusion
from grpo_audit.ledger.notes import Checkpoint, NoteError, VerifierKey
from grpo_audit.record.events import KeyRotated
from grpo_audit.witness.protocol import RotationProof, WitnessRefused


def followed_key(rotation: RotationProof | None, head: Checkpoint, old: VerifierKey) -> VerifierKey:
    """The key in force after this head, which ``old`` signed. Raises WitnessRefused when the proof does not hold."""
    if rotation is None:
        return old
    if not verify_inclusion(leaf_hash(rotation.body), rotation.index, head.size, rotation.path, head.root):
        raise WitnessRefused("The rotation of the log's key is not in the head that was shown")
    try:
        event = parse(rotation.body).event
        if not isinstance(event.payload, KeyRotated) or event.seq != rotation.index:
            raise NoteError(f"event {event.seq} is {event.payload.kind}")
        said, new = VerifierKey.parse(event.payload.old_key), VerifierKey.parse(event.payload.new_key)
    except (CanonicalError, BodyError, NoteError) as error:
        raise WitnessRefused("The proof of a rotation holds no rotation", found=str(error)) from error
    if new == old:
        return old  # this rotation was followed before
    if said != old or new.name != old.name:
        raise WitnessRefused(
            "The rotation is not one of the key this witness knows", found=f"{said} to {new}", expected=str(old)
        )
    return new
