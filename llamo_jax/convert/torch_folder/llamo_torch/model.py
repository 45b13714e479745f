"""The whole model: its networks, and how it is read and written."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from . import files
from .attention import Stream
from .cache import KVCache
from .config import FRAMES_PER_LATENT, NUM_FEATURES, LLaMoConfig
from .flow import FlowHead
from .generate import Generation
from .layers import Linear
from .mot import MotionTower, TextTower, run_cached, run_towers
from .motion_vae import MotionVAE
from .text import Text


class LLaMoOutput(NamedTuple):
    """What `LLaMoForMotion.forward` returns; the motion parts are None without motion."""

    text_hidden: Tensor  # [B, Lt, D], normalised
    motion_hidden: Tensor | None  # [B, Lm, D'], normalised
    text_logits: Tensor  # [B, Lt, V], float32
    exit_logits: Tensor | None  # [B, Lm], float32: that the motion has ended before this slot's latent


class LLaMoForMotion(Generation, Text, nn.Module):
    """The whole model. `text` is frozen; `motion`, `flow_head` and `exit_head` are what training adds.

    `vae` is the motion VAE. For another dtype use `from_pretrained(..., dtype=...)`: `.to(dtype)` would round the VAE
    and its statistics too.
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
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        verify: bool = True,
    ) -> Self:
        """Reads a bundle.

        Args:
          folder: with config.json, llm/, motion.safetensors and motion_vae.safetensors.
          dtype: of all weights but the VAE's, which stay float32; None keeps what the files hold.
          device: where to put them.
          verify: compare the files with the sizes and SHA-256 sums that config.json lists.

        Raises:
          ValueError: a file is missing, damaged or other than listed, or a tensor is missing, extra, of the wrong shape
            or no float.
        """
        folder = Path(folder)
        values = files.read_json(folder / "config.json")
        config = LLaMoConfig.from_json(values)
        llm = files.llm_folder(folder, values)
        if verify:
            files.verify(folder, llm, values)
        with torch.device("meta"):  # nothing is allocated: the tensors of the files become the parameters
            model = cls(config)
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        text, motion, vae = ({n.removeprefix(p): shapes[n] for n in names} for p, names in model._names().items())
        read = {
            "text.": files.read_text(llm, text, config.text.tie_embeddings, device),
            "": files.read_tensors([folder / files.MOTION_FILE], motion, (torch.float32,), device),
            "vae.": files.read_tensors([folder / files.VAE_FILE], vae, (torch.float32,), device),
        }
        state = {prefix + name: tensors.pop(name) for prefix, tensors in read.items() for name in list(tensors)}
        for name in state if dtype is not None else ():
            if not name.startswith("vae."):
                state[name] = state[name].to(dtype)  # one at a time: the tensor of the file is let go of
        model.load_state_dict(state, assign=True)
        model._llm, model._values = llm, values
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a bundle: the motion side and the VAE in float32, llm/ as it was read, config.json last.

        The text tower is frozen, so that llm/ is what it was.

        Raises:
          ValueError: the folder is not empty, or the model was not read from a bundle.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder}: exists and is not an empty folder; choose another path, or remove it")
        if self._llm is None:
            found = "this model was not read from a bundle, and has no llm/ to copy"
            raise ValueError(f"{folder}: {found}; start from from_pretrained")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self._llm, folder / "llm")
        names = self._names()
        parts = {files.MOTION_FILE: names[""], files.VAE_FILE: names["vae."]}
        state = self.state_dict()
        for file, names in parts.items():
            tensors = {n.removeprefix("vae."): state[n].detach().to("cpu", torch.float32).contiguous() for n in names}
            save_file(tensors, folder / file, metadata={"format": "pt"})
        listed = {n: {"sha256": files.sha256(folder / n), "bytes": (folder / n).stat().st_size} for n in parts}
        llm = self._values.get("llm", {}) | {"storage": "copy"}
        text = json.dumps(self._values | {"files": listed, "llm": llm}, indent=2, ensure_ascii=False)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")

    def _names(self) -> dict[str, list[str]]:
        """Prefix in the state dict -> the sorted names that its file holds; the motion side has no prefix."""
        names = {"text.": [], "": [], "vae.": []}
        for name in sorted(self.state_dict()):
            names[next((prefix for prefix in ("text.", "vae.") if name.startswith(prefix)), "")].append(name)
        return names

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.motion.bom.device

    def forward(
        self,
        *,
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
          motion_latents: normalised latents [B, Lm, Z] that the slots are to predict: slot i is fed that of slot i - 1.
            None for text only.
          motion_start: bool [B, Lm], True at the first slot of a motion, which is fed [BOM].
          motion_positions: as for text.
          motion_segments: as for text.
        """
        towers = [(self.text.model, Stream(self._embed_text(text_tokens), text_positions, text_segments))]
        if motion_latents is not None:
            previous = F.pad(motion_latents, (0, 0, 1, 0))[:, :-1]
            towers.append(
                (self.motion, Stream(self._embed_motion(previous, motion_start), motion_positions, motion_segments))
            )
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
        return run_cached(
            self.config.text, self.text.model, Stream(self._embed_text(tokens), positions, segments), cache
        )

    @torch.no_grad()
    def motion_step(
        self, latents: Tensor, start: Tensor, positions: Tensor, segments: Tensor, cache: KVCache
    ) -> Tensor:
        """Normalised hidden states [B, T, D] of new motion slots after a cache: `latents` [B, T, Z] are their inputs,
        [BOM] at `start`."""
        return run_cached(
            self.config.text, self.motion, Stream(self._embed_motion(latents, start), positions, segments), cache
        )

    @torch.no_grad()
    def encode(self, features: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Normalised latents [T // 4, Z] of un-normalised features [T, 272], of one motion or a list: up to 3 last
        frames are left out.

        Raises:
          ValueError: a motion is shorter than 4 frames.
        """
        motions = [features] if isinstance(features, Tensor) else list(features)
        for index, motion in enumerate(motions):
            if motion.ndim != 2 or motion.shape[1] != NUM_FEATURES or len(motion) < FRAMES_PER_LATENT:
                raise ValueError(
                    f"motion {index} has shape {tuple(motion.shape)}; expected [T, {NUM_FEATURES}], T at least "
                    f"{FRAMES_PER_LATENT}"
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
        padded = (
            self.vae.decode(nn.utils.rnn.pad_sequence([z.to(self.device) for z in motions], batch_first=True))[0]
            if motions
            else []
        )
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

    def _require_positions(self, needed: int, what: str) -> None:
        if needed > self.config.text.max_positions:
            raise ValueError(
                f"{what} need {needed} positions; the LLM has {self.config.text.max_positions}: make it shorter"
            )

    def _require_trained(self) -> None:
        info = self._values.get("info")
        if self._values and not (isinstance(info, dict) and info.get("trained")):
            raise ValueError("this bundle was made from an LLM alone and knows no motion yet; train it first")
