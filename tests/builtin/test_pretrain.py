"""The script that builds the miniature runs, goes on from an earlier result, and says what it did."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpo_audit_builtin.card import Measured, Training, read_training, write_card
from grpo_audit_builtin.disjoint import read_jsonl
from grpo_audit_builtin.make_data import EVAL_DIR

torch = pytest.importorskip("torch")
pretrain = pytest.importorskip("grpo_audit_builtin.pretrain")


def test_a_build_of_seconds_can_be_loaded_and_continued(tmp_path: Path) -> None:
    """Two short stages leave a loadable folder whose card and log name both."""
    pretrain.main(["--out", str(tmp_path / "a"), "--minutes", "0.02", "--threads", "1"])
    pretrain.main(["--start", str(tmp_path / "a"), "--out", str(tmp_path / "b"), "--minutes", "0.02", "--threads", "1"])
    assert [stage.minutes for stage in read_training(tmp_path / "b")] == [0.02, 0.02]
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= {path.name for path in (tmp_path / "b").iterdir()}
    assert (tmp_path / "b" / "README.md").read_text(encoding="utf-8").count("--minutes 0.02") == 2


def test_minutes_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    """A build without time is refused in one line."""
    with pytest.raises(SystemExit) as stopped:
        pretrain.main(["--out", "x", "--minutes", "0"])
    assert stopped.value.code == 2
    assert "--minutes must be positive" in capsys.readouterr().err


def test_only_completions_have_labels() -> None:
    """Prompt and padding positions are -100, completion tokens and the end token are their own labels."""
    rows = [pretrain.Row([5, 6, 7, 1], 2), pretrain.Row([5, 8, 1], 1)]
    ids, labels = pretrain.tensors(rows, pad=0)
    assert ids.tolist() == [[5, 6, 7, 1], [5, 8, 1, 0]]
    assert labels.tolist() == [[-100, -100, 7, 1], [-100, 8, 1, -100]]


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    """It starts at 0, peaks after the warm-up and ends at 0."""
    assert pretrain.rate_at(0) == 0
    assert pretrain.rate_at(pretrain.WARM_UP) == pytest.approx(pretrain.PEAK_RATE)
    assert pretrain.rate_at(1) == pytest.approx(0)


def test_the_card_shows_measured_figures_or_says_that_there_are_none(tmp_path: Path) -> None:
    """A card without measurements says so instead of showing zeros."""
    stage = Training(seed=0, minutes=1, steps=2, examples=3, tokens=4, loss=0.5, parameters=6)
    write_card(tmp_path, [stage])
    assert "has not been measured" in (tmp_path / "README.md").read_text(encoding="utf-8")
    write_card(tmp_path, [stage], Measured({"accuracy": "12 %"}, {"builtin_countdown": ("accuracy", 0.125)}))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| accuracy | 12 % |" in text
    assert "| builtin_countdown | accuracy | 0.125 |" in text


def test_evaluation_documents_fit_the_context() -> None:
    """Every prompt leaves room for 160 tokens in the 512 of the model."""
    tokenizer = pretrain.build_tokenizer([])
    prompts = [row["prompt"] for path in EVAL_DIR.glob("*.jsonl") for row in read_jsonl(path)]
    assert max(len(ids) for ids in tokenizer(prompts)["input_ids"]) <= 512 - 160
