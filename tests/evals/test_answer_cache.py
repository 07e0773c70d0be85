"""Answers kept on disk: nothing is asked twice, nothing changes by it. Of other models' answers see ``test_traps``."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo_audit.config.sections import EvaluationConfig, ModelConfig
from grpo_audit.errors import EvaluationError, GrpoAuditError, StorageError
from grpo_audit.record.identity import weights_digest
from grpo_audit_evals.answer_cache import AnswerCache, key_of
from grpo_audit_evals.run import TaskResult, evaluate
from grpo_audit_evals.suite import Suite, load_suite
from grpo_audit_trainer.policy import Policy, load_policy
from grpo_audit_trainer.rollout.native import NativeEngine

from .conftest import ASSETS, save_tiny_model

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
BATCH = 5

KILLED = """
import os, signal, sys
from pathlib import Path
from grpo_audit.config.sections import EvaluationConfig, ModelConfig
from grpo_audit.record.identity import weights_digest
from grpo_audit_evals.run import evaluate
from grpo_audit_evals.suite import load_suite
from grpo_audit_trainer.policy import load_policy

model, suite, cache, task, documents = sys.argv[1:]

def on_progress(name, done, _):
    if name == task and done >= int(documents):
        os.kill(os.getpid(), signal.SIGKILL)

loaded = load_suite(EvaluationConfig(suite=suite, batch_size=5), Path(suite))
policy = load_policy(ModelConfig(path=model, device="cpu"))
weights = weights_digest(Path(model))
list(evaluate(loaded, policy, phase="pre", weights_digest=weights, cache=Path(cache), on_progress=on_progress))
print("finished")
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """The tiny suite, and a task of it that is sampled."""
    folder = Path(shutil.copytree(ASSETS / "tiny", tmp_path_factory.mktemp("suite") / "tiny"))
    text = (folder / "tiny_generate.yaml").read_text()
    text = text.replace("task: tiny_generate", "task: tiny_sampled\nrepeats: 3")
    (folder / "tiny_sampled.yaml").write_text(text.replace("do_sample: false", "temperature: 0.8"))
    return load_suite(EvaluationConfig(suite=str(folder), batch_size=BATCH), folder)


def run(suite: Suite, policy: Policy, cache: Path | None, weights: str = ONE, **options: Any) -> list[TaskResult]:
    """All tasks."""
    return list(evaluate(suite, policy, phase="pre", weights_digest=weights, cache=cache, **options))


def samples(results: list[TaskResult]) -> list[Any]:
    """All that becomes part of the record, but for the time it took."""
    return [
        (result.task.model_copy(update={"seconds": 0.0}), [(s.payload, s.prompt, s.response) for s in result.samples])
        for result in results
    ]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of answers of each batch that the engine really generates."""
    counts: list[int] = []
    real = NativeEngine.answer

    def counted(self: NativeEngine, prompts: Any, **options: Any) -> Any:
        counts.append(len(prompts) * options["group_size"])
        return real(self, prompts, **options)

    monkeypatch.setattr(NativeEngine, "answer", counted)
    return counts


def test_results_are_the_same_with_and_without_a_cache(
    suite: Suite, policy: Policy, tmp_path: Path, asked: list[int]
) -> None:
    """Not at all, filled as it goes, and read back: the same results bit for bit. The last one generates nothing, and
    says of every document that it was reused."""
    without = run(suite, policy, None)
    generated = sum(asked)
    first = run(suite, policy, tmp_path)
    assert sum(asked) == 2 * generated > 0
    second = run(suite, policy, tmp_path)
    assert sum(asked) == 2 * generated
    assert samples(without) == samples(first) == samples(second)
    assert {result.reused for result in [*without, *first]} == {0}
    assert {result.reused for result in second} == {24}


def test_likelihoods_come_from_the_cache_without_a_forward_pass(
    suite: Suite, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Multiple choice and likelihoods are kept too: the second time the model is not called."""
    only = {"tiny_choice", "tiny_likelihood"}
    first = run(suite, policy, tmp_path, only=only)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model was called")

    monkeypatch.setattr(type(policy.model), "forward", refuse)
    assert samples(run(suite, policy, tmp_path, only=only)) == samples(first)


@pytest.mark.parametrize(
    ("task", "documents"),
    [
        ("tiny_sampled", 7),
        pytest.param("tiny_generate", 12, marks=pytest.mark.slow),  # each starts a process that loads torch
        pytest.param("tiny_choice", 21, marks=pytest.mark.slow),
        pytest.param("tiny_filters", 1, marks=pytest.mark.slow),
    ],
)
def test_killed_in_the_middle_of_a_task_an_evaluation_goes_on_where_it_was(
    suite: Suite, tmp_path: Path, asked: list[int], task: str, documents: int
) -> None:
    """SIGKILL between two answers; then the same evaluation again: it has the results of one that was never
    interrupted, and what had been answered in whole batches is not generated again."""
    model = save_tiny_model(tmp_path / "model", seed=0)
    folder = Path(suite.plan.suite)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(model), str(folder), str(tmp_path / "cache"), task, str(documents)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, ""), killed.stderr
    policy = load_policy(ModelConfig(path=str(model), device="cpu"))
    weights = weights_digest(model)
    resumed = run(suite, policy, tmp_path / "cache", weights)
    generated_after = sum(asked)
    uninterrupted = run(suite, policy, None, weights)
    generated_in_all = sum(asked) - generated_after
    assert samples(resumed) == samples(uninterrupted)
    reused = {result.task.task: result.reused for result in resumed}
    order = [item.name for item in suite.tasks]
    before = order[: order.index(task)]
    assert all(reused[name] == 24 for name in before)
    assert all(reused[name] == 0 for name in order[order.index(task) + 1 :])
    if task in ("tiny_generate", "tiny_sampled"):
        assert 0 < reused[task] < 24
    kept = sum(
        reused[item.name] * item.plan.samples for item in suite.tasks if item.task.OUTPUT_TYPE == "generate_until"
    )
    assert generated_after == generated_in_all - kept


