"""LLaMo in PyTorch: text to motion and motion to text. One file that needs PyTorch and safetensors; transformers for the tokenizer only.

    model = LLaMoForMotion.from_pretrained("BUNDLE")
    features = model.generate("a person walks forward and sits down.")  # [T, 272] at 30 frames/s
    joints = recover_joints(features)  # [T, 22, 3] metres, Y up
    text = model.caption(features)

A frozen LLM and a motion tower run over two streams of tokens and meet in one attention a layer. A flow-matching head turns the motion
tower's hidden states into latents (7.5/s), an exit head says when the motion ends, and a causal VAE turns latents into features (30/s).
Weights are cast to the dtype of the activations at use: that of the text embeddings in both towers, float32 in the heads and the VAE.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

FORMAT_VERSION = 2
NUM_FEATURES = 272
NUM_JOINTS = 22
FPS = 30
FRAMES_PER_LATENT = 4
LATENTS_PER_SECOND = FPS / FRAMES_PER_LATENT
FEATURE_LIMIT = 30.0
"""Normalised features are clipped here."""
SOLVERS = {"euler": (0.0,), "midpoint": (0.0, 0.5), "heun": (0.0, 1.0)}
"""Where in a step each ODE solver looks at the velocity."""
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_MOTION_FILE, _VAE_FILE = "motion.safetensors", "motion_vae.safetensors"
_CACHE_SLOTS = 256  # a cache begins with as many motion slots, at most, and doubles when it is full


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """A decoder-only LLM of the Llama family (llama, mistral, qwen2, qwen3); the motion tower has its depth, heads and options too."""

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
        factors = {"linear": {"factor"}, "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_positions"}}
        scaling = self.rope_scaling
        if scaling is not None and not factors.get(scaling.get("kind"), {""}) <= set(scaling):
            raise ValueError(f'rope_scaling is {scaling}; expected a kind, "linear" or "llama3", with the factors of that kind')


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
                raise ValueError(f'{name} of the motion VAE is "{getattr(self, name)}"; expected one of {", ".join(options)}')


@dataclasses.dataclass(frozen=True)
class LLaMoConfig:
    """All that config.json of a bundle says of the architecture: widths, and the ids of the tokens that the model places itself."""

    text: TextConfig
    vae: VAEConfig
    motion_width: int
    motion_ffn_width: int
    flow_width: int
    flow_blocks: int
    bos: int
    eos: int

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
            raise ValueError(f"config.json: format_version is {version!r:.40}; expected {FORMAT_VERSION}, the bundles that this file reads")
        top = _object(values, "model", ("text", "motion", "flow", "latent_channels"))
        motion, flow = _object(top, "motion", ("width", "ffn_width")), _object(top, "flow", ("width", "num_blocks"))
        tokens = _object(values, "tokens", ("bos", "eos", "eom"))
        text, vae = _read_fields(TextConfig, top, "text"), _read_fields(VAEConfig, values, "motion_vae")
        for name, found, expected in (
            ("model.latent_channels", top["latent_channels"], vae.latent_channels),
            ("tokens.eom", tokens["eom"], text.vocab_size),
        ):
            if found != expected:
                raise ValueError(
                    f"config.json: {name} is {found!r}; expected {expected}, as the motion VAE's channels and the LLM's tokens say"
                )
        return cls(text, vae, *motion.values(), *flow.values(), tokens["bos"], tokens["eos"])


def _object(values: dict[str, Any], name: str, fields: Sequence[str]) -> dict[str, Any]:
    """The object `name` of these fields, in this order."""
    found = values.get(name)
    if not isinstance(found, dict) or set(found) != set(fields):
        raise ValueError(f'config.json: "{name}" is {found!r:.80}; expected an object with the fields {", ".join(fields)}')
    return {field: found[field] for field in fields}


def _read_fields(cls: type, parent: dict[str, Any], where: str) -> Any:
    """A config from a JSON object, strict about names and types."""
    fields, values = {field.name: field for field in dataclasses.fields(cls)}, parent.get(where)
    if not isinstance(values, dict):
        raise ValueError(f'config.json: "{where}" is {values!r:.40}; expected an object of fields')
    if unknown := sorted(set(values) - set(fields)):
        raise ValueError(f"config.json: {where} has unknown fields {unknown}; expected among {sorted(fields)}")
    if missing := sorted(name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in values):
        raise ValueError(f"config.json: {where} lacks the fields {missing}")
    for name, value in values.items():
        kind = int | float if fields[name].type is float else fields[name].type
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"config.json: {where}.{name} is {value!r}; expected {kind}")
    return cls(**values)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How latents are drawn.

    A motion ends at the first slot where the probability that it has ended by then exceeds `exit_threshold`; None: nowhere. The exit head
    is read as a hazard, 1 - prod (1 - p): single probabilities stay low where the end is uncertain. A guidance of 1 is off.
    """

    guidance: float = 2.0
    steps: int = 10
    solver: str = "euler"
    exit_threshold: float | None = 0.5

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(f'solver "{self.solver}" does not exist; expected one of {", ".join(SOLVERS)}')
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected at least 1")
        if not self.guidance >= 0:
            raise ValueError(f"guidance is {self.guidance}; expected 0 or more")
        if self.exit_threshold is not None and not 0 < self.exit_threshold < 1:
            raise ValueError(f"exit_threshold is {self.exit_threshold}; expected between 0 and 1")


