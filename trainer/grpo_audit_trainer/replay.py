"""Level L2: do the recorded completions follow from the recorded weights, prompt, temperature and seed?

Rollouts are drawn by a seed that the record itself fixes, or named by hand; the weights that drew them are loaded and
checked by digest; one teacher-forced pass with the recorded noise says for every token whether it could have won
(``replay_tokens``); the rule of ``replay_verdict`` says whether the record stands.

What it does not show: that the weights came from the recorded training (level L3 does), that rewards and advantages are
right (L1), anything about steps whose weights are gone, and differences below the tolerance. See docs/design/replay.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from grpo_audit.errors import ConfigError, VerificationError
from grpo_audit.ledger.project import Project
from grpo_audit.record.events import Step
from grpo_audit_trainer import noise, replay_record
from grpo_audit_trainer.fingerprint import fingerprint
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.replay_record import Erased, Malformed, Place, Recorded, RunIndex
from grpo_audit_trainer.replay_tokens import ForcedRow, force
from grpo_audit_trainer.replay_verdict import (
    CEILINGS,
    Calibration,
    Coverage,
    Decision,
    ReplayReport,
    RolloutVerdict,
    Row,
    decide,
    false_alarm_rate,
)
from grpo_audit_trainer.replay_weights import WeightsAtHand, find_weights, load_for_replay, precision_of, put_weights
from grpo_audit_trainer.rollout.native import NativeEngine

CALIBRATION_PROMPTS: Final = 8
"""Prompts of each set of weights that are completed afresh to measure float rounding ..."""
CALIBRATION_GROUP: Final = 4
"""... this many times each."""
OnProgress = Callable[[int, int], None]
"""Called with rollouts done and rollouts in all."""


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What to replay."""

    rollouts: int = 64
    seed: str | None = None
    """Draws the rollouts instead of the seed that the record fixes. An auditor who names one after the run was sealed
    leaves its maker no way to know what will be looked at."""
    places: tuple[Place, ...] = ()
    """Named by hand; nothing is drawn then."""


@dataclass(slots=True)
class _Checked:
    """What has been computed so far."""

    rows: list[Row] = field(default_factory=list)
    refused: list[RolloutVerdict] = field(default_factory=list)
    honest: list[NDArray[np.float32]] = field(default_factory=list)


def replay(
    project: Project,
    run_id: str,
    *,
    run_folder: Path,
    recipe_folder: Path,
    model: Path | None = None,
    request: ReplayRequest | None = None,
    on_progress: OnProgress | None = None,
) -> ReplayReport:
    """Replay rollouts of a run at level L2.

    Args:
        project: the record, open for reading. Its integrity (L0) is not checked here.
        run_folder: where the snapshots are.
        recipe_folder: where relative paths of the recipe start.
        model: folder of the base model, when it is elsewhere.

    A record that does not hold gives a report with reasons. Raises ConfigError (nothing can be replayed, unknown
    rollout), ModelError (no model at hand), VerificationError (a snapshot is not the recorded one, the record is
    contradictory, rounding is too large to tell).
    """
    request = request or ReplayRequest()
    index = replay_record.read_index(project, run_id)
    weights = find_weights(index, run_folder, recipe_folder, model)
    seed, origin = replay_record.seed_of(index, project.head.root.hex())
    if request.seed is not None:
        seed, origin = request.seed, "given by hand"
    if request.places:
        seed, origin = "", "none, they were named"
    chosen, refused, erased = _choose(project, index, weights, request, seed)
    policy = load_for_replay(index, weights.model)
    steps = replay_record.read_steps(project, index)
    checked = _Checked(refused=refused)
    done = 0
    for step in sorted({item.place.step for item in chosen}):
        put_weights(policy, weights, step)
        _check_fingerprint(policy, steps, step)
        of_step = [item for item in chosen if item.place.step == step]
        _check_step(policy, index, of_step, seed, checked)
        done += len(of_step)
        if on_progress is not None:
            on_progress(done, len(chosen))
    coverage = _coverage(index, weights, drawn=len(chosen) + len(refused) + erased, erased=erased)
    return ReplayReport(
        run_id=run_id,
        sealed=index.sealed_leaf is not None,
        seed=seed,
        seed_origin=origin,
        precision=precision_of(index),
        device=policy.device.type,
        coverage=coverage,
        decision=_decide(index, checked),
        false_alarms=false_alarm_rate(precision_of(index)),
    )


