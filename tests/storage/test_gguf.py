"""GGUF files as LLMs: weights, logits and tokens of transformers' own loading, and one line for what is not read."""

import json
import struct
import sys
import tracemalloc
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from llamo_jax.convert.from_hf import bundle_from_llm
from llamo_jax.errors import InputError
from llamo_jax.inference.text import complete_tokens
from llamo_jax.models import llamo
from llamo_jax.presets import llamo_config
from llamo_jax.pretrained import Llamo, text_logits
from llamo_jax.storage.gguf import GGUFFile
from llamo_jax.storage.gguf_llm import converted
from llamo_jax.storage.huggingface import load_llm, load_tokenizer, read_config, resolve_llm
from llamo_jax.trees import flatten

torch = pytest.importorskip("torch", reason="needs PyTorch, the reference that the import is compared with")
gguf = pytest.importorskip("gguf", reason="needs the package gguf, which reads the types of weights")
import transformers  # noqa: E402
from gguf import GGMLQuantizationType as Type  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers  # noqa: E402

from tests.gguf_files import CHAT, TEXTS, byte_tokenizer, numbers_of, trained_tokenizer, write_gguf  # noqa: E402
from tests.random_llms import LLAMA3, VARIANTS, random_llm  # noqa: E402

pytestmark = pytest.mark.torch

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K")
WIDE = {
    "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 320,
    "max_position_embeddings": 512,
}  # fmt: skip
"""Blocks of K-quants have 256 numbers."""

FAMILIES = {
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True, "head_dim": 128}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen3": ("Qwen3", {"head_dim": 128}),  # the one that transformers' GGUF loading knows
}
CASES = [("llama", kind) for kind in TYPES] + [
    (family, kind) for family in FAMILIES for kind in ("Q4_1", "Q4_K") if family != "llama"
]
READ = [name for name in VARIANTS if "window" not in name and "llama3" not in name]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def wide(folder: Path, family: str) -> "transformers.PreTrainedModel":
    name, changes = FAMILIES[family]
    model = random_llm(folder, name, **WIDE | changes)
    with torch.no_grad():
        for parameter in model.parameters():  # 0.1 is loud at a width of 256
            parameter *= 0.5 if parameter.ndim > 1 else 1.0
    model.save_pretrained(folder)
    return model


def by_transformers(file: Path) -> "transformers.PreTrainedModel":
    return transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_logits_and_200_greedy_tokens_are_those_of_transformers(tmp_path: Path, family: str, kind: str) -> None:
    wide(tmp_path / "hf", family)
    file = write_gguf(tmp_path / "model.gguf", tmp_path / "hf", Type[kind])
    reference = by_transformers(file)
    config, text = load_llm(resolve_llm(file).folder, dtype=jnp.float32, unstacked=True)
    ids = np.random.default_rng(0).integers(0, WIDE["vocab_size"], (2, 80))
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids)).logits.numpy()
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(text_logits(text, config, jnp.asarray(ids)), expected, rtol=0, atol=1e-5 * scale)
    if family != "llama" and (family, kind) != ("qwen3", "Q4_1"):
        return
    reference.generation_config.eos_token_id = None
    prompt = ids[0, :5].tolist()
    greedy = reference.generate(torch.tensor([prompt]), max_new_tokens=200, do_sample=False)[0, 5:].tolist()
    model = llamo_config(config)
    ours = complete_tokens({"text": text, **_motion(model)}, model, prompt, eos_id=-1, max_tokens=200)
    assert len(ours) == 200 and ours == greedy


def _motion(model: llamo.LlamoConfig) -> dict:
    return {"motion": {"eom": jnp.zeros(model.text.width)}}


@pytest.mark.parametrize("kind", TYPES)
def test_weights_are_those_of_the_package(tmp_path: Path, kind: str) -> None:
    """Bit for bit as dequantised; and of the model itself where nothing is quantised."""
    wide(tmp_path / "hf", "qwen2")  # no rows are turned
    file = write_gguf(tmp_path / "model.gguf", tmp_path / "hf", Type[kind])
    folder = converted(file)
    ours, theirs = load_file(folder / "model.safetensors"), list(numbers_of(file).values())
    assert {str(tensor.dtype) for tensor in ours.values()} == {"float32"}
    assert len(ours) == len(theirs)
    for (name, tensor), expected in zip(ours.items(), theirs, strict=True):
        np.testing.assert_array_equal(tensor, expected.numpy(), err_msg=name)