class Linear(nn.Linear):
    """x W^T + b in the dtype of x."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class RMSNorm(nn.Module):
    """Root-mean-square normalisation of the last axis in float32, scaled in the dtype of x (Hugging Face's order)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        normalised = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return self.weight.to(x.dtype) * normalised.to(x.dtype)


class Rotary(NamedTuple):
    """Cosines and sines [B, 1, T, H / 2] of positions."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def at(cls, positions: Tensor, config: TextConfig, dtype: torch.dtype) -> Self:
        """Rotations for `positions` [B, T]; angles in float32 whatever the dtype, since positions reach thousands."""
        angles = positions[:, None, :, None].float() * rope_frequencies(config, positions.device)
        return cls(angles.cos().to(dtype), angles.sin().to(dtype))

    def rotate(self, x: Tensor) -> Tensor:
        """Rotates pairs (i, i + H / 2) of [B, N, T, H]."""
        first, second = x.chunk(2, -1)
        return torch.cat([first * self.cos - second * self.sin, second * self.cos + first * self.sin], -1)


def rope_frequencies(config: TextConfig, device: torch.device | str = "cpu") -> Tensor:
    """Angular frequencies [H / 2] in float32. Computed at use: as a buffer, `.to(torch.bfloat16)` would ruin them."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling["kind"] == "linear":
        return frequencies / scaling["factor"]
    # In transformers' order of operations: one last bit of a frequency is 0.004 radians at position 100,000.
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    blend = (scaling["original_positions"] / (2 * math.pi / frequencies) - low) / (high - low)
    blended = (1 - blend) * frequencies / scaling["factor"] + blend * frequencies
    return torch.where(blend < 0, frequencies / scaling["factor"], torch.where(blend > 1, frequencies, blended))


class DecoderLayer(nn.Module):
    """One layer of either tower, under Hugging Face's names. Attention itself lies between `project` and `finish`: the towers share it."""

    def __init__(self, config: TextConfig, width: int, ffn_width: int):
        super().__init__()
        self.head_dim = config.head_dim
        q_dim, kv_dim = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.input_layernorm = RMSNorm(width, config.norm_eps)
        self.self_attn = nn.Module()
        self.self_attn.q_proj = Linear(width, q_dim, config.qkv_bias)
        self.self_attn.k_proj = Linear(width, kv_dim, config.qkv_bias)
        self.self_attn.v_proj = Linear(width, kv_dim, config.qkv_bias)
        self.self_attn.o_proj = Linear(q_dim, width, config.output_bias)
        self.self_attn.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.self_attn.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.post_attention_layernorm = RMSNorm(width, config.norm_eps)
        self.mlp = nn.Module()
        self.mlp.gate_proj = Linear(width, ffn_width, config.ffn_bias)
        self.mlp.up_proj = Linear(width, ffn_width, config.ffn_bias)
        self.mlp.down_proj = Linear(ffn_width, width, config.ffn_bias)

    def project(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries [B, N, T, H] and keys [B, K, T, H], and values [B, K, T, H], of x [B, T, D]."""
        h, attn = self.input_layernorm(x), self.self_attn
        q, k, v = (proj(h).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for proj in (attn.q_proj, attn.k_proj, attn.v_proj))
        return rotary.rotate(attn.q_norm(q)), rotary.rotate(attn.k_norm(k)), v

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The rest of the layer after attention gave `mixed` [B, N, T, H]: output projection and SwiGLU, both residual."""
        x = x + self.self_attn.o_proj(mixed.transpose(1, 2).flatten(2))
        h = self.post_attention_layernorm(x)
        return x + self.mlp.down_proj(F.silu(self.mlp.gate_proj(h)) * self.mlp.up_proj(h))


class TextModel(nn.Module):
    """Embeddings and layers of the LLM: what Hugging Face calls `model`."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config, config.width, config.ffn_width) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.width, config.norm_eps)


class TextTower(nn.Module):
    """The LLM, as a causal language model of Hugging Face names its tensors. Tied embeddings have no `lm_head`."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.model = TextModel(config)
        self.lm_head = None if config.tie_embeddings else Linear(config.width, config.vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Float32 logits [B, T, V] of whole token sequences [B, T] (position = index)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        stream = Stream(self.model.embed_tokens(tokens), positions, torch.ones_like(positions))
        return self.logits(run_towers(self.config, [(self.model, stream)])[0])

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits [..., V] of normalised hidden states [..., D]."""
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return F.linear(hidden, head.weight.to(hidden.dtype)).float()


class MotionTower(nn.Module):
    """The trained tower with its adapter and the embeddings [BOM] (its own width) and [EOM] (the text tower's)."""

    def __init__(self, config: LLaMoConfig):
        super().__init__()
        text, width = config.text, config.motion_width
        self.adapter = Linear(config.vae.latent_channels, width)
        self.bom = nn.Parameter(torch.zeros(width))
        self.eom = nn.Parameter(torch.zeros(text.width))
        self.layers = nn.ModuleList(DecoderLayer(text, width, config.motion_ffn_width) for _ in range(text.num_layers))
        self.norm = RMSNorm(width, text.norm_eps)


class Stream(NamedTuple):
    """Embedded tokens x [B, T, D] of one modality with their positions and segments [B, T]; segment 0 is padding."""

    x: Tensor
    positions: Tensor
    segments: Tensor


@dataclasses.dataclass
class KVCache:
    """Keys (rotated) and values [B, K, S, H] of each layer in S slots, in the order in which tokens came, from either tower.

    A slot is empty, or padding, while its segment is 0. The cursor is a tensor and everything is written in place, so that all decoding
    steps have the same shapes and compile to one graph.
    """

    keys: list[Tensor]
    values: list[Tensor]
    positions: Tensor
    segments: Tensor
    cursor: Tensor

    @classmethod
    def empty(cls, config: TextConfig, batch: int, slots: int, dtype: torch.dtype, device: torch.device) -> Self:
        """A cache with nothing in it."""
        shape = (batch, config.num_kv_heads, slots, config.head_dim)
        keys, values = ([torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)] for _ in range(2))
        positions, segments = (torch.zeros(batch, slots, dtype=torch.int64, device=device) for _ in range(2))
        return cls(keys, values, positions, segments, torch.zeros((), dtype=torch.int64, device=device))

    def doubled(self) -> Self:
        """The same contents with as many empty slots behind them."""
        keys, values = ([torch.cat([x, torch.zeros_like(x)], 2) for x in part] for part in (self.keys, self.values))
        positions, segments = (torch.cat([x, torch.zeros_like(x)], 1) for x in (self.positions, self.segments))
        return type(self)(keys, values, positions, segments, self.cursor)

    def advance(self, positions: Tensor, segments: Tensor) -> Tensor:
        """Takes the next T slots for tokens at these positions [B, T] and returns their indices [T] for `write`."""
        slots = self.cursor + torch.arange(positions.shape[1], device=positions.device)
        self.positions.index_copy_(1, slots, positions.long())
        self.segments.index_copy_(1, slots, segments.long())
        self.cursor.add_(positions.shape[1])
        return slots

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Puts one layer's new keys and values [B, K, T, H] into slots; returns all of that layer's."""
        return self.keys[layer].index_copy_(2, slots, k), self.values[layer].index_copy_(2, slots, v)


def visible(query: Stream, positions: Tensor, segments: Tensor, window: int | None) -> Tensor:
    """Mask [B, 1, T, S], True where a query may look at a key: of its own segment, not later, and less than `window` positions back.

    Every token sees itself, padding too, so that no row of a softmax is empty.
    """
    distance = query.positions[:, :, None] - positions[:, None]
    mask = (distance >= 0) & (query.segments[:, :, None] == segments[:, None])
    return (mask if window is None else mask & (distance < window))[:, None]


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention of queries [B, N, T, H] over keys and values [B, K, S, H]; N is a multiple of K."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def run_towers(config: TextConfig, towers: Sequence[tuple[nn.Module, Stream]]) -> list[Tensor]:
    """Normalised hidden states [B, T, D] of each tower over its whole stream, all streams in one attention."""
    positions = torch.cat([stream.positions for _, stream in towers], 1)
    segments = torch.cat([stream.segments for _, stream in towers], 1)
    masks = [visible(stream, positions, segments, config.sliding_window) for _, stream in towers]
    rotaries = [Rotary.at(stream.positions, config, stream.x.dtype) for _, stream in towers]
    xs = [stream.x for _, stream in towers]
    for layers in zip(*(tower.layers for tower, _ in towers), strict=True):
        projected = [layer.project(x, rotary) for layer, x, rotary in zip(layers, xs, rotaries, strict=True)]
        k, v = (torch.cat([each[part] for each in projected], 2) for part in (1, 2))
        mixed = [attention(q, k, v, mask) for (q, _, _), mask in zip(projected, masks, strict=True)]
        xs = [layer.finish(x, m) for layer, x, m in zip(layers, xs, mixed, strict=True)]
    return [tower.norm(x) for (tower, _), x in zip(towers, xs, strict=True)]


def run_cached(config: TextConfig, tower: nn.Module, stream: Stream, cache: KVCache) -> Tensor:
    """Normalised hidden states [B, T, D] of one tower's new tokens after everything in the cache, which takes them in."""
    slots = cache.advance(stream.positions, stream.segments)
    mask = visible(stream, cache.positions, cache.segments, config.sliding_window)
    rotary = Rotary.at(stream.positions, config, stream.x.dtype)
    x = stream.x
    for index, layer in enumerate(tower.layers):
        q, k, v = layer.project(x, rotary)
        k, v = cache.write(index, slots, k, v)
        x = layer.finish(x, attention(q, k, v, mask))
    return tower.norm(x)


class FlowBlock(nn.Module):
    """One residual block: its modulations come from outside (adaLN)."""

    def __init__(self, width: int):
        super().__init__()
        self.up = Linear(width, width)
        self.down = Linear(width, width)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift, scale, gate = modulation.chunk(3, -1)
        return x + gate * self.down(F.silu(self.up(_layer_norm(x) * (1 + scale) + shift)))


class FlowHead(nn.Module):
    """Flow matching: x_t = (1 - t) noise + t latent, the velocity is latent - noise. Float32 throughout."""

    def __init__(self, config: LLaMoConfig):
        super().__init__()
        width, blocks, channels = config.flow_width, config.flow_blocks, config.vae.latent_channels
        self.input = Linear(channels, width)
        self.condition = Linear(config.motion_width, width)
        self.time_in = Linear(width, width)
        self.time_out = Linear(width, width)
        self.modulation = Linear(width, (3 * blocks + 2) * width)
        self.blocks = nn.ModuleList(FlowBlock(width) for _ in range(blocks))
        self.output = Linear(width, channels)

    def velocity(self, x_t: Tensor, hidden: Tensor, t: Tensor) -> Tensor:
        """dx/dt at x_t [..., Z], given hidden states [..., D] of the motion tower and times [...] in 0 .. 1."""
        return self._velocity(x_t.float(), self._modulations(hidden.float(), t.float()))

    def sample(self, hidden: Tensor, noise: Tensor, sampling: Sampling, unconditional: Tensor | None = None) -> Tensor:
        """Integrates noise [B, Z] at t = 0 to latents [B, Z] at t = 1, given hidden states [B, D] of the motion tower.

        With hidden states `unconditional` [B, D] of rows without the text, v = v_un + guidance (v_cond - v_un); without, no guidance.
        """
        solver, steps = sampling.solver, sampling.steps
        offsets = torch.arange(len(SOLVERS[solver]), dtype=torch.float32, device=noise.device) * SOLVERS[solver][-1]
        times = (torch.arange(steps, dtype=torch.float32, device=noise.device)[:, None] + offsets) / steps
        conditions = hidden[None] if unconditional is None else torch.stack([hidden, unconditional])
        # [steps, stages, 1 or 2, B, M]: modulations do not depend on x, so that one product outside the loop serves the whole integration.
        modulations = self._modulations(conditions.float(), times[:, :, None, None])

        def guided(x: Tensor, step: int, stage: int) -> Tensor:
            v = self._velocity(x[None], modulations[step, stage])
            return v[0] if unconditional is None else v[1] + sampling.guidance * (v[0] - v[1])

        x, dt = noise.float(), 1 / steps
        for step in range(steps):
            v = guided(x, step, 0)
            if solver == "midpoint":
                v = guided(x + 0.5 * dt * v, step, 1)
            elif solver == "heun":
                v = 0.5 * (v + guided(x + dt * v, step, 1))
            x = x + dt * v
        return x

    def _modulations(self, condition: Tensor, t: Tensor) -> Tensor:
        """Shift, scale and gate of each block, then shift and scale of the output, in the last axis; leading axes broadcast."""
        half = self.time_in.in_features // 2
        frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10000.0) / half))
        angles = 1000.0 * t[..., None] * frequencies
        time = self.time_out(F.silu(self.time_in(torch.cat([angles.cos(), angles.sin()], -1))))
        return self.modulation(F.silu(self.condition(condition) + time))

    def _velocity(self, x: Tensor, modulation: Tensor) -> Tensor:
        *blocks, last = modulation.split(3 * self.input.out_features, -1)
        x = self.input(x)
        for block, part in zip(self.blocks, blocks, strict=True):
            x = block(x, part)
        shift, scale = last.chunk(2, -1)
        return self.output(_layer_norm(x) * (1 + scale) + shift)


