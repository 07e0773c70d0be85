"""Step (31): the report beside a record says what the record says, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import Annotation
from grpo_audit.report.data import collect
from grpo_audit.report.files import CARD_NAME, DATA_NAME, HTML_NAME
from grpo_audit.report.render import render
from grpo_audit.report.trace import read_files, trace
from grpo_audit.verify.l0 import verify
from grpo_audit.verify.verdict import Check, Outcome

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, build_record: Callable[..., str]) -> tuple[Path, str, Files]:
    """A record, its run and its report files."""
    folder = tmp_path_factory.mktemp("traced")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(folder / "home"))
        run_id = build_record(folder / "record.db", steps=2, prompts=2, group_size=2)
        with Project.open(folder / "record.db", mode="read") as project:
            render(collect(project, run_id, verify(folder / "record.db")), folder / "report")
    return folder / "record.db", run_id, read_files(folder / "report")


def traced(place: tuple[Path, str, Files], **changed: bytes | None) -> Check:
    """Step (31), with some files changed (by the suffix of their name) or left out."""
    path, run_id, files = place
    suffixes = {name.rpartition(".")[2]: name for name in files}
    found = dict(files) | {suffixes[key]: value for key, value in changed.items() if value is not None}
    for key, value in changed.items():
        if value is None:
            del found[suffixes[key]]
    with Project.open(path, mode="read") as project:
        return trace(project, run_id, found)


def test_report_of_the_record_passes(place: tuple[Path, str, Files]) -> None:
    """What was rendered from the record is what the record gives, also to somebody who verified nothing."""
    check = traced(place)
    assert (check.number, check.outcome) == (31, Outcome.PASSED), check.detail


def changed(files: Files, name: str, old: str, new: str) -> bytes:
    """A file with one text in it changed."""
    text = files[name].decode()
    assert re.search(old, text), (name, old)
    return re.sub(old, new, text, count=1).encode()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (DATA_NAME, r'"pre": 0\.[0-9]+', '"pre": 0.99'),
        (DATA_NAME, r'"seqs": \[\n +([0-9]+)', r'"seqs": [ 9\1'),
        (DATA_NAME, r'"completion_tokens": [0-9]+', '"completion_tokens": 7'),
        (DATA_NAME, r'"evidence": "declared"', '"evidence": "measured"'),
        (DATA_NAME, r'"severity": "error"', '"severity": "info"'),
        (DATA_NAME, r'"method": \{', '"more": 1, "method": {'),
        (HTML_NAME, r'<data value="[^"]*">[^<]*</data>', '<data value="0.9">0.900</data>'),
        (HTML_NAME, r'<data value="([^"]*)">[^<]*</data>', r'<data value="\1">0.987</data>'),
        (HTML_NAME, r"regressed</span>", "improved</span>"),
        (HTML_NAME, r"(<svg[\s\S]*?<path d=\")M", r"\1M 1 1 M"),
        (HTML_NAME, r"(<section id=\"training\">)", r"\1<p>The reward rose by 99 %.</p>"),
        (HTML_NAME, r"(<p class=\"word\">)", r"\1 987,654 "),
        (CARD_NAME, r"(## Release results[\s\S]*?\| )0\.[0-9]+", r"\g<1>0.999"),
        (CARD_NAME, r"(## Verdict)", r"\1\n\nAll of 987,654 documents."),
        (CARD_NAME, r"(## Budget)", r"\1\n\nAlmost nothing."),
        (CARD_NAME, r"base_model: ", "base_model: another/"),
    ],
)
def test_changed_report_is_found(place: tuple[Path, str, Files], name: str, old: str, new: str) -> None:
    """A number, a pointer, a word or a line of a figure that the record does not give makes step (31) fail."""
    text = changed(place[2], name, old, new)
    assert traced(place, **{name.rpartition(".")[2]: text}).outcome is Outcome.FAILED


def test_nothing_to_trace_is_no_pass(place: tuple[Path, str, Files]) -> None:
    """Without a report, with one of an older program, or with one of another version there is nothing to check."""
    path, run_id, files = place
    with Project.open(path, mode="read") as project:
        assert trace(project, run_id, {}).outcome is Outcome.NOTHING
    assert traced(place, json=None).outcome is Outcome.NOTHING
    document = json.loads(files[DATA_NAME]) | {"tool": "grpo-audit 99.0"}
    assert traced(place, json=json.dumps(document).encode()).outcome is Outcome.NOTHING


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"report": []}', b"\xff\xfe", b"[" * 100_000])
def test_broken_data_fails(place: tuple[Path, str, Files], data: bytes) -> None:
    """A report.json that is none is a failure, and no exception."""
    assert traced(place, json=data).outcome is Outcome.FAILED


def test_record_that_grew(place: tuple[Path, str, Files], tmp_path: Path) -> None:
    """After an annotation the report still stands for the run's own sections, and the check says what it left out."""
    path, run_id, files = place
    copy = tmp_path / "record.db"
    copy.write_bytes(path.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(path.parent / "home"))
        with Project.open(copy, mode="write") as project:
            note = Annotation(author="A", field="approval", value="yes", reason="looked at")
            project.append([NewEvent(note, run_id)])
    with Project.open(copy, mode="read") as project:
        check = trace(project, run_id, files)
        assert check.outcome is Outcome.PASSED, check.detail
        assert "has grown" in check.detail
        text = changed(files, DATA_NAME, r'"pre": 0\.[0-9]+', '"pre": 0.99')
        assert trace(project, run_id, files | {DATA_NAME: text}).outcome is Outcome.FAILED
