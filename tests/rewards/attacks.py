"""Completions that no answer source may reward, and none may hang or raise on, whatever the reference is."""

from __future__ import annotations

HOSTILE: dict[str, str] = {
    "nothing": "",
    "blanks": " \n\t ",
    "an empty block": "<answer></answer>",
    "an empty box": r"\boxed{}",
    "an open block": "<answer>4",
    "an open box": r"\boxed{4",
    "NUL": "\x00" * 10 + "<answer>\x00</answer>",
    "a lone surrogate": "<answer>\ud800</answer>",
    "nested braces": r"\boxed" + "{" * 5000 + "4" + "}" * 5000,
    "nested boxes": r"\boxed{" * 3000 + "}" * 3000,
    "many open blocks": "<answer>" * 20_000,
    "many blocks": "<answer>5</answer>" * 20_000,
    "a megabyte": "a" * 1_000_000,
    "a megabyte of braces": "{" * 1_000_000,
    "a megabyte in a block": "<answer>" + "9" * 1_000_000 + "</answer>",
    "a tower of powers": "<answer>99**99**99</answer>",
    "backslashes": "\\" * 100_000 + r"\boxed{",
    "right to left": "<answer>\u202e\u202e</answer>",
    "invisible": "<answer>\u200b\u2060\ufeff</answer>",
}
