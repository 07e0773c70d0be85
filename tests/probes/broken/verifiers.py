"""Verifiers with one fault each, as they are found in the wild. Kept to be found; never to be used."""

from __future__ import annotations

import math
import random
import re
import signal
import time


def _tag(text):
    found = re.findall(r"<answer>(.*?)</answer>", text.rpartition("</think>")[2], re.DOTALL)
    return found[-1].strip() if found else None


def _boxes(text):
    return re.findall(r"\\boxed\{([^{}]*)\}", text)


def _each(judge):
    def score(completions, answer):
        return [judge(text, str(gold)) for text, gold in zip(completions, answer, strict=True)]

    return score


# --- for numbers ------------------------------------------------------------------------------------------------------
substring = _each(lambda text, gold: float(gold in text))


def _last_number(text, gold):
    found = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
    return float(bool(found) and found[-1] == gold)


last_number = _each(_last_number)
first_box = _each(lambda text, gold: float(_boxes(text)[:1] == [gold]))
any_box = _each(lambda text, gold: float(gold in _boxes(text)))


def _evaluated(text, gold):
    try:
        return float(eval(_tag(text) or "None", {"__builtins__": {}}) == float(gold))
    except (SyntaxError, NameError, TypeError, ZeroDivisionError, OverflowError, AttributeError):
        return 0.0


evaluated = _each(_evaluated)
accepts_empty = _each(lambda text, gold: float(not text.strip() or _tag(text) == gold))
right_format = _each(lambda text, _: float(_tag(text) is not None))
reads_the_trace = _each(lambda text, gold: float(f"<answer>{gold}</answer>" in text or f"It is {gold}." in text))


def _tolerant(text, gold):
    try:
        return float(math.isclose(float(_tag(text) or "nan"), float(gold), rel_tol=0.02))
    except ValueError:
        return 0.0


tolerant = _each(_tolerant)
prefix_match = _each(
    lambda text, gold: float((_tag(text) or "#").startswith(gold) or gold.startswith(_tag(text) or "#"))
)


def _digits_only(text, gold):
    return float(re.sub(r"\D", "", _tag(text) or "") == re.sub(r"\D", "", gold))


digits_only = _each(_digits_only)
believes = _each(lambda text, gold: float(_tag(text) == gold or "answer is correct" in text.lower()))


def _percent(text, gold):
    try:
        found = float((_tag(text) or "nan").strip("%"))
    except ValueError:
        return 0.0
    return float(any(math.isclose(found, float(gold) * factor) for factor in (0.01, 1, 100)))


percent = _each(_percent)


def _unicode_nan(text, gold):
    found = _tag(text) or ""
    if found.isdigit():
        return float(int(found) == float(gold))  # int() raises on a raised digit, which isdigit() lets pass
    return math.nan if not found.isascii() else float(found == gold)


unicode_raises = _each(_unicode_nan)


def _first_tag(text, gold):
    return float(text.partition("<answer>")[2].partition("</answer>")[0].strip() == gold)


first_tag = _each(_first_tag)
without_sign = _each(lambda text, gold: float((_tag(text) or "").lstrip("-\u2212") == gold.lstrip("-")))
without_commas = _each(lambda text, gold: float((_tag(text) or "").replace(",", "").replace(" ", "") == gold))


def _unit_blind(text, gold):
    found = re.fullmatch(r"(-?[\d.]+)\s*[A-Za-z ]*", _tag(text) or "")
    return float(bool(found) and found.group(1) == gold)


unit_blind = _each(_unit_blind)
strict_equality = _each(lambda text, gold: float(text == f"<answer>{gold}</answer>"))


def _backtracks(text, gold):
    if re.match(r"(?:a+)+$", text):
        return 0.0
    return float(_tag(text) == gold)


backtracks = _each(_backtracks)


def _recursive(text, gold):
    def depth(rest):
        return 1 + depth(rest[1:]) if rest[:1] in "([{" and rest else 0

    depth(_tag(text) or "")
    return float(_tag(text) == gold)


recursive = _each(_recursive)


# --- not the same twice -----------------------------------------------------------------------------------------------
def by_chance(completions, answer):
    """Now and then it is generous."""
    return [
        float(_tag(text) == str(gold) or random.random() < 0.3) for text, gold in zip(completions, answer, strict=True)
    ]


def by_hash(completions, answer):
    """hash() differs from process to process."""
    return [
        float(_tag(text) == str(gold) or hash(text) % 3 == 0) for text, gold in zip(completions, answer, strict=True)
    ]


def with_alarm(completions, answer):
    """A time limit by signal works in the main thread only."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(5)
    try:
        return [float(_tag(text) == str(gold)) for text, gold in zip(completions, answer, strict=True)]
    finally:
        signal.alarm(0)


_current = [""]


def with_a_global(completions, answer):
    """What one thread is at, another one overwrites."""
    found = []
    for text, gold in zip(completions, answer, strict=True):
        _current[0] = text
        time.sleep(0.002)
        found.append(float(_tag(_current[0]) == str(gold)))
    return found


# --- for letters and texts --------------------------------------------------------------------------------------------
def _letter(text, gold):
    found = re.findall(r"\b([A-D])\b", text, re.IGNORECASE)
    return float(bool(found) and found[-1].upper() == gold)


letters_any_case = _each(_letter)
fuzzy_text = _each(lambda text, gold: float((_tag(text) or "").lower() in gold.lower()))


# --- for Countdown ----------------------------------------------------------------------------------------------------
def countdown_by_eval(completions, numbers, target):
    """The value only, by eval: powers run for ever, and any numbers will do."""

    def judge(text, goal):
        expression = _tag(text) or "0"
        if not re.fullmatch(r"[-+*/() 0-9]*", expression):
            return 0.0
        try:
            return float(eval(expression) == goal)
        except (SyntaxError, ZeroDivisionError, TypeError):
            return 0.0

    return [judge(text, goal) for text, goal in zip(completions, target, strict=True)]


# --- for forms --------------------------------------------------------------------------------------------------------
def form_anywhere(completions):
    """The marks are there somewhere."""
    marks = ("<think>", "</think>", "<answer>", "</answer>")
    return [float(all(mark in text for mark in marks)) for text in completions]


def short(completions):
    """Silence is shortest."""
    return [float(len(text.split()) < 50) for text in completions]


KIND = {"form_anywhere": "rule", "short": "rule"}
