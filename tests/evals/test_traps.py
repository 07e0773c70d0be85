"""lm-eval's traps, one test each: first that lm-eval (as pinned) really falls into it, then that we do not."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

import lm_eval.api.task
import lm_eval.evaluator
import lm_eval.evaluator_utils
import pytest
from lm_eval.api.model import LM, CachingLM
from lm_eval.models.utils import postprocess_generated_text
from scipy.stats import norm

from grpo_audit.config.sections import EvaluationConfig
from grpo_audit.contamination.check import PromptText, check
from grpo_audit.contamination.documents import Document as Text
from grpo_audit.contamination.index import Index
from grpo_audit.errors import ComparisonError, EvaluationError
from grpo_audit.record.events import EvalSample, Verdict
from grpo_audit.stats.paired import Side, compare
from grpo_audit_evals import harness
from grpo_audit_evals.documents import documents_digest
from grpo_audit_evals.lm import answer_of
from grpo_audit_evals.metrics import by_document
from grpo_audit_evals.run import TaskResult, evaluate
from grpo_audit_evals.suite import Suite, load_suite
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.rollout.answers import Completion

from .conftest import ASSETS

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


class _Says(LM):
    """Answers everything with one text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def generate_until(self, requests: Any) -> list[str]:
        return [self._text for _ in requests]

    def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
        return [(-1.0 - number, False) for number, _ in enumerate(requests)]

    def loglikelihood_rolling(self, requests: Any) -> Any:
        raise AssertionError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny suite that a test may spoil."""
    return Path(shutil.copytree(ASSETS / "tiny", tmp_path / "tiny"))


def load(folder: Path, task: str, **settings: Any) -> Suite:
    """One task of a folder."""
    return load_suite(EvaluationConfig(suite=str(folder), tasks=[task], **settings), folder)


def theirs(model: LM, suite: Suite, **options: Any) -> dict[str, Any]:
    """lm-eval's own evaluation of the one task of a suite."""
    (item,) = suite.tasks
    item.task._instances = None
    with harness.quiet():
        found: dict[str, Any] = lm_eval.evaluator.evaluate(
            model, {"tasks": {item.name: item.task}}, bootstrap_iters=0, **options
        )
    return found


def ours(suite: Suite, policy: Policy, weights: str = ONE, cache: Path | None = None) -> TaskResult:
    """Our evaluation of the one task of a suite."""
    (found,) = evaluate(suite, policy, phase="pre", weights_digest=weights, cache=cache)
    return found


def side(result: TaskResult, weights: str) -> Side:
    """What the comparison takes."""
    return Side(
        weights=weights,
        protocol=result.task.protocol_digest,
        samples={result.task.task: [sample.payload for sample in result.samples]},
    )


def test_trap_1_a_cache_without_a_model_in_its_key(
    folder: Path, make_policy: Callable[..., Policy], tmp_path: Path
) -> None:
    """lm-eval's cache gives the second model the first one's answers. Ours, in one folder, gives each model what it
    says without a cache; its file names hold the digests of weights and protocol."""
    suite = load(folder, "tiny_generate")
    for text in ("first", "second"):
        logged = theirs(CachingLM(_Says(text), str(tmp_path / "cache.db")), suite)["samples"]["tiny_generate"]
        assert {sample["resps"][0][0] for sample in logged} == {"first"}
    before, after = make_policy(0), make_policy(1)
    pre = ours(suite, before, ONE, tmp_path / "answers")
    post = ours(suite, after, TWO, tmp_path / "answers")
    alone = ours(suite, after, TWO)
    assert [s.response for s in post.samples] == [s.response for s in alone.samples]
    assert [s.response for s in post.samples] != [s.response for s in pre.samples]
    assert post.reused == 0
    names = sorted(path.name for path in (tmp_path / "answers").iterdir())
    protocol = suite.plan.protocol_digest.removeprefix("sha256:")[:32]
    assert names == [f"answers-{digit * 32}-{protocol}.sqlite" for digit in "12"]


def test_trap_2_chosen_documents_are_logged_under_wrong_ids(folder: Path, policy: Policy) -> None:
    """Asked for documents 5 and 3, lm-eval logs 5 with the content of 3. We join on content as well as position, and
    refuse; what we record is the document's own id."""
    suite = load(folder, "tiny_generate")
    logged = theirs(_Says("x"), suite, samples={"tiny_generate": [5, 3]})["samples"]["tiny_generate"]
    assert [(sample["doc_id"], sample["doc"]["id"]) for sample in logged] == [(5, "p03"), (3, "p05")]
    with pytest.raises(EvaluationError, match="changed between loading and scoring"):
        by_document("tiny_generate", suite.tasks[0].documents, logged)
    whole = theirs(_Says("x"), suite)["samples"]["tiny_generate"]
    whole[3]["doc_id"], whole[4]["doc_id"] = 4, 3
    with pytest.raises(EvaluationError, match="changed between loading and scoring"):
        by_document("tiny_generate", suite.tasks[0].documents, whole)
    assert [sample.payload.doc_id for sample in ours(suite, policy).samples] == [f"p{n:02d}" for n in range(24)]


