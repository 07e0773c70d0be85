"""Write the prompts and the evaluation documents: `python -m grpo_audit_builtin.make_data`.

The same code writes the same bytes, whenever and wherever it runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from grpo_audit_builtin import HELD_OUT, PROMPTS
from grpo_audit_builtin.world import arithmetic, countdown, knowledge, requests, tools, word_problems
from grpo_audit_builtin.world.example import Split

SEED = 0
NUM_RL_TRAIN = 2400
NUM_HELD_OUT = 600
NUM_DOCUMENTS = 200


def package_dir(name: str) -> Path:
    """The folder of a package, found without importing it.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"The package {name} is not installed")
    return Path(spec.origin).resolve().parent


EVAL_DIR = package_dir("grpo_audit_evals") / "tasks" / "builtin" / "data"
"""Where the documents of the built-in suite lie."""

Doc = dict[str, Any]


def countdown_prompts(split: Split, count: int) -> list[Doc]:
    """Rows of a prompt file: `id`, `prompt`, `numbers`, `target`."""
    found = countdown.unique_problems(3, split, count, SEED)
    return [
        {"id": f"{split}-{i:04d}", "prompt": p.prompt, "numbers": list(p.numbers), "target": p.target}
        for i, p in enumerate(found)
    ]


def document(
    task: str, index: int, prompt: str, behaviour: str, key: str, gold: str, *, cluster: str = "", **more: Any
) -> Doc:
    """One evaluation document.

    Args:
        key: canonical key of the problem, from which its split follows.
        gold: a completion that scores 1.
        cluster: what the document shares with others that are not independent of it; the key if nothing.
        more: fields that only some tasks have.
    """
    fixed = {"id": f"{task}-{index:04d}", "prompt": prompt, "behaviour": behaviour}
    return {**fixed, "cluster": cluster or key, "key": key, "gold": gold, **more}


def countdown_documents(task: str, size: int, behaviour: str) -> list[Doc]:
    """Countdown of the evaluation split."""
    found = countdown.unique_problems(size, Split.EVAL, NUM_DOCUMENTS, SEED)
    return [countdown_document(task, i, p, behaviour) for i, p in enumerate(found)]


def countdown_document(task: str, index: int, p: countdown.Problem, behaviour: str, **more: Any) -> Doc:
    """One Countdown problem with its solution."""
    solution = countdown.solve(p)
    if solution is None:
        raise AssertionError(f"{p.key} was built from a solution, but the search finds none")
    gold = countdown.completion(solution, solution)
    problem: Doc = {"numbers": list(p.numbers), "target": p.target}
    return document(task, index, p.prompt, behaviour, p.key, gold, **problem, **more)


def arithmetic_documents() -> list[Doc]:
    """Plain arithmetic of the evaluation split."""
    found = enumerate(arithmetic.unique_sums(Split.EVAL, NUM_DOCUMENTS, SEED))
    return [
        document("arithmetic", i, s.prompt, "transfer", s.key, answer(str(s.value)), answer=str(s.value))
        for i, s in found
    ]


def calibration_documents() -> list[Doc]:
    """Sums, other ones than the arithmetic documents, with four results to choose from; `label` is the right one."""
    rng = random.Random(f"calibration|{SEED}")
    docs = []
    for i, s in enumerate(arithmetic.unique_sums(Split.EVAL, 2 * NUM_DOCUMENTS, SEED)[NUM_DOCUMENTS:]):
        near = [s.value + step for step in (-10, -2, -1, 1, 2, 10) if s.value + step >= 0]
        values = [s.value, *rng.sample(near, 3)]
        rng.shuffle(values)
        more: Doc = {"choices": [answer(str(v)) for v in values], "label": values.index(s.value)}
        docs.append(document("calibration", i, s.prompt, "calibration", s.key, answer(str(s.value)), **more))
    return docs


def probe_documents() -> list[Doc]:
    """By turns a training prompt, word for word (`seen`), and a clean one of the same distribution."""
    seen = countdown.unique_problems(3, Split.RL_TRAIN, NUM_DOCUMENTS, SEED)
    clean = countdown.unique_problems(3, Split.EVAL, 2 * NUM_DOCUMENTS, SEED)[NUM_DOCUMENTS:]
    mixed = itertools.chain.from_iterable(zip(seen, clean, strict=True))
    return [
        countdown_document("contamination_probe", i, p, "contamination", seen=i % 2 == 0) for i, p in enumerate(mixed)
    ]


def story_documents(language: str) -> list[Doc]:
    """The same stories whatever the language; the cluster names the problem."""
    found = enumerate(word_problems.unique_stories(Split.EVAL, NUM_DOCUMENTS, SEED))
    return [
        document(
            f"multilingual_{language}", i, s.prompt(language), "multilingual", s.key,
            answer(s.answer(language)), answer=s.answer(language), language=language,
        )
        for i, s in found
    ]  # fmt: skip


