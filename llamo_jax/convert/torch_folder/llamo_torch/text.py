"""The LLM's own head: captions of motions and plain text, greedy and batched."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .cache import KVCache


class Text:
    """The part of `LLaMoForMotion` that reads and writes text."""

    @property
    def tokenizer(self) -> Any:
        """The LLM's tokenizer, from llm/ of the bundle; needs transformers."""
        if self._tokenizer is None:
            if self._llm is None:
                raise ValueError(
                    "this model was not read from a bundle, so that it has no tokenizer; start from from_pretrained"
                )
            from transformers import AutoTokenizer  # seconds to import: only where text is used

            self._tokenizer = AutoTokenizer.from_pretrained(str(self._llm), trust_remote_code=False)
        return self._tokenizer

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
        captions = [
            self._decode_ids(ids).strip() for ids in self.caption_tokens(self.encode(motions), max_tokens=max_tokens)
        ]
        return captions[0] if isinstance(features, Tensor) else captions

    @torch.no_grad()
    def caption_tokens(self, latents: Sequence[Tensor], *, max_tokens: int = 96) -> list[list[int]]:
        """Greedy token ids of a caption for each motion of normalised latents [n, Z], without the one that ended it."""
        batch, slots = len(latents), max(map(len, latents)) + 1
        before, question = (list(ids) for ids in self.config.turns["m2t"])
        needed = len(before) + slots + 1 + len(question) + max_tokens
        self._require_positions(needed, f"a motion of {slots - 1} latents and a caption of up to {max_tokens} tokens")
        inputs = torch.zeros(batch, slots, self.config.vae.latent_channels, device=self.device)
        for row, motion in zip(inputs, latents, strict=True):
            row[1 : len(motion) + 1] = motion
        motion_lengths = torch.tensor([len(motion) + 1 for motion in latents], device=self.device)
        cache = self._cache(batch, needed)
        tokens, lengths = self._pad_rows([before] * batch)
        self._prefill_text(tokens, torch.zeros_like(lengths), lengths, cache)
        index = torch.arange(slots, device=self.device).expand(batch, slots)
        self.motion_step(inputs, index == 0, lengths[:, None] + index, (index < motion_lengths[:, None]).long(), cache)
        after = torch.tensor([[self.config.eom, *question]] * batch, device=self.device)
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

    def _prefill_text(self, tokens: Tensor, starts: Tensor, lengths: Tensor, cache: KVCache) -> None:
        index = torch.arange(tokens.shape[1], device=self.device).expand_as(tokens)
        self.text_step(tokens, starts[:, None] + index, (index < lengths[:, None]).long(), cache)

    def _pad_rows(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token rows [B, T] padded with 0 on the right, and their true lengths [B]."""
        lengths = [len(row) for row in rows]
        padded = [[*row, *[0] * (max(lengths) - len(row))] for row in rows]
        return torch.tensor(padded, device=self.device), torch.tensor(lengths, device=self.device)

    def _encode_text(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _decode_ids(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)
