"""Import of LLMs: exact against transformers part by part and whole, strict about names and shapes, and back again."""

import json
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from llamo_jax import sharding
from llamo_jax.config import LlamoConfig, MotionTowerConfig
from llamo_jax.errors import InputError
from llamo_jax.models import llamo, mot
from llamo_jax.models.attention import Places, attention, rope_frequencies, rotary, rotate, visible
from llamo_jax.models.cache import KVCache
from llamo_jax.models.layers import linear, rms_norm
from llamo_jax.storage.huggingface import files_of, holds, load_llm, read_config, resolve_llm, save_llm
from llamo_jax.storage.layout import LLM
from llamo_jax.storage.weights import write_sharded
from llamo_jax.trees import flatten

torch = pytest.importorskip("torch", reason="needs PyTorch, the reference that the import is compared with")
import transformers  # noqa: E402

from tests.random_llms import LLAMA3, TIED, VARIANTS, VOCABULARY, random_llm  # noqa: E402

pytestmark = pytest.mark.torch

LENGTH = 80


@pytest.fixture(scope="module", params=VARIANTS)
def variant(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, "transformers.PreTrainedModel"]:
    folder = tmp_path_factory.mktemp("llm")
    family, changes = VARIANTS[request.param]
    return folder, random_llm(folder, family, **changes)


def tokens(rows: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCABULARY, (rows, LENGTH))


def test_logits_are_those_of_transformers(variant: tuple) -> None:
    folder, model = variant
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens())).logits.numpy()
    config, text = load_llm(folder)
    np.testing.assert_allclose(llamo.text_logits(text, config, jnp.asarray(tokens())), expected, atol=1e-5)


def test_each_part_is_that_of_transformers(variant: tuple) -> None:
    """Norm, rotary, attention, MLP and block of every layer, each on the same input."""
    folder, model = variant
    config, text = load_llm(folder)
    x = np.random.default_rng(1).normal(size=(2, LENGTH, config.width)).astype(np.float32)
    positions = jnp.broadcast_to(jnp.arange(LENGTH), (2, LENGTH))
    places = Places(positions, jnp.ones_like(positions))
    mask = visible(places, places, window=config.sliding_window)
    turn, frequencies = rotary(positions, config, jnp.float32), rope_frequencies(config)
    theirs_mask = torch.where(torch.from_numpy(np.array(mask))[:, None], 0.0, -torch.inf)
    with torch.no_grad():
        angles = model.model.rotary_emb(torch.from_numpy(x), torch.arange(LENGTH)[None])
    np.testing.assert_array_equal(frequencies, model.model.rotary_emb.inv_freq.numpy())
    head = np.random.default_rng(2).normal(size=(2, config.num_heads, LENGTH, config.head_dim)).astype(np.float32)
    turned, _ = _rotary_of(model)(torch.from_numpy(head), torch.from_numpy(head), *angles)
    np.testing.assert_allclose(rotate(turn, jnp.asarray(head)), turned.numpy(), atol=1e-5)

    def close(ours: jax.Array, theirs: "torch.Tensor") -> None:
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5 * max(1.0, float(theirs.abs().max())))

    for index, layer in enumerate(mot.unstack(text["layers"])):
        block = model.model.layers[index]
        with torch.no_grad():
            given = torch.from_numpy(np.array(x))
            close(rms_norm(layer["attn_norm"], x, config.norm_eps), normed := block.input_layernorm(given))
            mixed = block.self_attn(normed, position_embeddings=angles, attention_mask=theirs_mask)[0]
            q, k, v = mot.project(layer, jnp.asarray(x), turn, config)
            ours = attention(q, k, v, mask)
            close(linear(layer["attn"]["o"], jnp.moveaxis(ours, 1, 2).reshape(2, LENGTH, -1)), mixed)
            close(mot.feed_forward(layer["ffn"], jnp.asarray(x)), block.mlp(given))
            whole = block(given, position_embeddings=angles, attention_mask=theirs_mask)
            finished = mot.finish(layer, x, ours, config)
            close(finished, whole[0] if isinstance(whole, tuple) else whole)
            x = np.asarray(finished)


