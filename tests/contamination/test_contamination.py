"""Contamination: what is found, what is not, what is said to be untestable."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from typer.testing import CliRunner

from grpo_audit.cli.app import app
from grpo_audit.contamination import check as module, text as t
from grpo_audit.contamination.check import Contamination, PromptText, check
from grpo_audit.contamination.index import Document, Hit, Index, Kind, Test
from grpo_audit.contamination.rows import rows
from grpo_audit.errors import GrpoAuditError, PromptError

SHARED = os.environ.get("GRPO_AUDIT_SHARED_DATA")
real = pytest.mark.skipif(SHARED is None, reason="GRPO_AUDIT_SHARED_DATA names no folder with real evaluation data")

QUESTION = (
    "A baker puts 12 trays with 30 rolls each into the oven before dawn, sells 245 of them in the morning and gives "
    "the remaining ones to the shelter across the street. How many rolls does the shelter get?"
)
OTHER = (
    "Write a short poem about the sea in winter, with two stanzas of four lines, and do not mention the colour blue."
)


def _index(*texts: str) -> Index:
    return Index(Document("task", str(number), text) for number, text in enumerate(texts))


def _hits(document: str, prompt: str) -> list[Hit]:
    return _index(document, OTHER).look_up(prompt)


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        (QUESTION, Kind.EXACT),
        (QUESTION.upper().replace(".", " !"), Kind.EXACT),
        ("".join(chr(ord(c) + 0xFEE0) if "!" < c < "~" else c for c in QUESTION), Kind.EXACT),
        (f"Solve this. {QUESTION} Think step by step.", Kind.WORDS),
        (re.sub(r"\d+", "7", QUESTION), Kind.NUMBERS_CHANGED),
        (re.sub(r"\d+", "1,234.5", f"Solve: {QUESTION}"), Kind.NUMBERS_CHANGED),
    ],
)
def test_a_document_is_found_in_another_dress(prompt: str, kind: Kind) -> None:
    """Case, punctuation, fullwidth forms, text around it and other numbers do not hide a document."""
    hits = _hits(QUESTION, prompt)
    assert [(hit.document, hit.kind, hit.contaminates) for hit in hits] == [(0, kind, True)]


def test_one_shared_phrase_is_a_flag_and_no_contamination() -> None:
    """Eight words in common are reported with the share they cover; only more than half contaminates."""
    prompt = "Tom sells 245 of them in the morning and gives the rest away, whatever his wife may say to that."
    (hit,) = _hits(QUESTION, prompt)
    assert hit.kind is Kind.WORDS and not hit.contaminates and 0 < hit.coverage < 0.5


def test_a_translation_has_the_numbers() -> None:
    """A text without a common word but with the same numbers, whatever their digits and separators, is pointed at."""
    document = "A shop sold 1,250 pens for 375 coins and 48 books for 960.5 coins within two days of the great fair."
    german = "Ein Laden verkaufte 1.250 Stifte für 375 Münzen und 48 Bücher für 960,5 Münzen."
    bengali = "১২৫০ ৩৭৫ ৪৮ ৯৬০.৫"
    for prompt in (german, bengali):
        (hit,) = _hits(document, prompt)
        assert hit.kind is Kind.TRANSLATION and not hit.contaminates
    assert _hits(document, german.replace("375", "376")) == []


def test_small_numbers_prove_nothing() -> None:
    """3, 4 and 7 stand in many texts: too few bits to point at a document."""
    assert _hits("He bought 3 pens, 4 books and 7 lamps and went home early because of rain.", "Use 3, 4 and 7.") == []


def test_short_and_unspaced_documents_are_tested_by_characters() -> None:
    """A document of fewer than eight words, or in a script without spaces, is found inside of a longer text."""
    short, chinese = (
        "Who invented the electric guitar?",
        "珍妮特的鸭子每天下十六个蛋她每天早上吃三个并用四个给朋友烤松饼",
    )
    index = _index(short, chinese)
    assert index.tests == [Test.CHARACTERS, Test.CHARACTERS]
    assert [hit.document for hit in index.look_up(f"Tell me: {short.lower()} And when was that?")] == [0]
    assert [hit.document for hit in index.look_up(f"请回答：{chinese}？谢谢")] == [1]
    assert index.look_up("Who invented the steam engine, and who the light bulb?") == []


def test_what_cannot_be_tested_is_counted() -> None:
    """Documents that are very short, or say nothing that a dozen others do not, count as untestable."""
    alike = "Use every one of the given numbers once to reach the target value"
    index = _index(*[alike] * 6, "Why?", QUESTION)
    assert index.tests == [Test.EXACT_ONLY] * 7 + [Test.WORDS]
    result = check(index, [PromptText("p", QUESTION)])
    assert result.tested_by == {"task": {"exact only": 7, "words": 1}}
    assert result.valid and result.prompts_contaminated == 1


def _task(*texts: str) -> Index:
    """More than five documents of one task, so that what they share counts as its wording."""
    return _index(*texts)


TEMPLATE = (
    "Using the numbers {}, {} and {}, create an equation that equals {}. You can use basic arithmetic operations and "
    "each number can only be used once. Show your work, and return the final answer between answer tags."
)


def test_the_wording_of_a_task_is_no_evidence() -> None:
    """A prompt of the same template with other numbers is no hit, although most of its words are the same, and so are
    two of four numbers; the same numbers inside of other text contaminate."""
    rng = random.Random(5)
    numbers = [[rng.randint(21, 99) for _ in range(4)] for _ in range(20)]
    index = _task(*(TEMPLATE.format(*some) for some in numbers))
    assert set(index.tests) == {Test.EXACT_ONLY}
    for number, some in enumerate(numbers):
        assert index.look_up(TEMPLATE.format(*some[:3], 20)) == index.look_up(TEMPLATE.format(20, *some[1:])) == []
        (hit,) = index.look_up(f"User: {TEMPLATE.format(*some)} Be brief. Assistant:")
        assert (hit.document, hit.contaminates, hit.coverage) == (number, True, 1.0)


QUESTIONS = (
    "Why did the miller of the northern valley refuse to sell his last sack of flour to the passing soldiers?",
    "In which month does the ferry across the wide lake stop running because of the ice near the harbour?",
    "How did the two sisters learn that the letter from the notary had never been opened by anyone at all?",
    "What would a careful gardener do first when the leaves of a young pear tree turn yellow in early spring?",
    "Who among the members of the choir could still remember the second verse after so many years abroad?",
    "Where do the shepherds of the high plateau keep their cheese while the road to the market is closed?",
)


def test_what_is_left_of_a_document_without_its_tasks_wording_decides() -> None:
    """Of a long instruction and a question, the question is the document: alone it contaminates, and the instruction
    with another question does not."""
    instruction = "You are a careful expert who answers in one word and never explains what has led to the answer."
    index = _task(*(f"{number} {instruction} {question} Now!" for number, question in enumerate(QUESTIONS)))
    for number, question in enumerate(QUESTIONS):
        assert [(hit.document, hit.contaminates) for hit in index.look_up(question)] == [(number, True)]
    assert index.look_up(f"7 {instruction} Name the capital of the kingdom of Lumo! Now!") == []


def test_what_all_documents_of_a_task_begin_and_end_with_does_not_hide_them() -> None:
    """``Question: ... Answer:`` belongs to the task: the bare question in a training set is the document."""
    questions = [f"Who built the {word} tower?" for word in ("red", "old", "new", "big", "low", "far", "wet")]
    questions.append("Which of the two brothers sold the mill?")
    index = _task(*(f"Question: {question}\nAnswer:" for question in questions))
    for number, question in enumerate(questions):
        (hit,) = index.look_up(question)
        assert (hit.document, hit.contaminates) == (number, True)


def test_one_document_in_many_tasks_is_found_in_each() -> None:
    """What counts as common wording is counted within a task: the same question in ten suites is still evidence."""
    index = Index(Document(f"suite {number}", "1", QUESTION) for number in range(10))
    hits = index.look_up(f"Please: {QUESTION}")
    assert [hit.document for hit in hits] == list(range(10)) and all(hit.contaminates for hit in hits)


SHORT = "Q: Make {} from {}, {}, {}.\nA:"


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        (SHORT.format(38, 13, 5, 20), Kind.EXACT),
        ("Solve 38 from 13, 5, 20 please", Kind.EXACT),
        (SHORT.format(38, 5, 13, 20), Kind.REORDERED),
        (SHORT.format(13, 38, 5, 20), Kind.REORDERED),
        ("Aus 13, 5 und 20 mache 38!", Kind.TRANSLATION),
        (SHORT.format(38, 13, 5, 21), None),
        (SHORT.format(37, 13, 5, 20), None),
        ("Q: Make 1 from 13, 5, 20, 38.\nA:", None),
    ],
)
def test_exercises_that_are_alike_up_to_numbers(prompt: str, kind: Kind | None) -> None:
    """Of short exercises that differ in their numbers alone, a copy is found, in any dress; the same numbers in another
    order are pointed at, with no word of contamination; other numbers are another exercise."""
    rng = random.Random(1)
    others = [SHORT.format(*(rng.randint(2, 99) for _ in range(4))) for _ in range(30)]
    index = _task(SHORT.format(38, 13, 5, 20), *others)
    assert index.tests[0] is Test.EXACT_ONLY
    hits = index.look_up(prompt)
    assert [(hit.document, hit.kind) for hit in hits] == ([] if kind is None else [(0, kind)])
    assert all(hit.contaminates == (hit.kind is Kind.EXACT) for hit in hits)


def test_digits_that_are_no_decimals_are_letters() -> None:
    """A word that begins with a digit of a script without decimals is a word and breaks nothing."""
    index = _index("\U00010a40abc \U00010a41 12 is what the stone says about the king and his horses")
    assert index.look_up("\U00010a40abc 1,2,3 \U00010a41") == []


def test_a_set_of_one_script_without_spaces_can_be_checked() -> None:
    """Where no document is tested by words the controls are made of letters, and hold."""
    chinese = ["珍妮特的鸭子每天下十六个蛋她每天早上吃三个", "一件长袍需要两匹蓝色纤维和一半这么多的白色纤维"]
    result = check(_index(*chinese), [PromptText("p", f"请回答：{chinese[0]}？")])
    assert result.valid and [finding.id for finding in result.contaminated] == ["0"]


def test_an_index_without_testable_documents_is_void() -> None:
    """With nothing to plant the controls fail: a check that cannot find anything must not pass."""
    assert not check(_index("Why?"), [PromptText("p", QUESTION)]).valid


def test_a_broken_detector_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the look-up finds nothing, or everything, a control fails."""
    index = _index(QUESTION, OTHER)
    everything = [Hit(number, Kind.EXACT, 1.0, contaminates=True) for number in (0, 1)]
    for broken, failed in (([], [True, True, True, False]), (everything, [False, False, False, True])):
        monkeypatch.setattr(
            Index, "look_up_all", lambda _, texts, broken=broken: dict.fromkeys(range(len(texts)), broken)
        )
        result = check(index, [])
        assert [not control.ok for control in result.controls] == failed and not result.valid


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)


