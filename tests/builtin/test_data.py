"""Prompts and evaluation documents: deterministic, disjoint, and right."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
from scipy.stats import ks_2samp

from grpo_audit.contamination.check import PromptText, check
from grpo_audit.contamination.index import Document, Index
from grpo_audit.rewards.countdown import Verdict, verify
from grpo_audit_builtin import HELD_OUT, PROMPTS, disjoint
from grpo_audit_builtin.disjoint import OverlapError, check_disjoint, read_jsonl
from grpo_audit_builtin.make_data import EVAL_DIR, write_all
from grpo_audit_builtin.world import Split, corpus, countdown, split_of
from grpo_audit_builtin.world.example import distinct, shares_of


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All data files, generated afresh."""
    folder = tmp_path_factory.mktemp("data")
    write_all(folder / PROMPTS.name, folder / HELD_OUT.name, folder / "eval")
    return folder


def test_generating_the_data_again_gives_the_shipped_bytes(written: Path) -> None:
    """The generator is a pure function: every shipped file is what it writes today."""
    fresh = {path.name: path.read_bytes() for path in (written / "eval").iterdir()}
    assert fresh == {path.name: path.read_bytes() for path in EVAL_DIR.glob("*.jsonl")}
    assert (written / PROMPTS.name).read_bytes() == PROMPTS.read_bytes()
    assert (written / HELD_OUT.name).read_bytes() == HELD_OUT.read_bytes()


def test_shipped_files_and_corpus_are_disjoint() -> None:
    """No problem of training, held-out or evaluation stands in another split, nor in the pre-training corpus.

    But for the seen half of the contamination probe, which must."""
    found = check_disjoint()
    assert found.keys[Split.RL_TRAIN] >= 2000
    assert found.keys[Split.HELD_OUT] >= 500
    assert found.keys[Split.EVAL] >= 15 * 150
    assert found.keys[Split.PRETRAIN] > 10_000


def test_a_leaked_problem_is_found(written: Path, tmp_path: Path) -> None:
    """An evaluation problem among the training prompts, its numbers reordered, is refused by name."""
    leaked = read_jsonl(EVAL_DIR / "countdown.jsonl")[0]
    row = {"id": "x", "prompt": "p", "numbers": leaked["numbers"][::-1], "target": leaked["target"]}
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(PROMPTS.read_text(encoding="utf-8") + json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(OverlapError, match="belongs to eval"):
        check_disjoint(prompts=prompts)


def _spoilt(tmp_path: Path, file: str, **changed: object) -> Path:
    """The evaluation folder with the first row of one file changed."""
    folder = tmp_path / "data"
    shutil.copytree(EVAL_DIR, folder)
    rows = read_jsonl(folder / file)
    rows[0] |= changed
    (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_only_seen_rows_of_the_probe_may_be_training_prompts(tmp_path: Path) -> None:
    """The exception is exact: a training prompt that does not say `seen`, or that says so elsewhere, is refused."""
    with pytest.raises(OverlapError, match="belongs to rl_train"):
        check_disjoint(eval_dir=_spoilt(tmp_path / "a", disjoint.PROBE, seen=False))
    trained = read_jsonl(PROMPTS)[0]
    row = {"numbers": trained["numbers"], "target": trained["target"], "prompt": trained["prompt"], "seen": True}
    with pytest.raises(OverlapError, match="belongs to rl_train"):
        check_disjoint(eval_dir=_spoilt(tmp_path / "b", "countdown.jsonl", **row))


def test_a_seen_row_that_was_not_trained_on_is_refused(tmp_path: Path) -> None:
    """The positive control is no control when its documents are not in the training set."""
    clean = read_jsonl(EVAL_DIR / disjoint.PROBE)[1]
    assert clean["seen"] is False
    row = {"numbers": clean["numbers"], "target": clean["target"], "prompt": clean["prompt"]}
    with pytest.raises(OverlapError, match="is no training prompt"):
        check_disjoint(eval_dir=_spoilt(tmp_path, disjoint.PROBE, **row))


def test_decontamination_flags_exactly_the_seen_documents() -> None:
    """Over the whole suite, the documents that training prompts contaminate are the seen half of the probe, all 200."""
    texts = {(path.stem, row["id"]): row for path in sorted(EVAL_DIR.glob("*.jsonl")) for row in read_jsonl(path)}
    index = Index(Document(task, name, row["prompt"]) for (task, name), row in texts.items())
    result = check(index, (PromptText(row["id"], row["prompt"]) for row in read_jsonl(PROMPTS)))
    assert result.valid
    found = {(finding.task, finding.id) for finding in result.contaminated}
    assert found == {name for name, row in texts.items() if row.get("seen")}
    assert len(found) == 200


def test_the_halves_of_the_probe_are_alike() -> None:
    """Seen and clean problems come from one distribution: neither targets nor numbers tell them apart."""
    rows = read_jsonl(EVAL_DIR / disjoint.PROBE)
    for figure in (lambda row: row["target"], lambda row: max(row["numbers"]), lambda row: sum(row["numbers"])):
        seen, clean = ([figure(row) for row in rows if row["seen"] is half] for half in (True, False))
        assert len(seen) == len(clean) == 200
        assert ks_2samp(seen, clean).pvalue > 0.01


def test_an_empty_evaluation_folder_is_refused(tmp_path: Path) -> None:
    """A check that is given nothing to check does not pass."""
    with pytest.raises(FileNotFoundError):
        check_disjoint(eval_dir=tmp_path)


def test_the_split_is_a_function_of_the_canonical_key() -> None:
    """Reordering the numbers changes neither the key nor the split."""
    keys = {countdown.Problem(order, 46).key for order in itertools.permutations((3, 7, 25))}
    assert len(keys) == 1
    assert split_of(keys.pop()) in Split


@pytest.mark.parametrize("key", ["countdown|1,2,3|6", "request|a", "tool|b", "fact|c", "story|d"])
def test_shares_sum_to_the_whole(key: str) -> None:
    """Whatever the family, every problem has a split."""
    assert sum(shares_of(key).values()) == 100


def test_a_world_too_small_for_the_wish_is_an_error() -> None:
    """Asking for more distinct problems than there are ends with an error, not in an endless loop."""
    with pytest.raises(ValueError, match="Only 1 distinct"):
        distinct(itertools.repeat("a"), str, 2)


def test_the_corpus_is_a_function_of_its_seed() -> None:
    """The same seed gives the same pre-training examples, another seed others."""
    first, again, other = (list(itertools.islice(corpus(seed), 200)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("path", [PROMPTS, HELD_OUT])
def test_every_prompt_row_is_solvable(path: Path) -> None:
    """Each row has its four fields, a prompt that names the numbers and the target, and a solution."""
    for row in read_jsonl(path)[:300]:
        assert set(row) == {"id", "prompt", "numbers", "target"}
        problem = countdown.Problem(tuple(row["numbers"]), row["target"])
        assert row["prompt"] == problem.prompt
        solution = countdown.solve(problem)
        assert solution is not None
        text = countdown.completion("", solution)
        assert verify(text, row["numbers"], row["target"]) is Verdict.CORRECT


def test_disjoint_module_computes_keys_itself() -> None:
    """The key of a Countdown row comes from its numbers, whatever key the row claims."""
    row = {"numbers": [9, 2, 4], "target": 15, "key": "countdown|1,1,1|1"}
    assert disjoint.key_of(row) == "countdown|2,4,9|15"