def _choose(
    project: Project, index: RunIndex, weights: WeightsAtHand, request: ReplayRequest, seed: str
) -> tuple[list[Recorded], list[RolloutVerdict], int]:
    """The rollouts to replay, verdicts on those that contradict themselves, and how many are erased."""
    at_hand = set(weights.steps())
    eligible = [place for place in index.rollouts if place.step in at_hand]
    if request.places:
        _check_named(request.places, index, at_hand)
        queue: Iterable[Place] = dict.fromkeys(request.places)
        wanted = len(set(request.places))
    else:
        queue, wanted = replay_record.drawn(eligible, seed), request.rollouts
    if not index.rollouts or not (eligible or request.places):
        raise ConfigError(
            f"No rollout of run {index.run_id} can be replayed",
            found=_missing(index, weights) if index.rollouts else "no rollouts in the record",
            next_step="Bring back a snapshot, or name the base model's folder with --model",
        )
    chosen: list[Recorded] = []
    refused: list[RolloutVerdict] = []
    erased = 0
    for place in queue:
        if len(chosen) + len(refused) == wanted:
            break
        try:
            chosen.append(replay_record.read_rollout(project, index, place))
        except Erased:
            erased += 1
        except Malformed as error:
            refused.append(RolloutVerdict(place, index.rollouts[place], problems=(str(error),)))
    return chosen, refused, erased


def _check_named(places: Sequence[Place], index: RunIndex, at_hand: set[int]) -> None:
    for place in places:
        if place not in index.rollouts:
            raise ConfigError(
                f"Run {index.run_id} has no rollout {place}", next_step="grpo-audit show --step N lists them"
            )
        if place.step not in at_hand:
            raise ConfigError(
                f"Rollout {place} cannot be replayed: the weights before step {place.step} are not at hand",
                expected=f"a rollout of step {', '.join(map(str, sorted(at_hand)[:8]))}" if at_hand else "",
            )


def _check_fingerprint(policy: Policy, steps: dict[int, Step], step: int) -> None:
    """The weights before a step are those after the step before, and those that the step says drew its rollouts."""
    found = fingerprint(policy.model)
    said = {f"step {step - 1} left": steps[step - 1].fingerprint} if step - 1 in steps else {}
    if step in steps and (sampled_by := steps[step].sampled_by) is not None:
        said[f"drew the rollouts of step {step}"] = sampled_by
    for what, recorded in said.items():
        if found != recorded:
            raise VerificationError(
                f"The weights before step {step} are not those that, the record says, {what}",
                found=found,
                expected=recorded,
            )


def _check_step(policy: Policy, index: RunIndex, recorded: Sequence[Recorded], seed: str, checked: _Checked) -> None:
    """Replay the chosen rollouts of one step; the policy holds the weights that drew them."""
    rows: list[tuple[Recorded, ForcedRow, tuple[str, ...]]] = []
    for item in recorded:
        try:
            rows.append((item, *_forced_row(policy, index, item)))
        except Malformed as error:
            checked.refused.append(RolloutVerdict(item.place, item.seq, problems=(str(error),)))
    if not rows:
        return
    temperature = index.config.sampling.temperature
    forced = force(policy, [row for _, row, _ in rows], temperature=temperature)
    checked.rows += [
        Row(item.place, item.seq, found.margin, found.logp - item.logp, problems)
        for (item, _, problems), found in zip(rows, forced, strict=True)
    ]
    prompts = list({tuple(row.prompt): None for _, row, _ in rows})[:CALIBRATION_PROMPTS]
    longest = max(len(row.tokens) for _, row, _ in rows)
    checked.honest += honest_gaps(policy, [list(prompt) for prompt in prompts], temperature, longest, seed)


