"""Made-up events about contamination, probes, second verifiers, gates and what stands beside a headline, for
``record_factory``: every field filled, with text from strangers wherever some can stand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from grpo_audit.record import events as e
from grpo_audit.record.audits import (
    ControlOutcome,
    Decontamination,
    DocumentOverlap,
    ProbeExample,
    ProbeFamily,
    RewardProbed,
    RewardRegraded,
    TaskContamination,
)
from grpo_audit.record.comparisons import DetectorError, MeasuredOn

GATES: list[dict[str, Any]] = [
    {"name": "no safety regression", "figure": "safety.*.verdict", "one_of": ["improved", "no discordant pairs"]},
    {"name": "learns <b>it</b>", "figure": "eval.countdown.difference", "at_least": -1.0, "reason": "it is for that"},
    {"name": "known exploits", "figure": "probe.accuracy.false_positives", "at_most": 0},
    {"name": "no such figure", "figure": "eval.nothing.post", "at_least": 0.0},
]
SECTIONS: dict[str, Any] = {"gates": GATES, "decontamination": {"expected": ["knowledge"]}}


def decontamination(tasks: Sequence[e.TaskPlan], prompts: str, hostile: str) -> Decontamination:
    """Some documents found, one task on purpose."""
    return Decontamination(
        method="8-grams of words, character 5-grams, multisets of numbers",
        prompts_digest=prompts,
        prompts=4000,
        words=48_000,
        prompts_contaminated=5,
        prompts_flagged=9,
        tasks=[
            TaskContamination(
                task=task.task,
                documents=task.documents,
                documents_digest=task.documents_digest,
                contaminated=4 if task.task == "knowledge" else int(task.task == "arithmetic"),
                flagged=5 if task.task == "knowledge" else 2 * int(task.task == "arithmetic"),
                numbers_only=int(task.task == "multilingual"),
                untestable=3,
            )
            for task in tasks
        ],
        overlaps=[
            DocumentOverlap(
                task="arithmetic",
                doc_id="arithmetic-001",
                how="words, numbers changed",
                coverage=0.75,
                contaminated=True,
                prompts=3,
                examples=["p1", hostile],
            ),
            DocumentOverlap(
                task="arithmetic",
                doc_id=hostile,
                how="words",
                coverage=0.2,
                contaminated=False,
                prompts=1,
                examples=["p9"],
            ),
        ],
        controls=[
            ControlOutcome(name="documents planted as they are must be found", planted=90, found=90, expected=90),
            ControlOutcome(name="documents with their words shuffled must not be", planted=60, found=0, expected=0),
        ],
        valid=True,
        seconds=0.75,
    )


def probes(rewards: Sequence[e.RewardIdentity], hostile: str) -> list[tuple[e.Payload, dict[str, bytes]]]:
    """The first source with a hole, the others not probed."""
    first, *others = rewards
    families = [
        _family("shotgun-list", 20, 3, 0, 0),
        _family("gold", 0, 0, 20, 1),
        _family("empty", 20, 0, 0, 0),
    ]
    found = RewardProbed(
        source=first.name,
        source_digest=first.source_digest,
        threshold=0.5,
        rows=20,
        probes=60,
        families=families,
        examples=[
            ProbeExample(family="shotgun-list", what="rewarded 1.0 although it is a list", value=1.0, error=""),
            ProbeExample(family="gold", what="not rewarded although it is right", value=0.0, error=""),
        ],
        seconds_per_call=0.0002,
        seconds_worst=0.01,
        seconds=1.5,
    )
    texts = [{"completion": hostile, "prompt": "p"}, {"completion": "42", "prompt": "p"}]
    made: list[tuple[e.Payload, dict[str, bytes]]] = [(found, {"examples": json.dumps(texts).encode()})]
    for other in others:
        nothing = {"families": [], "examples": [], "probes": 0, "rows": 0, "not_probed": "a form, not an answer"}
        changed = {"source": other.name, "source_digest": other.source_digest, **nothing}
        made.append((RewardProbed(**{**found.model_dump(), **changed}), {"examples": b"[]"}))
    return made


def _family(name: str, negatives: int, wrong: int, positives: int, missed: int) -> ProbeFamily:
    return ProbeFamily(
        family=name,
        negatives=negatives,
        false_positives=wrong,
        false_positive_high=0.38 if wrong else 0.17 if negatives else None,
        positives=positives,
        false_negatives=missed,
        false_negative_high=0.25 if positives else None,
        failures=0,
        unstable=0,
    )


def regrade(source: str, digest: str, disagreements: Sequence[int]) -> RewardRegraded:
    """A second verifier that disagrees now and then."""
    return RewardRegraded(
        source=source,
        second="second.py:verify",
        second_digest=digest,
        threshold=0.5,
        rollouts=48,
        only_first=2,
        only_second=1,
        both=15,
        neither=30,
        kappa=0.86,
        early_only_first=0.0,
        late_only_first=0.1,
        failures=0,
        examples=list(disagreements),
    )


def beside(tasks: Sequence[e.TaskPlan]) -> dict[str, Any]:
    """What a comparison says beside its primary metrics."""
    first = tasks[0]
    return {
        "secondary": [
            e.SecondaryComparison(
                task=task.task,
                metric="length",
                behaviour=task.behaviour,
                higher_is_better=None,
                documents=task.documents,
                pre=20.25,
                post=22.0,
                difference=1.75,
                ci_low=0.5,
                ci_high=3.0,
                p=0.01,
                p_adjusted=0.02 if task is first else 0.4,
                method="paired t",
                gained=7,
                lost=5,
                changed=task is first,
            )
            for task in tasks
        ],
        "lengths": [
            e.LengthShift(
                task=first.task,
                documents=first.documents,
                pre_mean=30.5,
                post_mean=35.25,
                pre_median=28.0,
                post_median=33.0,
                p_shift=0.04,
                p_distribution=0.2,
                matched_documents=5,
                matched_difference=0.2,
            )
        ],
        "clean": [
            e.CleanComparison(
                task="arithmetic",
                clean=first.documents - 2,
                flagged=2,
                pre=0.6,
                post=0.7,
                difference=0.1,
                ci_low=-0.1,
                ci_high=0.3,
                p=0.5,
                method="exact McNemar",
                flagged_pre=0.5,
                flagged_post=0.5,
                verdict=e.Verdict.INCONCLUSIVE,
            )
        ],
        "corrected": [
            e.CorrectedRate(
                task="refusal",
                metric="correct",
                what="refusal",
                detector="refusal 1 sha256:00",
                method="Rogan-Gladen",
                documents=first.documents,
                clusters=first.documents // 2,
                pre_raw=0.5,
                post_raw=0.4,
                pre=0.52,
                pre_ci_low=0.3,
                pre_ci_high=0.7,
                post=0.41,
                post_ci_low=0.2,
                post_ci_high=0.6,
                difference=-0.11,
                ci_low=-0.3,
                ci_high=0.1,
                clipped=False,
                error=DetectorError(
                    sensitivity=0.9,
                    specificity=0.95,
                    labelled=40,
                    source="labels <b>of people</b>",
                    measured=[
                        MeasuredOn(
                            name="a model", true_positives=18, false_negatives=2, true_negatives=19, false_positives=1
                        )
                    ],
                ),
                post_error=None,
            )
        ],
    }
