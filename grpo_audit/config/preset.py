"""What a preset is: the numbers of a paper, where the paper is silent, and where a run differs from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

Scalar = str | bool | int | float | tuple[float, float]


@dataclass(frozen=True)
class Preset:
    """One paper's numbers."""

    name: str
    title: str
    paper: str
    """arXiv identifier."""
    equation: str
    """Where in the paper the objective stands."""
    values: Mapping[str, Scalar]
    """Every number the preset sets, by dotted path into the run configuration."""
    unstated: tuple[str, ...]
    """What the paper does not say, and what stands there instead."""
    deviations: tuple[str, ...]
    """What the paper does that a run of this preset does not."""

    @property
    def source(self) -> str:
        """One line for the record: title, arXiv identifier, equation."""
        return f"{self.title}, arXiv:{self.paper}, {self.equation}"

    def tree(self) -> dict[str, object]:
        """The numbers as nested mappings, as a recipe would write them."""
        tree: dict[str, object] = {"preset": self.name}
        for path, value in self.values.items():
            *parents, leaf = path.split(".")
            node = tree
            for parent in parents:
                child = node.setdefault(parent, {})
                assert isinstance(child, dict), f"{path} leads through a value"
                node = child
            node[leaf] = value
        return tree


DDOF: Final = (
    "ddof and epsilon of the group's standard deviation: the equation divides by std without either; 1 and 1e-4 are "
    "what TRL uses"
)
"""Left open by every paper that divides by the group's deviation."""

OPTIMISER: Final = "optimiser settings other than the learning rate, and a warm-up: not given"
