"""The events that no witness has seen, and since when."""

from __future__ import annotations

from datetime import datetime

from grpo_audit.verify.fold import Fold
from grpo_audit.verify.reader import DatabaseReader
from grpo_audit.verify.verdict import Tail
from grpo_audit.verify.witnessed import Witnesses


def unwitnessed(fold: Fold | None, witnesses: Witnesses | None) -> Tail | None:
    """The events after the newest head that a trusted witness vouches for; None when the log was not read."""
    if fold is None or fold.head is None or not fold.times or witnesses is None:
        return None
    size = fold.head.size
    seen = min(witnesses.standing.size, size)
    newest = fold.times[max(fold.times)]
    oldest = fold.times.get(seen, fold.times[min(fold.times)])
    try:
        first, last = datetime.fromisoformat(oldest), datetime.fromisoformat(newest)
    except ValueError:
        return None
    return Tail(size - seen, (last - first).total_seconds() if size > seen else 0.0, newest)


def stored_times(reader: DatabaseReader, *places: int) -> dict[int, str]:
    """Times of events, as their bodies say; those before an incremental verification were not verified again."""
    listed = ", ".join(map(str, places))
    found = reader.fetch(f"SELECT seq, body FROM event WHERE seq IN ({listed})")
    return {seq: body[-35:-8].decode("ascii", "replace") for seq, body in found if isinstance(body, bytes)}
