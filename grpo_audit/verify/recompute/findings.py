"""(30) The findings at the end of a run, derived again by the recorded rules (``grpo_audit.stats.findings``)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from grpo_audit.preflight.inspect import PREFIX
from grpo_audit.record.events import Finding, Payload, Rollout
from grpo_audit.stats.findings import derive
from grpo_audit.stats.run_evidence import Gathered
from grpo_audit.verify.verdict import Tally


class FindingCheck:
    """Follows a run and derives at its end. Of rollouts it keeps those whose rewards failed, and counts the others."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._gathered = Gathered()
        self._failed: list[tuple[int, Rollout]] = []
        self._fine: tuple[int, Rollout] | None = None
        self._num_fine = 0
        self._recorded: list[Finding] = []
        self._first = -1

    def follow(self, seq: int, payload: Payload) -> None:
        """Take an event into account."""
        self._gathered.follow(seq, payload)
        match payload:
            case Rollout() if payload.errors:
                self._failed.append((seq, payload))
            case Rollout():
                self._fine = (seq, payload)
                self._num_fine += 1
            case Finding() if not payload.rule.startswith(PREFIX):
                self._recorded.append(payload)
            case _:
                pass

    @property
    def compared(self) -> bool:
        """Whether there is a comparison."""
        return self._gathered.comparison is not None

    def finish(self, of_comparison: Sequence[Finding], unknown: Collection[str], *, sealed: bool) -> None:
        """Derive and compare, once the run is past its comparison. Rules that are ``unknown`` cannot be derived here:
        what is recorded of them is neither confirmed nor denied, and it is said."""
        if not sealed and not self.compared:
            self._tally.nothing("the run is not that far")
            return
        fine = [] if self._fine is None else [self._fine] * self._num_fine
        evidence = self._gathered.evidence([*self._failed, *fine])
        expected = [item for item in (*of_comparison, *derive(evidence)) if item.rule not in unknown]
        recorded = [item for item in self._recorded if item.rule not in unknown]
        if unknown:
            self._tally.remark(f"not derived, the answers cannot be read here: {', '.join(sorted(unknown))}")
        self._tally.saw(len(expected) + 1)
        missing = [item for item in expected if item not in recorded]
        extra = [item for item in recorded if item not in expected]
        for item in missing:
            self._tally.wrong(
                f"{item.severity} {item.rule} follows from the record and is not recorded so: {item.message:.100}"
            )
        for item in extra:
            self._tally.wrong(f"{item.severity} {item.rule} is recorded and does not follow: {item.message:.100}")
