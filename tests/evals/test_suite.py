"""Loading a suite: what is fixed before step 0, and what fails there instead of after the last answer."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from grpo_audit.config.sections import EvaluationConfig
from grpo_audit.errors import EvaluationError
from grpo_audit.record.identity import bytes_digest
from grpo_audit.stats.paired import documents_digest
from grpo_audit_evals import harness
from grpo_audit_evals.documents import document_hash, read_documents
from grpo_audit_evals.suite import Suite, load_suite

ASSETS = Path(__file__).parent / "assets"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny suite that a test may spoil."""
    return Path(shutil.copytree(ASSETS / "tiny", tmp_path / "tiny"))


def load(folder: Path, **settings: Any) -> Suite:
    """The suite of a folder."""
    return load_suite(EvaluationConfig(suite=str(folder), **settings), folder)


def edit(folder: Path, file: str, old: str, new: str) -> None:
    """Change a text of the suite."""
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def protocol(folder: Path, task: str) -> str:
    """Protocol digest of one task."""
    return load(folder, tasks=[task]).plan.protocol_digest


def test_plan_states_what_will_be_judged(tiny_suite: Suite) -> None:
    """Behaviour, primary metric, direction, safety and margin come from the file, or from defaults that say so."""
    plan = {task.task: task for task in tiny_suite.plan.tasks}
    choice, generate = plan["tiny_choice"], plan["tiny_generate"]
    assert (choice.behaviour, choice.metric, choice.higher_is_better, choice.safety) == (
        "hallucination",
        "brier_score",
        False,
        True,
    )
    assert (generate.behaviour, generate.metric, generate.higher_is_better, generate.safety) == (
        "task performance",
        "overlap",
        True,
        False,
    )
    assert plan["tiny_filters"].metric == "exact_match,strict"
    assert tiny_suite.plan.harness == harness.HARNESS
    assert {task.margin for task in plan.values()} == {0.05}


def test_documents_digest_is_over_the_documents_in_order(tiny_suite: Suite) -> None:
    """Anyone with the data file can compute the digest of the plan."""
    rows = [json.loads(line) for line in (ASSETS / "tiny/data/problems.jsonl").read_text().splitlines()]
    expected = documents_digest([document_hash(row) for row in rows])
    assert {task.documents_digest for task in tiny_suite.plan.tasks} == {expected}
    assert documents_digest([document_hash(row) for row in reversed(rows)]) != expected


def test_protocol_digest_is_that_of_the_protocol_text(tiny_suite: Suite) -> None:
    """The protocol is kept in full, and says nothing about where this machine keeps its files."""
    assert bytes_digest(tiny_suite.protocol) == tiny_suite.plan.protocol_digest
    assert str(ASSETS) not in tiny_suite.protocol.decode()
    assert harness.HARNESS in tiny_suite.protocol.decode()


def test_protocol_does_not_depend_on_the_place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same files elsewhere, loaded from another directory: the same plan. Relative data files are found."""
    elsewhere = Path(shutil.copytree(folder, tmp_path / "x" / "other name"))
    monkeypatch.chdir(tmp_path)
    one = load_suite(EvaluationConfig(suite="tiny"), tmp_path)
    monkeypatch.chdir("/")
    two = load(elsewhere)
    assert one.protocol == two.protocol
    assert [task.plan for task in one.tasks] == [task.plan for task in two.tasks]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("tiny_generate.yaml", "max_gen_toks: 24", "max_gen_toks: 25"),
        ("tiny_generate.yaml", '"ab"', '"abc"'),
        ("tiny_generate.yaml", "{{question}}", "Q: {{question}}"),
        ("scoring.py", "len(text)", "len(text) + 0"),
        ("data/problems.jsonl", "rwztejdxc", "rwztejdxd"),
    ],
)
def test_protocol_changes_with_what_decides_the_score(folder: Path, file: str, old: str, new: str) -> None:
    """Generation settings, prompts, the scorer's code and the data are all bound."""
    before = protocol(folder, "tiny_generate")
    edit(folder, file, old, new)
    assert protocol(folder, "tiny_generate") != before


def test_protocol_changes_with_the_filters(folder: Path) -> None:
    """How an answer is cut out of the text is bound too."""
    before = protocol(folder, "tiny_filters")
    edit(folder, "tiny_filters.yaml", "^([a-z])", "^([a-z ])")
    assert protocol(folder, "tiny_filters") != before


