"""Bundles: back as they were, and strict about what is in them."""

import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import llamo_jax
from llamo_jax.errors import InputError
from llamo_jax.storage.bundle import Bundle, describe, read_bundle, read_codec, update_info, write_bundle, write_codec
from llamo_jax.storage.hub import Source
from llamo_jax.storage.huggingface import resolve_llm
from llamo_jax.trees import flatten


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def test_back_again_is_identical(bundle: Path, tmp_path: Path) -> None:
    first = read_bundle(bundle)
    write_bundle(tmp_path / "again", first)
    again = read_bundle(tmp_path / "again")
    assert again.config == first.config and again.codec.config == first.codec.config and again.info == first.info
    for path, leaf in flatten(first.params).items():
        np.testing.assert_array_equal(flatten(again.params)[path], leaf, err_msg=path)
    assert again.codec.features.equals(first.codec.features) and again.codec.latents.equals(first.codec.latents)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again"]


def _with_text(bundle: Bundle, **changed: Any) -> Bundle:
    return dataclasses.replace(bundle, params=bundle.params | {"text": bundle.params["text"] | changed})


def test_a_bundle_holds_the_text_tower_that_it_was_given(bundle: Path, tmp_path: Path) -> None:
    whole = read_bundle(bundle)
    changed = _with_text(whole, norm=whole.params["text"]["norm"] + 1)
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

    expect("bundle format 99; this llamo_jax reads formats 1 to 4: upgrade", config | {"format_version": 99})
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


