"""The labelling sheet: blind, random, safe to open, and read back whole or not at all."""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from refusal.answering import record, says
from typer.testing import CliRunner

from grpo_audit.cli.app import app
from grpo_audit.errors import EvaluationError
from grpo_audit.refusal import sheet as s
from grpo_audit.refusal.sheet import Item, Row

HOSTILE = [
    '=HYPERLINK("http://example.invalid";"x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1+1",
    "\r\n=1+1",
    "＝1+1",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "NUL:\x00:end",
    'quotes " and, commas; and\ttabs',
    "right to left \u202eevil",
    "x" * 100_000,
    "",
]


def _items(counts: dict[tuple[str, str, bool], int]) -> list[Item]:
    return [
        Item(f"r{task}{kind}{verdict}{at}", task, kind, f"d{at}", verdict)  # type: ignore[arg-type]
        for (task, kind, verdict), count in counts.items()
        for at in range(count)
    ]


@settings(max_examples=50, deadline=None)
@given(st.integers(4, 120), st.integers(0, 5), st.lists(st.integers(1, 60), min_size=4, max_size=4))
def test_a_sample_is_even_over_the_kinds_and_never_larger_than_asked(num: int, seed: int, sizes: list[int]) -> None:
    """Each task, kind and verdict has its share or all it has; nothing twice; the seed alone decides."""
    kinds = [("a", "pre", True), ("a", "pre", False), ("a", "post", True), ("a", "post", False)]
    items = _items(dict(zip(kinds, sizes, strict=True)))
    chosen = s.choose(items, num, seed)
    assert chosen == s.choose(items[::-1], num, seed)
    assert len(set(chosen)) == len(chosen) == min(num, sum(sizes))
    found = Counter((item.task, item.kind, item.refusal) for item in chosen)
    least = min(num // 4, *sizes)
    assert all(found[kind] >= min(size, least) for kind, size in zip(kinds, sizes, strict=True))


def test_a_sample_that_leaves_out_a_kind_is_refused() -> None:
    """Fewer answers than kinds, or no answers, make no sheet."""
    with pytest.raises(EvaluationError, match=r"too small; found 1 answers; expected at least 2"):
        s.choose(_items({("a", "pre", True): 5, ("a", "pre", False): 5}), 1, 0)
    with pytest.raises(EvaluationError, match="no answers to label"):
        s.choose([], 10, 0)


def test_the_order_says_nothing() -> None:
    """Kinds and verdicts come in no blocks: the sheet is shuffled."""
    chosen = s.choose(_items({("a", "pre", True): 50, ("a", "post", False): 50}), 100, 0)
    changes = sum(one.kind != other.kind for one, other in itertools.pairwise(chosen))
    assert 30 < changes < 70


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_is_no_formula_and_holds_nothing_that_acts(text: str) -> None:
    """No cell begins as a formula does, and none has control characters other than line breaks."""
    shown = s.cell(text)
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\r", "＝"))
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert len(shown) < 32_767


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=8), st.sampled_from([",", ";", "\t"]))
def test_what_is_written_is_read_back_whatever_the_texts(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]], delimiter: str
) -> None:
    """Ids and labels survive any prompt and answer, and the delimiters that spreadsheets save with."""
    folder = tmp_path_factory.mktemp("sheet")
    rows = [Row(f"r{at:012d}", *pair) for at, pair in enumerate(texts)]
    s.write(folder / "sheet.csv", rows)
    _fill(folder / "sheet.csv", lambda row: {"label": "Refusal " if row["id"][-1] in "02468" else "answer"}, delimiter)
    sheet = s.read(folder / "sheet.csv", [row.id for row in rows])
    assert sheet.labels == {row.id: at % 2 == 0 for at, row in enumerate(rows)}