def test_protocol_changes_with_what_a_scorer_calls(folder: Path) -> None:
    """A helper beside the scorer is part of it."""
    (folder / "tiny_helper.py").write_text("def half(value):\n    return value / 2\n")
    edit(
        folder,
        "scoring.py",
        "from collections.abc import Mapping",
        "import sys\nfrom collections.abc import Mapping\nfrom pathlib import Path\n"
        "sys.path.insert(0, str(Path(__file__).parent))\nimport tiny_helper\nsys.path.pop(0)",
    )
    before = protocol(folder, "tiny_generate")
    assert "tiny_helper.py" in load(folder, tasks=["tiny_generate"]).protocol.decode()
    (folder / "tiny_helper.py").write_text("def half(value):\n    return value / 3\n")
    assert protocol(folder, "tiny_generate") != before


def test_protocol_ignores_labels_and_comments(folder: Path) -> None:
    """What a task is called in the report does not change how it is measured."""
    before = protocol(folder, "tiny_choice")
    edit(folder, "tiny_choice.yaml", "behaviour: hallucination", "behaviour: something else # a comment")
    assert protocol(folder, "tiny_choice") == before


def test_a_metric_that_is_no_mean_is_left_out_with_the_reason(tiny_suite: Suite) -> None:
    """F1 over a task cannot be paired; the Brier score can, document by document."""
    choice = next(item for item in tiny_suite.tasks if item.name == "tiny_choice")
    assert [metric.key for metric in choice.metrics] == ["acc", "acc_norm", "brier_score"]
    assert choice.left_out == ("f1 (not a mean over documents)",)


@pytest.mark.slow  # reads the names of all tasks of lm-eval
def test_unknown_task_is_an_error_with_the_nearest_names(folder: Path) -> None:
    """A typo gets the right name, out of the folder and of lm-eval's own tasks."""
    with pytest.raises(EvaluationError, match="tiny_generate"):
        load(folder, tasks=["tiny_generte"])


def test_tasks_run_in_the_order_of_the_recipe(folder: Path) -> None:
    """Naming tasks chooses and orders them."""
    suite = load(folder, tasks=["tiny_likelihood", "tiny_choice"])
    assert [task.task for task in suite.plan.tasks] == ["tiny_likelihood", "tiny_choice"]


def test_a_tag_stands_for_its_tasks(folder: Path) -> None:
    """A tag of the folder expands."""
    for file in ("tiny_generate.yaml", "tiny_choice.yaml"):
        edit(folder, file, "test_split: test", "test_split: test\ntag: mine")
    assert [task.task for task in load(folder, tasks=["mine"]).plan.tasks] == ["tiny_choice", "tiny_generate"]


def test_unknown_primary_metric_is_an_error_with_the_nearest_names(folder: Path) -> None:
    """A metric that does not exist is found before anything is generated."""
    edit(folder, "tiny_choice.yaml", "primary_metric: brier_score", "primary_metric: accuracy")
    with pytest.raises(EvaluationError, match=r"tiny_choice.*'accuracy'.*acc"):
        load(folder)


def test_a_primary_metric_that_cannot_be_paired_says_why(folder: Path) -> None:
    """F1 as the primary metric is refused with the reason."""
    edit(folder, "tiny_choice.yaml", "primary_metric: brier_score", "primary_metric: f1")
    with pytest.raises(EvaluationError, match="not a mean over documents"):
        load(folder)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('broken scorer')", "broken scorer"),
        ("return {'overlap': 'high', 'length': [1]}", "no metric that can be compared"),
        ("return {'overlap': float('nan')}", "no metric that can be compared"),
        ("return {'overlap': 1.0} if results[0] else {}", "no metric that can be compared"),
    ],
)
def test_scoring_that_fails_shows_before_anything_is_generated(folder: Path, body: str, message: str) -> None:
    """A scorer that raises, returns texts or nan, or forgets documents is refused when the suite is loaded."""
    (folder / "scoring.py").write_text(f"def score(doc, results):\n    {body}\n")
    with pytest.raises(EvaluationError, match=message):
        load(folder, tasks=["tiny_generate"])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ("do_sample: true", "sampling at temperature None"),
        ("do_sample: true\n  temperature: 0.0", "sampling at temperature 0.0"),
        ("do_sample: true\n  temperature: -1.0", "sampling at temperature -1.0"),
        ("temperature: .inf", "sampling at temperature inf"),
        ("temperature: 0.7\n  top_p: 0.9", "top_p: 0.9"),
        ("temperature: 0.7\n  top_k: 50", "top_k: 50"),
        ("temperature: 0.7\n  min_p: 0.1", "min_p: 0.1"),
        ("do_sample: false\n  num_beams: 4", "num_beams: 4"),
        ("do_sample: false\nrepeats: 3", "3 equal answers a document"),
        ("temperature: .nan\n  do_sample: true", "sampling at temperature nan"),
    ],
)
def test_a_way_to_answer_that_there_is_not_is_refused(folder: Path, settings: str, named: str) -> None:
    """Greedy, or sampled with a temperature alone: anything else is an error and not silently ignored."""
    edit(folder, "tiny_generate.yaml", "do_sample: false", settings)
    with pytest.raises(EvaluationError, match=f"a way to answer that there is not.*{named}"):
        load(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("temperature: 0.7\nrepeats: many", "repeats is 'many'; expected a number"),
        ("temperature: 0.7\nrepeats: -2", "repeats is -2; expected a whole number from 1"),
        ("temperature: 0.7\nrepeats: 2.5", "repeats is 2.5; expected a whole number from 1"),
    ],
)
def test_sampling_settings_that_are_no_numbers_get_one_line(folder: Path, settings: str, message: str) -> None:
    """What is written wrong is named with its task."""
    edit(folder, "tiny_generate.yaml", "do_sample: false", settings)
    with pytest.raises(EvaluationError, match=f"Task tiny_generate: {message}"):
        load(folder, tasks=["tiny_generate"])


