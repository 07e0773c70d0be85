"""Step (15): what witnesses say of this log, and who vouches for it therefore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grpo_audit.errors import StorageError
from grpo_audit.ledger.tip import origin_of
from grpo_audit.verify.source import Source, StoredWitness
from grpo_audit.verify.verdict import Attestation, Tally
from grpo_audit.witness.check import Standing, Trust, WitnessOutcome, check, standing, wanted_sizes

_NAMED = 5


class Witnesses:
    """The statements kept beside the log, and the witnesses that the verifier believes."""

    def __init__(self, source: Source, project_id: str | None, specs: Sequence[str], tally: Tally) -> None:
        self._tally = tally
        self._statements: list[StoredWitness] = []
        self._origin = origin_of(project_id) if project_id else ""
        self._trust = Trust()
        self.standing = Standing(0, 0)
        tally.nothing("no witness: the tail is the whole record")
        try:
            self._statements = list(source.witnesses())
            self._trust = Trust.parse(specs, project_id)
        except StorageError as error:
            tally.wrong(str(error))

    def sizes(self) -> frozenset[int]:
        """Tree sizes whose roots are needed."""
        return wanted_sizes(self._statements, self._origin, self._trust)

    def judge(self, roots: Mapping[int, bytes]) -> None:
        """Compare every statement, and every memory that can be asked, with the roots computed from the events."""
        findings = check(self._statements, roots, self._origin, self._trust)
        self.standing = standing(findings, self._trust)
        without: list[str] = []
        for finding in findings:
            about = f"{finding.kind} {finding.name}, {finding.size:,} events: {finding.detail}"
            if finding.outcome is WitnessOutcome.FAILED:
                self._tally.saw()
                self._tally.wrong(about)
            elif finding.outcome is WitnessOutcome.OK:
                self._tally.saw()
            else:
                without.append(about)
        for text in without[:_NAMED]:
            self._tally.remark(text)
        if len(without) > _NAMED:
            self._tally.remark(f"and {len(without) - _NAMED} more")

    @property
    def attestation(self) -> Attestation:
        """Who vouches for the record besides its maker."""
        if not self.standing.witnessed:
            return Attestation.SELF_ATTESTED
        return Attestation.TIMESTAMPED if self.standing.only_time else Attestation.WITNESSED
