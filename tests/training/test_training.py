"""The training step and loop: sharded = one device, resumed = uninterrupted, what is frozen stays bitwise as it was."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from llamo_jax import sharding
from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig
from llamo_jax.errors import InputError
from llamo_jax.models import llamo
from llamo_jax.models.layers import init, logical_axes
from llamo_jax.training import loop
from llamo_jax.training.loop import RunConfig, train
from llamo_jax.training.losses import LlamoLossConfig, llamo_loss
from llamo_jax.training.metrics import MetricsLog
from llamo_jax.training.optim import OptimConfig, learning_rate, transformation
from llamo_jax.training.step import TrainState, make_step
from llamo_jax.trees import flatten, unflatten

CONFIG = LlamoConfig(LLMConfig(32, 16, 2, 4, 2, 4, 24), MotionTowerConfig(16, 32), FlowHeadConfig(16, 1), latent_channels=4)
OPTIM = OptimConfig(1e-2, warmup_steps=2)
MOTION = ("motion/", "flow/", "exit/")


def batch(seed: int, rows: int = 8) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    index = np.arange(6)

    def task(text_first: bool) -> dict[str, np.ndarray]:
        text_positions, motion_positions = (index, 6 + index) if text_first else (np.r_[0, 7 + np.arange(5)], 1 + index)
        ones = np.ones((rows, 6), np.float32)
        return {
            "text_tokens": rng.integers(0, 32, (rows, 6)).astype(np.int32),
            "text_positions": np.tile(text_positions, (rows, 1)).astype(np.int32),
            "text_segments": np.ones((rows, 6), np.int32),
            "text_targets": rng.integers(0, 32, (rows, 6)).astype(np.int32),
            "text_loss_mask": ones,
            "motion_latents": rng.normal(size=(rows, 6, 4)).astype(np.float32),
            "motion_start": np.tile(index == 0, (rows, 1)),
            "motion_positions": np.tile(motion_positions, (rows, 1)).astype(np.int32),
            "motion_segments": np.ones((rows, 6), np.int32),
            "flow_mask": ones,
            "exit_targets": np.tile(index == 5, (rows, 1)).astype(np.float32),
            "exit_mask": ones,
        }

    return {"t2m": task(True), "m2t": task(False)}


class Batches:
    """An endless iterator with a position, as Grain's are."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, dict[str, np.ndarray]]:
        self.position += 1
        return batch(self.position)

    def get_state(self) -> dict[str, int]:
        return {"position": self.position}

    def set_state(self, state: dict[str, int]) -> None:
        self.position = state["position"]


@pytest.fixture(scope="module")
def params() -> tuple[dict[str, Any], dict[str, Any]]:
    text = init(lambda rngs: llamo.LLM(rngs, CONFIG.text), jax.random.key(0))
    return flatten(llamo.init_motion(CONFIG, jax.random.key(1), text)), flatten({"text": text})


def shardings(mesh: jax.sharding.Mesh, *trees: dict[str, Any]) -> dict[str, Any]:
    axes = logical_axes(lambda rngs: llamo.Motion(rngs, CONFIG))
    axes |= {f"text/{path}": value for path, value in logical_axes(lambda rngs: llamo.LLM(rngs, CONFIG.text)).items()}
    return sharding.param_shardings(axes, {path: leaf.shape for tree in trees for path, leaf in tree.items()}, mesh)


def loss(tree: dict, batch: dict, key: jax.Array) -> tuple:
    return llamo_loss(tree, CONFIG, LlamoLossConfig(), batch, key)


def run_steps(mesh: jax.sharding.Mesh, params: tuple, steps: int = 3) -> tuple[dict, list[float]]:
    trainable, frozen = params
    placed = shardings(mesh, trainable, frozen)
    run = RunConfig("test", 10, OPTIM, MOTION)
    state = TrainState.create(trainable, OPTIM, run.trains, mesh, placed)
    frozen = {path: jax.device_put(leaf, placed[path]) for path, leaf in frozen.items()}
    step = make_step(loss, OPTIM, run.trains, mesh, placed, seed=0)
    losses = []
    for index in range(steps):
        state, metrics = step(state, frozen, jax.device_put(batch(index), sharding.batch_sharding(mesh)), jnp.float32(index / 10))
        losses.append(float(metrics["loss"]))
    return state.params, losses


