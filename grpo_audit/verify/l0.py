"""Level L0: is this the record that was written, whole and unchanged?

The procedure. The code below and docs/verification.md carry the same numbers.

(0)  Open the record read-only, a bundle after comparing it with its manifest, an older version as an upgraded copy. No
     stray rollback journal; the schema version is known; there are the tables, indexes and views of that version and
     nothing else; SQLite finds its pages and indexes in order.
(1)  Decide on the key: the one given, else the one pinned on this machine when the project was made, else the one the
     record names. It must be one of the chain that begins with the key in event 0 and goes on with each rotation.
(2)  Events are numbered from 0 without a gap.
(3)  Each body is canonical, of a known version and kind, and its payload is valid.
(4)  The columns seq, run and kind agree with the body, and its ``prev`` is the leaf hash of the event before.
(5)  Each leaf hash is SHA-256(0x00 || body).
(6)  Each checkpoint's root and frontier are those of the first ``size`` events, and the key in force there signed it;
     over a rotation, the old key and the new one.
(7)  The newest checkpoint covers every event; no checkpoint speaks of events that are missing.
(8)  The head this machine remembers is a head of this log.
(9)  Projections are derived from the events again and equal the stored rows, in both directions.
(10) Every content named by an event is there with its salted digest, and there is no other; a text kept for an artifact
     has the artifact's digest. What an erasure names is not there, and nothing else is missing.
(11) The project's creation is the first event; a run is registered once and before everything else of it; attempts
     count up by one.
(12) A seal states how many events of each kind it seals; only annotations and erasures follow it.
(13) The weights evaluated before are the base model's; those evaluated after, compared and sealed are the saved
     model's.
(14) Files in the run folder have their digests.
(15) Every statement of a witness is about a head of this log, and holds under the witness' own key; witnesses that can
     be asked remember nothing else.
(16) Annotations that name a key of their author are signed by it, for this project and run.

(2) to (6), (9) and (10) are done by segments (``segment.py``), which several processes may do at once; what goes
through the log in order is in ``fold.py``. An incremental verification does the same from the remembered head on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from grpo_audit.errors import ConfigError
from grpo_audit.ledger.notes import NoteError, VerifierKey
from grpo_audit.verify.opening import bundle_path
from grpo_audit.verify.pool import PoolBrokenError
from grpo_audit.verify.procedure import Options, Procedure, Progress
from grpo_audit.verify.segment import WIDTH
from grpo_audit.verify.verdict import VerifyReport


def verify(
    location: str | Path,
    *,
    run: str | None = None,
    key: str | None = None,
    run_folder: Path | None = None,
    artifacts: Literal["present", "required"] = "present",
    witness: Sequence[str] = (),
    new: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
    width: int = WIDTH,
) -> VerifyReport:
    """Verify a whole record or bundle at level L0, and the files of one run.

    ``run`` is the run whose seal and files count (id, prefix or name; the newest unless given, a bundle's own). ``key``
    is a verifier key ``NAME+KEYHASH+BASE64`` known from elsewhere. ``run_folder`` is where the run's files are; else it
    is looked for beside the record and where the run's configuration says. ``artifacts="required"`` fails when the
    saved model or an artifact is missing. ``witness`` names witnesses to believe besides the pinned ones (see
    ``witness.check.Trust.parse``). ``new`` verifies only what came after the head that this machine remembers.
    ``jobs`` is the number of processes: one for a small record, else all cores, unless given. ``progress`` is called
    with (events done, events in all). ``width``, a power of two, is the length of a segment; for tests.

    A record that does not hold gives a report with failed checks. Raises StorageError when there is no record, or one
    of a newer version, and ConfigError for an unknown run, a malformed key or witness, and ``new`` without memory.
    """
    given = _given_key(key)
    if jobs is not None and jobs < 1:
        raise ConfigError("The number of processes must be at least 1", found=str(jobs))
    if new and bundle_path(location) is not None:
        raise ConfigError("A bundle is verified as a whole", next_step="Leave out --new")
    options = Options(run, given, run_folder, artifacts == "required", tuple(witness), new, jobs, width)
    try:
        report, has_grown = Procedure(location, options).run(progress)
    except PoolBrokenError:
        report, has_grown = None, True
    if report is None or (not report.ok and has_grown):
        # a process was killed, or somebody was writing and each saw another state: once more, in one transaction
        report, _ = Procedure(location, replace(options, jobs=1)).run(progress)
    return report


def _given_key(text: str | None) -> VerifierKey | None:
    if text is None:
        return None
    try:
        return VerifierKey.parse(text.strip())
    except NoteError as error:
        raise ConfigError("The key cannot be used", found=str(error)) from error