@given(st.lists(_TEXTS, max_size=5), _TEXTS)
def test_every_document_finds_itself_and_no_text_breaks_the_index(documents: list[str], prompt: str) -> None:
    """Any text can be indexed and looked up; a document looked up is found, exactly and first."""
    index = _index(*documents)
    index.look_up(prompt)
    for number, document in enumerate(documents):
        hit = next(hit for hit in index.look_up(document) if hit.document == number)
        assert hit.kind is Kind.EXACT and hit.contaminates


@given(st.decimals(0, 10**9, allow_nan=False, places=2))
def test_a_number_has_one_spelling(value: object) -> None:
    """1,234.50, 1.234,50 and 1234.5 are one number."""
    english = f"{value:,.2f}"
    german = english.translate(str.maketrans(",.", ".,"))
    spelled = [t.multiset(t.numbers(t.words(text))) for text in (english, german, f"{value:.2f}")]
    assert spelled[0] == spelled[1] == spelled[2]


def test_several_processes_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process and two give one result, in the prompts' order."""
    monkeypatch.setattr(module, "CHUNK", 500)
    monkeypatch.setattr(module, "SMALL", 1_000)
    texts = [OTHER, QUESTION, "Nothing to see here, only words that no evaluation has ever put in this order before."]
    prompts = [PromptText(str(number), texts[number % 3]) for number in range(6_000)]
    seen: dict[int, list[bool]] = {1: [], 2: []}
    results: dict[int, Contamination] = {}
    for jobs in (1, 2):
        results[jobs] = check(
            _index(QUESTION), prompts, jobs=jobs, on_prompt=lambda bad, _, jobs=jobs: seen[jobs].append(bad)
        )
    assert results[1] == results[2]
    assert seen[1] == seen[2] == [number % 3 == 1 for number in range(6_000)]


