"""How fast are evaluation documents looked for in a prompt set, and does memory grow with the set?

Made-up prompts in a JSONL file, as a user has them, against every evaluation set in the folder that
``GRPO_AUDIT_SHARED_DATA`` names, else against made-up documents. The prompts are built of the documents' own words, of
others, and, one in a hundred, of a whole document with other text around it: those must be found. Measured are reading,
parsing and looking up; wall-clock counts. Beside it, turn by turn on the same prompts: the plain implementation of
level L1, which has to give the same hits.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks._usage import PeakMemory, cpu_seconds
from benchmarks.verdict import report
from grpo_audit.contamination.check import PromptText, check
from grpo_audit.contamination.documents import Document
from grpo_audit.contamination.index import Index
from grpo_audit.contamination.rows import rows
from grpo_audit.verify.recompute.overlaps import Overlaps

WORDS_A_SECOND = 3e6
WORDS = 50
"""Words of a prompt."""
PLANTED = 100
"""One prompt in so many has a whole document in it."""
CONSTANT = 1.1
"""Most that memory may grow when there are ten times the prompts."""
TURNS = 5


@dataclass(frozen=True)
class Measured:
    """One check of a whole set."""

    prompts: int
    words: int
    seconds: float
    cpu_seconds: float
    peak_mib: float
    """Resident memory of all processes together, at its highest."""
    missed: int
    """Planted documents that were not found."""
    valid: bool

    @property
    def rate(self) -> float:
        """Words a second."""
        return self.words / self.seconds


def documents(folder: str | None) -> list[Document]:
    """Every real evaluation document, or 7,000 made-up ones."""
    if folder is None:
        rng = random.Random(1)
        known = _made_up_words(rng, 8000)
        return [Document("made up", str(number), " ".join(rng.choices(known, k=40))) for number in range(7000)]
    found: list[Document] = []
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix in (".jsonl", ".csv", ".tsv", ".json") and not _no_documents(path):
            found += [Document(path.name, row.id, row.text) for row in rows(path)]
    return found


def _no_documents(path: Path) -> bool:
    return "possible_answer" in path.parts or "completions" in path.name or path.parent.name == "temporal_clue"


def _made_up_words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(2, 9))) for _ in range(count)]


def write_prompts(path: Path, count: int, known: list[Document], seed: int = 0) -> set[tuple[str, str]]:
    """Write a prompt set; returns task and id of the documents planted in it."""
    rng = random.Random(seed)
    english = [document for document in known if document.text.isascii()]
    words = [word for document in english for word in document.text.split()]
    words += _made_up_words(rng, len(words) // 10)
    long = [document for document in english if len(document.text) > 60]
    planted = set()
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            text = " ".join(rng.choices(words, k=WORDS))
            if number % PLANTED == 0:
                document = rng.choice(long)
                planted.add((document.task, document.id))
                text = f"{text[:100]} {document.text} {text[100:120]}"
            file.write(json.dumps({"id": str(number), "prompt": text}) + "\n")
    return planted


def measure(index: Index, path: Path, planted: set[tuple[str, str]], jobs: int) -> Measured:
    """Check a file against the index."""
    with PeakMemory() as memory:
        began, cpu = time.perf_counter(), cpu_seconds()
        result = check(index, _texts(path), jobs=jobs)
        seconds, used = time.perf_counter() - began, cpu_seconds() - cpu
    found = {(item.task, item.id) for item in result.findings}
    return Measured(
        result.prompts, result.words, seconds, used, memory.peak / 2**20, len(planted - found), result.valid
    )


def _texts(path: Path) -> Iterator[PromptText]:
    return (PromptText(row.id, row.text) for row in rows(path))


def against_plain(index: Index, plain: Overlaps, texts: list[str]) -> tuple[float, float]:
    """Seconds of both implementations on the same texts, in turn, the best of a few; raises when they differ."""
    fast, slow = [], []
    for _ in range(TURNS):
        began = time.process_time()
        one = index.look_up_all(texts)
        fast.append(time.process_time() - began)
        began = time.process_time()
        other = [plain.look_up(text) for text in texts]
        slow.append(time.process_time() - began)
        if one != {place: hits for place, hits in enumerate(other) if hits}:
            raise RuntimeError("the two implementations differ")
    return min(fast), min(slow)


def main() -> None:
    """Print a row a measurement, then the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=3, help="the fastest counts: other work only makes it slower")
    arguments = parser.parse_args()
    folder = os.environ.get("GRPO_AUDIT_SHARED_DATA")
    known = documents(folder)
    began = time.perf_counter()
    index = Index(known)
    built = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as temporary:
        few_path, many_path = Path(temporary) / "few.jsonl", Path(temporary) / "many.jsonl"
        planted_few = write_prompts(few_path, arguments.prompts // 10, known)
        planted_many = write_prompts(many_path, arguments.prompts, known)
        few = measure(index, few_path, planted_few, arguments.jobs)
        runs = [measure(index, many_path, planted_many, arguments.jobs) for _ in range(arguments.repeat)]
        texts = [prompt.text for prompt, _ in zip(_texts(few_path), range(4000), strict=False)]
    many = max(runs, key=lambda item: item.rate)
    fast, slow = against_plain(index, Overlaps(known), texts)
    alone = sum(len(text.split()) for text in texts) / fast
    _print(len(known), built, few, many, arguments.jobs, alone, slow / fast)
    report(
        "decontamination",
        target=f"{WORDS_A_SECOND:g} words/s over {arguments.prompts:,} prompts, memory at most {CONSTANT} times that "
        "of a tenth, every planted document found",
        measured={
            "documents": len(known),
            "real_documents": folder is not None,
            "prompts": many.prompts,
            "words_a_second": round(many.rate),
            "words_a_second_of_every_run": [round(item.rate) for item in runs],
            "cpu_ns_a_word": round(many.cpu_seconds / many.words * 1e9),
            "jobs": arguments.jobs,
            "words_a_cpu_second_look_up_alone": round(alone),
            "times_the_plain_implementation": round(slow / fast, 1),
            "peak_mib": round(many.peak_mib),
            "peak_mib_at_a_tenth": round(few.peak_mib),
            "planted_missed": many.missed,
        },
        met=many.rate >= WORDS_A_SECOND and many.peak_mib <= CONSTANT * few.peak_mib and not many.missed and many.valid,
    )


def _print(known: int, built: float, few: Measured, many: Measured, jobs: int, alone: float, ratio: float) -> None:
    table = Table("what", "target", "measured", title="Decontamination")
    table.add_row("documents", "", f"{known:,}, indexed in {built:.1f} s")
    table.add_row(
        f"{many.prompts:,} prompts, {jobs} processes",
        f"{WORDS_A_SECOND / 1e6:g} M words/s",
        f"{many.rate / 1e6:.2f} M words/s ({many.seconds:.0f} s)",
    )
    table.add_row("  processor time", "", f"{many.cpu_seconds / many.words * 1e9:.0f} ns a word")
    table.add_row("  peak memory", "constant", f"{many.peak_mib:.0f} MiB ({few.peak_mib:.0f} at a tenth)")
    table.add_row("  planted documents missed", "0", f"{many.missed}")
    table.add_row("look-up alone, one process", "", f"{alone / 1e6:.2f} M words a processor second")
    table.add_row("  against the plain implementation", "", f"{ratio:.1f} times, the same hits")
    Console().print(table)


if __name__ == "__main__":
    main()
