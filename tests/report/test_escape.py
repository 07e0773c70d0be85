"""Markdown escaping, checked by an independent Markdown parser."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from grpo_audit.report.escape import markdown, markdown_block, markdown_code, visible_html
from grpo_audit.report.visible import plain

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
ANY_TEXT = st.text(st.characters(codec=None), max_size=60)
MARKUP = st.text(st.sampled_from("\\`*_[]()<>|~$@#!:.-+=&123 ax\n/w"), max_size=40)
HOSTILE = [
    "# heading",
    "- item",
    "1. item",
    "1) item",
    "---",
    "===",
    "> quote",
    "```",
    "| a | b |",
    "[x](javascript:alert(1))",
    "![x](http://example.invalid/p.png)",
    "<script>alert(1)</script>",
    "<http://example.invalid>",
    "&lt;script&gt;",
    "**bold** _it_ ~~gone~~ `code`",
    "a | b \\| c",
    "trailing \\",
    "[ref]: http://example.invalid",
    "---\nlicense: evil\n---",
]


def shown(tokens: list[Token]) -> str:
    """The text a reader sees."""
    return "".join(
        shown(token.children) if token.children else token.content
        for token in tokens
        if token.type in {"inline", "text", "text_special", "code_inline"}
    )


def kinds(tokens: list[Token]) -> set[str]:
    """Every token type there is."""
    return {token.type for token in tokens} | {
        kind for token in tokens if token.children for kind in kinds(token.children)
    }


def one_line(text: str) -> str:
    """The text as one line of Markdown can show it: white space is one space."""
    return " ".join(plain(text).split())


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_markdown_is_shown_as_written(text: str) -> None:
    """A heading, list, rule, quote, fence, link, image, HTML or entity in a text is text."""
    check_paragraph(text)


@given(ANY_TEXT | MARKUP)
def test_any_text_is_shown_as_written(text: str) -> None:
    """Whatever a text is, the parsed Markdown is one paragraph of exactly that text."""
    check_paragraph(text)


def check_paragraph(text: str) -> None:
    """One paragraph, nothing in it but the text."""
    tokens = PARSER.parse(str(markdown(text)))
    assert kinds(tokens) <= {"paragraph_open", "inline", "paragraph_close", "text", "text_special"}
    assert shown(tokens) == one_line(text)


@given(ANY_TEXT | MARKUP)
def test_a_table_cell_stays_one_cell(text: str) -> None:
    """A text, as prose or as code, never adds a column or a row, and is shown as written."""
    table = f"| a | b | c |\n|---|---|---|\n| {markdown(text)} | {markdown_code(text)} | end |\n"
    tokens = PARSER.parse(table)
    cells = [shown(after.children or []) for before, after in pairwise(tokens) if before.type == "td_open"]
    assert len(cells) == 3 and cells[2] == "end"
    assert cells[0] == one_line(text)
    assert cells[1].strip() == one_line(text)


@given(ANY_TEXT | MARKUP)
def test_a_block_holds_its_text(text: str) -> None:
    """A fenced block ends where we end it."""
    tokens = PARSER.parse(f"{markdown_block(text)}\n\nafter\n")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]
    assert tokens[0].content == plain(text).rstrip("\n") + "\n" or not plain(text).strip("\n")


@pytest.mark.parametrize(
    "text", ["http://example.invalid", "www.example.invalid", "a@example.invalid", ":smile:", "$x$"]
)
def test_dialects_find_no_link(text: str) -> None:
    """What GitHub's and the Hub's dialects turn into links, mentions, emoji or mathematics is broken up."""
    assert not re.search(r"(?<!\\)(://|www(?=\.)(?!\\)|@|\$)", str(markdown(text)).replace("www\\.", ""))
    assert str(markdown(text)) != text


@given(ANY_TEXT)
def test_html_text_has_no_markup_but_marks(text: str) -> None:
    """Without our own marks nothing is left that opens a tag or an entity by itself."""
    rest = re.sub(
        r'<span class="inv" title="[A-Z0-9 ()<>-]*">U\+[0-9A-F]{4,6}</span>', "", str(visible_html(text)), flags=re.I
    )
    assert "<" not in rest and ">" not in rest and '"' not in rest
