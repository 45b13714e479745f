"""Kept keys and values of prompts: the same batches and the same losses as with the text tower in every step."""

import dataclasses
import functools
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from data_pipelines.index import Index
from data_pipelines.loader import LatentLoader, LoaderConfig
from data_pipelines.prompt_cache import PromptCache, plan, prompt_cache
from data_pipelines.tasks import TASKS
from llamo_jax import prompts
from llamo_jax.batch import Batch
from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig
from llamo_jax.errors import InputError
from llamo_jax.models import llamo
from llamo_jax.models.declaration import init
from llamo_jax.training.gradients import of_sum
from llamo_jax.training.losses import LlamoLoss, LlamoLossConfig
from llamo_jax.trees import flatten

CONFIG = LlamoConfig(
    LLMConfig(vocab_size=300, width=16, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8, ffn_width=24),
    MotionTowerConfig(width=24, ffn_width=32),
    FlowHeadConfig(width=16, num_blocks=2),
    latent_channels=4,
)
ROWS = {"t2m": 3, "m2t": 2}
TOWER = 7
TASK_LIST = list(TASKS.values())


@pytest.fixture(scope="module")
def text() -> dict:
    return init(llamo.LLM, CONFIG.text, jax.random.key(0))


@pytest.fixture(scope="module")
def encode(text):
    return functools.partial(llamo.prefix_keys, text, CONFIG.text)


def make(path, records, tokenizer, encode, *, llm=CONFIG.text, tower=TOWER, gigabytes=1.0) -> PromptCache:
    return prompt_cache(
        path,
        records,
        TASK_LIST,
        tokenizer,
        encode=encode,
        llm=llm,
        tower=tower,
        gigabytes=gigabytes,
        prefix_len=90,
    )


def batches(records, statistics, tokenizer, cache, rows=ROWS, **options) -> dict[str, Batch]:
    options = {"text_len": 90} | options
    config = LoaderConfig(motion_len=24, prefetch=0, condition_dropout=0.2, **options)
    loader = LatentLoader(records, Index.of(records), statistics, tokenizer, CONFIG.text.eom_id, rows, config)
    loader.cache = cache
    return next(iter(loader))


def test_losses_and_gradients_are_those_without_a_cache(
    tmp_path: Path, latent_records, statistics, tokenizer, text, encode
) -> None:
    cache = make(tmp_path / "prompts", latent_records, tokenizer, encode)
    batch = batches(latent_records, statistics, tokenizer, cache)
    assert batch["t2m"].text.tokens.shape == (3, 0) and batch["m2t"].text.tokens.shape == (2, 90)
    params = flatten(llamo.init_motion(CONFIG, jax.random.key(1), text))
    # Zero-initialised layers would hide errors behind them.
    keys = iter(jax.random.split(jax.random.key(2), 200))
    params = {name: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape) for name, leaf in params.items()}
    frozen = {f"text/{name}": leaf for name, leaf in flatten(text).items()}
    gradients = jax.jit(of_sum(LlamoLoss(CONFIG, LlamoLossConfig())))
    plain = {task: _with_tokens(rows, cache) for task, rows in batch.items()}
    kept, computed = (gradients(params, frozen, each, jax.random.key(3)) for each in (batch, plain))
    for name in ("t2m_flow", "t2m_exit", "m2t_loss"):
        np.testing.assert_allclose(kept[1][name], computed[1][name], rtol=1e-3)
    for name in params:
        scale = np.abs(computed[0][name]).max()
        np.testing.assert_allclose(kept[0][name], computed[0][name], atol=2e-3 * scale, err_msg=name)
    # The comparison sees what a wrong prefix does.
    other = {
        task: rows._replace(prefix=rows.prefix._replace(values=-3 * rows.prefix.values)) for task, rows in batch.items()
    }
    changed = gradients(params, frozen, other, jax.random.key(3))[0]
    assert all(
        np.abs(changed[name] - kept[0][name]).max() > 2e-2 * np.abs(kept[0][name]).max()
        for name in params
        if name.startswith("motion/layers/attn")
    )


