"""Level L1: do the numbers of a run follow from what was recorded? On a CPU, without torch.

The procedure. The modules beside this one and docs/verification.md carry the same numbers. It reads the record once,
front to back, and assumes level L0: it does not look at hashes and signatures.

(20) What was registered agrees with itself: the configuration is valid; formula, differences from the preset, reward
     sources and the plan's level and margins follow from it; every source text has the digest registered.
(21) The prompts of each step, and how often each was drawn before, are those that the seed draws from the prompt index;
     each row recorded has the digest of the index.
(22) The reward sources are run again from their recorded text, in a sandbox, on the recorded completions, call by call
     as in training. Every reward is compared exactly. Judges and reward models are named and not run.
(23) A rollout's reward is the weighted sum of its train sources and what the objective adds; used or not, and why.
(24) Means and deviations of the groups, and every advantage: by a second implementation.
(25) The figures of each step from its rollouts and updates; which groups each update took.
(26) The learning rate of each step.
(27) Every step once an attempt and in order, none missing in a sealed run; G samples a group; token counts; traces.
(28) Figures of evaluations from their samples; the documents planned, the same before and after.
(29) The comparison from the samples, by the plan that was fixed before step 0.
(30) The findings.

(32) Contamination: the prompts that were drawn, looked up again in the evaluation prompts recorded; counts and digests.
(33) The release gates: the conditions registered before step 0, held against the figures of the record again.
(34) Reward audits: every source was probed, counts and intervals agree; second verifiers run again from their
     recorded text, in the sandbox of (22), on the recorded completions, and the agreement is counted again.

(31), the report, is in ``grpo_audit.report.trace``: the report stands above verification.

Not recomputed, because it rests on weights: log-probabilities and with them loss, KL, entropy, clip shares, gradient
norms, advantages of a value model, answers (levels L2 and L3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from grpo_audit.config.run import RunConfig
from grpo_audit.record import events as e
from grpo_audit.rewards.sandbox import Isolation
from grpo_audit.verify.recompute.advantages import AdvantageCheck
from grpo_audit.verify.recompute.aggregates import AggregateCheck
from grpo_audit.verify.recompute.comparison import ComparisonCheck
from grpo_audit.verify.recompute.contamination import ContaminationCheck
from grpo_audit.verify.recompute.counts import CountCheck
from grpo_audit.verify.recompute.evaluation import EvaluationCheck
from grpo_audit.verify.recompute.findings import FindingCheck
from grpo_audit.verify.recompute.gates import GateCheck
from grpo_audit.verify.recompute.probes import ProbeCheck
from grpo_audit.verify.recompute.prompts import NAME, ROLE, IndexedRow, PromptCheck, read_index
from grpo_audit.verify.recompute.registration import check_registration, check_texts, read_config
from grpo_audit.verify.recompute.rewards import RewardCheck
from grpo_audit.verify.recompute.schedule import ScheduleCheck
from grpo_audit.verify.recompute.seconds import SecondCheck
from grpo_audit.verify.recompute.step import RecordedGroup, RecordedRollout, RecordedStep
from grpo_audit.verify.recompute.stream import Item, UnreadableRecordError, run_items
from grpo_audit.verify.recompute.texts import Texts
from grpo_audit.verify.recompute.totals import TotalCheck
from grpo_audit.verify.source import Source
from grpo_audit.verify.verdict import Check, Outcome, Tally

LEVEL = "L1"
FIRST = 20
NAMES: dict[int, tuple[str, str]] = {
    20: ("registration", "statements"),
    21: ("prompts drawn", "prompts"),
    22: ("rewards", "rewards run again"),
    23: ("weighted sums", "sums and reasons"),
    24: ("advantages", "figures"),
    25: ("step figures", "figures"),
    26: ("schedule", "learning rates"),
    27: ("counts", "steps and rollouts"),
    28: ("evaluations", "samples and figures"),
    29: ("comparison", "figures"),
    30: ("findings", "findings"),
    32: ("contamination", "figures and prompts"),
    33: ("gates", "gates"),
    34: ("reward audits", "figures and rollouts"),
}
"""What each step is called, and what it counts."""


@dataclass(frozen=True)
class Options:
    """How rewards are run again."""

    seed: int = 0
    sample: float | int | None = None
    """Share (float) or number (int) of the steps whose rewards are run again; None: all."""
    rewards: bool = True
    isolation: Isolation = "strict"


def recompute(
    source: Source,
    run_id: str,
    *,
    seed: int = 0,
    sample: float | int | None = None,
    rewards: bool = True,
    isolation: Isolation = "strict",
    progress: Callable[[int, int], None] | None = None,
) -> list[Check]:
    """Steps (20) to (30), and (32), for one run of a record or bundle that passed level L0.

    Recorded reward code runs in a sandbox of namespaces; where this machine has none it does not run, and step (22)
    says so, unless ``isolation="limits"`` says that the code is trusted. ``rewards=False`` leaves step (22) out.
    ``progress`` is called with (events done, events in all). Never raises because of what the record says.
    """
    procedure = _Procedure(Options(seed, sample, rewards, isolation))
    try:
        for item in run_items(source, run_id, progress=progress):
            procedure.follow(item)
    except UnreadableRecordError as error:
        procedure.broke(str(error))
    return procedure.checks()


class _Procedure:
    """State of one recomputation."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._tallies = {number: Tally(number, *names) for number, names in NAMES.items()}
        self._texts = Texts()
        self._registered: e.RunRegistered | None = None
        self._config: RunConfig | None = None
        self._training: _Training | None = None
        self._evaluation: EvaluationCheck | None = None
        self._comparison: ComparisonCheck | None = None
        self._contamination: ContaminationCheck | None = None
        self._probes: ProbeCheck | None = None
        self._gates = GateCheck(self._tallies[33])
        self._findings = FindingCheck(self._tallies[30])
        self._sealed = self._trained = False
        self._broken = ""

    def broke(self, reason: str) -> None:
        """Nothing more can be read."""
        self._broken = reason
        self._tallies[20].wrong(reason)

    def follow(self, item: Item) -> None:
        """One event of the run."""
        payload = item.event.payload
        if isinstance(payload, e.RunRegistered) and self._registered is None:
            self._begin(payload)
        self._texts.take(item)
        self._findings.follow(item.event.seq, payload)
        self._gates.follow(item.event.seq, payload)
        if self._config is None or self._evaluation is None or self._comparison is None:
            return
        if self._contamination is not None:
            self._contamination.follow(item)
        match payload:
            case e.Group() | e.Rollout() | e.Step() | e.RunResumed():
                self._train().follow(item)
            case e.EvalSample():
                self._evaluation.sample(item)
            case e.EvalTask():
                self._evaluation.task(item.event.seq, payload)
            case e.Comparison():
                protocol = self._texts.get("evaluation protocol", "protocol.json")
                self._comparison.check(item.event.seq, payload, self._evaluation, protocol)
            case e.Decontamination():
                self._comparison.contamination(payload)
            case e.RewardProbed():
                assert self._probes is not None
                self._probes.check(item.event.seq, payload)
            case e.RewardRegraded():
                self._train().seconds.check(item.event.seq, payload)
            case e.ModelSaved():
                self._trained = True
            case e.RunSealed():
                self._sealed = True
            case _:
                pass

    def _begin(self, registered: e.RunRegistered) -> None:
        tally = self._tallies[20]
        self._registered = registered
        self._config = read_config(registered, tally)
        if self._config is not None:
            check_registration(registered, self._config, tally)
        self._evaluation = EvaluationCheck(registered, self._tallies[28])
        self._comparison = ComparisonCheck(registered, self._tallies[29])
        if self._config is not None:
            self._contamination = ContaminationCheck(registered, self._config.decontamination, self._tallies[32])
            self._probes = ProbeCheck(registered, self._config, self._tallies[34])

    def _train(self) -> _Training:
        """Made at the first event of training: by then every text is recorded."""
        if self._training is None:
            assert self._registered is not None and self._config is not None
            self._training = _Training(self._registered, self._config, self._texts, self._tallies, self._options)
        return self._training

    def checks(self) -> list[Check]:
        """The end of the run: what is missing, then every check."""
        reached = not self._broken and self._config is not None
        if self._registered is None:
            self._tallies[20].wrong("the run was never registered")
        elif reached:
            check_texts(self._registered, self._texts, self._tallies[20])
            self._train().finish(sealed=self._sealed, trained=self._trained)
            assert self._evaluation is not None and self._comparison is not None
            self._evaluation.finish(sealed=self._sealed)
            self._comparison.finish(sealed=self._sealed, compared=self._findings.compared)
            assert self._contamination is not None
            self._contamination.finish(sealed=self._sealed)
            self._findings.finish(self._comparison.findings, self._comparison.unknown, sealed=self._sealed)
            assert self._config is not None and self._probes is not None
            self._gates.finish(self._config, sealed=self._sealed)
            self._probes.finish(trained=self._trained)
            self._train().seconds.finish(ended=self._sealed)
            self._tallies[34].nothing("an old record: nothing was probed and graded again")
        return [
            tally.check(reached=reached or (number == FIRST and not self._broken))
            for number, tally in self._tallies.items()
        ]


