"""Bundles: back as they were, and strict about what is in them."""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from llamo_jax.convert.bundle import read_bundle, read_codec, update_info, write_bundle, write_codec
from llamo_jax.convert.hub import Source
from llamo_jax.convert.huggingface import resolve_llm
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
    moved = dataclasses.replace(whole, llm=Source(tmp_path / "moved"))
    for wrong, message in ((changed, "no longer holds the text tower"), (moved, "no such folder")):
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

    expect(f"1 tensors missing: {name}", {key: value for key, value in tensors.items() if key != name})
    expect(r"1 tensors unexpected: surplus \(1,\)", tensors | {"surplus": np.zeros(1, np.float32)})
    expect(rf"1 tensors of another shape: {name} is \(7,\), expected", tensors | {name: np.zeros(7, np.float32)})


def test_broken_bundles_are_told(copy: Path, tmp_path: Path) -> None:
    config = json.loads((copy / "config.json").read_text())

    def expect(message: str, changed: object) -> None:
        (copy / "config.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=message):
            read_bundle(copy)

    expect("bundle format 99; this llamo_jax reads formats 1 to 2: upgrade", config | {"format_version": 99})
    expect("no format_version", {"architectures": ["LlamaForCausalLM"]})
    expect("LlamoConfig: missing fields", config | {"model": {}})
    expect("unknown fields", config | {"motion_vae": config["motion_vae"] | {"depth": 3}})
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "motion.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        read_bundle(copy)
    (copy / "motion.safetensors").unlink()
    with pytest.raises(InputError, match=r"motion\.safetensors: cannot be read"):
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


def test_tensors_that_are_not_finite_float32_are_told(bundle: Path, copy: Path, tmp_path: Path) -> None:
    tensors = load_file(copy / "motion.safetensors")
    save_file(tensors | {"motion.bom": tensors["motion.bom"].astype(np.float16)}, copy / "motion.safetensors")
    with pytest.raises(InputError, match=r"motion.bom are not of float32"):
        read_bundle(copy)
    save_file(tensors | {"motion.bom": np.nan * tensors["motion.bom"]}, copy / "motion.safetensors")
    with pytest.raises(InputError, match="motion/bom hold numbers that are not finite"):
        read_bundle(copy, verify=False)
    whole = read_bundle(bundle)
    whole.motion["motion"]["bom"] *= np.inf
    with pytest.raises(InputError, match="motion/bom hold numbers that are not finite"):
        write_bundle(tmp_path / "diverged", whole)
    assert not (tmp_path / "diverged").exists()


FILES = ("motion.safetensors", "motion_vae.safetensors", "llm/model.safetensors")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_tensor_is_an_error_and_never_a_model(bundle: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Whatever is done to a tensor of whichever file: flipped bits, transposed, reshaped, renamed, swapped, dropped, or of another type."""
    copy = Path(shutil.copytree(bundle, tempfile.mkdtemp(dir=tmp_path) + "/bundle"))
    file = copy / data.draw(st.sampled_from(FILES))
    tensors = load_file(file)
    name = data.draw(st.sampled_from(sorted(tensors)))
    tensor = tensors[name]
    change = data.draw(st.sampled_from(["bit", "drop", "rename", "reshape", "transpose", "swap", "cast", "cut"]))
    if change == "bit":
        raw = bytearray(file.read_bytes())
        start = 8 + int.from_bytes(raw[:8], "little")
        raw[data.draw(st.integers(start, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(raw)
    elif change == "cut":
        file.write_bytes(file.read_bytes()[: -data.draw(st.integers(1, 100))])
    else:
        others = [other for other in tensors if other != name and tensors[other].shape == tensor.shape]
        other = data.draw(st.sampled_from(others)) if others else None
        changed = {
            "drop": {},
            "rename": {name + data.draw(st.sampled_from("x.")): tensor},
            "reshape": {name: tensor.reshape(1, *tensor.shape)},
            "transpose": {name: np.ascontiguousarray(tensor.T)},
            "swap": {name: tensors[other], other: tensor} if other else {},
            "cast": {name: tensor.astype(np.float16)},
        }[change]
        kept = {key: value for key, value in tensors.items() if key != name and key not in changed}
        result = kept | changed
        assume(result.keys() != tensors.keys() or any(not np.array_equal(result[key], tensors[key]) for key in tensors) or change == "cast")
        save_file(result, file, metadata={"format": "pt"})
    with pytest.raises(InputError) as error:
        read_bundle(copy)
    assert file.name in str(error.value) or str(copy / "llm") in str(error.value)


def test_the_llm_is_copied_linked_or_pinned(bundle: Path, llm_folder: Path, tmp_path: Path, hub_cache: Path) -> None:
    whole = read_bundle(bundle)
    write_bundle(tmp_path / "linked", whole, llm_storage="link")
    with pytest.raises(InputError, match="a folder cannot be pinned"):
        write_bundle(tmp_path / "pinned", whole, llm_storage="pin")
    source = resolve_llm("someone/tiny-llm")
    assert source == Source(hub_cache, "someone/tiny-llm", hub_cache.name)
    write_bundle(tmp_path / "pinned", dataclasses.replace(whole, llm=source), llm_storage="pin")
    assert (tmp_path / "linked" / "llm" / "config.json").is_symlink() and not (tmp_path / "pinned" / "llm").exists()
    for name in ("linked", "pinned"):
        again = read_bundle(tmp_path / name)
        for path, leaf in flatten(whole.text).items():
            np.testing.assert_array_equal(flatten(again.text)[path], leaf)
    pinned = read_bundle(tmp_path / "pinned")
    assert pinned.llm == source
    write_bundle(tmp_path / "copied", pinned)
    assert (tmp_path / "copied" / "llm" / "model.safetensors").read_bytes() == (llm_folder / "model.safetensors").read_bytes()
    # What the id leads to is held to the hashes too, and to nothing but what was there.
    (hub_cache / "generation_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"generation_config\.json came after the bundle was written"):
        read_bundle(tmp_path / "pinned")


def test_a_linked_llm_that_changed_is_told(bundle: Path, llm_folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(llm_folder, tmp_path / "llm"))
    write_bundle(tmp_path / "linked", dataclasses.replace(read_bundle(bundle), llm=Source(own)), llm_storage="link")
    tensors = load_file(own / "model.safetensors")
    save_file(tensors | {"model.norm.weight": tensors["model.norm.weight"] + 1}, own / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"linked/llm/model.safetensors: SHA-256 .* damaged or was replaced"):
        read_bundle(tmp_path / "linked")
    (own / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no such file"):
        read_bundle(tmp_path / "linked")


def test_format_1_is_read_and_written_anew_as_format_2(bundle: Path, tmp_path: Path) -> None:
    """Format 1 had the tree's paths as names, stacked layers, convolutions as in memory, and no hashes."""
    whole = read_bundle(bundle)
    old = Path(shutil.copytree(bundle, tmp_path / "old"))
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps({key: config[key] for key in ("model", "motion_vae", "info")} | {"format_version": 1}))
    save_file({path: np.asarray(leaf) for path, leaf in flatten(whole.motion).items()}, old / "motion.safetensors")
    codec = {path: np.asarray(leaf) for path, leaf in flatten(whole.codec.params).items()}
    names = ("feature_mean", "feature_std", "latent_mean", "latent_std")
    save_file(codec | {name: getattr(whole.codec, name) for name in names}, old / "motion_vae.safetensors")
    (old / "README.md").unlink()
    write_bundle(tmp_path / "new", read_bundle(old))
    for file in FILES:
        assert (tmp_path / "new" / file).read_bytes() == (bundle / file).read_bytes()
    with pytest.raises(InputError, match="bundle format 1; load and save it"):
        update_info(old, figures={})
    np.testing.assert_array_equal(read_codec(old).latent_std, whole.codec.latent_std)


def test_the_card_says_data_recipe_figures_and_licence(copy: Path) -> None:
    update_info(copy, data={"builder": "walks", "licence": "CC BY 4.0"}, recipe={"seed": 3}, figures={"content recognised": 86.5})
    card = (copy / "README.md").read_text()
    for words in ("builder: walks", "seed: 3", "content recognised: 86.5", "CC BY 4.0", "library_name: llamo_jax", "text-to-motion"):
        assert words in card
    assert read_bundle(copy).info["figures"] == {"content recognised": 86.5}


def test_nothing_else_is_overwritten(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not a bundle"):
        write_bundle(tmp_path / "notes", read_bundle(bundle))
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"
