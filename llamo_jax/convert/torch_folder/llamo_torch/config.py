"""The architecture as config.json of a bundle says it, and how latents are drawn."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

FORMAT_VERSION = 4
NUM_FEATURES = 272
NUM_JOINTS = 22
FPS = 30
FRAMES_PER_LATENT = 4
LATENTS_PER_SECOND = FPS / FRAMES_PER_LATENT
MAX_SECONDS = 20.0
"""Where a motion ends that the exit head does not end."""
FEATURE_LIMIT = 30.0
"""Normalised features are clipped here."""


class Tableau(NamedTuple):
    """An explicit Runge-Kutta method: where each stage looks, the weights that lead there, and those of the step."""

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


SOLVERS = {
    "euler": Tableau(nodes=(0.0,), stages=((),), weights=(1.0,)),
    "midpoint": Tableau(nodes=(0.0, 0.5), stages=((), (0.5,)), weights=(0.0, 1.0)),
    "heun": Tableau(nodes=(0.0, 1.0), stages=((), (1.0,)), weights=(0.5, 0.5)),
}
"""Solvers of the flow's ordinary differential equation. A new solver is a new row."""


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """A decoder-only LLM of the Llama family (llama, mistral, qwen2, qwen3); the motion tower has its depth, heads and
    options too."""

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_width: int
    rope_theta: float = 10000.0
    rope_scaling: dict | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    max_positions: int = 2048
    family: str = "llama"
    qkv_bias: bool = False
    output_bias: bool = False
    ffn_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        factors = {
            "linear": {"factor"},
            "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_positions"},
        }
        scaling = self.rope_scaling
        if scaling is not None and not factors.get(scaling.get("kind"), {""}) <= set(scaling):
            raise ValueError(
                f'rope_scaling is {scaling}; expected a kind, "linear" or "llama3", with the factors of that kind'
            )


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """The causal motion VAE."""

    width: int
    latent_channels: int
    dilations: list
    sigma_max: float = 0.01
    activation: str = "silu"
    upsampling: str = "linear"

    def __post_init__(self) -> None:
        for name, options in (("activation", ("silu", "relu")), ("upsampling", ("linear", "nearest"))):
            if getattr(self, name) not in options:
                raise ValueError(
                    f'{name} of the motion VAE is "{getattr(self, name)}"; expected one of {", ".join(options)}'
                )


@dataclasses.dataclass(frozen=True)
class LLaMoConfig:
    """All that config.json of a bundle says of the architecture: widths, and the ids of the tokens that the model
    places itself."""

    text: TextConfig
    vae: VAEConfig
    motion_width: int
    motion_ffn_width: int
    flow_width: int
    flow_blocks: int
    bos: int
    eos: int
    turns: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """Task -> token ids before and after what a person says: text-to-motion "t2m", motion-to-text "m2t"."""

    @property
    def eom(self) -> int:
        """The id of [EOM], the end of a motion: one past the LLM's vocabulary."""
        return self.text.vocab_size

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """From the contents of a bundle's config.json.

        Raises:
          ValueError: another format, or a field is unknown, missing, of the wrong type or does not fit the others.
        """
        version = values.get("format_version") if isinstance(values, dict) else None
        if version != FORMAT_VERSION:
            raise ValueError(
                f"config.json: format_version is {version!r:.40}; expected {FORMAT_VERSION}, the bundles that this "
                f"code reads"
            )
        top = _object(values, "model", ("text", "motion", "flow_head", "latent_channels"))
        motion, flow = (
            _object(top, "motion", ("width", "ffn_width")),
            _object(top, "flow_head", ("width", "num_blocks")),
        )
        tokens = _object(values, "tokens", ("bos", "eos", "eom"))
        text, vae = _read_fields(TextConfig, top, "text"), _read_fields(VAEConfig, values, "motion_vae")
        for name, found, expected in (
            ("model.latent_channels", top["latent_channels"], vae.latent_channels),
            ("tokens.eom", tokens["eom"], text.vocab_size),
        ):
            if found != expected:
                raise ValueError(
                    f"config.json: {name} is {found!r}; expected {expected}, as the motion VAE's channels and the "
                    f"LLM's tokens say"
                )
        turns = _object(values, "turns", ("t2m", "m2t"))
        turns = {name: _turn(each, name, text.vocab_size) for name, each in turns.items()}
        return cls(text, vae, *motion.values(), *flow.values(), tokens["bos"], tokens["eos"], turns)


def _turn(value: Any, name: str, vocab_size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    lists = value if isinstance(value, list) and len(value) == 2 else [None, None]
    known = all(
        isinstance(ids, list) and all(type(token) is int and 0 <= token < vocab_size for token in ids) for ids in lists
    )
    if not known or not lists[0]:
        raise ValueError(
            f"config.json: turns.{name} is {value!r:.80}; expected two lists of token ids, the first not empty"
        )
    before, after = lists
    return tuple(before), tuple(after)


def _object(values: dict[str, Any], name: str, fields: Sequence[str]) -> dict[str, Any]:
    """The object `name` of these fields, in this order."""
    found = values.get(name)
    if not isinstance(found, dict) or set(found) != set(fields):
        raise ValueError(
            f'config.json: "{name}" is {found!r:.80}; expected an object with the fields {", ".join(fields)}'
        )
    return {field: found[field] for field in fields}


def _read_fields(cls: type, parent: dict[str, Any], where: str) -> Any:
    """A config from a JSON object, strict about names and types."""
    fields, values = {field.name: field for field in dataclasses.fields(cls)}, parent.get(where)
    if not isinstance(values, dict):
        raise ValueError(f'config.json: "{where}" is {values!r:.40}; expected an object of fields')
    if unknown := sorted(set(values) - set(fields)):
        raise ValueError(f"config.json: {where} has unknown fields {unknown}; expected among {sorted(fields)}")
    if missing := sorted(
        name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in values
    ):
        raise ValueError(f"config.json: {where} lacks the fields {missing}")
    for name, value in values.items():
        kind = int | float if fields[name].type is float else fields[name].type
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"config.json: {where}.{name} is {value!r}; expected {kind}")
    return cls(**values)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How latents are drawn.

    A motion ends at the first slot where the probability that it has ended by then exceeds `exit_threshold`; None:
    nowhere. The exit head is read as a hazard, 1 - prod (1 - p): single probabilities stay low where the end is
    uncertain. With the `length` "drawn" the threshold is uniform in (0, 1), one for each motion, which draws its length
    from those that the exit head holds possible. A guidance of 1 is off. Steps are uniform at a `shift` of 1, and above
    it finer where there is much noise; `temperature` is the noise's standard deviation.
    """

    guidance: float = 2.0
    steps: int = 10
    solver: str = "euler"
    exit_threshold: float | None = 0.5
    length: str = "median"
    shift: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(f'solver "{self.solver}" does not exist; expected one of {", ".join(SOLVERS)}')
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected at least 1")
        if not self.guidance >= 0:
            raise ValueError(f"guidance is {self.guidance}; expected 0 or more")
        for name in ("shift", "temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.exit_threshold is not None and not 0 < self.exit_threshold < 1:
            raise ValueError(f"exit_threshold is {self.exit_threshold}; expected between 0 and 1")
        if self.length not in ("median", "drawn"):
            raise ValueError(f'length is "{self.length}"; expected median or drawn')