class _Training:
    """Steps (21) to (27), step by step of training; one step in memory at a time."""

    def __init__(
        self, registered: e.RunRegistered, config: RunConfig, texts: Texts, tallies: dict[int, Tally], options: Options
    ) -> None:
        self._step = RecordedStep()
        self._prompts = PromptCheck(config, _index(registered, texts, tallies[21]), tallies[21])
        self._rewards: RewardCheck | None = None
        if options.rewards:
            self._rewards = RewardCheck(
                registered,
                config,
                texts,
                tallies[22],
                isolation=options.isolation,
                seed=options.seed,
                sample=options.sample,
            )
        else:
            tallies[22].nothing("left out as asked")
        self.seconds = SecondCheck(
            registered, config, texts, tallies[34], isolation=options.isolation, run=options.rewards
        )
        self._totals = TotalCheck(config, tallies[23])
        self._advantages = AdvantageCheck(config, tallies[24])
        self._aggregates = AggregateCheck(config, tallies[25])
        self._schedule = ScheduleCheck(config, tallies[26])
        self._counts = CountCheck(config, tallies[27])

    def follow(self, item: Item) -> None:
        """One event of training."""
        seq = item.event.seq
        match item.event.payload:
            case e.RunResumed() as payload:
                self._counts.resumed(payload)
            case e.Group() as payload:
                self._step.groups.append(RecordedGroup(seq, payload, item.content))
            case e.Rollout() as payload:
                self._step.rollouts.append(RecordedRollout(seq, payload, item.content))
            case e.Step() as payload:
                step, self._step = self._step, RecordedStep()
                step.seq, step.step = seq, payload
                self._complete(step)
            case _:
                pass

    def _complete(self, step: RecordedStep) -> None:
        whole = self._counts.follow(step)  # (27)
        self._schedule.follow(step)  # (26)
        self._prompts.follow(step)  # (21)
        if not whole:
            return
        if self._rewards is not None:
            self._rewards.follow(step)  # (22)
        self.seconds.follow(step)  # (34)
        self._totals.follow(step)  # (23)
        self._advantages.follow(step)  # (24)
        self._aggregates.follow(step, self._advantages.silent)  # (25)

    def finish(self, *, sealed: bool, trained: bool) -> None:
        """What waits is done, and what is missing is said."""
        self._prompts.finish()
        if self._rewards is not None:
            self._rewards.finish()
        self._totals.finish()
        self._advantages.finish()
        self._aggregates.finish()
        self._schedule.finish()
        left = len(self._step.groups) + len(self._step.rollouts)
        self._counts.finish(sealed=sealed, trained=trained, left=left)


def _index(registered: e.RunRegistered, texts: Texts, tally: Tally) -> list[IndexedRow] | None:
    text = texts.get(ROLE, NAME)
    if text is None:
        gone = NAME in texts.erased
        tally.nothing("the prompt index was erased" if gone else "an old record: it holds no prompt index")
        return None
    return read_index(text, registered.prompts.rows, tally)


def failed(checks: list[Check]) -> list[Check]:
    """The checks that speak against the record."""
    return [check for check in checks if check.outcome in (Outcome.FAILED, Outcome.NOT_REACHED)]
