"""The PyTorch model against the JAX model, and its text tower against transformers' own models."""

import copy
import dataclasses
import hashlib
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llamo_jax.batch import Batch
from llamo_jax.config import SamplingConfig
from llamo_jax.inference import decoding
from llamo_jax.inference import generate as jax_generate
from llamo_jax.inference import text as jax_text
from llamo_jax.models import flow, llamo
from llamo_jax.models import motion_vae as jax_vae
from llamo_jax.motion import MotionClip, representation
from llamo_jax.pretrained import Llamo
from llamo_jax.solvers import SOLVERS
from llamo_jax.storage import layout
from llamo_jax.storage.bundle import Bundle, read_bundle
from llamo_jax.storage.weights import write_tree
from llamo_jax.trees import flatten

torch = pytest.importorskip("torch")

from llamo_jax.convert.torch_folder import modeling_llamo  # noqa: E402
from llamo_jax.convert.torch_folder.modeling_llamo import (  # noqa: E402
    LLaMoConfig,
    LLaMoForMotion,
    Sampling,
    TextConfig,
    VAEConfig,
    recover_joints,
)

# The package that `modeling_llamo` finds beside itself.
torch_generate = importlib.import_module("llamo_torch.generate")
KVCache = importlib.import_module("llamo_torch.cache").KVCache
TextTower = importlib.import_module("llamo_torch.mot").TextTower
MotionVAE = importlib.import_module("llamo_torch.motion_vae").MotionVAE

pytestmark = pytest.mark.torch

TEXTS = ["a person walks.", "someone runs fast.", "a person waves the left hand.", "a person."]


def _entry(file: Path) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}


def _relist(folder: Path) -> None:
    """Lists the files of a bundle anew, as somebody would who changed them on purpose."""
    values = json.loads((folder / "config.json").read_text())
    values["files"] = {name: _entry(folder / name) for name in values["files"]}
    values["llm"]["files"] = {name: _entry(folder / "llm" / name) for name in values["llm"]["files"]}
    (folder / "config.json").write_text(json.dumps(values))


@pytest.fixture(scope="module")
def contents(bundle: Path) -> Bundle:
    return read_bundle(bundle)


@pytest.fixture(scope="module")
def torch_bundle(bundle: Path) -> Path:
    """The very bundle that JAX reads."""
    return bundle


@pytest.fixture(scope="module")
def port(torch_bundle: Path) -> Any:
    return LLaMoForMotion.from_pretrained(torch_bundle)


@pytest.fixture(scope="module")
def params(contents: Bundle) -> dict[str, Any]:
    return contents.params


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    actual, expected = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x) for x in (actual, expected))
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    assert np.abs(actual - expected).max(initial=0) <= tolerance * max(1, np.abs(expected).max(initial=0))


def as_torch(x: Any) -> Any:
    x = np.array(x)
    return torch.from_numpy(x.astype(np.int64) if x.dtype == np.int32 else x)


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def features(frames: int, seed: int = 0) -> np.ndarray:
    """Features near those that the fixture's VAE is normalised for, some of them clipped."""
    return (0.2 * random(seed, frames, 272)).astype(np.float32)


def packed(rows: int) -> dict[str, np.ndarray]:
    """Rows of two samples: text, motion, text (with [EOM]); then text, motion; padding at the end of both streams."""
    text_lengths, motion_lengths = ((3, 2), (4, 0)), (5, 3)
    text, motion = [], []
    for segment, ((before, after), slots) in enumerate(zip(text_lengths, motion_lengths, strict=True), 1):
        position = np.r_[np.arange(before), before + slots + np.arange(after)]
        text.append(np.stack([position, np.full_like(position, segment)]))
        position = before + np.arange(slots)
        motion.append(np.stack([position, np.full_like(position, segment)]))
    text_part, motion_part = (np.concatenate([*parts, np.zeros((2, 3), int)], 1) for parts in (text, motion))
    draw = np.random.default_rng(rows)
    tokens = draw.integers(3, 300, (rows, text_part.shape[1]))
    tokens[:, 3] = 300  # [EOM] stands behind the first motion
    batch = {
        "text_tokens": tokens, "text_positions": text_part[0], "text_segments": text_part[1],
        "motion_latents": random(rows, rows, motion_part.shape[1], 4),
        "motion_start": np.isin(np.arange(motion_part.shape[1]), (0, 5)),
        "motion_positions": motion_part[0], "motion_segments": motion_part[1],
    }  # fmt: skip
    shape = {"text": tokens.shape, "motion": (rows, motion_part.shape[1])}
    wide = {name: np.broadcast_to(x, shape[name.split("_")[0]]) if x.ndim == 1 else x for name, x in batch.items()}
    return {name: x.astype(np.int32) if x.dtype == np.int64 else x for name, x in wide.items()}


