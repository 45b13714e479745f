"""Equalities of the model: packed = unpacked, cached = whole, text-only = the plain LLM, gradients only where something
trains."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llamo_jax.batch import Batch, MotionRows, TextRows
from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig, SamplingConfig
from llamo_jax.inference import decoding
from llamo_jax.inference.generate import generate_latents
from llamo_jax.models import flow, llamo, mot
from llamo_jax.models.attention import Places
from llamo_jax.models.cache import KVCache
from llamo_jax.models.declaration import init
from llamo_jax.solvers import SOLVERS

# Compiled whole: run operation by operation, each would compile on its own.
hidden = jax.jit(llamo.hidden, static_argnames=("config", "text_first"))
text_step = jax.jit(llamo.text_step, static_argnames="config")
motion_step = jax.jit(llamo.motion_step, static_argnames="config")
text_logits = jax.jit(llamo.text_logits, static_argnames="config")
sample_flow = jax.jit(flow.sample, static_argnames="solver")
velocity = jax.jit(
    lambda head, x, condition, t: flow.velocity(head, x, flow.modulations(head, condition, flow.embed_time(head, t)))
)


def sample(seed: int, prefix: int, motion: int, suffix: int, config: LlamoConfig, segment: int = 1) -> Batch:
    """One sample: `prefix` text tokens, a motion of `motion` latents, `suffix` text tokens (the first of them
    [EOM])."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, config.text.vocab_size, prefix + suffix)
    if suffix:
        tokens[prefix] = config.text.eom_id
    slots = motion + 1
    latents = np.r_[rng.normal(size=(motion, config.latent_channels)), np.zeros((1, config.latent_channels))]
    text = TextRows(
        tokens=tokens.astype(np.int32),
        positions=np.r_[:prefix, prefix + slots : prefix + slots + suffix].astype(np.int32),
        segments=np.full(prefix + suffix, segment, np.int32),
    )
    rows = MotionRows(
        latents=latents.astype(np.float32),
        start=np.arange(slots) == 0,
        positions=(prefix + np.arange(slots)).astype(np.int32),
        segments=np.full(slots, segment, np.int32),
    )
    return Batch(text, rows)


def rows(*samples: Batch) -> Batch:
    """Several samples behind each other in one row."""
    return jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts))[None], *samples)


def test_packed_is_unpacked(config: LlamoConfig, params: dict) -> None:
    first, second = sample(0, 4, 3, 5, config), sample(1, 2, 6, 3, config, segment=2)
    text, motion = hidden(params, config, rows(first, second))
    for index, alone in enumerate((first, second)):
        text_alone, motion_alone = hidden(params, config, rows(alone))
        start_text, start_motion = (0, 0) if index == 0 else (9, 4)
        np.testing.assert_allclose(text[:, start_text : start_text + text_alone.shape[1]], text_alone, atol=1e-5)
        np.testing.assert_allclose(
            motion[:, start_motion : start_motion + motion_alone.shape[1]], motion_alone, atol=1e-5
        )


def test_padding_changes_nothing(config: LlamoConfig, params: dict) -> None:
    alone = sample(0, 4, 3, 5, config)
    padding = jax.tree.map(lambda array: np.zeros_like(np.concatenate([array, array])), alone)
    text, motion = hidden(params, config, rows(alone, padding))
    text_alone, motion_alone = hidden(params, config, rows(alone))
    np.testing.assert_allclose(text[:, :9], text_alone, atol=1e-5)
    np.testing.assert_allclose(motion[:, :4], motion_alone, atol=1e-5)
    assert np.isfinite(text).all() and np.isfinite(motion).all()