def _rotary_of(model: "transformers.PreTrainedModel"):
    import importlib

    return importlib.import_module(type(model).__module__).apply_rotary_pos_emb


def test_decoding_with_a_cache_is_the_whole_forward_pass(variant: tuple) -> None:
    folder, _ = variant
    config, text = load_llm(folder)
    ids = jnp.asarray(tokens())
    whole = llamo.text_logits(text, config, ids)
    model = LlamoConfig(config, MotionTowerConfig(8, 8))
    params = {"text": {**text, "layers": mot.unstack(text["layers"])}, "motion": {"eom": jnp.zeros(config.width)}}
    step = jax.jit(llamo.text_step, static_argnums=1)
    cache, logits = KVCache.empty(config, 2, LENGTH), []
    for start, stop in [(0, 24), *((i, i + 1) for i in range(24, LENGTH))]:
        positions = jnp.broadcast_to(jnp.arange(start, stop), (2, stop - start))
        places = Places(positions, jnp.ones_like(positions))
        h, cache = step(params, model, ids[:, start:stop], places, cache)
        logits.append(llamo.lm_head(text, h))
    np.testing.assert_allclose(jnp.concatenate(logits, 1), whole, atol=1e-5)


def test_back_again_is_identical(variant: tuple, tmp_path: Path) -> None:
    """Hugging Face -> JAX -> Hugging Face: tensors bit for bit, the same config, and transformers says the same."""
    folder, model = variant
    config, text = load_llm(folder)
    save_llm(tmp_path, config, text, bos_id=1, eos_id=2)
    original, written = (load_file(path / "model.safetensors") for path in (folder, tmp_path))
    assert set(original) == set(written)
    for name in original:
        np.testing.assert_array_equal(written[name], original[name])
    assert read_config(tmp_path) == config and holds(tmp_path, text)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert type(again) is type(model)
    with torch.no_grad():
        ids = torch.from_numpy(tokens())
        torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=0)


def test_a_tower_copied_from_the_llm_has_its_options(variant: tuple) -> None:
    """The motion tower of an LLM with biases and norms has them too, and starts as its copy."""
    folder, _ = variant
    config, text = load_llm(folder)
    model = LlamoConfig(config, MotionTowerConfig(config.width, config.ffn_width))
    motion = flatten(llamo.init_motion(model, jax.random.key(0), text)["motion"]["layers"])
    assert motion.keys() == flatten(text["layers"]).keys()
    for path, leaf in flatten(text["layers"]).items():
        np.testing.assert_array_equal(motion[path], leaf)


def test_a_tower_comes_unstacked_for_decoding(variant: tuple) -> None:
    """One tree a layer, read so, without a stacked copy; it holds the same numbers and is found in the folder."""
    folder, _ = variant
    config, text = load_llm(folder)
    _, unstacked = load_llm(folder, unstacked=True)
    for path, leaf in flatten({**text, "layers": mot.unstack(text["layers"])}).items():
        np.testing.assert_array_equal(flatten(unstacked)[path], leaf, err_msg=path)
    assert holds(folder, unstacked)
    changed = {
        **unstacked,
        "layers": (*unstacked["layers"][:-1], jax.tree.map(jnp.zeros_like, unstacked["layers"][-1])),
    }
    assert not holds(folder, changed)
    ids = jnp.asarray(tokens())
    np.testing.assert_allclose(
        llamo.text_logits(unstacked, config, ids), llamo.text_logits(text, config, ids), atol=1e-5
    )


