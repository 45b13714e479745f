"""The training step and loop: sharded = one device, resumed = uninterrupted, what is frozen stays bitwise as it was."""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import PartitionSpec as P

from llamo_jax import sharding
from llamo_jax.batch import Batch, MotionRows, TextRows
from llamo_jax.commands import RESUMABLE, Stopped
from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig
from llamo_jax.errors import InputError
from llamo_jax.models import llamo
from llamo_jax.models.declaration import abstract as declared_abstract
from llamo_jax.models.declaration import init
from llamo_jax.models.declaration import shardings as declared_shardings
from llamo_jax.models.parallel import Parallel
from llamo_jax.training import bits, loop
from llamo_jax.training.checkpoint import checkpoints
from llamo_jax.training.gradients import of_sum
from llamo_jax.training.loop import Record, RunConfig, train
from llamo_jax.training.losses import LlamoLoss, LlamoLossConfig
from llamo_jax.training.metrics import MetricsLog
from llamo_jax.training.optim import OptimConfig, Schedule, learning_rate, transformation
from llamo_jax.training.step import GuardConfig, TrainState, compile_step, make_step
from llamo_jax.trees import flatten, unflatten

CONFIG = LlamoConfig(
    LLMConfig(32, 16, 2, 4, 2, 4, 24), MotionTowerConfig(16, 32), FlowHeadConfig(16, 1), latent_channels=4
)
OPTIM = OptimConfig(1e-2, warmup_steps=2)
MOTION = ("motion/", "flow_head/", "exit_head/")


def batch(seed: int, rows: int = 8) -> dict[str, Batch]:
    rng = np.random.default_rng(seed)
    index = np.arange(6)

    def task(text_first: bool) -> Batch:
        text_positions, motion_positions = (index, 6 + index) if text_first else (np.r_[0, 7 + np.arange(5)], 1 + index)
        ones = np.ones((rows, 6), np.float32)
        text = TextRows(
            tokens=rng.integers(0, 32, (rows, 6)).astype(np.int32),
            positions=np.tile(text_positions, (rows, 1)).astype(np.int32),
            segments=np.ones((rows, 6), np.int32),
            targets=rng.integers(0, 32, (rows, 6)).astype(np.int32),
            loss_mask=ones,
        )
        motion = MotionRows(
            latents=rng.normal(size=(rows, 6, 4)).astype(np.float32),
            start=np.tile(index == 0, (rows, 1)),
            positions=np.tile(motion_positions, (rows, 1)).astype(np.int32),
            segments=np.ones((rows, 6), np.int32),
            flow_mask=ones,
            exit_targets=np.tile(index == 5, (rows, 1)).astype(np.float32),
            exit_mask=ones,
        )
        return Batch(text, motion)

    return {"t2m": task(True), "m2t": task(False)}


