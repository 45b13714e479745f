"""Seconds of a training step of two streams, beside other ways to compute the same function.

    python -m experiments.benchmarks.train_step --rounds 9
    python -m experiments.benchmarks.train_step --preset llama-3.2-1b --rows 32 --text-len 256 --motion-len 256

Forward pass, backward pass and update, in one process, in rounds of all ways in turn. Each row is one sample: half of
its text, a motion, the rest of its text; next tokens, flow and exits are learnt in every row, by the motion side alone.
On a GPU the towers compute in bfloat16, and operations a second are told as a share of the device's peak.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from llamo_jax.batch import Batch, MotionRows, TextRows
from llamo_jax.commands import Reporting
from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig, require
from llamo_jax.models import flow, llamo, mot
from llamo_jax.models.attention import Places, attend, joined, plan, rotary, rotate
from llamo_jax.models.declaration import init
from llamo_jax.models.layers import rms_norm
from llamo_jax.models.parallel import ALONE, Parallel
from llamo_jax.presets import LLMS, llamo_config
from llamo_jax.storage.layout import LLM, MOTION, leaves
from llamo_jax.training import optim
from llamo_jax.training.flops import step_flops
from llamo_jax.training.optim import OptimConfig
from llamo_jax.trees import flatten, unflatten

OURS = "two streams"
LOOKS = 4
"""Times at which the flow head looks at each slot, as in training."""
CHANNELS = 32
CLOSE = 1e-4
"""How far losses (relative) and gradients (in units of each array's largest) of the ways may be apart."""

Towers = Callable[[Sequence[tuple[mot.Layers, mot.Stream]], LLMConfig, Parallel], tuple[Array, Array]]
"""Both towers over both streams: the residual stream of each after its last layer."""


class Rows(NamedTuple):
    """A batch, and what its flow loss draws."""

    batch: Batch
    times: Float[Array, "B k Lm"]
    noise: Float[Array, "B k Lm Z"]


def two_streams(
    towers: Sequence[tuple[mot.Layers, mot.Stream]], config: LLMConfig, parallel: Parallel
) -> tuple[Array, Array]:
    """Each tower over its own tokens: the model as it is."""
    return mot.forward(towers, config, parallel=parallel)


def both_towers(
    towers: Sequence[tuple[mot.Layers, mot.Stream]], config: LLMConfig, parallel: Parallel
) -> tuple[Array, Array]:
    """Both towers over all tokens of one sequence, and for each token the one that is its own."""
    (text_layers, text), (motion_layers, motion) = towers
    places, start = joined([text.places, motion.places]), text.x.shape[1]
    is_motion = (jnp.arange(places.positions.shape[1]) >= start)[:, None]
    turn, seen = _turn_and_plan(places, config, text.x.dtype, parallel)

    def layer(x: Array, trees: tuple[dict, dict]) -> tuple[Array, None]:
        of_text, of_motion = (mot.project(tree, x, turn, config) for tree in trees)
        (mixed,) = attend(seen, [tuple(jnp.where(is_motion, b, a) for a, b in zip(of_text, of_motion, strict=True))])
        return jnp.where(is_motion, *(mot.finish(tree, x, mixed, config) for tree in reversed(trees))), None

    x = jnp.concatenate([text.x, motion.x], 1)
    x = jax.lax.scan(parallel.rematerialised(layer), x, (text_layers, motion_layers))[0]
    return x[:, :start], x[:, start:]


def grouped(
    towers: Sequence[tuple[mot.Layers, mot.Stream]], config: LLMConfig, parallel: Parallel
) -> tuple[Array, Array]:
    """The tokens of one sequence sorted by tower, and one product of groups (`jax.lax.ragged_dot`) for both."""
    (text_layers, text), (motion_layers, motion) = towers
    places, start = joined([text.places, motion.places]), text.x.shape[1]
    rows, length = places.positions.shape
    turn, seen = _turn_and_plan(places, config, text.x.dtype, parallel)
    kind = jnp.broadcast_to(jnp.arange(length) >= start, (rows, length)).reshape(-1)
    order = jnp.argsort(kind, stable=True)
    inverse, motions = jnp.argsort(order), kind.sum(dtype=jnp.int32)
    sizes, sorted_kind = jnp.stack([kind.size - motions, motions]), kind[order].astype(jnp.int32)
    contract = jax.lax.RaggedDotDimensionNumbers((((1,), (2,)), ((), ())), [0], [0])

    def taken(x: Array, index: Array) -> Array:
        return x.at[index].get(mode="promise_in_bounds", unique_indices=True)

    def product(weights: Array, x: Array) -> Array:
        return jax.lax.ragged_dot_general(x, weights.astype(x.dtype), sizes, contract)

    def normed(weights: Array, x: Array) -> Array:
        return weights.astype(x.dtype)[sorted_kind] * rms_norm(jnp.ones(x.shape[-1], x.dtype), x, config.norm_eps)

    def layer(x: Array, trees: tuple[dict, dict]) -> tuple[Array, None]:
        tree = jax.tree.map(lambda *both: jnp.stack([leaf.astype(x.dtype) for leaf in both]), *trees)
        attn, ffn, h = tree["attn"], tree["ffn"], normed(tree["attn_norm"], x)
        parts = (taken(product(attn[name]["weight"], h), inverse) for name in "qkv")
        q, k, v = (jnp.moveaxis(part.reshape(rows, length, -1, config.head_dim), 2, 1) for part in parts)
        (mixed,) = attend(seen, [(rotate(turn, q), rotate(turn, k), v)])
        mixed = taken(jnp.moveaxis(mixed, 1, 2).reshape(rows * length, -1), order)
        x = x + product(attn["o"]["weight"], mixed)
        h = normed(tree["ffn_norm"], x)
        hidden = jax.nn.silu(product(ffn["gate"]["weight"], h)) * product(ffn["up"]["weight"], h)
        return x + product(ffn["down"]["weight"], hidden), None

    x = jnp.concatenate([text.x, motion.x], 1)
    x = taken(x.reshape(rows * length, -1), order)
    x = jax.lax.scan(parallel.rematerialised(layer), x, (text_layers, motion_layers))[0]
    x = taken(x, inverse).reshape(rows, length, -1)
    return x[:, :start], x[:, start:]


def _turn_and_plan(places: Places, config: LLMConfig, dtype: jnp.dtype, parallel: Parallel) -> tuple[Any, Any]:
    options = parallel.attention_options(dtype, config.head_dim)
    turn = rotary(places.positions, config, dtype)
    return turn, plan([places], window=config.sliding_window, **options)


WAYS: dict[str, Towers] = {OURS: two_streams, "both towers": both_towers, "ragged dot": grouped}
TORCH = "PyTorch"


def loss_of(
    params: dict[str, Any], config: LlamoConfig, rows: Rows, towers: Towers, parallel: Parallel = ALONE
) -> Array:
    """Next tokens, flow and exits, each a mean."""
    (text, motion, _), sides = rows.batch, ("text", "motion")
    dtype = params["text"]["embed"].dtype
    x = llamo.embed_text(params["text"], text.tokens, params["motion"]["eom"], vocab_size=config.text.vocab_size)
    inputs = llamo.embed_motion(params, _previous(motion.latents, jnp), motion.start, dtype)
    streams = [
        mot.Stream(tokens, Places(stream.positions, stream.segments))
        for tokens, stream in zip((x, inputs), (text, motion), strict=True)
    ]
    outputs = towers(
        [(params[side]["layers"], stream) for side, stream in zip(sides, streams, strict=True)], config.text, parallel
    )
    h, slots = (rms_norm(params[side]["norm"], x, config.text.norm_eps) for side, x in zip(sides, outputs, strict=True))
    nll, _ = llamo.next_token(params["text"], h, text.targets)
    latents, t = motion.latents[:, None], rows.times
    x_t = (1 - t)[..., None] * rows.noise + t[..., None] * latents
    head = params["flow_head"]
    velocity = flow.velocity(head, x_t, flow.modulations(head, slots[:, None], flow.embed_time(head, t)))
    ends = optax.sigmoid_binary_cross_entropy(llamo.exit_head(params, slots), motion.exit_targets)
    return nll.mean() + jnp.square(velocity - (latents - rows.noise)).mean() + ends.mean()


def _previous(latents: Any, numpy: Any) -> Any:
    return numpy.pad(latents, ((0, 0), (1, 0), (0, 0)))[:, :-1]


def draw(config: LlamoConfig, *, rows: int, text_len: int, motion_len: int, seed: int = 0) -> Rows:
    """A random batch."""
    rng = np.random.default_rng(seed)
    before = text_len // 2
    positions = np.tile(np.arange(text_len + motion_len, dtype=np.int32), (rows, 1))
    of_motion = slice(before, before + motion_len)
    tokens, targets = (rng.integers(0, config.text.vocab_size, (rows, text_len)).astype(np.int32) for _ in range(2))
    tokens[:, before] = config.text.eom_id
    ones = [np.ones((rows, length), np.int32) for length in (text_len, motion_len)]
    text = TextRows(tokens, np.delete(positions, of_motion, 1), ones[0], targets)
    latents = rng.normal(size=(rows, motion_len, CHANNELS)).astype(np.float32)
    start = np.tile(np.arange(motion_len) == 0, (rows, 1))
    ends = (rng.random((rows, motion_len)) < 0.1).astype(np.float32)
    motion = MotionRows(latents, start, positions[:, of_motion], ones[1], exit_targets=ends)
    times = rng.random((rows, LOOKS, motion_len), np.float32)
    return Rows(Batch(text, motion), times, rng.normal(size=(*times.shape, CHANNELS)).astype(np.float32))


def parameters(config: LlamoConfig, dtype: jnp.dtype) -> tuple[dict[str, Array], dict[str, Array]]:
    """What trains, in float32, and the text tower in the type that is computed in, by path. No layer starts at zero."""
    flat = flatten(init(llamo.Model, config, jax.random.key(0)))
    keys = iter(jax.random.split(jax.random.key(1), len(flat)))
    trained, frozen = {}, {}
    for path, leaf in flat.items():
        key = next(keys)
        if path.startswith("text/"):
            frozen[path] = leaf.astype(dtype)
        else:
            small = path.startswith("flow_head/") and not np.any(np.asarray(leaf))
            trained[path] = 0.02 * jax.random.normal(key, leaf.shape) if small else leaf
    return trained, frozen


OPTIM = OptimConfig(learning_rate=1e-4)


@dataclasses.dataclass
class OfJax:
    """Steps of the ways in JAX. They are steps of one model: its state goes from one to the next."""

    config: LlamoConfig
    rows: Rows
    dtype: jnp.dtype
    parallel: Parallel

    def __post_init__(self) -> None:
        self.trained, self.frozen = parameters(self.config, self.dtype)
        self.moments = optim.transformation(OPTIM).init(self.trained)
        self.placed = jax.device_put(self.rows)

    def compiled(self, way: str) -> Callable[[], None]:
        """A function that takes a step and waits for it."""
        transform, towers = optim.transformation(OPTIM), WAYS[way]

        def step(trained: Any, moments: Any, frozen: Any, rows: Rows) -> tuple[Any, Any]:
            gradients = jax.grad(self._loss)(trained, frozen, rows, towers)
            updates, moments = transform.update(gradients, moments, trained)
            return optim.apply(OPTIM, trained, updates, {"": jnp.float32(OPTIM.learning_rate)}), moments

        run = jax.jit(step, donate_argnums=(0, 1))
        run = run.lower(self.trained, self.moments, self.frozen, self.placed).compile()

        def once() -> None:
            self.trained, self.moments = run(self.trained, self.moments, self.frozen, self.placed)
            jax.block_until_ready(self.trained)

        return once

    def gradients(self, way: str) -> tuple[float, dict[str, np.ndarray]]:
        """Loss and gradients of a way."""
        of = jax.jit(jax.value_and_grad(functools.partial(self._loss, towers=WAYS[way])))
        loss, gradients = of(self.trained, self.frozen, self.placed)
        return float(loss), {path: np.asarray(leaf) for path, leaf in gradients.items()}

    def _loss(self, trained: Any, frozen: Any, rows: Rows, towers: Towers) -> Array:
        return loss_of(unflatten(trained | frozen), self.config, rows, towers, self.parallel)


class OfTorch:
    """The same model and step in PyTorch: the port that bundles are converted to."""

    def __init__(self, jax_model: OfJax):
        import torch

        from llamo_jax.convert.torch_folder.llamo_torch.config import LLaMoConfig, TextConfig, VAEConfig
        from llamo_jax.convert.torch_folder.llamo_torch.model import LLaMoForMotion

        config, self.torch = jax_model.config, torch
        self.device = torch.device("cuda" if jax.default_backend() == "gpu" else "cpu")
        head = config.flow_head
        self.model = LLaMoForMotion(
            LLaMoConfig(
                TextConfig(**dataclasses.asdict(config.text)), VAEConfig(8, CHANNELS, [1]), config.motion.width,
                config.motion.ffn_width, head.width, head.num_blocks, 0, 0, {},
            )
        )  # fmt: skip
        self.model.vae.requires_grad_(False)
        state = {}
        trees = (("text.", LLM, "text/", jax_model.frozen), ("", MOTION, "", jax_model.trained))
        self.names = {}  # of tensors -> path and layer
        for prefix, rules, path, flat in trees:
            for leaf in leaves(rules, {name.removeprefix(path): array.shape for name, array in flat.items()}):
                array = np.array(jnp.asarray(flat[path + leaf.path], jnp.float32))
                for layer, name in enumerate(leaf.names):
                    # A copy: the optimizer writes into it.
                    state[prefix + name] = torch.from_numpy(array[layer].copy() if leaf.stacked else array)
                    self.names[prefix + name] = (path + leaf.path, layer if leaf.stacked else None)
        kept = {name: value for name, value in self.model.state_dict().items() if name.startswith("vae.")}
        self.model.load_state_dict(state | kept, assign=True)
        if jax_model.dtype == jnp.bfloat16:
            self.model.text.to(torch.bfloat16)
        self.model.to(self.device).train()
        self.model.text.requires_grad_(False)
        self.trained = [
            parameter.requires_grad_(True)
            for name, parameter in self.model.named_parameters()
            if not name.startswith(("text.", "vae."))
        ]
        betas = (OPTIM.beta1, OPTIM.beta2)
        self.optimizer = torch.optim.Adam(self.trained, lr=OPTIM.learning_rate, betas=betas, eps=1e-8)
        sides = {"text": jax_model.rows.batch.text, "motion": jax_model.rows.batch.motion}
        moved = {f"{side}_{name}": value for side, stream in sides.items()
                 for name, value in stream._asdict().items() if value is not None}  # fmt: skip
        moved |= {"times": jax_model.rows.times, "noise": jax_model.rows.noise}
        self.rows = {
            name: torch.from_numpy(value.astype(np.int64) if value.dtype == np.int32 else value).to(self.device)
            for name, value in moved.items()
        }

    def _loss(self) -> Any:
        functional, rows = self.torch.nn.functional, self.rows
        names = ("tokens", "positions", "segments")
        found = self.model(
            **{f"text_{name}": rows[f"text_{name}"] for name in names},
            **{f"motion_{name}": rows[f"motion_{name}"] for name in ("latents", "start", *names[1:])},
        )
        nll = functional.cross_entropy(found.text_logits.transpose(1, 2), rows["text_targets"])
        t, noise, latents = rows["times"], rows["noise"], rows["motion_latents"][:, None]
        x_t = (1 - t)[..., None] * noise + t[..., None] * latents
        velocity = self.model.flow_head.velocity(x_t, found.motion_hidden[:, None], t)
        ends = functional.binary_cross_entropy_with_logits(found.exit_logits, rows["motion_exit_targets"])
        return nll + (velocity - (latents - noise)).square().mean() + ends

    def once(self) -> None:
        """Takes a step and waits for it."""
        self.optimizer.zero_grad(set_to_none=True)
        self._loss().backward()
        self.torch.nn.utils.clip_grad_norm_(self.trained, OPTIM.clip_norm)
        self.optimizer.step()
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()

    def gradients(self) -> tuple[float, dict[str, np.ndarray]]:
        """Loss and gradients, by the paths that they have in JAX."""
        loss = self._loss()
        loss.backward()
        found: dict[str, Any] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                path, layer = self.names[name]
                gradient = parameter.grad.float().cpu().numpy()
                if layer is None:
                    found[path] = gradient
                else:
                    found.setdefault(path, {})[layer] = gradient
        stacked = {
            path: np.stack([part[layer] for layer in sorted(part)]) if isinstance(part, dict) else part
            for path, part in found.items()
        }
        return float(loss.detach()), stacked


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStep(Reporting):
    """Time a training step of two streams beside other ways to compute the same."""

    preset: str | None = None
    """LLM whose shape to take; without one, width and layers say it."""
    width: int = 512
    """Of both towers."""
    layers: int = 8
    """Of both towers."""
    rows: int = 4
    """Of a batch."""
    text_len: int = 128
    """Text tokens of a row."""
    motion_len: int = 128
    """Motion slots of a row."""
    rounds: int = 9
    """Rounds of all ways in turn."""
    steps: int = 1
    """Steps of a way in a round."""
    ways: tuple[str, ...] = (*WAYS, TORCH)
    """Which to run beside two streams."""
    remat: Literal["none", "minimal", "full"] = "none"
    """What JAX keeps of a layer for the backward pass."""

    def run(self) -> None:
        known = (*WAYS, TORCH)
        require(not (more := set(self.ways) - set(known)), f"--ways {sorted(more)}; expected among {list(known)}")
        require(
            self.preset is None or self.preset in LLMS, f"--preset {self.preset}; expected one of {', '.join(LLMS)}"
        )
        require(min(self.rounds, self.steps, self.rows) > 0, "--rounds, --steps and --rows; expected at least 1 each")
        config = self._config()
        ways = tuple(way for way in known if way in self.ways or way == OURS)
        apart = self._agreement(config, ways)
        on_gpu = jax.default_backend() == "gpu"
        dtype = jnp.dtype(jnp.bfloat16 if on_gpu else jnp.float32)
        sizes = {"rows": self.rows, "text_len": self.text_len, "motion_len": self.motion_len}
        model = OfJax(config, draw(config, **sizes), dtype, Parallel(remat=self.remat))
        runs = {way: OfTorch(model).once if way == TORCH else model.compiled(way) for way in ways}
        seconds = self._measured(runs)
        flops = step_flops_of(config, **sizes)
        peak, device = peak_of_device()
        figures: dict[str, Any] = {
            "ratios": {
                way: _spread(np.divide(each, seconds[OURS])) for way, each in seconds.items() if way != OURS
            },
            "seconds": {way: _spread(each) for way, each in seconds.items()},
            "apart": apart, "flops": flops, "device": device, "dtype": dtype.name, "remat": self.remat,
            "mfu": {way: flops / statistics.median(each) / peak for way, each in seconds.items()} if peak else None,
            "sizes": sizes | {"width": config.text.width, "layers": config.text.num_layers, "preset": self.preset},
            "rounds": self.rounds, "steps": self.steps,
        }  # fmt: skip
        self.report("\n".join(_lines(figures)), figures)

    def _config(self) -> LlamoConfig:
        if self.preset is not None:
            config = llamo_config(LLMS[self.preset], CHANNELS)
            text = config.text
            same = (config.motion.width, config.motion.ffn_width) == (text.width, text.ffn_width)
            options = (text.qkv_bias, text.output_bias, text.ffn_bias, text.qk_norm)
            require(
                same and not any(options),
                f"--preset {self.preset}: one sequence needs towers of one shape, without biases and norms of queries;"
                " choose a Llama of width 512 or more",
            )
            return config
        require(self.width % 128 == 0 and self.width > 0, f"--width {self.width}; expected a multiple of 128")
        ffn = 11 * self.width // 4
        text = LLMConfig(8192, self.width, self.layers, self.width // 64, self.width // 128, 64, ffn)
        return LlamoConfig(text, MotionTowerConfig(self.width, ffn), FlowHeadConfig(self.width // 2, 3), CHANNELS)

    def _agreement(self, config: LlamoConfig, ways: Sequence[str]) -> dict[str, float]:
        """How far losses and gradients are from those of two streams, in float32, on two layers and one row."""
        text = dataclasses.replace(config.text, num_layers=min(2, config.text.num_layers))
        config = dataclasses.replace(config, text=text)
        rows = draw(config, rows=1, text_len=self.text_len, motion_len=self.motion_len)
        apart = {}
        with jax.default_matmul_precision("highest"):
            model = OfJax(config, rows, jnp.dtype(jnp.float32), ALONE)
            expected_loss, expected = model.gradients(OURS)
            for way in (way for way in ways if way != OURS):
                loss, found = OfTorch(model).gradients() if way == TORCH else model.gradients(way)
                require(set(found) == set(expected), f"{way}: gradients of {set(found) ^ set(expected)} differ")
                off = max(np.abs(found[path] - leaf).max() / np.abs(leaf).max() for path, leaf in expected.items())
                apart[way] = float(max(off, abs(loss - expected_loss) / abs(expected_loss)))
                if not apart[way] < CLOSE:
                    raise RuntimeError(f"{way} does not compute what two streams do: {apart[way]:.1e} apart")
        return apart

    def _measured(self, runs: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
        """Seconds of a step, of each round."""
        seconds: dict[str, list[float]] = {way: [] for way in runs}
        for once in runs.values():
            once()
        order = list(runs)
        for number in range(self.rounds):
            # Each begins in turn, so that no way always follows the same one.
            first = number % len(order)
            for way in order[first:] + order[:first]:
                started = time.perf_counter()
                for _ in range(self.steps):
                    runs[way]()
                seconds[way].append((time.perf_counter() - started) / self.steps)
        return seconds


def step_flops_of(config: LlamoConfig, *, rows: int, text_len: int, motion_len: int) -> float:
    """Operations of a step of the model, with two streams."""
    sizes = {"text_len": text_len, "motion_len": motion_len, "timesteps": LOOKS}
    described = sum(step_flops(config, {"m2t": rows}, **sizes).values())
    return described + step_flops(config, {"t2m": rows}, **sizes)["flow head"]


def peak_of_device() -> tuple[float | None, str]:
    """Peak operations a second of the device that JAX runs on, where it is known, and its name."""
    kind = jax.devices()[0].device_kind
    try:
        from llamo_jax.training.devices import peak_flops
    except ImportError:
        return None, kind
    return peak_flops(kind), kind


def _spread(values: Sequence[float]) -> dict[str, float]:
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": float(median), "lower": float(lower), "upper": float(upper)}


def _lines(figures: dict[str, Any]) -> list[str]:
    sizes, mfu = figures["sizes"], figures["mfu"]
    what = sizes["preset"] or f"width {sizes['width']}, {sizes['layers']} layers"
    lines = [
        f"{what}, {sizes['rows']} rows of {sizes['text_len']} + {sizes['motion_len']}, {figures['dtype']}, "
        f"{figures['device']}; medians of {figures['rounds']} rounds (quartiles)"
    ]
    for way, ratio in figures["ratios"].items():
        lines.append(
            f"{way:<12} / {OURS}  {ratio['median']:5.2f} x ({ratio['lower']:.2f} to {ratio['upper']:.2f})  "
            f"losses and gradients {figures['apart'][way]:.0e} apart"
        )
    for way, each in figures["seconds"].items():
        share = f"MFU {mfu[way]:.1%}" if mfu else "MFU unknown"
        speed = f"{figures['flops'] / each['median'] / 1e12:.3g} TFLOP/s"
        seconds = f"{each['median']:.4f} s ({each['lower']:.4f} to {each['upper']:.4f})"
        lines.append(f"{way:<12} {seconds}  {speed} of the model, {share}")
    return lines


if __name__ == "__main__":
    TrainStep.main("python -m experiments.benchmarks.train_step")
