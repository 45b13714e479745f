"""How fast motion streams, and where the time goes, beside what its bytes need.

    python -m experiments.benchmarks.streaming
    python -m experiments.benchmarks.streaming --presets llama-3.2-3b --dtype bfloat16 --batch 1 4

Random weights of each preset's shape, sessions that go on without an end. A latent is four frames, 133 ms of motion.
Everything is measured warm, in rounds of all parts in turn. What bytes need is what a step reads, over the memory
bandwidth of the same process in the same minute: no step of one sample can be faster.
"""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from llamo_jax.commands import Reporting
from llamo_jax.config import MotionVAEConfig, SamplingConfig, require
from llamo_jax.inference import decoding
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.inference.session import Streams, Window
from llamo_jax.models import flow, llamo, motion_vae
from llamo_jax.models.attention import Places
from llamo_jax.models.declaration import init
from llamo_jax.models.motion_vae import MotionVAE
from llamo_jax.motion.representation import FEATURES, FRAMES_PER_LATENT
from llamo_jax.motion.statistics import Statistics
from llamo_jax.presets import LLMS, llamo_config
from llamo_jax.pretrained import Llamo
from llamo_jax.storage.bundle import Bundle
from llamo_jax.storage.hub import Source
from llamo_jax.tokenizer import train_tokenizer

PROMPTS = ("a person walks.", "a person waves the left hand.")
BLOCK = 2**28
"""Bytes of the matrix that measures the bandwidth: more than any cache holds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Streaming(Reporting):
    """Measure first frames, new prompts, latents and their parts."""

    presets: tuple[str, ...] = ("smollm2-135m", "tiny")
    """Of `presets.LLMS`."""
    motion_width: int | None = None
    """Of the motion tower; None is the preset's own."""
    flow_width: int | None = None
    """Of the flow head; None is the preset's own."""
    steps: tuple[int, ...] = (50, 10)
    """Steps of the ODE solver."""
    guidance: tuple[float, ...] = (1.0, 2.0)
    """Scales of guidance; 1 is off."""
    batch: tuple[int, ...] = (1, 4, 16)
    """Sessions at a time; parts are told of one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the towers."""
    rounds: int = 40
    """Of each part; a session makes as many latents."""

    def run(self) -> None:
        require(self.rounds >= 2, f"--rounds {self.rounds}; expected at least 2")
        found = []
        for name in self.presets:
            require(name in LLMS, f'preset "{name}" does not exist; expected one of {", ".join(LLMS)}')
            with tempfile.TemporaryDirectory() as folder:
                model = self._model(name, Path(folder))
                for steps in self.steps:
                    for guidance in self.guidance:
                        sampling = SamplingConfig(steps=steps, guidance=guidance)
                        row = {"preset": name, "steps": steps, "guidance": guidance} | self._of_one(model, sampling)
                        row["sustained"] = {str(size): self._sustained(model, sampling, size) for size in self.batch}
                        found.append(row)
                        print(_lines(row), flush=True)
        self.report("", {"device": jax.devices()[0].device_kind, "dtype": self.dtype, "rows": found})

    def _model(self, name: str, folder: Path) -> Llamo:
        """Random weights; text of a small vocabulary."""
        config = llamo_config(LLMS[name], motion_width=self.motion_width, flow_width=self.flow_width)
        train_tokenizer(list(PROMPTS) * 20, 300, folder)
        params = init(llamo.Model, config, jax.random.key(0))
        towers = {side: jax.tree.map(lambda leaf: leaf.astype(self.dtype), params[side]) for side in ("text", "motion")}
        vae = MotionVAEConfig(latent_channels=config.latent_channels)
        codec = MotionCodec(
            vae,
            init(MotionVAE, vae, jax.random.key(1)),
            features=Statistics.identity(FEATURES),
            latents=Statistics.identity(config.latent_channels),
        )
        params = llamo.decoding_params(params | towers)
        return Llamo(Bundle(config, params, codec, Source(folder), 1, 2, {"trained": True}))

    def _of_one(self, model: Llamo, sampling: SamplingConfig) -> dict[str, Any]:
        window = Window.of(model.longest)
        streams = Streams(model, sampling, window=window)

        def first() -> float:
            with _Clock() as clock, streams.open(PROMPTS[0]) as session:
                next(session)
                clock.stop()
            return clock.seconds

        first()
        session = None
        firsts = [first() for _ in range(8)]
        session = streams.open(PROMPTS[0])
        for _ in range(window.latents + 2):  # the context has been made anew once
            next(session)
        session.prompt(PROMPTS[1])
        next(session)
        changes = []
        for number in range(8):
            with _Clock() as clock:
                session.prompt(PROMPTS[number % 2])
                next(session)
            changes.append(clock.seconds)
        latents = []
        for _ in range(max(self.rounds, 2 * window.latents)):
            with _Clock() as clock:
                next(session)
            latents.append(clock.seconds)
        parts = {name: (run, size) for name, (run, size) in _parts(model, sampling, window).items()}
        times: dict[str, list[float]] = {name: [] for name in parts}
        for run, _ in parts.values():
            run()
        for _ in range(self.rounds):
            for name, (run, _) in parts.items():
                with _Clock() as clock:
                    run()
                times[name].append(clock.seconds)
        bandwidth = BLOCK / min(times["bandwidth"])
        told = {
            name: {"ms": 1e3 * float(np.median(times[name])), "bytes_ms": 1e3 * size / bandwidth}
            for name, (_, size) in parts.items()
            if name != "bandwidth"
        }
        needed = sum(part["bytes_ms"] for part in told.values())
        median = 1e3 * float(np.median(latents))
        return {
            "first_frame_ms": 1e3 * float(np.median(firsts)),
            "new_prompt_ms": 1e3 * float(np.median(changes)),
            "latent_ms": {f"p{q}": 1e3 * float(np.percentile(latents, q)) for q in (50, 99)},
            "frames_per_second": FRAMES_PER_LATENT / float(np.mean(latents)),
            "bandwidth_gb_s": bandwidth / 1e9,
            "parts": told,
            "host_ms": median - sum(part["ms"] for part in told.values()),
            "share_of_bound": needed / median,
        }

    def _sustained(self, model: Llamo, sampling: SamplingConfig, size: int) -> float:
        """Frames a second of all sessions together, over a whole window."""
        streams = Streams(model, sampling, capacity=size, window=Window.of(model.longest))
        sessions = [streams.open(PROMPTS[number % 2], number) for number in range(size)]
        for session in sessions:
            next(session)
        count = streams.window.latents
        with _Clock() as clock:
            for _ in range(count):
                for session in sessions:
                    next(session)
        return size * count * FRAMES_PER_LATENT / clock.seconds