class Batches:
    """An endless iterator with a position, as Grain's are."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, Batch]:
        self.position += 1
        return batch(self.position)

    def get_state(self) -> dict[str, int]:
        return {"position": self.position}

    def set_state(self, state: dict[str, int]) -> None:
        self.position = state["position"]


@pytest.fixture(scope="module")
def params() -> tuple[dict[str, Any], dict[str, Any]]:
    text = init(llamo.LLM, CONFIG.text, jax.random.key(0))
    return flatten(llamo.init_motion(CONFIG, jax.random.key(1), text)), flatten({"text": text})


@pytest.fixture(scope="module", autouse=True)
def compiled_once() -> Iterator[None]:
    """Runs of the same settings share what they compile: it is most of what these tests take."""
    make, compiled, kept = loop.make_step, loop.compile_step, {}

    def made(gradients: Any, config: OptimConfig, trains: Any, *rest: Any, seed: int, guard: GuardConfig) -> Any:
        step = make(gradients, config, trains, *rest, seed=seed, guard=guard)
        step.key = (repr(config), trains.__self__.trainable, seed, repr(guard))  # type: ignore[attr-defined]
        return step

    def once(step: Any, state: Any, frozen: Any, batch: Any, mesh: jax.sharding.Mesh) -> Any:
        key = (step.key, mesh)
        if key not in kept:
            kept[key] = compiled(step, state, frozen, batch, mesh)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_step", made)
        patch.setattr(loop, "compile_step", once)
        yield


def shardings(mesh: jax.sharding.Mesh) -> dict[str, Any]:
    return declared_shardings(llamo.Model, CONFIG, mesh)


LOSS = LlamoLoss(CONFIG, LlamoLossConfig())


def run_steps(mesh: jax.sharding.Mesh, params: tuple, steps: int = 3) -> tuple[dict, list[float]]:
    trainable, frozen = params
    placed = shardings(mesh)
    run = RunConfig("test", 10, OPTIM, MOTION)
    state = TrainState.init(trainable, OPTIM, run.trains, mesh, placed)
    frozen = {path: jax.device_put(leaf, placed[path]) for path, leaf in frozen.items()}
    parallel = Parallel.of(placed, mesh, CONFIG.text)

    step = compile_step(
        make_step(of_sum(LOSS, parallel), OPTIM, run.trains, placed, seed=0), state, frozen, batch(0), mesh
    )
    everywhere = sharding.replicated(mesh)
    losses = []
    for index in range(steps):
        rows = jax.device_put(batch(index), sharding.batch_sharding(mesh))
        progress = jax.device_put(np.float32(index / 10), everywhere)
        state, metrics = step(state, frozen, rows, progress)
        losses.append(float(metrics["loss"]))
    return state.params, losses


def test_sharded_is_one_device(params: tuple) -> None:
    one_device = run_steps(jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), sharding.MESH_AXES), params)
    sharded, losses = run_steps(sharding.make_mesh(2, 2, 2), params)
    np.testing.assert_allclose(losses, one_device[1], rtol=2e-5)
    # Adam divides by the root of tiny second moments, so that sums in another order show in single weights.
    for path, leaf in one_device[0].items():
        np.testing.assert_allclose(sharded[path], leaf, atol=2e-3, err_msg=path)
    assert sharded["motion/layers/attn/q/weight"].sharding.spec == P(None, "tensor", "fsdp")


def test_specs_follow_the_rules_and_refuse_what_does_not_divide() -> None:
    mesh = sharding.make_mesh(2, 2, 2)
    assert sharding.spec(("layers", "ffn", "embed"), (2, 32, 16), mesh) == P(None, "tensor", "fsdp")
    with pytest.raises(
        InputError, match='motion/up: axis "ffn" of size 33 cannot be split over mesh axis "tensor" of size 2'
    ):
        sharding.spec(("ffn",), (33,), mesh, path="motion/up")
    with pytest.raises(InputError, match="mesh 3,1,1 has 3 devices; there are 8"):
        sharding.make_mesh(3)
    with pytest.raises(InputError, match=r'two of the axes .* are split over mesh axis "tensor"'):
        sharding.spec(("ffn", "heads"), (4, 4), mesh)


def test_batches_are_split_over_as_many_devices_as_divide_them() -> None:
    assert [sharding.data_mesh(*rows).shape["data"] for rows in ((16,), (6, 2), (3, 5), (12, 4))] == [8, 2, 1, 4]


def train_run(folder: Path, params: tuple, steps: int, data: Batches, **changes: Any) -> dict[str, np.ndarray]:
    mesh = sharding.make_mesh(8)
    run = dataclasses.replace(RunConfig("test", steps, OPTIM, MOTION, checkpoint_every=2, log_every=1), **changes)
    with MetricsLog(folder) as log:
        record = Record(log, folder / "checkpoints", {"seed": run.seed})
        result = train(run, of_sum(LOSS), *params, data, mesh=mesh, shardings=shardings(mesh), record=record)
    return {path: np.asarray(leaf) for path, leaf in result.items()}


def test_a_step_is_compiled_from_shapes_alone(params: tuple) -> None:
    """Ahead of time is the same call: with abstract state, frozen tower and batch, nothing is allocated or run."""
    mesh = sharding.make_mesh(2, 2, 2)
    placed = shardings(mesh)
    run = RunConfig("test", 10, OPTIM, MOTION)
    shapes = declared_abstract(llamo.Model, CONFIG)
    flat = flatten(shapes)
    trainable = {path: leaf for path, leaf in flat.items() if not path.startswith("text/")}
    frozen = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed[path])
        for path, leaf in flat.items()
        if path.startswith("text/")
    }
    state = TrainState.abstract(trainable, OPTIM, run.trains, mesh, placed)
    compiled = compile_step(make_step(of_sum(LOSS), OPTIM, run.trains, placed, seed=0), state, frozen, batch(0), mesh)
    assert compiled.memory_analysis().argument_size_in_bytes > 0
    real = TrainState.init(params[0], OPTIM, run.trains, mesh, placed)
    weights = {path: jax.device_put(leaf, placed[path]) for path, leaf in params[1].items()}
    rows = jax.device_put(batch(0), sharding.batch_sharding(mesh))
    progress = jax.device_put(np.float32(0), sharding.replicated(mesh))
    after, metrics = compiled(real, weights, rows, progress)
    assert int(after.step) == 1 and np.isfinite(float(metrics["loss"]))


def test_state_is_made_where_it_lies(params: tuple) -> None:
    mesh = sharding.make_mesh(2, 2, 2)
    placed = shardings(mesh)
    run = RunConfig("test", 10, OPTIM, MOTION)
    state = TrainState.init(params[0], OPTIM, run.trains, mesh, placed)
    target = TrainState.abstract(params[0], OPTIM, run.trains, mesh, placed)
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(target), strict=True):
        assert (leaf.shape, leaf.dtype) == (wanted.shape, wanted.dtype)
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
    made = init(llamo.MotionSide, CONFIG, jax.random.key(3), placed)
    plain = init(llamo.MotionSide, CONFIG, jax.random.key(3))
    for path, leaf in flatten(made).items():
        assert leaf.sharding.is_equivalent_to(placed[path], leaf.ndim), path
        np.testing.assert_allclose(leaf, flatten(plain)[path], rtol=1e-6, atol=1e-7, err_msg=path)


class Cut(Batches):
    """Something happens when the sixth batch is asked for, or another."""

    def __init__(self, happens: Callable[[], None], *, after: int = 5) -> None:
        super().__init__()
        self.happens, self.after = happens, after

    def __next__(self) -> dict[str, Batch]:
        if self.position == self.after:
            self.happens()
        return super().__next__()


def killed() -> None:
    raise MemoryError


def states_equal(first: TrainState, second: TrainState) -> None:
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_a_state_goes_from_eight_devices_to_four_to_one_and_back(params: tuple, tmp_path: Path) -> None:
    optim = dataclasses.replace(OPTIM, ema_decay=0.5)
    run = RunConfig("test", 10, optim, MOTION)
    meshes = [
        jax.sharding.Mesh(np.array(jax.devices()[: np.prod(shape)]).reshape(shape), sharding.MESH_AXES)
        for shape in ((2, 2, 2), (1, 4, 1), (1, 1, 1), (1, 2, 4))
    ]
    placements = [(optim, run.trains, mesh, shardings(mesh)) for mesh in meshes]
    state = TrainState.init(params[0], *placements[0])
    state = dataclasses.replace(state, ema={path: leaf * 1.5 for path, leaf in state.ema.items()})
    for number, placement in enumerate(placements[1:]):
        with checkpoints(tmp_path / str(number)) as saved:
            saved.save(state, {"position": 7}, {}, seconds=2.0, loss=1.0)
        with checkpoints(tmp_path / str(number)) as saved:
            target = TrainState.abstract(params[0], *placement)
            restored = saved.restore(target, {})
        assert (restored.data, restored.seconds) == ({"position": 7}, 2.0)
        states_equal(restored.state, state)
        for leaf, wanted in zip(jax.tree.leaves(restored.state), jax.tree.leaves(target), strict=True):
            assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
        state = restored.state


def test_a_checkpoint_of_another_shape_is_refused(params: tuple, tmp_path: Path) -> None:
    placement = (OPTIM, RunConfig("test", 10, OPTIM, MOTION).trains, sharding.make_mesh(8))
    with checkpoints(tmp_path) as saved:
        saved.save(TrainState.init(params[0], *placement, shardings(placement[2])), {}, {}, seconds=0.0, loss=1.0)
    wider = dataclasses.replace(CONFIG, motion=MotionTowerConfig(16, 48))
    declared = {
        path: leaf for path, leaf in flatten(declared_abstract(llamo.Model, wider)).items() if path in params[0]
    }
    target = TrainState.abstract(declared, *placement, declared_shardings(llamo.Model, wider, placement[2]))
    with (
        checkpoints(tmp_path) as saved,
        pytest.raises(InputError, match=r"/0: opt_state/\d+ has shape \(2, 16, 32\), the model \(2, 16, 48\); resume"),
    ):
        saved.restore(target, {})
    narrow = {path: leaf for path, leaf in declared.items() if "exit_head" not in path}
    target = TrainState.abstract(narrow, *placement, declared_shardings(llamo.Model, CONFIG, placement[2]))
    with checkpoints(tmp_path) as saved, pytest.raises(InputError, match="holds other arrays"):
        saved.restore(target, {})


def asked_to_end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def whole(params: tuple, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return train_run(tmp_path_factory.mktemp("whole"), params, 8, Batches())


@pytest.mark.parametrize(
    ("happens", "raised", "saved"),
    [
        (killed, MemoryError, 4),
        pytest.param(asked_to_end, Stopped, 6, marks=pytest.mark.skipif(sys.platform == "win32", reason="kills")),
    ],
)
def test_resumed_is_uninterrupted_bitwise(
    params: tuple, whole: dict, tmp_path: Path, happens: Callable, raised: type, saved: int
) -> None:
    with pytest.raises(raised) as stopped:
        train_run(tmp_path, params, 8, Cut(happens), checkpoint_every=4)
    assert getattr(stopped.value, "code", RESUMABLE) == RESUMABLE
    # A run that is asked to end saves where it is.
    assert max(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == saved
    log = tmp_path / "metrics.jsonl"
    with log.open("a") as file:
        file.write('{"stage": "before", "step": 9}\n{"stage": "test", "st')  # another stage; half a line
    resumed_data = Batches()
    resumed = train_run(tmp_path, params, 8, resumed_data, checkpoint_every=4)
    assert resumed_data.position == 8
    for path in whole:
        np.testing.assert_array_equal(resumed[path], whole[path], err_msg=path)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [line["step"] for line in lines if line["stage"] == "test"]
    assert steps == list(range(1, 9)) and len(lines) == 9  # each step once, whatever was saved and trained again


def test_other_and_damaged_runs_in_the_folder_are_refused(
    params: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_run(tmp_path, params, 2, Batches())
    with pytest.raises(InputError, match="holds a run with other settings \\(seed: 0 -> 1\\)"):
        train_run(tmp_path, params, 2, Batches(), seed=1)
    # No half of a checkpoint stays where the disk is full.
    full = ValueError("RESOURCE_EXHAUSTED: writing: No space left on device [os_error_code='28']")
    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"no checkpoint .* No space left on device\)"):
        patch.setattr(ocp.CheckpointManager, "save", lambda *args, **kwargs: (_ for _ in ()).throw(full))
        (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
        train_run(tmp_path, params, 4, Batches())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    state = tmp_path / "checkpoints" / "2" / "state" / "_METADATA"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(InputError, match=r"checkpoints/2: damaged checkpoint \(.*\); move this folder away"):
        train_run(tmp_path, params, 4, Batches())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_ends_the_log(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.write("test", 1, {"loss": 2.0})
        with open("/dev/full", "wb", buffering=0) as full, pytest.raises(InputError, match="No space left on device"):
            log._board._py_recordio_writer._writer, kept = full, log._board._py_recordio_writer._writer
            log.write("test", 2, {"loss": 1.0})
        log._board._py_recordio_writer._writer = kept
    assert b"test/loss" in next((tmp_path / "tensorboard").iterdir()).read_bytes()


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
    first, again, other = (
        train_run(tmp_path / name, params, 2, Batches(), seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    path = "flow_head/output/weight"
    np.testing.assert_array_equal(first[path], again[path])
    assert np.any(first[path] != other[path])


def test_a_stage_moves_its_own_parameters_only(params: tuple, tmp_path: Path) -> None:
    trained = train_run(tmp_path, params, 2, Batches(), trainable=("flow_head/", "exit_head/"))
    for path, leaf in params[0].items():
        moved = bool(np.any(trained[path] != np.asarray(leaf)))
        if path.startswith("motion/"):
            assert not moved, path
    assert np.any(trained["flow_head/output/weight"] != np.asarray(params[0]["flow_head/output/weight"]))


def test_a_loss_that_is_not_finite_stops_the_run(params: tuple, tmp_path: Path) -> None:
    broken = ({**params[0], "motion/bom": params[0]["motion/bom"] * np.nan}, params[1])
    with pytest.raises(FloatingPointError, match=r"test, step 3: 3 steps in a row were skipped, .* loss nan"):
        train_run(tmp_path, broken, 9, Batches(), guard=GuardConfig(patience=3))


def spoilt(seed: int, factor: float) -> dict[str, Batch]:
    """A batch whose latents are so many times too large, as of a record that was written wrong."""
    batches = batch(seed)
    motion = batches["t2m"].motion
    latents = motion.latents.copy()
    latents[3, 2] *= factor
    return batches | {"t2m": batches["t2m"]._replace(motion=motion._replace(latents=latents))}


class Spoilt(Batches):
    """Some batches are spoilt."""

    def __init__(self, numbers: set[int], factor: float):
        super().__init__()
        self.numbers, self.factor, self.seen = numbers, factor, []

    def __next__(self) -> dict[str, Batch]:
        self.position += 1
        self.seen.append(self.position)
        return spoilt(self.position, self.factor) if self.position in self.numbers else batch(self.position)


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("factor", [np.nan, 1e6])
def test_a_spoilt_batch_changes_nothing_but_the_count(params: tuple, tmp_path: Path, factor: float) -> None:
    """What is not finite, and what is finite and outlying: parameters, moments and averages stay as they were."""
    optim = dataclasses.replace(OPTIM, ema_decay=0.5)
    guard = GuardConfig(spike=10.0, memory=2)
    with_it = train_run(tmp_path / "a", params, 4, Spoilt({4}, factor), guard=guard, optim=optim)
    lines = logged(tmp_path / "a")
    assert [line["skipped"] for line in lines] == [0, 0, 0, 1]
    assert (lines[3]["loss"] is None) == bool(np.isnan(factor))
    # The same run, stopped before the spoilt batch.
    with pytest.raises(MemoryError):
        train_run(tmp_path / "b", params, 4, Cut(killed, after=3), guard=guard, optim=optim, checkpoint_every=3)
    before = ocp.StandardCheckpointer().restore(tmp_path / "b" / "checkpoints" / "3" / "state")
    after = ocp.StandardCheckpointer().restore(tmp_path / "a" / "checkpoints" / "4" / "state")
    for name in ("params", "opt_state", "ema"):
        for path, leaf in before[name].items():
            np.testing.assert_array_equal(after[name][path], leaf, err_msg=f"{name} {path}")
    np.testing.assert_array_equal(with_it["motion/bom"], before["ema"]["motion/bom"])


def test_a_run_goes_back_and_on_with_other_data(params: tuple, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = Spoilt({5, 6, 7}, np.nan)
    train_run(tmp_path, params, 8, data, guard=GuardConfig(patience=3))
    assert "test, step 7: 3 steps in a row were skipped" in capsys.readouterr().out
    # Saved at 4, spoilt at 5 to 7, back to 4, and on with the batches after 7.
    assert data.seen == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    lines = logged(tmp_path)
    assert [(line["step"], line.get("rolled_back_from")) for line in lines[4:]] == [
        (4, 7), (5, None), (6, None), (7, None), (8, None),
    ]  # fmt: skip
    assert lines[-1]["skipped"] == 3 and np.isfinite(lines[-1]["loss"])
    # A run that is killed after it went back goes on with the data that comes next.
    again = Batches()
    train_run(tmp_path, params, 8, again, guard=GuardConfig(patience=3))
    assert again.position == 11


def test_averages_modules_and_muon(params: tuple, tmp_path: Path) -> None:
    """One run with all of it, interrupted: as if never interrupted, bitwise."""
    optim = OptimConfig(
        1e-2, warmup_steps=2, optimizer="muon", weight_decay=0.1, ema_decay=0.9,
        modules={"flow_head": Schedule(1e-3, 2, shape="wsd")},
    )  # fmt: skip
    whole = train_run(tmp_path / "whole", params, 8, Batches(), optim=optim, keep_best=1)
    with pytest.raises(MemoryError):
        train_run(tmp_path / "cut", params, 8, Cut(killed), optim=optim, keep_best=1)
    resumed = train_run(tmp_path / "cut", params, 8, Batches(), optim=optim, keep_best=1)
    for path in whole:
        np.testing.assert_array_equal(resumed[path], whole[path], err_msg=path)
    figures = [
        [{k: v for k, v in line.items() if k != "time" and "second" not in k} for line in logged(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    assert figures[0] == figures[1] and len(figures[0]) == 8
    assert figures[0][3]["learning_rate_flow_head"] == pytest.approx(1e-3)
    assert figures[0][-1]["gradient_norm"] > figures[0][-1]["gradient_norm_motion"] > 0
    # The last two, and the best if it is none of them.
    losses = {line["step"]: line["loss"] for line in figures[0]}
    kept = {int(path.name) for path in (tmp_path / "whole" / "checkpoints").iterdir()}
    best = min((2, 4, 6, 8), key=lambda step: (losses[step - 1] + losses[step]) / 2)
    assert kept == {6, 8, best}


def test_muon_turns_matrices_and_adam_the_rest(params: tuple) -> None:
    config = OptimConfig(optimizer="muon", clip_norm=1e9)
    transform = transformation(config)
    rng = np.random.default_rng(0)
    gradients = {path: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for path, leaf in params[0].items()}
    updates, _ = jax.jit(transform.update)(gradients, transform.init(params[0]), params[0])
    for layer in updates["motion/layers/ffn/up/weight"]:
        # Singular values near 1 (its five iterations leave 0.7 to 1.2), times AdamW's root mean square of about 0.2.
        values = np.linalg.svd(layer / (0.2 * max(layer.shape) ** 0.5), compute_uv=False)
        assert values.min() > 0.6 and values.max() < 1.3
    for path in ("flow_head/blocks/0/up/weight", "motion/layers/attn_norm", "motion/bom"):
        np.testing.assert_allclose(updates[path], np.sign(gradients[path]), atol=1e-4, err_msg=path)


def test_learning_rate_warms_up_and_anneals() -> None:
    config = OptimConfig(2.0, warmup_steps=10, final_fraction=0.1)
    assert float(learning_rate(config, jnp.int32(4), jnp.float32(0.0))) == pytest.approx(1.0)
    assert float(learning_rate(config, jnp.int32(500), jnp.float32(0.5))) == pytest.approx(2.0 * 0.55)
    assert float(learning_rate(config, jnp.int32(1000), jnp.float32(1.0))) == pytest.approx(0.2)
    stable = Schedule(2.0, warmup_steps=10, shape="wsd", final_fraction=0.1, decay_fraction=0.25)
    rates = [float(learning_rate(stable, jnp.int32(500), jnp.float32(done))) for done in (0.3, 0.75, 0.875, 1.0)]
    assert rates == pytest.approx([2.0, 2.0, 2.0 * 0.55, 0.2])


def test_only_matrices_decay(params: tuple) -> None:
    config = OptimConfig(weight_decay=0.1)
    still = jax.tree.map(jnp.zeros_like, params[0])
    ones = jax.tree.map(jnp.ones_like, params[0])
    optimiser = transformation(config)
    updates, _ = jax.jit(optimiser.update)(still, optimiser.init(ones), ones)
    decayed = {path for path, update in updates.items() if np.any(np.asarray(update))}
    assert {"motion/layers/attn/q/weight", "motion/adapter/weight", "flow_head/blocks/0/up/weight"} <= decayed
    assert not decayed & {
        "motion/layers/attn_norm",
        "motion/layers/ffn_norm",
        "motion/norm",
        "motion/bom",
        "flow_head/blocks/0/up/bias",
    }


def test_a_frozen_parameter_that_changes_is_an_error(
    params: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = bits._device_sums, []

    def flipped_later(tree: dict) -> dict:
        calls.append(1)
        norm = tree["text/norm"]
        # One bit of one number, as a faulty device would.
        return real(tree if len(calls) == 1 else tree | {"text/norm": norm.at[0].set(jnp.nextafter(norm[0], jnp.inf))})

    monkeypatch.setattr(bits, "_device_sums", flipped_later)
    with pytest.raises(RuntimeError, match=r"frozen parameters changed during training: text/norm$"):
        train_run(tmp_path, params, 1, Batches())


def test_checksums_see_every_bit_and_its_place() -> None:
    array = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    flipped, moved = array.copy(), array.copy()
    flipped.view(np.uint32)[1, 2] ^= 1
    moved[[0, 2]] = moved[[2, 0]]
    for dtype in (np.float32, jnp.bfloat16, np.int8):
        kinds = [{"a": jnp.asarray(each * 8).astype(dtype)} for each in (array, array.copy(), moved)]
        same, again, other = (bits.fingerprint(each) for each in kinds)
        assert same == again != other, dtype
    assert bits.fingerprint({"a": jnp.asarray(array)}) != bits.fingerprint({"a": jnp.asarray(flipped)})


def test_a_task_without_a_loss_is_told() -> None:
    with pytest.raises(ValueError, match=r"no loss for the tasks \['m2m'\]"):
        LOSS({}, {"m2m": batch(0)["t2m"]}, jax.random.key(0))


def test_training_lowers_every_term(params: tuple, tmp_path: Path) -> None:
    class Same(Batches):
        def __next__(self) -> dict[str, Batch]:
            return batch(0)

    train_run(tmp_path, params, 60, Same(), log_every=30)
    first, *_, last = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    for term in ("t2m_flow", "t2m_exit", "m2t_loss"):
        assert last[term] < 0.9 * first[term], term
