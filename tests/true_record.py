"""A record whose every number is true, made in a second without a model: the trainer's own collector, credit, summary
and recorder on random tokens, real reward processes, real statistics. What level L1 must accept, and what lies are made
of.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from grpo_audit.cli.audits import judge_refusals
from grpo_audit.config.formula import manifest
from grpo_audit.config.load import Resolved, resolve
from grpo_audit.config.run import RunConfig
from grpo_audit.contamination.documents import Document
from grpo_audit.contamination.run import decontaminate_run
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.prompts.canonical import index_lines
from grpo_audit.prompts.loading import PromptSet, load
from grpo_audit.record import events as e
from grpo_audit.record.audits import ProbeExample, ProbeFamily
from grpo_audit.record.environment import Accelerator, environment
from grpo_audit.record.identity import bytes_digest
from grpo_audit.refusal.findings import style_findings
from grpo_audit.refusal.judged import corrected_rates
from grpo_audit.rewards.probes.tally import bounds
from grpo_audit.rewards.regrade import SecondVerifier, load_seconds, regrade
from grpo_audit.rewards.runner import RewardRunner
from grpo_audit.stats.evidence import read_figures, read_run
from grpo_audit.stats.findings import derive
from grpo_audit.stats.gates import check_gates
from grpo_audit.stats.paired import documents_digest
from grpo_audit.stats.runs import compare_runs
from grpo_audit_trainer.collect import Collected, Collector
from grpo_audit_trainer.credit import Credit, assign
from grpo_audit_trainer.outcome import StepOutcome
from grpo_audit_trainer.policy import EncodedPrompt
from grpo_audit_trainer.recorder import step_events
from grpo_audit_trainer.rollout.native import SampledBatch
from grpo_audit_trainer.summary import Measured, summarise
from grpo_audit_trainer.update import Gradient, Updater, parts_of_step

RUN = "true-run"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
REWARDS = """\
from helper import share

def vowels(completions, target, **_):
    return [share(text) + (text[:1] == letter) for text, letter in zip(completions, target)]

def short(completions, *, most: int = 9):
    return [None if len(text) % 5 == 0 else float(len(text) <= most) for text in completions]

def fussy(completions):
    return [ValueError("no q, please") if "q" in text else float("x" in text) for text in completions]
"""
SECOND = """\
def vowels(completions, target, **_):
    found = [sum(text.count(letter) for letter in "aeiou") / 9 for text in completions]
    right = [text[1:2] == letter for text, letter in zip(completions, target)]
    return [None if "z" in text else sum(pair) for text, *pair in zip(completions, found, right)]
"""
HELPER = """\
def share(text):
    return round(sum(letter in "aeiou" for letter in text) / 12, 3)
"""
RECIPE: dict[str, Any] = {
    "name": "true",
    "seed": 3,
    "model": {"path": "builtin"},
    "prompts": {"source": "prompts.jsonl"},
    "rewards": [
        {"name": "vowels", "source": "rewards.py:vowels", "second": "second.py:vowels"},
        {"name": "short", "source": "rewards.py:short", "weight": 0.25, "options": {"most": 7}},
        {"name": "fussy", "source": "rewards.py:fussy", "role": "shadow"},
    ],
    "sampling": {"prompts_per_step": 3, "group_size": 4, "max_completion_tokens": 12, "max_prompt_tokens": 32},
    "training": {"steps": 5, "learning_rate": 0.01, "warmup_steps": 2, "schedule": "cosine", "microbatch_tokens": 120},
    "evaluation": {"margins": {"words": 0.1}},
    "gates": [
        {"name": "learns", "figure": "eval.words.difference", "at_least": -1.0},
        {"name": "perfect", "figure": "eval.*.verdict", "one_of": ["no discordant pairs"]},
        {"name": "no such figure", "figure": "safety.*.verdict", "one_of": ["improved"]},
    ],
}
DOCUMENTS = 30
FLAGGED = 6
"""Documents of the task ``words`` that a prompt overlaps with."""
SAID = {0: "a b c d e f g", 1: "b h i j k l m", 2: "c 120 45 377"}
"""What some prompts say that documents say, too."""
PROTOCOL = json.dumps(
    {
        "harness": "ours",
        "tasks": {
            "words": {"config": {"metric_list": [{"metric": "speed", "higher_is_better": True}]}},
            "lengths": {"config": {"metric_list": [{"metric": "length", "higher_is_better": False}]}},
        },
    },
    sort_keys=True,
    indent=1,
).encode()
"""The evaluation protocol, as much of it as is read."""


def furnish(folder: Path, sections: dict[str, Any]) -> Resolved:
    """Recipe, prompts and rewards in a folder; the recipe resolved."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": f"p{row}",
            "prompt": f"Say {SAID.get(row, LETTERS[row])} …\u2028\u0085",
            "target": LETTERS[row % 5],
            "n": [row, 0.1],
            "answer": LETTERS[row % 5],
            "tests": ["assert True"] if row % 2 else None,
        }
        for row in range(7)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards.py").write_text(REWARDS)
    (folder / "helper.py").write_text(HELPER)
    (folder / "second.py").write_text(SECOND)
    merged: dict[str, Any] = dict(RECIPE)
    for name, section in sections.items():
        merged[name] = {**RECIPE.get(name, {}), **section} if isinstance(section, dict) else section
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(merged))  # JSON is YAML
    return resolve(path)


