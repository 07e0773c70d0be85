"""Function calls in a model's answer, and whether they are the wanted ones.

The rules are those of the Berkeley Function-Calling Leaderboard (Patil et al.) for Python: the right functions with the
right parameters, each value one of those accepted, texts compared without case, spaces and punctuation. Calls are read
and never made.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from grpo_audit_evals import traces

LONGEST = 20_000
"""Characters of an answer that are read as calls; a longer one is none."""

_TAGGED = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_FENCE = re.compile(r"^```[\w-]*\s*\n(.*)\n\s*```$", re.DOTALL)
_WORDS = {"true": True, "false": False, "null": None}
_LOOSE = re.compile(r"[ ,./\-_*^]")
_NONE_FITS = re.compile(
    r"\b(?:no|none of|not any of)(?: [\w-]+){0,4} (?:functions?|tools?)\b"
    r"|\b(functions?|tools?)\b[^.?!\n]{0,60}"
    r"\b(can ?not|can't|could not|do(es)? not|don't|doesn't|are not|aren't|is not|isn't)\b"
    r"|\b(can ?not|can't|unable|not able|don't have|do not have|lack|isn't|is not|without)\b"
    r"[^.?!\n]{0,80}\b(functions?|tools?)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Call:
    """One call with keyword arguments."""

    name: str
    arguments: Mapping[str, Any]


def parse(text: str) -> list[Call] | None:
    """The calls that an answer consists of, its reasoning trace left aside; None when it is anything else.

    Understood: a Python list of calls or one call, JSON with ``name`` and ``arguments``, the same in ``<tool_call>``
    tags, all of it with or without a code fence. Nothing is executed; hostile nesting is no call.
    """
    said = traces.split(text).answer.strip()
    if not said or len(said) > LONGEST:
        return None
    if tagged := _TAGGED.findall(said):
        found = [_one(part) for part in tagged]
        return None if None in found else [call for calls in found if calls for call in calls]
    return _one(said)


def _one(text: str) -> list[Call] | None:
    text = text.strip()
    if fenced := _FENCE.match(text):
        text = fenced.group(1).strip()
    try:
        return _from_json(json.loads(text))
    except (ValueError, RecursionError):
        pass
    try:
        return _from_python(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _from_json(value: Any) -> list[Call]:
    """Raises ValueError when this is no call."""
    items = value if isinstance(value, list) else [value]
    calls = []
    for item in items:
        item = item.get("function", item) if isinstance(item, dict) else item
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise ValueError("no call")
        arguments = item.get("arguments", item.get("parameters", {}))
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        if not isinstance(arguments, dict):
            raise ValueError("arguments are no object")
        calls.append(Call(item["name"], arguments))
    if not calls:
        raise ValueError("an empty list is no call")
    return calls


def _from_python(node: ast.expr) -> list[Call]:
    """Raises ValueError when this is no call."""
    nodes = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
    if not nodes:
        raise ValueError("an empty list is no call")
    return [_python_call(item) for item in nodes]


def _python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args or any(word.arg is None for word in node.keywords):
        raise ValueError("no call with keyword arguments")
    if not isinstance(node.func, ast.Name | ast.Attribute):
        raise ValueError("no name")
    return Call(ast.unparse(node.func), {str(word.arg): _value(word.value) for word in node.keywords})


def _value(node: ast.expr) -> Any:
    """A literal; a name is taken as the text of it (a variable), but for the words of JSON."""
    match node:
        case ast.Name(id=name):
            return _WORDS.get(name, name)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            if None in keys:
                raise ValueError("no literal")
            return {_value(key): _value(value) for key, value in zip(keys, values, strict=True) if key is not None}
    return ast.literal_eval(node)


def correct(calls: Sequence[Call] | None, accepted: Sequence[Mapping[str, Any]], functions: Sequence[Any]) -> bool:
    """Whether the calls are the wanted ones, in any order and without others.

    Args:
        calls: What the model said; None when it made no call.
        accepted: For each wanted call ``{name: {parameter: [accepted values]}}``; "" among them: may be left out.
        functions: The descriptions: ``name`` and ``parameters`` with ``properties`` and ``required``.
    """
    if calls is None or len(calls) != len(accepted):
        return False
    described = {function["name"]: function["parameters"] for function in functions}
    fits = [[_is(call, wanted, described) for call in calls] for wanted in accepted]
    return not fits or bool((maximum_bipartite_matching(csr_array(fits), perm_type="column") >= 0).all())


def _is(call: Call, wanted: Mapping[str, Any], described: Mapping[str, Any]) -> bool:
    (name, values), *_ = wanted.items()
    if call.name != name or name not in described:
        return False
    properties, required = described[name].get("properties", {}), described[name].get("required", [])
    if any(parameter not in call.arguments for parameter in required):
        return False
    if any(parameter not in properties or parameter not in values for parameter in call.arguments):
        return False
    return all(
        _accepts(call.arguments[parameter], accepted or [[]], properties[parameter])
        if parameter in call.arguments
        else _optional(accepted)
        for parameter, accepted in values.items()
    )


def _optional(accepted: Sequence[Any]) -> bool:
    """The leaderboard's files say so with "". A few say that nothing is accepted: then nothing or an empty list is."""
    return "" in accepted or not accepted


