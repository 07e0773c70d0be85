"""What was optimised and how: preset, differences, formula, settings by topic, and the reward sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_audit.catalogue.reader import Entry
from grpo_audit.config.presets import PRESETS, Preset
from grpo_audit.config.run import RunConfig
from grpo_audit.record.events import Artifact, RewardIdentity, RunRegistered
from grpo_audit.report import settings as shown
from grpo_audit.report.evidence import Evidence, Fact, Source, measured
from grpo_audit.report.model import Difference, Method, RewardSource
from grpo_audit.report.numbers import significant

_FORMULA_PARTS = (
    "sampling",
    "reward shaping",
    "advantage",
    "equal rewards",
    "missing rewards",
    "ratio",
    "surrogate",
    "importance correction",
    "tokens in the surrogate",
    "kl",
    "aggregation",
    "truncated completions",
    "loss",
    "gradient",
    "value model",
    "same words elsewhere",
)


def method(registered: Entry[RunRegistered], config: RunConfig) -> Method:
    """Everything that decides what one optimiser step does."""
    payload = registered.payload
    values = _flatten(config.model_dump())
    changed = {difference.path for difference in payload.preset_differences}
    preset = PRESETS.get(payload.preset)
    settings = _Settings(registered.seq, values, _defaults(config), changed, preset)
    groups = [(title, settings.facts(paths)) for title, paths in shown.objective(config)]
    groups.append(("Reference and old policy", _policies(registered, config)))
    groups.append(("Sampler", (*settings.facts(shown.sampler(config)), _untouched_sampler())))
    groups.append(("Optimiser and schedule", (_optimiser(), *settings.facts(shown.optimiser(config)))))
    groups.append(("Seed and precision", settings.facts(shown.HELD)))
    return Method(
        preset=payload.preset,
        preset_source=payload.preset_source,
        differences=tuple(
            Difference(difference.path, difference.preset, difference.value)
            for difference in payload.preset_differences
        ),
        unstated=preset.unstated if preset else (),
        deviations=preset.deviations if preset else (),
        formula=tuple(sorted(payload.formula.items(), key=_formula_order)),
        groups=tuple((title, tuple(facts)) for title, facts in groups),
        source=Source(Evidence.MEASURED, (registered.seq,)),
    )


def reward_sources(
    registered: Entry[RunRegistered], texts: Mapping[str, tuple[Entry[Artifact], str | None]]
) -> tuple[RewardSource, ...]:
    """Reward sources with their text. ``texts`` maps the digest of a source to its artifact and its content."""
    return tuple(_reward(registered.seq, identity, texts) for identity in registered.payload.rewards)


def _reward(
    seq: int, identity: RewardIdentity, texts: Mapping[str, tuple[Entry[Artifact], str | None]]
) -> RewardSource:
    found = texts.get(identity.source_digest)
    text = found[1] if found else None
    if found is None:
        missing = "the record holds no artifact with this digest"
    elif text is None:
        missing = "the text was erased or is kept outside the record"
    else:
        missing = ""
    return RewardSource(
        name=identity.name,
        function=identity.source,
        role=identity.role,
        kind=identity.kind,
        weight=identity.weight,
        version=identity.version,
        domain=identity.domain,
        time_limit_s=identity.time_limit_s,
        digest=identity.source_digest,
        file=identity.source_file,
        text=text,
        missing=missing,
        source=Source(Evidence.MEASURED, (seq, found[0].seq) if found else (seq,)),
    )


class _Settings:
    """Facts about configuration values; the evidence says whose choice each one is."""

    def __init__(
        self, seq: int, values: dict[str, Any], defaults: dict[str, Any], changed: set[str], preset: Preset | None
    ) -> None:
        self._seq = seq
        self._values = values
        self._defaults = defaults
        self._changed = changed
        self._preset = preset

    def facts(self, paths: tuple[str, ...]) -> tuple[Fact, ...]:
        return tuple(self._fact(path) for path in paths if path in self._values)

    def _fact(self, path: str) -> Fact:
        value = self._values[path]
        label = _label(path)
        return Fact(label, "none" if value is None else _text(value), self._source(path, value))

    def _source(self, path: str, value: object) -> Source:
        if path in self._changed:
            return Source(Evidence.DECLARED, (self._seq,), note="differs from the preset")
        if self._preset and path in self._preset.values and _plain(self._preset.values[path]) == _plain(value):
            return Source(Evidence.CITED, (self._seq,), note=f"as the preset: {self._preset.source}")
        if path in self._defaults and self._defaults[path] == value:
            return Source(Evidence.DEFAULTED, (self._seq,))
        return Source(Evidence.DECLARED, (self._seq,))


def _policies(registered: Entry[RunRegistered], config: RunConfig) -> tuple[Fact, ...]:
    kl, training = config.objective.kl, config.training
    updates = training.iterations * training.minibatches
    old = "the policy that sampled the step, named by fingerprint in each step and by full digest at snapshots"
    if kl.beta == 0:
        penalty = "none (β is 0); the distance is measured, not penalised"
    else:
        penalty = f"yes, in the {kl.placement}"
    return (
        measured("Reference policy", registered.payload.reference, registered.seq),
        Fact(
            "Old policy",
            f"{old}; {updates} update{'s' if updates > 1 else ''} per batch of rollouts",
            Source(Evidence.DERIVED, (registered.seq,), note="iterations × minibatches"),
        ),
        Fact("Penalty", penalty, Source(Evidence.DERIVED, (registered.seq,), note="from β")),
    )


def _formula_order(part: tuple[str, str]) -> tuple[int, str]:
    """Canonical bytes sort the parts by name; people read them as the loss is built."""
    name = part[0]
    return (_FORMULA_PARTS.index(name) if name in _FORMULA_PARTS else len(_FORMULA_PARTS), name)


def _optimiser() -> Fact:
    return Fact("Optimiser", "AdamW", Source(Evidence.DERIVED, note="the only one of this version of the trainer"))


def _untouched_sampler() -> Fact:
    reason = "this version draws from the tempered distribution only; any of these would bias the ratio"
    return Fact("Top-p, top-k, min-p, penalties", "none", Source(Evidence.DERIVED, note=reason))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(_flatten(value, path + "."))
        else:
            flat[path] = value
    return flat


def _defaults(config: RunConfig) -> dict[str, Any]:
    """Every default of the tool, by path: the same configuration with only what has no default."""
    bare = RunConfig.model_validate(
        {
            "model": {"path": config.model.path},
            "prompts": {"source": config.prompts.source},
            "rewards": [item.model_dump() for item in config.rewards],
        }
    )
    return _flatten(bare.model_dump())


def _plain(value: object) -> object:
    """A list in the record is a tuple in a preset."""
    return list(value) if isinstance(value, tuple) else value


def _label(path: str) -> str:
    name = path.rpartition(".")[2]
    return shown.LABELS.get(name) or name.replace("_", " ").capitalize()


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return significant(value, 6)
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return str(value)
