"""What the Hub's own library reads out of the card and the results, and that no text in a record changes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub._eval_results import EvalResultEntry, eval_result_entries_to_yaml, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id

from grpo_audit.export import hub
from grpo_audit.export.facts import ExportFacts, believed
from grpo_audit.ledger.annotations import sign_annotation
from grpo_audit.record.events import Annotation
from grpo_audit.report.card import metadata


def entries(facts: ExportFacts) -> dict[str, list[EvalResultEntry]]:
    """Every results file, as the Hub's library reads it."""
    return {name: parse_eval_result_entries(yaml.safe_load(data)) for name, data in hub.result_files(facts).items()}


def test_the_hub_loads_the_card(exported: Any) -> None:
    """ModelCard finds metadata and text; base model, licence, task and library are those of the record."""
    card = ModelCard.load(exported.folder / "README.md")
    assert isinstance(card.data, ModelCardData)
    found = card.data.to_dict()
    assert (found["license"], found["base_model"], found["library_name"]) == ("apache-2.0", "builtin", "transformers")
    assert found["pipeline_tag"] == "text-generation" and "grpo" in found["tags"]
    assert card.text.lstrip().startswith("# demo")


def test_each_result_has_task_data_set_and_metric(exported: Any) -> None:
    """EvalResult takes every row of the index, and each has the value of the report's table."""
    found = metadata(exported.facts.data)["model-index"]
    name, results = model_index_to_eval_results(found)
    rows = {row.task: row for row in exported.facts.data.release.rows}
    assert name == "demo" and {result.dataset_type for result in results} == set(rows)
    for result in results:
        assert isinstance(result, EvalResult)
        assert (result.metric_type, result.metric_value) == (
            rows[result.dataset_type].metric,
            rows[result.dataset_type].post,
        )


def test_results_are_what_the_library_writes(exported: Any) -> None:
    """The files parse into EvalResultEntry, and those write the same data again."""
    files = hub.result_files(exported.facts)
    assert files
    for data in files.values():
        plain = yaml.safe_load(data)
        assert eval_result_entries_to_yaml(parse_eval_result_entries(plain)) == plain


def test_results_are_those_of_the_report(exported: Any) -> None:
    """Each task of the release table has one entry with its value, and the time of its evaluation."""
    (found,) = entries(exported.facts).values()
    rows = {row.task: row for row in exported.facts.data.release.rows}
    assert {entry.task_id: entry.value for entry in found} == {task: row.post for task, row in rows.items()}
    for entry in found:
        assert entry.date == exported.facts.results[entry.task_id].at
        assert "no benchmark of the Hub" in (entry.notes or "")


def declaring(facts: ExportFacts, field: str, value: str) -> ExportFacts:
    """The facts with one annotation more."""
    note = Annotation(author="A", field=field, value=value, reason="R")
    return replace(facts, annotations=(*facts.annotations, note))


def test_an_annotation_with_a_false_signature_says_nothing(exported: Any) -> None:
    """Only one that is not signed, or whose signature holds for this very run, is believed."""
    plain = Annotation(author="A", field="benchmark.arithmetic", value="owner/sums", reason="R")
    key, project, run = exported.keys.log, exported.facts.project_id, exported.run_id
    signed, public = sign_annotation(key, project, run, "A", plain.field, plain.value, plain.reason)
    good = plain.model_copy(update={"signed": signed, "public_key": public})
    edited = good.model_copy(update={"value": "owner/other"})
    junk = plain.model_copy(update={"signed": "junk", "public_key": "junk"})
    assert believed([plain, good, edited, junk], project, run) == (plain, good)
    assert believed([good], project, exported.other) == ()


def test_a_declared_benchmark_stands_under_its_own_name(exported: Any) -> None:
    """A task that an annotation declares to be a Hub data set has that id, in a file of its own."""
    facts = declaring(exported.facts, "benchmark.arithmetic", "owner/sums:easy")
    found = entries(facts)
    (entry,) = found[".eval_results/owner__sums.yaml"]
    assert (entry.dataset_id, entry.task_id) == ("owner/sums", "easy")
    validate_repo_id(entry.dataset_id)
    assert "arithmetic" not in {item.task_id for item in found[".eval_results/builtin.yaml"]}


def test_a_malformed_benchmark_is_none(exported: Any, hostile: str) -> None:
    """An annotation that is no ``owner/name`` changes nothing."""
    assert hub.result_files(declaring(exported.facts, "benchmark.arithmetic", hostile)) == hub.result_files(
        exported.facts
    )


def test_no_text_leaves_the_folder_or_breaks_the_yaml(
    exported: Any, poison: Callable[[ExportFacts, str], ExportFacts], hostile: str
) -> None:
    """With any text in place of every text: file names stay inside, and the data read back is what was meant."""
    facts = poison(exported.facts, hostile)
    files = hub.result_files(facts)
    assert files
    for name, data in files.items():
        path = PurePosixPath(name)
        assert path.parts[0] == ".eval_results" and len(path.parts) == 2 and path.stem.isascii()
        found = parse_eval_result_entries(yaml.safe_load(data))
        assert {entry.value for entry in found} <= {row.post for row in facts.data.release.rows}
        assert all(set(item) <= {"dataset", "value", "date", "notes"} for item in yaml.safe_load(data))


def test_a_hostile_mark_stays_a_text(exported: Any, hostile: str) -> None:
    """The mark of a draft stands in the front matter as one value, and in the body as no markup."""
    card = hub.card_bytes(replace(exported.facts, draft=(hostile,)), []).decode()
    front = yaml.safe_load(card.split("\n---\n", 1)[0].removeprefix("---\n"))
    assert front["grpo_audit"]["draft"] == f"DRAFT, not a release: {hostile}"
    assert front["license"] == "apache-2.0"
    assert "\n# Injected" not in card and "<img" not in card.split("\n---\n", 1)[1]


def test_an_unmeasured_task_has_no_result(exported: Any) -> None:
    """A row without a value after training is left out; without any there is no file."""
    rows = exported.facts.data.release.rows
    some = replace(exported.facts.data.release, rows=(replace(rows[0], post=None), *rows[1:]))
    (found,) = entries(replace(exported.facts, data=replace(exported.facts.data, release=some))).values()
    assert rows[0].task not in {entry.task_id for entry in found}
    none = replace(exported.facts.data.release, rows=tuple(replace(row, post=None) for row in rows))
    assert hub.result_files(replace(exported.facts, data=replace(exported.facts.data, release=none))) == {}
