"""Bundles for PyTorch, and back: a folder that works without this project installed.

A folder for PyTorch is a bundle with a few files beside it, since a bundle's tensors have PyTorch's names and axes anyway:

    modeling_llamo.py         the model (`torch_model.py`)
    example.py                ten lines that use it
    verify.py                 compares it with outputs that JAX recorded
    reference.safetensors     those outputs, and their inputs
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from llamo_jax.convert.bundle import Bundle, read_bundle, require_replaceable, write_bundle
from llamo_jax.files import atomic_path
from llamo_jax.inference.generate import SamplingConfig, generate_latents
from llamo_jax.inference.text import caption_tokens, complete_tokens
from llamo_jax.models import flow, llamo
from llamo_jax.models.flow import SOLVERS
from llamo_jax.prompts import caption_prompt, motion_prompt, unconditional_prompt

_TEXTS = ("Once upon a time, there was a little girl.", "A person walks forward and then waves the left hand.")
_LATENTS = 60


def to_torch(bundle: str | Path, output: str | Path) -> None:
    """Writes a folder that PyTorch users run as it is: the bundle with its LLM, the model's file, an example, and a check of itself.

    Raises:
      InputError: as `read_bundle`, or something is in the way of `output`.
    """
    output = Path(output)
    require_replaceable(output)
    contents = read_bundle(bundle)
    with atomic_path(output, directory=True) as folder:
        write_bundle(folder, contents)
        package = resources.files("llamo_jax.convert")
        (folder / "modeling_llamo.py").write_text((package / "torch_model.py").read_text())
        for name in ("example.py", "verify.py"):
            (folder / name).write_text((package / "torch_folder" / name).read_text())
        tensors, said = record(contents)
        save_file(tensors, folder / "reference.safetensors", metadata={"format": "pt", "said": json.dumps(said)})
        (folder / "reference.safetensors").chmod(0o644)  # the library makes files that only their owner may read


def from_torch(folder: str | Path, output: str | Path) -> None:
    """Writes the bundle of a folder that `to_torch` or `LLaMoForMotion.save_pretrained` made; weights come back bit for bit.

    Raises:
      InputError: as `read_bundle`, or something is in the way of `output`.
    """
    require_replaceable(Path(output))
    write_bundle(output, read_bundle(folder))


def record(bundle: Bundle) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Inputs and JAX's outputs in float32: of every part of the model, of 60 latents with each solver, and of what it says.

    Returns:
      Arrays by name, and the texts.
    """
    config = bundle.config
    text = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), bundle.text)
    params = {"text": text, **bundle.motion}
    decoding = llamo.decoding_params(params)
    tokenizer = bundle.tokenizer()
    rows = [[tokenizer.bos_id, *tokenizer.encode(sentence)] for sentence in _TEXTS]
    tokens = np.array([row[: min(8, *map(len, rows))] for row in rows], np.int32)
    draw = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return draw.normal(size=shape).astype(np.float32)

    batch = _packed_batch(tokens, normal(2, 9, config.latent_channels), config.text.eom_id)
    text_hidden, motion_hidden = jax.jit(llamo.hidden, static_argnums=1)(params, config, batch)
    x_t, t = normal(2, 9, config.latent_channels), draw.uniform(size=(2, 9)).astype(np.float32)
    prompt = motion_prompt(tokenizer, _TEXTS[1])
    key = jax.random.key(0)
    noise = jax.vmap(lambda index: jax.random.normal(jax.random.fold_in(key, index), (config.latent_channels,)))(jnp.arange(_LATENTS))
    generated = {}
    for solver in SOLVERS:
        sampling = SamplingConfig(guidance=2.0, steps=10, solver=solver)
        unconditional = unconditional_prompt(tokenizer)
        (generated[f"generated_{solver}"],) = generate_latents(
            decoding, config, [prompt], unconditional, key[None], sampling, _LATENTS, until_exit=False
        )
    latents = generated["generated_euler"][:30]
    (decoded,) = bundle.codec.decode([latents])
    before, after = caption_prompt(tokenizer, config.text.eom_id)
    (caption,) = caption_tokens(decoding, config, before, [latents], after, eos_id=tokenizer.eos_id, max_tokens=48)
    new = complete_tokens(decoding, config, rows[0], eos_id=tokenizer.eos_id, max_tokens=32)
    arrays = {
        "tokens": tokens,
        "text_logits": llamo.text_logits(text, config.text, jnp.asarray(tokens)),
        **{f"batch.{name}": array for name, array in batch.items()},
        "text_hidden": text_hidden,
        "motion_hidden": motion_hidden,
        "exit_logits": llamo.exit_head(params, motion_hidden),
        "x_t": x_t,
        "t": t,
        "velocity": flow.velocity(params["flow"], jnp.asarray(x_t), flow.modulations(params["flow"], motion_hidden, jnp.asarray(t))),
        "features": decoded,
        "encoded": bundle.codec.encode([decoded])[0],
        "latents": latents,
        "decoded": decoded,
        "prompt": np.array(prompt[1:], np.int32),
        "noise": noise[None],
        **generated,
    }
    said = {
        "text": _TEXTS[0],
        "continuation": tokenizer.decode([*rows[0][1:], *new])[len(tokenizer.decode(rows[0][1:])) :],
        "caption": caption,
    }
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}, said


def _packed_batch(tokens: np.ndarray, latents: np.ndarray, eom_id: int) -> dict[str, np.ndarray]:
    """Two rows of two samples each: text, motion of 5 slots, text that begins with [EOM]; then text and motion of 3 slots; padding."""
    before, after = tokens[:, :3], tokens[:, 3:5]
    eom = np.full((len(tokens), 1), eom_id, np.int32)
    padding = np.zeros_like(eom)

    def rows(*values: int) -> np.ndarray:
        return np.tile(np.array(values, np.int32), (len(tokens), 1))

    return {
        "text_tokens": np.concatenate([before, eom, after, before, padding], 1),
        "text_positions": rows(0, 1, 2, 8, 9, 10, 0, 1, 2, 0),
        "text_segments": rows(1, 1, 1, 1, 1, 1, 2, 2, 2, 0),
        "motion_latents": latents,
        "motion_start": rows(1, 0, 0, 0, 0, 1, 0, 0, 0).astype(bool),
        "motion_positions": rows(3, 4, 5, 6, 7, 3, 4, 5, 0),
        "motion_segments": rows(1, 1, 1, 1, 1, 2, 2, 2, 0),
    }
