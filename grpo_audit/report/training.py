"""Training as the record tells it: one pass over the step events, which keeps numbers and lets the events go."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from grpo_audit.catalogue.reader import Entry
from grpo_audit.record.events import Step
from grpo_audit.report.evidence import Evidence, Fact, Source, Span, derived, series
from grpo_audit.report.model import StepSeries, Training
from grpo_audit.report.numbers import figure, share, signed, significant, whole

EDGE = 5
"""Steps averaged at each end to say how a figure moved."""


@dataclass(frozen=True)
class StepLine:
    """What the report keeps of one step event."""

    seq: int
    attempt: int
    reward: float | None
    rewards: Mapping[str, float]
    length: float
    truncated: float
    entropy: float
    kl: float | None
    zero_variance: float
    grad_norm: float
    clipped: float
    agreement: float
    learning_rate: float
    updates: int
    ratio_max: float
    drift: float
    """Of the last update."""
    rounds: int
    dropped: int


@dataclass
class Steps:
    """The effective step (highest attempt) of each number, and sums over everything that was executed."""

    effective: dict[int, StepLine] = field(default_factory=dict)
    executed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    """Wall-clock by part, over every executed step."""

    seqs: list[int] = field(default_factory=list)


def read_steps(entries: Iterable[Entry[Step]]) -> Steps:
    """One pass over the step events of all attempts, in the order of the record."""
    steps = Steps()
    for entry in entries:
        payload = entry.payload
        steps.executed += 1
        steps.prompt_tokens += payload.prompt_tokens
        steps.completion_tokens += payload.completion_tokens
        steps.seconds.update(payload.seconds)
        steps.seqs.append(entry.seq)
        known = steps.effective.get(payload.step)
        if known is None or payload.attempt >= known.attempt:
            steps.effective[payload.step] = _line(entry)
    return steps


def training(steps: Steps, planned: int) -> Training:
    """Series and key figures. ``planned`` is the number of steps of the configuration."""
    lines = sorted(steps.effective.items())
    found = _series(lines)
    if not lines:
        return Training(found, (), "No optimiser step was recorded.")
    missing = "" if len(lines) == planned else f"{len(lines)} of {planned} planned steps were done."
    return Training(found, _facts(found, [line for _, line in lines], steps, planned), missing)


def _line(entry: Entry[Step]) -> StepLine:
    step = entry.payload
    return StepLine(
        seq=entry.seq,
        attempt=step.attempt,
        reward=step.reward_mean,
        rewards=step.rewards,
        length=step.completion_tokens_mean,
        truncated=step.truncated_share,
        entropy=step.entropy,
        kl=step.kl,
        zero_variance=step.zero_variance_share,
        grad_norm=step.grad_norm,
        clipped=step.clip_low_share + step.clip_high_share,
        agreement=step.agreement_max,
        learning_rate=step.learning_rate,
        updates=len(step.updates),
        ratio_max=max((update.ratio_max for update in step.updates), default=0.0),
        drift=step.updates[-1].drift if step.updates else 0.0,
        rounds=step.rounds,
        dropped=step.dropped_groups,
    )


def _series(lines: Sequence[tuple[int, StepLine]]) -> StepSeries:
    found = [line for _, line in lines]
    sources = sorted({name for line in found for name in line.rewards})
    rewards: dict[str, list[float | None]] = defaultdict(list)
    for line in found:
        for name in sources:
            rewards[name].append(line.rewards.get(name))
    return StepSeries(
        step=tuple(step for step, _ in lines),
        attempt=tuple(line.attempt for line in found),
        seq=tuple(line.seq for line in found),
        reward=tuple(line.reward for line in found),
        rewards={name: tuple(values) for name, values in rewards.items()},
        length=tuple(line.length for line in found),
        truncated=tuple(line.truncated for line in found),
        entropy=tuple(line.entropy for line in found),
        kl=tuple(line.kl for line in found),
        zero_variance=tuple(line.zero_variance for line in found),
        grad_norm=tuple(line.grad_norm for line in found),
        source=series(Evidence.MEASURED, (line.seq for line in found)),
    )


def _facts(found: StepSeries, lines: Sequence[StepLine], steps: Steps, planned: int) -> tuple[Fact, ...]:
    everything = found.source
    repeated = steps.executed - len(lines)
    done = f"{whole(len(lines))} of {whole(planned)} planned"
    if repeated:
        done += f"; {whole(repeated)} of them done again after an interruption"
    facts = [Fact("Steps", done, everything)]
    for label, values in (
        ("Reward, weighted total", found.reward),
        ("Completion length (tokens)", found.length),
        ("Entropy (nats a token)", found.entropy),
    ):
        facts.append(_movement(label, found, values))
    last = _newest(found, found.kl)
    if last is None:
        facts.append(derived("KL to the initial policy", None, how="no step measured it"))
    else:
        step, seq, value = last
        facts.append(Fact("KL to the initial policy", f"{significant(value)} nats a token at step {step}", _at(seq)))
    return (
        *facts,
        _mean("Zero-variance groups", found.zero_variance, everything),
        _mean("Truncated completions", found.truncated, everything),
        _mean("Tokens clipped", [line.clipped for line in lines], everything),
        *_reuse(lines, everything),
        *_dynamic(lines, everything),
        Fact(
            "Sampler against scorer, largest difference",
            f"{significant(max(line.agreement for line in lines))} nats",
            _derived(
                everything, "largest |log-probability of the sampler − of the scorer| of any token, over all steps"
            ),
        ),
        Fact(
            "Gradient norm, largest",
            significant(max(found.grad_norm)),
            _derived(everything, "largest over all steps, before clipping"),
        ),
        Fact(
            "Learning rate, first and last step",
            f"{significant(lines[0].learning_rate)}, {significant(lines[-1].learning_rate)}",
            Source(Evidence.MEASURED, tuple(dict.fromkeys((lines[0].seq, lines[-1].seq)))),
        ),
    )


def _reuse(lines: Sequence[StepLine], everything: Source) -> tuple[Fact, ...]:
    """How far the policy moved from the one that sampled, where a batch is used for more than one update."""
    if max(line.updates for line in lines) < 2:
        return ()
    drift = sum(line.drift for line in lines) / len(lines)
    largest = max(line.ratio_max for line in lines)
    how = "ρ − 1 − log ρ over the tokens of a step's last update, mean over the steps; and the largest ρ of any token"
    text = f"{significant(drift)} nats a token; largest ratio {significant(largest)}"
    return (Fact("Drift from the old policy", text, _derived(everything, how)),)


def _dynamic(lines: Sequence[StepLine], everything: Source) -> tuple[Fact, ...]:
    """What dynamic sampling drew and dropped."""
    rounds, dropped = sum(line.rounds for line in lines), sum(line.dropped for line in lines)
    if rounds == len(lines) and not dropped:
        return ()
    text = f"{whole(rounds)} rounds of prompts for {whole(len(lines))} steps; {whole(dropped)} groups dropped"
    return (Fact("Dynamic sampling", text, _derived(everything, "sums over the steps; dropped groups are recorded")),)


def _movement(label: str, found: StepSeries, values: Sequence[float | None]) -> Fact:
    known = [(seq, value) for seq, value in zip(found.seq, values, strict=True) if value is not None]
    if not known:
        return derived(label, None, how="no step recorded it")
    if len(known) < 2 * EDGE:
        first, last, how = known[0][1], known[-1][1], "first and last step"
        seqs: tuple[int, ...] = tuple(dict.fromkeys((known[0][0], known[-1][0])))
        spans: tuple[Span, ...] = ()
    else:
        edges = known[:EDGE], known[-EDGE:]
        first, last = (sum(value for _, value in edge) / EDGE for edge in edges)
        how, seqs = f"means of the first and the last {EDGE} steps", ()
        spans = tuple(Span(edge[0][0], edge[-1][0], EDGE) for edge in edges)
    source = Source(Evidence.DERIVED, seqs, spans, how)
    return Fact(label, f"{figure(first)} → {figure(last)} ({signed(last - first)})", source)


def _mean(label: str, values: Sequence[float], source: Source) -> Fact:
    return Fact(label, f"{share(sum(values) / len(values))} on average", _derived(source, "mean over the steps"))


def _derived(source: Source, how: str) -> Source:
    return replace(source, evidence=Evidence.DERIVED, note=how)


def _newest(found: StepSeries, values: Sequence[float | None]) -> tuple[int, int, float] | None:
    for step, seq, value in zip(reversed(found.step), reversed(found.seq), reversed(values), strict=True):
        if value is not None:
            return step, seq, value
    return None


def _at(seq: int) -> Source:
    return Source(Evidence.MEASURED, (seq,))
