"""The model card: metadata the Hub can read, and a body that says the same as the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt
from ruamel.yaml import YAML

from grpo_audit.report.card import metadata
from grpo_audit.report.model import ReportData
from grpo_audit.report.numbers import figure
from grpo_audit.report.render import render_card

HOSTILE = [
    "---\nlicense: evil\n---\n# Injected",
    "yes",
    "null",
    "1e3",
    "0x1f",
    "2026-11-21",
    "- a: [b",
    "#comment",
    "&anchor *alias !!python/object:os.system",
    "a: b",
    "quote\" and \\ and '",
    "\x00\x1b\x85\u2028\u202e end",
    " lead and trail ",
    "",
    "x" * 5000,
]


def split(card: str) -> tuple[str, str]:
    """Front matter and body, cut at the first line that ends it, as the Hub does."""
    lines = card.split("\n")
    assert lines[0] == "---"
    end = lines.index("---", 1)
    return "\n".join(lines[1:end]), "\n".join(lines[end + 1 :])


def test_the_front_matter_says_what_was_meant(made: Any) -> None:
    """The YAML between the lines parses back to the metadata, by a YAML 1.2 and a YAML 1.1 reader."""
    front, _ = split(made.card)
    assert YAML(typ="safe", pure=True).load(front) == metadata(made.data)
    assert yaml.safe_load(front) == metadata(made.data)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_out_of_the_front_matter(data: ReportData, poison: Callable[..., ReportData], text: str) -> None:
    """With any text in place of every text, the front matter still parses back to what was meant."""
    poisoned = poison(data, text)
    front, _ = split(render_card(poisoned))
    assert yaml.safe_load(front) == metadata(poisoned)
    assert YAML(typ="safe", pure=True).load(front) == metadata(poisoned)


@pytest.mark.parametrize(
    "text", ["<img src=x onerror=alert(1)>", "| x |\n|---|\n", "[a](javascript:alert(1))", "```\n# x"]
)
def test_no_text_breaks_out_of_the_body(data: ReportData, poison: Callable[..., ReportData], text: str) -> None:
    """The body has the same headings, tables and blocks whatever the record says, and never HTML or a link."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

    def structure(found: ReportData) -> list[str]:
        tokens = parser.parse(split(render_card(found))[1])
        inner = {child.type for token in tokens for child in token.children or []}
        assert not inner & {"html_inline", "link_open", "image"}
        return [token.type for token in tokens if token.type not in {"inline"}]

    assert structure(poison(data, text)) == structure(poison(data, "word"))
    assert "html_block" not in structure(poison(data, text))


def test_the_hub_understands_it(made: Any) -> None:
    """The Hub's own library reads the metadata and finds each result, with its value before and after."""
    front, _ = split(made.card)
    found = ModelCardData(**yaml.safe_load(front), ignore_metadata_errors=False)
    assert found.license == "apache-2.0" and found.base_model == "builtin"
    _, results = model_index_to_eval_results(metadata(made.data)["model-index"])
    rows = {row.task: row for row in made.data.release.rows}
    assert {result.dataset_name for result in results} == set(rows)
    for result in results:
        row = rows[result.dataset_name]
        assert result.metric_value == row.post and result.metric_args["before"] == row.pre


def test_the_body_has_the_report_s_numbers(made: Any) -> None:
    """Each compared task stands in the body with its values."""
    _, body = split(made.card)
    for row in made.data.release.rows:
        line = next(line for line in body.split("\n") if f"{row.task}, ".replace("_", "\\_") in line and "|" in line)
        assert f"| {figure(row.pre)} | {figure(row.post)} |" in line
        assert row.verdict in line


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("builtin", "builtin"),
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("gpt2", "gpt2"),
        ("/home/somebody/models/mine", "mine"),
        ("../models/mine", "mine"),
        ("C:\\models\\mine", "mine"),
    ],
)
def test_no_path_of_a_machine_leaves_in_the_card(data: ReportData, source: str, name: str) -> None:
    """A hub id is kept; of a folder only its own name."""
    assert metadata(replace(data, card=replace(data.card, base_model=source)))["base_model"] == name


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        (None, {"license": "unknown"}),
        ("My own, see file", {"license": "other", "license_name": "My own, see file"}),
    ],
)
def test_the_licence_is_one_the_hub_knows(data: ReportData, licence: str | None, expected: dict[str, str]) -> None:
    """An identifier in lower case; a text of one's own as "other"; nobody's word as "unknown"."""
    found = metadata(replace(data, card=replace(data.card, licence=licence)))
    assert {key: value for key, value in found.items() if key.startswith("license")} == expected


def test_an_unfinished_run_claims_no_results(data: ReportData) -> None:
    """Without results after training there is no model-index."""
    rows = tuple(replace(row, post=None) for row in data.release.rows)
    assert "model-index" not in metadata(replace(data, release=replace(data.release, rows=rows)))
