"""One measured sequence of steps in a process of its own: ``python -m benchmarks._contestants WHO CASE FOLDER STEPS``.

Prints one JSON line. The first step warms up and is not timed, for either trainer; neither is what follows the last
timed step (a snapshot, and a measurement of the KL to the initial policy, which TRL has not).
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks._workload import LEARNING_RATE, Case


class Meter:
    """Time, processor time and memory of this process and its children, from the second step on."""

    def __init__(self) -> None:
        self.begin = self.cpu_begin = 0.0
        self.loaded = _memory("VmRSS")

    def start(self) -> None:
        """The warm-up is over."""
        self.begin, self.cpu_begin = time.perf_counter(), time.process_time()

    def stop(self, steps: int, completions: int, lengths: list[int], **more: object) -> dict[str, object]:
        """The figures, per step."""
        seconds, cpu = time.perf_counter() - self.begin, time.process_time() - self.cpu_begin
        peak = _memory("VmHWM")
        return {
            "seconds": seconds / steps,
            "cpu": cpu / steps,
            "completions": completions,
            "mean_length": sum(lengths) / len(lengths),
            "peak_mb": peak,
            "grown_mb": peak - self.loaded,
            **more,
        }


def _memory(name: str) -> float:
    """A figure of /proc/self/status in MB. VmHWM is the peak of this process alone, unlike ru_maxrss, which starts at
    that of the parent."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


def ours(case: Case, folder: Path, steps: int) -> dict[str, object]:
    """grpo-audit: the shipped path, every rollout recorded with FULL durability."""
    from grpo_audit.cli.prepare import prepare, registration
    from grpo_audit.config.load import resolve
    from grpo_audit.ledger.project import NewEvent, Project
    from grpo_audit_trainer.loop import train
    from grpo_audit_trainer.recorder import Recorder

    resolved = resolve(folder / "recipe.yaml", [f"training.steps={steps + 2}"])
    lengths: list[int] = []
    parts: dict[str, float] = {}
    result: dict[str, object] = {}
    with prepare(resolved) as prepared, Project.open(folder / f"record-{os.getpid()}.db", mode="create") as project:
        project.append([NewEvent(registration(prepared), "bench")])
        meter = Meter()
        with Recorder(project, "bench", 1) as recorder:

            def on_step(outcome: Any) -> None:
                recorder.step(outcome)
                if outcome.step == 0:
                    recorder.flush()
                    meter.start()
                elif outcome.step <= steps:
                    lengths.extend(len(rollout.token_ids) for rollout in outcome.rollouts)
                    for name, seconds in outcome.seconds.items():
                        parts[name] = parts.get(name, 0.0) + seconds / steps
                if outcome.step == steps:
                    recorder.flush()  # the last timed step counts until it is durable
                    result.update(meter.stop(steps, case.completions, lengths, parts=parts))

            train(prepared.policy, prepared.prompts, prepared.rewards, prepared.config, folder=folder, on_step=on_step)
    return result


def trl(case: Case, folder: Path, steps: int, batch: int) -> dict[str, object]:
    """TRL's GRPOTrainer with reporting, logging and checkpoints off, at this per_device_train_batch_size."""
    import torch
    from transformers import TrainerCallback

    lengths: list[int] = []
    trainer = trl_trainer(case, folder, steps + 1, batch)
    meter = Meter()
    result: dict[str, object] = {}

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Stamps the steps."""

        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step == 1:
                lengths.clear()
                meter.start()
            elif state.global_step == steps + 1:
                result.update(meter.stop(steps, case.completions, lengths, threads=torch.get_num_threads()))

    generate = trainer._generate

    def counted(prompts: Any) -> Any:
        output = generate(prompts)
        lengths.extend(len(ids) for ids in output[1])
        return output

    trainer._generate = counted
    trainer.add_callback(Watch())
    trainer.train()
    return result


def trl_trainer(case: Case, folder: Path, steps: int, batch: int) -> Any:
    """A trainer over the same model, prompts (in the order in which ours draws them), rewards and objective."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from grpo_audit.config.load import resolve
    from grpo_audit.prompts import order
    from grpo_audit.prompts.loading import load
    from grpo_audit_trainer.policy import Policy

    resolved = resolve(folder / "recipe.yaml", [])
    prompts = load(resolved.config.prompts, resolved.base_dir).rows
    drawn = [
        prompts[index]
        for step in range(steps)
        for index in order.draw(resolved.config.seed, step, len(prompts), case.prompts_per_step)
    ]
    path = resolved.config.model.path
    tokenizer = AutoTokenizer.from_pretrained(path)
    policy = Policy(None, tokenizer, _PlainExecution(tokenizer), (), 0, folder)  # type: ignore[arg-type]
    rows = [{"prompt": policy.encode_prompt(p.text, p.messages).text, **p.columns} for p in drawn]
    arguments = GRPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        shuffle_dataset=False,
        max_steps=steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=case.completions // batch,
        num_generations=case.group_size,
        max_completion_length=case.max_completion,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        loss_type="dapo",
        beta=0.0,
        temperature=1.0,
        dataloader_pin_memory=False,
        seed=17,
    )
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(path, dtype="float32"),
        reward_funcs=_reward_functions(case, folder),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


