"""The causal motion VAE: 272 features at 30 frames/s <-> latents at 7.5/s."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import FEATURE_LIMIT, NUM_FEATURES, VAEConfig
from .layers import Linear


class _Past:
    """The last inputs of each causal operation, in the order in which the operations run: zeros at the start of a
    motion."""

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
    """Half the rate (convolution, then residual blocks) or twice the rate (residual blocks, upsampling, then
    convolution)."""

    def __init__(self, config: VAEConfig, down: bool):
        super().__init__()
        self.down, self.linear = down, config.upsampling == "linear"
        self.conv = (
            CausalConv(config.width, config.width, 4, stride=2) if down else CausalConv(config.width, config.width, 3)
        )
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
    """The causal VAE with the statistics of its features and latents. Whole motions and streams are the same
    computation.

    On CUDA, PyTorch runs convolutions in TF32 unless `torch.backends.cudnn.allow_tf32` is False: errors of 1e-3 instead
    of 1e-6.
    """

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        for name, size in (("feature", NUM_FEATURES), ("latent", config.latent_channels)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))

    def encode(self, features: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Normalised latents [B, T // 4, Z] of un-normalised features [B, T, 272], T a multiple of 4; and the state
        after them."""
        past = _Past(state)
        normalised = ((features - self.feature_mean) / self.feature_std).clamp(-FEATURE_LIMIT, FEATURE_LIMIT).float()
        return (self.encoder(normalised, past) - self.latent_mean) / self.latent_std, past.after

    def decode(self, latents: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Un-normalised features [B, 4 n, 272] of normalised latents [B, n, Z]; and the state, for the latents that
        follow."""
        past = _Past(state)
        features = self.decoder(latents.float() * self.latent_std + self.latent_mean, past)
        return features * self.feature_std + self.feature_mean, past.after
