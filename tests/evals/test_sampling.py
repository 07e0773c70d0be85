"""Tasks that are answered several times: the noise, the scoring of each answer, avg@n and pass@k."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from lm_eval.api.model import LM
from scipy.stats import chisquare

from grpo_audit.config.sections import EvaluationConfig
from grpo_audit.errors import EvaluationError
from grpo_audit.record.identities import TaskPlan
from grpo_audit.verify.recompute.evaluation import EvaluationCheck
from grpo_audit.verify.recompute.stream import Item
from grpo_audit.verify.verdict import Tally
from grpo_audit_evals import harness
from grpo_audit_evals.run import TaskResult, evaluate
from grpo_audit_evals.sampling import pass_at, with_pass_at_k
from grpo_audit_evals.suite import Suite, load_suite
from grpo_audit_trainer.policy import Policy

from .conftest import ASSETS

WEIGHTS = "sha256:" + "1" * 64


def sampled_suite(folder: Path, *, repeats: int = 4, temperature: float = 1.5, limit: int | None = None) -> Suite:
    """The two generation tasks of the tiny suite, sampled."""
    if not folder.exists():
        shutil.copytree(ASSETS / "tiny", folder)
        for name in ("tiny_choice", "tiny_likelihood"):
            (folder / f"{name}.yaml").unlink()
    for name, old in (("tiny_generate", "do_sample: false"), ("tiny_filters", "temperature: 0.0")):
        text = (ASSETS / "tiny" / f"{name}.yaml").read_text()
        text = text.replace(old, f"temperature: {temperature}").replace(
            "metric_list:", f"repeats: {repeats}\nmetric_list:"
        )
        (folder / f"{name}.yaml").write_text(text)
    return load_suite(EvaluationConfig(suite=str(folder), batch_size=8, limit=limit), folder)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Four answers a document."""
    return sampled_suite(tmp_path / "s")


def run(suite: Suite, policy: Policy) -> dict[str, TaskResult]:
    """All tasks by name."""
    return {r.task.task: r for r in evaluate(suite, policy, phase="pre", weights_digest=WEIGHTS)}


def answers(result: TaskResult) -> list[list[str]]:
    """The raw answers of each document."""
    return [json.loads(sample.response) for sample in result.samples]


def test_each_document_gets_several_different_answers(suite: Suite, policy: Policy) -> None:
    """The response is the JSON list of them; the prediction that of the filtered ones; twice gives the same."""
    first, second = run(suite, policy), run(suite, policy)
    for name, result in first.items():
        assert all(len(texts) == 4 for texts in answers(result))
        assert sum(len(set(texts)) == 4 for texts in answers(result)) > 12
        assert all(len(json.loads(sample.payload.prediction)) == 4 for sample in result.samples)
        assert answers(second[name]) == answers(result)


def test_the_plan_and_the_protocol_say_how_answers_are_drawn(suite: Suite, tmp_path: Path) -> None:
    """Number of answers and temperature are fixed before step 0, and another of either is another protocol."""
    assert {(task.samples, task.temperature) for task in suite.plan.tasks} == {(4, 1.5)}
    decoding = json.loads(suite.protocol)["tasks"]["tiny_generate"]["decoding"]
    assert (decoding["samples"], decoding["temperature"], decoding["seed"]) == (4, 1.5, 1234)
    digests = {suite.plan.protocol_digest}
    for settings in ({"repeats": 3}, {"temperature": 1.4}):
        digests.add(sampled_suite(tmp_path / "s", **settings).plan.protocol_digest)  # type: ignore[arg-type]
    assert len(digests) == 3


def test_plans_recorded_before_there_was_sampling_still_load(tiny_suite: Suite) -> None:
    """An old plan has neither field, and means one greedy answer."""
    old = tiny_suite.plan.tasks[0].model_dump(exclude={"samples", "temperature"})
    plan = TaskPlan.model_validate(old)
    assert (plan.samples, plan.temperature) == (1, None)
    assert plan == tiny_suite.plan.tasks[0]


def test_answers_do_not_depend_on_the_batch(suite: Suite, policy: Policy, tmp_path: Path) -> None:
    """Other rows beside them, fewer documents, more samples after them: the answers stay what they are."""
    expected = answers(run(suite, policy)["tiny_generate"])
    other_rows = Suite(suite.plan, suite.tasks, suite.protocol, 3)
    assert answers(run(other_rows, policy)["tiny_generate"]) == expected
    fewer = sampled_suite(tmp_path / "s", limit=5)
    assert answers(run(fewer, policy)["tiny_generate"]) == expected[:5]
    more = sampled_suite(tmp_path / "s", repeats=6)
    assert [texts[:4] for texts in answers(run(more, policy)["tiny_generate"])] == expected