class _PlainExecution:
    """As much of an Execution as encoding a prompt needs."""

    def __init__(self, tokenizer: Any) -> None:
        self.chat_template = getattr(tokenizer, "chat_template", None) is not None


def _reward_functions(case: Case, folder: Path) -> list[Any]:
    """The recipe's reward functions, in this process."""
    if case.builtin:
        from grpo_audit.rewards import countdown

        return [countdown.accuracy, countdown.format]
    namespace: dict[str, Any] = {}
    exec((folder / "rewards.py").read_text(), namespace)
    return [namespace["evens"]]


def check(case: Case, folder: Path) -> dict[str, object]:
    """Whether both do the same work: loss and gradient of one step on the same rollouts and advantages, as relative
    differences. Ours runs through the scorer that trains; the objective is written out here."""
    import torch

    from grpo_audit.config.sections import ModelConfig
    from grpo_audit_trainer import noise
    from grpo_audit_trainer.policy import load_policy
    from grpo_audit_trainer.rollout.native import NativeEngine
    from grpo_audit_trainer.scoring import Completions, Scorer

    trainer = trl_trainer(case, folder, 1, case.trl_batches[0])
    policy = load_policy(ModelConfig(path=trainer.model.name_or_path, device="cpu", precision="float32"))
    texts = [row["prompt"] for row in trainer.train_dataset][: case.prompts_per_step]
    prompts = [list(policy.tokenizer(text)["input_ids"]) for text in texts]
    group = [row // case.group_size for row in range(case.completions)]
    keys = noise.row_keys(0, 0, [(str(group[row]), row) for row in range(case.completions)], policy.device)
    batch = NativeEngine(policy).sample(prompts, case.group_size, keys, temperature=1.0, max_tokens=case.max_completion)
    advantages = torch.randn(case.completions, generator=torch.Generator().manual_seed(0))
    tokens = int(batch.lengths.sum())
    loss = torch.zeros(())

    def accumulate(micro: Any, logp: Any) -> None:
        nonlocal loss
        ratio = (logp - logp.detach()).exp()
        part = -(ratio * advantages[micro.rows, None] * micro.mask).sum() / tokens
        part.backward()
        loss = loss + part.detach()

    what = Completions(prompts, group, batch.tokens, batch.lengths.tolist())
    Scorer(policy, temperature=1.0, microbatch_tokens=16384).each(what, range(case.completions), accumulate)
    width = max(len(prompt) for prompt in prompts)
    rows = [[0] * (width - len(prompts[g])) + prompts[g] for g in group]
    theirs = trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": torch.tensor(rows),
            "prompt_mask": torch.tensor([[0] * (width - len(prompts[g])) + [1] * len(prompts[g]) for g in group]),
            "completion_ids": batch.tokens,
            "completion_mask": batch.inside().long(),
            "advantages": advantages,
            "num_items_in_batch": torch.tensor(tokens),
        },
    )
    theirs.backward()
    mine = torch.cat([p.grad.flatten() for p in policy.model.parameters()])
    other = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    return {
        "loss": float((loss - theirs.detach()).abs() / theirs.detach().abs()),
        "gradient": float((mine - other).norm() / other.norm()),
    }


def main() -> None:
    """Run one contestant."""
    who, case_text, folder, steps = sys.argv[1:5]
    warnings.simplefilter("ignore")
    case = Case.load(case_text)
    if who == "ours":
        result = ours(case, Path(folder), int(steps))
    elif who == "check":
        result = check(case, Path(folder))
    else:
        result = trl(case, Path(folder), int(steps), int(who.removeprefix("trl-")))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
