"""MotionStreamer's causal TAE: imported, it computes what its architecture computes in PyTorch."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from llamo_jax.convert.peers import read_motionstreamer_tae
from llamo_jax.errors import InputError
from llamo_jax.models import motion_vae
from llamo_jax.storage.bundle import read_codec, write_codec

torch = pytest.importorskip("torch", reason="needs PyTorch, the reference that the import is compared with")

pytestmark = pytest.mark.torch

WIDTH, CHANNELS = 12, 4


def state_dict() -> dict[str, "torch.Tensor"]:
    """Tensors of the published layout, at random."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"decode_proj": (WIDTH, CHANNELS), "encoder.proj": (2 * CHANNELS, WIDTH)}
    shapes |= {"encoder.model.0.conv": (WIDTH, 272, 3), "encoder.model.4.conv": (WIDTH, WIDTH, 3)}
    shapes |= {f"decoder.model.{i}.conv": (WIDTH, WIDTH, 3) for i in (0, 4)} | {"decoder.model.6.conv": (272, WIDTH, 3)}
    for i in (2, 3):
        shapes |= {f"encoder.model.{i}.0.conv": (WIDTH, WIDTH, 4), f"decoder.model.{i}.2.conv": (WIDTH, WIDTH, 3)}
        for part in (f"encoder.model.{i}.1", f"decoder.model.{i}.0"):
            for j in range(3):
                shapes |= {f"{part}.model.{j}.conv1": (WIDTH, WIDTH, 3), f"{part}.model.{j}.conv2": (WIDTH, WIDTH, 1)}
    state = {}
    for name, shape in shapes.items():
        state[f"tae.{name}.weight"] = torch.randn(shape, generator=generator) / np.prod(shape[1:]) ** 0.5
        state[f"tae.{name}.bias"] = 0.1 * torch.randn(shape[:1], generator=generator)
    return state


def reference(state: dict[str, "torch.Tensor"], features: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """Posterior means and what they decode to: the architecture as its paper and code describe it, on channels
    first."""
    functional = torch.nn.functional

    def conv(name: str, x: "torch.Tensor", stride: int = 1, dilation: int = 1) -> "torch.Tensor":
        weight, bias = state[f"tae.{name}.weight"], state[f"tae.{name}.bias"]
        padding = (weight.shape[-1] - 1) * dilation + 1 - stride
        return functional.conv1d(functional.pad(x, (padding, 0)), weight, bias, stride=stride, dilation=dilation)

    def residual(name: str, x: "torch.Tensor") -> "torch.Tensor":
        for j, dilation in enumerate((9, 3, 1)):
            x = x + conv(f"{name}.model.{j}.conv2", conv(f"{name}.model.{j}.conv1", x.relu(), dilation=dilation).relu())
        return x

    x = conv("encoder.model.0.conv", features.transpose(1, 2)).relu()
    for i in (2, 3):
        x = residual(f"encoder.model.{i}.1", conv(f"encoder.model.{i}.0.conv", x, stride=2))
    x = conv("encoder.model.4.conv", x).transpose(1, 2)
    mean = (x @ state["tae.encoder.proj.weight"].T + state["tae.encoder.proj.bias"]).chunk(2, dim=2)[0]
    x = (mean @ state["tae.decode_proj.weight"].T + state["tae.decode_proj.bias"]).transpose(1, 2)
    x = conv("decoder.model.0.conv", x).relu()
    for i in (2, 3):
        x = functional.interpolate(residual(f"decoder.model.{i}.0", x), scale_factor=2, mode="nearest")
        x = conv(f"decoder.model.{i}.2.conv", x)
    return mean, conv("decoder.model.6.conv", conv("decoder.model.4.conv", x).relu()).transpose(1, 2)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    state = state_dict()
    paths = {name: tmp_path / name for name in ("net_last.pth", "tae.safetensors", "Mean.npy", "Std.npy")}
    torch.save({"net": state}, paths["net_last.pth"])
    save_file({name: tensor.numpy() for name, tensor in state.items()}, paths["tae.safetensors"])
    np.save(paths["Mean.npy"], np.linspace(-1, 1, 272))
    np.save(paths["Std.npy"], np.linspace(0.5, 2, 272).reshape(1, 272))
    return paths


@pytest.mark.parametrize("name", ["net_last.pth", "tae.safetensors"])
def test_it_computes_what_the_original_computes(files: dict[str, Path], name: str) -> None:
    codec = read_motionstreamer_tae(files[name], files["Mean.npy"], files["Std.npy"])
    assert (codec.config.width, codec.config.latent_channels, codec.config.dilations) == (WIDTH, CHANNELS, (9, 3, 1))
    features = np.random.default_rng(0).normal(size=(2, 64, 272)).astype(np.float32)
    mean, decoded = reference(state_dict(), torch.from_numpy(features))
    ours = motion_vae.encode(codec.params, codec.config, jnp.asarray(features))[0]
    np.testing.assert_allclose(ours, mean.numpy(), atol=1e-5)
    np.testing.assert_allclose(motion_vae.decode(codec.params, codec.config, ours)[0], decoded.numpy(), atol=1e-5)


def test_it_is_a_vae_like_any_other(files: dict[str, Path], tmp_path: Path) -> None:
    codec = read_motionstreamer_tae(files["net_last.pth"], files["Mean.npy"], files["Std.npy"])
    write_codec(tmp_path / "vae", codec)
    again = read_codec(tmp_path / "vae")
    assert again.config == codec.config
    motion = np.random.default_rng(0).normal(size=(50, 272))
    np.testing.assert_array_equal(again.encode([motion])[0], codec.encode([motion])[0])
    latents = codec.encode([motion])
    np.testing.assert_allclose(np.concatenate(list(codec.stream(latents[0]))), codec.decode(latents)[0], atol=1e-5)


def test_mistakes_are_told(files: dict[str, Path], tmp_path: Path) -> None:
    state = state_dict()

    def expect(message: str, changed: object, mean: str = "Mean.npy", std: str = "Std.npy") -> None:
        torch.save(changed, tmp_path / "changed.pth")
        with pytest.raises(InputError, match=message):
            read_motionstreamer_tae(tmp_path / "changed.pth", tmp_path / mean, tmp_path / std)

    name = "tae.encoder.model.2.1.model.0.conv1.bias"
    expect(
        rf"changed.pth: 1 tensors missing: {name} \(12,\)",
        {"net": {key: value for key, value in state.items() if key != name}},
    )
    expect(r"1 tensors unexpected: tae.codebook \(2,\)", {"net": state | {"tae.codebook": torch.zeros(2)}})
    expect(r"1 tensors of another shape", {"net": state | {name: torch.zeros(3)}})
    expect("no matrix tae.decode_proj.weight", {"net": {"a": torch.zeros(2)}})
    expect('not a checkpoint with a state dict under "net"', state)
    expect('not a checkpoint with a state dict under "net"', {"net": Path("objects are not unpickled")})
    np.save(tmp_path / "short.npy", np.zeros(263))
    expect(r"short.npy: shape \(263,\); expected 272 finite numbers", {"net": state}, mean="short.npy")
    np.save(tmp_path / "zero.npy", np.zeros(272))
    expect("deviations of 0 or less", {"net": state}, std="zero.npy")
    with pytest.raises(InputError, match="no such file"):
        read_motionstreamer_tae(tmp_path / "absent.pth", files["Mean.npy"], files["Std.npy"])