def question(task: str, number: int) -> str:
    """What a document asks: as little as can be, and of some what a prompt says."""
    if task == "words" and number < FLAGGED:
        more = " ".join(f"{letter}{letter}" for letter in LETTERS[number : 4 * number + 2])
        return f"{task} {number}? Say {SAID[number % 2]} {more}"
    if task == "lengths" and number == 1:
        return f"{task}: 377, 120 and 45?"
    return f"{task} {number}?"


class _Policy:
    """Only what the collector asks of a policy."""

    device = torch.device("cpu")

    def encode_prompt(self, text: str, messages: object = None) -> EncodedPrompt:
        return EncodedPrompt(text, list(range(len(text))))

    @contextmanager
    def whole(self) -> Iterator[None]:
        yield

    def decode(self, tokens: Sequence[Any]) -> list[str]:
        return ["".join(LETTERS[int(token)] for token in row if int(token) < len(LETTERS)) for row in tokens]


class _Engine:
    """Random completions; groups of low spread now and then, so that some have no signal."""

    def __init__(self, seed: int, limit: int) -> None:
        self._random, self._limit = random.Random(seed), limit

    def sample(self, prompts: list[list[int]], group_size: int, keys: Tensor, **_: Any) -> SampledBatch:
        rows: list[list[int]] = []
        for _prompt in prompts:
            clones = self._random.random() < 0.3
            first = self._completion()
            rows += [first if clones else self._completion() for _ in range(group_size)]
        lengths = torch.tensor([len(row) for row in rows])
        tokens = torch.zeros((len(rows), int(lengths.max())), dtype=torch.int64)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = torch.tensor(row)
        inside = torch.arange(tokens.shape[1]) < lengths[:, None]
        logp = -torch.tensor([[self._random.random() for _ in range(tokens.shape[1])] for _ in rows])
        ended = torch.tensor([row[-1] == len(LETTERS) for row in rows])
        return SampledBatch(tokens, lengths, torch.where(inside, logp, 0.0), torch.where(inside, -logp, 0.0), ended)

    def _completion(self) -> list[int]:
        length = self._random.randint(1, self._limit)
        row = [self._random.randrange(len(LETTERS)) for _ in range(length)]
        if length < self._limit or self._random.random() < 0.5:
            row[-1] = len(LETTERS)  # the end token
        return row