@pytest.fixture(scope="module")
def one_device(params: tuple) -> tuple[dict, list[float]]:
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.MESH_AXES)
    return run_steps(mesh, params)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 4, 2)])
def test_sharded_is_one_device(params: tuple, one_device: tuple, shape: tuple[int, int, int]) -> None:
    sharded, losses = run_steps(sharding.make_mesh(*shape), params)
    np.testing.assert_allclose(losses, one_device[1], rtol=2e-5)
    # Adam divides by the root of tiny second moments, so that sums in another order show in single weights.
    for path, leaf in one_device[0].items():
        np.testing.assert_allclose(sharded[path], leaf, atol=2e-3, err_msg=path)
    assert sharded["motion/layers/attn/q"].sharding.spec == P(None, "tensor", "fsdp")


def test_specs_follow_the_rules_and_refuse_what_does_not_divide() -> None:
    mesh = sharding.make_mesh(2, 2, 2)
    assert sharding.spec(("layers", "ffn", "embed"), (2, 32, 16), mesh) == P(None, "tensor", "fsdp")
    with pytest.raises(InputError, match='motion/up: axis "ffn" of size 33 cannot be split over mesh axis "tensor" of size 2'):
        sharding.spec(("ffn",), (33,), mesh, "motion/up")
    with pytest.raises(InputError, match="mesh 3,1,1 has 3 devices; this machine has 8"):
        sharding.make_mesh(3)


def test_batches_are_split_over_as_many_devices_as_divide_them() -> None:
    assert [sharding.data_mesh(*rows).shape["data"] for rows in ((16,), (6, 2), (3, 5), (12, 4))] == [8, 2, 1, 4]


def train_run(folder: Path, params: tuple, steps: int, data: Batches, **changes: Any) -> dict[str, np.ndarray]:
    mesh = sharding.make_mesh(8)
    trainable, frozen = params
    run = dataclasses.replace(RunConfig("test", steps, OPTIM, MOTION, checkpoint_every=2, log_every=1), **changes)
    with MetricsLog(folder) as log:
        result = train(
            run, loss, trainable, frozen, data, mesh=mesh, shardings=shardings(mesh, trainable, frozen), log=log,
            folder=folder / "checkpoints", settings={"seed": run.seed},
        )  # fmt: skip
    return {path: np.asarray(leaf) for path, leaf in result.items()}