def test_half_precision_comes_in_and_goes_out_as_it_is(tmp_path: Path) -> None:
    for dtype, name in ((torch.bfloat16, "bfloat16"), (torch.float16, "float16")):
        random_llm(tmp_path / name).to(dtype).save_pretrained(tmp_path / name)
        config, text = load_llm(tmp_path / name)
        assert {str(leaf.dtype) for leaf in flatten(text).values()} == {name}
        (tmp_path / f"{name}-again").mkdir()
        save_llm(tmp_path / f"{name}-again", config, text, bos_id=1, eos_id=2)
        assert holds(tmp_path / f"{name}-again", text) and holds(tmp_path / name, text)
        files = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in (name, f"{name}-again")]
        headers = [8 + int.from_bytes(data[:8], "little") for data in files]
        assert len(files[0]) - headers[0] == len(files[1]) - headers[1]
        _, single = load_llm(tmp_path / name, dtype=jnp.float32)
        for path, leaf in flatten(text).items():
            np.testing.assert_array_equal(flatten(single)[path], leaf.astype(jnp.float32))


def test_sharded_checkpoints_are_read_by_their_index(tmp_path: Path) -> None:
    model = random_llm(tmp_path / "whole")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    (tmp_path / "sharded" / "adapter.safetensors").write_bytes(b"not named by the index")
    _, whole = load_llm(tmp_path / "whole")
    _, sharded = load_llm(tmp_path / "sharded")
    (tmp_path / "ours").mkdir()
    write_sharded(tmp_path / "ours", flatten(whole), LLM, largest=20_000)
    shutil.copyfile(tmp_path / "whole" / "config.json", tmp_path / "ours" / "config.json")
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    for path in flatten(whole):
        for tree in (sharded, load_llm(tmp_path / "ours")[1]):
            np.testing.assert_array_equal(flatten(whole)[path], flatten(tree)[path])
    ids = torch.from_numpy(tokens())
    with torch.no_grad():
        again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
        torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=0)
    assert {path.name for path in files_of(tmp_path / "sharded")} >= {"config.json", "model.safetensors.index.json"}
    assert "adapter.safetensors" not in {path.name for path in files_of(tmp_path / "sharded")}


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 8, 1), (1, 1, 2)])
def test_tensors_go_straight_to_their_devices(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    """Each device gets its part by the rules of `sharding`, and the same numbers."""
    if np.prod(shape) != 8:
        mesh = jax.make_mesh(
            shape, sharding.MESH_AXES, devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,) * 3
        )
    else:
        mesh = sharding.make_mesh(*shape)
    random_llm(tmp_path, "Qwen3", head_dim=8)
    _, whole = load_llm(tmp_path)
    _, placed = load_llm(tmp_path, mesh=mesh)
    _, data, tensor = shape
    q = placed["layers"]["attn"]["q"]["weight"]
    assert q.shape == (3, 32, 32) and q.addressable_shards[0].data.shape == (3, 32 // tensor, 32 // data)
    for path, leaf in flatten(whole).items():
        np.testing.assert_array_equal(flatten(placed)[path], leaf)
    assert holds(tmp_path, placed)
    changed = {**placed, "norm": placed["norm"].at[3].add(1)}
    assert not holds(tmp_path, changed)


def test_old_and_new_config_layouts_are_the_same(tmp_path: Path) -> None:
    random_llm(tmp_path, rope_parameters=LLAMA3)
    config = read_config(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    rope = values.pop("rope_parameters")
    assert config.rope_scaling is not None and config.rope_scaling.kind == "llama3"
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    for name in ("rope_type", "type"):
        old = {name: scaling["rope_type"]} | {key: value for key, value in scaling.items() if key != "rope_type"}
        changed = values | {"rope_theta": rope["rope_theta"], "rope_scaling": old, "torch_dtype": "float32"}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        assert read_config(tmp_path) == config


def test_a_stored_head_of_a_tied_model_is_the_embeddings(tmp_path: Path) -> None:
    """Qwen3 stores the tied head too."""
    random_llm(tmp_path, "Qwen3", head_dim=8, **TIED)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, tmp_path / "model.safetensors")
    assert "head" not in load_llm(tmp_path)[1]
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"lm_head.weight is not the embeddings"):
        load_llm(tmp_path)


BUFFERS = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32),
    "model.rotary_emb.inv_freq": np.zeros(4, np.float16),
    "rotary_emb.cos_cached": np.zeros((4, 4), np.float32),
    "model.layers.1.self_attn.bias": np.zeros((1, 1, 4, 4), np.float32),
    "model.layers.1.attn.masked_bias": np.zeros(1, np.float32),
    "model.embeddings.position_ids": np.arange(4),
    "model.mask": np.ones((4, 4), bool),
}