def test_cached_is_whole(config: LlamoConfig, params: dict) -> None:
    whole = rows(sample(0, 4, 3, 5, config))
    text, motion = hidden(params, config, whole)
    unstacked = llamo.decoding_params(params)
    cache = KVCache.empty(config.text, 1, 20)

    def places(stream: TextRows | MotionRows, start: int, stop: int) -> Places:
        return Places(stream.positions[:, start:stop], stream.segments[:, start:stop])

    before, cache = text_step(unstacked, config, whole.text.tokens[:, :4], places(whole.text, 0, 4), cache)
    np.testing.assert_allclose(before, text[:, :4], atol=1e-5)
    for slot in range(4):
        inputs = whole.motion.latents[:, slot - 1 : slot] if slot else jnp.zeros((1, 1, config.latent_channels))
        start = jnp.array([[slot == 0]])
        h, cache = motion_step(unstacked, config, inputs, start, places(whole.motion, slot, slot + 1), cache)
        np.testing.assert_allclose(h[:, 0], motion[:, slot], atol=1e-5)
    after, cache = text_step(unstacked, config, whole.text.tokens[:, 4:], places(whole.text, 4, 9), cache)
    np.testing.assert_allclose(after, text[:, 4:], atol=1e-5)
    assert cache.cursor.tolist() == [13]


def test_each_row_of_a_cache_fills_its_own_slots(config: LlamoConfig) -> None:
    cache = KVCache.empty(config.text, 2, 4)
    segments = jnp.array([[1, 1, 1], [1, 0, 0]])
    cache, slots = cache.advance(Places(jnp.array([[0, 1, 2], [0, 9, 9]]), segments))
    assert slots.tolist() == [[0, 1, 2], [0, 1, 2]] and cache.cursor.tolist() == [3, 1]
    cache, slots = cache.advance(Places(jnp.array([[3, 4], [1, 2]]), jnp.ones((2, 2), jnp.int32)))
    assert slots.tolist() == [[3, 4], [1, 2]]
    # The second row wrote over its padding; what is behind the last slot of the first row is lost and does no harm.
    assert cache.places.positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 0]]
    assert cache.places.segments.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    new = jnp.arange(2 * 2 * 2 * 8, dtype=jnp.float32).reshape(2, 2, 2, 8)
    written = cache.write(1, slots, new, -new)
    np.testing.assert_array_equal(written.k[1][1][:, 1:3], new[1])
    np.testing.assert_array_equal(written.v[1][0][:, 3], -new[0][:, 0])
    assert not np.any(np.asarray(written.k[0])) and not np.any(np.asarray(written.k[1][0][:, :3]))


def test_later_slots_change_nothing_before_them(config: LlamoConfig, params: dict) -> None:
    whole = rows(sample(0, 4, 6, 0, config))
    _, before = hidden(params, config, whole)
    motion = whole.motion._replace(latents=whole.motion.latents.at[:, 3].add(1.0))
    changed = whole._replace(motion=motion)
    _, after = hidden(params, config, changed)
    # The latent of slot 3 is first an input at slot 4.
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.abs(np.asarray(before[:, 4] - after[:, 4])).max() > 1e-3


def test_text_alone_is_the_plain_llm_bitwise(config: LlamoConfig, params: dict) -> None:
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 40, (2, 9)))
    plain = text_logits(params["text"], config.text, tokens)
    other = llamo.init_motion(config, jax.random.key(9), params["text"])
    positions = jnp.broadcast_to(jnp.arange(9), (2, 9))
    batch = Batch(TextRows(tokens, positions, jnp.ones_like(positions)))
    for motion_side in (params, other, {}):
        h, none = hidden({**motion_side, "text": params["text"]}, config, batch)
        np.testing.assert_array_equal(llamo.lm_head(params["text"], h), plain)
        assert none is None


def test_stopping_the_text_changes_no_motion_gradient(config: LlamoConfig, params: dict) -> None:
    batch = rows(sample(0, 4, 3, 0, config))

    def loss(motion: dict, stop: bool) -> jnp.ndarray:
        _, h = hidden({**params, "motion": motion}, config, batch, text_first=stop)
        return jnp.square(h).sum()

    stopped, full = (jax.jit(jax.grad(loss), static_argnums=1)(params["motion"], stop) for stop in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), stopped, full)


def test_unstacked_layers_are_the_stacked_ones(params: dict) -> None:
    layers = mot.unstack(params["text"]["layers"])
    assert len(layers) == 3
    weight = params["text"]["layers"]["attn"]["q"]["weight"]
    np.testing.assert_array_equal(layers[2]["attn"]["q"]["weight"], weight[2])


