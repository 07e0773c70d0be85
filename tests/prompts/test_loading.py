"""Prompt sets: what is read, and the one line each malformed file gets."""

from __future__ import annotations

import datetime
import hashlib
import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings, strategies as st

from grpo_audit.config.sections import PromptConfig
from grpo_audit.errors import ExitCode, PromptError
from grpo_audit.prompts import PromptSet, load
from grpo_audit.prompts.canonical import plain


@pytest.fixture
def read(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Write a file and load it."""

    def read(text: str | bytes, name: str = "p.jsonl", **config: Any) -> PromptSet:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(PromptConfig(source=name, **config), tmp_path)

    return read


@pytest.fixture
def line_of(read, tmp_path):  # type: ignore[no-untyped-def]
    """Write a malformed file; the line a user reads, without the folder."""

    def line_of(text: str | bytes, name: str = "p.jsonl", **config: Any) -> str:
        with pytest.raises(PromptError) as caught:
            read(text, name, **config)
        return told(caught, tmp_path)

    return line_of


def told(caught: pytest.ExceptionInfo[PromptError], folder: Path) -> str:
    """The line a user reads, without the folder."""
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(f"{folder}/", "")


# --- What is read ----------------------------------------------------------------------------------------------------


def test_jsonl_rows_keep_their_order_ids_and_columns(read):
    """Ids become text; columns keep type and name; blank lines are nothing."""
    rows = read('{"id": 7, "prompt": "a", "n": [1, 2]}\n\n{"id": "x", "prompt": "b", "n": [3]}\n').rows
    assert [(row.id, row.text, row.columns) for row in rows] == [("7", "a", {"n": [1, 2]}), ("x", "b", {"n": [3]})]
    assert rows[0].messages is None


def test_csv_and_parquet_read_like_jsonl(read, tmp_path):
    """The same rows from three formats have the same digest."""
    rows = [{"id": "1", "prompt": "a, b", "answer": "x"}, {"id": "2", "prompt": 'c "d"\ne', "answer": "y"}]
    jsonl = read("".join(json.dumps(row) + "\n" for row in rows))
    csv = read('id,prompt,answer\n1,"a, b",x\n2,"c ""d""\ne",y\n', "p.csv")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    parquet = load(PromptConfig(source="p.parquet"), tmp_path)
    assert jsonl.rows == csv.rows == parquet.rows
    assert jsonl.identity.digest == csv.identity.digest == parquet.identity.digest
    assert jsonl.identity.file_digest != csv.identity.file_digest


def test_fields_rename_columns(read):
    """A mapped name wins over an equal one; what is not mapped keeps its name."""
    text = '{"question": "q", "uid": 5, "gold": 3, "prompt": "old", "extra": 1}\n'
    row = read(text, fields={"prompt": "question", "id": "uid", "target": "gold"}).rows[0]
    assert (row.id, row.text, row.columns) == ("5", "q", {"extra": 1, "target": 3})


def test_a_row_without_an_id_is_named_by_its_number(read):
    """From 1, counting rows."""
    assert [row.id for row in read('{"prompt": "a"}\n\n{"prompt": "b", "id": null}\n').rows] == ["row-1", "row-2"]


def test_chat_messages_are_kept(read):
    """Messages as given; the text is what people and rewards see."""
    one = [{"role": "user", "content": "hi"}]
    two = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    rows = read(json.dumps({"prompt": one}) + "\n" + json.dumps({"prompt": two})).rows
    assert (rows[0].text, rows[0].messages) == ("hi", one)
    assert (rows[1].text, rows[1].messages) == ("system: be brief\n\nuser: hi", two)


def test_chat_messages_survive_parquet(tmp_path):
    """A list of structs is a list of messages."""
    messages = [{"role": "user", "content": "hi"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"prompt": messages}]), tmp_path / "p.parquet")
    assert load(PromptConfig(source="p.parquet"), tmp_path).rows[0].messages == messages


def test_a_column_that_some_rows_lack_is_none_there(read):
    """Every row has the same columns, so that rewards get whole lists."""
    rows = read('{"prompt": "a"}\n{"prompt": "b", "n": 1}\n').rows
    assert [row.columns for row in rows] == [{"n": None}, {"n": 1}]


def test_identical_prompts_are_counted_and_never_merged(read):
    """Three rows of one prompt are three rows and two duplicates."""
    loaded = read('{"prompt": "a"}\n' * 3 + '{"prompt": "b"}\n')
    assert (len(loaded.rows), loaded.identity.rows, loaded.identity.duplicates) == (4, 4, 2)


def test_a_byte_order_mark_is_no_part_of_the_first_row(read):
    """In JSONL and in the header of CSV."""
    assert read(b'\xef\xbb\xbf{"prompt": "a"}\n').rows[0].text == "a"
    assert read(b"\xef\xbb\xbfprompt\na\n", "p.csv").rows[0].text == "a"


def test_line_separators_inside_strings_do_not_cut_rows(read):
    """U+2028 is a character of JSON; carriage returns at line ends are none."""
    assert [row.text for row in read('{"prompt": "a\u2028b"}\r\n{"prompt": "c"}\r\n').rows] == ["a\u2028b", "c"]


def test_limit_reads_the_first_rows_only(read):
    """A malformed row behind the limit does not matter, and the digest covers what is used."""
    text = '{"prompt": "a"}\n{"prompt": "b"}\nnot json\n'
    limited = read(text, limit=2)
    assert [row.text for row in limited.rows] == ["a", "b"]
    assert limited.identity.digest == read('{"prompt": "a"}\n{"prompt": "b"}\n').identity.digest


def test_the_digest_covers_the_canonical_rows(read):
    """Recomputed by hand: compact sorted JSON, one line a row."""
    text = '{"id": "1", "prompt": "ä", "b": 1.5, "a": null}\n'
    by_hand = '{"columns":{"a":null,"b":1.5},"id":"1","prompt":"ä"}\n'
    assert read(text).identity.digest == "sha256:" + hashlib.sha256(by_hand.encode()).hexdigest()


_ROW = st.fixed_dictionaries(
    {"prompt": st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), "n": st.integers(0, 9)}
)


@settings(deadline=None, max_examples=40)
@given(rows=st.lists(_ROW, min_size=2, max_size=6), data=st.data())
def test_any_change_of_a_row_or_the_order_changes_the_digest(tmp_path_factory, rows, data):
    """Equal digests mean equal rows in equal order."""
    other = data.draw(st.permutations(rows) | st.lists(_ROW, min_size=1, max_size=6))
    folder = tmp_path_factory.mktemp("p")
    digests = []
    for name, content in (("a.jsonl", rows), ("b.jsonl", other)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        digests.append(load(PromptConfig(source=name), folder).identity.digest)
    assert (digests[0] == digests[1]) == (rows == other)


def test_identity_says_where_the_set_comes_from(read):
    """What the recipe declares, and the digest of the file."""
    text = '{"prompt": "a"}\n'
    identity = read(text, licence="MIT", provenance="web", description="d", split="test").identity
    assert identity.file_digest == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert (identity.licence, identity.provenance, identity.description) == ("MIT", "web", "d")
    assert (identity.source, identity.split, identity.revision) == ("p.jsonl", None, None)
    assert "SHA-256" in identity.order


def test_the_built_in_set_is_loaded_from_the_package(tmp_path, monkeypatch):
    """`builtin` is the package's own JSONL file, with its licence and provenance."""
    import grpo_audit_builtin

    if not grpo_audit_builtin.PROMPTS.is_file():  # not generated yet: the path is what is under test
        (tmp_path / "rl.jsonl").write_text('{"id": "c1", "prompt": "p", "numbers": [1, 2], "target": 3}\n')
        monkeypatch.setattr(grpo_audit_builtin, "PROMPTS", tmp_path / "rl.jsonl")
    loaded = load(PromptConfig(source="builtin"), tmp_path)
    assert {"numbers", "target"} <= loaded.rows[0].columns.keys()
    assert (loaded.identity.source, loaded.identity.licence, loaded.identity.provenance) == (
        "builtin",
        "Apache-2.0",
        "synthetic",
    )


def test_a_hub_data_set_is_loaded_through_datasets(tmp_path, monkeypatch):
    """A folder of the same name stands for the hub: same library, same call, no connection."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "train.jsonl").write_text('{"prompt": "a", "n": 1}\n{"prompt": "b", "n": 2}\n')
    monkeypatch.chdir(tmp_path)
    loaded = load(PromptConfig(source="hub:owner/name", limit=1), tmp_path)
    assert [(row.text, row.columns) for row in loaded.rows] == [("a", {"n": 1})]
    assert (loaded.identity.split, loaded.identity.file_digest) == ("train", None)
    with pytest.raises(PromptError) as caught:
        load(PromptConfig(source="hub:owner/name", split="dev"), tmp_path)
    line = told(caught, tmp_path)
    assert line.startswith("Prompt source hub:owner/name cannot be loaded (split dev, revision newest); found ")
    assert line.endswith("Check name, split, revision and connection, or use a local file.")


# --- Plain values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (datetime.datetime(2024, 1, 2, 3, 4), "2024-01-02T03:04:00"),
        (Decimal("1.50"), "1.50"),
        (b"\x00\xff", "00ff"),
        (float("nan"), None),
        ((1, {"a": float("inf")}), [1, {"a": None}]),
        (True, True),
    ],
)
def test_values_become_what_json_can_hold(value, expected):
    """So that rewards see exactly what the digest covers."""
    assert plain(value, "c", "f") == expected


def test_a_value_that_json_cannot_hold_is_refused():
    """With the place, the column and the type."""
    with pytest.raises(PromptError) as caught:
        plain({1: 2}, "c", "f, row 3")
    assert str(caught.value) == (
        "f, row 3: column 'c' holds a value of type dict; expected text, numbers, lists or mappings. "
        "Remove the column or convert it."
    )


# --- Mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "Prompt set p.jsonl is empty; expected at least one row."),
        ("\n \n", "Prompt set p.jsonl is empty; expected at least one row."),
        (
            '{"prompt": "a"}\n{"prompt" "b"}\n',
            "p.jsonl, line 2, is not JSON; found expecting ':' delimiter at column 11, near "
            '\'{"prompt" "b"}\'; expected one JSON object a line.',
        ),
        ('\n\n["a"]\n', "p.jsonl, line 3, is no JSON object; found a list; expected {...}."),
        ('{"prompt": "a", "n": NaN}', "p.jsonl, line 1, is not JSON; found NaN is not JSON"),
        ('{"prompt": "a", "prompt": "b"}', "p.jsonl, line 1, is not JSON; found the key 'prompt' twice"),
        ('{"prompt": 5}', "p.jsonl, line 1: the prompt (column 'prompt') is no text; found a value of type int"),
        ('{"prompt": null}', "is no text; found nothing; expected a string or a list of chat messages."),
        ('{"prompt": "a"}\n{"x": 1}', "p.jsonl, line 2: the prompt (column 'prompt') is no text; found nothing"),
        ('{"prompt": " \\n"}', "p.jsonl, line 1: the prompt (column 'prompt') is empty."),
        ('{"prompt": []}', "p.jsonl, line 1: the prompt (column 'prompt') has no messages."),
        (
            '{"prompt": [{"role": "user"}]}',
            "p.jsonl, line 1: chat message 1 of the prompt is malformed; found role: str; "
            "expected role and content, both strings.",
        ),
        ('{"prompt": [{"role": "user", "content": ""}]}', "chat message 1 of the prompt has an empty content."),
        ('{"prompt": "\\ud800"}', "column 'prompt' is no valid Unicode text; found the lone surrogate U+D800."),
        ('{"prompt": "a", "id": 1.5}', "p.jsonl, line 1: the id is a float; expected a string or a whole number."),
        (
            '{"prompt": "a", "id": 1}\n\n{"prompt": "b", "id": "1"}',
            "p.jsonl: the id '1' is in line 1 and line 3; expected each id once, because the record names prompts by "
            "it.",
        ),
        (
            '{"question": "a", "n": 1}',
            "Prompt set p.jsonl has no column 'prompt'; found the columns question, n. "
            "Map it in the recipe, e.g. prompts.fields: {prompt: question}.",
        ),
        ('{"promt": "a"}', "e.g. prompts.fields: {prompt: promt}."),
        (
            '{"prompt": "a", "completions": 1}',
            "Prompt set p.jsonl has a column 'completions', the name of an argument of every reward function. "
            "Rename it in prompts.fields, e.g. other_completions: completions.",
        ),
    ],
)
def test_malformed_jsonl_names_the_line(line_of, text, expected):
    """File, line, what was found, what was expected."""
    assert expected.rstrip(".") in line_of(text)


def test_endless_nesting_in_jsonl_is_an_error_not_a_crash(line_of):
    """Both where the parser gives up and where a value is copied."""
    assert "is not JSON; found nesting without end" in line_of('{"prompt": "a", "n": ' + "[" * 100_000)
    deep = '{"prompt": "a", "n": ' + "[" * 900 + "]" * 900 + "}"
    assert "p.jsonl, line 1" in line_of(deep)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "Prompt set p.csv is empty; expected at least one row."),
        ("prompt,n\n", "Prompt set p.csv is empty; expected at least one row."),
        (
            'prompt,n\n"a\nb",1\nc\n',
            "p.csv, line 4, is ragged; found 1 cells; expected 2 as in the header. "
            "Put cells that contain a comma or a line break in double quotes.",
        ),
        ("prompt,n\na,1,2\n", "p.csv, line 2, is ragged; found 3 cells; expected 2 as in the header."),
        ("prompt,n\n,1\n", "p.csv, line 2: the prompt (column 'prompt') is empty."),
        ("prompt,\na,1\n", "p.csv, line 1: column 2 of the header has no name."),
        ("prompt,n,n\na,1,2\n", "p.csv, line 1: the header has 'n' twice; expected a name for each column."),
        ('prompt\n"a"b\n', "p.csv, line 2, is not CSV; found ',' expected after '\"'."),
        ("q\na\n", "Prompt set p.csv has no column 'prompt'; found the columns q."),
    ],
)
def test_malformed_csv_names_the_line(line_of, text, expected):
    """Lines as an editor counts them, also after cells with line breaks."""
    assert expected.rstrip(".") in line_of(text, "p.csv")


def test_bytes_that_are_not_utf_8_name_their_line(line_of):
    """Latin-1, and UTF-16 by its mark."""
    latin = b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n'
    assert line_of(latin) == "p.jsonl, line 2, is not UTF-8; found byte 0xe9. Save it as UTF-8."
    assert line_of('{"prompt": "a"}'.encode("utf-16")) == "p.jsonl is not UTF-8; found UTF-16. Save it as UTF-8."


def test_a_broken_parquet_file_is_refused(line_of):
    """Text with the wrong suffix."""
    assert line_of("prompt\na\n", "p.parquet").startswith("p.parquet is no Parquet file; found ")


def test_an_unknown_suffix_lists_the_known_ones(line_of):
    """JSON arrays and archives are not guessed at."""
    assert line_of("[]", "p.json") == (
        "Prompt file p.json has an unknown format; found the suffix .json; expected one of .jsonl, .csv, .parquet."
    )


def test_a_missing_file_names_the_nearest(read, tmp_path):
    """A typo in the name is the usual cause."""
    read('{"prompt": "a"}', "train.jsonl")
    with pytest.raises(PromptError) as caught:
        load(PromptConfig(source="trian.jsonl"), tmp_path)
    assert told(caught, tmp_path) == "Prompt file trian.jsonl does not exist. The nearest file there is train.jsonl."
    with pytest.raises(PromptError, match=r"Check prompts\.source in the recipe"):
        load(PromptConfig(source="no/such/folder/x.csv"), tmp_path)


def test_a_folder_is_no_prompt_file(tmp_path):
    """Said as such."""
    (tmp_path / "d.jsonl").mkdir()
    with pytest.raises(PromptError, match=r"is a folder; expected a \.jsonl, \.csv or \.parquet file"):
        load(PromptConfig(source="d.jsonl"), tmp_path)


def test_a_field_mapped_to_no_column_is_an_error(line_of):
    """With the columns there are."""
    line = line_of('{"prompt": "a", "answer": 1}', fields={"target": "anwser"})
    assert line == (
        "Prompt set p.jsonl has no column 'anwser' (for target); found the columns prompt, answer. "
        "Map it in the recipe, e.g. prompts.fields: {target: answer}."
    )


@pytest.mark.parametrize("name", ["hub:", "hub:name", "hub:a/b/c/d", "hub:a//b"])
def test_a_malformed_hub_name_is_refused_without_a_connection(tmp_path, name):
    """owner/name."""
    with pytest.raises(PromptError, match="expected hub:owner/name"):
        load(PromptConfig(source=name), tmp_path)


@pytest.mark.parametrize(("source", "module"), [("p.parquet", "pyarrow"), ("hub:a/b", "datasets")])
def test_a_missing_library_says_how_to_install_it(tmp_path, monkeypatch, source, module):
    """The base install reads JSONL and CSV only."""
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, module, None)  # what Python itself uses to say that an import fails
    with pytest.raises(PromptError) as caught:
        load(PromptConfig(source=source), tmp_path)
    line = told(caught, tmp_path)
    assert f"needs the package {module}" in line
    assert line.endswith("Install it with: pip install 'grpo-audit[train]'.")