def test_a_renamed_file_is_refused(suite: Suite, policy: Policy, tmp_path: Path) -> None:
    """Whoever moves the answers of one model to the name of another is told so."""
    run(suite, policy, tmp_path, ONE, only={"tiny_generate"})
    (path,) = tmp_path.iterdir()
    path.rename(tmp_path / path.name.replace("1" * 32, "2" * 32))
    with pytest.raises(EvaluationError, match=f"is of another weights; found {ONE}; expected {TWO}"):
        run(suite, policy, tmp_path, TWO)


def test_what_decides_an_answer_is_part_of_its_key(
    suite: Suite, make_policy: Callable[..., Policy], tmp_path: Path, asked: list[int]
) -> None:
    """Another batch size, another context length or a chat template: generated again, though digests are the same."""
    run(suite, make_policy(), tmp_path, only={"tiny_filters"})
    other_rows = Suite(suite.plan, suite.tasks, suite.protocol, BATCH + 1)
    for again, policy in (
        (other_rows, make_policy()),
        (suite, make_policy(chat=True)),
        (suite, make_policy(context=40)),
    ):
        asked.clear()
        run(again, policy, tmp_path, only={"tiny_filters"})
        assert sum(asked) > 0


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.5, 0.75, 0.99])
def test_a_torn_file_never_gives_a_wrong_answer(suite: Suite, policy: Policy, tmp_path: Path, share: float) -> None:
    """Cut anywhere, the file is refused in one line that says to delete it, or the results are the right ones."""
    first = run(suite, policy, tmp_path, only={"tiny_generate", "tiny_choice"})
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    try:
        again = run(suite, policy, tmp_path, only={"tiny_generate", "tiny_choice"})
    except GrpoAuditError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        assert "Delete it" in str(error)
    else:
        assert samples(again) == samples(first)


def test_an_edited_answer_is_refused(suite: Suite, policy: Policy, tmp_path: Path) -> None:
    """A bit that fell over does not become part of the record."""
    run(suite, policy, tmp_path, only={"tiny_generate"})
    (path,) = tmp_path.iterdir()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE answer SET value = replace(value, 'stop', 'length')")
    with pytest.raises(
        EvaluationError, match=r"is damaged; found an answer that differs from the one written. Delete it"
    ):
        run(suite, policy, tmp_path, only={"tiny_generate"})


def test_a_file_that_is_no_cache_is_refused(suite: Suite, policy: Policy, tmp_path: Path) -> None:
    """Text where the file should be: an error with the path, and the text stays."""
    with AnswerCache(tmp_path, weights_digest=ONE, protocol_digest=suite.plan.protocol_digest) as cache:
        path = cache.path
    path.write_text("not a database, but long enough to be taken for one " * 100)
    with pytest.raises(EvaluationError, match="is damaged"):
        run(suite, policy, tmp_path)
    assert path.read_text().startswith("not a database")


def test_a_folder_that_cannot_be_made_is_a_storage_error(suite: Suite, policy: Policy, tmp_path: Path) -> None:
    """A file stands where the folder should be: the exit code is that of storage."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be used"):
        run(suite, policy, tmp_path / "file")


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    """What no longer fits is not kept, and what was there before still is."""
    with AnswerCache(tmp_path, weights_digest=ONE, protocol_digest=TWO) as cache:
        cache.put({"a": 1})
        (pages,) = cache._connection.execute("PRAGMA page_count").fetchone()
        cache._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageError, match="full"):
            cache.put({key_of(number): "x" * 1000 for number in range(100)})
        assert cache.get(["a", key_of(0)]) == {"a": 1}


def test_any_json_comes_back_as_it_was(tmp_path: Path) -> None:
    """Hostile texts, lone surrogates, floats to the last bit, thousands of keys; over a second opening."""
    values = {
        key_of("text"): {"raw": "\x00\ud800'); DROP TABLE answer; --\u2028", "n": [0.1 + 0.2, -1e-308, 5e-324, True]},
        **{key_of(number): number / 7 for number in range(2000)},
    }
    with AnswerCache(tmp_path, weights_digest=ONE, protocol_digest=TWO) as cache:
        cache.put(values)
    with AnswerCache(tmp_path, weights_digest=ONE, protocol_digest=TWO) as cache:
        assert cache.get([*values, "missing"]) == values
