"""(28) Evaluations: means from their samples, and the same documents as planned, before and after."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np

from grpo_audit.record.events import EvalSample, EvalTask, EvaluationPlan, RunRegistered
from grpo_audit.refusal.judged import Judgements
from grpo_audit.verify.recompute.compare import same, shown
from grpo_audit.verify.recompute.registration import plain_digest
from grpo_audit.verify.recompute.stream import Item
from grpo_audit.verify.verdict import Tally


class EvaluationCheck:
    """Follows the evaluation events of a run, and keeps the samples for the comparison."""

    def __init__(self, registered: RunRegistered, tally: Tally) -> None:
        self._tally = tally
        self._plan: EvaluationPlan | None = registered.evaluation
        self.samples: dict[tuple[str, str], list[EvalSample]] = defaultdict(list)
        """By phase and task."""
        self.responses: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        """By phase and task, then document: digest of the raw response."""
        self.tasks: dict[tuple[str, str], tuple[int, EvalTask]] = {}
        self.judged = None if self._plan is None else Judgements(self._plan)
        """Answers to tasks about refusing, as the detector sees them."""
        self.erased_responses = False
        self._erased = 0

    def sample(self, item: Item) -> None:
        """One answered document."""
        payload = item.event.payload
        assert isinstance(payload, EvalSample)
        key = (payload.phase, payload.task)
        self.samples[key].append(payload)
        self._tally.saw()
        prompt, response = item.content.get("prompt"), item.content.get("response")
        if prompt is None:
            self._erased += 1
        elif plain_digest(prompt) != payload.prompt_hash:
            self._tally.wrong(f"event {item.event.seq}: the prompt of {payload.doc_id!r:.40} is not the one hashed")
        if self.judged is not None:
            self.judged.add(payload, response)
        if response is None:
            self.erased_responses = True
        else:
            self.responses[key][payload.doc_id] = hashlib.sha256(response).hexdigest()

    def task(self, seq: int, payload: EvalTask) -> None:
        """All documents of a task are there: compare its figures with them."""
        key = (payload.phase, payload.task)
        where = f"{payload.task} ({payload.phase}, event {seq})"
        self._tally.saw()
        if key in self.tasks:
            self._tally.wrong(f"{where} was evaluated twice")
        self.tasks[key] = (seq, payload)
        samples = self.samples.get(key, [])
        if len(samples) != payload.documents or not samples:
            self._tally.wrong(f"{where} states {payload.documents} documents, {len(samples)} samples are recorded")
            return
        self._against_plan(where, payload, samples)
        self._means(where, payload, samples)

    def _means(self, where: str, payload: EvalTask, samples: list[EvalSample]) -> None:
        names = set(payload.metrics) | {name for sample in samples for name in sample.metrics}
        for name in sorted(names):
            self._tally.saw()
            values = [sample.metrics[name] for sample in samples if name in sample.metrics]
            found = float(np.mean(values)) if len(values) == len(samples) else None
            scale = max((abs(value) for value in values), default=1.0)
            if not same(payload.metrics.get(name), found, scale=scale):
                self._tally.wrong(
                    f"{where}: {name} is {shown(payload.metrics.get(name))}, its samples give {shown(found)}"
                )
        generated = [sample.finish_reason == "length" for sample in samples if sample.finish_reason != "likelihood"]
        cut = float(np.mean(generated)) if generated else None
        if not same(payload.truncated_rate, cut):
            self._tally.wrong(f"{where}: truncated rate {shown(payload.truncated_rate)}, its samples give {shown(cut)}")

    def _against_plan(self, where: str, payload: EvalTask, samples: list[EvalSample]) -> None:
        planned = next((task for task in self._plan.tasks if task.task == payload.task), None) if self._plan else None
        if self._plan is None or planned is None:
            self._tally.wrong(f"{where} was not planned before step 0")
            return
        self._tally.saw(2)
        if payload.protocol_digest != self._plan.protocol_digest:
            self._tally.wrong(f"{where} was made under another protocol than planned")
        if (payload.metric, payload.behaviour) != (planned.metric, planned.behaviour):
            self._tally.wrong(f"{where} states metric {payload.metric!r}, planned {planned.metric!r}")
        digest = hashlib.sha256("".join(f"{sample.doc_hash}\n" for sample in samples).encode()).hexdigest()
        if len(samples) != planned.documents or f"sha256:{digest}" != planned.documents_digest:
            self._tally.wrong(f"{where} was made on other documents than planned, or in another order")

    def finish(self, *, sealed: bool) -> None:
        """Both phases asked the same; a sealed run has every planned task in both."""
        for phase, task in self.samples:
            if (phase, task) not in self.tasks:
                self._tally.wrong(f"{task} ({phase}) has samples and no result")
        for name in sorted({task for _, task in self.samples}):
            pre, post = self.samples.get(("pre", name)), self.samples.get(("post", name))
            if pre is None or post is None:
                continue
            self._tally.saw()
            asked = [
                [(item.doc_id, item.doc_hash, item.prompt_hash, item.cluster) for item in side] for side in (pre, post)
            ]
            if asked[0] != asked[1]:
                self._tally.wrong(f"{name}: documents or prompts differ before and after")
        if sealed and self._plan is not None:
            for planned in self._plan.tasks:
                for phase in ("pre", "post"):
                    if (phase, planned.task) not in self.tasks:
                        self._tally.wrong(f"{planned.task} was planned and is not in the {phase} evaluation")
        if self._erased:
            self._tally.remark(f"{self._erased} prompts erased")
        self._tally.nothing("nothing was evaluated")