class _Clock:
    seconds = 0.0

    def __enter__(self) -> "_Clock":
        self._start = time.perf_counter()
        return self

    def stop(self) -> None:
        self.seconds = time.perf_counter() - self._start

    def __exit__(self, *_: object) -> None:
        self.seconds = self.seconds or time.perf_counter() - self._start


def _parts(model: Llamo, sampling: SamplingConfig, window: Window) -> dict[str, tuple[Callable[[], object], float]]:
    """Name -> what runs it once and waits, and the bytes that it reads."""
    params, config, codec = model.bundle.params, model.config, model.codec
    sides = 1 + sampling.guided
    streams = Streams(model, sampling, window=window)
    session = streams.open(PROMPTS[0])
    for _ in range(window.latents // 2):
        next(session)
    state = jax.tree.map(jnp.copy, streams._state)
    position = state.position.reshape(-1, 1)
    places = Places(position, jnp.ones_like(position))
    inputs, start = jnp.zeros((sides, 1, config.latent_channels)), jnp.zeros((sides, 1), bool)

    @jax.jit
    def tower(params: dict, cache: Any) -> Any:
        return llamo.motion_step(params, config, inputs, start, places, cache)[0]

    head, times = params["flow_head"], decoding.schedule(params, sampling)
    condition = jnp.ones((sides, 1, config.motion.width))
    noise = jnp.ones((1, config.latent_channels))

    @jax.jit
    def sample(head: dict, condition: Any) -> Any:
        return flow.sample(head, condition, noise, times, solver=sampling.solver, guidance=sampling.guidance)

    memory = motion_vae.decoder_state(codec.config, 1)

    @jax.jit
    def decode(vae: dict, memory: Any) -> Any:
        return motion_vae.decode(vae, codec.config, noise[:, None], memory)

    rows = 2**14
    matrix, vector = jnp.ones((rows, BLOCK // 4 // rows)), jnp.ones(BLOCK // 4 // rows)
    product = jax.jit(lambda a, b: a @ b)

    def waiting(function: Callable, *arguments: Any) -> Callable[[], object]:
        return functools.partial(_wait, function, *arguments)

    cache = [*state.cache.k, *state.cache.v]
    looks = times.times.shape[0] * times.times.shape[1]
    once = ("modulation", "condition", "output_modulation")
    flat = jax.tree_util.tree_leaves_with_path(head)
    hoisted = [leaf for path, leaf in flat if any(getattr(part, "key", "") in once for part in path)]
    embedding = [leaf for path, leaf in flat if getattr(path[0], "key", "") in ("time_in", "time_out")]
    inside = _bytes(head) - _bytes(hoisted) - _bytes(embedding)
    return {
        "motion tower": (waiting(tower, params, state.cache), _bytes(params["motion"]["layers"]) + _bytes(cache)),
        "flow head": (waiting(sample, head, condition), _bytes(hoisted) + looks * inside),
        "VAE": (waiting(decode, codec.params, memory), _bytes(codec.params["decoder"])),
        "bandwidth": (waiting(product, matrix, vector), BLOCK),
    }


def _wait(function: Callable, *arguments: Any) -> object:
    return jax.block_until_ready(function(*arguments))


def _bytes(tree: Any) -> float:
    return float(sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))


def _lines(row: dict[str, Any]) -> str:
    latent = row["latent_ms"]
    parts = ", ".join(f"{name} {p['ms']:.1f} ({p['bytes_ms']:.1f})" for name, p in row["parts"].items())
    sustained = ", ".join(f"{size}: {value:.0f}" for size, value in row["sustained"].items())
    return (
        f"{row['preset']}, {row['steps']} steps, guidance {row['guidance']:g}\n"
        f"  first frame {row['first_frame_ms']:.0f} ms, new prompt {row['new_prompt_ms']:.0f} ms, "
        f"latent {latent['p50']:.1f} ms (p99 {latent['p99']:.1f}), {row['frames_per_second']:.0f} frames/s\n"
        f"  ms of parts (what their bytes need at {row['bandwidth_gb_s']:.1f} GB/s): {parts}, "
        f"host and the rest {row['host_ms']:.1f}; {100 * row['share_of_bound']:.0f} % of the bound\n"
        f"  frames/s of all sessions together, by their number: {sustained}"
    )


if __name__ == "__main__":
    Streaming.main("python -m experiments.benchmarks.streaming")
