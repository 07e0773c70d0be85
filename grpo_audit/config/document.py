"""YAML 1.2 text in and out. What comes in may be hostile: its size, depth and number of nodes are bounded, duplicate
keys are refused, and no tag constructs anything but plain data. Each value keeps the line it came from.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode
from ruamel.yaml.representer import SafeRepresenter

from grpo_audit.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the root."""

MAX_BYTES: Final = 128 * 1024
"""A recipe is a few kilobytes; the parser takes about a second for this much."""
MAX_DEPTH: Final = 20
MAX_NODES: Final = 10_000
"""Counted with every alias written out, so that a few lines of nested aliases cannot become gigabytes."""


@dataclass(frozen=True)
class Document:
    """Parsed YAML."""

    data: object
    """Plain mappings, lists and scalars; None when the text is empty."""
    lines: dict[KeyPath, int]
    """Line of each value, from 1."""


def parse(text: str, where: str) -> Document:
    """Parse one YAML document. ``where`` names its origin in errors.

    Raises ConfigError: too large, malformed, too deep, too many nodes, duplicate key, a key that is no text, a tag.
    """
    if len(text.encode("utf-8", errors="surrogatepass")) > MAX_BYTES:
        raise ConfigError(f"{where} is too large", expected=f"at most {MAX_BYTES // 1024} KiB of YAML")
    _refuse_directives(text, where)
    try:
        root = _yaml().compose(text)
        if root is None:
            return Document(None, {})
        lines: dict[KeyPath, int] = {}
        _Walk(where, lines).visit(root, ())
        return Document(_yaml().load(text), lines)
    except RecursionError as error:
        raise _too_deep(where) from error
    except YAMLError as error:
        raise _malformed(error, text, where) from error


class _Walk:
    """Visits each node as often as it is used, notes its line, and stops at the limits."""

    def __init__(self, where: str, lines: dict[KeyPath, int]) -> None:
        self.where = where
        self.lines = lines
        self.nodes = 0

    def visit(self, node: Node, path: KeyPath) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise ConfigError(
                f"{self.where} has too many values", expected=f"at most {MAX_NODES:,}, with aliases written out"
            )
        if len(path) > MAX_DEPTH:
            raise _too_deep(self.where)
        # A value on another line than its key is found under the key: that is where the reader looks first.
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, MappingNode):
            for key, value in node.value:
                name = self._key(key)
                self.lines[(*path, name)] = key.start_mark.line + 1
                self.visit(value, (*path, name))
        elif isinstance(node, SequenceNode):
            for index, item in enumerate(node.value):
                self.visit(item, (*path, index))

    def _key(self, key: Node) -> str:
        if not isinstance(key.value, str) or str(key.tag) not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            shown = key.value if isinstance(key.value, str) else "a list or mapping"
            raise ConfigError(
                f"A key in {self.where}, line {key.start_mark.line + 1}, is no text",
                found=shown or "nothing",
                next_step="Put it in quotes if it is meant as a name",
            )
        return key.value


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = MAX_DEPTH
    return yaml


def _refuse_directives(text: str, where: str) -> None:
    # "%YAML 1.1" would silently turn yes and no into truth values.
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("%"):
            raise ConfigError(
                f"{where}, line {number}, is a YAML directive", found=repr(line[:40]), next_step="Remove the line"
            )


def _too_deep(where: str) -> ConfigError:
    return ConfigError(
        f"{where} is nested too deeply", expected=f"at most {MAX_DEPTH} levels and no alias inside itself"
    )


def _malformed(error: YAMLError, text: str, where: str) -> ConfigError:
    if type(error).__name__ == "MaxDepthExceededError":
        return _too_deep(where)
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        found = str(error.problem or error.context).removeprefix("found ")
    else:  # an unprintable character
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        found = f"the unprintable character U+{getattr(error, 'character', 0):04X}"
    found = found.replace("could not determine a constructor for the tag", "a tag that is no plain value:")
    if "\t" in found or "'\\t'" in found:
        found = "a tab; YAML indents with blanks"
    return ConfigError(
        f"{where} is not valid YAML at line {line}", found=found, next_step="Correct that line or the one before it"
    )


class _Representer(SafeRepresenter):
    """Keeps the order of keys and writes floats in their shortest form."""

    def represent_float(self, data: float) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:float", short_float(data))

    def represent_str(self, data: str) -> Any:
        # ruamel writes a key that is a single U+0085 as a line break; escapes are safe for all such characters.
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Representer.add_representer(float, _Representer.represent_float)
_Representer.add_representer(str, _Representer.represent_str)


def short_float(value: float) -> str:
    """The shortest decimal text that reads back as the same float in YAML 1.2: ``6e-5``, ``0.2``, ``1e+22``.

    Law: ``float(short_float(x)) == x`` for every finite x.
    """
    mantissa, mark, exponent = repr(value).partition("e")
    return f"{mantissa}e{exponent[0]}{exponent[1:].lstrip('0')}" if mark else mantissa


def write(data: object) -> str:
    """YAML 1.2 text of plain data, keys in the given order. Law: ``parse(write(x), "").data == x``."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 1 << 20  # never folds a long line
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def write_inline(value: object) -> str:
    """One value on one line, as a recipe or ``--set`` would write it."""
    if isinstance(value, float):
        return short_float(value)
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = True
    yaml.width = 1 << 20
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue().removesuffix("...\n").strip()
