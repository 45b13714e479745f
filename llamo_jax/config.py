"""What a model is: frozen dataclasses, validated when made, to and from JSON. Each component takes its own config
only."""

import dataclasses
import json
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal, Self, get_args

from llamo_jax import families
from llamo_jax.errors import InputError
from llamo_jax.solvers import SOLVERS, Solver


class Config:
    """Base of all configs: JSON both ways, strict about names and types."""

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))  # paths are text

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """The inverse of `to_json`.

        Raises:
          InputError: a field is unknown, missing or of the wrong type, or the values do not fit together.
        """
        if not isinstance(values, dict):
            raise InputError(f"{cls.__name__}: found {type(values).__name__}, expected an object of fields")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        hints = typing.get_type_hints(cls)
        if unknown := sorted(set(values) - set(fields)):
            raise InputError(f"{cls.__name__}: unknown fields {unknown}; expected among {sorted(fields)}")
        required = {
            name
            for name, f in fields.items()
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        }
        if missing := sorted(required - set(values)):
            raise InputError(f"{cls.__name__}: missing fields {missing}")
        return cls(**{name: _from_json(hints[name], value, f"{cls.__name__}.{name}") for name, value in values.items()})


def _from_json(hint: Any, value: Any, where: str) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if value is None:
            return None
        (hint,) = (option for option in hint.__args__ if option is not type(None))
    if isinstance(hint, type) and issubclass(hint, Config):
        return hint.from_json(value)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: found {value!r}, expected a list")
        return tuple(_from_json(hint.__args__[0], item, where) for item in value)
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where}: found {value!r}, expected an object")
        return {key: _from_json(hint.__args__[1], item, f"{where}.{key}") for key, item in value.items()}
    if typing.get_origin(hint) is typing.Literal:
        require(value in hint.__args__, f"{where}: found {value!r}, expected one of {', '.join(hint.__args__)}")
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{where}: found {value!r}, expected {hint.__name__}")
    return value


def require(condition: bool, message: str) -> None:
    """Raises InputError with `message` unless `condition` holds."""
    if not condition:
        raise InputError(message)


def _require_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{type(config).__name__}.{name} is {value}; expected more than 0")


@dataclasses.dataclass(frozen=True)
class RopeScaling(Config):
    """How rotary frequencies are stretched beyond the trained context.

    kind "linear" divides every frequency by `factor`; "llama3" divides the low ones, keeps the high ones and blends
    between (Llama 3.1 and 3.2), by the wavelengths `original_positions / low_freq_factor` and `original_positions /
    high_freq_factor`.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192

    def __post_init__(self) -> None:
        require(self.kind in ("linear", "llama3"), f'RopeScaling.kind is "{self.kind}"; expected "linear" or "llama3"')
        _require_positive(self, "factor", "low_freq_factor", "high_freq_factor", "original_positions")


@dataclasses.dataclass(frozen=True)
class LLMConfig(Config):
    """A decoder-only LLM of the Llama family: the frozen text tower."""

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_width: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    max_positions: int = 2048
    family: str = "llama"
    qkv_bias: bool = False
    """Biases on the query, key and value projections (Qwen2)."""
    output_bias: bool = False
    """A bias on the attention's output projection."""
    ffn_bias: bool = False
    """Biases on the projections of the feed-forward layer."""
    qk_norm: bool = False
    """RMS norms over the width of each query and key head, before the rotary embedding (Qwen3)."""
    sliding_window: int | None = None
    """A token sees this many positions, its own included, in every layer (Mistral 7B v0.1)."""

    def __post_init__(self) -> None:
        _require_positive(
            self,
            "vocab_size",
            "width",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "ffn_width",
            "max_positions",
        )
        require(self.num_layers <= 1000, f"LLMConfig.num_layers is {self.num_layers}; expected at most 1000")
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"LLMConfig: {self.num_heads} heads cannot share {self.num_kv_heads} key-value heads evenly",
        )
        require(self.head_dim % 2 == 0, f"LLMConfig.head_dim is {self.head_dim}; rotary embeddings need an even number")
        known = ", ".join(families.FAMILIES)
        require(self.family in families.FAMILIES, f'LLMConfig.family is "{self.family}"; expected one of {known}')
        require(
            self.sliding_window is None or self.sliding_window > 0,
            f"LLMConfig.sliding_window is {self.sliding_window}",
        )
        # What a family's architecture does not have could not be written back for it.
        options = {name: getattr(self, name) for name in families.OPTIONS}
        require(families.FAMILIES[self.family].allows(self), f'LLMConfig: no "{self.family}" has {options}')

    @property
    def eom_id(self) -> int:
        """Token id of [EOM], the end of a motion: one past the LLM's own vocabulary, so that no text token changes."""
        return self.vocab_size