def as_batch(arrays: dict[str, np.ndarray]) -> Batch:
    return Batch.of({name.replace("_", "/", 1): jnp.asarray(array) for name, array in arrays.items()})


@pytest.mark.parametrize("rows", [1, 4])
def test_text_logits(port, contents, rows):
    tokens = np.random.default_rng(rows).integers(0, 300, (rows, 11)).astype(np.int32)
    close(port.text_logits(as_torch(tokens)), llamo.text_logits(contents.params["text"], contents.config.text, tokens))


@pytest.mark.parametrize("rows", [1, 4])
def test_packed_batch(port, contents, params, rows):
    batch = packed(rows)
    text, motion = llamo.hidden(params, contents.config, as_batch(batch))
    out = port(**{name: as_torch(x) for name, x in batch.items()})
    close(out.text_hidden, text)
    close(out.motion_hidden, motion)
    close(out.text_logits, llamo.lm_head(params["text"], text))
    close(out.exit_logits, llamo.exit_head(params, motion))
    x_t, t = random(7, *motion.shape[:2], 4), np.random.default_rng(8).random(motion.shape[:2], np.float32)
    head = params["flow_head"]
    expected = flow.velocity(head, x_t, flow.modulations(head, motion, flow.embed_time(head, t)))
    close(port.flow_head.velocity(as_torch(x_t), out.motion_hidden, as_torch(t)), expected)


def test_text_only_batch(port, contents, params):
    batch = {name: x for name, x in packed(2).items() if name.startswith("text")}
    out = port(**{name: as_torch(x) for name, x in batch.items()})
    close(out.text_hidden, llamo.hidden(params, contents.config, as_batch(batch))[0])
    assert out.motion_hidden is None and out.exit_logits is None


def test_a_packed_sample_is_the_sample_alone(port):
    batch = {name: as_torch(x) for name, x in packed(2).items()}
    whole = port(**batch)
    for segment in (1, 2):
        keep = {stream: (batch[f"{stream}_segments"][0] == segment).nonzero()[:, 0] for stream in ("text", "motion")}
        alone = port(**{name: x[:, keep[name.split("_")[0]]] for name, x in batch.items()})
        close(alone.text_hidden, whole.text_hidden[:, keep["text"]])
        close(alone.motion_hidden, whole.motion_hidden[:, keep["motion"]])


