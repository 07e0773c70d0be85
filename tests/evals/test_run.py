"""Evaluating a policy: the payloads of the record, and what evaluation must leave alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
import torch

from grpo_audit.config.sections import EvaluationConfig
from grpo_audit.errors import EvaluationError
from grpo_audit.record.identity import bytes_digest
from grpo_audit.stats.paired import Side, compare
from grpo_audit_evals.lm import answer_of
from grpo_audit_evals.run import CONTEXT_TRUNCATED, TaskResult, evaluate
from grpo_audit_evals.suite import Suite, load_suite
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.rollout.answers import Completion

WEIGHTS = "sha256:" + "1" * 64


@pytest.fixture(scope="module")
def results(tiny_suite: Suite, policy: Policy) -> dict[str, TaskResult]:
    """Every task of the tiny suite under random weights."""
    return {r.task.task: r for r in evaluate(tiny_suite, policy, phase="pre", weights_digest=WEIGHTS)}


def side(results: dict[str, TaskResult], weights: str) -> Side:
    """What the comparison takes."""
    first = next(iter(results.values()))
    return Side(
        weights=weights,
        protocol=first.task.protocol_digest,
        samples={name: [sample.payload for sample in result.samples] for name, result in results.items()},
        responses={
            name: {sample.payload.doc_id: sample.response_digest for sample in result.samples}
            for name, result in results.items()
        },
    )


def test_every_task_and_document_is_answered(tiny_suite: Suite, results: dict[str, TaskResult]) -> None:
    """Tasks come in the order of the plan, documents in the order of the task, under their own ids and clusters."""
    assert list(results) == [task.task for task in tiny_suite.plan.tasks]
    for item in tiny_suite.tasks:
        samples = [sample.payload for sample in results[item.name].samples]
        assert [(s.doc_id, s.cluster, s.doc_hash) for s in samples] == [
            (document.doc_id, document.cluster, document.digest) for document in item.documents
        ]
        assert samples[3].doc_id == "p03" and samples[3].cluster == "c01"


def test_prompt_hashes_are_of_the_prompt_that_was_sent(results: dict[str, TaskResult]) -> None:
    """The hash in the event is the SHA-256 of the prompt content, examples included."""
    for result in results.values():
        for sample in result.samples:
            assert sample.payload.prompt_hash == bytes_digest(sample.prompt)
    example = results["tiny_filters"].samples[0].prompt.decode()
    assert example.count("\n\n") == 2 and example.endswith("jplsgq=")


def test_task_metrics_are_means_over_the_documents(results: dict[str, TaskResult]) -> None:
    """The task's figures are the means of what is recorded for each document."""
    for result in results.values():
        for key, value in result.task.metrics.items():
            assert value == pytest.approx(fmean(sample.payload.metrics[key] for sample in result.samples))
        assert result.task.metric in result.task.metrics


def test_generated_answers_keep_raw_text_count_and_reason(results: dict[str, TaskResult]) -> None:
    """The response is raw (its stop string is still there), the count is that of the tokens, rates follow from them."""
    result = results["tiny_generate"]
    stopped = [sample for sample in result.samples if sample.payload.finish_reason == "stop"]
    cut = [sample for sample in result.samples if sample.payload.finish_reason == "length"]
    assert stopped and cut
    for sample in result.samples:
        text = sample.response.decode().replace("<pad>", "")
        assert text.startswith(sample.payload.prediction)
    assert all(sample.response.endswith((b"ab", b"\n", b"</s>")) for sample in stopped)
    assert {sample.payload.completion_tokens for sample in cut} == {24}
    assert result.task.truncated_rate == pytest.approx(len(cut) / len(result.samples))
    empty = sum(not sample.payload.prediction.strip() for sample in result.samples)
    assert result.task.empty_rate == pytest.approx(empty / len(result.samples))


def test_likelihood_tasks_record_likelihoods(results: dict[str, TaskResult]) -> None:
    """Multiple choice keeps each choice's log-likelihood; the prediction is the largest; no rate is invented."""
    result = results["tiny_choice"]
    assert (result.task.empty_rate, result.task.truncated_rate) == (None, None)
    for sample in result.samples:
        rows = json.loads(sample.response)
        best = max(rows, key=lambda row: row["loglikelihood"])["continuation"].strip()
        assert sample.payload.prediction == best
        assert sample.payload.metrics["acc"] == float(best == sample.payload.target)
        assert (sample.payload.finish_reason, sample.payload.completion_tokens) == ("likelihood", None)