def test_unrolled_is_scanned(config: LlamoConfig, params: dict) -> None:
    batch = rows(sample(0, 4, 3, 5, config))
    both = (hidden(tree, config, batch) for tree in (params, llamo.decoding_params(params)))
    for scanned, unrolled in zip(*both, strict=True):
        np.testing.assert_allclose(unrolled, scanned, atol=1e-5)


def test_equal_towers_start_as_a_copy(params: dict) -> None:
    llm = LLMConfig(40, 16, 3, 4, 2, 8, 24)
    motion = llamo.init_motion(
        LlamoConfig(llm, MotionTowerConfig(16, 24), FlowHeadConfig(8, 1), 5), jax.random.key(0), params["text"]
    )
    jax.tree.map(np.testing.assert_array_equal, motion["motion"]["layers"], params["text"]["layers"])


def test_no_two_motions_of_a_sample_have_the_same_noise(config: LlamoConfig, params: dict) -> None:
    tree, sampling = llamo.decoding_params(params), SamplingConfig(guidance=1.0, steps=2)
    times = decoding.schedule(tree, sampling)

    def say(state: decoding.Decoding) -> decoding.Decoding:
        return decoding.say(tree, config, state, jnp.array([[[3]]]), jnp.array([[1]]))

    state = decoding.start(tree, config, [[[1, 2]]], room=32, keys=jax.random.key(0)[None])
    first = np.array(jax.random.key_data(state.keys))  # a copy: the state is donated
    # Text before a motion changes nothing, however it is said.
    state = say(state)
    np.testing.assert_array_equal(jax.random.key_data(state.keys), first)
    state, _, _ = decoding.draw(tree, config, sampling, times, state)
    state = say(state)
    assert (jax.random.key_data(state.keys) != first).any()


def test_drawn_lengths_follow_the_hazard(config: LlamoConfig, params: dict) -> None:
    """Of 400 motions as many have ended by each slot as the exit head says, and none draws other latents for it."""
    tree = llamo.decoding_params(params)
    tree["exit_head"] = jax.tree.map(jnp.zeros_like, tree["exit_head"])
    tree["exit_head"]["bias"] += jax.scipy.special.logit(0.2)  # of every slot, whatever the motion
    keys = jax.random.split(jax.random.key(5), 400)

    def draw(length: str, keys: jax.Array) -> list[np.ndarray]:
        sampling = SamplingConfig(guidance=1.0, steps=1, length=length)
        prompts, most = [[1, 2]] * len(keys), {"max_latents": 24}
        return generate_latents(tree, config, prompts, [1], keys, sampling, **most)

    drawn, median = draw("drawn", keys), draw("median", keys[:2])
    # A motion of n latents has passed n slots after the first, and ends at slot n: 1 - 0.8^(n + 1) has ended by then.
    assert [len(latents) for latents in median] == [3, 3]  # 1 - 0.8^4 is the first over a half
    lengths = np.array([len(latents) for latents in drawn])
    for n in (1, 2, 3, 5, 8):
        assert (lengths <= n).mean() == pytest.approx(1 - 0.8 ** (n + 1), abs=0.07), n
    both = min(3, lengths[1])
    np.testing.assert_allclose(drawn[1][:both], median[1][:both], atol=1e-5)
    # A sample's length is its own, whatever is beside it.
    alone = draw("drawn", keys[7:9])
    assert [len(latents) for latents in alone] == lengths[7:9].tolist()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_tableau_is_consistent_and_explicit(solver: str) -> None:
    nodes, stages, weights = SOLVERS[solver]
    assert len(nodes) == len(stages) == len(weights) and sum(weights) == pytest.approx(1)
    assert [len(before) for before in stages] == list(range(len(stages)))
    assert [sum(before) for before in stages] == pytest.approx(list(nodes))


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("solver", SOLVERS)
def test_hoisted_sampling_is_the_plain_loop(config: LlamoConfig, params: dict, solver: str, shift: float) -> None:
    """The sampler against the definition of the method, one evaluation of the velocity after the other."""
    head = params["flow_head"]
    condition, unconditional = jax.random.normal(jax.random.key(0), (2, 3, config.motion.width))
    noise = jax.random.normal(jax.random.key(1), (3, config.latent_channels))

    def v(x: jnp.ndarray, t: float) -> jnp.ndarray:
        with_text, without = (velocity(head, x, c, jnp.full(3, t)) for c in (condition, unconditional))
        return without + 1.7 * (with_text - without)

    nodes, stages, weights = SOLVERS[solver]
    shares = {1.0: (6, 5, 4, 3, 2, 1, 0), 3.0: (6, 90 / 16, 36 / 7, 4.5, 3.6, 2.25, 0)}[shift]  # of noise, in sixths
    x = noise
    for share, after in itertools.pairwise(shares):
        t, dt = 1 - share / 6, (share - after) / 6
        ks: list[jnp.ndarray] = []
        for node, before in zip(nodes, stages, strict=True):
            ks.append(v(x + dt * sum((a * k for a, k in zip(before, ks, strict=True)), 0.0), t + node * dt))
        x = x + dt * sum(b * k for b, k in zip(weights, ks, strict=True))
    conditions = jnp.stack([condition, unconditional])
    times = flow.schedule(head, solver=solver, steps=6, shift=shift)
    sampled = sample_flow(head, conditions, noise, times, solver=solver, guidance=1.7)
    np.testing.assert_allclose(sampled, x, atol=1e-5)


