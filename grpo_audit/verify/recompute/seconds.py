"""(34), its part about second verifiers: each runs again from its recorded text, on the recorded completions, and the
agreement with the rewards as recorded is counted again."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from grpo_audit.config.run import RunConfig
from grpo_audit.record.events import RewardRegraded, RunRegistered
from grpo_audit.rewards.sandbox import Isolation
from grpo_audit.verify.recompute.calls import Chunk, Runnable, recorded_source, row_of, run_again
from grpo_audit.verify.recompute.compare import same, shown
from grpo_audit.verify.recompute.rerun import Call, NoAnswer, NotRunnable, Value, sandbox_problem
from grpo_audit.verify.recompute.step import RecordedStep
from grpo_audit.verify.recompute.texts import Texts
from grpo_audit.verify.verdict import Tally

_ROLE = "second verifier"
_TOLERANCE = 1e-9
_BOTH, _NEITHER, _ONLY_FIRST, _ONLY_SECOND, _FAILED, _INAPPLICABLE, _UNREADABLE = range(7)


@dataclass
class _Graded:
    """One step under one second verifier, a number and a code for each rollout."""

    seqs: array[int] = field(default_factory=lambda: array("q"))
    groups: array[int] = field(default_factory=lambda: array("q"))
    codes: bytearray = field(default_factory=bytearray)


@dataclass
class _Waiting:
    """Rows of a call that is still to be made."""

    places: list[int]
    """Positions in the step."""
    first: dict[str, list[float | None]]
    """By source, what it gave each rollout of the step."""
    graded: dict[str, _Graded]
    """By source, where the outcome goes; of an attempt that a later one replaced it is nowhere else."""


class SecondCheck:
    """Follows the steps of a run; memory grows by 17 bytes a rollout and second verifier."""

    def __init__(
        self,
        registered: RunRegistered,
        config: RunConfig,
        texts: Texts,
        tally: Tally,
        isolation: Isolation,
        *,
        run: bool,
    ) -> None:
        self._tally = tally
        self._config = config
        self._registered = {item.name: item for item in registered.seconds}
        self._sources: dict[str, Runnable] = {}
        self._steps: dict[str, dict[int, _Graded]] = {name: {} for name in self._registered}
        self._chunk, self._waiting = Chunk(), list[_Waiting]()
        self._seen: set[str] = set()
        self._check_registration()
        if run and config.probes.regrade and self._registered:
            self._load(texts, isolation)

    def _check_registration(self) -> None:
        stated = {reward.name: reward.second for reward in self._config.rewards if reward.second is not None}
        found = {name: identity.source for name, identity in self._registered.items()}
        self._tally.saw(len(stated))
        if stated != found:
            self._tally.wrong("the second verifiers registered are not those of the configuration")

    def _load(self, texts: Texts, isolation: Isolation) -> None:
        problem = sandbox_problem(isolation) if isolation == "strict" else None
        for name, identity in self._registered.items():
            recorded = recorded_source(_ROLE, identity, texts)
            if isinstance(recorded, str):
                self._tally.remark(f"second verifier of {name} not run again: {recorded}")
            elif problem is not None:
                self._tally.remark(f"second verifier of {name} not run again: no sandbox on this machine ({problem})")
            else:
                self._sources[name] = Runnable(recorded, isolation)

    def follow(self, step: RecordedStep) -> None:
        """Take up the rollouts of a step; a later attempt at it takes the place of an earlier one."""
        if not self._sources:
            return
        number, readable = step.figures.step, list[tuple[int, str, str, dict[str, object]]]()
        for place, rollout in enumerate(step.rollouts):
            row = row_of(step.groups[rollout.data.group].content.get("fields"))
            completion = rollout.content.get("completion")
            if row is not None and completion is not None:
                readable.append((place, row.prompt, completion.decode("utf-8", "replace"), row.columns))
        seqs = array("q", [rollout.seq for rollout in step.rollouts])
        groups = array("q", [rollout.data.group for rollout in step.rollouts])
        graded = {name: _Graded(seqs, groups, bytearray([_UNREADABLE]) * len(seqs)) for name in self._sources}
        for name, item in graded.items():
            self._steps[name][number] = item
        if readable:
            names = dict.fromkeys(name for *_, columns in readable for name in columns)
            self._chunk.calls.append(
                Call(
                    [prompt for _, prompt, _, _ in readable],
                    [completion for _, _, completion, _ in readable],
                    {name: [columns.get(name) for *_, columns in readable] for name in names},
                )
            )
            first = {name: [rollout.data.rewards.get(name) for rollout in step.rollouts] for name in graded}
            self._waiting.append(_Waiting([place for place, *_ in readable], first, graded))
        if self._chunk.is_full:
            self._flush()

    def _flush(self) -> None:
        chunk, waiting = self._chunk, self._waiting
        self._chunk, self._waiting = Chunk(), []
        if not chunk.calls:
            return
        for name, source in list(self._sources.items()):
            outcome = run_again(source, chunk.calls)
            if isinstance(outcome, NotRunnable | NoAnswer):
                del self._sources[name]
                self._tally.remark(f"second verifier of {name} not run again: {outcome}")
                continue
            for call, values in zip(waiting, outcome, strict=True):
                self._grade(name, call, values)

    def _grade(self, name: str, call: _Waiting, values: Sequence[Value]) -> None:
        graded, first = call.graded[name], call.first[name]
        threshold = self._config.probes.threshold
        for place, value in zip(call.places, values, strict=True):
            own = first[place]
            if isinstance(value, str):
                code = _FAILED
            elif own is None or value is None:
                code = _INAPPLICABLE
            else:
                code = {(True, True): _BOTH, (False, False): _NEITHER, (True, False): _ONLY_FIRST}.get(
                    (own >= threshold, value >= threshold), _ONLY_SECOND
                )
            graded.codes[place] = code

    def check(self, seq: int, recorded: RewardRegraded) -> None:
        """One event: the counts agree with themselves, and with what the second verifier says now."""
        where = f"event {seq}, second verifier of {recorded.source:.60}"
        self._tally.saw(4)
        if recorded.source in self._seen:
            self._tally.wrong(f"{where}: graded twice")
        self._seen.add(recorded.source)
        identity = self._registered.get(recorded.source)
        if identity is None or (identity.source, identity.source_digest) != (recorded.second, recorded.second_digest):
            self._tally.wrong(f"{where}: not the one registered before step 0")
            return
        if recorded.threshold != self._config.probes.threshold:
            self._tally.wrong(f"{where}: threshold {recorded.threshold}, configured {self._config.probes.threshold}")
        table = (recorded.both, recorded.neither, recorded.only_first, recorded.only_second)
        if recorded.rollouts != sum(table) or min(table) < 0:
            self._tally.wrong(f"{where}: {recorded.rollouts} rollouts, the table has {sum(table)}")
        if not same(recorded.kappa, kappa(*table), _TOLERANCE):
            self._tally.wrong(f"{where}: kappa is {shown(recorded.kappa)}, the table gives {shown(kappa(*table))}")
        self._flush()
        if recorded.source in self._sources:
            self._against(where, recorded, self._steps[recorded.source])

    def _against(self, where: str, recorded: RewardRegraded, steps: dict[int, _Graded]) -> None:
        most = self._config.probes.regrade
        names = chosen_steps({step: len(graded.codes) for step, graded in steps.items()}, most)
        chosen = [_some(steps[step], -(-most // max(1, len(names)))) for step in names]
        codes = bytearray().join(bytes(graded.codes) for graded in chosen)
        counts = [codes.count(code) for code in range(7)]
        table = (recorded.both, recorded.neither, recorded.only_first, recorded.only_second)
        stated = (*table, recorded.failures, recorded.inapplicable, recorded.unreadable)
        self._tally.saw(len(codes))
        # a call that failed for want of time may succeed here, and the reverse; texts may have been erased since: no
        # more rollouts than these may be elsewhere
        erased = counts[_UNREADABLE] - stated[_UNREADABLE]
        leeway = stated[_FAILED] + counts[_FAILED] + erased
        moved = sum(abs(one - other) for one, other in zip(stated[:_FAILED], counts[:_FAILED], strict=True))
        if erased < 0 or moved > leeway or sum(stated) != sum(counts):
            words = "both, neither, only the source, only the second, failed, inapplicable, unreadable"
            self._tally.wrong(f"{where}: {list(stated)}, run again {counts} ({words})")
            return
        if leeway:
            ungraded = max(stated[_FAILED], counts[_FAILED]) + erased
            self._tally.remark(f"{where}: {ungraded} rollouts could not be graded; shares and examples not compared")
            return
        self._ends(where, recorded, chosen)

    def _ends(self, where: str, recorded: RewardRegraded, chosen: Sequence[_Graded]) -> None:
        part = max(1, len(chosen) // 5) if len(chosen) > 1 else 0
        for name, stated, ends in (
            ("early", recorded.early_only_first, chosen[:part]),
            ("late", recorded.late_only_first, chosen[len(chosen) - part :]),
        ):
            codes = bytearray().join(bytes(graded.codes) for graded in ends)
            graded = sum(codes.count(code) for code in (_BOTH, _NEITHER, _ONLY_FIRST, _ONLY_SECOND))
            share = codes.count(_ONLY_FIRST) / graded if graded else None
            if not same(stated, share, _TOLERANCE):
                self._tally.wrong(f"{where}: {name} share {shown(stated)}, run again {shown(share)}")
        disagree = {
            graded.seqs[place]
            for graded in chosen
            for place, code in enumerate(graded.codes)
            if code in (_ONLY_FIRST, _ONLY_SECOND)
        }
        if not set(recorded.examples) <= disagree:
            self._tally.wrong(f"{where}: names an example on which the two agree")

    def finish(self, *, ended: bool) -> None:
        """A run whose training ended graded its rollouts again."""
        if ended and self._config.probes.regrade:
            for name in self._registered.keys() - self._seen:
                self._tally.wrong(f"{name} has a second verifier, which graded nothing")


def _some(graded: _Graded, most: int) -> _Graded:
    """About so many rollouts of a step: whole groups, spread evenly; all where there are no more."""
    if most >= len(graded.codes):
        return graded
    groups = list(dict.fromkeys(graded.groups))
    wanted = max(1, round(most * len(groups) / len(graded.codes)))
    chosen = {groups[number * len(groups) // wanted] for number in range(wanted)}
    places = [place for place, group in enumerate(graded.groups) if group in chosen]
    return _Graded(
        array("q", [graded.seqs[place] for place in places]),
        array("q", [graded.groups[place] for place in places]),
        bytearray(graded.codes[place] for place in places),
    )


def chosen_steps(sizes: dict[int, int], most: int) -> list[int]:
    """Steps spread evenly from the first to the last, with about ``most`` rollouts."""
    steps = sorted(sizes)
    if not steps:
        return []
    wanted = min(len(steps), max(1, round(most / (sum(sizes.values()) / len(steps)))))
    if wanted == 1:
        return steps[-1:]
    return [steps[round(place * (len(steps) - 1) / (wanted - 1))] for place in range(wanted)]


def kappa(both: int, neither: int, only_first: int, only_second: int) -> float | None:
    """Cohen's kappa (1960); None where one of the two always says the same."""
    total = both + neither + only_first + only_second
    first, second = both + only_first, both + only_second
    if not 0 < first < total or not 0 < second < total:
        return None
    chance = (first * second + (total - first) * (total - second)) / total**2
    return ((both + neither) / total - chance) / (1 - chance)
