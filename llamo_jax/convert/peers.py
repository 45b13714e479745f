"""Weights of other projects."""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llamo_jax.config import MotionVAEConfig
from llamo_jax.errors import InputError
from llamo_jax.files import read_arrays
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models.motion_vae import MotionVAE
from llamo_jax.motion.representation import FEATURES
from llamo_jax.motion.statistics import Statistics
from llamo_jax.storage.layout import CONVOLUTION, Rule, leaves
from llamo_jax.storage.tensor_files import write_tensors
from llamo_jax.storage.weights import Weights, shapes_of


def _conv(path: str, name: str) -> tuple[Rule, Rule]:
    return Rule(f"{path}/weight", f"tae.{name}.weight", CONVOLUTION), Rule(f"{path}/bias", f"tae.{name}.bias")


def _linear(path: str, name: str) -> tuple[Rule, Rule]:
    return Rule(f"{path}/weight", f"tae.{name}.weight"), Rule(f"{path}/bias", f"tae.{name}.bias")


def _halving(number: int) -> tuple[Rule, ...]:
    path, name = f"encoder/down{number}", f"encoder.model.{2 + number}"
    return (*_conv(f"{path}/conv", f"{name}.0.conv"), *_residual(f"{path}/residual", f"{name}.1"))


def _doubling(number: int) -> tuple[Rule, ...]:
    path, name = f"decoder/up{number}", f"decoder.model.{2 + number}"
    return (*_residual(f"{path}/residual", f"{name}.0"), *_conv(f"{path}/conv", f"{name}.2.conv"))


def _residual(path: str, name: str) -> tuple[Rule, ...]:
    return (
        *_conv(f"{path}/block*/dilated", f"{name}.model.*.conv1"),
        *_conv(f"{path}/block*/pointwise", f"{name}.model.*.conv2"),
    )


MOTIONSTREAMER_TAE = (
    *_conv("encoder/input", "encoder.model.0.conv"),
    *_halving(0),
    *_halving(1),
    *_conv("encoder/output", "encoder.model.4.conv"),
    *_linear("encoder/posterior", "encoder.proj"),
    *_linear("decoder/latent", "decode_proj"),
    *_conv("decoder/input", "decoder.model.0.conv"),
    *_doubling(0),
    *_doubling(1),
    *_conv("decoder/hidden", "decoder.model.4.conv"),
    *_conv("decoder/output", "decoder.model.6.conv"),
)
"""The causal TAE of MotionStreamer (github.com/zju3dv/MotionStreamer, models/tae.py). Its posterior is means, then log
variances."""


def read_motionstreamer_tae(checkpoint: str | Path, mean: str | Path, std: str | Path) -> MotionCodec:
    """The causal TAE of MotionStreamer as a motion VAE, with ReLU and nearest-neighbour upsampling as it has them.

    Latents are its posterior means; their statistics are 0 and 1 until data is encoded (`experiments.train_vae --vae`).

    Args:
      checkpoint: .pth with its state dict under "net", as published, or .safetensors of that state dict.
      mean: .npy of [272] that its features were normalised with.
      std: .npy of the deviations [272].

    Raises:
      InputError: not such a file, or tensors that are missing, left over or of another shape.
    """
    checkpoint = Path(checkpoint)
    statistics = {name: _vector(Path(path)) for name, path in (("mean", mean), ("std", std))}
    if not (statistics["std"] > 0).all():
        raise InputError(f"{std}: deviations of 0 or less; expected more than 0 in all {FEATURES} features")
    if checkpoint.suffix == ".safetensors":
        config, params = _read(checkpoint, checkpoint)
    else:
        with tempfile.TemporaryDirectory() as folder:
            converted = Path(folder) / "tae.safetensors"
            tensors = _state_dict(checkpoint)
            write_tensors(
                converted,
                {name: (array.dtype, array.shape, lambda array=array: array) for name, array in tensors.items()},
            )
            config, params = _read(converted, checkpoint)
    features = Statistics(statistics["mean"], statistics["std"])
    return MotionCodec(config, params, features, Statistics.identity(config.latent_channels))


def _read(path: Path, where: Path) -> tuple[MotionVAEConfig, dict[str, Any]]:
    with Weights([path]) as weights:
        if (shape := weights.shape("tae.decode_proj.weight")) is None or len(shape) != 2:
            raise InputError(f"{where}: no matrix tae.decode_proj.weight; expected a causal TAE of MotionStreamer")
        config = MotionVAEConfig(width=shape[0], latent_channels=shape[1], activation="relu", upsampling="nearest")
        shapes = shapes_of(MotionVAE, config)
        for name in ("weight", "bias"):
            channels, *rest = shapes.pop(f"encoder/mean/{name}")
            shapes[f"encoder/posterior/{name}"] = (2 * channels, *rest)
        expected = leaves(MOTIONSTREAMER_TAE, shapes)
        weights.require(expected, where)
        params = weights.tree(expected, dtype=np.dtype(np.float32))
    posterior = params["encoder"].pop("posterior")
    params["encoder"]["mean"] = {name: leaf[: config.latent_channels] for name, leaf in posterior.items()}
    return config, params


def _state_dict(path: Path) -> Mapping[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path}: a .pth file needs PyTorch to be read; install it, or save the tensors as safetensors"
        ) from error
    if not path.exists():
        raise InputError(f"{path}: no such file; expected the checkpoint of a causal TAE")
    try:
        # weights_only reads tensors and containers and runs nothing that the file brings.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        state = loaded["net"]
        return {name: tensor.float().contiguous().numpy() for name, tensor in state.items()}
    except Exception as error:  # pickle, zipfile and torch raise their own types for damaged files
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f'{path}: not a checkpoint with a state dict under "net" ({type(error).__name__}: {reason})'
        ) from error


def _vector(path: Path) -> np.ndarray:
    array = read_arrays(path).get("array")
    if array is None or math.prod(array.shape) != FEATURES or not np.isfinite(array).all():
        found = "several arrays" if array is None else f"shape {array.shape}"
        raise InputError(f"{path}: {found}; expected {FEATURES} finite numbers in one .npy array")
    return array.reshape(FEATURES).astype(np.float32)