def _fill(
    path: Path,
    label: dict[str, str] | Callable[[dict[str, str]], dict[str, str]],
    delimiter: str = ",",
    rows: slice = slice(None),
) -> None:
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    filled = [{**row, **(label(row) if callable(label) else label)} for row in table][rows]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(filled[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(filled)


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    """Ten answers without labels."""
    path = tmp_path / "sheet.csv"
    s.write(path, [Row(f"r{at:012d}", "prompt", "response") for at in range(10)], annotators=2)
    return path


KNOWN = [f"r{at:012d}" for at in range(10)]
BOTH = {"label_1": "refusal", "label_2": "refusal"}


@pytest.mark.parametrize(
    ("label", "rows", "message"),
    [
        ({}, slice(None), "10 of 10 answers have no label_1"),
        ({**BOTH, "label_2": ""}, slice(None), "10 of 10 answers have no label_2"),
        ({**BOTH, "label_1": "\x1b[31mmaybe"}, slice(None), r"label_1 of answer 1 of 10, r0{12}, is none"),
        (BOTH, slice(9), "not the whole sheet; found 9 rows"),
        ({**BOTH, "row": "\x1b[31m1 of 10", "label_1": "\x1b[0m"}, slice(None), "is none"),
        ({**BOTH, "id": "r" + "9" * 12}, slice(None), "not in this record; found 10 of 10"),
        ({**BOTH, "id": KNOWN[0]}, slice(None), "has an answer twice"),
        ({**BOTH, "label_2": "answer"}, slice(None), "annotators differ on 10 answers"),
        ({**BOTH, "label_3": "answer"}, slice(None), "has no labels"),
    ],
)
def test_a_sheet_that_is_not_whole_is_refused_in_one_line(
    sheet: Path, label: dict[str, str], rows: slice, message: str
) -> None:
    """Missing, unknown, doubled and foreign rows, and labels that are none, are named."""
    _fill(sheet, label, rows=rows)
    with pytest.raises(EvaluationError, match=message) as caught:
        s.read(sheet, KNOWN)
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"one,two\n1,2\n", b"row,id\n", b'row,id,label\n"unclosed', b"\x00"]
)
def test_a_file_that_is_no_sheet_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    """Empty files, other encodings and other tables are no sheet."""
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(EvaluationError):
        s.read(path, KNOWN)
    with pytest.raises(EvaluationError, match="cannot be read"):
        s.read(tmp_path / "absent.csv", KNOWN)


def test_two_annotators_have_an_agreement_and_a_third_column_settles(sheet: Path) -> None:
    """Kappa is that of the two columns; where they differ, ``label`` decides, and nowhere else."""
    one = {name: "refusal" if at < 5 else "answer" for at, name in enumerate(KNOWN)}
    other = {**one, KNOWN[0]: "answer"}
    _fill(sheet, lambda row: {"label_1": one[row["id"]], "label_2": other[row["id"]], "label": "partial"})
    found = s.read(sheet, KNOWN)
    assert found.annotators == 2 and found.agreement == pytest.approx(0.8)
    assert found.labels == {name: one[name] == "refusal" for name in KNOWN}


def test_agreement_on_one_label_alone_is_not_defined(sheet: Path) -> None:
    """Two annotators who say the same of every answer have no kappa, which is not 1 and not 0."""
    _fill(sheet, BOTH)
    assert s.read(sheet, KNOWN).agreement is None


def test_labels_are_not_written_over(sheet: Path) -> None:
    """A file that is there stays as it is."""
    before = sheet.read_bytes()
    with pytest.raises(EvaluationError, match="Refusing to write over"):
        s.write(sheet, [Row("r", "", "")])
    assert sheet.read_bytes() == before


# --- the command -----------------------------------------------------------------------------------------------------


def _call(db: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["refusals", "--db", str(db), *arguments])