def _layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class _Past:
    """The last inputs of each causal operation, in the order in which the operations run: zeros at the start of a motion."""

    def __init__(self, before: list[Tensor] | None):
        self._before = None if before is None else iter(before)
        self.after: list[Tensor] = []

    def prepend(self, x: Tensor, length: int) -> Tensor:
        """x [B, C, T] with the `length` inputs before it."""
        if length == 0:
            return x
        extended = torch.cat([x.new_zeros(*x.shape[:2], length) if self._before is None else next(self._before), x], 2)
        self.after.append(extended[:, :, -length:])
        return extended


class CausalConv(nn.Conv1d):
    """A convolution of [B, C, T] whose every output ends with the last input that it sees."""

    def forward(self, x: Tensor, past: _Past) -> Tensor:
        x = past.prepend(x, (self.kernel_size[0] - 1) * self.dilation[0] + 1 - self.stride[0])
        return F.conv1d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), self.stride, 0, self.dilation)


class _Residual(nn.Module):
    def __init__(self, config: VAEConfig, dilation: int):
        super().__init__()
        self.act = _activation(config)
        self.dilated = CausalConv(config.width, config.width, 3, dilation=dilation)
        self.pointwise = CausalConv(config.width, config.width, 1)

    def forward(self, x: Tensor, past: _Past) -> Tensor:
        return x + self.pointwise(self.act(self.dilated(self.act(x), past)), past)


