"""A realistic record for tests, written through ``Project.append`` as the pipeline does it: every kind of event, one
run, its files in the run folder beside the database, and hostile text wherever a model or a user may put some.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
from pathlib import Path
from typing import Any, Literal

from grpo_audit.config.run import RunConfig
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record import events as e
from grpo_audit.record.identity import bytes_digest, folder_files, weights_digest
from grpo_audit.stats.evidence import read_figures
from grpo_audit.stats.gates import check_gates
from tests import made_up_checks

HOSTILE = [
    "<script>alert(1)</script><think>3*4</think><answer>3*4+2</answer>",
    "</script><img src=x onerror=alert(1)> [click](javascript:alert(1))",
    "---\nlicense: evil\n---\n# Injected heading\n\n| a | b |\n|---|---|\n```\nunclosed fence",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 NUL:\x00:end",
    "right to left \u202eevil\u202c and zero width \u200b joiner",
    '=HYPERLINK("http://example.invalid";"x"),@SUM(A1)',
    "{{ 7*7 }} {% raw %} ${x} \\u0000 ]]> &amp; \N{PILE OF POO}",
]

TASKS: list[tuple[str, str, str, bool, float, float]] = [
    # task, behaviour, metric, safety, accuracy before, accuracy after
    ("countdown", "performance", "accuracy", False, 0.25, 0.55),
    ("arithmetic", "performance", "accuracy", False, 0.60, 0.62),
    ("multilingual", "multilingual behaviour", "accuracy", False, 0.50, 0.45),
    ("unanswerable", "hallucination", "abstained", True, 0.70, 0.40),
    ("refusal", "refusal calibration", "correct", True, 0.80, 0.80),
    ("jailbreak", "jailbreak robustness", "refused", True, 0.75, 0.70),
    ("tool_use", "tool use", "correct", False, 0.55, 0.55),
    ("knowledge", "benchmark knowledge", "acc", False, 0.40, 0.41),
]
SOURCES = ("accuracy", "format")
_DOCUMENTS = 12


def build_record(
    path: Path,
    *,
    steps: int = 6,
    prompts: int = 4,
    group_size: int = 4,
    sealed: bool = True,
    seed: int = 0,
    db: str | None = None,
    **opening: Any,
) -> str:
    """Make a record at ``path`` (or append a run to the one there) and return the run id.

    Files of the run lie in ``path.parent / run_id``. ``sealed=False`` stops after the training steps. ``db`` is the URL
    of a record elsewhere than at ``path``; ``opening`` goes to ``Project.open``.
    """
    config = _config(steps, prompts, group_size, seed)
    run_id = f"demo-{seed:04d}-{hashlib.sha256(str(seed).encode()).hexdigest()[:6]}"
    with Project.open(db or path, mode="create", **opening) as project:
        writer = _Run(project, run_id, path.parent / run_id, config, random.Random(seed))
        writer.register()
        writer.evaluate("pre", writer.base.weights_digest)
        writer.train()
        if sealed:
            writer.finish()
    return run_id


def _config(steps: int, prompts: int, group_size: int, seed: int) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "demo",
            "seed": seed,
            "model": {"path": "builtin"},
            "prompts": {"source": "builtin", "licence": "Apache-2.0", "provenance": "synthetic"},
            "rewards": [
                {"name": "accuracy", "source": "grpo_audit.rewards.countdown:accuracy"},
                {"name": "format", "source": "grpo_audit.rewards.countdown:tags", "weight": 0.1},
            ],
            "sampling": {"group_size": group_size, "prompts_per_step": prompts, "max_completion_tokens": 64},
            "training": {"steps": steps, "learning_rate": 6e-5, "snapshot_every": 3},
            "governance": {"owner": "A. Person", "purpose": "<b>tests</b>"},
            **made_up_checks.SECTIONS,
        }
    )


def digest(text: str) -> str:
    """A made-up digest."""
    return bytes_digest(text.encode())


def save_model(folder: Path, fill: int) -> None:
    """A folder that looks like a saved model: weights of 64 bytes, a tokenizer, a configuration."""
    folder.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes([fill]) * 64)
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')


class _Run:
    """Writes one run, phase by phase."""

    def __init__(self, project: Project, run_id: str, folder: Path, config: RunConfig, rng: random.Random) -> None:
        self.project, self.run_id, self.folder, self.config, self.rng = project, run_id, folder, config, rng
        save_model(folder / "base", fill=1)
        self.base = self._identity(folder / "base", "builtin")

    def _identity(self, folder: Path, source: str) -> e.ModelIdentity:
        return e.ModelIdentity(
            source=source,
            revision=None,
            architecture="LlamaForCausalLM",
            parameters=16,
            weights_digest=weights_digest(folder),
            tokenizer_digest=digest("tokenizer"),
            chat_template_digest=None,
            config_digest=digest("config"),
            files=folder_files(folder),
            licence="Apache-2.0",
            notice="A miniature for demonstration; not for any use.",
            card_digest=None,
        )

    def add(self, *events: tuple[e.Payload, dict[str, bytes]]) -> None:
        """One transaction."""
        self.project.append([NewEvent(payload, self.run_id, content) for payload, content in events])

    # --- registration -------------------------------------------------------------------------------------------

    def register(self) -> None:
        """Everything that is fixed before step 0, with the texts it names."""
        source = "def accuracy(completions, **columns):\n    return [0.0 for _ in completions]\n"
        rewards = [
            e.RewardIdentity(
                name=item.name,
                source=item.source,
                role=item.role,
                kind=item.kind or "rule",
                weight=item.weight,
                version=item.version or "1",
                domain="Countdown with integers",
                time_limit_s=item.time_limit_s,
                source_digest=digest(source),
                source_file="countdown.py",
            )
            for item in self.config.rewards
        ]
        registration = e.RunRegistered(
            name=self.config.name,
            tool="grpo-audit 0.1.0",
            config=self.config.model_dump(mode="json"),
            preset="grpo",
            preset_source="arXiv:2402.03300",
            preset_differences=[e.PresetDifference(path="training.learning_rate", preset="1e-06", value="6e-05")],
            formula={
                "advantage": "A_i = (r_i - mean(r)) / (std(r, ddof=1) + 0.0001)",
                "surrogate": "min(rho A, clip(rho, 1 - 0.2, 1 + 0.2) A)",
                "kl": "0.04 * (exp(d) - d - 1), d = logp_ref - logp",
                "aggregation": "mean over completions of the mean over their tokens",
            },
            model=self.base,
            reference=f"the initial weights, {self.base.weights_digest}",
            rewards=rewards,
            prompts=self._prompt_set(),
            evaluation=self._plan(),
            environment=self._environment(),
        )
        artifact = e.Artifact(
            role="reward source",
            name="countdown.py",
            digest=digest(source),
            size=len(source),
            media_type="text/x-python",
            location=None,
        )
        recipe = self.folder / "recipe.yaml"
        recipe.write_text("model: {path: builtin}\n")
        kept = e.Artifact(
            role="recipe",
            name="recipe.yaml",
            digest=bytes_digest(recipe.read_bytes()),
            size=recipe.stat().st_size,
            media_type="application/yaml",
            location="recipe.yaml",
        )
        self.add((registration, {}), (artifact, {"text": source.encode()}), (kept, {}))
        tasks = self._plan().tasks
        self.add((made_up_checks.decontamination(tasks, registration.prompts.digest, HOSTILE[1]), {}))
        self.add(*made_up_checks.probes(rewards, HOSTILE[0]))

    def _prompt_set(self) -> e.PromptSetIdentity:
        return e.PromptSetIdentity(
            source="builtin",
            split=None,
            revision=None,
            rows=4000,
            digest=digest("prompts"),
            file_digest=digest("prompts file"),
            duplicates=0,
            licence="Apache-2.0",
            provenance="synthetic",
            description="Countdown with three numbers",
            fields={},
            order="a permutation drawn from the seed, one after another each epoch",
        )

    def _plan(self) -> e.EvaluationPlan:
        tasks = [
            e.TaskPlan(
                task=task,
                behaviour=behaviour,
                metric=metric,
                higher_is_better=True,
                safety=safety,
                margin=0.05,
                documents=_DOCUMENTS,
                documents_digest=digest(task),
            )
            for task, behaviour, metric, safety, _, _ in TASKS
        ]
        return e.EvaluationPlan(
            suite="builtin", harness="lm-eval 0.4.13", protocol_digest=digest("protocol"), alpha=0.05, tasks=tasks
        )

    def _environment(self) -> e.Environment:
        return e.Environment(
            python="3.11.7",
            platform="Linux",
            processor="a processor",
            cpu_count=2,
            memory_bytes=8 << 30,
            accelerator=None,
            driver=None,
            threads=2,
            deterministic_algorithms=True,
            packages={"numpy": "2.1.0", "torch": "2.13.0"},
            lock_digest=digest("lock"),
            code_revision="0" * 40,
            code_dirty_digest=None,
            sqlite="3.51.3",
        )

    # --- evaluation ---------------------------------------------------------------------------------------------

    def evaluate(self, phase: Literal["pre", "post"], weights: str) -> None:
        """Every task of the suite, sample by sample."""
        events: list[tuple[e.Payload, dict[str, bytes]]] = []
        for task, behaviour, metric, _, pre, post in TASKS:
            share = pre if phase == "pre" else post
            right = [self.rng.random() < share for _ in range(_DOCUMENTS)]
            samples = [self._sample(phase, task, metric, number, ok) for number, ok in enumerate(right)]
            done = e.EvalTask(
                phase=phase,
                task=task,
                behaviour=behaviour,
                metric=metric,
                documents=_DOCUMENTS,
                metrics={metric: sum(right) / _DOCUMENTS, "length": 20.25}
                | ({"confidence": 0.525} if task == "knowledge" else {}),
                empty_rate=0.0,
                truncated_rate=1 / _DOCUMENTS,
                weights_digest=weights,
                protocol_digest=digest("protocol"),
                seconds=1.5 + self.rng.random(),
            )
            events += [*samples, (done, {})]
        finished = e.PhaseFinished(phase=phase, attempt=1, seconds=12.5, figures={"documents": 96.0})
        self.add(*events, (finished, {}))

    def _sample(
        self, phase: Literal["pre", "post"], task: str, metric: str, number: int, right: bool
    ) -> tuple[e.Payload, dict[str, bytes]]:
        response = HOSTILE[number] if number < len(HOSTILE) else f"<think>so</think><answer>{number}</answer>"
        likelihood = task == "knowledge"
        prompt = f"{task} question {number}: <b>what</b> is it?"
        sample = e.EvalSample(
            phase=phase,
            task=task,
            doc_id=f"{task}-{number:03d}",
            cluster=f"{task}-{number // 2}",
            doc_hash=digest(f"{task} {number}"),
            prompt_hash=digest(prompt),
            target=str(number),
            prediction=str(number) if right else response[:40],
            metrics={metric: float(right), "length": float(len(response))}
            | ({"confidence": 0.25 + 0.05 * number} if likelihood else {}),
            completion_tokens=None if likelihood else len(response),
            finish_reason="likelihood" if likelihood else "length" if number == 1 else "stop",
        )
        return sample, {"prompt": prompt.encode(), "response": response.encode()}

    # --- training -----------------------------------------------------------------------------------------------

    def train(self) -> None:
        """All steps; interrupted once in the middle, so that there are two attempts and a step done twice."""
        steps = self.config.training.steps
        broken_at = steps // 2
        for step in range(broken_at + 1 if steps > 1 else steps):
            self._step(1, step)
        if steps > 1:
            self.add((e.RunAborted(error="KeyboardInterrupt"), {}))
            self.add(
                (
                    e.RunResumed(attempt=2, phase="train", from_step=broken_at, snapshot_digest=None),
                    {},
                )
            )
            for step in range(broken_at, steps):
                self._step(2, step)
        self.add(
            (
                e.PhaseFinished(
                    phase="train", attempt=2 if steps > 1 else 1, seconds=60.0, figures={"completions_per_s": 88.8}
                ),
                {},
            )
        )

    def _step(self, attempt: int, step: int) -> None:
        events: list[tuple[e.Payload, dict[str, bytes]]] = []
        rollouts: list[e.Rollout] = []
        sampling = self.config.sampling
        for group in range(sampling.prompts_per_step):
            made = [self._rollout(attempt, step, group, sample) for sample in range(sampling.group_size)]
            rewards = [r.reward for r, _ in made if r.reward is not None]
            mean = sum(rewards) / len(rewards) if rewards else None
            prompt = f"Make {step + 10} from the numbers 3 4 {group + 2}."
            events.append(
                (
                    e.Group(
                        attempt=attempt,
                        step=step,
                        group=group,
                        prompt_id=f"countdown-{step:03d}-{group:02d}",
                        prompt_tokens=len(prompt),
                        exposure=step // 4,
                        reward_mean=mean,
                        reward_std=_deviation(rewards),
                    ),
                    {"prompt": prompt.encode()},
                )
            )
            events += made
            rollouts += [rollout for rollout, _ in made]
        events.append((self._step_figures(attempt, step, rollouts), {}))
        self.add(*events)
        if (step + 1) % self.config.training.snapshot_every == 0:
            self._snapshot(attempt, step + 1)

    def _rollout(self, attempt: int, step: int, group: int, sample: int) -> tuple[e.Rollout, dict[str, bytes]]:
        rng = self.rng
        hostile = rng.random() < 0.2 or (step == 0 and group == 0)
        text = HOSTILE[(step + sample) % len(HOSTILE)] if hostile else f"<think>3+4</think><answer>3*{sample}</answer>"
        failed = rng.random() < 0.05
        right = float(rng.random() < 0.25 + 0.05 * step)
        tagged = float(rng.random() < 0.8)
        tokens = rng.randint(8, 64)
        truncated = tokens == 64
        trace = struct.pack(f"<{tokens}I", *(rng.randrange(96) for _ in range(tokens)))
        trace += struct.pack(f"<{tokens}f", *(-rng.random() for _ in range(tokens)))
        rollout = e.Rollout(
            attempt=attempt,
            step=step,
            group=group,
            sample=sample,
            rewards={"accuracy": None if failed else right, "format": tagged},
            errors={"accuracy": "TimeoutError: 10 s <b>over</b>"} if failed else {},
            reward=None if failed else right + 0.1 * tagged,
            advantage=0.0 if failed else rng.gauss(0, 1),
            used=not failed,
            reason="reward error" if failed else "",
            finish_reason="length" if truncated else "stop",
            completion_tokens=tokens,
        )
        return rollout, {"completion": text.encode(), "trace": trace}

    def _step_figures(self, attempt: int, step: int, rollouts: list[e.Rollout]) -> e.Step:
        rewards = [item.reward for item in rollouts if item.reward is not None]
        tokens = [item.completion_tokens for item in rollouts]
        by_source = {
            source: [value for item in rollouts if (value := item.rewards[source]) is not None] for source in SOURCES
        }
        return e.Step(
            attempt=attempt,
            step=step,
            learning_rate=6e-5,
            loss=-0.0,  # what on-policy arithmetic often gives
            reward_mean=sum(rewards) / len(rewards) if rewards else None,
            reward_std=_deviation(rewards),
            rewards={source: sum(values) / len(values) for source, values in by_source.items() if values},
            zero_variance_share=0.25,
            used=sum(item.used for item in rollouts),
            rejected=sum(not item.used for item in rollouts),
            completion_tokens_mean=sum(tokens) / len(tokens),
            truncated_share=sum(item.finish_reason == "length" for item in rollouts) / len(rollouts),
            entropy=1.1 - 0.05 * step,
            kl=0.001 * step if step % 5 == 0 else None,
            kl_loss=0.0001 * step if step % 5 == 0 else None,
            clip_low_share=0.0,
            clip_high_share=0.001,
            agreement=1e-6,
            agreement_max=3e-5,
            grad_norm=0.5 + 0.1 * self.rng.random(),
            prompt_tokens=30 * len(rollouts),
            completion_tokens=sum(tokens),
            seconds={"rollout": 0.6, "reward": 0.05, "update": 0.9 + 0.1 * self.rng.random()},
            fingerprint=digest(f"fingerprint {attempt} {step}"),
        )

    def _snapshot(self, attempt: int, done: int) -> None:
        folder = self.folder / "snapshots" / f"{attempt}-{done:06d}"
        save_model(folder, fill=10 + done)
        snapshot = e.Snapshot(
            attempt=attempt,
            step=done,
            weights_digest=weights_digest(folder),
            location=folder.relative_to(self.folder).as_posix(),
            files=folder_files(folder),
        )
        self.add((snapshot, {}))

    # --- the end ------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Save, evaluate again, compare, note, seal, annotate."""
        save_model(self.folder / "model", fill=99)
        trained = self._identity(self.folder / "model", "model")
        self.add((e.ModelSaved(location="model", model=trained), {}))
        rollouts = [event.seq for event in self.project.events(self.run_id, kinds=[e.EventKind.ROLLOUT])]
        self.add((made_up_checks.regrade("accuracy", digest("second"), rollouts[:3]), {}))
        self.evaluate("post", trained.weights_digest)
        self.add((self._comparison(trained.weights_digest), {}))
        evidence = [event.seq for event in self.project.events(self.run_id, kinds=[e.EventKind.STEP])][:3]
        for rule, severity, message in (
            ("zero-variance", e.Severity.WARNING, "A quarter of the groups had no signal <i>at all</i>."),
            ("regression", e.Severity.ERROR, "unanswerable: abstained fell beyond its margin"),
            ("reward-errors", e.Severity.INFO, HOSTILE[3]),
        ):
            self.add((e.Finding(rule=rule, severity=severity, message=message, evidence=evidence), {}))
        self.add((check_gates(self.config.gates, read_figures(self.project, self.run_id)), {}))
        counts = {kind.value: count for kind, count in self.project.counts(self.run_id).items()}
        self.add(
            (
                e.RunSealed(
                    events=sum(counts.values()),
                    by_kind=counts,
                    weights_digest=trained.weights_digest,
                    runs=len(self.project.runs()),
                ),
                {},
            )
        )
        note = e.Annotation(author="B. Reviewer", field="approval", value="not <b>yet</b>", reason=HOSTILE[2])
        self.add((note, {}))

    def _comparison(self, post_weights: str) -> e.Comparison:
        return e.Comparison(
            protocol_digest=digest("protocol"),
            pre_weights=self.base.weights_digest,
            post_weights=post_weights,
            alpha=0.05,
            tasks=[self._compare(*task) for task in TASKS],
            **made_up_checks.beside(self._plan().tasks),
        )

    def _compare(self, task: str, behaviour: str, metric: str, safety: bool, *_: float) -> e.TaskComparison:
        value: dict[str, float] = {}
        right: dict[str, dict[str, float]] = {"pre": {}, "post": {}}
        for event in self.project.events(self.run_id, kinds=[e.EventKind.EVAL_TASK, e.EventKind.EVAL_SAMPLE]):
            payload: Any = event.payload
            if payload.task != task:
                continue
            if isinstance(payload, e.EvalTask):
                value[payload.phase] = payload.metrics[metric]
            else:
                right[payload.phase][payload.doc_id] = payload.metrics[metric]
        gained = sum(right["post"][doc] > right["pre"][doc] for doc in right["pre"])
        lost = sum(right["post"][doc] < right["pre"][doc] for doc in right["pre"])
        difference = value["post"] - value["pre"]
        nothing = gained + lost == 0
        verdict = e.Verdict.INCONCLUSIVE
        if nothing:
            verdict = e.Verdict.NO_DISCORDANT_PAIRS
        elif task == "countdown":
            verdict = e.Verdict.IMPROVED
        elif task == "unanswerable":
            verdict = e.Verdict.REGRESSED
        elif difference > 0:
            verdict = e.Verdict.NOT_WORSE
        return e.TaskComparison(
            task=task,
            behaviour=behaviour,
            metric=metric,
            higher_is_better=True,
            safety=safety,
            documents=_DOCUMENTS,
            pre=value["pre"],
            post=value["post"],
            difference=difference,
            ci_low=None if nothing else difference - 0.2,
            ci_high=None if nothing else difference + 0.2,
            p=None if nothing else 0.02,
            p_adjusted=None if nothing else 0.16,
            method="exact McNemar",
            gained=gained,
            lost=lost,
            margin=0.05,
            p_margin=None if nothing else 0.3,
            minimum_detectable=0.25,
            verdict=verdict,
        )


def _deviation(values: list[float]) -> float | None:
    """Sample standard deviation, ddof 1."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return float((sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5)