def _accepts(value: Any, accepted: Sequence[Any], schema: Mapping[str, Any]) -> bool:
    types = [schema.get("type"), *(_type(item) for item in accepted if item != "")]
    return any(_has_type(value, name) for name in types) and any(_equal(value, item) for item in accepted)


def _type(value: Any) -> str:
    """The schema's name for the type of an accepted value: it may be a variable's name where a number is due."""
    for name, kind in (("boolean", bool), ("integer", int), ("float", float), ("string", str), ("dict", dict)):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "array"


def _has_type(value: Any, name: object) -> bool:
    """A whole number is a float too; a truth value is no number."""
    kind = _type(value)
    return (
        name == "any"
        or kind == name
        or (name == "float" and kind == "integer")
        or (name == "tuple" and kind == "array")
    )


def _equal(value: Any, accepted: Any) -> bool:
    """An accepted object has a list of accepted values for each key; everything else is compared as it is."""
    if isinstance(value, str) and isinstance(accepted, str):
        return _loose(value) == _loose(accepted)
    if isinstance(value, dict) and isinstance(accepted, dict):
        return all(key in accepted for key in value) and all(
            any(_equal(value[key], item) for item in _list(items)) if key in value else _optional(_list(items))
            for key, items in accepted.items()
        )
    if isinstance(value, list) and isinstance(accepted, list):
        return len(value) == len(accepted) and all(map(_equal, value, accepted))
    if isinstance(value, bool) or isinstance(accepted, bool):
        return value is accepted
    return bool(value == accepted)


def _list(items: Any) -> list[Any]:
    return items if isinstance(items, list) else [items]


def _loose(text: str) -> str:
    """Without what people write differently: "April 1, 2024" and "april 1 2024" are the same."""
    return _LOOSE.sub("", text).lower().replace("'", '"')


def render(accepted: Sequence[Mapping[str, Any]], functions: Sequence[Any]) -> str:
    """A right answer: each wanted call with the first accepted values; what may be left out is left out."""
    required = {function["name"]: function["parameters"].get("required", []) for function in functions}
    return f"[{', '.join(_rendered(wanted, required) for wanted in accepted)}]"


def _rendered(wanted: Mapping[str, Any], required: Mapping[str, Sequence[str]]) -> str:
    (name, values), *_ = wanted.items()
    given = {
        parameter: _first(items)
        for parameter, items in values.items()
        if parameter in required.get(name, ()) or not _optional(items)
    }
    return f"{name}({', '.join(f'{parameter}={value!r}' for parameter, value in given.items())})"


def _first(items: Sequence[Any]) -> Any:
    return _plain(next((item for item in items if item != ""), []))


def _plain(value: Any) -> Any:
    """An accepted value as a value: of an object, one value for each key."""
    if isinstance(value, dict):
        return {key: _first(_list(items)) for key, items in value.items() if not _optional(_list(items))}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def makes_call(text: str, functions: Sequence[Any]) -> bool:
    """Whether an answer calls anything, also amid other text."""
    said = traces.split(text).answer
    if parse(said) is not None or "<tool_call>" in said:
        return True
    return any(
        re.search(rf"(?<![\w.]){re.escape(function['name'])}\s*\(\s*[\w)]", said) is not None for function in functions
    )


def says_none_fits(text: str) -> bool:
    """Whether an answer says that no function is for this. Silence and noise say nothing."""
    said = traces.split(text).answer[:LONGEST].replace("’", "'")
    return _NONE_FITS.search(said) is not None
