"""Our engine against lm-eval's own Hugging Face backend on generate_until with mixed stop strings.

The same model folder, tasks, prompts and precision (float32), on the CPU; both go through lm-eval's ``evaluate``, with
all tasks at once, and every document's response, filtered answer and metric must be equal. The two run in turn in one
process, lm-eval's backend at the faster of the batch sizes tried. What is compared is the time inside
``generate_until``; that of the whole evaluation, prompts and scoring included, stands beside it.

The model is generated: 21 million parameters, vocabulary 32,000. Its output layer is a permutation of its input
embeddings, so that greedy answers walk through the vocabulary and meet a stop string after a while, as real answers do.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.verdict import report

TARGET = 3.0
VOCABULARY = 32_000
END = 1
TASKS = 3
"""Tasks of a scenario, each with stop strings of its own."""
HF_BATCHES = (64, 128)
OUR_BATCH = 128

Samples = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of evaluation."""

    name: str
    documents: int
    """Of all tasks together."""
    question: tuple[int, int]
    """Shortest and longest question, in tokens."""
    examples: int
    """Few-shot examples before each question, the same for all documents of a task."""
    new_tokens: int
    stops: tuple[tuple[str, ...], ...]
    """For each task. Tokens are words ``w2`` to ``w31999``, joined by spaces."""
    counts: bool
    """Whether the target is about it."""


SCENARIOS = (
    Scenario(
        "ragged", 300, (32, 128), 0, 128, (("3 w1", "Q:", "</s>"), ("77 w", "41 w", "\n\n"), ("8 w3", "09 w")), True
    ),
    Scenario(
        "few-shot", 300, (16, 48), 8, 64, (("3 w1", "Question:"), ("77 w", "41 w", "\n\n"), ("8 w3", "09 w")), True
    ),
    Scenario("full", 192, (32, 128), 0, 64, (("Q:", "\n\n"), ("Question:", "</s>"), ("###", "Q:", "A:")), False),
)

SCORER = '''"""Scorer of the benchmark."""


def score(doc, results):
    """Share of the target's words in the answer, and its length in words."""
    words = results[0].split()
    return {"overlap": sum(word in words for word in doc["gold"].split()) / 4, "words": float(len(words))}
'''


def save_model(folder: Path) -> None:
    """21 million parameters; greedy answers follow a random permutation of the vocabulary."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=END,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings.normal_()
        following = torch.randperm(VOCABULARY - 2) + 2
        model.get_output_embeddings().weight[following] = embeddings[2:] * 0.1
        model.get_output_embeddings().weight[:2] = 0.0
    model.save_pretrained(folder)
    words = {"<pad>": 0, "</s>": END} | {f"w{index}": index for index in range(2, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>").save_pretrained(folder)


def save_suite(scenario: Scenario, folder: Path) -> None:
    """Task files, data and scorer, as a user would write them."""
    rng = random.Random(0)
    folder.mkdir(parents=True)
    (folder / "scorer.py").write_text(SCORER)
    for number, stops in enumerate(scenario.stops[:TASKS]):
        _save_rows(folder / f"data{number}.jsonl", rng, scenario.question, scenario.documents // TASKS)
        _save_rows(folder / f"examples{number}.jsonl", rng, scenario.question, 8)
        (folder / f"task{number}.yaml").write_text(
            f"task: {scenario.name}_{number}\n"
            "dataset_path: json\ndataset_kwargs: {data_files: "
            f"{{test: data{number}.jsonl, train: examples{number}.jsonl}}}}\n"
            "test_split: test\nfewshot_split: train\noutput_type: generate_until\n"
            f"num_fewshot: {scenario.examples}\nfewshot_config: {{sampler: first_n}}\n"
            'doc_to_text: "{{question}}"\ndoc_to_target: "{{gold}}"\nprocess_results: !function scorer.score\n'
            f"generation_kwargs:\n  until: {json.dumps(stops)}\n  max_gen_toks: {scenario.new_tokens}\n"
            "  do_sample: false\n"
            "metric_list:\n  - {metric: overlap, aggregation: mean, higher_is_better: true}\n"
            "  - {metric: words, aggregation: mean, higher_is_better: false}\n"
        )


def _save_rows(path: Path, rng: random.Random, question: tuple[int, int], count: int) -> None:
    rows = [{"question": _words(rng, rng.randint(*question)), "gold": _words(rng, 4)} for _ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _words(rng: random.Random, count: int) -> str:
    return " ".join(f"w{rng.randrange(2, VOCABULARY)}" for _ in range(count))


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds."""

    inside: float
    """In generate_until."""
    cpu: float
    """Of the processor, in generate_until, all threads together."""
    whole: float
    """Of the whole evaluation, prompts and scoring included."""


@dataclass(slots=True)
class Contestant:
    """One way to answer."""

    name: str
    model: Any
    chat_template: bool = False

    def run(self, suite: Any) -> tuple[Times, Samples]:
        """How long it took, and the logged samples of every task."""
        from lm_eval.evaluator import evaluate

        from grpo_audit_evals import harness

        inside = cpu = 0.0
        generate = type(self.model).generate_until

        def timed(requests: Any, **options: Any) -> list[str]:
            nonlocal inside, cpu
            begin, begin_cpu = time.perf_counter(), time.process_time()
            answers: list[str] = generate(self.model, requests, **options)
            inside += time.perf_counter() - begin
            cpu += time.process_time() - begin_cpu
            return answers

        self.model.generate_until = timed
        begin = time.perf_counter()
        try:
            for item in suite.tasks:
                item.task._instances = None
                item.task.set_fewshot_seed(seed=harness.FEWSHOT_SEED)
            with harness.quiet():  # all tasks at once, as lm-eval's own command runs them
                found = evaluate(
                    self.model, {"tasks": {item.name: item.task for item in suite.tasks}}, bootstrap_iters=0
                )
            samples: Samples = found["samples"]
        finally:
            del self.model.generate_until
        return Times(inside, cpu, time.perf_counter() - begin), samples


