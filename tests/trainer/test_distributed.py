"""Several processes train as one does: two gloo processes on the CPU, launched by torchrun."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file

from grpo_audit.errors import ConfigError, TrainingError
from grpo_audit.ledger.project import Project
from grpo_audit.record.events import EventKind
from grpo_audit.record.identity import weights_digest
from grpo_audit_trainer.adapter import CONFIG_FILE
from grpo_audit_trainer.distributed import World, join, together
from grpo_audit_trainer.loop import check_processes

CHILD = Path(__file__).with_name("train_together.py")
TRAINING = {
    "steps": 3, "iterations": 2, "learning_rate": 3e-3, "snapshot_every": 1, "keep_snapshots": 8,
    "microbatch_tokens": 120,
}  # fmt: skip
SECTIONS: dict[str, Any] = {"objective": {"kl": {"beta": 0.04}}, "training": TRAINING}
FSDP = {"ACCELERATE_USE_FSDP": "true"}


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together_module() -> Any:
    """The script that the launched processes run."""
    specification = importlib.util.spec_from_file_location("train_together", CHILD)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def torchrun(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in two processes, to its end. One that hangs is ended, with its processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command += [str(free_port()), *arguments]
    with subprocess.Popen(
        command, env=variables, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=300)
        except BaseException:
            process.terminate()  # the launcher then ends its processes; killed, it would leave them behind
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


class Jobs:
    """Runs to be trained by one process here, or by two that are launched."""

    def __init__(self, folder: Path, model: Path, make: Callable[..., Any]) -> None:
        self.folder = folder
        self._model, self._make = model, make

    def job(self, name: str, start: str | None = None, **sections: Any) -> dict[str, Any]:
        """One run; ``start`` names a run of this folder whose snapshot after the first step it goes on from."""
        merged = {**SECTIONS, **sections}
        merged["model"] = {"path": str(self._model), "device": "cpu", **sections.get("model", {})}
        place = None if start is None else str(self.folder / start / "snapshots" / "step-000001")
        return {"name": name, "config": self._make(**merged).model_dump(mode="json"), "start": place}

    def here(self, *jobs: dict[str, Any]) -> None:
        """Train in this process."""
        for job in jobs:
            together_module().run(job, self.folder, World())

    def launch(self, *jobs: dict[str, Any], **environment: str) -> subprocess.CompletedProcess[str]:
        """Train in two processes."""
        (self.folder / "jobs.json").write_text(json.dumps(jobs))
        return torchrun(str(CHILD), str(self.folder), **environment)

    def told(self, name: str) -> Any:
        """What the first process told of a run."""
        return json.loads((self.folder / f"{name}.json").read_text())

    def steps(self, name: str) -> list[Any]:
        """Its steps."""
        return list(self.told(name)["steps"])


@pytest.fixture
def jobs(make_config: Any, model_folder: Any, tmp_path: Path) -> Jobs:
    """An empty folder."""
    return Jobs(tmp_path, model_folder("llama"), make_config)


def assert_same(one: list[Any], two: list[Any]) -> None:
    """Tokens, rewards and advantages are equal; loss, gradient and figures are so to 1e-5."""
    assert len(one) == len(two) > 0
    for left, right in zip(one, two, strict=True):
        assert left["tokens"] == right["tokens"]
        assert left["measured"] == right["measured"]
        assert left["rewards"] == right["rewards"] and left["advantages"] == right["advantages"]
        # a loss of 0 in value is a sum of terms of size 1, so its rounding is absolute
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-5, abs=1e-6)
        assert left["grad_norm"] == pytest.approx(right["grad_norm"], rel=1e-5)
        assert left["figures"] == pytest.approx(right["figures"], rel=1e-3, abs=1e-5)


LORA: dict[str, Any] = {
    "model": {"lora": {"rank": 4, "alpha": 8.0}},
    "objective": {"kl": {"beta": 0.04, "replace_reference_every": 2, "measure_every": 1}},
    "training": {**TRAINING, "learning_rate": 2e-2},
}
ONE_PROMPT: dict[str, Any] = {
    "sampling": {"group_size": 4, "prompts_per_step": 1, "max_completion_tokens": 20, "max_prompt_tokens": 16},
    "training": {**TRAINING, "iterations": 1},
}
CHECKPOINTED: dict[str, Any] = {
    "model": {"gradient_checkpointing": "on"},
    "training": {**TRAINING, "steps": 2, "microbatch_tokens": 60},
}
DYNAMIC: dict[str, Any] = {
    "sampling": {"group_size": 4, "prompts_per_step": 3, "max_completion_tokens": 20, "max_prompt_tokens": 16,
                 "dynamic_sampling": True},
    "objective": {"kl": {"beta": 0.0, "measure_every": 2}, "aggregation": "token-mean", "top_entropy": 0.5},
    "training": {**TRAINING, "minibatches": 2, "iterations": 1},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "environment"), [("ddp", {}), ("fsdp", FSDP)], ids=["ddp", "fsdp"])
def test_two_processes_train_as_one(jobs: Jobs, model_folder: Any, strategy: str, environment: dict[str, str]) -> None:
    """Two processes, each with all weights or with FSDP, draw the same tokens as one and report the same loss and
    gradient, over three steps of two passes: with an uneven number of prompts and of microbatches; with LoRA and a
    replaced reference; with fewer prompts than processes; with gradient checkpointing; with dynamic sampling,
    minibatches and an entropy mask. A snapshot of one process is gone on from by two, and one of two by one."""
    variants: dict[str, dict[str, Any]] = {
        "plain": {}, "lora": LORA, "prompt": ONE_PROMPT, "checkpointed": CHECKPOINTED, "dynamic": DYNAMIC,
    }  # fmt: skip
    jobs.here(*(jobs.job(f"{name}1", **sections) for name, sections in variants.items()))
    both = [jobs.job(f"{name}2", **sections) for name, sections in variants.items()]
    assert (done := jobs.launch(*both, jobs.job("two-of-one", "plain1"), **environment)).returncode == 0, done.stderr
    assert jobs.told("plain1")["world"] == [1, "single process", None]
    assert jobs.told("plain2")["world"] == [2, strategy, "gloo"]
    for name in variants:
        assert_same(jobs.steps(f"{name}1"), jobs.steps(f"{name}2"))
    whole = jobs.steps("plain1")
    assert len({step["fingerprint"] for step in whole}) == 3 and all(abs(step["loss"][1]) > 1e-4 for step in whole)
    assert_same(whole[1:], jobs.steps("two-of-one"))
    for name, sections in (("plain", {}), ("lora", LORA)):
        jobs.here(jobs.job("one-of-two", f"{name}2", **sections))
        assert_same(jobs.steps(f"{name}1")[1:], jobs.steps("one-of-two"))
    assert_models_are_alike(jobs, model_folder("llama"))


def assert_models_are_alike(jobs: Jobs, base: Path) -> None:
    """The released models are whole, plain and alike; what LoRA leaves alone is the base model's, bit by bit."""
    for name in ("plain", "lora"):
        one, two = (load_file(jobs.folder / f"{name}{n}" / "model" / "model.safetensors") for n in (1, 2))
        assert one.keys() == two.keys()
        for tensor in one:
            torch.testing.assert_close(one[tensor], two[tensor], atol=3e-5, rtol=1e-4)
    original = load_file(base / "model.safetensors")
    assert torch.equal(original["lm_head.weight"], two["lm_head.weight"])
    assert not torch.equal(original["model.layers.0.mlp.up_proj.weight"], two["model.layers.0.mlp.up_proj.weight"])
    assert (jobs.folder / "lora2" / "snapshots" / "step-000003" / CONFIG_FILE).is_file()


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines that the processes said about their end; the launcher says more."""
    return [line for line in done.stderr.splitlines() if line.startswith("ERROR ")]


@pytest.mark.slow
def test_a_killed_process_ends_the_others(jobs: Jobs) -> None:
    """kill -9 on one of two: within two minutes the other has ended too, having said in one line what happened, unless
    the launcher was faster."""
    begin = time.monotonic()
    done = jobs.launch(jobs.job("killed"), DIE="1:1")
    assert done.returncode != 0 and time.monotonic() - begin < 120
    assert not (jobs.folder / "killed.json").exists()
    assert CHILD.name + '", line' not in done.stderr  # no traceback of ours
    assert [line[:45] for line in errors(done)] in ([], ["ERROR 0: Another process of this run ended or"])


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "environment"), [(0, {}), (1, FSDP)], ids=["first, ddp", "other, fsdp"])
def test_an_error_of_one_process_is_one_line(jobs: Jobs, rank: int, environment: dict[str, str]) -> None:
    """Whoever fails says so, once; the other ends because of it and stays silent."""
    done = jobs.launch(jobs.job("failed"), FAIL=f"{rank}:1", **environment)
    assert done.returncode != 0 and not (jobs.folder / "failed.json").exists()
    assert [line[:26] for line in errors(done)] == [f"ERROR {rank}: A planted failure"[:26]]
    assert CHILD.name + '", line' not in done.stderr


@pytest.mark.slow
def test_processes_that_drift_apart_stop(jobs: Jobs) -> None:
    """When the weights of one process change beside the others', the step's fingerprints show it and training ends."""
    done = jobs.launch(jobs.job("strayed"), STRAY="1:1")
    assert done.returncode != 0
    assert len(errors(done)) == 1 and "another fingerprint of its weights" in errors(done)[0]


@pytest.mark.slow
def test_a_whole_run_in_two_processes(tmp_path: Path) -> None:
    """``torchrun -m grpo_audit run`` registers, evaluates, trains (FSDP, LoRA), evaluates again, seals, verifies and
    reports; only the first process prints, and the record says how many there were and what was trained."""
    settings = {
        "model.lora": "{rank: 4}", "training.steps": 2, "training.snapshot_every": 1, "sampling.prompts_per_step": 3,
        "sampling.max_completion_tokens": 16, "evaluation.limit": 2, "evaluation.tasks": "[builtin_arithmetic]",
        "gates": "[]", "evaluation.margins": "{}",
    }  # fmt: skip
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = torchrun("-m", "grpo_audit", "run", "--json", *options, cwd=tmp_path, **FSDP)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)  # one process printed
    assert told["verification"]["ok"] and done.stderr.count("registered run") == 1
    with Project.open(tmp_path / "runs" / "record.db", mode="read") as project:
        (found,) = project.runs()
        registered = project.last(found.run_id, EventKind.RUN_REGISTERED).payload
        saved = project.last(found.run_id, EventKind.MODEL_SAVED).payload
    environment = registered.environment
    assert (environment.processes, environment.strategy, environment.backend) == (2, "fsdp", "gloo")
    assert registered.adapter == saved.adapter and saved.adapter.rank == 4
    assert "adapters switched off" in registered.reference
    folder = tmp_path / "runs" / found.run_id
    assert weights_digest(folder / saved.adapter_location) == saved.adapter_digest
    assert weights_digest(folder / "model") == saved.model.weights_digest != registered.model.weights_digest
    assert saved.model.parameters == registered.model.parameters


# --- without processes -----------------------------------------------------------------------------------------------


@given(count=st.integers(0, 50), size=st.integers(1, 9))
def test_blocks_cover_everything_once(count: int, size: int) -> None:
    """The blocks of all processes are contiguous, cover every item once, and differ by one at most in size."""
    blocks = [World(rank=rank, size=size).block(count) for rank in range(size)]
    assert [item for block in blocks for item in block] == list(range(count))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


@given(group=st.lists(st.integers(0, 7), max_size=30), size=st.integers(1, 5), data=st.data())
def test_shares_keep_groups_whole(group: list[int], size: int, data: Any) -> None:
    """The shares of all processes are the rows, each once, in order; no group is cut."""
    rows = sorted(data.draw(st.sets(st.sampled_from(range(len(group)))))) if group else []
    shares = [World(rank=rank, size=size).share(rows, group) for rank in range(size)]
    assert sorted(row for share in shares for row in share) == rows
    assert all(share == sorted(share) for share in shares)
    owners = {(group[row], rank) for rank, share in enumerate(shares) for row in share}
    assert len(owners) == len({group[row] for row in rows})


def test_alone_nothing_is_asked_of_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a launcher there is one process, and sums, maxima and messages are its own."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = join("cpu")
    tensor = torch.tensor([1.5, -2.0])
    assert world == World() and world.first
    assert world.sum(tensor) is tensor and world.max(tensor) is tensor and world.gather(tensor, [2]) is tensor
    assert world.tell({"a": [1.5, None]}) == {"a": [1.5, None]}


@pytest.mark.parametrize(
    ("strategy", "sections", "found"),
    [
        ("ddp", {"sampling": {"engine": "vllm"}}, "sampling.engine vllm"),
        ("ddp", {"sampling": {"engine": "continuous-batching"}}, "continuous-batching"),
        ("fsdp", {"objective": {"kl": {"beta": 0.1, "replace_reference_every": 5}}}, "replace_reference_every"),
        ("fsdp", {"objective": {"advantage": {"baseline": "value-model", "normaliser": "none"}}}, "value-model"),
    ],
)
def test_what_was_never_tried_is_refused(make_config: Any, strategy: Any, sections: Any, found: str) -> None:
    """With several processes a recipe that asks for it is one clear line; with one it is not refused."""
    config = make_config(**sections)
    with pytest.raises(ConfigError, match="cannot train this recipe") as caught:
        check_processes(config, World(size=2, strategy=strategy))
    assert found in str(caught.value)
    check_processes(config, World())


def test_only_broken_messages_become_one_line() -> None:
    """A connection that another process closed is a TrainingError that says so; any other error stays what it is."""
    broken = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"
    with pytest.raises(TrainingError, match="Another process of this run ended"), together(World(size=2)):
        raise RuntimeError(broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"), together(World(size=2)):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