@dataclass
class _Run:
    resolved: Resolved
    project: Project
    prompts: PromptSet
    rewards: RewardRunner
    seconds: list[SecondVerifier]
    rounds: int = 0

    @property
    def config(self) -> RunConfig:
        return self.resolved.config

    def add(self, *events: tuple[e.Payload, dict[str, bytes]]) -> None:
        self.project.append([NewEvent(payload, RUN, content) for payload, content in events])

    def register(self) -> None:
        config, resolved = self.config, self.resolved
        registered = e.RunRegistered(
            name=config.name,
            tool="grpo-audit 0.1.0",
            config=config.model_dump(mode="json"),
            preset=config.preset,
            preset_source=resolved.preset.source,
            preset_differences=resolved.differences,
            formula=manifest(config.objective, config.sampling),
            model=self.model("builtin", "base"),
            reference="initial weights",
            rewards=self.rewards.identities(),
            prompts=self.prompts.identity,
            evaluation=self.plan(),
            environment=environment(Accelerator(None, None, 1, True)),
            seconds=[second.identity for second in self.seconds],
        )
        texts = [("second verifier", name, text) for item in self.seconds for name, text in item.texts.items()]
        texts += [("reward source", name, text) for name, text in self.rewards.source_texts().items()]
        texts += [("prompt index", "prompts.jsonl", index_lines(self.prompts.rows))]
        texts += [("evaluation protocol", "protocol.json", PROTOCOL)]
        artifacts = [
            (
                e.Artifact(
                    role=role, name=name, digest=bytes_digest(text), size=len(text), media_type="text", location=None
                ),
                {"text": text},
            )
            for role, name, text in texts
        ]
        self.add((registered, {}), *artifacts)

    def model(self, source: str, weights: str) -> e.ModelIdentity:
        made = bytes_digest(weights.encode())
        return e.ModelIdentity(
            source=source,
            revision=None,
            architecture="none",
            parameters=1,
            weights_digest=made,
            tokenizer_digest=made,
            chat_template_digest=None,
            config_digest=made,
            files=[],
            licence=None,
            notice=None,
            card_digest=None,
        )

    # --- evaluation -------------------------------------------------------------------------------------------------

    def plan(self) -> e.EvaluationPlan:
        settings = self.config.evaluation
        tasks = [
            e.TaskPlan(
                task=task,
                behaviour="refusal calibration" if task == "words" else "task performance",
                metric="hit" if task == "words" else "length",
                higher_is_better=task == "words",
                safety=False,
                margin=settings.margins.get(task, settings.margin),
                documents=DOCUMENTS,
                documents_digest=documents_digest([self.document(task, number) for number in range(DOCUMENTS)]),
            )
            for task in ("words", "lengths")
        ]
        return e.EvaluationPlan(
            suite="suite", harness="ours", protocol_digest=bytes_digest(PROTOCOL), alpha=settings.alpha, tasks=tasks
        )

    def document(self, task: str, number: int) -> str:
        return bytes_digest(f"{task} {number}".encode())

    def evaluate(self, phase: Literal["pre", "post"]) -> None:
        rng = random.Random(phase)
        for task in self.plan().tasks:
            samples = [self.sample(task, phase, number, rng) for number in range(DOCUMENTS)]
            metrics = [payload.metrics for payload, _ in samples]
            done = e.EvalTask(
                phase=phase,
                task=task.task,
                behaviour=task.behaviour,
                metric=task.metric,
                documents=DOCUMENTS,
                metrics={name: sum(row[name] for row in metrics) / DOCUMENTS for name in metrics[0]},
                empty_rate=0.0,
                truncated_rate=sum(payload.finish_reason == "length" for payload, _ in samples) / DOCUMENTS,
                weights_digest=bytes_digest(b"base" if phase == "pre" else b"trained"),
                protocol_digest=bytes_digest(PROTOCOL),
                seconds=1.0,
            )
            self.add(*samples, (done, {}))

    def sample(
        self, task: e.TaskPlan, phase: Literal["pre", "post"], number: int, rng: random.Random
    ) -> tuple[e.EvalSample, dict[str, bytes]]:
        prompt = question(task.task, number).encode()
        mark = f"{phase} {rng.random()}"
        better = 0.3 if phase == "post" else 0.0
        figures = {"hit": float(rng.random() < 0.4 + better), "length": rng.random() - better}
        words = "I can't help with that." if figures["hit"] else "Here it is:"
        response = f"{words} {mark}".encode()
        payload = e.EvalSample(
            phase=phase,
            task=task.task,
            doc_id=f"d{number}",
            cluster=f"d{number}" if task.task == "words" else f"c{number // 2}",
            doc_hash=self.document(task.task, number),
            prompt_hash=bytes_digest(prompt),
            target="t",
            prediction="p",
            metrics={task.metric: figures[task.metric], "speed": round(rng.gauss(1 + better, 0.4), 6)}
            | ({"even": float(number % 2 == 0)} if task.task == "words" else {}),
            completion_tokens=rng.randint(3, 9) + 3 * (phase == "post"),
            finish_reason="length" if number == 3 else "stop",
        )
        return payload, {"prompt": prompt, "response": response}

    def decontaminate(self) -> None:
        """The first documents of one task share words with a prompt; one of another has a prompt's numbers only."""
        documents = [
            Document(task.task, f"d{number}", question(task.task, number))
            for task in self.plan().tasks
            for number in range(DOCUMENTS)
        ]
        found = decontaminate_run(self.prompts, self.plan(), documents)
        assert found.valid and [task.flagged for task in found.tasks] == [FLAGGED, 0]
        assert [task.numbers_only for task in found.tasks] == [0, 1]
        self.add((found.model_copy(update={"seconds": 0.1}), {}))

    def probe(self) -> None:
        """Two sources with made-up counts, the last one not probed."""
        for place, identity in enumerate(self.rewards.identities()):
            asked = place < 2
            families = (
                [family(name, wrong) for name, wrong in (("empty", 0), ("shotgun-list", 1 + place))] if asked else []
            )
            probed = e.RewardProbed(
                source=identity.name,
                source_digest=identity.source_digest,
                threshold=self.config.probes.threshold,
                rows=5 if asked else 0,
                probes=sum(item.negatives + item.positives for item in families),
                families=families,
                examples=[ProbeExample(family="shotgun-list", what="rewarded", value=1.0, error="")] if asked else [],
                seconds_per_call=0.001,
                seconds_worst=0.001,
                seconds=0.1,
                not_probed="" if asked else "nothing to probe it with",
            )
            self.add((probed, {"examples": b"[]"}))

    # --- training ---------------------------------------------------------------------------------------------------

    def train(self, interrupted: bool) -> None:
        steps = self.config.training.steps
        collector = self.collector()
        for step in range(steps):
            self.project.append(step_events(self.step(collector, step), RUN, 1))
            if interrupted and step == 2:
                break
        if interrupted:
            self.add((e.RunAborted(error="killed"), {}))
            self.add((e.RunResumed(attempt=2, phase="train", from_step=1, snapshot_digest=None), {}))
            self.rounds = self.rounds_of_first
            collector = self.collector()
            for step in range(1, steps):
                self.project.append(step_events(self.step(collector, step), RUN, 2))

    def collector(self) -> Collector:
        engine: Any = _Engine(self.rounds, self.config.sampling.max_completion_tokens)
        policy: Any = _Policy()
        return Collector(policy, self.prompts, self.rewards, self.config, engine)

    def step(self, collector: Collector, step: int) -> StepOutcome:
        seconds: dict[str, float] = {}
        collected = collector.collect(step, self.rounds, seconds)
        self.rounds += collected.rounds
        if step == 0:
            self.rounds_of_first = self.rounds
        kl = self.config.objective.kl
        rows = len(collected.tokens)
        credit = assign(
            collected, self.config, 0.01 * torch.arange(rows) if kl.placement == "reward" and kl.beta else None
        )
        training: Any = self.config.training
        learning_rate = Updater.learning_rate(SimpleNamespace(config=training), step)  # type: ignore[arg-type]
        return summarise(
            self.config,
            step,
            collected,
            credit,
            self.gradients(collected, credit, step),
            Measured((0.0, 0.0), kl=0.01 * step, kl_reference=None),
            learning_rate=learning_rate,
            sampled_by=bytes_digest(b"before"),
            engine="random",
            fingerprint=bytes_digest(b"after"),
            seconds=seconds,
        )

    def gradients(self, collected: Collected, credit: Credit, step: int) -> list[Any]:
        size = self.config.sampling.group_size
        groups = [row // size for row in range(len(collected.tokens))]
        made = []
        for number, part in enumerate(
            parts_of_step(credit.rows, groups, self.config.training, seed=self.config.seed, step=step)
        ):
            figures: dict[str, Any] = dict.fromkeys(Gradient.__slots__, 0.0)
            figures |= {
                "loss": 0.1 * number,
                "norm": 1.0 + number,
                "clipped_low": number,
                "clipped_high": 1,
                "tokens": 1,
            }
            made.append((part, Gradient(**figures)))
        return made

    # --- the end ----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        self.add((e.ModelSaved(location="model", model=self.model("run/model", "trained")), {}))
        for again in regrade(self.project, RUN, self.config, self.resolved.base_dir):
            self.add((again, {}))
        self.evaluate("post")
        result = compare_runs(self.project, RUN, RUN, first_phase="pre", second_phase="post")
        judged = judge_refusals(self.project, RUN, self.plan())
        comparison = result.comparison.model_copy(update={"corrected": corrected_rates(judged)})
        assert [rate.task for rate in comparison.corrected] == ["words"]
        place = self.project.head.size
        evidence = replace(read_run(self.project, RUN), comparison=(place, comparison))
        noticed = [*result.findings, *derive(evidence), *style_findings(judged, place)]
        self.add((comparison, {}), *((finding, {}) for finding in noticed))
        if self.config.gates:
            self.add((check_gates(self.config.gates, read_figures(self.project, RUN)), {}))
        self.add((seal(self.project), {}))


def family(name: str, wrong: int) -> ProbeFamily:
    """Twenty probes that must not be rewarded and ten that must be."""
    (low, high), (lowest, highest) = bounds(wrong, 20), bounds(0, 10)
    return ProbeFamily(
        family=name,
        negatives=20,
        false_positives=wrong,
        false_positive_low=low,
        false_positive_high=high,
        positives=10,
        false_negatives=0,
        false_negative_low=lowest,
        false_negative_high=highest,
        failures=0,
        unstable=0,
    )


def seal(project: Project) -> e.RunSealed:
    """The seal of what is there."""
    counts = {kind.value: count for kind, count in project.counts(RUN).items()}
    return e.RunSealed(events=sum(counts.values()), by_kind=counts, weights_digest=bytes_digest(b"trained"))


def build_true_record(path: Path, *, interrupted: bool = False, **sections: Any) -> Path:
    """A sealed run with true numbers at ``path``; ``sections`` change the recipe."""
    resolved = furnish(path.parent / f"{path.stem}-recipe", sections)
    prompts = load(resolved.config.prompts, resolved.base_dir)
    columns = sorted({name for row in prompts.rows for name in row.columns})
    seconds = load_seconds(resolved.config.rewards, resolved.base_dir, columns)
    with (
        RewardRunner(resolved.config.rewards, resolved.base_dir) as rewards,
        Project.open(path, mode="create") as project,
    ):
        run = _Run(resolved, project, prompts, rewards, seconds)
        run.register()
        run.decontaminate()
        run.probe()
        run.evaluate("pre")
        run.train(interrupted)
        run.finish()
    return path


Lie = Callable[[list[NewEvent]], list[NewEvent] | None]
"""Changes the events of a record in place, or returns others."""


def events_of(path: Path) -> list[NewEvent]:
    """The events of a record with their content, without its creation and its seal."""
    with Project.open(path, mode="read") as project:
        return [
            NewEvent(
                event.payload,
                event.run_id,
                {name: data for name in event.content if (data := project.content(event.seq, name)) is not None},
            )
            for event in project.events()
            if not isinstance(event.payload, e.ProjectCreated | e.RunSealed)
        ]


def resealed(honest: Sequence[NewEvent], path: Path, lie: Lie) -> Path:
    """The same record with a lie in it, signed anew by whoever has the key: nothing of level L0 is wrong with it."""
    events = list(honest)
    changed = lie(events) or events
    with Project.open(path, mode="create") as project:
        project.append(changed)
        project.append([NewEvent(seal(project), RUN)])
    return path