def test_the_methods_are_those_of_their_names() -> None:
    """One step of size h on dx/dt = f(t, x), written out."""

    def f(t: float, x: float) -> float:
        return np.sin(3 * t) - 0.7 * x

    h, x = 0.3, 1.2
    middle, end = f(h / 2, x + h / 2 * f(0, x)), f(h, x + h * f(0, x))
    expected = {"euler": x + h * f(0, x), "midpoint": x + h * middle, "heun": x + h / 2 * (f(0, x) + end)}
    for name, value in expected.items():
        nodes, stages, weights = SOLVERS[name]
        ks: list[float] = []
        for node, before in zip(nodes, stages, strict=True):
            ks.append(f(node * h, x + h * sum(a * k for a, k in zip(before, ks, strict=True))))
        assert x + h * sum(b * k for b, k in zip(weights, ks, strict=True)) == pytest.approx(value, rel=1e-12), name


def test_straight_flow_is_exact_in_one_step(config: LlamoConfig, params: dict) -> None:
    # A head whose velocity is a constant u transports noise to noise + u, whatever the steps.
    zero = jax.tree.map(jnp.zeros_like, params["flow_head"])
    u = jnp.arange(5.0)
    head = {**zero, "output": {**zero["output"], "bias": u}}
    noise = jax.random.normal(jax.random.key(0), (2, 5))
    for steps in (1, 4):
        times = flow.schedule(head, solver="euler", steps=steps)
        sampled = sample_flow(head, jnp.zeros((1, 2, config.motion.width)), noise, times, solver="euler")
        np.testing.assert_allclose(sampled, noise + u, atol=1e-5)


def test_a_random_motion_tower_starts_in_the_scale_of_the_text_tower(config):
    """Layer by layer, whatever the text tower's sizes: a motion does not drown the text after it."""
    text = init(llamo.LLM, config.text, jax.random.key(0))
    sizes = jnp.array([0.1, 1.0, 8.0])[:, None, None]
    for name in "qkv":
        text["layers"]["attn"][name]["weight"] *= sizes
    motion = llamo.init_motion(config, jax.random.key(1), text)["motion"]

    def size(layers, name, layer):
        weight = layers["attn"][name]["weight"][layer] * layers["attn_norm"][layer]
        inputs = jax.random.normal(jax.random.key(2), (1000, weight.shape[1]))
        return float(jnp.sqrt(jnp.square(inputs @ weight.T).mean()))

    for name, factor in llamo.START_SCALE.items():
        for layer in range(3):
            wanted = factor * size(text["layers"], name, layer)
            assert size(motion["layers"], name, layer) == pytest.approx(wanted, rel=0.1)
    assert float(jnp.std(motion["eom"])) == pytest.approx(float(jnp.std(text["embed"])), rel=0.5)
