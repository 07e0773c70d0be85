"""PPO in the plainest way, as an oracle."""

from __future__ import annotations

import copy
from typing import Any

import torch

from grpo_audit_trainer.loop import StepOutcome
from grpo_audit_trainer.update import parts_of_step


def by_definition(rewards: Any, values: Any, length: int, discount: float, lam: float) -> list[float]:
    """Equation 16 of arXiv 1506.02438 as it stands: a sum of discounted errors for each token."""
    behind = [*values[:length], 0.0]
    errors = [rewards[t] + discount * behind[t + 1] - behind[t] for t in range(length)]
    return [sum((discount * lam) ** k * errors[t + k] for k in range(length - t)) for t in range(length)]


class Plain:
    """PPO in the plainest way: whole rows, whole logits, one row at a time, equation 16 as it stands."""

    def __init__(self, policy: Any, config: Any) -> None:
        self.policy, self.config = policy, config
        self.model, self.reference = policy.model, copy.deepcopy(policy.model)
        self.decoder, self.weight = copy.deepcopy(policy.model.model), torch.nn.Parameter(torch.zeros(32))
        self.bias = torch.nn.Parameter(torch.zeros(1))
        training, value = config.training, config.objective.value
        self.critic = [*self.decoder.parameters(), self.weight, self.bias]
        same = {"weight_decay": 0.0, "eps": training.adam_epsilon}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=training.learning_rate, **same)
        self.critic_optimizer = torch.optim.AdamW(self.critic, lr=value.learning_rate, **same)

    def logp(self, net: Any, ids: torch.Tensor, prompt: int) -> torch.Tensor:
        """[n]: of the completion's tokens."""
        logits = net(input_ids=ids[None]).logits[0, prompt - 1 : -1]
        return logits.log_softmax(-1).gather(-1, ids[prompt:, None])[:, 0]

    def values(self, ids: torch.Tensor, prompt: int) -> torch.Tensor:
        """[n]: before each of them."""
        return self.decoder(input_ids=ids[None]).last_hidden_state[0, prompt - 1 : -1] @ self.weight + self.bias

    def follow(self, step: StepOutcome) -> list[float]:
        """Make the updates of one step on the recorded rollouts; returns the mean advantage of each."""
        objective, training = self.config.objective, self.config.training
        self.optimizer.param_groups[0]["lr"] = step.learning_rate
        scale = step.learning_rate / training.learning_rate
        self.critic_optimizer.param_groups[0]["lr"] = objective.value.learning_rate * scale
        prompts = [self.policy.encode_prompt(group.prompt_text).ids for group in step.groups]
        rows = [
            (torch.tensor(prompts[r.group] + [int(t) for t in r.token_ids]), len(prompts[r.group]))
            for r in step.rollouts
        ]
        with torch.no_grad():
            old = [self.logp(self.model, *row) for row in rows]
            reference = [self.logp(self.reference, *row) for row in rows]
            old_values = [self.values(*row) for row in rows]
        advantages, returns = [], []
        for r, logp, ref, value in zip(step.rollouts, old, reference, old_values, strict=True):
            rewards = (-objective.kl.beta * (logp - ref)).double()
            rewards[-1] += sum(v for k, v in r.rewards.items() if k == "vowels" and v is not None)
            found = by_definition(
                rewards.tolist(), value.tolist(), len(value), objective.value.discount, objective.value.gae_lambda
            )
            advantages.append(torch.tensor(found))
            returns.append(torch.tensor(found) + value)
        every = torch.cat(advantages)
        advantages = [(a - every.mean()) / (every.std() + objective.advantage.epsilon) for a in advantages]
        groups = [r.group for r in step.rollouts]
        for part in parts_of_step(list(range(len(rows))), groups, training, seed=self.config.seed, step=step.step):
            tokens = sum(len(old[row]) for row in part.rows)
            loss, critic_loss = torch.zeros(()), torch.zeros(())
            for row in part.rows:
                ratio, advantage = (self.logp(self.model, *rows[row]) - old[row]).exp(), advantages[row]
                loss = loss - torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).sum() / tokens
                value, before, target = self.values(*rows[row]), old_values[row], returns[row]
                near = before + (value - before).clamp(-objective.value.clip, objective.value.clip)
                worst = torch.maximum((value - target) ** 2, (near - target) ** 2)
                critic_loss = critic_loss + worst.sum() / 2 / tokens
            for cost, optimizer, parameters in (
                (loss, self.optimizer, list(self.model.parameters())),
                (critic_loss, self.critic_optimizer, self.critic),
            ):
                optimizer.zero_grad()
                cost.backward()
                torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm)
                optimizer.step()
        return [float(a.mean()) for a in advantages]