def _forced_row(policy: Policy, index: RunIndex, item: Recorded) -> tuple[ForcedRow, tuple[str, ...]]:
    """The row for the pass, and what is wrong besides tokens. Raises Malformed when there can be no pass."""
    tokens = item.tokens.tolist()
    if max(tokens) >= policy.vocabulary:
        raise Malformed(f"token {max(tokens)} where the model knows {policy.vocabulary}")
    prompt = prompt_ids(policy, item.prompt)
    if not 1 <= len(prompt) <= index.config.sampling.max_prompt_tokens:
        raise Malformed(f"a prompt of {len(prompt)} tokens, where at most {index.config.sampling.max_prompt_tokens} go")
    problems = []
    if len(prompt) != item.prompt_tokens:
        problems.append(f"its prompt has {len(prompt)} tokens, not the recorded {item.prompt_tokens}")
    if policy.decode([tokens])[0].encode("utf-8", "replace") != item.text:
        problems.append("the recorded text is not that of the recorded tokens")
    problems += _ending(policy, index, tokens, item.finish_reason)
    key = noise.row_key(index.config.seed, item.place.step, item.prompt_id, item.noise_sample)
    return ForcedRow(prompt, tokens, key), tuple(problems)


def prompt_ids(policy: Policy, text: str) -> list[int]:
    """Token ids of a recorded prompt, which has been through the chat template already."""
    if policy.execution.chat_template:
        return list(policy.tokenizer(text, add_special_tokens=False)["input_ids"])
    return policy.encode_prompt(text).ids


def _ending(policy: Policy, index: RunIndex, tokens: list[int], finish_reason: str) -> list[str]:
    ends = [position for position, token in enumerate(tokens) if token in policy.eos_ids]
    limit = index.config.sampling.max_completion_tokens
    if ends and ends[0] != len(tokens) - 1:
        return [f"it goes on after its end token at position {ends[0]}"]
    if finish_reason == "stop" and not ends:
        return ["it is said to have ended by itself, but has no end token"]
    if finish_reason == "length" and (ends or len(tokens) != limit):
        return [f"it is said to have run into the limit of {limit} tokens, but has {len(tokens)}"]
    return []


def honest_gaps(
    policy: Policy, prompts: Sequence[list[int]], temperature: float, max_tokens: int, seed: str
) -> list[NDArray[np.float32]]:
    """Differences [n] between sampler and teacher-forced pass on completions that are certainly honest: drawn here and
    now from the same weights, with other noise than the run's."""
    rows = [(f"calibration {seed}", row) for row in range(len(prompts) * CALIBRATION_GROUP)]
    keys = noise.row_keys(0, 0, rows, policy.device)
    batch = NativeEngine(policy).sample(
        prompts, CALIBRATION_GROUP, keys, temperature=temperature, max_tokens=max_tokens
    )
    lengths, tokens, logp = batch.lengths.tolist(), batch.tokens.cpu(), batch.logp.cpu().numpy()
    forced = force(
        policy,
        [
            ForcedRow(prompts[row // CALIBRATION_GROUP], tokens[row, :length].tolist(), int(keys[row]))
            for row, length in enumerate(lengths)
        ],
        temperature=temperature,
    )
    return [found.logp - logp[row, :length] for row, (found, length) in enumerate(zip(forced, lengths, strict=True))]


def _decide(index: RunIndex, checked: _Checked) -> Decision:
    precision, calibration = precision_of(index), Calibration.of(checked.honest)
    if checked.rows and not calibration.mean <= CEILINGS[precision]:
        raise VerificationError(
            "Float rounding under these weights is too large to tell an honest record from another",
            found=f"a mean difference of {calibration.mean:.3g} nats between two honest passes",
            expected=f"at most {CEILINGS[precision]:.3g} in {precision}",
        )
    return decide(checked.rows, calibration, precision, checked.refused)


def _coverage(index: RunIndex, weights: WeightsAtHand, *, drawn: int, erased: int) -> Coverage:
    at_hand = set(weights.steps())
    return Coverage(
        steps=len(index.attempts),
        steps_eligible=sorted(at_hand & set(index.attempts)),
        rollouts=len(index.rollouts),
        rollouts_eligible=sum(place.step in at_hand for place in index.rollouts),
        drawn=drawn,
        erased=erased,
        missing=_missing(index, weights),
    )


def _missing(index: RunIndex, weights: WeightsAtHand) -> str:
    """Why steps cannot be replayed, counted."""
    gone = sorted(set(index.attempts) - set(weights.steps()))
    never = [step for step in gone if step and index.snapshot_before(step) is None]
    parts = []
    if 0 in gone:
        parts.append("the base model is not at hand (step 0)")
    if never:
        parts.append(f"steps without a snapshot before them: {len(never)}")
    if removed := len(gone) - len(never) - (0 in gone):
        parts.append(f"steps whose snapshot is no longer on disk: {removed}")
    return "; ".join(parts)