@pytest.mark.parametrize(
    ("task", "file", "old", "new"),
    [
        ("tiny_generate", "tiny_generate.yaml", "max_gen_toks: 24", "max_gen_toks: 12"),
        ("tiny_generate", "scoring.py", "len(text)", "len(text) * 2"),
        ("tiny_filters", "tiny_filters.yaml", "^([a-z])", "([a-z])$"),
    ],
)
def test_trap_3_the_task_hash_does_not_see_what_decides_the_score(
    folder: Path, policy: Policy, task: str, file: str, old: str, new: str
) -> None:
    """Generation settings, scorer or filter change: lm-eval's hash over its samples stays. Our protocol digest does
    not, and comparing the two is refused."""
    hashes, results, plans = [], [], []
    for change in (False, True):
        if change:
            text = (folder / file).read_text()
            assert old in text
            (folder / file).write_text(text.replace(old, new))
        suite = load(folder, task)
        logged = theirs(_Says("x"), suite)["samples"][task]
        hashes.append([sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"] for sample in logged])
        results.append(ours(suite, policy, (ONE, TWO)[change]))
        plans.append(suite.plan)
    assert hashes[0] == hashes[1]
    assert plans[0].protocol_digest != plans[1].protocol_digest
    with pytest.raises(ComparisonError, match="protocol"):
        compare(plans[0], side(results[0], ONE), side(results[1], TWO))


def test_trap_4_the_trace_is_kept() -> None:
    """lm-eval's think_end_token throws the trace away, and where it never comes takes the trace for the answer. Our raw
    answer is all that was written, and the scorer gets all of it up to the stop string, trace and tags included."""
    closed, open_ = "<think>2+2</think>4", "<think>2+2 is 4 or"
    assert postprocess_generated_text(closed, ["\n"], "</think>") == "4"
    assert postprocess_generated_text(open_, ["\n"], "</think>") == open_
    for text in (closed, open_):
        answer = answer_of(Completion(text, text + "</s>", [5, 6, 1], "stop"), "</s>")
        assert (answer.raw, answer.text) == (text + "</s>", text)


def test_trap_4_on_a_real_model() -> None:
    """The model that ships with the project thinks aloud: its traces are in the recorded answers."""
    from grpo_audit.config.sections import ModelConfig

    suite = load_suite(EvaluationConfig(suite="builtin", tasks=["builtin_countdown"], limit=3), Path())
    result = ours(suite, Policy.load(ModelConfig(path="builtin", device="cpu"), Path()))
    assert all(b"<think>" in sample.response for sample in result.samples)


def test_trap_5_noise_scores_perfectly_and_the_rates_show_it(folder: Path, policy: Policy) -> None:
    """Random weights never call a tool, so they abstain perfectly; that nearly all answers were cut off or empty is
    recorded beside the score, and can be derived from the samples."""
    (folder / "scoring.py").write_text(
        'def score(doc, results):\n    return {"abstained": float("call(" not in results[0])}\n'
    )
    path = folder / "tiny_generate.yaml"
    text = path.read_text()
    path.write_text(
        text[: text.index("metric_list:")].replace('["ab", "\\n", "</s>"]', '["call("]')
        + "metric_list: [{metric: abstained, aggregation: mean, higher_is_better: true}]\n"
    )
    result = ours(load(folder, "tiny_generate"), policy)
    assert result.task.metrics["abstained"] == 1.0
    assert result.task.truncated_rate is not None and result.task.empty_rate is not None
    assert result.task.truncated_rate + result.task.empty_rate > 0.5
    assert result.task.truncated_rate == fmean(sample.payload.finish_reason == "length" for sample in result.samples)


def test_trap_6_relative_data_files_are_relative_to_the_task(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another directory lm-eval does not find the data of a task file; we do, and the protocol is the same."""
    here = load(folder, "tiny_choice")
    monkeypatch.chdir(tmp_path)
    manager = harness.task_index(folder, defaults=False)
    with pytest.raises(FileNotFoundError), harness.quiet(), harness.offline():
        manager.load(["tiny_choice"])
    assert load(folder, "tiny_choice").protocol == here.protocol


def test_trap_7_what_cannot_be_aggregated_shows_before_anything_is_generated(
    folder: Path, tmp_path: Path, policy: Policy
) -> None:
    """A text among the metrics, and choices of different number with a Brier score, crash lm-eval after the last
    answer. The first is left out with the reason when the suite is loaded, and the second has a score here."""
    (folder / "scoring.py").write_text(
        'def score(doc, results):\n    return {"overlap": float(len(results[0])), "length": "long"}\n'
    )
    text = load(folder, "tiny_generate")
    with pytest.raises(TypeError):
        theirs(_Says("x"), text)
    assert text.tasks[0].left_out == ("length (not a finite number on every document)",)
    assert set(ours(text, policy).task.metrics) == {"overlap"}
    rows = [{"q": "a", "choices": ["x", "y"], "label": 0}, {"q": "b", "choices": ["x", "y", "z"], "label": 2}]
    (tmp_path / "ragged").mkdir()
    (tmp_path / "ragged/data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "ragged/task.yaml").write_text(
        "task: ragged\ndataset_path: json\ndataset_kwargs: {data_files: {test: data.jsonl}}\ntest_split: test\n"
        'output_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_choice: "{{choices}}"\n'
        'doc_to_target: "{{label}}"\nmetric_list: [{metric: brier_score, higher_is_better: false}]\n'
    )
    ragged = load(tmp_path / "ragged", "ragged")
    with pytest.raises(ValueError, match="inhomogeneous"):
        theirs(_Says("x"), ragged)
    assert 0 <= ours(ragged, policy).task.metrics["brier_score"] <= 2


def test_trap_8_its_decontamination_does_nothing(folder: Path) -> None:
    """lm-eval's task files have the keys, and its evaluator never reads them: an evaluation with them is the one
    without. Our own check finds the document that was planted among the prompts, and no other."""
    path = folder / "tiny_generate.yaml"
    before = theirs(_Says("x"), load(folder, "tiny_generate"))
    path.write_text(path.read_text() + "should_decontaminate: true\ndoc_to_decontamination_query: question\n")
    after = theirs(_Says("x"), load(folder, "tiny_generate"))
    assert before["results"] == after["results"]
    assert "decontam" not in inspect.getsource(lm_eval.evaluator) + inspect.getsource(lm_eval.evaluator_utils)
    texts = [
        f"a man with {n} {what} walks to the {where} and gives {n + 3} of them to his {whom} before noon"
        for n, what, where, whom in [
            (4, "plums", "mill", "aunt"),
            (9, "ropes", "quay", "crew"),
            (7, "hats", "fair", "boss"),
        ]
    ]
    documents = [Text("t", f"d{number}", text) for number, text in enumerate(texts)]
    prompts = [
        PromptText("p0", "what is the sum of two and five"),
        PromptText("p1", f"Q: {texts[1]}. How many are left?"),
    ]
    found = check(Index(documents), prompts)
    assert [(item.id, item.examples) for item in found.contaminated] == [("d1", ["p1"])]


def test_trap_9_an_unpaired_test_does_not_see_what_a_paired_one_sees(folder: Path, policy: Policy) -> None:
    """Of 400 documents 14 are gained and 1 is lost. The z-test on two independent means, as in lm-eval's comparison
    script, says nothing (p > 0.2); the comparison of pairs says improved."""
    suite = load(folder, "tiny_generate")
    (item,) = suite.tasks
    (template, *_) = ours(suite, policy).samples

    def sample(number: int, value: float) -> EvalSample:
        digest = f"sha256:{number:064x}"
        changes: dict[str, Any] = {"doc_id": f"d{number}", "cluster": f"d{number}", "doc_hash": digest}
        return template.payload.model_copy(update=changes | {"metrics": {"overlap": value}})

    pre = [float(number % 2) for number in range(400)]
    post = list(pre)
    for number in range(0, 28, 2):
        post[number] = 1.0
    post[1] = 0.0
    errors = [fmean((x - fmean(values)) ** 2 for x in values) / 399 for values in (pre, post)]
    assert 2 * norm.sf(abs(fmean(post) - fmean(pre)) / sqrt(sum(errors))) > 0.2
    digests = [f"sha256:{number:064x}" for number in range(400)]
    planned = item.plan.model_copy(update={"documents": 400, "documents_digest": documents_digest(digests)})
    plan = suite.plan.model_copy(update={"tasks": [planned]})
    sides = [
        Side(
            weights=weights,
            protocol=plan.protocol_digest,
            samples={"tiny_generate": [sample(number, value) for number, value in enumerate(values)]},
        )
        for weights, values in ((ONE, pre), (TWO, post))
    ]
    (compared,) = compare(plan, *sides).comparison.tasks
    assert (compared.gained, compared.lost) == (14, 1)
    assert compared.verdict is Verdict.IMPROVED and compared.p is not None and compared.p < 0.01