def test_before_and_after_get_the_same_noise(suite: Suite, make_policy: Callable[..., Policy], tmp_path: Path) -> None:
    """Weights that hardly changed give hardly any other answers, though at this temperature two draws with noise of
    their own nearly always differ: what is paired differs by the weights alone."""
    before, after = make_policy(5), make_policy(5)
    with torch.no_grad():
        for parameter in after.model.parameters():
            parameter.mul_(1.0 + 1e-5)
    one, two = (answers(run(suite, policy)["tiny_generate"]) for policy in (before, after))
    same = fmean(a == b for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))
    independent = fmean(x[i] == x[j] for x in one for i, j in itertools.combinations(range(4), 2))
    assert same > 0.9 and independent < 0.1


def test_answers_follow_the_distribution_at_the_temperature(policy: Policy, tmp_path: Path) -> None:
    """First tokens of 3,000 samples of one document against softmax(logits / T): a chi-square test sees no difference,
    and sees one against another temperature."""
    suite = sampled_suite(tmp_path / "s", repeats=3000, temperature=2.0, limit=1)
    (item,) = [item for item in suite.tasks if item.name == "tiny_generate"]
    item.task.config.generation_kwargs.update(until=[], max_gen_toks=1)
    only = Suite(suite.plan, (item,), suite.protocol, 512)
    (result,) = run(only, policy).values()
    drawn = Counter(answers(result)[0])
    ids = policy.tokenizer(result.samples[0].prompt.decode(), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = policy.model(ids).logits[0, -1].double()

    def p(temperature: float) -> float:
        shares = torch.softmax(logits / temperature, -1)
        counts = [drawn[token] for token in policy.tokenizer.batch_decode([[i] for i in range(len(shares))])]
        assert sum(counts) == 3000
        return float(chisquare(counts, (shares * 3000).tolist()).pvalue)

    assert p(2.0) > 0.01
    assert p(1.7) < 1e-6


class _Says(LM):
    """Answers a task with given texts, by document."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        self._texts = texts

    def generate_until(self, requests: Any) -> list[str]:
        return [self._texts[request.doc_id] for request in requests]

    def loglikelihood(self, requests: Any) -> Any:
        raise AssertionError

    loglikelihood_rolling = loglikelihood


@pytest.mark.parametrize("name", ["tiny_generate", "tiny_filters"])
def test_each_answer_is_scored_as_lm_eval_scores_it_alone(suite: Suite, policy: Policy, name: str) -> None:
    """lm-eval's own evaluation with one answer a document, once for each of the four, through all filters: its four
    scores have the mean that is recorded."""
    result = run(suite, policy)[name]
    item = next(item for item in suite.tasks if item.name == name)
    texts = [[request for request in sample["resps"][0]] for sample in result.logged[: len(result.samples)]]
    alone: dict[tuple[int, str], list[float]] = {}
    item.task.config.repeats = 1
    for number in range(4):
        says = _Says([answers[number] for answers in texts])
        for sample in harness.run_task(says, name, item.task, limit=None, chat_template=False):
            for metric in item.metrics:
                if metric.filter == sample["filter"]:
                    alone.setdefault((sample["doc_id"], metric.key), []).append(float(sample[metric.name]))
    assert len(alone) == 24 * len(item.metrics)
    for (position, key), scores in alone.items():
        assert result.samples[position].payload.metrics[key] == pytest.approx(fmean(scores))


def test_pass_at_k_stands_beside_metrics_that_are_right_or_wrong(suite: Suite, policy: Policy) -> None:
    """Exact match has pass@1, 2 and 4 for each filter; a share and a length have none."""
    results = run(suite, policy)
    keys = set(results["tiny_filters"].task.metrics)
    filters = ("exact_match,strict", "exact_match,loose")
    assert keys == {*filters, *(f"{name} pass@{k}" for name in filters for k in (1, 2, 4))}
    assert set(results["tiny_generate"].task.metrics) == {"overlap", "length"}
    for sample in results["tiny_filters"].samples:
        figures = sample.payload.metrics
        assert figures["exact_match,loose pass@1"] == pytest.approx(figures["exact_match,loose"])
        assert figures["exact_match,loose pass@4"] == float(figures["exact_match,loose"] > 0)


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(case: tuple[int, int, int]) -> None:
    """Counted over all subsets of k of the n answers."""
    samples, right, k = case
    marks = [True] * right + [False] * (samples - right)
    expected = fmean(any(chosen) for chosen in itertools.combinations(marks, k))
    assert pass_at([right], samples, k) == [pytest.approx(expected, abs=1e-12)]


def test_one_fractional_value_leaves_pass_at_k_out() -> None:
    """A metric that is neither right nor wrong on one answer of one document has no pass@k, on any document."""
    documents = [{"m": [0.0, 1.0], "f": [0.0, 1.0]}, {"m": [1.0, 1.0], "f": [0.5, 1.0]}]
    assert with_pass_at_k(documents) == [
        {"m": 0.5, "f": 0.5, "m pass@1": 0.5, "m pass@2": 1.0},
        {"m": 1.0, "f": 0.75, "m pass@1": 1.0, "m pass@2": 1.0},
    ]
    assert with_pass_at_k([{"m": [1.0]}]) == [{"m": 1.0}]


def test_filters_that_vote_are_left_out_with_the_reason(suite: Suite, tmp_path: Path) -> None:
    """A majority of one would be called a majority: such a filter is not run, others of the task are; a task that has
    no other is refused before anything is generated."""
    path = tmp_path / "s" / "tiny_filters.yaml"
    text = path.read_text()
    vote = text.replace('"([a-z])"\n      - function: take_first', '"([a-z])"\n      - function: majority_vote')
    assert vote != text
    path.write_text(vote)
    loaded = load_suite(EvaluationConfig(suite=str(tmp_path / "s")), tmp_path)
    item = next(item for item in loaded.tasks if item.name == "tiny_filters")
    assert [metric.key for metric in item.metrics] == ["exact_match"]
    assert item.left_out == ("everything of the filter loose (needs several answers at once)",)
    path.write_text(
        vote.replace('"^([a-z])"\n      - function: take_first', '"^([a-z])"\n      - function: majority_vote')
    )
    with pytest.raises(EvaluationError, match=r"no filter that judges one sampled answer alone.*strict, loose"):
        load_suite(EvaluationConfig(suite=str(tmp_path / "s")), tmp_path)


def test_rates_of_a_sampled_task_can_be_derived_from_its_samples(suite: Suite, policy: Policy) -> None:
    """What the verification recomputes from the recorded samples (means, pass@k, truncated rate: the share of documents
    with an answer that was cut) is what the task states; a changed figure is found."""
    results = run(suite, policy)
    for name, planted in (("tiny_generate", False), ("tiny_filters", False), ("tiny_filters", True)):
        tally = Tally(28, "evaluations", "figures")
        check = EvaluationCheck(SimpleNamespace(evaluation=suite.plan), tally)  # type: ignore[arg-type]
        result = results[name]
        for sample in result.samples:
            event: Any = SimpleNamespace(seq=1, payload=sample.payload, content={"prompt": "", "response": ""})
            check.sample(Item(event, {"prompt": sample.prompt, "response": sample.response}))
        task = result.task
        if planted:
            task = task.model_copy(update={"metrics": task.metrics | {"exact_match,loose pass@2": 0.123}})
        check.task(2, task)
        assert bool(tally._num_problems) == planted, tally._problems
    cut = [sample.payload.finish_reason == "length" for sample in results["tiny_generate"].samples]
    assert results["tiny_generate"].task.truncated_rate == fmean(cut) and any(cut)


def test_token_counts_are_the_mean_over_the_answers(suite: Suite, policy: Policy) -> None:
    """Rounded: comparable with a task of one answer."""
    for sample in run(suite, policy)["tiny_generate"].samples:
        counts = [len(policy.tokenizer(text)["input_ids"]) for text in json.loads(sample.response)]
        assert sample.payload.completion_tokens == round(fmean(counts))


def test_more_answers_than_rows_fit(policy: Policy, tmp_path: Path) -> None:
    """Twenty answers with eight rows: three batches a document, the same noise for each answer as ever."""
    many = answers(run(sampled_suite(tmp_path / "s", repeats=20, limit=3), policy)["tiny_generate"])
    few = answers(run(sampled_suite(tmp_path / "s", repeats=4, limit=3), policy)["tiny_generate"])
    assert [texts[:4] for texts in many] == few
    assert all(len(texts) == 20 for texts in many)
