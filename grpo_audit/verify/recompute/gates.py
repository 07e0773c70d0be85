"""(33) The release gates: the conditions registered before step 0, held against the record again."""

from __future__ import annotations

from grpo_audit.config.run import RunConfig
from grpo_audit.record.audits import GatesChecked
from grpo_audit.record.events import Payload
from grpo_audit.stats.evidence import FIGURE_KINDS
from grpo_audit.stats.figures import figures
from grpo_audit.stats.gates import check_gates
from grpo_audit.verify.verdict import Tally


class GateCheck:
    """Follows a run and keeps the events that hold figures; a run has few of them beside its rollouts."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._events: list[tuple[int, Payload]] = []
        self._recorded: list[tuple[int, int, GatesChecked]] = []
        """Sequence number, how many of the events came before, payload."""

    def follow(self, seq: int, payload: Payload) -> None:
        """Take an event into account."""
        if payload.kind in FIGURE_KINDS:
            self._events.append((seq, payload))
        elif isinstance(payload, GatesChecked):
            self._recorded.append((seq, len(self._events), payload))

    def finish(self, config: RunConfig, *, sealed: bool) -> None:
        """Compare what was recorded; a sealed run with gates must have checked them, once and at its end."""
        gates = config.gates
        if not gates:
            for seq, _, _ in self._recorded:
                self._tally.wrong(f"event {seq} checks gates, although none was registered before step 0")
            self._tally.nothing("no gates were registered before step 0")
            return
        if sealed and not self._recorded:
            self._tally.wrong(f"{len(gates)} gates were registered and the sealed run never checked them")
        for seq, before, recorded in self._recorded:
            self._tally.saw(len(gates))
            if before != len(self._events):
                self._tally.wrong(f"event {seq} checks the gates before the run was done")
            self._compare(seq, recorded, check_gates(gates, figures(self._events[:before])))
        if not self._recorded:
            self._tally.nothing("the run is not that far")

    def _compare(self, seq: int, recorded: GatesChecked, anew: GatesChecked) -> None:
        if [item.name for item in recorded.gates] != [item.name for item in anew.gates]:
            self._tally.wrong(f"event {seq}: the gates checked are not those registered before step 0")
            return
        for one, other in zip(recorded.gates, anew.gates, strict=True):
            if one != other:
                parts = [name for name in type(one).model_fields if getattr(one, name) != getattr(other, name)]
                self._tally.wrong(f"event {seq}, gate {one.name:.60}: {', '.join(parts)} do not follow from the record")
        if recorded.passed != anew.passed:
            self._tally.wrong(f"event {seq}: says that the gates {'hold' if recorded.passed else 'fail'}")