class _Resample(nn.Module):
    """Half the rate (convolution, then residual blocks) or twice the rate (residual blocks, upsampling, then convolution)."""

    def __init__(self, config: VAEConfig, down: bool):
        super().__init__()
        self.down, self.linear = down, config.upsampling == "linear"
        self.conv = CausalConv(config.width, config.width, 4, stride=2) if down else CausalConv(config.width, config.width, 3)
        self.residual = nn.ModuleList(_Residual(config, dilation) for dilation in config.dilations)

    def forward(self, x: Tensor, past: _Past) -> Tensor:
        if self.down:
            x = self.conv(x, past)
        for block in self.residual:
            x = block(x, past)
        return x if self.down else self.conv(self._upsample(x, past), past)

    def _upsample(self, x: Tensor, past: _Past) -> Tensor:
        # Causal interpolation: half way from the previous sample to the present one, then the present one.
        first = 0.5 * (past.prepend(x, 1)[:, :, :-1] + x) if self.linear else x
        return torch.stack([first, x], 3).flatten(2)


def _activation(config: VAEConfig) -> nn.Module:
    return nn.SiLU() if config.activation == "silu" else nn.ReLU()


class Encoder(nn.Module):
    """Features to posterior means."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.act = _activation(config)
        self.input = CausalConv(NUM_FEATURES, config.width, 3)
        self.down = nn.ModuleList(_Resample(config, down=True) for _ in range(2))
        self.output = CausalConv(config.width, config.width, 3)
        self.mean = Linear(config.width, config.latent_channels)

    def forward(self, features: Tensor, past: _Past) -> Tensor:
        x = self.act(self.input(features.transpose(1, 2), past))
        for part in self.down:
            x = part(x, past)
        return self.mean(self.output(x, past).transpose(1, 2))


class Decoder(nn.Module):
    """Latents to features."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.act = _activation(config)
        self.latent = Linear(config.latent_channels, config.width)
        self.input = CausalConv(config.width, config.width, 3)
        self.up = nn.ModuleList(_Resample(config, down=False) for _ in range(2))
        self.hidden = CausalConv(config.width, config.width, 3)
        self.output = CausalConv(config.width, NUM_FEATURES, 3)

    def forward(self, latents: Tensor, past: _Past) -> Tensor:
        x = self.act(self.input(self.latent(latents).transpose(1, 2), past))
        for part in self.up:
            x = part(x, past)
        return self.output(self.act(self.hidden(x, past)), past).transpose(1, 2)