def test_buffers_beside_the_weights_are_left_out(tmp_path: Path) -> None:
    random_llm(tmp_path)
    tensors, (_, expected) = load_file(tmp_path / "model.safetensors"), load_llm(tmp_path)
    save_file(tensors | BUFFERS, tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load_llm(tmp_path)[1], expected)
    # What only looks like a buffer may be a weight.
    for name in ("model.layers.0.self_attn.o_proj.bias", "model.rotary_emb.weight", "model.inv_freq"):
        save_file(tensors | {name: np.zeros(32, np.float32)}, tmp_path / "model.safetensors")
        with pytest.raises(InputError, match=rf"1 tensors unexpected: {name} \(32,\)"):
            load_llm(tmp_path)


def test_a_layer_may_be_of_another_type_than_the_rest(tmp_path: Path) -> None:
    """Layers that are stacked take the smallest type that holds all of their numbers; single ones keep theirs."""
    random_llm(tmp_path)
    changed = {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        changed[name] = tensor.astype(np.float16 if ".layers.0.mlp" in name else jnp.bfloat16)
    save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (config, stacked), (_, single) = load_llm(tmp_path), load_llm(tmp_path, unstacked=True)
    ffn, attn = stacked["layers"]["ffn"]["up"]["weight"], stacked["layers"]["attn"]["q"]["weight"]
    assert (ffn.dtype, attn.dtype) == (jnp.float32, jnp.bfloat16)
    assert [layer["ffn"]["up"]["weight"].dtype for layer in single["layers"]] == [jnp.float16] + 2 * [jnp.bfloat16]
    assert holds(tmp_path, stacked) and holds(tmp_path, single)
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens(1))).logits.numpy()
    _, text = load_llm(tmp_path, dtype=np.float32)
    np.testing.assert_allclose(llamo.text_logits(text, config, jnp.asarray(tokens(1))), expected, atol=1e-5)


