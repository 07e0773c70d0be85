"""The page of a comparison: everything is on it, and nothing on it is more than text."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from grpo_audit.errors import StorageError
from grpo_audit.record.events import EvalSample, EvaluationPlan, TaskPlan
from grpo_audit.record.identity import bytes_digest
from grpo_audit.report.versus_page import render_page, write_page
from grpo_audit.stats.binding import Side, documents_digest
from grpo_audit.stats.evaluated import Evaluated, Texts
from grpo_audit.stats.versus import Versus, versus
from tests.report.test_hostile import PAYLOADS, Page, check

SIZE = 30
TASKS = ("words", "choices")


def digest(text: str) -> str:
    """A digest that stands for a text."""
    return bytes_digest(text.encode())


def evaluated(name: str, share: float, word: str, *, run: bool) -> Evaluated:
    """An evaluation in which this share is right; ``word`` stands wherever a stranger's text may stand."""
    rng = random.Random(name)
    plan = EvaluationPlan(
        suite=f"suite {word}", harness=f"h {word}", protocol_digest=digest("p"), alpha=0.05,
        tasks=[
            TaskPlan(
                task=f"{task} {word}", behaviour=f"b {word}", metric=f"m {word}", higher_is_better=True, safety=True,
                margin=0.05, documents=SIZE,
                documents_digest=documents_digest([digest(f"{task}{n}") for n in range(SIZE)]),
            )
            for task in TASKS
        ],
    )  # fmt: skip
    samples = {
        f"{task} {word}": [
            EvalSample(
                phase="post", task=f"{task} {word}", doc_id=f"{n} {word}", cluster=f"{n}",
                doc_hash=digest(f"{task}{n}"), prompt_hash=digest("prompt"), target=f"t {word}", prediction=f"p {word}",
                metrics={f"m {word}": float(rng.random() < share), f"second {word}": rng.random() + share},
                completion_tokens=None if task == "choices" else rng.randint(3, 9),
                finish_reason="likelihood" if task == "choices" else "stop",
            )
            for n in range(SIZE)
        ]
        for task in TASKS
    }  # fmt: skip
    sequence = {(task, row.doc_id): place for task, rows in samples.items() for place, row in enumerate(rows)}
    return Evaluated(
        run_id=f"{name} {word}",
        phase="post",
        plan=plan,
        side=Side(digest(name), digest("p"), samples),
        sequence=sequence if run else {},
        texts=lambda *_: Texts(f"prompt {word}", f"answer of {name} {word}" if run else None),
        flagged={f"words {word}": frozenset({f"0 {word}", f"1 {word}"})} if run else None,
    )


def found(word: str = "w") -> Versus:
    """A run against a better run and a worse model."""
    return versus(
        evaluated("base", 0.5, word, run=True),
        [evaluated("better", 0.95, word, run=True), evaluated("worse", 0.02, word, run=False)],
        examples=2,
    )


def test_everything_that_was_compared_is_on_the_page() -> None:
    """Both columns, each verdict and method, secondary metrics, lengths, the clean subset, and both answers."""
    made = found()
    page = check(render_page(made))
    seen = " ".join("".join(page.text).split())
    for column in made.columns:
        for row in column.result.comparison.tasks:
            assert row.verdict.value in seen and row.method in seen and row.task in seen
        assert column.evaluated.side.weights in seen
    assert "answer of base w" in seen and "answer of better w" in seen
    assert "the text was erased or never stored" in seen  # the model's texts are not at hand
    for heading in ("Secondary metrics", "Lengths of the answers", "no training prompt overlaps"):
        assert seen.count(heading) >= len(made.columns)


@pytest.mark.parametrize("payload", [" ".join(PAYLOADS), *PAYLOADS[1:3]])
def test_any_text_of_a_comparison_may_be_hostile(payload: str) -> None:
    """Task, metric, document, run, answer: whatever it says, the page stays what it is and shows it as text."""
    made = found(payload.replace("\ud800", ""))
    page, ours = check(render_page(made)), check(render_page(found()))
    for tag in ("section", "table", "tr", "details"):
        assert sum(name == tag for name, _ in page.tags) == sum(name == tag for name, _ in ours.tags)


def test_links_lead_somewhere_and_ids_occur_once() -> None:
    """As on the release report."""
    page = Page(render_page(found()))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {(a.get("href") or "")[1:] for _, a in page.tags if "href" in a} <= set(ids)


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """The folder of the page is made; where a file stands in its way, that is said."""
    write_page(found(), tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!doctype html>")
    with pytest.raises(StorageError, match="Cannot write the page"):
        write_page(found(), tmp_path / "new" / "page.html" / "below.html")