def test_evaluation_is_deterministic_and_leaves_the_model_alone(tiny_suite: Suite, policy: Policy) -> None:
    """Twice the same results; weights, parameter objects and mode are as before."""
    before = {name: parameter for name, parameter in policy.model.named_parameters()}
    values = {name: parameter.detach().clone() for name, parameter in before.items()}
    policy.model.train()
    try:
        runs = [
            [
                sample
                for result in evaluate(tiny_suite, policy, phase="pre", weights_digest=WEIGHTS)
                for sample in result.samples
            ]
            for _ in range(2)
        ]
        assert policy.model.training
    finally:
        policy.model.eval()
    assert runs[0] == runs[1]
    for name, parameter in policy.model.named_parameters():
        assert parameter is before[name]
        assert torch.equal(parameter, values[name])


def test_only_the_named_tasks_run(tiny_suite: Suite, policy: Policy) -> None:
    """A resumed run evaluates what is missing, and a wrong name is an error with the right one."""
    only = [
        r.task.task for r in evaluate(tiny_suite, policy, phase="post", weights_digest=WEIGHTS, only={"tiny_choice"})
    ]
    assert only == ["tiny_choice"]
    assert list(evaluate(tiny_suite, policy, phase="post", weights_digest=WEIGHTS, only=set())) == []
    with pytest.raises(EvaluationError, match="tiny_choice"):
        list(evaluate(tiny_suite, policy, phase="post", weights_digest=WEIGHTS, only={"tiny_choise"}))


def test_progress_counts_documents_up_to_all_of_them(tiny_suite: Suite, policy: Policy) -> None:
    """A bar can be drawn: each task is announced, counts never fall, and the last one is the number of documents."""
    started: list[tuple[str, int]] = []
    counts: dict[str, list[int]] = {}
    for _ in evaluate(
        tiny_suite,
        policy,
        phase="pre",
        weights_digest=WEIGHTS,
        on_task_start=lambda task, total: started.append((task, total)),
        on_progress=lambda task, done, _: counts.setdefault(task, []).append(done),
    ):
        pass
    assert started == [(task.task, 24) for task in tiny_suite.plan.tasks]
    for seen in counts.values():
        assert seen == sorted(seen) and seen[-1] == 24 and len(seen) > 1


def test_other_weights_give_other_answers_under_the_same_protocol(
    tiny_suite: Suite, results: dict[str, TaskResult], make_policy: Callable[..., Policy]
) -> None:
    """No cache replays the first model's answers; prompts and documents pair, and the comparison sees the weights."""
    other = {
        r.task.task: r for r in evaluate(tiny_suite, make_policy(1), phase="post", weights_digest="sha256:" + "2" * 64)
    }
    for name, result in results.items():
        assert [s.response for s in result.samples] != [s.response for s in other[name].samples]
    paired = compare(tiny_suite.plan, side(results, WEIGHTS), side(other, "sha256:" + "2" * 64))
    assert [task.task for task in paired.comparison.tasks] == list(results)
    assert paired.findings == ()
    replayed = compare(tiny_suite.plan, side(results, WEIGHTS), side(results, "sha256:" + "2" * 64))
    assert [finding.rule for finding in replayed.findings] == ["evaluation-did-not-see-the-weights"]


def test_prompts_that_do_not_fit_are_recorded(tiny_suite: Suite, make_policy: Callable[..., Policy]) -> None:
    """A context that is cut shows on each document and in the task's figures, and not where everything fits."""
    (plain,) = evaluate(tiny_suite, make_policy(), phase="pre", weights_digest=WEIGHTS, only={"tiny_filters"})
    room = len(plain.samples[0].prompt) - 1  # one token too few for this prompt, whose tokens are characters
    small = make_policy(context=room + 8)
    found = {r.task.task: r for r in evaluate(tiny_suite, small, phase="pre", weights_digest=WEIGHTS)}
    few_shot = found["tiny_filters"]
    share = few_shot.task.metrics[CONTEXT_TRUNCATED]
    assert 0 < share < 1
    flagged = [sample.payload.metrics[CONTEXT_TRUNCATED] for sample in few_shot.samples]
    assert fmean(flagged) == share
    assert [bool(flag) for flag in flagged] == [len(sample.prompt) > room for sample in few_shot.samples]
    assert CONTEXT_TRUNCATED not in found["tiny_likelihood"].task.metrics


def test_likelihood_contexts_that_do_not_fit_are_recorded(
    tiny_suite: Suite, make_policy: Callable[..., Policy]
) -> None:
    """Also where likelihoods are scored, at exactly the length that no longer fits."""
    small = make_policy(context=16)
    (result,) = evaluate(tiny_suite, small, phase="pre", weights_digest=WEIGHTS, only={"tiny_likelihood"})
    for sample in result.samples:
        tokens = len(sample.prompt) + len(sample.payload.target)
        assert sample.payload.metrics[CONTEXT_TRUNCATED] == float(tokens > 17)
    assert 0 < result.task.metrics[CONTEXT_TRUNCATED] < 1