@pytest.mark.parametrize("rows", [1, 4])
def test_vae(port, contents, rows):
    motions = [features(frames, frames) for frames in (44, 25, 4, 130)[:rows]]
    latents = port.encode([as_torch(m) for m in motions])
    for actual, expected in zip(latents, contents.codec.encode(motions), strict=True):
        close(actual, expected)
    decoded = port.decode(latents)
    for actual, expected in zip(decoded, contents.codec.decode([z.numpy() for z in latents]), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("options", [{}, {"activation": "relu", "upsampling": "nearest"}, {"dilations": (2,)}])
def test_vae_options_and_streams(options, tmp_path):
    from llamo_jax.config import MotionVAEConfig
    from llamo_jax.models.declaration import init

    config = MotionVAEConfig(width=8, latent_channels=4, **options)
    tree = init(jax_vae.MotionVAE, config, jax.random.key(0))
    vae = MotionVAE(VAEConfig(**config.to_json()))
    write_tree(tmp_path / "vae.safetensors", flatten(tree), layout.VAE)
    missing = vae.load_state_dict(
        {n: as_torch(x) for n, x in load_file(tmp_path / "vae.safetensors").items()}, strict=False
    )
    assert (
        set(missing.missing_keys) == {"feature_mean", "feature_std", "latent_mean", "latent_std"}
        and not missing.unexpected_keys
    )
    frames, latents = features(48)[None], random(1, 2, 9, 4)
    with torch.no_grad():
        encoded, decoded = vae.encode(as_torch(frames))[0], vae.decode(as_torch(latents))[0]
        close(encoded, jax_vae.encode(tree, config, frames)[0])
        close(decoded, jax_vae.decode(tree, config, latents)[0])
        for run, inputs, whole, cuts in (
            (vae.encode, frames, encoded, (4, 12, 32)),
            (vae.decode, latents, decoded, (1, 3, 5)),
        ):
            state, pieces = None, []
            for piece in as_torch(inputs).split(cuts, 1):
                piece, state = run(piece, state)
                pieces.append(piece)
            close(torch.cat(pieces, 1), whole.numpy(), 1e-6)


def _noise(keys: Any, count: int) -> np.ndarray:
    def token(key: Any, index: Any) -> Any:
        return jax.random.normal(jax.random.fold_in(key, index), (4,))

    return np.asarray(jax.vmap(lambda key: jax.vmap(lambda index: token(key, index))(jnp.arange(count)))(keys))


def test_the_tables_of_solvers_are_the_same():
    assert list(modeling_llamo.SOLVERS) == list(SOLVERS)
    for name, tableau in SOLVERS.items():
        assert tuple(modeling_llamo.SOLVERS[name]) == tuple(tableau), name


@pytest.mark.parametrize(("guidance", "others"), [(1.0, {}), (2.0, {}), (2.0, {"shift": 2.5, "temperature": 0.8})])
@pytest.mark.parametrize("solver", SOLVERS)
def test_generated_latents(port, contents, params, solver, guidance, others):
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    prompts = [[1, 5, 9, 30], [1, 7]]
    sampling = SamplingConfig(guidance=guidance, steps=4, solver=solver, **others)
    expected = jax_generate.generate_latents(
        params, contents.config, prompts, [1], keys, sampling, max_latents=60, until_exit=False
    )
    sampling = Sampling(guidance, 4, solver, None, **others)
    actual = port.generate_latents(prompts, 60, sampling, noise=as_torch(_noise(keys, 60)))
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == (60, 4)
        close(a, e, 1e-4)


@pytest.mark.parametrize("rows", [1, 4])
def test_generate_ends_where_jax_ends(port, model: Llamo, rows):
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(3), row))(jnp.arange(rows))
    expected = model.generate(TEXTS[:rows], seed=3, max_seconds=8.0)
    actual = port.generate(TEXTS[:rows], max_seconds=8.0, noise=as_torch(_noise(keys, 60)))
    assert any(len(motion) < 240 for motion in actual)
    for motion, clip in zip(actual, expected, strict=True):
        close(recovered(motion), clip.joints.astype(np.float64), 1e-3)


def test_drawn_lengths_are_jaxs(port, contents, params):
    """From the same thresholds the same lengths; from its own, others for each sentence, and the same noise."""
    # Motions of a few latents: those of the random head have one.
    head = {"weight": 0.1 * np.asarray(params["exit_head"]["weight"]), "bias": np.full(1, -2.5, np.float32)}
    port = copy.deepcopy(port)
    port.exit_head.load_state_dict({name: torch.from_numpy(value) for name, value in head.items()})
    params = params | {"exit_head": jax.tree.map(jnp.asarray, head)}
    keys = jax.random.split(jax.random.key(4), 6)
    prompts = [[1, 5, 9, 30], [1, 7], [1, 5], [1, 9], [1, 30], [1, 8, 8]]
    expected = jax_generate.generate_latents(
        params, contents.config, prompts, [1], keys, SamplingConfig(steps=4, length="drawn"), max_latents=60
    )
    thresholds = decoding.thresholds_of(keys).tolist()
    sampling = Sampling(steps=4, length="drawn")
    actual = port.generate_latents(prompts, 60, sampling, noise=as_torch(_noise(keys, 60)), thresholds=thresholds)
    assert [len(motion) for motion in actual] == [len(motion) for motion in expected]
    assert len({len(motion) for motion in actual}) > 3
    drawn = port.generate([TEXTS[0]] * 8, seed=1, steps=2, max_seconds=8.0, length="drawn")
    median = port.generate([TEXTS[0]] * 8, seed=1, steps=2, max_seconds=8.0)
    assert len({len(motion) for motion in drawn}) > 4
    for one, other in zip(drawn, median, strict=True):
        both = min(len(one), len(other))
        close(one[:both], other[:both].numpy())
    (streamed,) = [torch.cat(list(port.stream(TEXTS[0], seed=1, steps=2, max_seconds=8.0, length="drawn")))]
    close(streamed, drawn[0].numpy())
    with pytest.raises(ValueError, match='length is "long"; expected median or drawn'):
        port.generate(TEXTS[0], length="long")


