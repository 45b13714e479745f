"""Bundles for PyTorch, and back: a folder that works without this project installed.

A folder for PyTorch is a bundle with a few files beside it, since a bundle's tensors have PyTorch's names and axes
anyway:

    modeling_llamo.py         the model
    llamo_torch/              its code
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

from llamo_jax.batch import Batch, MotionRows, TextRows
from llamo_jax.config import SamplingConfig
from llamo_jax.files import atomic_path
from llamo_jax.inference.decoding import noise_of
from llamo_jax.inference.generate import generate_latents
from llamo_jax.inference.text import caption_tokens, complete_tokens
from llamo_jax.models import flow, llamo
from llamo_jax.prompts import caption_prompt, motion_prompt, unconditional_prompt
from llamo_jax.solvers import SOLVERS
from llamo_jax.storage.bundle import Bundle, read_bundle, require_replaceable, write_bundle

_TEXTS = ("Once upon a time, there was a little girl.", "A person walks forward and then waves the left hand.")
_LATENTS = 60


def to_torch(bundle: str | Path, output: str | Path) -> None:
    """Writes a folder that PyTorch users run as it is: the bundle with its LLM, code, an example, and a check of
    itself.

    Raises:
      InputError: as `read_bundle`, or something is in the way of `output`.
    """
    output = Path(output)
    require_replaceable(output)
    contents = read_bundle(bundle)
    with atomic_path(output, directory=True) as folder:
        write_bundle(folder, contents)
        source = resources.files("llamo_jax.convert") / "torch_folder"
        (folder / "llamo_torch").mkdir()
        for part in (source, source / "llamo_torch"):
            for file in part.iterdir():
                if file.name.endswith(".py") and (part is not source or file.name != "__init__.py"):
                    target = folder / file.name if part is source else folder / "llamo_torch" / file.name
                    target.write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
        tensors, said = record(contents)
        save_file(tensors, folder / "reference.safetensors", metadata={"format": "pt", "said": json.dumps(said)})
        (folder / "reference.safetensors").chmod(0o644)  # the library makes files that only their owner may read


def from_torch(folder: str | Path, output: str | Path) -> None:
    """Writes the bundle of a folder that `to_torch` or `LLaMoForMotion.save_pretrained` made; weights come back bit for
    bit.

    Raises:
      InputError: as `read_bundle`, or something is in the way of `output`.
    """
    require_replaceable(Path(output))
    write_bundle(output, read_bundle(folder))


def record(bundle: Bundle) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Inputs and JAX's outputs in float32: of each part of the model, of 60 latents with each solver, and of texts.

    A free run of 60 latents multiplies rounding, some more than others. How much is recorded beside it, as the largest
    difference between JAX's own run and another whose noise is changed in its last bit.

    Returns:
      Arrays by name, and the texts.
    """
    config = bundle.config
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), bundle.params)
    tokenizer = bundle.tokenizer()
    rows = [[tokenizer.bos_id, *tokenizer.encode(sentence)] for sentence in _TEXTS]
    tokens = np.array([row[: min(8, *map(len, rows))] for row in rows], np.int32)
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    batch = _packed_batch(tokens, normal(2, 9, config.latent_channels), config.text.eom_id)
    text_hidden, motion_hidden = jax.jit(llamo.hidden, static_argnums=1)(params, config, batch)
    x_t, t = normal(2, 9, config.latent_channels), random.uniform(size=(2, 9)).astype(np.float32)
    modulations = flow.modulations(
        params["flow_head"], motion_hidden, flow.embed_time(params["flow_head"], jnp.asarray(t))
    )
    prompt = motion_prompt(tokenizer, _TEXTS[1])
    key = jax.random.key(0)
    noise = jnp.stack([noise_of(config, key[None], jnp.array([index])) for index in range(_LATENTS)], 1)
    draws = jnp.concatenate([noise, jnp.nextafter(noise, jnp.inf), jnp.nextafter(noise, -jnp.inf)])
    generated = {}
    for solver in SOLVERS:
        sampling, unconditional = SamplingConfig(guidance=2.0, steps=10, solver=solver), unconditional_prompt(tokenizer)
        own, *others = generate_latents(
            params,
            config,
            [prompt] * len(draws),
            unconditional,
            jnp.stack([key] * len(draws)),
            sampling,
            max_latents=_LATENTS,
            until_exit=False,
            noise=draws,
        )
        generated[f"generated.{solver}"] = own
        generated[f"divergence.{solver}"] = max(np.abs(other - own).max() for other in others)
    latents = generated["generated.euler"][:30]
    (decoded,) = bundle.codec.decode([latents])
    before, after = caption_prompt(tokenizer, config.text.eom_id)
    (caption,) = caption_tokens(params, config, before, [latents], after, eos_id=tokenizer.eos_id, max_tokens=48)
    new = complete_tokens(params, config, rows[0], eos_id=tokenizer.eos_id, max_tokens=32)
    arrays = {
        "tokens": tokens,
        "text_logits": llamo.text_logits(params["text"], config.text, jnp.asarray(tokens)),
        **{f"batch.{name.replace('/', '_')}": array for name, array in batch.arrays().items()},
        "text_hidden": text_hidden,
        "motion_hidden": motion_hidden,
        "exit_logits": llamo.exit_head(params, motion_hidden),
        "x_t": x_t,
        "t": t,
        "velocity": flow.velocity(params["flow_head"], jnp.asarray(x_t), modulations),
        "features": decoded,
        "encoded": bundle.codec.encode([decoded])[0],
        "latents": latents,
        "decoded": decoded,
        "prompt": np.array(prompt, np.int32),
        "noise": noise,
        **generated,
    }
    said = {
        "text": _TEXTS[0],
        "continuation": tokenizer.decode([*rows[0][1:], *new])[len(tokenizer.decode(rows[0][1:])) :],
        "caption": caption,
    }
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}, said


def _packed_batch(tokens: np.ndarray, latents: np.ndarray, eom_id: int) -> Batch:
    """Two rows of two samples each, then padding.

    The first sample is text, a motion of 5 slots, and text that begins with [EOM]; the second text and 3 slots.
    """
    before, after = tokens[:, :3], tokens[:, 3:5]
    eom = np.full((len(tokens), 1), eom_id, np.int32)
    padding = np.zeros_like(eom)

    def rows(*values: int) -> np.ndarray:
        return np.tile(np.array(values, np.int32), (len(tokens), 1))

    text = TextRows(
        tokens=np.concatenate([before, eom, after, before, padding], 1),
        positions=rows(0, 1, 2, 8, 9, 10, 0, 1, 2, 0),
        segments=rows(1, 1, 1, 1, 1, 1, 2, 2, 2, 0),
    )
    motion = MotionRows(
        latents=latents,
        start=rows(1, 0, 0, 0, 0, 1, 0, 0, 0).astype(bool),
        positions=rows(3, 4, 5, 6, 7, 3, 4, 5, 0),
        segments=rows(1, 1, 1, 1, 1, 2, 2, 2, 0),
    )
    return Batch(text, motion)
