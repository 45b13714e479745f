"""Bundles: back as they were, and strict about what is in them."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llamo_jax.convert.bundle import read_bundle, read_codec, write_bundle, write_codec
from llamo_jax.errors import InputError
from llamo_jax.trees import flatten


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def test_back_again_is_identical(bundle: Path, tmp_path: Path) -> None:
    first = read_bundle(bundle)
    write_bundle(tmp_path / "again", first)
    again = read_bundle(tmp_path / "again")
    assert again.config == first.config and again.codec.config == first.codec.config and again.info == first.info
    for name in ("text", "motion"):
        for path, leaf in flatten(getattr(first, name)).items():
            np.testing.assert_array_equal(flatten(getattr(again, name))[path], leaf, err_msg=path)
    for name in ("feature_mean", "feature_std", "latent_mean", "latent_std"):
        np.testing.assert_array_equal(getattr(again.codec, name), getattr(first.codec, name))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again"]


def test_a_bundle_holds_the_text_tower_that_it_was_given(bundle: Path, tmp_path: Path) -> None:
    whole = read_bundle(bundle)
    changed = dataclasses.replace(whole, text=whole.text | {"norm": whole.text["norm"] + 1})
    moved = dataclasses.replace(whole, llm_folder=tmp_path / "moved")
    for wrong, message in ((changed, "no longer holds the text tower"), (moved, "cannot be read")):
        with pytest.raises(InputError, match=message):
            write_bundle(tmp_path / "new", wrong)
    assert not list(tmp_path.iterdir())


def test_a_vae_alone_comes_back(bundle: Path, tmp_path: Path) -> None:
    write_codec(tmp_path / "vae", read_codec(bundle))
    for path, leaf in flatten(read_codec(bundle).params).items():
        np.testing.assert_array_equal(flatten(read_codec(tmp_path / "vae").params)[path], leaf)


@pytest.mark.parametrize("file", ["motion.safetensors", "motion_vae.safetensors"])
def test_tensors_that_do_not_fit_are_named(copy: Path, file: str) -> None:
    tensors = load_file(copy / file)
    name = sorted(tensors)[0]

    def expect(message: str, changed: dict[str, np.ndarray]) -> None:
        save_file(changed, copy / file)
        with pytest.raises(InputError, match=f"{file}: {message}"):
            read_bundle(copy)

    expect(f"1 tensors are missing: {name}", {key: value for key, value in tensors.items() if key != name})
    expect("1 tensors too many: surplus", tensors | {"surplus": np.zeros(1, np.float32)})
    expect(rf'tensor "{name}" has shape \(7,\)', tensors | {name: np.zeros(7, np.float32)})


def test_broken_bundles_are_told(copy: Path, tmp_path: Path) -> None:
    config = json.loads((copy / "config.json").read_text())

    def expect(message: str, changed: object) -> None:
        (copy / "config.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=message):
            read_bundle(copy)

    expect("bundle format 99; this version of llamo_jax reads format 1", config | {"format_version": 99})
    expect("no format_version", {"architectures": ["LlamaForCausalLM"]})
    expect("LlamoConfig: missing fields", config | {"model": {}})
    expect("unknown fields", config | {"motion_vae": config["motion_vae"] | {"depth": 3}})
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "motion.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        read_bundle(copy)
    (copy / "motion.safetensors").unlink()
    with pytest.raises(InputError, match="no such file; the bundle is incomplete"):
        read_bundle(copy)
    with pytest.raises(InputError, match="no such bundle"):
        read_bundle(tmp_path / "absent")


@pytest.mark.parametrize("config", ["{}", '{"architectures": ["LlamaForCausalLM"]}', "no json"])
def test_a_folder_with_a_config_of_its_own_is_not_replaced(bundle: Path, tmp_path: Path, config: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(config)
    for write in (lambda path: write_bundle(path, read_bundle(bundle)), lambda path: write_codec(path, read_codec(bundle))):
        with pytest.raises(InputError, match="exists and is not a bundle"):
            write(tmp_path / "model")
    assert (tmp_path / "model" / "config.json").read_text() == config


def test_tensors_that_are_not_finite_float32_are_told(copy: Path) -> None:
    tensors = load_file(copy / "motion.safetensors")
    for wrong in (np.nan * tensors["motion/bom"], tensors["motion/bom"].astype(np.int32)):
        save_file(tensors | {"motion/bom": wrong}, copy / "motion.safetensors")
        with pytest.raises(InputError, match=r'tensor "motion/bom" .* expected finite float32'):
            read_bundle(copy)


def test_nothing_else_is_overwritten(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not a bundle"):
        write_bundle(tmp_path / "notes", read_bundle(bundle))
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"
