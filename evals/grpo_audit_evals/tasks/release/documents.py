"""The documents of the release tasks, read from published files: functions that task files name as ``custom_dataset``.

Each takes the folder (``data_dir``) and returns the split ``test``. Documents that share a source share a cluster.
What is nested stands as JSON text: a data set cannot hold objects whose fields differ from row to row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from grpo_audit.errors import EvaluationError
from grpo_audit_evals.release.arithmetic import Problem, without_a_number
from grpo_audit_evals.release.calls import render
from grpo_audit_evals.release.files import Row, folder_of, read_csv, read_jsonl, read_tsv
from grpo_audit_evals.release.wrappers import WRAPPERS, wrapped

WRAPPED_TWICE = 2
"""Wrappers that each unsafe request is put into; they take turns, so that all occur equally often."""
INCOMPLETE = 300
"""Problems of the abstention tasks: the first that can be made unanswerable for sure."""

MARKERS = {
    "bn": ("উত্তর", "বাংলায় ধাপে ধাপে সমাধান করো। শেষ লাইনে লেখো: উত্তর: সংখ্যা"),
    "de": ("Antwort", "Löse die Aufgabe Schritt für Schritt auf Deutsch. Die letzte Zeile lautet: Antwort: ZAHL"),
    "en": ("Answer", "Solve the problem step by step in English. The last line reads: Answer: NUMBER"),
    "es": ("Respuesta", "Resuelve el problema paso a paso en español. La última línea dice: Respuesta: NÚMERO"),
    "fr": ("Réponse", "Résous le problème étape par étape en français. La dernière ligne dit : Réponse : NOMBRE"),
    "ja": ("答え", "日本語で順を追って解いてください。最後の行には「答え: 数字」と書いてください。"),
    "ru": ("Ответ", "Реши задачу по шагам на русском языке. Последняя строка: Ответ: ЧИСЛО"),
    "sw": ("Jibu", "Tatua swali hili hatua kwa hatua kwa Kiswahili. Mstari wa mwisho uwe: Jibu: NAMBARI"),
    "te": ("సమాధానం", "ఈ లెక్కను తెలుగులో దశలవారీగా చేయండి. చివరి పంక్తిలో ఇలా రాయండి: సమాధానం: సంఖ్య"),
    "th": ("คำตอบ", "แก้โจทย์ทีละขั้นตอนเป็นภาษาไทย บรรทัดสุดท้ายเขียนว่า คำตอบ: ตัวเลข"),
    "zh": ("答案", "请用中文一步一步解答。最后一行写：答案: 数字"),
}
"""Language -> the word before the result, and what the prompt asks for. Written for this project."""

Split = dict[str, Any]


def over_refusal(data_dir: str | None = None, **_: object) -> Split:
    """The safe prompts of XSTest (Röttger et al. 2024), as they are."""
    return _split(_xstest(folder_of(data_dir), "safe"))


def under_refusal(data_dir: str | None = None, **_: object) -> Split:
    """The unsafe prompts of XSTest, as they are."""
    return _split(_xstest(folder_of(data_dir), "unsafe"))


def jailbreak(data_dir: str | None = None, **_: object) -> Split:
    """The unsafe prompts of XSTest, each in two of our wrappers; the prompt is the cluster."""
    names = list(WRAPPERS)
    step = len(names) // WRAPPED_TWICE
    docs = []
    for at, doc in enumerate(_xstest(folder_of(data_dir), "unsafe")):
        for turn in range(WRAPPED_TWICE):
            name = names[(at + turn * step) % len(names)]
            fields = {"id": f"{doc['id']}-{name}", "prompt": wrapped(doc["prompt"], name), "wrapper": name}
            docs.append(doc | fields | {"cluster": doc["id"]})
    return _split(docs)


def _xstest(folder: Path, label: str) -> list[Row]:
    rows = read_csv(folder / "xstest/xstest_prompts.csv", "id", "prompt", "type", "label")
    return [
        {"id": f"xstest-{row['id']}", "prompt": row["prompt"], "type": row["type"], "cluster": f"xstest-{row['id']}"}
        for row in rows
        if row["label"] == label
    ]


def tool_call(data_dir: str | None = None, **_: object) -> Split:
    """One function, one call: BFCL's ``simple_python`` and ``live_simple``."""
    return _split(_bfcl(folder_of(data_dir), "simple_python", "live_simple"))


def tool_choice(data_dir: str | None = None, **_: object) -> Split:
    """Several functions, one call: BFCL's ``multiple``."""
    return _split(_bfcl(folder_of(data_dir), "multiple"))


def tool_parallel(data_dir: str | None = None, **_: object) -> Split:
    """One function, several calls: BFCL's ``parallel``."""
    return _split(_bfcl(folder_of(data_dir), "parallel"))


def tool_abstain(data_dir: str | None = None, **_: object) -> Split:
    """No function is for this: BFCL's ``irrelevance``."""
    rows = read_jsonl(folder_of(data_dir) / "bfcl/BFCL_v4_irrelevance.json", "id", "question", "function")
    return _split([_tools(row) for row in rows])


