"""How often the detector errs: the counts measured on human-labelled answers, and how to measure them again."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from grpo_audit.errors import EvaluationError
from grpo_audit.record.comparisons import DetectorError, MeasuredOn
from grpo_audit.refusal.corpus import DATA
from grpo_audit.refusal.detector import identity, is_refusal

ERROR_FILE: Final = "error.json"
SOURCE: Final = (
    "human-labelled completions of XSTest v2 (Röttger et al. 2024, arXiv:2308.01263) that were not read "
    "while the detector was written"
)
COMPLIANCE: Final = "1_full_compliance"
"""Label of an answer that declines nothing; full and partial refusals both count as refusals."""
FILES: Final = {"gpt4": "xstest_v2_completions_gpt4.csv", "llama2new": "xstest_v2_completions_llama2new.csv"}
SHOWN_TO_AUTHOR: Final = "llama2new"
"""Every second answer of this model, from the first on, was read while the rule was written. No answer of the others
was."""


def measure(name: str, refusal: Sequence[bool], detected: Sequence[bool]) -> MeasuredOn:
    """Counts of one set of labelled answers. Raises EvaluationError when there are none, or not as many of each."""
    if not refusal or len(refusal) != len(detected):
        raise EvaluationError(
            f"The error of a detector on {name} cannot be measured",
            found=f"{len(refusal)} labels, {len(detected)} verdicts",
        )
    pairs = list(zip(refusal, detected, strict=True))
    return MeasuredOn(
        name=name,
        true_positives=sum(label and verdict for label, verdict in pairs),
        false_negatives=sum(label and not verdict for label, verdict in pairs),
        true_negatives=sum(not label and not verdict for label, verdict in pairs),
        false_positives=sum(not label and verdict for label, verdict in pairs),
    )


def error_of(measured: Sequence[MeasuredOn], source: str) -> DetectorError:
    """Sensitivity and specificity over all the sets together. Raises EvaluationError without any labelled answer."""
    found, missed, left, false = (
        sum(getattr(item, name) for item in measured)
        for name in ("true_positives", "false_negatives", "true_negatives", "false_positives")
    )
    if found + missed + left + false == 0:
        raise EvaluationError("The error of a detector rests on no labelled answers")
    return DetectorError(
        sensitivity=found / (found + missed) if found + missed else None,
        specificity=left / (left + false) if left + false else None,
        labelled=found + missed + left + false,
        source=source,
        measured=list(measured),
    )


@cache
def default_error() -> DetectorError:
    """The shipped detector's error on labelled answers that it was not written with.

    Raises EvaluationError when the counts that ship belong to another version of the detector.
    """
    data = json.loads((DATA / ERROR_FILE).read_text(encoding="utf-8"))
    if data["detector"] != identity():
        raise EvaluationError(
            "The measured error belongs to another version of the refusal detector",
            found=str(data["detector"]),
            expected=identity(),
            next_step="Measure it again: python -m grpo_audit.refusal.error FOLDER",
        )
    held_out = [MeasuredOn(**row["counts"]) for row in data["measured"] if row["held_out"]]
    return error_of(held_out, data["source"])


def xstest(folder: Path, judge: Callable[[str], bool] = is_refusal) -> dict[str, tuple[MeasuredOn, bool]]:
    """Counts on the completions of XSTest, by set, and whether the set is held out.

    Args:
        folder: Holds the completion files of XSTest.
        judge: The detector.
    """
    found: dict[str, tuple[MeasuredOn, bool]] = {}
    for model, file in FILES.items():
        labels, verdicts = _labelled(folder / file, judge)
        if model != SHOWN_TO_AUTHOR:
            found[model] = (measure(f"XSTest {model}", labels, verdicts), True)
            continue
        for part, start in (("answers read while writing the rule", 0), ("answers not read", 1)):
            counts = measure(f"XSTest {model}, {part}", labels[start::2], verdicts[start::2])
            found[f"{model}, {part}"] = (counts, start == 1)
    return found


def _labelled(path: Path, judge: Callable[[str], bool]) -> tuple[list[bool], list[bool]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["final_label"] != COMPLIANCE for row in rows], [judge(row["completion"]) for row in rows]


def to_json(measured: dict[str, tuple[MeasuredOn, bool]]) -> str:
    """What ships: counts, no text."""
    rows = [{"held_out": held_out, "counts": counts.model_dump()} for counts, held_out in measured.values()]
    data = {
        "detector": identity(),
        "source": SOURCE,
        "convention": "a refusal is a full or a partial refusal",
        "measured": rows,
    }
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Measure the shipped detector on a folder with XSTest's completions, and write the counts into the package."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m grpo_audit.refusal.error FOLDER")
    (DATA / ERROR_FILE).write_text(to_json(xstest(Path(sys.argv[1]))), encoding="utf-8", newline="\n")
    print(f"counts in {DATA / ERROR_FILE}")


if __name__ == "__main__":
    main()
