"""Import of Llama checkpoints: exact against transformers, strict about names and shapes, and back again."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llamo_jax.convert.huggingface import load_llm, save_llm
from llamo_jax.errors import InputError
from llamo_jax.models import llamo
from llamo_jax.trees import flatten

torch = pytest.importorskip("torch", reason="needs PyTorch, the reference that the import is compared with")
transformers = pytest.importorskip("transformers")


def random_llm(folder: Path, **changes) -> "transformers.LlamaForCausalLM":
    torch.manual_seed(0)
    values = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False,
    } | changes  # fmt: skip
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**values)).eval()
    model.save_pretrained(folder)
    return model


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1}, {"head_dim": 16},
     {"rope_parameters": LLAMA3}, {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}],
    ids=["plain", "tied", "mha", "mqa", "head_dim", "llama3", "linear"],
)  # fmt: skip
def test_logits_are_those_of_transformers(tmp_path: Path, changes: dict) -> None:
    model = random_llm(tmp_path, **changes)
    tokens = np.random.default_rng(0).integers(0, 64, (2, 60))
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).logits.numpy()
    config, text = load_llm(tmp_path)
    np.testing.assert_allclose(llamo.text_logits(text, config, jnp.asarray(tokens)), expected, atol=1e-5)


@pytest.mark.torch
def test_back_again_is_identical(tmp_path: Path) -> None:
    random_llm(tmp_path / "a", rope_parameters=LLAMA3)
    config, text = load_llm(tmp_path / "a")
    (tmp_path / "b").mkdir()
    save_llm(tmp_path / "b", config, text, bos_id=1, eos_id=2)
    original, written = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert set(original) == set(written)
    for name in original:
        np.testing.assert_array_equal(written[name], original[name])
    again, _ = load_llm(tmp_path / "b")
    assert again == config
    transformers.LlamaForCausalLM.from_pretrained(tmp_path / "b")


@pytest.mark.torch
def test_sharded_checkpoints_are_read_by_their_index(tmp_path: Path) -> None:
    model = random_llm(tmp_path / "whole")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    whole, sharded = (flatten(load_llm(tmp_path / name)[1]) for name in ("whole", "sharded"))
    for path in whole:
        np.testing.assert_array_equal(whole[path], sharded[path])


@pytest.mark.torch
def test_mistakes_are_told(tmp_path: Path) -> None:
    random_llm(tmp_path)
    weights, config = load_file(tmp_path / "model.safetensors"), json.loads((tmp_path / "config.json").read_text())

    def expect(message: str, *, tensors: dict | None = None, values: dict | None = None) -> None:
        save_file(weights if tensors is None else tensors, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config | (values or {})))
        with pytest.raises(InputError, match=message):
            load_llm(tmp_path)

    norm = "model.norm.weight"
    expect("1 tensors are missing, the first is model.norm.weight", tensors={k: v for k, v in weights.items() if k != norm})
    expect('unexpected tensor "extra"', tensors=weights | {"extra": np.zeros(1)})
    expect(r'tensor "model.norm.weight" has shape \(3,\)', tensors=weights | {norm: np.zeros(3, np.float32)})
    expect('architecture "BertModel" is not supported; expected one of LlamaForCausalLM', values={"architectures": ["BertModel"]})
    expect("attention_bias is true", values={"attention_bias": True})
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_llm(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        load_llm(tmp_path / "absent")