def recovered(motion: Any) -> np.ndarray:
    return recover_joints(motion).numpy()


@pytest.mark.parametrize("rows", [1, 4])
def test_captions(port, contents, params, rows):
    motions = [random(n, n, 4) for n in (7, 1, 33, 12)[:rows]]
    arguments = {"eos_id": port.config.eos, "max_tokens": 20}
    expected = jax_text.caption_tokens(params, contents.config, [1], motions, [300], **arguments)
    assert port.caption_tokens([as_torch(m) for m in motions], max_tokens=20) == expected


def test_captions_and_completions_as_text(port, model: Llamo, clip: MotionClip):
    frames = as_torch(clip.features())
    assert port.caption(frames, max_tokens=12) == model.caption(clip, max_tokens=12)
    assert port.caption([frames, frames[:21]], max_tokens=12)[0] == port.caption(frames, max_tokens=12)
    assert port.complete("a person", max_tokens=9) == model.complete("a person", max_tokens=9)
    assert port.caption([]) == [] and port.generate([]) == []


@pytest.mark.parametrize(
    ("settings", "length", "frames"),
    [
        ({}, {"max_seconds": 7.0}, None),
        ({"guidance": 1.0, "solver": "heun"}, {"max_seconds": 0.134, "until_exit": False}, 4),
        ({"seed": 5}, {"max_seconds": 7.0, "until_exit": False}, 210),
    ],
)
def test_a_stream_is_what_generate_gives(port, settings, length, frames, monkeypatch):
    seconds = {"seconds" if frames else "max_seconds": length["max_seconds"]}
    whole = port.generate(TEXTS[0], steps=3, **settings, **seconds)
    monkeypatch.setattr(torch_generate, "_CACHE_SLOTS", 8)  # so that caches grow
    pieces = list(port.stream(TEXTS[0], steps=3, **settings, **length))
    assert all(piece.shape == (4, 272) for piece in pieces[:-1]) and len(pieces[-1])
    assert frames is None or len(whole) == frames
    close(torch.cat(pieces), whole.numpy())


def test_a_stream_without_end_goes_to_the_last_position(port):
    stream = port.stream(TEXTS[0], steps=1, until_exit=False)
    assert len([next(stream) for _ in range(20)]) == 20
    exact = port.generate(TEXTS[0], steps=1, seconds=2.0)
    assert exact.shape == (60, 272)


def test_rows_do_not_see_their_neighbours(port):
    settings = {"steps": 3, "seconds": 2.0, "seed": 1}
    alone, together = port.generate(TEXTS[:2], **settings), port.generate(TEXTS, **settings)
    for a, b in zip(alone, together, strict=False):
        close(a, b.numpy())
    assert not np.allclose(alone[0], alone[1])
    same_text = port.generate([TEXTS[0], TEXTS[0]], **settings)
    assert not np.allclose(same_text[0], same_text[1])


TURNS = dict.fromkeys(("t2m", "m2t"), ((1,), ()))


