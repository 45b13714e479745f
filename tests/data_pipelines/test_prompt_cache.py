"""Kept keys and values of prompts: the same batches and the same losses as with the text tower in every step."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines.index import Index
from data_pipelines.loader import LatentLoader, LoaderConfig
from data_pipelines.prompt_cache import PromptCache, plan, prompt_cache
from data_pipelines.tasks import TASKS
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


def make(path, records, tokenizer, encode, *, tower=TOWER, gigabytes=1.0) -> PromptCache:
    text = CONFIG.text
    shape = (text.num_layers, text.num_kv_heads, text.head_dim)
    return prompt_cache(
        path, records, TASK_LIST, tokenizer, encode=encode, shape=shape, tower=tower, gigabytes=gigabytes
    )


def batches(records, statistics, tokenizer, cache) -> dict[str, Batch]:
    config = LoaderConfig(text_len=90, motion_len=24, prefetch=0, condition_dropout=0.2)
    loader = LatentLoader(records, Index.of(records), statistics, tokenizer, CONFIG.text.eom_id, ROWS, config, cache)
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
    allowed = [
        ids for record in latent_records for text in record.captions for ids in TASKS["t2m"].prefixes(text, tokenizer)
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
    everything, texts, most = plan(latent_records, TASK_LIST, tokenizer, tokens=10**6)
    assert texts == most == 2
    assert len(everything) < sum(map(len, everything.prompts)) / 2
    first, texts, _ = plan(latent_records, TASK_LIST, tokenizer, tokens=len(everything) - 1)
    assert texts == 1 and len(first) < len(everything)
    with pytest.raises(InputError, match="raise prompt_cache, or set it to 0"):
        plan(latent_records, TASK_LIST, tokenizer, tokens=10)


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
    assert len(calls) > 2 * count
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