def _json(db: Path, *arguments: str) -> dict[str, Any]:
    result = _call(db, "--json", *arguments)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_command_counts_and_corrects(refusing: Path) -> None:
    """Raw rates are those planted, corrected ones differ, and both tasks about refusing are there."""
    found = _json(refusing)
    rates = {rate["task"]: rate for rate in found["rates"]}
    assert rates.keys() == {"refusal", "jailbreak"}
    for rate in rates.values():
        assert (rate["pre_raw"], rate["post_raw"]) == (0.5, 0.25)
        assert rate["pre"] != 0.5 and rate["ci_low"] <= rate["difference"] <= rate["ci_high"]
    shown = _call(refusing)
    assert shown.exit_code == 0
    assert "jailbreak" in shown.stdout and "sensitivity" in shown.stdout and "--sheet" in shown.stdout


def test_a_sheet_is_blind_and_comes_back(refusing: Path, tmp_path: Path) -> None:
    """The sheet names neither checkpoint nor verdict; with true labels the corrected rates are the planted ones."""
    path = tmp_path / "sheet.csv"
    assert _json(refusing, "--sheet", str(path), "--n", "40")["answers"] == 30  # 9 of 12 answers a task stay the same
    text = path.read_text(encoding="utf-8-sig")
    assert text.splitlines()[0] == "row,id,prompt,response,label"
    with path.open(encoding="utf-8-sig", newline="") as file:
        assert all(row["label"] == "" for row in csv.DictReader(file))
    _fill(path, lambda row: {"label": "refusal" if "that." in row["response"] else "answer"}, ";")
    found = _json(refusing, "--labels", str(path))
    assert found["labelled"] == 30 and found["annotators"] == 1
    for rate in found["rates"]:
        assert (rate["pre"], rate["post"]) == pytest.approx((0.5, 0.25))
        assert rate["error"]["sensitivity"] == rate["post_error"]["specificity"] == 1.0
        assert rate["ci_low"] <= -0.25 <= rate["ci_high"]
    assert "before sensitivity" in _call(refusing, "--labels", str(path)).stdout


def test_a_sheet_of_another_record_is_refused(refusing: Path, tmp_path: Path) -> None:
    """Ids are those of one run: the same answers in another run have others."""
    path = tmp_path / "sheet.csv"
    _json(refusing, "--sheet", str(path))
    (tmp_path / "other").mkdir()
    record(tmp_path / "other" / "record.db", says, seed=1)
    result = _call(tmp_path / "other" / "record.db", "--labels", str(path))
    assert isinstance(result.exception, EvaluationError) and "not in this record" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "nothing"], "has no task 'nothing'"),
        (["--task", "knowledge"], "likelihoods"),
        (["--sheet", "a.csv", "--labels", "b.csv"], "Name one of them"),
        (["--sheet", "{tmp}/s.csv", "--n", "2"], "too small"),
        (["--labels", "{tmp}/absent.csv"], "cannot be read"),
        (["--sheet", "{tmp}/absent/s.csv"], "cannot be written"),
        (["--sheet", "{tmp}/record.db"], "Refusing to write over"),
    ],
)
def test_what_cannot_be_done_is_said(refusing: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    """Each mistake of the command line is an error of one line."""
    result = _call(refusing, *(item.format(tmp=tmp_path) for item in arguments))
    assert result.exit_code != 0 and message in str(result.exception)


def test_half_a_run_has_no_rates(tmp_path: Path) -> None:
    """Before the second evaluation there is nothing to compare, and no number is shown."""
    record(tmp_path / "record.db", says, finished=False)
    result = _call(tmp_path / "record.db")
    assert isinstance(result.exception, EvaluationError) and "not the same documents" in str(result.exception)


def test_hostile_answers_reach_neither_terminal_nor_spreadsheet(tmp_path: Path) -> None:
    """Whatever a model wrote, the sheet has no formula and no control characters in it, and the command prints none."""
    record(tmp_path / "record.db", lambda phase, _, number: HOSTILE[number] + (phase if number else ""))
    path = tmp_path / "sheet.csv"
    assert _call(tmp_path / "record.db", "--sheet", str(path)).exit_code == 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            for value in row.values():
                assert not value.startswith(("=", "+", "-", "@", "\t", "\r"))
                assert all(char.isprintable() or char == "\n" for char in value)
    assert "\x1b" not in _call(tmp_path / "record.db").stdout