def test_memory_does_not_grow_with_the_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the prompts need no more memory."""
    monkeypatch.setattr(module, "CHUNK", 450)
    index = _index(QUESTION, OTHER)

    def peak(count: int) -> int:
        tracemalloc.start()
        check(index, (PromptText(str(number), f"{number % 450} {QUESTION[: number % 90]}") for number in range(count)))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(900)
    assert peak(9_000) < 1.1 * peak(2_250)


# --- files and the command --------------------------------------------------------------------------------------------


def _files(folder: Path) -> tuple[Path, Path]:
    prompts, documents = folder / "prompts.jsonl", folder / "eval.csv"
    lines = [{"id": "bad", "prompt": QUESTION}, {"id": "good", "prompt": OTHER}, {"prompt": [{"content": "Hello?"}]}]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with documents.open("w", newline="") as file:
        csv.writer(file).writerows([["question"], [QUESTION]])
    return prompts, documents


def test_the_clean_set_is_written(tmp_path: Path) -> None:
    """--drop writes the rows that contaminate nothing, byte for byte, and --json says what was left out."""
    prompts, documents = _files(tmp_path)
    clean = tmp_path / "clean.jsonl"
    found = CliRunner().invoke(
        app, ["decontaminate", str(prompts), "--against", str(documents), "--drop", str(clean), "--json"]
    )
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert (said["kept"], said["prompts_contaminated"], said["valid"]) == (2, 1, True)
    assert said["findings"][0]["examples"] == ["bad"]
    assert clean.read_text() == "".join(prompts.read_text().splitlines(keepends=True)[1:])


def test_nothing_is_written_when_the_set_cannot_be_read(tmp_path: Path) -> None:
    """A broken line names itself, and no half of a clean set stays behind."""
    prompts, documents = _files(tmp_path)
    with prompts.open("a") as file:
        file.write("{broken\n")
    found = CliRunner().invoke(
        app, ["decontaminate", str(prompts), "--against", str(documents), "--drop", str(tmp_path / "clean.jsonl")]
    )
    assert isinstance(found.exception, PromptError) and "line 4" in str(found.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.csv", "prompts.jsonl"]


def test_the_field_must_be_known(tmp_path: Path) -> None:
    """A file without a usual field says which fields it has."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"frage": "Was?"}\n')
    with pytest.raises(PromptError, match="frage"):
        list(rows(path))
    assert [row.text for row in rows(path, "frage")] == ["Was?"]