def random_model(seed: int = 0, **options: Any) -> Any:
    """A model of tiny shapes and random weights, with no folder."""
    text = TextConfig(50, 16, 2, 4, 2, 4, 24, **options)
    torch.manual_seed(seed)
    model = LLaMoForMotion(LLaMoConfig(text, VAEConfig(8, 4, [3, 1]), 20, 28, 8, 2, 1, 2, TURNS)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


VARIANTS: list[dict[str, Any]] = [
    {"tie_embeddings": True},
    {"qkv_bias": True, "output_bias": True, "ffn_bias": True, "rope_scaling": {"kind": "linear", "factor": 2.0}},
    {"qk_norm": True, "sliding_window": 3},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_cached_decoding_is_the_full_forward(options):
    model, batch, z = random_model(**options), 2, torch.randn(2, 6, 4)
    tokens, after = torch.randint(3, 50, (batch, 5)), torch.randint(3, 50, (batch, 3))
    lengths = torch.tensor([5, 3])  # the second prompt is padded
    index = torch.arange(5).expand(batch, 5)
    segments = (index < lengths[:, None]).long()
    with torch.no_grad():
        cache = KVCache.empty(model.config.text, batch, 16, torch.float32, torch.device("cpu"))
        first = model.text_step(tokens, index, segments, cache)
        inputs, slots = torch.nn.functional.pad(z, (0, 0, 1, 0))[:, :-1], []
        for slot in range(6):
            position = (lengths + slot)[:, None]
            slots.append(
                model.motion_step(
                    inputs[:, slot : slot + 1],
                    torch.full((batch, 1), slot == 0),
                    position,
                    torch.ones_like(position),
                    cache,
                )
            )
        positions = (lengths + 6)[:, None] + torch.arange(3)
        last = model.text_step(after, positions, torch.ones_like(positions), cache)
        motion_positions = lengths[:, None] + torch.arange(6)
        out = model(
            text_tokens=torch.cat([tokens, after], 1),
            text_positions=torch.cat([index, positions], 1),
            text_segments=torch.cat([segments, torch.ones_like(after)], 1),
            motion_latents=z,
            motion_start=torch.arange(6).expand(batch, 6) == 0,
            motion_positions=motion_positions,
            motion_segments=torch.ones_like(motion_positions),
        )
    close(torch.cat(slots, 1), out.motion_hidden.numpy())
    close(torch.cat([first, last], 1)[segments_of(segments, 3)], out.text_hidden[segments_of(segments, 3)].numpy())
    assert int(cache.cursor) == 14


def segments_of(segments: Any, after: int) -> Any:
    return torch.cat([segments, torch.ones(len(segments), after, dtype=torch.int64)], 1) > 0


def test_save_and_read_again(port, torch_bundle, tmp_path):
    port.save_pretrained(tmp_path / "copy")
    again = LLaMoForMotion.from_pretrained(tmp_path / "copy")
    expected = port.state_dict()
    assert list(again.state_dict()) == list(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())
    for name in ("motion.safetensors", "motion_vae.safetensors"):
        old, new = load_file(torch_bundle / name), load_file(tmp_path / "copy" / name)
        assert old.keys() == new.keys() and all(np.array_equal(old[key], new[key]) for key in old)
    assert (
        json.loads((tmp_path / "copy" / "config.json").read_text())["model"]
        == json.loads((torch_bundle / "config.json").read_text())["model"]
    )
    assert {f.name for f in (tmp_path / "copy" / "llm").iterdir()} == {f.name for f in (torch_bundle / "llm").iterdir()}
    with pytest.raises(ValueError, match="not an empty folder"):
        port.save_pretrained(tmp_path / "copy")


def test_what_is_trained_and_what_is_not(port, torch_bundle, tmp_path):
    assert not port.training
    assert not any(p.requires_grad for p in port.text.parameters()) and all(
        p.requires_grad for p in port.motion.parameters()
    )
    model = LLaMoForMotion.from_pretrained(torch_bundle)
    model(**{name: as_torch(x) for name, x in packed(1).items()}).motion_hidden.square().sum().backward()
    assert model.motion.eom.grad is not None and model.text.model.embed_tokens.weight.grad is None
    with torch.no_grad():
        model.exit_head.bias.add_(1)
    model.save_pretrained(tmp_path / "trained")
    assert torch.equal(LLaMoForMotion.from_pretrained(tmp_path / "trained").exit_head.bias, model.exit_head.bias)


def copied(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def _drop(tensors: dict[str, np.ndarray], name: str) -> None:
    del tensors[name]


def _rename(tensors: dict[str, np.ndarray], name: str) -> None:
    tensors[name + "_"] = tensors.pop(name)


def _reshape(tensors: dict[str, np.ndarray], name: str) -> None:
    tensors[name] = tensors[name].reshape(-1, 1)


def _round(tensors: dict[str, np.ndarray], name: str) -> None:
    tensors[name] = tensors[name].astype(np.int32)


@pytest.mark.parametrize("change", [_drop, _rename, _reshape, _round])
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("motion.safetensors", "flow_head.blocks.1.up.weight"),
        ("motion_vae.safetensors", "encoder.down.0.residual.1.dilated.weight"),
        ("llm/model.safetensors", "model.layers.1.self_attn.q_proj.weight"),
    ],
)
def test_reading_is_strict(torch_bundle, tmp_path, file, name, change):
    folder = copied(torch_bundle, tmp_path)
    tensors = load_file(folder / file)
    change(tensors, name)
    save_file(tensors, folder / file)
    _relist(folder)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")) as raised:
        LLaMoForMotion.from_pretrained(folder)
    assert raised.type is ValueError and "\n" not in str(raised.value)


@pytest.mark.parametrize("file", ["motion.safetensors", "motion_vae.safetensors", "llm/model.safetensors"])
def test_one_flipped_bit_is_found(torch_bundle, tmp_path, file):
    folder = copied(torch_bundle, tmp_path)
    data = bytearray((folder / file).read_bytes())
    data[-5] ^= 1
    (folder / file).write_bytes(bytes(data))
    with pytest.raises(ValueError, match="SHA-256") as raised:
        LLaMoForMotion.from_pretrained(folder)
    assert raised.type is ValueError and file.split("/")[-1] in str(raised.value)
    LLaMoForMotion.from_pretrained(folder, verify=False)


@pytest.mark.parametrize(
    "file", ["config.json", "motion.safetensors", "motion_vae.safetensors", "llm/model.safetensors"]
)
@pytest.mark.parametrize("verify", [True, False])
def test_missing_and_cut_files(torch_bundle, tmp_path, file, verify):
    folder = copied(torch_bundle, tmp_path)
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=file.split("/")[-1]) as raised:
        LLaMoForMotion.from_pretrained(folder, verify=verify)
    assert raised.type is ValueError
    (folder / file).unlink()
    with pytest.raises(ValueError, match=file.split("/")[-1]) as raised:
        LLaMoForMotion.from_pretrained(folder, verify=verify)
    assert raised.type is ValueError


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format_version",), 2),
        (("model", "text", "num_heads"), "4"),
        (("model", "text", "colour"), 1),
        (("model", "text", "rope_scaling"), {"kind": "yarn"}),
        (("model", "flow_head"), {}),
        (("motion_vae", "activation"), "gelu"),
        (("model", "latent_channels"), 5),
        (("tokens", "eom"), 3),
        (("files",), {}),
    ],
)
def test_configs_are_read_strictly(torch_bundle, tmp_path, path, value):
    folder = copied(torch_bundle, tmp_path)
    values = node = json.loads((folder / "config.json").read_text())
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=path[-1]) as raised:
        LLaMoForMotion.from_pretrained(folder)
    assert raised.type is ValueError


