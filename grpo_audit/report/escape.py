"""Escaping for the two languages a report is written in. HTML is escaped by Jinja itself; the rest is here."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from grpo_audit.report.visible import pieces, plain

_MARKUP = re.compile(
    r"([\\`*_\[\]|~$@>#])"  # anywhere: code, emphasis, links, table cells, strike-through, mathematics, mentions
    r"|(?<=www)(\.)|(:)(?=//)"  # what GitHub's dialect turns into links by itself
    r"|(:)(?=[\w+-]*[A-Za-z][\w+-]*:)"  # :short_codes: of emoji
    r"|\A([-+=])(?=[\s=-]|\Z)"  # at the beginning: lists, rules, underlines of headings
    r"|\A(\d{1,9})([.)])(?=\s|\Z)",  # and numbered lists
    re.IGNORECASE,
)


def visible_html(text: str) -> Markup:
    """Text for an element's content: escaped, with a named mark for each character that cannot be seen."""
    parts = [
        Markup('<span class="inv" title="{}">{}</span>').format(piece.name, piece.text)
        if piece.name
        else escape(piece.text)
        for piece in pieces(text)
    ]
    return Markup("").join(parts)


def finalize(value: object) -> object:
    """What Jinja does with every printed value: text of any origin gets its invisible characters named."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def markdown(text: object) -> Markup:
    """One line of Markdown that shows exactly this text: no markup, no HTML, no table cell, no link, no new line."""
    line = " ".join(plain(str(text)).split())
    escaped = _MARKUP.sub(_backslash, line.replace("&", "\0").replace("<", "\1"))
    return Markup(escaped.replace("\0", "&amp;").replace("\1", "&lt;"))


def _backslash(match: re.Match[str]) -> str:
    number = match[6]
    return f"{number}\\{match[7]}" if number else f"\\{match[0]}"


def markdown_code(text: object) -> Markup:
    """An inline code span; its fence is longer than any run of backticks inside. In a table cell ``|`` is escaped."""
    line = " ".join(plain(str(text)).split()) or " "
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if line[0] in "` " or line[-1] in "` " else ""
    return Markup(f"{fence}{pad}{line}{pad}{fence}".replace("|", "\\|"))


def markdown_block(text: object, language: str = "text") -> Markup:
    """A fenced block; its fence is longer than any run of backticks inside."""
    shown = plain(str(text)).rstrip("\n")
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}{language}\n{shown}\n{fence}")