def _invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["decontaminate", *map(str, arguments)])


def test_a_recipe_names_prompts_and_documents(tmp_path: Path) -> None:
    """--recipe looks in the prompts of a recipe, after its limit and with its fields, for what --against names."""
    prompts, documents = _files(tmp_path)
    prompts.write_text(prompts.read_text().replace('"prompt": [', '"other": [').replace("}]}", '}], "prompt": "Hi"}'))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {path: builtin}\nprompts: {source: prompts.jsonl, limit: 2}\n"
        "rewards: [{name: exact, source: 'grpo_audit.rewards.exact:score'}]\n"
    )
    clean = tmp_path / "clean.jsonl"
    found = _invoke("--recipe", recipe, "--against", documents, "--drop", clean, "--json")
    assert found.exit_code == 0, found.output
    assert (json.loads(found.stdout)["prompts"], json.loads(found.stdout)["kept"]) == (2, 1)
    assert json.loads(clean.read_text()) | {"other": None} == {"id": "good", "prompt": OTHER, "other": None}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Which prompts"),
        (["{prompts}"], "Against what"),
        (["{prompts}", "--against", "{documents}", "--drop", "{prompts}"], "Refusing to write over"),
        (["{prompts}", "--against", "{documents}", "--drop", "{folder}/none/clean.jsonl"], "no folder"),
        (["{prompts}", "--against", "{documents}", "--drop-flagged"], "--drop FILE"),
        (["{empty}", "--against", "{documents}"], "no prompts"),
        (["{prompts}", "--against", "{empty}"], "no evaluation documents"),
        (["{prompts}", "--against", "{folder}/none.csv"], "There is no file"),
        (["{prompts}", "--against", "{documents}", "--against-field", "answer"], "no field 'answer'"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    """Missing, empty and contradicting arguments end with an error that says what to do, and write nothing."""
    prompts, documents = _files(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    names = {"prompts": prompts, "documents": documents, "folder": tmp_path, "empty": tmp_path / "empty.jsonl"}
    before = sorted(tmp_path.iterdir())
    found = _invoke(*(argument.format(**names) for argument in arguments))
    assert isinstance(found.exception, GrpoAuditError) and words in str(found.exception)
    assert sorted(tmp_path.iterdir()) == before


def test_hostile_names_reach_the_screen_harmless(tmp_path: Path) -> None:
    """Control characters and markup in ids and file names are shown, not obeyed."""
    prompts, _ = _files(tmp_path)
    prompts.write_text(json.dumps({"id": "\x1b[31m[bold]id\u202e", "prompt": QUESTION}) + "\n")
    documents = tmp_path / "[red]eval.jsonl"
    documents.write_text(json.dumps({"id": "\x1b]0;title\x07", "question": QUESTION}) + "\n")
    found = _invoke(prompts, "--against", documents)
    assert found.exit_code == 0 and "[bold]id" in found.stdout and "[red]eval.jsonl" in found.stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(found.stdout)


# --- real data --------------------------------------------------------------------------------------------------------


def _shared(name: str) -> Path:
    assert SHARED is not None
    return Path(SHARED) / name


def _gsm8k() -> list[str]:
    return [row.text for row in rows(_shared("gsm8k/test.jsonl"))]


def _contaminated(index: Index, prompts: list[str]) -> int:
    return check(index, [PromptText(str(number), text) for number, text in enumerate(prompts)]).prompts_contaminated


@real
def test_every_item_of_mgsm_is_found_in_gsm8k() -> None:
    """250 of 250: the English part of MGSM lies inside of GSM8K's test set."""
    index = _index(*_gsm8k())
    assert _contaminated(index, [row.text for row in rows(_shared("mgsm/mgsm_en.tsv"))]) == 250


@real
def test_number_swapped_items_are_found() -> None:
    """At least 98 % of GSM8K items with all their numbers drawn anew."""
    rng = random.Random(0)
    questions = _gsm8k()
    swapped = [re.sub(r"\d+", lambda found: str(rng.randint(2, 10 ** (len(found[0]) + 1))), q) for q in questions]
    found = _index(*questions).look_up_all(swapped)
    themselves = [any(hit.document == number and hit.contaminates for hit in hits) for number, hits in found.items()]
    assert sum(themselves) >= 0.98 * len(questions)


def _real_sets() -> dict[str, list[str]]:
    """By family; the files of a family may share items."""
    return {
        "gsm8k": _gsm8k(),
        "truthfulqa": [row.text for row in rows(_shared("truthfulqa/TruthfulQA.csv"))],
        "xstest": [row.text for row in rows(_shared("xstest/xstest_prompts.csv"))],
        "temporal clue": [
            puzzle["prompt"]
            for name in ("val", "test")
            for puzzle in json.loads(_shared(f"temporal_clue/{name}.json").read_text())
        ],
        "bfcl": [row.text for path in sorted(_shared("bfcl").glob("*.json")) for row in rows(path)],
    }


@real
def test_unrelated_sets_do_not_contaminate_each_other() -> None:
    """No contamination between GSM8K, TruthfulQA, XSTest, BFCL's questions and Temporal Clue, in either direction, and
    at most one phrase in common."""
    sets = _real_sets()
    for one, documents in sets.items():
        index = _index(*documents)
        for other, prompts in sets.items():
            if one != other:
                result = check(index, [PromptText(str(number), text) for number, text in enumerate(prompts)])
                assert result.valid, (one, other)
                assert (result.prompts_contaminated, result.prompts_numbers_only) == (0, 0), (one, other)
                assert result.prompts_flagged <= 1, (one, other)


RECALL = {"bn": 107, "de": 105, "es": 99, "fr": 84, "ja": 39, "ru": 100, "sw": 106, "te": 107, "th": 102, "zh": 90}
"""Items of MGSM matched with their English original by numbers alone, of the 107 with enough of them."""


@real
@pytest.mark.parametrize("language", RECALL)
def test_translations_are_pointed_at(language: str) -> None:
    """MGSM's translations that keep their numbers are matched with their English original by number alone, none with
    another item, and none is called contaminated."""
    index = _index(*(row.text for row in rows(_shared("mgsm/mgsm_en.tsv"))))
    right = 0
    for number, row in enumerate(rows(_shared(f"mgsm/mgsm_{language}.tsv"))):
        found = index.look_up(row.text)
        assert all(hit.document == number and hit.kind is Kind.TRANSLATION for hit in found)
        right += bool(found)
    assert right == RECALL[language]