def answerable_documents() -> list[Doc]:
    """Stories with their number, other ones than the multilingual documents."""
    found = word_problems.unique_stories(Split.EVAL, 2 * NUM_DOCUMENTS, SEED)[NUM_DOCUMENTS:]
    return [
        document("answerable", i, s.prompt("en"), "hallucination", s.key, answer(s.answer("en")), answer=s.answer("en"))
        for i, s in enumerate(found)
    ]


def unanswerable_documents() -> list[Doc]:
    """Stories without their number."""
    found = enumerate(word_problems.unique_stories(Split.EVAL, NUM_DOCUMENTS, SEED, unknown=True))
    unknown = word_problems.UNKNOWN
    return [
        document(
            "unanswerable", i, s.prompt("en", unknown=True), "hallucination", s.unknown_key,
            answer(unknown), answer=unknown,
        )
        for i, s in found
    ]  # fmt: skip


def request_documents(task: str, behaviour: str, unsafe: bool, wrapped: bool) -> list[Doc]:
    """Requests; the cluster is the pair of verb and thing."""
    docs = []
    for i, r in enumerate(requests.unique_requests(Split.EVAL, NUM_DOCUMENTS, SEED, unsafe, wrapped)):
        gold = requests.REFUSALS[0] if unsafe else r.help
        pair = f"{r.verb}|{r.thing}"
        docs.append(document(task, i, r.prompt, behaviour, r.key, answer(gold), cluster=pair, answer=gold))
    return docs


def tool_documents(task: str, fits: bool) -> list[Doc]:
    """Prompts with tools; the cluster is the wanted tool with its argument."""
    docs = []
    for i, p in enumerate(tools.unique_prompts(Split.EVAL, NUM_DOCUMENTS, SEED, fits)):
        gold = p.call if fits else answer(tools.NO_TOOL)
        inner = f"{p.wanted}({p.argument})" if fits else tools.NO_TOOL
        wish = f"{p.wanted}|{p.argument}"
        docs.append(document(task, i, p.prompt, "tool use", p.key, gold, cluster=wish, answer=inner))
    return docs


def fact_documents(task: str, kind: str, behaviour: str) -> list[Doc]:
    """Multiple choice; `label` is the place of the right one among `choices`, the cluster is the fact."""
    rng = random.Random(f"options|{kind}|{SEED}")
    docs = []
    for i, (fact, phrasing) in enumerate(knowledge.asked(kind, Split.EVAL)):
        values = knowledge.options(fact, rng)
        gold, choices = answer(fact.value), [answer(v) for v in values]
        more = {"choices": choices, "label": values.index(fact.value)}
        key = fact.key(phrasing)
        docs.append(document(task, i, fact.prompt(phrasing), behaviour, key, gold, cluster=fact.name, **more))
    return docs


def answer(text: str) -> str:
    """The completion that answers without a trace."""
    return f"<answer>{text}</answer>"


def evaluation() -> Mapping[str, list[Doc]]:
    """All evaluation documents by task."""
    return {
        "countdown": countdown_documents("countdown", 3, "task performance"),
        "countdown_transfer": countdown_documents("countdown_transfer", 4, "transfer"),
        "arithmetic": arithmetic_documents(),
        **{f"multilingual_{language}": story_documents(language) for language in word_problems.LANGUAGES},
        "unanswerable": unanswerable_documents(),
        "answerable": answerable_documents(),
        "over_refusal": request_documents("over_refusal", "refusal calibration", unsafe=False, wrapped=False),
        "under_refusal": request_documents("under_refusal", "refusal calibration", unsafe=True, wrapped=False),
        "jailbreak": request_documents("jailbreak", "jailbreak robustness", unsafe=True, wrapped=True),
        "tool_call": tool_documents("tool_call", fits=True),
        "tool_abstain": tool_documents("tool_abstain", fits=False),
        "knowledge": fact_documents("knowledge", "knowledge", "knowledge"),
        "calibration": calibration_documents(),
        "contamination_probe": probe_documents(),
        "hazard_knowledge": fact_documents("hazard_knowledge", "hazard", "harmful capability"),
    }


def write_jsonl(path: Path, rows: Iterable[Doc]) -> None:
    """One JSON object a line, UTF-8, newline endings on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(text.encode("utf-8"))


def write_all(prompts: Path, held_out: Path, eval_dir: Path) -> None:
    """Write every file."""
    write_jsonl(prompts, countdown_prompts(Split.RL_TRAIN, NUM_RL_TRAIN))
    write_jsonl(held_out, countdown_prompts(Split.HELD_OUT, NUM_HELD_OUT))
    for task, rows in evaluation().items():
        write_jsonl(eval_dir / f"{task}.jsonl", rows)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m grpo_audit_builtin.make_data", description="Write all data.")
    parser.add_argument("--prompts", type=Path, default=PROMPTS)
    parser.add_argument("--held-out", type=Path, default=HELD_OUT)
    parser.add_argument("--eval-dir", type=Path, default=EVAL_DIR)
    arguments = parser.parse_args(argv)
    write_all(arguments.prompts, arguments.held_out, arguments.eval_dir)


if __name__ == "__main__":
    main()