def _with_tokens(rows: Batch, cache: PromptCache) -> Batch:
    """A batch whose prefix is tokens again, found by their keys: what the loader gives without a cache."""
    prefix, text = rows.prefix, rows.text
    table = {}
    for ids, at in cache._trie.prompts.items():
        keys, _ = cache.keys_and_values(at[None])
        for index, token in enumerate(ids):
            table[keys[0, :, :, index].tobytes()] = token
    tokens = np.zeros(prefix.positions.shape, np.int32)
    for row, column in np.argwhere(prefix.segments > 0):
        tokens[row, column] = table[np.ascontiguousarray(prefix.keys[row, :, :, column]).tobytes()]
    none = np.zeros(tokens.shape, np.float32)
    follows = text if text.targets is not None else text._replace(targets=text.tokens, loss_mask=text.tokens)
    before = (tokens, prefix.positions, prefix.segments, tokens, none)
    joined = (np.concatenate(pair, 1) for pair in zip(before, follows, strict=True))
    return rows._replace(text=type(text)(*joined), prefix=None)


def test_prompts_are_those_of_inference(tmp_path: Path, latent_records, statistics, tokenizer, encode) -> None:
    cache = make(tmp_path / "prompts", latent_records, tokenizer, encode)
    rows = _with_tokens(batches(latent_records, statistics, tokenizer, cache)["t2m"], cache)
    allowed = [prompts.unconditional_prompt(tokenizer)]
    allowed += [
        prompts.motion_prompt(tokenizer, text, number)
        for record in latent_records
        for text in record.captions
        for number in range(len(prompts.TEXT_TO_MOTION))
    ]
    seen = 0
    for row in range(3):
        for segment in range(1, rows.text.segments[row].max() + 1):
            at = rows.text.segments[row] == segment
            assert rows.text.tokens[row][at].tolist() in allowed
            motion = rows.motion.segments[row] == segment
            assert rows.motion.positions[row][motion][0] == at.sum()
            seen += 1
    assert seen >= 3


def test_beginnings_are_kept_once_and_room_is_kept_to(latent_records, tokenizer) -> None:
    room = {"prefix_len": 90}
    everything, texts, most = plan(latent_records, TASK_LIST, tokenizer, tokens=10**6, **room)
    assert texts == most == 2
    assert len(everything) < sum(map(len, everything.prompts)) / 2
    first, texts, _ = plan(latent_records, TASK_LIST, tokenizer, tokens=len(everything) - 1, **room)
    assert texts == 1 and len(first) < len(everything)
    with pytest.raises(InputError, match="raise prompt_cache, or set it to 0"):
        plan(latent_records, TASK_LIST, tokenizer, tokens=10, **room)
    limit = max(map(len, everything.prompts)) - 1
    short, texts, _ = plan(latent_records, TASK_LIST, tokenizer, tokens=10**6, prefix_len=limit)
    assert texts == 2 and len(short) < len(everything) and max(map(len, short.prompts)) <= limit
    with pytest.raises(InputError, match="no prompt of a text fits 1 tokens; raise prefix_len"):
        plan(latent_records, [TASKS["t2m"]], tokenizer, tokens=10**6, prefix_len=1)
    wordless = [dataclasses.replace(record, captions=(" ",)) for record in latent_records]
    with pytest.raises(InputError, match="no record has a text"):
        plan(wordless, TASK_LIST, tokenizer, tokens=10**6, **room)


def test_texts_before_and_after_motions_have_limits_of_their_own(
    tmp_path: Path, latent_records, statistics, tokenizer, encode, monkeypatch
) -> None:
    """What stands before motions takes nothing of the text stream, and is compared with its own room."""
    before = tuple(tokenizer.encode("look at this motion and tell me what you see in it"))
    monkeypatch.setattr(tokenizer, "turns", tokenizer.turns | {"m2t": ((tokenizer.bos_id, *before), ())})
    cache = make(tmp_path / "prompts", latent_records, tokenizer, encode)
    captions = [caption for record in latent_records for caption in record.captions]
    stream = max(len(prompts.caption_target(tokenizer, caption)) for caption in captions) + 20
    asked = {"rows": {"m2t": 2}, "prefix_len": 90}
    assert batches(latent_records, statistics, tokenizer, cache, text_len=stream, **asked)["m2t"].prefix is not None
    with pytest.raises(InputError, match=r"fits 3 text tokens with its prompt .*: raise text_len"):
        batches(latent_records, statistics, tokenizer, cache, text_len=3, **asked)
    with pytest.raises(InputError, match=rf"fits {len(before)} tokens before its motion .*: raise prefix_len"):
        batches(latent_records, statistics, tokenizer, cache, **asked | {"prefix_len": len(before)})