def test_a_temperature_without_sampling_is_greedy(folder: Path) -> None:
    """do_sample: false wins over a temperature, as in lm-eval."""
    edit(folder, "tiny_generate.yaml", "do_sample: false", "do_sample: false\n  temperature: 0.7")
    load(folder, tasks=["tiny_generate"])


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("tiny_generate.yaml", "data/problems.jsonl", "data/missing.jsonl", "no data file .*missing.jsonl"),
        ("tiny_generate.yaml", "scoring.score", "scoring.nothing", "cannot import its functions.*nothing"),
        ("tiny_generate.yaml", "test_split: test", "test_split: [", "Cannot read the task file .*tiny_generate.yaml"),
        ("tiny_generate.yaml", "{{question}}", "{{question", "cannot be loaded"),
        ("tiny_choice.yaml", "task: tiny_choice", "task: tiny_generate", "Two files define the task tiny_generate"),
        ("tiny_choice.yaml", "safety: true", "safety: perhaps", "metadata.safety is wrong"),
        ("data/problems.jsonl", '"p01"', '"p00"', "two documents have the id 'p00'"),
    ],
)
def test_broken_suites_get_one_line(folder: Path, file: str, old: str, new: str, message: str) -> None:
    """Each way to break a suite is named, with the file or the task."""
    edit(folder, file, old, new)
    with pytest.raises(EvaluationError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_folders_without_tasks_are_errors(tmp_path: Path) -> None:
    """A missing folder and an empty one are told apart."""
    with pytest.raises(EvaluationError, match="There is no suite"):
        load(tmp_path / "nowhere")
    with pytest.raises(EvaluationError, match="has no tasks"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("margins", "message"), [({"tiny_choise": 0.1}, "tiny_choice"), ({"tiny_choice": 0.0}, "above 0")]
)
def test_margins_must_belong_to_tasks_and_be_positive(folder: Path, margins: dict[str, float], message: str) -> None:
    """A margin for a task that is not run would silently protect nothing."""
    with pytest.raises(EvaluationError, match=message):
        load(folder, margins=margins)


def test_limit_and_margins_reach_the_plan(folder: Path) -> None:
    """The first N documents, and each task's own margin."""
    suite = load(folder, limit=5, margins={"tiny_choice": 0.2})
    assert {task.documents for task in suite.plan.tasks} == {5}
    assert {task.task: task.margin for task in suite.plan.tasks}["tiny_choice"] == 0.2


def test_documents_without_id_are_known_by_position() -> None:
    """A user's data needs neither ids nor clusters."""
    documents = read_documents("t", [{"q": "a"}, {"q": "b", "cluster": 7}], None)
    assert [(item.doc_id, item.cluster) for item in documents] == [("0", "0"), ("1", "7")]


def test_documents_hashes_see_every_field() -> None:
    """Order of keys does not matter, everything else does."""
    assert document_hash({"a": 1, "b": "ü"}) == document_hash({"b": "ü", "a": 1})
    assert document_hash({"a": 1}) != document_hash({"a": 1.5})
    assert document_hash({"a": "é"}) != document_hash({"a": "e\u0301"})


def test_loading_local_tasks_asks_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is looked up and nothing is left in the home directory."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"the network was asked: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    load(folder)
    assert sorted(path.name for path in folder.rglob("*.arrow")) == []