def test_an_index_beside_a_whole_file_is_not_used(tmp_path: Path) -> None:
    """As in transformers: it is left over from another version."""
    random_llm(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}))
    load_llm(tmp_path)
    assert {path.name for path in files_of(tmp_path)} >= {"config.json", "model.safetensors"}
    assert index not in files_of(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-00001-of-00002\.safetensors: no such file; expected all of"):
        load_llm(tmp_path)


def test_what_is_no_model_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file.gguf").write_bytes(b"GGUF")
    for path in (tmp_path, tmp_path / "file.gguf"):  # `resolve_llm` makes a folder of them: tests/storage/test_gguf.py
        with pytest.raises(InputError, match=f"{path}: GGUF; expected the folder that `.*` makes of it"):
            load_llm(path)
    for values, message in (({"base_model_name_or_path": "a/base"}, "of 'a/base'"), ({}, "that does not name its")):
        (tmp_path / "adapter_config.json").write_text(json.dumps(values))
        with pytest.raises(InputError, match=f"a PEFT adapter {message}.*expected a whole model"):
            load_llm(tmp_path)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_checkpoint_is_an_error_that_names_the_tensor(tmp_path: Path, data: st.DataObject) -> None:
    if not (tmp_path / "whole").exists():
        random_llm(tmp_path / "whole")
    copy = Path(shutil.copytree(tmp_path / "whole", tempfile.mkdtemp(dir=tmp_path) + "/llm"))
    file = copy / "model.safetensors"
    tensors = load_file(file)
    name = data.draw(st.sampled_from(sorted(tensors)))
    tensor = tensors.pop(name)
    change = data.draw(st.sampled_from(["drop", "rename", "reshape", "transpose", "pad", "add"]))
    changed = {
        "drop": {},
        "rename": {name.replace("model", "module", 1) if name.startswith("model") else name + "s": tensor},
        "reshape": {name: tensor.reshape(-1, 2)},
        "transpose": {name: np.ascontiguousarray(tensor.T)},
        "pad": {name: np.pad(tensor, [(0, 1)] * tensor.ndim)},
        "add": {name: tensor, "model.layers.7.mlp.up_proj.weight": tensor},
    }[change]
    # Of square matrices no header tells that they are transposed: only hashes do, and a bundle has them.
    assume(change != "transpose" or tensor.T.shape != tensor.shape)
    save_file(tensors | changed, file, metadata={"format": "pt"})
    with pytest.raises(InputError) as error:
        load_llm(copy)
    assert ("model.layers.7" if change == "add" else name) in str(error.value)


def test_mistakes_are_told(tmp_path: Path) -> None:
    random_llm(tmp_path)
    weights, config = load_file(tmp_path / "model.safetensors"), json.loads((tmp_path / "config.json").read_text())

    def expect(message: str, *, tensors: dict | None = None, values: dict | None = None, without: str = "") -> None:
        save_file(weights if tensors is None else tensors, tmp_path / "model.safetensors")
        changed = {key: value for key, value in (config | (values or {})).items() if key != without}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=message) as error:
            load_llm(tmp_path)
        assert str(error.value).count(str(tmp_path)) == 1

    norm = "model.norm.weight"
    without = {k: v for k, v in weights.items() if k != norm}
    expect(r"1 tensors missing: model\.norm\.weight \(32,\); the config asks for 30 tensors", tensors=without)
    expect(r"1 tensors unexpected: extra \(1,\)", tensors=weights | {"extra": np.zeros(1)})
    short = weights | {norm: np.zeros(3, np.float32)}
    expect(r"1 tensors of another shape: model\.norm\.weight is \(3,\), expected \(32,\)", tensors=short)
    expect(
        r'tensor "model\.norm\.weight" is of type I64; expected .* \(quantised',
        tensors=weights | {norm: np.zeros(32, np.int64)},
    )
    architectures = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"
    expect(
        f'architecture "BertModel" is not supported; expected one of {architectures}',
        values={"architectures": ["BertModel"]},
    )
    expect('architecture "none" is not supported', without="architectures")
    expect("'hidden_size' is missing; expected the config.json of a model of the Llama family", without="hidden_size")
    expect('hidden_act is "gelu"; expected "silu"', values={"hidden_act": "gelu"})
    expect("the weights are quantised", values={"quantization_config": {"bits": 4}})
    expect(
        'rope type "yarn" is not supported; expected default, linear or llama3',
        values={"rope_parameters": {"rope_type": "yarn"}},
    )
    expect(
        r"rope_scaling is \[1, 2\]; expected an object",
        values={"rope_parameters": None, "rope_theta": 1e4, "rope_scaling": [1, 2]},
    )
    expect(
        'architecture "Own" is not supported .it needs code of its own, and nothing of a model folder is run',
        values={"architectures": ["Own"], "auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}},
    )
    expect("differ between layers", values={"rope_parameters": {"full_attention": {"rope_type": "default"}}})
    qwen = {
        "architectures": ["Qwen2ForCausalLM"],
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 2,
    }
    expect("some layers have a sliding window and some have not", values=qwen)
    expect("num_layers: found '3', expected int", values={"num_hidden_layers": "3"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_llm(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(
        InputError,
        match=r"model.safetensors: no such file; expected the model's weights as safetensors \(other formats",
    ):
        load_llm(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b.safetensors"}}')
    with pytest.raises(InputError, match="expected files beside it"):
        load_llm(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        load_llm(tmp_path / "absent")


def test_ids_of_the_hub(hub_cache: Path, tmp_path: Path) -> None:
    source = resolve_llm("someone/tiny-llm")
    assert source.folder == hub_cache and source.revision == hub_cache.name
    assert load_llm(source.folder)[0].width == 16
    with pytest.raises(
        InputError, match=r"someone/else: no such folder here, and the .* Hub cannot be reached .* check the network"
    ):
        resolve_llm("someone/else")
    assert resolve_llm(tmp_path / "absent").folder == tmp_path / "absent"
