"""Hostile text in a record, parsed as a browser would: no script, no handler, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from grpo_audit.report.model import ReportData
from grpo_audit.report.render import render_html
from grpo_audit.report.visible import excerpt, pieces

VOID = {"meta", "link", "br", "img", "input", "hr", "base", "wbr", "col"}
TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "footer", "nav", "section", "aside", "div",
    "span", "p", "h1", "h2", "h3", "h4", "a", "b", "code", "pre", "data", "dl", "dt", "dd", "ol", "ul", "li", "table",
    "caption",
    "thead", "tbody", "tr", "th", "td", "details", "summary", "figure", "figcaption",
    "svg", "desc", "g", "defs", "path", "use", "text", "clippath", "rect",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "id", "href", "title", "value", "scope", "colspan",
    "data-label", "aria-label", "aria-labelledby", "aria-hidden", "role",
    "viewbox", "d", "x", "y", "width", "height", "transform", "clip-path", "clip-rule", "fill", "fill-opacity",
    "stroke",
    "stroke-width", "stroke-opacity", "stroke-linecap", "stroke-linejoin", "stroke-dasharray", "stroke-dashoffset",
    "stroke-miterlimit", "opacity", "font-size", "font-weight", "font-style", "text-anchor",
}  # fmt: skip
PAYLOADS = [
    "<script>alert(1)</script>",
    "</script></style></title></textarea><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x=\'',
    "javascript:alert(1)",
    "--></pre><iframe src=//example.invalid></iframe><!--",
    "]]><svg onload=alert(1)>",
    "{{ 7*7 }}{% raw %}",
    "\x00\x1b[31m\u202e\ud800\ufffe",
    '=HYPERLINK("http://example.invalid")',
    "---\nlicense: evil\n---\n",
]


class Page(HTMLParser):
    """Collects what a page consists of, and that every element is closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.content: dict[str, list[str]] = {}
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, (tag, self.open, self.getpos())

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open:
            self.content.setdefault(self.open[-1], []).append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")


def check(text: str) -> Page:
    """The laws every page obeys, whatever the record says."""
    page = Page(text)
    assert {tag for tag, _ in page.tags} <= TAGS
    for tag, attributes in page.tags:
        assert attributes.keys() <= ATTRIBUTES, (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#")
        for value in attributes.values():
            assert not re.search(r"url\((?!#)", value or "")
    style = "".join(page.content["style"])
    assert not re.search(r"url\(|@import|expression|//", style)
    text.encode("utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", text)
    return page


def test_the_page_of_a_hostile_record(made: Any) -> None:
    """A real record whose completions, errors, findings and notes attack the page gives a harmless page."""
    page = check(made.html)
    seen = "".join(page.text)
    shown = [item.completion for item in made.data.rollouts] + [item.post_response for item in made.data.flipped]
    assert any("onerror" in text.head for text in shown), "the record attacks at all"
    for text in shown:
        assert "".join(piece.text for piece in pieces(text.head)) in seen, "and each attack is shown as text"
    assert "U+001B" in seen and "U+0000" in seen and "<b>over</b>" in seen


@pytest.mark.parametrize("payload", [" ".join(PAYLOADS), *PAYLOADS[1:3]])
def test_any_text_may_be_hostile(data: ReportData, poison: Callable[..., ReportData], payload: str) -> None:
    """With an attack in place of every single text, ours included, the page stays harmless."""
    page = check(render_html(poison(data, payload)))
    ours = check(render_html(data))
    assert sum(tag == "section" for tag, _ in page.tags) == sum(tag == "section" for tag, _ in ours.tags)
    assert sum(tag == "table" for tag, _ in page.tags) >= 20


def test_the_policy_allows_the_one_style_and_nothing_else(made: Any) -> None:
    """The content security policy forbids everything but the style element, which it names by its hash."""
    page = Page(made.html)
    metas = [attributes for tag, attributes in page.tags if tag == "meta"]
    policy = next(item["content"] for item in metas if item.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256("".join(page.content["style"]).encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert sum(tag == "style" for tag, _ in page.tags) == 1


def test_every_link_leads_somewhere(made: Any) -> None:
    """Each reference of the page names an id of the page, and no id occurs twice."""
    page = Page(made.html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {(attributes.get("href") or "")[1:] for _, attributes in page.tags if "href" in attributes}
    assert links <= set(ids)
    labels = {name for _, attributes in page.tags for name in (attributes.get("aria-labelledby") or "").split()}
    assert labels and labels <= set(ids)


def test_a_megabyte_is_cut_and_counted(data: ReportData) -> None:
    """A huge completion does not swell the page; the page says how much it leaves out."""
    huge = replace(data.rollouts[0], completion=excerpt("<b>A" * 300_000))
    before = len(render_html(replace(data, rollouts=(data.rollouts[0],))))
    page = render_html(replace(data, rollouts=(huge,)))
    assert len(page) < before + 20_000
    assert "1,197,000 of 1,200,000 characters are not shown here" in page
