"""The Mixture-of-Transformers: towers over streams of their own, one attention."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Rotary, Stream, attention, visible
from .cache import KVCache
from .config import LLaMoConfig, TextConfig
from .layers import Linear, RMSNorm


class DecoderLayer(nn.Module):
    """One layer of either tower, under Hugging Face's names. Attention itself lies between `project` and `finish`: the
    towers share it."""

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
        q, k, v = (
            proj(h).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for proj in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        return rotary.rotate(attn.q_norm(q)), rotary.rotate(attn.k_norm(k)), v

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The rest of the layer after attention gave `mixed` [B, N, T, H]: output projection and SwiGLU, both
        residual."""
        x = x + self.self_attn.o_proj(mixed.transpose(1, 2).flatten(2))
        h = self.post_attention_layernorm(x)
        return x + self.mlp.down_proj(F.silu(self.mlp.gate_proj(h)) * self.mlp.up_proj(h))


class TextModel(nn.Module):
    """Embeddings and layers of the LLM: what Hugging Face calls `model`."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(
            DecoderLayer(config, config.width, config.ffn_width) for _ in range(config.num_layers)
        )
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
    """Normalised hidden states [B, T, D] of one tower's new tokens after everything in the cache, which takes them
    in."""
    slots = cache.advance(stream.positions, stream.segments)
    mask = visible(stream, cache.positions, cache.segments, config.sliding_window)
    rotary = Rotary.at(stream.positions, config, stream.x.dtype)
    x = stream.x
    for index, layer in enumerate(tower.layers):
        q, k, v = layer.project(x, rotary)
        k, v = cache.write(index, slots, k, v)
        x = layer.finish(x, attention(q, k, v, mask))
    return tower.norm(x)