def assert_same(ours: Samples, theirs: Samples) -> int:
    """Raise SystemExit unless every document has the same response and metrics; returns the number of documents."""
    count = 0
    for task, samples in theirs.items():
        for mine, other in zip(ours[task], samples, strict=True):
            for key in ("doc_id", "filter", "prompt_hash", "resps", "filtered_resps", *other["metrics"]):
                if mine[key] != other[key]:
                    raise SystemExit(f"{task}, document {other['doc_id']}: {key} differs: {mine[key]!r} {other[key]!r}")
            count += 1
    return count


def compare(
    scenario: Scenario, folder: Path, ours: Contestant, theirs: list[Contestant], rounds: int
) -> dict[str, Any]:
    """In turn; the first round also finds the faster batch of lm-eval's backend."""
    from grpo_audit.config.sections import EvaluationConfig
    from grpo_audit_evals.suite import load_suite

    save_suite(scenario, folder)
    suite = load_suite(EvaluationConfig(suite=str(folder), batch_size=OUR_BATCH), folder)
    times: dict[str, list[Times]] = {item.name: [] for item in [ours, *theirs]}
    tried = list(theirs)
    words: list[float] = []
    for number in range(rounds):
        order = [ours, *tried] if number % 2 == 0 else [*tried, ours]
        found: dict[str, Samples] = {}
        for item in order:
            took, found[item.name] = item.run(suite)
            times[item.name].append(took)
            Console(stderr=True).print(f"{scenario.name}, {item.name}: {took.inside:.2f} s, {took.cpu:.2f} s CPU")
        documents = sum(assert_same(found[ours.name], found[item.name]) for item in tried) // len(tried)
        words = [sample["words"] for samples in found[ours.name].values() for sample in samples]
        tried = [min(tried, key=lambda item: times[item.name][0].cpu)]
    best = tried[0].name
    pairs = list(zip(times[ours.name], times[best], strict=True))
    return {
        "speed": round(statistics.median(b.inside / a.inside for a, b in pairs), 2),
        "rounds": [round(b.inside / a.inside, 2) for a, b in pairs],
        "cpu_time": round(statistics.median(b.cpu / a.cpu for a, b in pairs), 2),
        "whole_evaluation": round(statistics.median(b.whole / a.whole for a, b in pairs), 2),
        "ours_s": round(statistics.median(a.inside for a, _ in pairs), 2),
        "lm_eval_s": round(statistics.median(b.inside for _, b in pairs), 2),
        "lm_eval_batch": best.rpartition(" ")[2],
        "lm_eval_by_batch_cpu_s": {item.name: round(times[item.name][0].cpu, 2) for item in theirs},
        "documents": documents,
        "words_each": round(statistics.fmean(words), 1),
    }


def contestants(folder: Path, batches: tuple[int, ...]) -> tuple[Contestant, list[Contestant]]:
    """Ours, and lm-eval's backend with each batch size; each has loaded the folder by itself."""
    from lm_eval.models.huggingface import HFLM

    from grpo_audit.config.sections import ModelConfig
    from grpo_audit_evals import harness
    from grpo_audit_evals.lm import PolicyLM
    from grpo_audit_trainer.policy import Policy

    policy = Policy.load(ModelConfig(path=str(folder), device="cpu", precision="float32"), folder)
    policy.model.eval()
    with harness.quiet():
        theirs = [
            Contestant(
                f"lm-eval, batch {size}", HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=size)
            )
            for size in batches
        ]
    return Contestant(f"grpo-audit, batch {OUR_BATCH}", PolicyLM(policy, batch_size=OUR_BATCH)), theirs


def main() -> None:
    """Print a row for each scenario, then the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round, one batch size")
    parser.add_argument("--scenarios", nargs="+", choices=[item.name for item in SCENARIOS], default=None)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    rounds, batches = (1, HF_BATCHES[-1:]) if arguments.quick else (arguments.rounds, HF_BATCHES)
    chosen = [item for item in SCENARIOS if arguments.scenarios is None or item.name in arguments.scenarios]
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model")
        ours, theirs = contestants(folder / "model", batches)
        for scenario in chosen:
            measured[scenario.name] = compare(scenario, folder / scenario.name, ours, theirs, rounds)
    table = Table("scenario", "n", "words", "ours s", "lm-eval s", "its batch", "faster", "CPU time", "whole")
    for key, figures in measured.items():
        cells = (
            "documents",
            "words_each",
            "ours_s",
            "lm_eval_s",
            "lm_eval_batch",
            "speed",
            "cpu_time",
            "whole_evaluation",
        )
        table.add_row(key, *(str(figures[cell]) for cell in cells))
    Console().print(table)
    counted = [item.name for item in chosen if item.counts]
    report(
        "lm_eval_speed",
        target=f">= {TARGET:g}x lm-eval's own backend on generate_until ({', '.join(counted)}), every answer equal",
        measured={"threads": arguments.threads, "quick": arguments.quick, **measured},
        met=bool(counted) and all(measured[key]["speed"] >= TARGET for key in counted),
    )


if __name__ == "__main__":
    main()