def _paths(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if path:
        yield path
    if isinstance(tree, dict) and path != ("info",):
        for key in tree:
            yield from _paths(tree[key], (*path, key))


def _without(tree: Any, path: tuple[str, ...]) -> Any:
    rest = {key: value for key, value in tree.items() if key != path[0]}
    return rest if len(path) == 1 else rest | {path[0]: _without(tree[path[0]], path[1:])}


def _with(tree: Any, path: tuple[str, ...], value: Any) -> Any:
    return tree | {path[0]: value if len(path) == 1 else _with(tree[path[0]], path[1:], value)}


OF_USE = {"format_version", "model", "model/text", "model/text/vocab_size", "model/text/width",
"model/text/num_layers", "model/text/num_heads",
    "model/motion/width", "motion_vae", "motion_vae/width", "llm", "llm/storage", "llm/files", "files", "tokens",
    "tokens/eos", "turns", "turns/t2m", "turns/m2t", "info"}  # fmt: skip


NOT_READ_BY = {
    "describe": {"llm/files", "files", "tokens", "tokens/eos", "motion_vae/width"},
    "read_codec": OF_USE - {"format_version", "motion_vae", "motion_vae/width", "files"},
    "<lambda>": {"llm/files", "files"},
}
"""What each reader has no use for, or has a default for."""


def test_any_damage_to_the_config_is_told(copy: Path) -> None:
    """Each entry in turn is left out, or of another type. Those without which there is no model are told; none ends in
    another exception."""
    config = json.loads((copy / "config.json").read_text())
    wrong = [None, -1, 1.5, "x", [], {}, [1], True, 10**12]
    paths = list(_paths(config))
    assert {"/".join(path) for path in paths} >= OF_USE
    for path in paths:
        name = "/".join(path)
        absent = _without(config, path)
        for changed in (absent, *(_with(config, path, value) for value in wrong)):
            (copy / "config.json").write_text(json.dumps(changed))
            for read in (describe, read_codec, lambda path: read_bundle(path, verify=False)):
                try:
                    read(copy)
                except InputError:
                    continue
                assert changed is not absent or name not in OF_USE - NOT_READ_BY[read.__name__], (
                    f"{read.__name__} took a config without {name}"
                )


@pytest.mark.parametrize("config", ["{}", '{"architectures": ["LlamaForCausalLM"]}', "no json"])
def test_a_folder_with_a_config_of_its_own_is_not_replaced(bundle: Path, tmp_path: Path, config: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(config)
    for write in (
        lambda path: write_bundle(path, read_bundle(bundle)),
        lambda path: write_codec(path, read_codec(bundle)),
    ):
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
    whole.params["motion"]["bom"] *= np.inf
    with pytest.raises(InputError, match="motion/bom hold numbers that are not finite"):
        write_bundle(tmp_path / "diverged", whole)
    assert not (tmp_path / "diverged").exists()


FILES = ("motion.safetensors", "motion_vae.safetensors", "llm/model.safetensors")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_tensor_is_an_error_and_never_a_model(bundle: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Whatever is done to a tensor of whichever file: flipped bits, transposed, reshaped, renamed, swapped, dropped, or
    of another type."""
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
        assume(
            result.keys() != tensors.keys()
            or any(not np.array_equal(result[key], tensors[key]) for key in tensors)
            or change == "cast"
        )
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
        for path, leaf in flatten(whole.params["text"]).items():
            np.testing.assert_array_equal(flatten(again.params["text"])[path], leaf)
    pinned = read_bundle(tmp_path / "pinned")
    assert pinned.llm == source
    write_bundle(tmp_path / "copied", pinned)
    assert (tmp_path / "copied" / "llm" / "model.safetensors").read_bytes() == (
        llm_folder / "model.safetensors"
    ).read_bytes()
    # What the id leads to is held to the hashes too, and to nothing but what was there.
    (hub_cache / "generation_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"generation_config\.json came after the bundle was written"):
        read_bundle(tmp_path / "pinned")


def test_a_bundle_is_not_linked_to_itself(copy: Path) -> None:
    before = (copy / "llm" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="its own LLM would be replaced by links to itself"):
        write_bundle(copy, read_bundle(copy), llm_storage="link")
    assert (copy / "llm" / "model.safetensors").read_bytes() == before


def test_a_linked_llm_that_changed_is_told(bundle: Path, llm_folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(llm_folder, tmp_path / "llm"))
    write_bundle(tmp_path / "linked", dataclasses.replace(read_bundle(bundle), llm=Source(own)), llm_storage="link")
    tensors = load_file(own / "model.safetensors")
    save_file(
        tensors | {"model.norm.weight": tensors["model.norm.weight"] + 1},
        own / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(InputError, match=r"linked/llm/model.safetensors: SHA-256 .* damaged or was replaced"):
        read_bundle(tmp_path / "linked")
    (own / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no such file"):
        read_bundle(tmp_path / "linked")


def _as_format_2(bundle: Path, folder: Path) -> Path:
    """The bundle as format 2 had it: one matrix for all modulations of the flow head, and "flow" in the config."""
    old = Path(shutil.copytree(bundle, folder))
    config = json.loads((old / "config.json").read_text())
    config["model"]["flow"] = config["model"].pop("flow_head")
    tensors = load_file(old / "motion.safetensors")
    for p in ("weight", "bias"):
        names = [f"flow_head.blocks.{n}.modulation.{p}" for n in range(config["model"]["flow"]["num_blocks"])]
        parts = [tensors.pop(name) for name in (*names, f"flow_head.output_modulation.{p}")]
        tensors[f"flow_head.modulation.{p}"] = np.concatenate(parts)
    save_file(tensors, old / "motion.safetensors", metadata={"format": "pt"})
    data = (old / "motion.safetensors").read_bytes()
    config["files"]["motion.safetensors"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (old / "config.json").write_text(json.dumps(config | {"format_version": 2}))
    return old


def test_format_2_is_read_bit_for_bit_and_written_anew(bundle: Path, tmp_path: Path) -> None:
    old = _as_format_2(bundle, tmp_path / "old")
    write_bundle(tmp_path / "new", read_bundle(old))
    for file in FILES:
        assert (tmp_path / "new" / file).read_bytes() == (bundle / file).read_bytes()
    new = json.loads((tmp_path / "new" / "config.json").read_text())
    assert new["format_version"] == 4 and new == json.loads((bundle / "config.json").read_text())
    with pytest.raises(InputError, match="bundle format 2; load and save it"):
        update_info(old, figures={})
    assert read_codec(old).latents.equals(read_codec(bundle).latents)
    assert describe(old)["format"] == 2 and describe(old)["flow head"] == describe(bundle)["flow head"]
    first, second = (llamo_jax.load(path).generate("a person walks.", seconds=1.0) for path in (old, tmp_path / "new"))
    np.testing.assert_array_equal(first.joints, second.joints)


def test_format_3_is_read_as_asked_without_a_template_and_written_anew(bundle: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(bundle, tmp_path / "old"))
    config = json.loads((old / "config.json").read_text())
    del config["turns"]
    (old / "config.json").write_text(json.dumps(config | {"format_version": 3}))
    found = read_bundle(old)
    assert found.turns is None and found.tokenizer().turns["t2m"] == ((found.bos_id,), ())
    write_bundle(tmp_path / "new", found)
    assert (tmp_path / "new" / "config.json").read_bytes() == (bundle / "config.json").read_bytes()
    assert read_codec(old).latents.equals(read_codec(bundle).latents)
    with pytest.raises(InputError, match="bundle format 3; load and save it"):
        update_info(old, figures={})


def test_format_1_is_read_and_written_anew(bundle: Path, tmp_path: Path) -> None:
    """Format 1 had the tree's paths of its time as names, stacked layers, convolutions as in memory, and no hashes."""
    whole = read_bundle(bundle)
    old = _as_format_2(bundle, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(
        json.dumps({key: config[key] for key in ("model", "motion_vae", "info")} | {"format_version": 1})
    )
    arrays = {}
    for path, leaf in flatten(whole.motion).items():
        path = re.sub(r"^flow_head/", "flow/", re.sub(r"^exit_head/", "exit/", path))
        linear = re.fullmatch(r"(motion/layers/\d+/(?:attn|ffn)/\w+)/(weight|bias)", path)
        path = path if linear is None else linear[1] + ("_bias" if linear[2] == "bias" else "")
        if "modulation" not in path:
            arrays.setdefault(re.sub(r"/(layers|blocks)/\d+/", r"/\1/", path), []).append(np.asarray(leaf))
    stacked = {path: np.stack(a) if "/layers/" in path or "/blocks/" in path else a[0] for path, a in arrays.items()}
    for p in ("weight", "bias"):
        stacked[f"flow/modulation/{p}"] = load_file(old / "motion.safetensors")[f"flow_head.modulation.{p}"]
    save_file(stacked, old / "motion.safetensors")
    codec = {path: np.asarray(leaf) for path, leaf in flatten(whole.codec.params).items()}
    features, latents = whole.codec.features, whole.codec.latents
    codec |= {"feature_mean": features.mean, "feature_std": features.std}
    codec |= {"latent_mean": latents.mean, "latent_std": latents.std}
    save_file(codec, old / "motion_vae.safetensors")
    (old / "README.md").unlink()
    write_bundle(tmp_path / "new", read_bundle(old))
    for file in FILES:
        assert (tmp_path / "new" / file).read_bytes() == (bundle / file).read_bytes()
    with pytest.raises(InputError, match="bundle format 1; load and save it"):
        update_info(old, figures={})
    assert read_codec(old).latents.equals(whole.codec.latents)


def test_a_loaded_model_holds_every_weight_once(bundle: Path) -> None:
    """The arrays of the bundle are those that decode: no stacked copy beside them."""
    model = llamo_jax.load(bundle)
    model.generate("a person walks.", seconds=0.5)
    assert isinstance(model.bundle.params["text"]["layers"], tuple)
    tensors = sum(array.nbytes for file in FILES for array in load_file(bundle / file).values())
    held = {id(leaf): leaf.nbytes for leaf in jax.tree.leaves((model.bundle.params, model.codec.params))}
    statistics = 4 * 2 * (272 + model.config.latent_channels)
    assert sum(held.values()) + statistics == tensors


def test_the_card_says_data_recipe_figures_and_licence(copy: Path) -> None:
    update_info(
        copy,
        data={"builder": "walks", "licence": "CC BY 4.0"},
        recipe={"seed": 3},
        figures={"content recognised": 86.5},
    )
    card = (copy / "README.md").read_text()
    for words in (
        "builder: walks",
        "seed: 3",
        "content recognised: 86.5",
        "CC BY 4.0",
        "library_name: llamo_jax",
        "text-to-motion",
    ):
        assert words in card
    assert read_bundle(copy).info["figures"] == {"content recognised": 86.5}


def test_nothing_else_is_overwritten(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not a bundle"):
        write_bundle(tmp_path / "notes", read_bundle(bundle))
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"
