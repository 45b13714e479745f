"""The flow-matching head."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import SOLVERS, LLaMoConfig, Sampling
from .layers import Linear


class FlowBlock(nn.Module):
    """One residual block with its modulation (adaLN), which depends on the condition and the time alone."""

    def __init__(self, width: int):
        super().__init__()
        self.modulation = Linear(width, 3 * width)
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
        self.blocks = nn.ModuleList(FlowBlock(width) for _ in range(blocks))
        self.output_modulation = Linear(width, 2 * width)
        self.output = Linear(width, channels)

    def velocity(self, x_t: Tensor, hidden: Tensor, t: Tensor) -> Tensor:
        """dx/dt at x_t [..., Z], given hidden states [..., D] of the motion tower and times [...] in 0 .. 1."""
        return self._velocity(x_t.float(), self._modulations(hidden.float(), t.float()))

    def sample(self, hidden: Tensor, noise: Tensor, sampling: Sampling, unconditional: Tensor | None = None) -> Tensor:
        """Integrates noise [B, Z] at t = 0 to latents [B, Z] at t = 1, given hidden states [B, D] of the motion tower.

        With hidden states `unconditional` [B, D] of rows without the text, v = v_un + guidance (v_cond - v_un);
        without, no guidance.
        """
        (nodes, stages, weights), steps = SOLVERS[sampling.solver], sampling.steps
        share = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps  # of noise
        edges = 1 - sampling.shift * share / (1 + (sampling.shift - 1) * share)
        sizes = edges.diff()
        times = edges[:-1, None] + sizes[:, None] * torch.tensor(nodes, dtype=torch.float64)
        times, sizes = (each.to(noise.device, torch.float32) for each in (times, sizes))
        conditions = hidden[None] if unconditional is None else torch.stack([hidden, unconditional])
        # [steps, stages, 1 or 2, B, M] each: modulations do not depend on x, so that one product a block outside of the
        # loop serves the whole integration.
        modulations = self._modulations(conditions.float(), times[:, :, None, None])

        def guided(x: Tensor, step: int, stage: int) -> Tensor:
            v = self._velocity(x[None], [part[step, stage] for part in modulations])
            return v[0] if unconditional is None else v[1] + sampling.guidance * (v[0] - v[1])

        def ahead(x: Tensor, size: Tensor, weights: tuple[float, ...], velocities: list[Tensor]) -> Tensor:
            weighted = [weight * v for weight, v in zip(weights, velocities, strict=True) if weight]
            return x + size * sum(weighted) if weighted else x

        x = sampling.temperature * noise.float()
        for step, size in enumerate(sizes):
            velocities: list[Tensor] = []
            for stage, before in enumerate(stages):
                velocities.append(guided(ahead(x, size, before, velocities), step, stage))
            x = ahead(x, size, weights, velocities)
        return x

    def _modulations(self, condition: Tensor, t: Tensor) -> list[Tensor]:
        """Shift, scale and gate of each block, then shift and scale of the output, each in its last axis."""
        half = self.time_in.in_features // 2
        frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10000.0) / half))
        angles = 1000.0 * t[..., None] * frequencies
        time = self.time_out(F.silu(self.time_in(torch.cat([angles.cos(), angles.sin()], -1))))
        c = F.silu(self.condition(condition) + time)
        return [modulation(c) for modulation in (*(b.modulation for b in self.blocks), self.output_modulation)]

    def _velocity(self, x: Tensor, modulations: list[Tensor]) -> Tensor:
        *blocks, last = modulations
        x = self.input(x)
        for block, part in zip(self.blocks, blocks, strict=True):
            x = block(x, part)
        shift, scale = last.chunk(2, -1)
        return self.output(_layer_norm(x) * (1 + scale) + shift)


def _layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)
