"""What runs inside the sandbox: the completion's code, and the calls that are asked of it. Never imported by a source.

Nothing in here is trusted: the code under test can change all of it. So it knows arguments and never expected values;
it only reports what came back, and the comparison is made outside.
"""

import json
import os
from typing import Any


def encode(value: Any, depth: int = 0) -> Any:
    """A value of plain types as JSON that keeps the types apart; anything else is an error."""
    kind = type(value)
    if depth > 50:
        raise ValueError("too deep")
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return ["int", format(value, "x")]
    if kind is float:
        return ["float", repr(value)]
    if kind in (list, tuple):
        return [kind.__name__, [encode(item, depth + 1) for item in value]]
    if kind in (set, frozenset):
        return ["set", [encode(item, depth + 1) for item in value]]
    if kind is dict:
        return ["dict", [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in value.items()]]
    raise ValueError("no plain value")


def decode(value: Any) -> Any:
    """The value that ``encode`` was given."""
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "int":
        return int(content, 16)
    if kind == "float":
        return float(content)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    return {"list": list, "tuple": tuple, "set": set}[kind](decode(item) for item in content)


def _read_exactly(length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = os.read(0, length - len(data))
        if not part:
            break
        data += part
    return data


def main() -> None:
    """Eight digits of length, a JSON request of that length, then what the program may read as its own input."""
    request = json.loads(_read_exactly(int(_read_exactly(8))))
    code = compile(request["source"], "solution.py", "exec")
    if request["calls"] is None:
        exec(code, {"__name__": "__main__"})
        return
    out = os.dup(1)
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, 1)
    names: dict[str, Any] = {"__name__": "solution"}
    exec(code, names)
    for index, (name, arguments) in enumerate(request["calls"]):
        try:
            answer = [index, encode(names[name](*[decode(item) for item in arguments]))]
        except Exception:  # noqa: BLE001 - a call that raises has no answer
            continue
        os.write(out, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
