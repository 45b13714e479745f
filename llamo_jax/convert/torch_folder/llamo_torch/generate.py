"""Text-to-motion, in one piece and as a stream: one step a latent, over a KV cache."""

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .cache import KVCache
from .config import FPS, FRAMES_PER_LATENT, LATENTS_PER_SECOND, MAX_SECONDS, Sampling

_CACHE_SLOTS = 256  # a cache begins with as many motion slots, at most, and doubles when it is full


class Generation:
    """The part of `LLaMoForMotion` that draws motion."""

    @torch.no_grad()
    def decode_step(
        self, latent: Tensor, start: Tensor, positions: Tensor, noise: Tensor, cache: KVCache, sampling: Sampling
    ) -> tuple[Tensor, Tensor]:
        """Feeds the last latents and draws the next. `model.decode_step = torch.compile(model.decode_step,
        fullgraph=True)` is supported.

        Args:
          latent: [B, Z], the last drawn.
          start: bool [R, 1], True for the first step, which feeds [BOM].
          positions: [R, 1] of the slot. R is B, or 2 B with guidance: rows of the cache with the text, then the same
            without.
          noise: [B, Z], standard normal.
          cache: what came before.
          sampling: how to draw.

        Returns:
          The next latents [B, Z], and the probabilities [B] that the motion has ended before them, given that it had
          not earlier.
        """
        batch, rows = latent.shape[0], positions.shape[0]
        inputs = latent.repeat(rows // batch, 1)[:, None]
        hidden = self.motion_step(inputs, start, positions, torch.ones_like(positions), cache)[:, 0].float()
        conditional, unconditional = hidden[:batch], hidden[batch:] if rows > batch else None
        return self.flow_head.sample(conditional, noise, sampling, unconditional), self.exit_head(conditional)[
            :, 0
        ].sigmoid()

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
        max_seconds: float = MAX_SECONDS,
        length: str = "median",
        noise: Tensor | None = None,
    ) -> Tensor | list[Tensor]:
        """Motion for a sentence, or for each of several.

        Args:
          text: what to do.
          seed: sentence i of a list draws from its own stream of noise, i, whatever else is in the list. The same on
            every device.
          guidance: classifier-free guidance scale; 1 is off.
          steps: solver steps a latent.
          solver: a row of `SOLVERS`.
          seconds: exact length; None lets the exit head end the motion.
          max_seconds: where to end a motion that the exit head does not.
          length: where the exit head ends a motion: at the "median" of the lengths that it holds possible, or at one
            that is "drawn" from them.
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
        prompts, max_latents = [self._motion_prompt(each) for each in texts], self._latents_in(duration)
        self._require_positions(
            max(map(len, prompts)) + max_latents + 1, f"a text of {max(map(len, prompts))} tokens and {duration:g} s"
        )
        sampling = Sampling(guidance, steps, solver, 0.5 if seconds is None else None, length)
        noise = noise[None] if noise is not None and noise.ndim == 2 else noise
        latents = self.generate_latents(prompts, max_latents, sampling, seed=seed, noise=noise)
        features = [motion[: round(duration * FPS)] for motion in self.decode(latents)]
        return features[0] if isinstance(text, str) else features

    @torch.no_grad()
    def generate_latents(
        self,
        prompts: Sequence[Sequence[int]],
        max_latents: int,
        sampling: Sampling,
        *,
        seed: int = 0,
        noise: Tensor | None = None,
        history: Tensor | None = None,
        thresholds: Sequence[float] | None = None,
    ) -> list[Tensor]:
        """Normalised latents [n, Z], 1 <= n <= max_latents, for each prompt of token ids.

        Args:
          prompts: token ids before the motion.
          max_latents: most latents for each.
          sampling: how to draw.
          seed: as for `generate`.
          noise: [B, n, Z], as for `generate`.
          history: [B, n, Z] latents that are fed back in place of those that are drawn, to compare single steps.
          thresholds: [B], in place of those that are drawn where lengths are.
        """
        expected = (len(prompts), max_latents, self.config.vae.latent_channels)
        if noise is not None and (
            noise.ndim != 3 or noise.shape[1] < max_latents or (len(noise), noise.shape[2]) != expected[::2]
        ):
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}; expected {expected} (prompts, latents, channels), or more "
                f"latents"
            )
        draws = (
            self._noise(seed, len(prompts)) if noise is None else iter(noise.to(self.device, torch.float32).unbind(1))
        )
        if thresholds is None:
            thresholds = self._thresholds(seed, len(prompts), sampling)
        drawn, lengths = [], [0] * len(prompts)
        for latent, alive in self._draw(prompts, draws, max_latents, sampling, thresholds, history):
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
        length: str = "median",
    ) -> Iterator[Tensor]:
        """`generate`'s features for one sentence, [4, 272] as each latent comes; the last has fewer frames where
        `max_seconds` cuts it.

        Without `max_seconds`, and where the exit head does not end it, the motion goes on until the LLM has no more
        positions.
        """
        prompt = self._motion_prompt(text)
        room = self.config.text.max_positions - len(prompt) - 1
        max_latents = room if max_seconds is None else self._latents_in(max_seconds)
        self._require_positions(
            len(prompt) + max(max_latents, 1) + 1, f"a text of {len(prompt)} tokens and {max_latents} latents"
        )
        frames = FRAMES_PER_LATENT * max_latents if max_seconds is None else round(max_seconds * FPS)
        sampling = Sampling(guidance, steps, solver, 0.5 if until_exit else None, length)
        drawn = self._draw([prompt], self._noise(seed, 1), max_latents, sampling, self._thresholds(seed, 1, sampling))
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
        self,
        prompts: Sequence[Sequence[int]],
        noise: Iterator[Tensor],
        max_latents: int,
        sampling: Sampling,
        thresholds: Sequence[float],
        history: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, list[bool]]]:
        """The next latents [B, Z] of all prompts and whose motions still go on, until none does."""
        batch = len(prompts)
        tokens, lengths = self._pad_rows(
            [*prompts, *[[self.config.bos]] * batch] if sampling.guidance != 1 else prompts
        )
        slots = tokens.shape[1] + min(max_latents, _CACHE_SLOTS)
        cache = self._cache(len(tokens), slots)
        self._prefill_text(tokens, torch.zeros_like(lengths), lengths, cache)
        latent = torch.zeros(batch, self.config.vae.latent_channels, device=self.device)
        survival, alive = [1.0] * batch, [True] * batch
        for index in range(max_latents):
            if tokens.shape[1] + index == slots:
                cache, slots = cache.doubled(), 2 * slots
            start = torch.full((len(tokens), 1), index == 0, device=self.device)
            latent, ending = self.decode_step(latent, start, (lengths + index)[:, None], next(noise), cache, sampling)
            if sampling.exit_threshold is not None:
                survival = [s * (1 - p) for s, p in zip(survival, ending.tolist(), strict=True)]
                # A motion has at least one latent: ending before the first would be nothing at all.
                alive = [
                    a and (index == 0 or 1 - s <= threshold)
                    for a, s, threshold in zip(alive, survival, thresholds, strict=True)
                ]
                if not any(alive):
                    return
            yield latent, alive
            latent = latent if history is None else history[:, index]

    def _noise(self, seed: int, batch: int) -> Iterator[Tensor]:
        """Endless noise [B, Z]; row i has a generator of its own, on the CPU, so that neighbours and devices change
        nothing."""
        generators = [_generator(f"{seed} {row}") for row in range(batch)]
        for _ in itertools.count():
            rows = [
                torch.randn(self.config.vae.latent_channels, generator=generator, dtype=torch.float32)
                for generator in generators
            ]
            yield torch.stack(rows).to(self.device)

    def _thresholds(self, seed: int, batch: int, sampling: Sampling) -> list[float]:
        """The chance of having ended at which each motion ends. A drawn one has a generator of its own, so that the
        noise is the same with it and without."""
        if sampling.length == "median":
            return [sampling.exit_threshold] * batch
        streams = [_generator(f"{seed} {row} length") for row in range(batch)]
        return [float(torch.rand((), generator=stream, dtype=torch.float64)) for stream in streams]

    def _motion_prompt(self, text: str) -> list[int]:
        self._require_trained()
        if not text.strip():
            raise ValueError("the text is empty; expected a sentence that says what to do")
        before, after = self.config.turns["t2m"]
        return [*before, *self._encode_text(text.strip()), *after]

    def _latents_in(self, seconds: float) -> int:
        if not 1 / LATENTS_PER_SECOND <= seconds < math.inf:
            raise ValueError(f"duration is {seconds} s; expected at least {1 / LATENTS_PER_SECOND:.2f} s, one latent")
        return math.ceil(round(seconds * LATENTS_PER_SECOND, 6))


def _generator(name: str) -> torch.Generator:
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
