"""The value model of PPO, and generalised advantage estimation.

The value V_t of a completion is what the rest of it is expected to bring, seen before its token t is drawn: the head
reads the hidden state that predicts token t. The model is a copy of the policy's decoder, as the run started, with a
linear head. The head is zero, so every first value is exactly 0, and the first update moves the head alone, because no
gradient passes a head of zeros. So nothing is drawn at random.

    delta_t = r_t + gamma V_{t+1} - V_t
    A_t     = sum_l (gamma lambda)^l delta_{t+l}           (Schulman et al. 2016, arXiv 1506.02438, eq. 16)
    R_t     = A_t + V_t                                    (what V is trained towards)

Behind its last token a completion is over: V is 0 there, also where the length limit cut it off.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from grpo_audit.config.objective import ObjectiveConfig
from grpo_audit.config.run import RunConfig
from grpo_audit.errors import TrainingError
from grpo_audit_trainer.distributed import World
from grpo_audit_trainer.loss import value_loss
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.scoring import Completions, Microbatch
from grpo_audit_trainer.shared_scoring import SharedScorer
from grpo_audit_trainer.update import adamw, zero_gradients

MODEL: Final = "value/model.safetensors"
OPTIMIZER: Final = "value/optimizer.safetensors"
"""Names in a snapshot folder."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the value model makes of the rewards of a step, before its first update. N completions of up to T tokens;
    everything is 0 outside the tokens in the loss."""

    advantages: Tensor
    """[N, T] float64, normalised as the objective says."""
    old_values: Tensor
    """[N, T] float32."""
    returns: Tensor
    """[N, T] float32."""
    explained_variance: float | None
    """1 - Var(R - V) / Var(R) over the tokens in the loss; None where the returns are all equal. With lambda below 1
    the returns contain the values themselves, so that it flatters the value model."""


@dataclass(frozen=True, slots=True)
class ValueGradient:
    """Figures of the gradient of one update of the value model."""

    loss: float
    norm: float
    """Before clipping."""


def gae(rewards: Tensor, values: Tensor, mask: Tensor, discount: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns, [N, T] float64 each, 0 outside the mask.

    ``rewards`` and ``values`` [N, T] per token; ``mask`` [N, T] is true on the tokens of each completion, which start
    at 0 and have no gaps. Values outside the mask are ignored. Source: arXiv 1506.02438, eq. 16, as the recursion
    A_t = delta_t + gamma lambda A_{t+1}.
    """
    inside = mask.bool()
    reward, value = (torch.where(inside, item.double(), 0.0) for item in (rewards, values))
    advantages = torch.zeros_like(value)
    following = value.new_zeros(value.shape[0])
    after = following
    for t in reversed(range(value.shape[1])):
        delta = reward[:, t] + discount * after - value[:, t]
        following = torch.where(inside[:, t], delta + discount * gae_lambda * following, 0.0)
        advantages[:, t], after = following, value[:, t]
    return advantages, advantages + value


def token_rewards(terminal: Tensor, penalty: Tensor | None, mask: Tensor) -> Tensor:
    """[N, T] float64: ``terminal`` [N] at the last token of each completion, minus ``penalty`` [N, T] at every token
    (beta times logp_old - logp_ref; InstructGPT, arXiv 2203.02155, eq. 2, spread over the tokens)."""
    inside = mask.bool()
    last = inside & ~torch.nn.functional.pad(inside[:, 1:], (0, 1))
    rewards = torch.where(last, terminal.double()[:, None], 0.0)
    return rewards if penalty is None else rewards - torch.where(inside, penalty.double(), 0.0)


def whitened(advantages: Tensor, mask: Tensor, *, ddof: int, epsilon: float) -> Tensor:
    """[N, T]: (A - mean) / (std + epsilon) over the tokens of the mask; 0 outside, and everywhere when there are fewer
    than two. Tokens outside the mask, such as those of completions left out of the loss, do not count."""
    inside = mask.bool()
    known = advantages[inside]
    if known.numel() < 2:
        return torch.zeros_like(advantages)
    centred = known - known.mean()
    std = (centred.square().sum() / (known.numel() - ddof)).sqrt()
    out = torch.zeros_like(advantages)
    out[inside] = centred / (std + epsilon)
    return out


def explained_variance(values: Tensor, returns: Tensor) -> float | None:
    """1 - Var(R - V) / Var(R) of [n] values and returns; None for fewer than two, or where all returns are equal."""
    if returns.numel() < 2 or returns.amin() == returns.amax():
        return None
    return 1 - float((returns - values).double().var() / returns.double().var())


def estimate(
    terminal: Tensor, penalty: Tensor | None, values: Tensor, mask: Tensor, objective: ObjectiveConfig
) -> Estimate:
    """Advantages and targets of one step.

    ``terminal`` [N], ``penalty`` [N, T] as in ``token_rewards``; ``values`` [N, T] of the value model as it is;
    ``mask`` [N, T] of the tokens in the loss.
    """
    settings, inside = objective.advantage, mask.bool()
    rewards = token_rewards(terminal, penalty, inside)
    advantages, returns = gae(rewards, values, inside, objective.value.discount, objective.value.gae_lambda)
    variance = explained_variance(values[inside].double(), returns[inside])
    if settings.normaliser == "batch":
        advantages = whitened(advantages, inside, ddof=settings.ddof, epsilon=settings.epsilon)
    return Estimate(advantages, torch.where(inside, values, 0.0), returns.float(), variance)