def test_a_tied_head_in_the_file_must_be_the_embeddings(torch_bundle, tmp_path):
    folder = copied(torch_bundle, tmp_path)
    tensors = load_file(folder / "llm" / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    # What old checkpoints store beside the weights, and an index that another version left behind, change nothing.
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    tensors["model.embeddings.position_ids"] = np.arange(4)
    stale = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "llm" / "model.safetensors.index.json").write_text(json.dumps(stale))
    for flip in (False, True):
        tensors["lm_head.weight"].view(np.uint8)[-1, -3] ^= flip
        save_file(tensors, folder / "llm" / "model.safetensors")
        _relist(folder)
        if flip:
            with pytest.raises(ValueError, match=r"lm_head\.weight"):
                LLaMoForMotion.from_pretrained(folder)
        else:
            assert "text.lm_head.weight" not in LLaMoForMotion.from_pretrained(folder).state_dict()


def test_a_sharded_llm(port, torch_bundle, tmp_path):
    folder = copied(torch_bundle, tmp_path)
    tensors = load_file(folder / "llm" / "model.safetensors")
    (folder / "llm" / "model.safetensors").unlink()
    halves = {"model-1.safetensors": sorted(tensors)[::2], "model-2.safetensors": sorted(tensors)[1::2]}
    for file, names in halves.items():
        save_file({name: tensors[name] for name in names}, folder / "llm" / file)
    index = {"weight_map": {name: file for file, names in halves.items() for name in names}}
    (folder / "llm" / "model.safetensors.index.json").write_text(json.dumps(index))
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"llm": {}}))
    read = LLaMoForMotion.from_pretrained(folder)
    assert all(torch.equal(tensor, port.state_dict()[name]) for name, tensor in read.state_dict().items())
    (folder / "llm" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.weight": "../motion.safetensors"}})
    )
    with pytest.raises(ValueError, match="weight_map"):
        LLaMoForMotion.from_pretrained(folder)