@dataclasses.dataclass(frozen=True)
class MotionTowerConfig(Config):
    """The trained tower. Depth and attention heads are the text tower's, since both meet in one attention."""

    width: int
    ffn_width: int

    def __post_init__(self) -> None:
        _require_positive(self, "width", "ffn_width")


@dataclasses.dataclass(frozen=True)
class FlowHeadConfig(Config):
    """The flow-matching head: an adaLN residual MLP."""

    width: int = 1024
    num_blocks: int = 3

    def __post_init__(self) -> None:
        _require_positive(self, "width", "num_blocks")
        require(self.num_blocks <= 100, f"FlowHeadConfig.num_blocks is {self.num_blocks}; expected at most 100")
        require(self.width % 2 == 0, f"FlowHeadConfig.width is {self.width}; the time embedding needs an even number")


@dataclasses.dataclass(frozen=True)
class MotionVAEConfig(Config):
    """The causal motion VAE: 30 frames/s of 272 features <-> 7.5 latents/s."""

    width: int = 1024
    latent_channels: int = 32
    dilations: tuple[int, ...] = (9, 3, 1)
    sigma_max: float = 0.01
    """Posterior standard deviations are drawn from U(0, sigma_max) during training (paper, section VAE)."""
    activation: str = "silu"
    """"silu", or "relu" as in MotionStreamer's causal TAE."""
    upsampling: str = "linear"
    """"linear": causal interpolation between the previous and the present latent; "nearest" as in MotionStreamer's
    causal TAE."""

    def __post_init__(self) -> None:
        _require_positive(self, "width", "latent_channels")
        require(
            len(self.dilations) > 0 and min(self.dilations) > 0,
            f"MotionVAEConfig.dilations is {self.dilations}; expected positive",
        )
        require(self.sigma_max >= 0, f"MotionVAEConfig.sigma_max is {self.sigma_max}; expected 0 or more")
        require(
            self.activation in ("silu", "relu"),
            f'MotionVAEConfig.activation is "{self.activation}"; expected "silu" or "relu"',
        )
        kinds = ("linear", "nearest")
        require(
            self.upsampling in kinds,
            f'MotionVAEConfig.upsampling is "{self.upsampling}"; expected "linear" or "nearest"',
        )


@dataclasses.dataclass(frozen=True)
class LlamoConfig(Config):
    """The whole model: two towers, the heads and the width of the latents they speak."""

    text: LLMConfig
    motion: MotionTowerConfig
    flow_head: FlowHeadConfig = FlowHeadConfig()
    latent_channels: int = 32

    def __post_init__(self) -> None:
        _require_positive(self, "latent_channels")


Length = Literal["median", "drawn"]
"""Where a motion ends: `SamplingConfig.length`."""


@dataclasses.dataclass(frozen=True)
class SamplingConfig(Config):
    """How latents are drawn."""

    guidance: float = 2.0
    """Classifier-free guidance scale; 1 is off, and skips the rows without text."""
    steps: int = 10
    """Steps of the ODE solver a latent."""
    solver: Solver = "euler"
    """A row of `solvers.SOLVERS`."""
    shift: float = 1.0
    """Of the solver's steps: uniform at 1, above it finer where there is much noise (`flow.schedule`)."""
    temperature: float = 1.0
    """Standard deviation of the noise. Below 1 motions are less lively and closer to one another."""
    exit_threshold: float = 0.5
    """A motion ends at the first slot where the probability that it has ended by then exceeds this. The exit head's p
    is a hazard: the motion has ended by then with 1 - prod (1 - p). Single p stay low where the end is uncertain."""
    length: Length = "median"
    """How a motion's length is chosen among those that the exit head holds possible: "median" ends it at
    `exit_threshold`, "drawn" at a threshold that is uniform in (0, 1), one for each motion, which is a draw from the
    distribution of lengths."""

    def __post_init__(self) -> None:
        known = ", ".join(SOLVERS)
        require(self.solver in SOLVERS, f'solver "{self.solver}" does not exist; expected one of {known}')
        require(self.steps >= 1, f"steps is {self.steps}; expected at least 1")
        require(self.guidance >= 0, f"guidance is {self.guidance}; expected 0 or more")
        for name in ("shift", "temperature"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"{name} is {value}; expected more than 0")
        threshold = self.exit_threshold
        require(0 < threshold < 1, f"exit_threshold is {threshold}; expected between 0 and 1")
        lengths = " or ".join(get_args(Length))
        require(self.length in get_args(Length), f'length is "{self.length}"; expected {lengths}')

    @property
    def guided(self) -> bool:
        """Whether latents are drawn with and without the text."""
        return self.guidance != 1