class MotionVAE(nn.Module):
    """The causal VAE with the statistics of its features and latents. Whole motions and streams are the same computation.

    On CUDA, PyTorch runs convolutions in TF32 unless `torch.backends.cudnn.allow_tf32` is False: errors of 1e-3 instead of 1e-6.
    """

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        for name, size in (("feature", NUM_FEATURES), ("latent", config.latent_channels)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))

    def encode(self, features: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Normalised latents [B, T // 4, Z] of un-normalised features [B, T, 272], T a multiple of 4; and the state after them."""
        past = _Past(state)
        normalised = ((features - self.feature_mean) / self.feature_std).clamp(-FEATURE_LIMIT, FEATURE_LIMIT).float()
        return (self.encoder(normalised, past) - self.latent_mean) / self.latent_std, past.after

    def decode(self, latents: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Un-normalised features [B, 4 n, 272] of normalised latents [B, n, Z]; and the state, for the latents that follow."""
        past = _Past(state)
        features = self.decoder(latents.float() * self.latent_std + self.latent_mean, past)
        return features * self.feature_std + self.feature_mean, past.after


class LLaMoOutput(NamedTuple):
    """What `LLaMoForMotion.forward` returns; the motion parts are None without motion."""

    text_hidden: Tensor  # [B, Lt, D], normalised
    motion_hidden: Tensor | None  # [B, Lm, D'], normalised
    text_logits: Tensor  # [B, Lt, V], float32
    exit_logits: Tensor | None  # [B, Lm], float32: that the motion has ended before this slot's latent


class LLaMoForMotion(nn.Module):
    """The whole model. `text` is frozen; `motion`, `flow_head` and `exit_head` are what training adds; `vae` is the motion VAE.

    For another dtype use `from_pretrained(..., dtype=...)`: `.to(dtype)` would round the VAE and its statistics too.
    """

    def __init__(self, config: LLaMoConfig):
        super().__init__()
        self.config = config
        self.text = TextTower(config.text).requires_grad_(False)
        self.motion = MotionTower(config)
        self.flow_head = FlowHead(config)
        self.exit_head = Linear(config.motion_width, 1)
        self.vae = MotionVAE(config.vae)
        self._llm: Path | None = None
        self._values: dict[str, Any] = {}
        self._tokenizer: Any = None

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu", verify: bool = True
    ) -> Self:
        """Reads a bundle.

        Args:
          folder: with config.json, llm/, motion.safetensors and motion_vae.safetensors.
          dtype: of all weights but the VAE's, which stay float32; None keeps what the files hold.
          device: where to put them.
          verify: compare the files with the sizes and SHA-256 sums that config.json lists.

        Raises:
          ValueError: a file is missing, damaged or other than listed, or a tensor is missing, extra, of the wrong shape or no float.
        """
        folder = Path(folder)
        values = _read_json(folder / "config.json")
        config = LLaMoConfig.from_json(values)
        llm = _llm_folder(folder, values)
        if verify:
            _verify(folder, llm, values)
        with torch.device("meta"):  # nothing is allocated: the tensors of the files become the parameters
            model = cls(config)
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        text, motion, vae = ({n.removeprefix(p): shapes[n] for n in model._names(p)} for p in ("text.", "", "vae."))
        read = {
            "text.": _read_text(llm, text, config.text.tie_embeddings, device),
            "": _read_tensors([folder / _MOTION_FILE], motion, (torch.float32,), device),
            "vae.": _read_tensors([folder / _VAE_FILE], vae, (torch.float32,), device),
        }
        state = {prefix + name: tensors.pop(name) for prefix, tensors in read.items() for name in list(tensors)}
        for name in state if dtype is not None else ():
            if not name.startswith("vae."):
                state[name] = state[name].to(dtype)  # one at a time: the tensor of the file is let go of
        model.load_state_dict(state, assign=True)
        model._llm, model._values = llm, values
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a bundle: the motion side and the VAE in float32, llm/ as it was read (the text tower is frozen), config.json last.

        Raises:
          ValueError: the folder is not empty, or the model was not read from a bundle.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder}: exists and is not an empty folder; choose another path, or remove it")
        if self._llm is None:
            raise ValueError(f"{folder}: this model was not read from a bundle, and has no llm/ to copy; start from from_pretrained")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self._llm, folder / "llm")
        parts = {_MOTION_FILE: self._names(""), _VAE_FILE: self._names("vae.")}
        state = self.state_dict()
        for file, names in parts.items():
            tensors = {n.removeprefix("vae."): state[n].detach().to("cpu", torch.float32).contiguous() for n in names}
            save_file(tensors, folder / file, metadata={"format": "pt"})
        files = {n: {"sha256": _sha256(folder / n), "bytes": (folder / n).stat().st_size} for n in parts}
        llm = self._values.get("llm", {}) | {"storage": "copy"}
        text = json.dumps(self._values | {"files": files, "llm": llm}, indent=2, ensure_ascii=False)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")

    def _names(self, prefix: str) -> list[str]:
        """Sorted names of the state dict that one file holds: those under "text." or "vae.", or, for "", under neither."""
        return sorted(n for n in self.state_dict() if (n.startswith(prefix) if prefix else not n.startswith(("text.", "vae."))))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.motion.bom.device

    @property
    def tokenizer(self) -> Any:
        """The LLM's tokenizer, from llm/ of the bundle; needs transformers."""
        if self._tokenizer is None:
            if self._llm is None:
                raise ValueError("this model was not read from a bundle, so that it has no tokenizer; start from from_pretrained")
            from transformers import AutoTokenizer  # seconds to import: only where text is used

            self._tokenizer = AutoTokenizer.from_pretrained(str(self._llm))
        return self._tokenizer

    def forward(
        self,
        text_tokens: Tensor,
        text_positions: Tensor,
        text_segments: Tensor,
        motion_latents: Tensor | None = None,
        motion_start: Tensor | None = None,
        motion_positions: Tensor | None = None,
        motion_segments: Tensor | None = None,
    ) -> LLaMoOutput:
        """Both towers over packed rows of samples.

        Args:
          text_tokens: ids [B, Lt]; the id one past the vocabulary is [EOM].
          text_positions: [B, Lt], each token's place in its sample, text and motion counted together.
          text_segments: [B, Lt], the sample, from 1; 0 is padding.
          motion_latents: normalised latents [B, Lm, Z] that the slots are to predict: slot i is fed that of slot i - 1. None for text only.
          motion_start: bool [B, Lm], True at the first slot of a motion, which is fed [BOM].
          motion_positions: as for text.
          motion_segments: as for text.
        """
        towers = [(self.text.model, Stream(self._embed_text(text_tokens), text_positions, text_segments))]
        if motion_latents is not None:
            previous = F.pad(motion_latents, (0, 0, 1, 0))[:, :-1]
            towers.append((self.motion, Stream(self._embed_motion(previous, motion_start), motion_positions, motion_segments)))
        text, *motion = run_towers(self.config.text, towers)
        motion_hidden = motion[0] if motion else None
        exit_logits = self.exit_head(motion[0].float())[..., 0] if motion else None
        return LLaMoOutput(text, motion_hidden, self.text.logits(text), exit_logits)

    def text_logits(self, tokens: Tensor) -> Tensor:
        """Float32 logits [B, T, V] of the LLM alone on token ids [B, T]."""
        return self.text(tokens)

    @torch.no_grad()
    def text_step(self, tokens: Tensor, positions: Tensor, segments: Tensor, cache: KVCache) -> Tensor:
        """Normalised hidden states [B, T, D] of new text tokens [B, T] after a cache; segment 0 is padding."""
        return run_cached(self.config.text, self.text.model, Stream(self._embed_text(tokens), positions, segments), cache)

    @torch.no_grad()
    def motion_step(self, latents: Tensor, start: Tensor, positions: Tensor, segments: Tensor, cache: KVCache) -> Tensor:
        """Normalised hidden states [B, T, D] of new motion slots after a cache: `latents` [B, T, Z] are their inputs, [BOM] at `start`."""
        return run_cached(self.config.text, self.motion, Stream(self._embed_motion(latents, start), positions, segments), cache)

    @torch.no_grad()
    def decode_step(
        self, latent: Tensor, start: Tensor, positions: Tensor, noise: Tensor, cache: KVCache, sampling: Sampling
    ) -> tuple[Tensor, Tensor]:
        """Feeds the last latents and draws the next. `model.decode_step = torch.compile(model.decode_step, fullgraph=True)` is supported.

        Args:
          latent: [B, Z], the last drawn.
          start: bool [R, 1], True for the first step, which feeds [BOM].
          positions: [R, 1] of the slot. R is B, or 2 B with guidance: rows of the cache with the text, then the same without.
          noise: [B, Z], standard normal.
          cache: what came before.
          sampling: how to draw.

        Returns:
          The next latents [B, Z], and the probabilities [B] that the motion has ended before them, given that it had not earlier.
        """
        batch, rows = latent.shape[0], positions.shape[0]
        inputs = latent.repeat(rows // batch, 1)[:, None]
        hidden = self.motion_step(inputs, start, positions, torch.ones_like(positions), cache)[:, 0].float()
        conditional, unconditional = hidden[:batch], hidden[batch:] if rows > batch else None
        return self.flow_head.sample(conditional, noise, sampling, unconditional), self.exit_head(conditional)[:, 0].sigmoid()

    @torch.no_grad()
    def generate(
        self,
        text: str | Sequence[str],
        *,
        seed: int = 0,
        guidance: float = 2.0,
        steps: int = 10,
        solver: str = "euler",
        seconds: float | None = None,
        max_seconds: float = 20.0,
        noise: Tensor | None = None,
    ) -> Tensor | list[Tensor]:
        """Motion for a sentence, or for each of several.

        Args:
          text: what to do.
          seed: sentence i of a list draws from its own stream of noise, i, whatever else is in the list. The same on every device.
          guidance: classifier-free guidance scale; 1 is off.
          steps: solver steps a latent.
          solver: "euler", "midpoint" or "heun".
          seconds: exact length; None lets the exit head end the motion.
          max_seconds: where to end a motion that the exit head does not.
          noise: [B, n, Z] (or [n, Z] for one sentence) in place of drawn noise.

        Returns:
          Features [T, 272] at 30 frames/s, or a list of them for a list of texts.

        Raises:
          ValueError: an empty text, a setting out of range, or a bundle that was never trained on motion.
        """
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            return []
        duration = max_seconds if seconds is None else seconds
        prompts, max_tokens = [self._motion_prompt(each) for each in texts], self._latents_in(duration)
        self._require_positions(max(map(len, prompts)) + max_tokens + 1, f"a text of {max(map(len, prompts))} tokens and {duration:g} s")
        sampling = Sampling(guidance, steps, solver, 0.5 if seconds is None else None)
        noise = noise[None] if noise is not None and noise.ndim == 2 else noise
        latents = self.generate_latents(prompts, max_tokens, sampling, seed=seed, noise=noise)
        features = [motion[: round(duration * FPS)] for motion in self.decode(latents)]
        return features[0] if isinstance(text, str) else features

    @torch.no_grad()
    def generate_latents(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, sampling: Sampling, *, seed: int = 0, noise: Tensor | None = None
    ) -> list[Tensor]:
        """Normalised latents [n, Z], 1 <= n <= max_tokens, for each prompt of token ids; `seed` and `noise` [B, n, Z] as for `generate`."""
        expected = (len(prompts), max_tokens, self.config.vae.latent_channels)
        if noise is not None and (noise.ndim != 3 or noise.shape[1] < max_tokens or (len(noise), noise.shape[2]) != expected[::2]):
            raise ValueError(f"noise has shape {tuple(noise.shape)}; expected {expected} (prompts, latents, channels), or more latents")
        draws = self._noise(seed, len(prompts)) if noise is None else iter(noise.to(self.device, torch.float32).unbind(1))
        drawn, lengths = [], [0] * len(prompts)
        for latent, alive in self._draw(prompts, draws, max_tokens, sampling):
            drawn.append(latent)
            lengths = [n + going_on for n, going_on in zip(lengths, alive, strict=True)]
        return [row[:n] for row, n in zip(torch.stack(drawn, 1), lengths, strict=True)]

    def stream(
        self,
        text: str,
        *,
        seed: int = 0,
        guidance: float = 2.0,
        steps: int = 10,
        solver: str = "euler",
        max_seconds: float | None = None,
        until_exit: bool = True,
    ) -> Iterator[Tensor]:
        """`generate`'s features for one sentence, [4, 272] as each latent comes; the last has fewer frames where `max_seconds` cuts it.

        Without `max_seconds`, and where the exit head does not end it, the motion goes on until the LLM has no more positions.
        """
        prompt = self._motion_prompt(text)
        room = self.config.text.max_positions - len(prompt) - 1
        max_tokens = room if max_seconds is None else self._latents_in(max_seconds)
        self._require_positions(len(prompt) + max(max_tokens, 1) + 1, f"a text of {len(prompt)} tokens and {max_tokens} latents")
        frames = FRAMES_PER_LATENT * max_tokens if max_seconds is None else round(max_seconds * FPS)
        drawn = self._draw([prompt], self._noise(seed, 1), max_tokens, Sampling(guidance, steps, solver, 0.5 if until_exit else None))
        return self._decode_stream(drawn, frames)

    @torch.no_grad()
    def _decode_stream(self, drawn: Iterator[tuple[Tensor, list[bool]]], frames: int) -> Iterator[Tensor]:
        state = None
        for index, (latent, _) in enumerate(drawn):
            features, state = self.vae.decode(latent[:, None], state)
            if (left := frames - FRAMES_PER_LATENT * index) > 0:
                yield features[0, :left]

    @torch.no_grad()
    def _draw(
        self, prompts: Sequence[Sequence[int]], noise: Iterator[Tensor], max_tokens: int, sampling: Sampling
    ) -> Iterator[tuple[Tensor, list[bool]]]:
        """The next latents [B, Z] of all prompts and whose motions still go on, until none does."""
        batch = len(prompts)
        tokens, lengths = self._pad_rows([*prompts, *[[self.config.bos]] * batch] if sampling.guidance != 1 else prompts)
        slots = tokens.shape[1] + min(max_tokens, _CACHE_SLOTS)
        cache = self._cache(len(tokens), slots)
        self._prefill_text(tokens, torch.zeros_like(lengths), lengths, cache)
        latent = torch.zeros(batch, self.config.vae.latent_channels, device=self.device)
        survival, alive = [1.0] * batch, [True] * batch
        for index in range(max_tokens):
            if tokens.shape[1] + index == slots:
                cache, slots = cache.doubled(), 2 * slots
            start = torch.full((len(tokens), 1), index == 0, device=self.device)
            latent, ending = self.decode_step(latent, start, (lengths + index)[:, None], next(noise), cache, sampling)
            if sampling.exit_threshold is not None:
                survival = [s * (1 - p) for s, p in zip(survival, ending.tolist(), strict=True)]
                # A motion has at least one latent: ending before the first would be nothing at all.
                alive = [a and (index == 0 or 1 - s <= sampling.exit_threshold) for a, s in zip(alive, survival, strict=True)]
                if not any(alive):
                    return
            yield latent, alive

    def _noise(self, seed: int, batch: int) -> Iterator[Tensor]:
        """Endless noise [B, Z]; row i has a generator of its own, on the CPU, so that neighbours and devices change nothing."""
        digests = [hashlib.sha256(f"{seed} {row}".encode()).digest() for row in range(batch)]
        generators = [torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")) for digest in digests]
        for _ in itertools.count():
            rows = [torch.randn(self.config.vae.latent_channels, generator=generator, dtype=torch.float32) for generator in generators]
            yield torch.stack(rows).to(self.device)

    @torch.no_grad()
    def caption(self, features: Tensor | Sequence[Tensor], *, max_tokens: int = 96) -> str | list[str]:
        """A sentence for a motion of features [T, 272], or for each of several; greedy.

        Raises:
          ValueError: a motion of less than 4 frames or too long, or a bundle that was never trained on motion.
        """
        self._require_trained()
        motions = [features] if isinstance(features, Tensor) else list(features)
        if not motions:
            return []
        captions = [self._decode_ids(ids).strip() for ids in self.caption_tokens(self.encode(motions), max_tokens=max_tokens)]
        return captions[0] if isinstance(features, Tensor) else captions

    @torch.no_grad()
    def caption_tokens(self, latents: Sequence[Tensor], *, max_tokens: int = 96) -> list[list[int]]:
        """Greedy token ids of a caption for each motion of normalised latents [n, Z], without the one that ended it."""
        batch, slots = len(latents), max(map(len, latents)) + 1
        self._require_positions(slots + 2 + max_tokens, f"a motion of {slots - 1} latents and a caption of up to {max_tokens} tokens")
        inputs = torch.zeros(batch, slots, self.config.vae.latent_channels, device=self.device)
        for row, motion in zip(inputs, latents, strict=True):
            row[1 : len(motion) + 1] = motion
        motion_lengths = torch.tensor([len(motion) + 1 for motion in latents], device=self.device)
        cache = self._cache(batch, slots + 2 + max_tokens)
        tokens, lengths = self._pad_rows([[self.config.bos]] * batch)
        self._prefill_text(tokens, torch.zeros_like(lengths), lengths, cache)
        index = torch.arange(slots, device=self.device).expand(batch, slots)
        self.motion_step(inputs, index == 0, lengths[:, None] + index, (index < motion_lengths[:, None]).long(), cache)
        after = torch.full((batch, 1), self.config.eom, device=self.device)
        return self._continue(after, lengths + motion_lengths, cache, max_tokens)

    @torch.no_grad()
    def complete(self, text: str, max_tokens: int = 64) -> str:
        """The LLM's own greedy continuation of a text. Reads nothing of the motion side.

        Raises:
          ValueError: the LLM has not as many positions.
        """
        prompt = [self.config.bos, *self._encode_text(text)]
        self._require_positions(len(prompt) + max_tokens, f"a text of {len(prompt)} tokens and {max_tokens} more")
        tokens, lengths = self._pad_rows([prompt])
        cache = self._cache(1, len(prompt) + max_tokens)
        new = self._continue(tokens, torch.zeros_like(lengths), cache, max_tokens)[0]
        return self._decode_ids([*prompt[1:], *new])[len(self._decode_ids(prompt[1:])) :]

    def _continue(self, tokens: Tensor, starts: Tensor, cache: KVCache, max_tokens: int) -> list[list[int]]:
        """Greedy tokens after `tokens` [B, T], all of which are real and begin at the positions `starts` [B]."""
        outputs: list[list[int]] = [[] for _ in tokens]
        alive = [True] * len(tokens)
        for _ in range(max_tokens):
            positions = starts[:, None] + torch.arange(tokens.shape[1], device=self.device)
            hidden = self.text_step(tokens, positions, torch.ones_like(positions), cache)
            starts, tokens = starts + tokens.shape[1], self.text.logits(hidden[:, -1:]).argmax(-1)
            drawn = tokens[:, 0].tolist()
            alive = [going_on and token != self.config.eos for going_on, token in zip(alive, drawn, strict=True)]
            for output, token, going_on in zip(outputs, drawn, alive, strict=True):
                output += [token] if going_on else []
            if not any(alive):
                break
        return outputs

    @torch.no_grad()
    def encode(self, features: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Normalised latents [T // 4, Z] of un-normalised features [T, 272], of one motion or a list: up to 3 last frames are left out.

        Raises:
          ValueError: a motion is shorter than 4 frames.
        """
        motions = [features] if isinstance(features, Tensor) else list(features)
        for index, motion in enumerate(motions):
            if motion.ndim != 2 or motion.shape[1] != NUM_FEATURES or len(motion) < FRAMES_PER_LATENT:
                raise ValueError(
                    f"motion {index} has shape {tuple(motion.shape)}; expected [T, {NUM_FEATURES}], T at least {FRAMES_PER_LATENT}"
                )
        whole = [motion[: len(motion) // FRAMES_PER_LATENT * FRAMES_PER_LATENT].to(self.device) for motion in motions]
        # The VAE is causal: what is padded on the right changes nothing before it.
        padded = self.vae.encode(nn.utils.rnn.pad_sequence(whole, batch_first=True))[0] if whole else []
        latents = [row[: len(motion) // FRAMES_PER_LATENT] for row, motion in zip(padded, whole, strict=True)]
        return latents[0] if isinstance(features, Tensor) else latents

    @torch.no_grad()
    def decode(self, latents: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Un-normalised features [4 n, 272] of normalised latents [n, Z], of one motion or a list."""
        motions = [latents] if isinstance(latents, Tensor) else list(latents)
        padded = self.vae.decode(nn.utils.rnn.pad_sequence([z.to(self.device) for z in motions], batch_first=True))[0] if motions else []
        features = [row[: FRAMES_PER_LATENT * len(motion)] for row, motion in zip(padded, motions, strict=True)]
        return features[0] if isinstance(latents, Tensor) else features

    def _embed_text(self, tokens: Tensor) -> Tensor:
        embedded = self.text.model.embed_tokens(tokens.clamp(max=self.config.text.vocab_size - 1))
        return torch.where((tokens == self.config.eom)[..., None], self.motion.eom.to(embedded.dtype), embedded)

    def _embed_motion(self, latents: Tensor, start: Tensor) -> Tensor:
        dtype = self.text.model.embed_tokens.weight.dtype
        return torch.where(start[..., None], self.motion.bom.to(dtype), self.motion.adapter(latents.to(dtype)))

    def _cache(self, batch: int, slots: int) -> KVCache:
        return KVCache.empty(self.config.text, batch, slots, self.text.model.embed_tokens.weight.dtype, self.device)

    def _prefill_text(self, tokens: Tensor, starts: Tensor, lengths: Tensor, cache: KVCache) -> None:
        index = torch.arange(tokens.shape[1], device=self.device).expand_as(tokens)
        self.text_step(tokens, starts[:, None] + index, (index < lengths[:, None]).long(), cache)

    def _pad_rows(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token rows [B, T] padded with 0 on the right, and their true lengths [B]."""
        lengths = [len(row) for row in rows]
        padded = [[*row, *[0] * (max(lengths) - len(row))] for row in rows]
        return torch.tensor(padded, device=self.device), torch.tensor(lengths, device=self.device)

    def _motion_prompt(self, text: str) -> list[int]:
        self._require_trained()
        if not text.strip():
            raise ValueError("the text is empty; expected a sentence that says what to do")
        return [self.config.bos, *self._encode_text(text.strip())]

    def _encode_text(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _decode_ids(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _latents_in(self, seconds: float) -> int:
        if not 1 / LATENTS_PER_SECOND <= seconds < math.inf:
            raise ValueError(f"duration is {seconds} s; expected at least {1 / LATENTS_PER_SECOND:.2f} s, one latent")
        return math.ceil(round(seconds * LATENTS_PER_SECOND, 6))

    def _require_positions(self, needed: int, what: str) -> None:
        if needed > self.config.text.max_positions:
            raise ValueError(f"{what} need {needed} positions; the LLM has {self.config.text.max_positions}: make it shorter")

    def _require_trained(self) -> None:
        info = self._values.get("info")
        if self._values and not (isinstance(info, dict) and info.get("trained")):
            raise ValueError("this bundle was made from an LLM alone and knows no motion yet; train it first")


def recover_joints(features: Tensor) -> Tensor:
    """World joint positions [T, 22, 3] in metres (Y up, float64, on the CPU) of un-normalised features [T, 272] of one motion."""
    features = features.detach().to("cpu", torch.float64)
    # Generated deltas are no exact rotations: only the angle of their [c, 0, s] row is read.
    heading = torch.cumsum(-torch.atan2(features[:, 4], features[:, 2]), 0)
    local = features[:, 8:74].unflatten(1, (NUM_JOINTS, 3))
    # The root moves in the heading of the frame before.
    x, z = _turn(F.pad(heading, (1, 0))[:-1], features[:, 0], features[:, 1])
    root = torch.stack([x, torch.zeros_like(x), z], -1).cumsum(0)
    x, z = _turn(heading[:, None], local[..., 0], local[..., 2])
    return torch.stack([x, local[..., 1], z], -1) + root[:, None]


def _turn(heading: Tensor, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """(x, z) turned about +Y by `heading` radians: +Z turns towards +X."""
    return heading.cos() * x + heading.sin() * z, heading.cos() * z - heading.sin() * x


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; expected a LLaMo bundle") from error
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error


def _llm_folder(folder: Path, values: dict[str, Any]) -> Path:
    """llm/ of the bundle, or, where the bundle only says which LLM of the Hugging Face Hub it is, what was or is downloaded from there."""
    llm = values.get("llm")
    if not isinstance(llm, dict) or llm.get("storage", "copy") != "pin":
        return folder / "llm"
    from huggingface_hub import snapshot_download  # comes with transformers

    try:
        return Path(snapshot_download(llm["id"], revision=llm["revision"], allow_patterns=sorted(llm["files"])))
    except (OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{folder}: its LLM, {llm.get('id')}, is on the Hugging Face Hub, which cannot be reached ({reason})") from error


def _verify(folder: Path, llm_folder: Path, values: dict[str, Any]) -> None:
    """Compares files with the sizes and sums in config.json; those of the LLM where they are listed."""
    listed, llm = values.get("files"), values.get("llm")
    llm = llm.get("files", {}) if isinstance(llm, dict) else {}
    if not isinstance(listed, dict) or not isinstance(llm, dict) or not {_MOTION_FILE, _VAE_FILE} <= set(listed):
        raise ValueError(f'{folder / "config.json"}: "files" is {listed!r:.60}; expected {_MOTION_FILE} and {_VAE_FILE} with their sums')
    paths = {folder / name: entry for name, entry in listed.items()} | {llm_folder / name: entry for name, entry in llm.items()}
    for path, entry in paths.items():
        expected = entry if isinstance(entry, dict) else {}
        if not path.is_file():
            raise ValueError(f"{path}: no such file; config.json lists it: the bundle is incomplete")
        if (size := path.stat().st_size) != expected.get("bytes"):
            raise ValueError(f"{path}: has {size} bytes; config.json lists {expected.get('bytes')}: fetch it again")
        if (found := _sha256(path)) != expected.get("sha256"):
            raise ValueError(f"{path}: SHA-256 is {found}; config.json lists {expected.get('sha256')}: fetch it again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_text(folder: Path, shapes: dict[str, torch.Size], tied: bool, device: torch.device | str) -> dict[str, Tensor]:
    """The LLM's tensors, of one file or of the shards that the index names. A tied head may be there too; then it is the embeddings."""
    index, head, embeddings = folder / "model.safetensors.index.json", "lm_head.weight", "model.embed_tokens.weight"
    names = ["model.safetensors"]
    if index.exists():
        values = _read_json(index)
        weight_map = values.get("weight_map") if isinstance(values, dict) else None
        if not isinstance(weight_map, dict) or not weight_map or any(Path(str(file)).name != file for file in weight_map.values()):
            raise ValueError(f'{index}: no "weight_map" of tensor names to files beside it; the download may be damaged')
        names = sorted(set(weight_map.values()))
    optional = {head: shapes[embeddings]} if tied else {}
    tensors = _read_tensors([folder / name for name in names], shapes, _FLOATS, device, optional)
    if tied and head in tensors:
        first, second = tensors.pop(head), tensors[embeddings]
        if first.dtype != second.dtype or not torch.equal(first.view(torch.uint8), second.view(torch.uint8)):
            raise ValueError(f'{folder}: tensor "{head}" differs from "{embeddings}"; expected the same bits (tie_embeddings)')
    return tensors


def _read_tensors(
    paths: Sequence[Path],
    shapes: dict[str, torch.Size],
    dtypes: tuple[torch.dtype, ...],
    device: torch.device | str,
    optional: dict[str, torch.Size] | None = None,
) -> dict[str, Tensor]:
    """Exactly the tensors of `shapes`, and any of `optional`, out of safetensors files."""
    allowed, tensors = shapes | (optional or {}), {}
    for path in paths:
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                # Old checkpoints hold rotary frequencies; here they come from the config.
                for name in (name for name in file.keys() if not name.endswith("rotary_emb.inv_freq")):  # noqa: SIM118
                    if name not in allowed or name in tensors:
                        raise ValueError(f'{path}: tensor "{name}" is one too many; the config asks for {len(shapes)} tensors without it')
                    tensors[name] = tensor = file.get_tensor(name)
                    if tensor.shape != allowed[name]:
                        raise ValueError(
                            f'{path}: tensor "{name}" has shape {list(tensor.shape)}; the config asks for {list(allowed[name])}'
                        )
                    if tensor.dtype not in dtypes:
                        raise ValueError(f'{path}: tensor "{name}" is of type {tensor.dtype}; expected {" or ".join(map(str, dtypes))}')
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    if missing := sorted(set(shapes) - set(tensors)):
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(f"{paths[0].parent}: {len(missing)} tensors are missing: {some}; the config asks for {len(shapes)} tensors")
    return tensors