def test_wrong_settings_say_so(port):
    for settings, match in (
        ({"solver": "leapfrog"}, "solver"),
        ({"steps": 0}, "steps"),
        ({"guidance": -1}, "guidance"),
        ({"seconds": 0.0}, "duration"),
        ({"max_seconds": 1e4}, "positions"),
        ({"noise": torch.zeros(3, 4)}, "noise"),
    ):
        with pytest.raises(ValueError, match=match):
            port.generate(TEXTS[0], **settings)
    with pytest.raises(ValueError, match="empty"):
        port.stream("  ")
    with pytest.raises(ValueError, match="solver"):
        port.stream(TEXTS[0], solver="leapfrog")
    with pytest.raises(ValueError, match="motion 0"):
        port.encode(torch.zeros(3, 272))


def test_recovered_joints():
    motion = features(50)
    expected = representation.decode_positions(motion)
    assert np.abs(recovered(as_torch(motion)) - expected).max() < 1e-12


@pytest.mark.parametrize("how", ["to", "from_pretrained"])
def test_bfloat16(port, torch_bundle, how):
    if how == "to":
        model = LLaMoForMotion.from_pretrained(torch_bundle).to(torch.bfloat16)
    else:
        model = LLaMoForMotion.from_pretrained(torch_bundle, dtype=torch.bfloat16)
        assert {p.dtype for p in model.vae.state_dict().values()} == {torch.float32}
    assert model.motion.bom.dtype == model.text.model.norm.weight.dtype == torch.bfloat16
    motion = model.generate(TEXTS[0], seconds=1.0, steps=2)
    assert motion.shape == (30, 272) and motion.dtype == torch.float32 and torch.isfinite(motion).all()
    tokens = torch.arange(3, 20)[None]
    logits = model.text_logits(tokens)
    assert logits.dtype == torch.float32
    close(logits, port.text_logits(tokens).numpy(), 0.1)


def test_float32_motion_beside_a_bfloat16_text_tower(contents, torch_bundle, tmp_path):
    folder = copied(torch_bundle, tmp_path)
    tensors = load_file(folder / "llm" / "model.safetensors")
    save_file({name: x.astype(jnp.bfloat16) for name, x in tensors.items()}, folder / "llm" / "model.safetensors")
    _relist(folder)
    model = LLaMoForMotion.from_pretrained(folder)
    assert model.text.model.norm.weight.dtype == torch.bfloat16 and model.motion.norm.weight.dtype == torch.float32
    rounded = contents.params | {"text": jax.tree.map(lambda x: x.astype(jnp.bfloat16), contents.params["text"])}
    batch = packed(2)
    text, motion = llamo.hidden(rounded, contents.config, as_batch(batch))
    out = model(**{name: as_torch(x) for name, x in batch.items()})
    assert out.motion_hidden.dtype == torch.bfloat16
    close(out.text_hidden.float(), np.asarray(text, np.float32), 0.05)
    close(out.motion_hidden.float(), np.asarray(motion, np.float32), 0.05)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_decoding_step_compiles_to_one_graph(port, guidance):
    torch.compiler.reset()
    step = torch.compile(port.decode_step, fullgraph=True, dynamic=False, backend="aot_eager")
    rows, sampling = (2 if guidance == 1 else 4), Sampling(guidance, 2)
    caches = [KVCache.empty(port.config.text, rows, 8, torch.float32, torch.device("cpu")) for _ in range(2)]
    with torch.no_grad():
        for run, cache in zip((port.decode_step, step), caches, strict=True):
            latent = torch.zeros(2, 4)
            for index in range(3):
                arguments = (
                    torch.full((rows, 1), index == 0),
                    torch.full((rows, 1), index),
                    as_torch(random(index, 2, 4)),
                )
                with torch.compiler.set_stance("fail_on_recompile" if index > 1 else "default"):
                    latent, ending = run(latent, *arguments, cache, sampling)
            cache.keys.append(torch.cat([latent, ending[:, None]], 1))
    for eager, compiled in zip(caches[0].keys, caches[1].keys, strict=True):
        close(compiled, eager.numpy())
    assert int(caches[1].cursor) == 3