def test_a_model_without_room_for_the_answer_is_an_error(tiny_suite: Suite, make_policy: Callable[..., Policy]) -> None:
    """A context as short as the answer is one line that says which setting to lower."""
    with pytest.raises(EvaluationError, match="max_gen_toks"):
        list(evaluate(tiny_suite, make_policy(context=24), phase="pre", weights_digest=WEIGHTS, only={"tiny_generate"}))


def test_the_chat_template_is_used_when_the_policy_uses_it(
    tiny_suite: Suite, make_policy: Callable[..., Policy]
) -> None:
    """The prompt is recorded as the template renders it, examples as turns."""
    chat = make_policy(chat=True)
    (result,) = evaluate(tiny_suite, chat, phase="pre", weights_digest=WEIGHTS, only={"tiny_filters"})
    prompt = result.samples[0].prompt.decode()
    assert prompt.startswith("<user>") and prompt.endswith("<assistant>")
    assert prompt.count("<user>") == 3


def test_an_end_token_spelled_in_characters_ends_the_answer() -> None:
    """As in lm-eval: what stands behind the text of the end token is not scored, whichever tokens spelled it."""
    answer = answer_of(Completion("ab</s>cd", "ab</s>cd", [1, 2, 3], "length"), "</s>")
    assert (answer.text, answer.raw, answer.finish_reason) == ("ab", "ab</s>cd", "stop")


def test_a_tokenizer_without_pad_token_stays_without(make_policy: Callable[..., Policy], tiny_suite: Suite) -> None:
    """Evaluation does not change the trainer's tokenizer."""
    policy = make_policy(5)
    policy.tokenizer.pad_token = None
    list(evaluate(tiny_suite, policy, phase="pre", weights_digest=WEIGHTS, only={"tiny_likelihood"}))
    assert policy.tokenizer.pad_token is None


def test_a_scorer_that_fails_on_a_real_answer_is_an_error(tmp_path: Path, make_policy: Callable[..., Policy]) -> None:
    """Made-up answers may pass where a real one raises: the error names the task."""
    (tmp_path / "data.jsonl").write_text('{"q": "abc=", "a": "x"}\n{"q": "de=", "a": "y"}\n')
    (tmp_path / "bad.py").write_text(
        "def score(doc, results):\n"
        "    if results[0] not in ('', 'x', 'y'):\n"
        "        raise KeyError('answer')\n"
        "    return {'m': 1.0}\n"
    )
    (tmp_path / "task.yaml").write_text(
        "task: bad_task\ndataset_path: json\ndataset_kwargs: {data_files: {test: data.jsonl}}\ntest_split: test\n"
        'output_type: generate_until\ndoc_to_text: "{{q}}"\ndoc_to_target: "{{a}}"\n'
        'generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}\n'
        "process_results: !function bad.score\n"
        "metric_list: [{metric: m, aggregation: mean, higher_is_better: true}]\n"
    )
    suite = load_suite(EvaluationConfig(suite=str(tmp_path)), tmp_path)
    with pytest.raises(EvaluationError, match=r"bad_task.*KeyError"):
        list(evaluate(suite, make_policy(), phase="pre", weights_digest=WEIGHTS))


def test_ragged_choices_have_brier_scores(tmp_path: Path, policy: Policy) -> None:
    """Questions with two and with three choices in one task, which lm-eval cannot aggregate: each has its score."""
    rows = [{"q": "ab=", "choices": ["x", "y"], "label": 0}, {"q": "cd=", "choices": ["x", "y", "z"], "label": 2}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(
        "task: ragged\ndataset_path: json\ndataset_kwargs: {data_files: {test: data.jsonl}}\ntest_split: test\n"
        'output_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_choice: "{{choices}}"\n'
        'doc_to_target: "{{label}}"\nmetric_list: [{metric: brier_score, higher_is_better: false}]\n'
    )
    suite = load_suite(EvaluationConfig(suite=str(tmp_path)), tmp_path)
    (result,) = evaluate(suite, policy, phase="pre", weights_digest=WEIGHTS)
    for sample, row in zip(result.samples, rows, strict=True):
        likelihoods = torch.tensor([item["loglikelihood"] for item in json.loads(sample.response)], dtype=torch.float64)
        gold = torch.nn.functional.one_hot(torch.tensor(row["label"]), len(likelihoods))
        expected = ((likelihoods.softmax(0) - gold) ** 2).sum().item()
        assert sample.payload.metrics == {"brier_score": pytest.approx(expected)}


def test_evaluation_prints_nothing(tiny_suite: Suite, policy: Policy, capfd: pytest.CaptureFixture[str]) -> None:
    """The harness's bars and warnings do not mix with ours."""
    list(evaluate(tiny_suite, policy, phase="pre", weights_digest=WEIGHTS))
    load_suite(EvaluationConfig(suite="tiny"), Path(__file__).parent / "assets")
    assert capfd.readouterr() == ("", "")