class ValueNetwork(nn.Module):
    """A decoder with a scalar head of zeros."""

    def __init__(self, decoder: Any, config: Any) -> None:
        super().__init__()
        self.decoder = decoder
        self.config = config
        device = next(decoder.parameters()).device
        # not initialised, because that would draw from the global random state
        self.head: nn.Linear = torch.nn.utils.skip_init(
            nn.Linear, config.get_text_config().hidden_size, 1, device=device
        )
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def get_decoder(self) -> Any:
        """As the policy's model has it."""
        return self.decoder

    def get_output_embeddings(self) -> nn.Linear:
        """The same: a vocabulary of one."""
        return self.head


class ValueScorer(SharedScorer):
    """Scores values in place of log-probabilities, through the same microbatches and shared prompts."""

    def _logp_of(self, hidden: Tensor, batch: Microbatch) -> Tensor:
        """[B, T'] float32 from hidden states [B, T', H]; 0 outside the mask. The head is float32 under autocast too."""
        network: ValueNetwork = self.policy.model
        with torch.autocast(hidden.device.type, enabled=False):
            flat: Tensor = network.head(hidden[batch.mask].float())[:, 0]
        out = flat.new_zeros(batch.mask.shape)
        out[batch.mask] = flat
        return out


class ValueModel:
    """Network, optimiser and scorer. Where the policy trains adapters, so does the value model's decoder."""

    def __init__(self, policy: Policy, config: RunConfig, world: World | None = None) -> None:
        """``policy`` must hold the weights that the run starts from, whole."""
        self.config = config
        self.world = world or World()
        network = ValueNetwork(copy.deepcopy(policy.model.get_decoder()), policy.model.config)
        self.network = network.eval()
        self.execution = policy.execution
        training = config.training
        self.scorer = ValueScorer(
            dataclasses.replace(policy, model=network),
            self.world,
            temperature=1.0,  # values have none
            microbatch_tokens=training.microbatch_tokens,
        )
        self.named = {name: item for name, item in network.named_parameters() if item.requires_grad}
        self.parameters = list(self.named.values())
        self.optimizer = adamw(self.parameters, training, config.objective.value.learning_rate)

    def values(self, completions: Completions, rows: Sequence[int]) -> Tensor:
        """[N, T] float32 without gradient; 0 for rows that were not asked for and behind each row's end."""
        return self.scorer.logp(completions, rows)

    def gradient(
        self, completions: Completions, estimated: Estimate, rows: Sequence[int], weights: Tensor
    ) -> ValueGradient:
        """Compute the gradient of the value loss over ``rows``, leave it, clipped, in the parameters, and return its
        figures. ``weights`` [N] is what the token sums of the rows are multiplied by. Of several processes each
        computes its share of the rows, and all end with the same gradient and figures.

        Raises TrainingError when loss or gradient is not finite.
        """
        zero_gradients(self.parameters)
        total = torch.zeros((), dtype=torch.float64, device=weights.device)

        def accumulate(batch: Microbatch, values: Tensor) -> None:
            nonlocal total
            width = values.shape[1]
            loss = value_loss(
                values,
                estimated.old_values[batch.rows, :width],
                estimated.returns[batch.rows, :width],
                batch.mask,
                weights[batch.rows],
                self.config.objective.value.clip,
            )
            loss.backward()
            total = total + loss.detach()

        self.network.train(self.execution.gradient_checkpointing)
        self.scorer.each(completions, self.world.share(rows, completions.group), accumulate)
        self.world.sum_gradients(self.parameters)
        self.network.eval()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.training.max_grad_norm)
        figures = ValueGradient(*torch.stack([self.world.sum(total), norm.double()]).tolist())
        if not (math.isfinite(figures.loss) and math.isfinite(figures.norm)):
            raise TrainingError(
                "Loss or gradient of the value model is not finite",
                found=f"loss {figures.loss}, gradient norm {figures.norm}",
                expected="finite numbers; the weights were not touched",
                next_step="Lower objective.value.learning_rate, and start a new run",
            )
        return figures

    def apply(self, schedule: float) -> None:
        """Move the weights along the gradient, at ``schedule`` times the value model's learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.objective.value.learning_rate * schedule
        self.optimizer.step()

    # --- snapshots ---------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a snapshot holds of it, by file: the weights that train, and the state of their optimiser."""
        state = {
            f"{name}:{key}": value.contiguous()
            for name, parameter in self.named.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        return {MODEL: {name: item.detach().contiguous() for name, item in self.named.items()}, OPTIMIZER: state}

    def restore(self, folder: Path) -> None:
        """Put weights and optimiser of a snapshot back, bit by bit. The snapshot was checked when it was opened.

        Raises TrainingError when it holds no value model, or another one.
        """
        device = str(self.execution.device)
        try:
            saved, state = load_file(folder / MODEL, device=device), load_file(folder / OPTIMIZER, device=device)
        except FileNotFoundError as error:
            raise TrainingError(f"The snapshot {folder} has no value model", found=str(error)) from error
        shapes = {name: item.shape for name, item in self.named.items()}
        if {name: item.shape for name, item in saved.items()} != shapes:
            raise TrainingError(f"The snapshot {folder} has the value model of another architecture")
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(saved[name])
                mine = [key for key in state if key.rpartition(":")[0] == name]
                if not mine:
                    raise TrainingError(f"The snapshot {folder} has no optimiser state of the value model's {name}")
                self.optimizer.state[parameter] = {key.rpartition(":")[2]: state[key] for key in mine}