LLMS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("Llama", {}, {}),
    ("Llama", {"attention_bias": True, "mlp_bias": True}, {"qkv_bias": True, "output_bias": True, "ffn_bias": True}),
    ("Llama", {"tie_word_embeddings": True}, {}),
    (
        "Llama",
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 32}},
        {"rope_theta": 500.0, "rope_scaling": {"kind": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
                                               "original_positions": 32}},
    ),
    ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}},
     {"rope_theta": 100.0, "rope_scaling": {"kind": "linear", "factor": 4.0}}),
    ("Mistral", {"sliding_window": None}, {}),
    ("Mistral", {"sliding_window": 5}, {"sliding_window": 5}),
    ("Qwen2", {}, {"qkv_bias": True}),
    ("Qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, {"qkv_bias": True,
    "sliding_window": 4}),
    ("Qwen3", {}, {"qk_norm": True}),
    ("Qwen3", {"attention_bias": True}, {"qk_norm": True, "qkv_bias": True, "output_bias": True}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "theirs", "ours"), LLMS)
def test_the_text_tower_is_transformers_own_model(family, theirs, ours):
    transformers = pytest.importorskip("transformers")
    shape = dict(vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    head_dim=6,
                 intermediate_size=24, rms_norm_eps=1e-5, max_position_embeddings=64)  # fmt: skip
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**shape, **theirs)
    reference = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    options = {"rope_theta": 10000.0} | ours | {"tie_embeddings": config.tie_word_embeddings, "family": family.lower()}
    tower = TextTower(TextConfig(50, 16, 3, 4, 2, 6, 24, norm_eps=1e-5, **options))
    state = reference.state_dict()
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    tower.load_state_dict(state)
    tokens = torch.randint(0, 50, (3, 40))
    with torch.no_grad():
        close(tower(tokens), reference(tokens).logits.numpy())


def test_it_needs_nothing_of_this_project(port, torch_bundle, tmp_path):
    """The code runs as a copy beside a bundle, from whatever folder, where llamo_jax is not installed."""
    source = Path(modeling_llamo.__file__).parent
    shutil.copytree(source / "llamo_torch", tmp_path / "llamo_torch", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(source / "modeling_llamo.py", tmp_path / "modeling_llamo.py")
    for file in tmp_path.rglob("*.py"):
        assert not re.search(r"import (llamo_jax|numpy|jax|flax)|from (llamo_jax|numpy|jax|flax)", file.read_text()), (
            file
        )
    shutil.copytree(source, tmp_path / "other", ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "other" / "llamo_torch" / "__init__.py", "a") as file:
        file.write("\nSOLVERS = {'only': SOLVERS['euler']}\n")
    tokens = torch.arange(3, 9)[None]
    torch.save(port.text_logits(tokens), tmp_path / "expected.pt")
    code = (
        "import importlib.util, sys, torch\n"
        "sys.modules.update(dict.fromkeys(('llamo_jax', 'jax', 'jaxlib', 'flax', 'experiments')))\n"
        f"spec = importlib.util.spec_from_file_location('modeling_llamo', {str(tmp_path / 'modeling_llamo.py')!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        # A second folder in the same process runs its own code.
        f"other = importlib.util.spec_from_file_location('other', {str(tmp_path / 'other' / 'modeling_llamo.py')!r})\n"
        "second = importlib.util.module_from_spec(other)\n"
        "other.loader.exec_module(second)\n"
        "assert set(second.SOLVERS) == {'only'} and 'euler' in module.SOLVERS\n"
        f"model = module.LLaMoForMotion.from_pretrained({str(torch_bundle)!r})\n"
        f"expected = torch.load({str(tmp_path / 'expected.pt')!r}, weights_only=True)\n"
        "assert torch.equal(model.text_logits(torch.arange(3, 9)[None]), expected)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr


def test_a_bundle_without_motion_says_so(torch_bundle, tmp_path):
    folder = copied(torch_bundle, tmp_path)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"info": {"trained": False}}))
    model = LLaMoForMotion.from_pretrained(folder)
    for run in (
        lambda: model.generate(TEXTS[0]),
        lambda: model.caption(torch.zeros(8, 272)),
        lambda: model.stream(TEXTS[0]),
    ):
        with pytest.raises(ValueError, match="knows no motion"):
            run()
    assert dataclasses.is_dataclass(model.config) and model.complete("a", 1) is not None