def test_resumed_is_uninterrupted_bitwise(params: tuple, tmp_path: Path) -> None:
    whole = train_run(tmp_path / "whole", params, 6, Batches())
    data = Batches()

    def stop(step: int, _: dict[str, float]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    mesh = sharding.make_mesh(8)
    with MetricsLog(tmp_path / "cut") as log, pytest.raises(KeyboardInterrupt):
        run = RunConfig("test", 6, OPTIM, MOTION, checkpoint_every=2, log_every=1)
        train(
            run, loss, *params, data, mesh=mesh, shardings=shardings(mesh, *params), log=log,
            folder=tmp_path / "cut" / "checkpoints", settings={"seed": 0}, on_metrics=stop,
        )  # fmt: skip
    resumed_data = Batches()
    resumed = train_run(tmp_path / "cut", params, 6, resumed_data)
    assert resumed_data.position == 6
    for path in whole:
        np.testing.assert_array_equal(resumed[path], whole[path], err_msg=path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 5, 6]  # step 5 came after the checkpoint of step 4 and was trained again


def test_another_run_in_the_folder_is_refused(params: tuple, tmp_path: Path) -> None:
    train_run(tmp_path, params, 2, Batches())
    with pytest.raises(InputError, match="holds a run with other settings \\(seed differ\\)"):
        train_run(tmp_path, params, 2, Batches(), seed=1)


def test_what_is_frozen_gives_the_same_logits_bitwise(params: tuple, tmp_path: Path) -> None:
    """The very arrays that training held, not a copy from the file that they came from."""
    frozen = params[1]
    tokens = np.arange(12).reshape(2, 6)
    logits = jax.jit(llamo.text_logits, static_argnums=1)
    before = {path: np.array(leaf) for path, leaf in frozen.items()}
    logits_before = np.asarray(logits(unflatten(frozen)["text"], CONFIG.text, tokens))
    train_run(tmp_path, params, 3, Batches())
    for path, leaf in frozen.items():
        np.testing.assert_array_equal(leaf, before[path], err_msg=path)
    np.testing.assert_array_equal(logits(unflatten(frozen)["text"], CONFIG.text, tokens), logits_before)


def test_another_seed_draws_other_noise(params: tuple, tmp_path: Path) -> None:
    first, again, other = (train_run(tmp_path / name, params, 2, Batches(), seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    path = "flow/output/weight"
    np.testing.assert_array_equal(first[path], again[path])
    assert np.any(first[path] != other[path])


def test_a_stage_moves_its_own_parameters_only(params: tuple, tmp_path: Path) -> None:
    trained = train_run(tmp_path, params, 2, Batches(), trainable=("flow/", "exit/"))
    for path, leaf in params[0].items():
        moved = bool(np.any(trained[path] != np.asarray(leaf)))
        if path.startswith("motion/"):
            assert not moved, path
    assert np.any(trained["flow/output/weight"] != np.asarray(params[0]["flow/output/weight"]))


def test_a_loss_that_is_not_finite_stops_the_run(params: tuple, tmp_path: Path) -> None:
    broken = ({**params[0], "motion/bom": params[0]["motion/bom"] * np.nan}, params[1])
    with pytest.raises(FloatingPointError, match=r"test, step 1: .* is nan"):
        train_run(tmp_path, broken, 2, Batches())


def test_learning_rate_warms_up_and_anneals() -> None:
    config = OptimConfig(2.0, warmup_steps=10, final_fraction=0.1)
    assert float(learning_rate(config, jnp.int32(4), jnp.float32(0.0))) == pytest.approx(1.0)
    assert float(learning_rate(config, jnp.int32(500), jnp.float32(0.5))) == pytest.approx(2.0 * 0.55)
    assert float(learning_rate(config, jnp.int32(1000), jnp.float32(1.0))) == pytest.approx(0.2)


def test_module_rates_scale_updates_by_prefix() -> None:
    config = OptimConfig(1.0, module_rates=("flow/=0.5", "exit/=0.0"))
    assert [config.rate_of(path) for path in ("flow/a", "exit/b", "motion/c")] == [0.5, 0.0, 1.0]
    with pytest.raises(InputError, match='expected "path-prefix=factor"'):
        OptimConfig(module_rates=("flow/",))
    with pytest.raises(InputError, match='expected "path-prefix=factor"'):
        OptimConfig(module_rates=("flow/=1e-",))


def test_only_matrices_decay(params: tuple) -> None:
    config = OptimConfig(weight_decay=0.1)
    still = jax.tree.map(jnp.zeros_like, params[0])
    ones = jax.tree.map(jnp.ones_like, params[0])
    optimiser = transformation(config)
    updates, _ = optimiser.update(still, optimiser.init(ones), ones)
    decayed = {path for path, update in updates.items() if np.any(np.asarray(update))}
    assert {"motion/layers/attn/q", "motion/adapter/weight", "flow/blocks/up/weight"} <= decayed
    assert not decayed & {"motion/layers/attn_norm", "motion/layers/ffn_norm", "motion/norm", "motion/bom", "flow/blocks/up/bias"}


def test_a_frozen_parameter_that_changes_is_an_error(params: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = loop._device_sums, []

    def flipped_later(tree: dict) -> dict:
        calls.append(1)
        norm = tree["text/norm"]
        # One bit of one number, as a faulty device would.
        return real(tree if len(calls) == 1 else tree | {"text/norm": norm.at[0].set(jnp.nextafter(norm[0], jnp.inf))})

    monkeypatch.setattr(loop, "_device_sums", flipped_later)
    with pytest.raises(RuntimeError, match=r"frozen parameters changed during training: text/norm$"):
        train_run(tmp_path, params, 1, Batches())


def test_training_lowers_every_term(params: tuple, tmp_path: Path) -> None:
    class Same(Batches):
        def __next__(self) -> dict:
            return batch(0)

    train_run(tmp_path, params, 60, Same(), log_every=30)
    first, *_, last = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    for term in ("flow", "exit", "m2t_loss"):
        assert last[term] < 0.9 * first[term], term