def test_a_cache_is_read_again_only_for_the_same_tower_and_prompts(
    tmp_path: Path, latent_records, tokenizer, encode
) -> None:
    calls = []

    def counted(tokens, before):
        calls.append(tokens.shape)
        return encode(tokens, before)

    first = make(tmp_path / "prompts", latent_records, tokenizer, counted)
    count = len(calls)
    again = make(tmp_path / "prompts", latent_records, tokenizer, counted)
    assert len(calls) == count > 0 and len(again) == len(first)
    make(tmp_path / "prompts", latent_records, tokenizer, counted, tower=8)
    assert len(calls) == 2 * count
    make(tmp_path / "prompts", latent_records[:20], tokenizer, counted, tower=8)
    assert (count := len(calls)) > 0
    turned = dataclasses.replace(CONFIG.text, rope_theta=5e5)
    make(tmp_path / "prompts", latent_records[:20], tokenizer, counted, llm=turned, tower=8)
    assert len(calls) > count
    file = tmp_path / "prompts" / "prompts.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prompts": [[1, 2]]}))
    with pytest.raises(InputError, match="not a cache of prompts"):
        PromptCache.open(tmp_path / "prompts")


def test_keys_that_float16_cannot_hold_are_refused(tmp_path: Path, latent_records, tokenizer, encode) -> None:
    def large(tokens, before):
        keys, values = encode(tokens, before)
        return keys * 1e7, values

    with pytest.raises(InputError, match="too large for float16; set prompt_cache to 0"):
        make(tmp_path / "prompts", latent_records, tokenizer, large)
    assert not (tmp_path / "prompts").exists()


@pytest.mark.parametrize(("texts", "dtype"), [(("walk",), "float32"), (("walk", "walk on", "run"), "bfloat16")])
def test_any_prompts_and_any_type_of_tower(
    tmp_path: Path, latent_records, tokenizer, text, texts: tuple[str, ...], dtype: str
) -> None:
    """One prompt has a beginning that it shares with nothing; a tower in 16 bits computes in 16 bits."""
    records = [dataclasses.replace(latent_records[0], captions=texts)]
    tower = jax.tree.map(lambda leaf: leaf.astype(dtype), text)
    encode = functools.partial(llamo.prefix_keys, tower, CONFIG.text)
    cache = make(tmp_path / "prompts", records, tokenizer, encode)
    for ids, rows in cache._trie.prompts.items():
        keys, values = cache.keys_and_values(rows[None])
        expected = encode(np.array([ids]))
        for found, wanted in zip((keys, values), expected, strict=True):
            np.testing.assert_allclose(found, np.asarray(wanted, np.float32), atol=2e-2 if dtype != "float32" else 2e-3)


def test_requests_are_said_as_they_are(tmp_path: Path, latent_records, statistics, tokenizer, encode) -> None:
    record = dataclasses.replace(latent_records[0], captions=("someone runs.",), requests=("Could you run?",))
    cache = make(tmp_path / "prompts", [record], tokenizer, encode)
    assert tuple(prompts.motion_prompt(tokenizer, "Could you run?")) in cache._trie.prompts
    asked = [ids for ids in cache._trie.prompts if "Could you" in tokenizer.decode(list(ids))]
    assert len(asked) == 1


def test_a_full_disk_is_told_before_the_work(tmp_path: Path, latent_records, tokenizer, encode, monkeypatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="lower prompt_cache, or make room"):
        make(tmp_path / "prompts", latent_records, tokenizer, encode)