@pytest.mark.parametrize("variant", READ)
def test_what_was_written_is_what_is_read(tmp_path: Path, variant: str) -> None:
    """Every option of every family, without quantising: the config and all weights, bit for bit."""
    family, changes = VARIANTS[variant]
    random_llm(tmp_path / "hf", family, **changes)
    folder = converted(write_gguf(tmp_path / "model.gguf", tmp_path / "hf"))
    (config, text), (expected, original) = load_llm(folder), load_llm(tmp_path / "hf")
    as_llama = {"family": "llama"} if expected.family == "mistral" else {}
    assert config.to_json() == expected.to_json() | as_llama
    for path, leaf in flatten(original).items():
        np.testing.assert_array_equal(flatten(text)[path], leaf, err_msg=path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bits_come_back_as_they_were(tmp_path: Path, dtype: "torch.dtype") -> None:
    """A file that was made without quantising has the numbers of its model, and so has the folder, in their type."""
    random_llm(tmp_path / "hf").to(dtype).save_pretrained(tmp_path / "hf")
    kind = Type.BF16 if dtype == torch.bfloat16 else Type.F16
    folder = converted(write_gguf(tmp_path / "model.gguf", tmp_path / "hf", kind))
    ours, theirs = (load_file(each / "model.safetensors") for each in (folder, tmp_path / "hf"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_rows_of_queries_and_keys_are_turned_back(tmp_path: Path) -> None:
    """The trap: with the rows as they lie, everything runs and almost nothing is wrong."""
    wide(tmp_path / "hf", "llama")
    files = [write_gguf(tmp_path / f"{turn}.gguf", tmp_path / "hf", Type.Q8_0, turn=turn) for turn in (True, False)]
    _, original = load_llm(tmp_path / "hf")
    off = []
    for file in files:
        _, text = load_llm(converted(file))
        pairs = [(text["layers"]["attn"][part], original["layers"]["attn"][part]) for part in "qk"]
        off.append(max(float(jnp.abs(a["weight"] - b["weight"]).max()) for a, b in pairs))
    assert off[0] < 2e-3 < 0.1 < off[1]


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_the_scaling_of_llama_3_is_found_again(tmp_path: Path, family: str) -> None:
    """transformers leaves it out: the file has the factors alone."""
    rope = LLAMA3 | {"rope_theta": 5e5, "factor": 32.0, "original_max_position_embeddings": 8192}
    random_llm(tmp_path / "hf", family, rope_parameters=rope, head_dim=64)
    file = write_gguf(tmp_path / "model.gguf", tmp_path / "hf")
    scaling = read_config(converted(file)).rope_scaling
    assert scaling == read_config(tmp_path / "hf").rope_scaling and scaling.factor == 32.0

    def plain(_: "gguf.GGUFWriter", tensors: dict) -> None:
        tensors["rope_freqs.weight"][:] = 1

    assert read_config(converted(write_gguf(tmp_path / "b.gguf", tmp_path / "hf", edit=plain))).rope_scaling is None

    def other(_: "gguf.GGUFWriter", tensors: dict) -> None:
        tensors["rope_freqs.weight"][20] += 1

    with pytest.raises(InputError, match=r"rope_freqs.weight scales frequencies in another way than Llama 3.1 to 3.3"):
        converted(write_gguf(tmp_path / "c.gguf", tmp_path / "hf", edit=other))


def _ids(tokenizer: "transformers.PreTrainedTokenizerBase") -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]


def test_tokenizer_and_chat_template_are_those_of_transformers(tmp_path: Path) -> None:
    random_llm(tmp_path / "hf", vocab_size=340)
    tokenizer = trained_tokenizer(tmp_path / "tokens", 340)
    file = write_gguf(tmp_path / "model.gguf", tmp_path / "hf", tokenizer=tokenizer | {"pre": "llama-bpe"})
    folder = converted(file)
    ours = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert _ids(ours) == _ids(theirs)
    assert [ours.decode(ids) for ids in _ids(ours)] == TEXTS
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token) == ("<s>", "</s>")
    assert ours.chat_template == theirs.chat_template == CHAT
    said = ours.apply_chat_template([{"role": "user", "content": "walk"}], tokenize=False)
    assert said == "<s>user: walk</s>"
    read = load_tokenizer(folder)
    assert (read.bos_id, read.eos_id) == (1, 2) and read.encode("a person walks.") == ours.encode("a person walks.")


def test_digits_and_whole_words_are_split_as_llama_cpp_does(tmp_path: Path) -> None:
    """What transformers leaves out: SmolLM2 parts digits before all else, Llama 3 says a whole word that is a token."""
    random_llm(tmp_path / "hf", vocab_size=340)
    facts = trained_tokenizer(tmp_path / "tokens", 340)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    split = pre_tokenizers.Split(
        Regex(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        "isolated",
    )
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for pre, parts, whole in (
        ("smollm", [digits, byte_level], False),
        ("gpt-2", [byte_level], False),
        ("llama-bpe", [split, bytes_alone], True),
    ):
        merges = facts["merges"][:-40]  # tokens that merging does not reach
        file = write_gguf(tmp_path / f"{pre}.gguf", tmp_path / "hf", tokenizer=facts | {"pre": pre, "merges": merges})
        vocabulary = {token: index for index, token in enumerate(facts["tokens"])}
        expected = Tokenizer(models.BPE(vocabulary, [tuple(m.split(" ")) for m in merges], ignore_merges=whole))
        expected.pre_tokenizer, expected.decoder = pre_tokenizers.Sequence(parts), decoders.ByteLevel()
        expected.add_special_tokens(["<pad>", "<s>", "</s>"])
        ours = transformers.AutoTokenizer.from_pretrained(converted(file))
        assert _ids(ours) == [expected.encode(text).ids for text in TEXTS], pre
        if pre == "smollm":
            # "  12" is two spaces and two digits, where GPT-2 has a space and " 1".
            assert ours.tokenize("  12")[-2:] == ["1", "2"]


def test_a_sentencepiece_vocabulary(tmp_path: Path) -> None:
    """Llama 2 and Mistral: pieces with scores, and bytes for what has none."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = ["▁", "a", "b", "w", "l", "k", "s", "al", "▁w", "wal", "▁wal", "▁walk", "ks", "lk"]
    tokens = pieces + words
    random_llm(tmp_path / "hf", vocab_size=len(tokens))
    scores = [0.0] * len(pieces) + [-float(index) for index in range(len(words))]
    kinds = [2, 3, 3, *[6] * 256, *[1] * len(words)]
    facts = {"model": "llama", "pre": "default", "tokens": tokens, "scores": scores, "token_type": kinds}
    for prefix in (True, False):
        file = write_gguf(tmp_path / f"{prefix}.gguf", tmp_path / "hf", tokenizer=facts | {"add_space_prefix": prefix})
        read = load_tokenizer(converted(file))
        first, rest = read.encode("walk walk é")[:2], read.encode("a")
        assert read.decode(read.encode("walk walk é")) == "walk walk é"
        assert tokens[first[0]] == ("▁walk" if prefix else "wal") and tokens[rest[0]] == ("▁" if prefix else "a")


def test_a_file_is_converted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random_llm(tmp_path / "hf")
    (tmp_path / "models").mkdir()
    file = write_gguf(tmp_path / "models" / "model.gguf", tmp_path / "hf")
    folder = resolve_llm(file).folder
    assert folder.parent == tmp_path / "cache" / "llamo_jax" / "gguf"
    assert f"{file}: 0.0 GB of weights, kept as float32 in {folder}" in capsys.readouterr().err
    written = (folder / "model.safetensors").stat().st_mtime_ns
    # The folder that holds it and nothing else, a copy of it, and its path as text.
    copy = file.rename(tmp_path / "models" / "other.gguf")
    assert resolve_llm(str(file.parent)).folder == resolve_llm(str(copy)).folder == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written and not capsys.readouterr().err
    # Another file is another folder.
    random_llm(tmp_path / "hf", num_hidden_layers=2)
    assert converted(write_gguf(file, tmp_path / "hf")) != folder
    with pytest.raises(InputError, match=r"models: 2 GGUF files \(model.gguf, other.gguf\); expected one, or the path"):
        resolve_llm(file.parent)


def test_a_bundle_of_it_holds_a_plain_folder(tmp_path: Path) -> None:
    random_llm(tmp_path / "hf", vocab_size=340, intermediate_size=64)
    file = write_gguf(tmp_path / "m.gguf", tmp_path / "hf", Type.Q8_0, tokenizer=trained_tokenizer(tmp_path / "t", 340))
    bundle_from_llm(file, tmp_path / "bundle")
    model = Llamo.from_pretrained(tmp_path / "bundle")
    reference = by_transformers(file)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "bundle" / "llm", dtype=torch.float32)
    ids = np.random.default_rng(0).integers(0, 340, (1, 40))
    with torch.no_grad():
        expected, said = (each(torch.from_numpy(ids)).logits.numpy() for each in (reference, again))
    np.testing.assert_allclose(model.text_logits(ids), expected, atol=1e-5)
    np.testing.assert_allclose(said, expected, atol=1e-6)
    assert isinstance(model.complete("a person", max_tokens=4), str)
    template = transformers.AutoTokenizer.from_pretrained(tmp_path / "bundle" / "llm").chat_template
    assert template == CHAT


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    rows, width = 30_000, 512
    random_llm(tmp_path / "hf", vocab_size=rows, hidden_size=width, num_hidden_layers=1, intermediate_size=64)
    file = write_gguf(tmp_path / "model.gguf", tmp_path / "hf", Type.Q8_0)
    converted(write_gguf(tmp_path / "other.gguf", tmp_path / "hf", Type.Q4_0))  # imports are no part of it
    tracemalloc.start()
    folder = converted(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    largest = 4 * rows * width
    assert (folder / "model.safetensors").stat().st_size > 2 * largest
    assert largest < peak < largest + 32e6


FACTS = {
    "expert_count": (8, "llama.expert_count is 8, which is not supported"),
    "attention.sliding_window": (4096, "llama.attention.sliding_window is 4096, which is not supported"),
    "attention.value_length": (4, "llama.attention.value_length is 4; expected 8, the width of a head"),
    "rope.dimension_count": (4, "llama.rope.dimension_count is 4; expected 8, the width of a head"),
    "attention.head_count": ([4, 4, 2], r"llama.attention.head_count is array.*expected one int for all layers"),
    "block_count": ("three", "llama.block_count is 'three'; expected one int"),
    "attention.head_count_kv": (3, "LLMConfig: 4 heads cannot share 3 key-value heads evenly"),
    "feed_forward_length": (
        64, r"9 tensors of another shape: blk.0.ffn_down.weight is \(32, 48\), expected \(32, 64\), .* 4 more;"
    ),
    "context_length": ([8, 8], r"llama.context_length is array.*expected one int for all layers"),
    "logit_scale": ([1.0, 1.0], "llama.logit_scale is a list; expected one value"),
    "rope.scaling.type": ("yarn", "llama.rope.scaling.type is 'yarn', by 0.0; expected none or linear by a number"),
}  # fmt: skip
TOKENS = {
    "tokens": (["a"], r"of another shape: token_embd.weight is \(64, 32\), expected \(1, 32\)"),
    "model": ("bert", "a tokenizer of kind 'bert'; expected gpt2 or llama"),
    "pre": ("deepseek-coder", "a tokenizer that splits by 'deepseek-coder'; expected one of llama-bpe, .* gpt-2"),
    "token_type": ([1, 1], "tokenizer.ggml.token_type is missing or damaged; expected 64 numbers, one a token"),
    "merges": (["nothing here"], "its tokenizer cannot be read .*`nothing` out of vocabulary"),
    "eos_token_id": (64, "tokenizer.ggml.eos_token_id is 64 of 64 tokens"),
}


def test_options_that_are_not_read_are_told(tmp_path: Path) -> None:
    random_llm(tmp_path / "hf")
    file = tmp_path / "model.gguf"

    def expect(message: str, **options) -> None:
        write_gguf(file, tmp_path / "hf", **options)
        with pytest.raises(InputError, match=message) as error:
            resolve_llm(file)
        assert str(error.value).count(str(file)) == 1 and "\n" not in str(error.value)
        assert not list((tmp_path / "cache").rglob("model.safetensors"))

    for name, (value, message) in FACTS.items():
        expect(message, facts={name: value})
    for name, (value, message) in TOKENS.items():
        expect(message, tokenizer=byte_tokenizer(64) | {name: value})
    expect("llama.block_count is missing; expected one int", without="block_count")
    expect("no tokens in tokenizer.ggml.tokens; expected a file with its tokenizer", without="tokenizer.ggml.tokens")
    expect("no tokenizer.ggml.eos_token_id; expected a token that ends", without="tokenizer.ggml.eos_token_id")
    expect("splits by None", without="tokenizer.ggml.pre")
    for name in ("split.count", "llama.rope.scaling.type"):
        message = f"{name} is a list; expected one value"
        expect(message, edit=lambda writer, _, name=name: writer.add_array(name, [1, 1]))
    for name in ("a\nb", "a\x1b[2J"):
        message = "a name of characters that cannot be printed"
        expect(message, edit=lambda writer, _, name=name: writer.add_bool(name, True))
    expect(
        r"one part of 2 of a model; merge them with `llama-gguf-split --merge`",
        edit=lambda writer, _: writer.add_uint16("split.count", 2),
    )
    expect(
        r"scales frequencies in another way",
        edit=lambda _, tensors: tensors.update({"rope_freqs.weight": np.array([1, 1, 2, 7], np.float32)}),
    )


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    random_llm(tmp_path / "hf")

    def expect(message: str, edit) -> None:
        file = write_gguf(tmp_path / "model.gguf", tmp_path / "hf", edit=lambda _, tensors: edit(tensors))
        with pytest.raises(InputError, match=message) as error:
            resolve_llm(file)
        assert str(error.value).count(str(file)) == 1

    expect(r"1 tensors missing: blk.1.attn_q.weight \(32, 32\)", lambda t: t.pop("blk.1.attn_q.weight"))
    expect(r"1 tensors missing: token_embd.weight", lambda t: t.pop("token_embd.weight"))
    extra = np.zeros((3, 32), np.float32)
    expect(
        r"1 tensors unexpected: blk.0.attn_qkv.weight \(3, 32\)", lambda t: t.update({"blk.0.attn_qkv.weight": extra})
    )
    expect(
        r"of another shape: output.weight is \(3, 32\), expected \(64, 32\)",
        lambda t: t.update({"output.weight": extra}),
    )
    bad = np.full(32, np.nan, np.float32)
    expect(
        'tensor "output_norm.weight" has numbers that are not finite', lambda t: t.update({"output_norm.weight": bad})
    )
    whole = np.zeros(32, np.int32)
    expect(
        r'tensor "output_norm.weight" is of type I32; the package gguf reads F32, F16, Q4_0, .*BF16',
        lambda t: t.update({"output_norm.weight": whole}),
    )


def test_what_is_no_such_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_llm(tmp_path / "hf")
    good = write_gguf(tmp_path / "good.gguf", tmp_path / "hf").read_bytes()
    file = tmp_path / "model.gguf"
    other = gguf.GGUFWriter(file, "gemma3")
    other.write_header_to_file()
    other.write_kv_data_to_file()
    other.write_tensors_to_file()
    other.close()
    with pytest.raises(InputError, match="GGUF of architecture 'gemma3'; expected one of llama, qwen2, qwen3"):
        resolve_llm(file)
    part = file.with_name("model-00001-of-00003.gguf")
    part.write_bytes(good)
    with pytest.raises(InputError, match="one part of a model; merge them"):
        resolve_llm(part)
    swapped = good[:4] + good[4:8][::-1] + good[8:]
    for data, message in (
        (b"", "does not begin as one; expected a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the file itself"),
        (b"<!DOCTYPE html>", "a web page, not the file itself"),
        (b"GGUF\x01" + good[5:], r"version 1; expected 2 or 3, little-endian"),
        (swapped, r"version 50331648 \(big-endian\)"),
        (good + b"more", r"bytes; its header speaks of"),
        (good[:-64], "shorter than its header says"),
        (good[:200], "shorter than its header says"),
    ):
        file.write_bytes(data)
        with pytest.raises(InputError, match=message):
            resolve_llm(file)
    file.write_bytes(good)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"needs the package gguf; run `pip install llamo_jax\[gguf\]`"):
        resolve_llm(file)


def test_headers_that_lie_are_told(tmp_path: Path) -> None:
    """Places, shapes, types and lengths in the header, changed in the bytes of a good file."""
    random_llm(tmp_path / "hf")
    good = write_gguf(tmp_path / "good.gguf", tmp_path / "hf").read_bytes()
    file = tmp_path / "model.gguf"

    def expect(message: str, place: int, form: str, value: int) -> None:
        data = bytearray(good)
        struct.pack_into(form, data, place, value)
        file.write_bytes(data)
        with pytest.raises(InputError, match=message) as error:
            resolve_llm(file)
        assert str(error.value).count(str(file)) == 1

    def behind(name: str) -> int:
        found = good.index(struct.pack("<Q", len(name)) + name.encode())
        return found + 8 + len(name)

    norm = behind("output_norm.weight")  # axes, shape (one), type, place
    expect('tensor "output_norm.weight" lies at byte 1073741824 of the data; expected', norm + 16, "<Q", 1 << 30)
    expect('tensor "output_norm.weight" lies at byte 0 of the data; expected', norm + 16, "<Q", 0)
    expect('tensor "output_norm.weight" has 0 axes', norm, "<I", 0)
    expect('tensor "output_norm.weight" has 200 axes', norm, "<I", 200)
    expect(r'tensor "output_norm.weight" has shape \(0,\)', norm + 4, "<Q", 0)
    expect("shorter than its header says|lies at byte", norm + 4, "<Q", 1 << 62)
    expect('"output_norm.weight" is of type number 4242; the package gguf reads', norm + 12, "<I", 4242)
    expect("rows of 32; Q4_K has blocks of 256", norm + 12, "<I", int(Type.Q4_K))
    expect("tensors missing|lies at byte|header speaks of", 8, "<Q", struct.unpack_from("<Q", good, 8)[0] - 1)
    expect("shorter than its header says|not a readable", 8, "<Q", 1 << 60)
    expect("shorter than its header says|not a readable", 16, "<Q", 1 << 60)
    tokens = behind("tokenizer.ggml.tokens")  # an array (9) of texts (8)
    for count in (1 << 60, 1 << 20):
        expect("shorter than its header says|not a readable|more than 1024 MiB", tokens + 8, "<Q", count)
    expect("a fact of the unknown type 9", tokens + 4, "<I", 9)
    types = behind("tokenizer.ggml.token_type")
    expect("shorter than its header says|more than 1024 MiB", types + 8, "<Q", 1 << 60)
    expect("a fact of the unknown type 77", types, "<I", 77)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_told(tmp_path: Path, data: st.DataObject) -> None:
    """Cut anywhere it is told; with bytes of its header changed it is told, or holds what its header says."""
    good = tmp_path / "good.gguf"
    if not good.exists():
        random_llm(tmp_path / "hf", num_hidden_layers=1)
        write_gguf(good, tmp_path / "hf")
    content = bytearray(good.read_bytes())
    with GGUFFile(good) as file:
        start = min(tensor.start for tensor in file.tensors.values())
    damaged = tmp_path / "damaged.gguf"
    if data.draw(st.booleans()):
        # The end is padding, which may be missing.
        damaged.write_bytes(content[: data.draw(st.integers(0, len(content) - 33))])
        with pytest.raises(InputError):
            resolve_llm(damaged)
        return
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, start - 1))] = data.draw(st.integers(0, 255))
    damaged.write_bytes(content)
    try:
        config, _ = load_llm(resolve_llm(damaged).folder)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert config.vocab_size == 64
