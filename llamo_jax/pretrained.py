"""`llamo_jax.load(path)`: a whole model for a person to hold."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llamo_jax.config import Length, SamplingConfig
from llamo_jax.errors import InputError
from llamo_jax.inference.generate import generate_latents
from llamo_jax.inference.session import MotionSession, Streams, Window
from llamo_jax.inference.text import caption_tokens, complete_tokens
from llamo_jax.models import llamo
from llamo_jax.motion import FPS, MotionClip
from llamo_jax.motion.representation import LATENTS_PER_SECOND, MAX_SECONDS
from llamo_jax.prompts import caption_prompt, motion_prompt, unconditional_prompt
from llamo_jax.solvers import Solver
from llamo_jax.storage import hub
from llamo_jax.storage.bundle import Bundle, LLMStorage, read_bundle, write_bundle

LONGEST = 63
"""Latents of the longest motion of training, where a bundle does not say."""


class Llamo:
    """A loaded bundle: text-to-motion, motion-to-text, and the LLM as it was."""

    def __init__(self, bundle: Bundle):
        self.bundle = bundle
        self.config = bundle.config
        self.codec = bundle.codec
        self.tokenizer = bundle.tokenizer()

    @classmethod
    def from_pretrained(
        cls, path_or_id: str | Path, *, revision: str | None = None, dtype: Any | None = None, verify: bool = True
    ) -> Self:
        """Reads a bundle.

        Args:
          path_or_id: a folder, or an id on the Hugging Face Hub ("owner/name"), from where it is fetched once.
          revision: branch, tag or commit, for ids.
          dtype: of the text tower and of all activations; None is that of the LLM's files. On a CPU float32 is fastest.
          verify: compare every file with the hash that the bundle has of it.

        Raises:
          InputError: not a bundle, a damaged one, or one that cannot be fetched.
        """
        return cls(read_bundle(hub.resolve(path_or_id, ("*",), revision).folder, dtype=dtype, verify=verify))

    def save_pretrained(self, path: str | Path, *, llm_storage: LLMStorage = "copy") -> None:
        """Writes the bundle to a folder, whole or not at all; with a copy of the LLM, links to it, or its id and hashes
        ("pin")."""
        write_bundle(path, self.bundle, llm_storage=llm_storage)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload LLaMo bundle",
        llm_storage: LLMStorage = "copy",
    ) -> str:
        """Uploads the bundle with its card to the Hugging Face Hub, and returns the commit's URL.

        Args:
          repo_id: "owner/name"; made if it is not there.
          private: whether a new repository is; None is the owner's default.
          token: of the Hub; None is that of `hf auth login`.
          commit_message: of the one commit.
          llm_storage: "pin" leaves the LLM where it is on the Hub.

        Raises:
          InputError: not logged in, not allowed, no network, or an LLM that is to be pinned and is not from the Hub.
        """
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle"
            self.save_pretrained(bundle, llm_storage=llm_storage)
            return hub.push(bundle, repo_id, private=private, token=token, message=commit_message)

    def generate(
        self,
        text: str | Sequence[str],
        *,
        seed: int = 0,
        guidance: float = SamplingConfig.guidance,
        steps: int = SamplingConfig.steps,
        solver: Solver = SamplingConfig.solver,
        shift: float = SamplingConfig.shift,
        temperature: float = SamplingConfig.temperature,
        seconds: float | None = None,
        max_seconds: float = MAX_SECONDS,
        length: Length = SamplingConfig.length,
        source: Literal["positions", "rotations"] = "positions",
    ) -> MotionClip | list[MotionClip]:
        """Motion for a sentence, or for each of several.

        Args:
          text: what to do.
          seed: the same seed, text and settings give the same motion. Sentence i of a list draws from its own stream,
            i.
          guidance: classifier-free guidance scale; 1 is off.
          steps: solver steps a latent.
          solver: of the ODE, one of `solvers.SOLVERS`.
          shift: of its steps: uniform at 1, above it finer where there is much noise.
          temperature: standard deviation of the noise; below 1 motions are less lively.
          seconds: exact length; None lets the exit head end the motion.
          max_seconds: where to end a motion that the exit head does not.
          length: where the exit head ends a motion: at the median of the lengths that it holds possible, or at one that
            is drawn from them. Either way the motion is the same as far as it goes.
          source: which features the joints come from.

        Returns:
          A clip, or a list of clips for a list of texts, at 30 frames/s with the text as caption.

        Raises:
          InputError: an empty text, a setting out of range, or a bundle that was never trained on motion.
        """
        self.require_trained()
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            return []
        duration = max_seconds if seconds is None else seconds
        if not 1 / LATENTS_PER_SECOND <= duration < math.inf:
            raise InputError(f"duration is {duration} s; expected at least {1 / LATENTS_PER_SECOND:.2f} s, one latent")
        prompts = [motion_prompt(self.tokenizer, text) for text in texts]
        max_latents = math.ceil(round(duration * LATENTS_PER_SECOND, 6))
        self._require_positions(
            max(map(len, prompts)) + max_latents + 1, f"a text of {max(map(len, prompts))} tokens and {duration:g} s"
        )
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(jnp.arange(len(texts)))
        latents = generate_latents(
            self.bundle.params,
            self.config,
            prompts,
            unconditional_prompt(self.tokenizer),
            keys,
            SamplingConfig(
                guidance=float(guidance),
                steps=steps,
                solver=solver,
                shift=shift,
                temperature=temperature,
                length=length,
            ),
            max_latents=max_latents,
            until_exit=seconds is None,
        )
        frames = round(duration * FPS)
        clips = [
            MotionClip.from_features(features[:frames], source=source, captions=(text,))
            for features, text in zip(self.codec.decode(latents), texts, strict=True)
        ]
        return clips[0] if isinstance(text, str) else clips

    def stream(self, text: str, *, seed: int = 0, until_exit: bool = False, **sampling: Any) -> MotionSession:
        """Motion that comes as it is made, four frames at a time, for as long as it is asked for.

        Args:
          text: what to do; `MotionSession.prompt` changes it in mid-motion.
          seed: as of `generate`, whose motion this is for as long as a row of training.
          until_exit: end it where the exit head does.
          sampling: fields of `SamplingConfig`.

        Raises:
          InputError: as of `generate`.
        """
        return self.streams(**sampling).open(text, seed, until_exit=until_exit)

    def streams(self, *, capacity: int = 1, window: Window | None = None, **sampling: Any) -> Streams:
        """Sessions that share the device, up to `capacity` at a time; `Streams.open` makes one.

        Args:
          capacity: most sessions at a time: a step takes as long whether all of them are there or one.
          window: how much of a motion its context holds; None is what a row of the bundle's training holds.
          sampling: fields of `SamplingConfig`.
        """
        self.require_trained()
        return Streams(self, SamplingConfig(**sampling), capacity=capacity, window=window or Window.of(self.longest))

    def caption(self, clip: MotionClip | Sequence[MotionClip], *, max_tokens: int = 96) -> str | list[str]:
        """A sentence for a motion, or for each of several; greedy.

        Raises:
          InputError: a clip of less than 4 frames, or a bundle that was never trained on motion.
        """
        self.require_trained()
        clips = [clip] if isinstance(clip, MotionClip) else list(clip)
        if not clips:
            return []
        captions = self.caption_latents(self.codec.encode([clip.features() for clip in clips]), max_tokens=max_tokens)
        return captions[0] if isinstance(clip, MotionClip) else captions

    def caption_latents(self, motions: Sequence[Float[np.ndarray, "n Z"]], *, max_tokens: int = 96) -> list[str]:
        """Captions of motions that are latents already (`encode`); else as `caption`."""
        before, after = caption_prompt(self.tokenizer, self.config.text.eom_id)
        longest = max(map(len, motions))
        needed = len(before) + longest + 1 + len(after) + max_tokens
        self._require_positions(
            needed, f"a motion of {longest / LATENTS_PER_SECOND:.1f} s and a caption of up to {max_tokens} tokens"
        )
        tokens = caption_tokens(
            self.bundle.params, self.config, before, motions, after, eos_id=self.tokenizer.eos_id, max_tokens=max_tokens
        )
        return [self.tokenizer.decode(ids).strip() for ids in tokens]

    def complete(self, text: str, *, max_tokens: int = 64) -> str:
        """The LLM's own greedy continuation of a text. Reads nothing of the motion side.

        Raises:
          InputError: the LLM has not as many positions.
        """
        prompt = [self.tokenizer.bos_id, *self.tokenizer.encode(text)]
        self._require_positions(len(prompt) + max_tokens, f"a text of {len(prompt)} tokens and {max_tokens} more")
        new = complete_tokens(
            self.bundle.params, self.config, prompt, eos_id=self.tokenizer.eos_id, max_tokens=max_tokens
        )
        return self.tokenizer.decode([*prompt[1:], *new])[len(self.tokenizer.decode(prompt[1:])) :]

    def text_logits(self, token_ids: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """Float32 logits of the LLM on token ids; the same bits before and after any motion training.

        Raises:
          InputError: an id is none of the LLM's.
        """
        ids, vocab_size = np.asarray(token_ids), self.config.text.vocab_size
        if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
            raise InputError(f"token ids run from {ids.min()} to {ids.max()}; expected 0 to {vocab_size - 1}")
        return text_logits(self.bundle.params["text"], self.config.text, jnp.asarray(token_ids))

    def encode(self, clip: MotionClip) -> Float[np.ndarray, "n Z"]:
        """Normalised latents of a clip, 7.5 a second."""
        return self.codec.encode([clip.features()])[0]

    def decode_latents(self, latents: Float[np.ndarray, "n Z"]) -> Float[np.ndarray, "4*n 272"]:
        """Un-normalised features of normalised latents."""
        return self.codec.decode([np.asarray(latents)])[0]

    @property
    def longest(self) -> int:
        """Latents of the longest motion that it was trained on whole, as its bundle says."""
        found: Any = self.bundle.info
        for name in ("recipe", "loader", "motion_len"):
            found = found.get(name) if isinstance(found, dict) else None
        return found - 1 if isinstance(found, int) and found > 1 else LONGEST

    def require_trained(self) -> None:
        """Raises InputError for a bundle of an LLM alone, which knows no motion."""
        if not self.bundle.info.get("trained"):
            raise InputError(
                "this bundle was made from an LLM alone and knows no motion yet; "
                "train it with `python -m experiments.pretrain`"
            )

    def _require_positions(self, needed: int, what: str) -> None:
        if needed > self.config.text.max_positions:
            raise InputError(
                f"{what} need {needed} positions; the LLM has {self.config.text.max_positions}: make it shorter"
            )


text_logits = jax.jit(llamo.text_logits, static_argnums=1)
"""(text tower, its config, token ids) -> logits of the LLM alone, compiled."""