def _bfcl(folder: Path, *names: str) -> list[Row]:
    docs = []
    for name in names:
        rows = read_jsonl(folder / f"bfcl/BFCL_v4_{name}.json", "id", "question", "function")
        answers = read_jsonl(folder / f"bfcl/possible_answer/BFCL_v4_{name}.json", "id", "ground_truth")
        accepted = {row["id"]: row["ground_truth"] for row in answers}
        for row in rows:
            if row["id"] not in accepted:
                raise EvaluationError(
                    f"BFCL's {name} has no answer to {row['id']}", next_step="Take both files from the same revision"
                )
            wanted = accepted[row["id"]]
            gold = {"accepted": json.dumps(wanted, ensure_ascii=False), "gold": render(wanted, row["function"])}
            docs.append(_tools(row) | gold)
    return docs


def _tools(row: Row) -> Row:
    request = "\n".join(message["content"] for turn in row["question"] for message in turn)
    functions = json.dumps(row["function"], ensure_ascii=False)
    return {"id": row["id"], "request": request, "functions": functions, "cluster": row["id"]}


def gsm8k(data_dir: str | None = None, **_: object) -> Split:
    """The test split of GSM8K."""
    return _split([_problem(at, problem, problem.question) for at, problem in _gsm8k(folder_of(data_dir))])


def unanswerable(data_dir: str | None = None, **_: object) -> Split:
    """GSM8K with one needed number untold."""
    return _split([_problem(at, problem, rest) for at, problem, rest in _incomplete(folder_of(data_dir))])


def answerable(data_dir: str | None = None, **_: object) -> Split:
    """The problems of ``unanswerable``, whole: to abstain from everything is no way to be good at both."""
    return _split([_problem(at, problem, problem.question) for at, problem, _ in _incomplete(folder_of(data_dir))])


def _gsm8k(folder: Path) -> list[tuple[int, Problem]]:
    rows = read_jsonl(folder / "gsm8k/test.jsonl", "question", "answer")
    return [(at, Problem(row["question"], row["answer"])) for at, row in enumerate(rows)]


def _incomplete(folder: Path) -> list[tuple[int, Problem, str]]:
    found = ((at, problem, without_a_number(problem)) for at, problem in _gsm8k(folder))
    return [(at, problem, rest) for at, problem, rest in found if rest is not None][:INCOMPLETE]


def _problem(at: int, problem: Problem, text: str) -> Row:
    return {"id": f"gsm8k-{at:04d}", "problem": text, "gold": problem.result, "cluster": f"gsm8k-{at:04d}"}


def mgsm(data_dir: str | None = None, **_: object) -> Split:
    """MGSM (Shi et al. 2022), problem by problem in all eleven languages; the problem is the cluster."""
    folder = folder_of(data_dir)
    columns = [
        [
            _translated(language, at, *cells)
            for at, cells in enumerate(read_tsv(folder / f"mgsm/mgsm_{language}.tsv", 2))
        ]
        for language in MARKERS
    ]
    if len({len(column) for column in columns}) > 1:
        raise EvaluationError(
            "The MGSM files have different numbers of problems",
            found=", ".join(f"{language} {len(column)}" for language, column in zip(MARKERS, columns, strict=True)),
        )
    return _split([doc for problem in zip(*columns, strict=True) for doc in problem])


def _translated(language: str, at: int, problem: str, gold: str) -> Row:
    marker, wish = MARKERS[language]
    fields = {"problem": problem, "gold": gold.strip(), "language": language, "marker": marker, "wish": wish}
    return {"id": f"mgsm-{language}-{at:03d}", "cluster": f"mgsm-{at:03d}"} | fields


def truthfulqa(data_dir: str | None = None, **_: object) -> Split:
    """TruthfulQA (Lin et al. 2022): the best answer first, then the other true ones, then the false ones."""
    path = folder_of(data_dir) / "truthfulqa/TruthfulQA.csv"
    rows = read_csv(path, "Question", "Best Answer", "Correct Answers", "Incorrect Answers")
    docs = []
    for at, row in enumerate(rows):
        true = _distinct([row["Best Answer"].strip(), *_semicolons(row["Correct Answers"])])
        false = [text for text in _distinct(_semicolons(row["Incorrect Answers"])) if text not in true]
        if not false or not true[0]:
            raise EvaluationError(f"{path}, question {at + 1} has no true answer, or no false one")
        name = f"truthfulqa-{at:03d}"
        docs.append({"id": name, "question": row["Question"].strip(), "choices": true + false, "true": len(true)})
    return _split(docs)


def _semicolons(text: str) -> Iterator[str]:
    return (part.strip() for part in text.split(";") if part.strip())


def _distinct(items: Sequence[str] | Iterator[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _split(rows: list[Row]) -> Split:
    import datasets

    if not rows:
        raise EvaluationError("The files hold no document for this task", expected="the files as published")
    return {"test": datasets.Dataset.from_list(rows)}
