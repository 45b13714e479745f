"""Bytes that a device sends and moves in a training step, counted on paper.

The network, with g = (n - 1) / n for an axis of n devices, and weights in the type that is computed in:

    fsdp      all-gather       each layer's weights, of a tower and task: forward, and again backward where something
                               trains behind them; the language head likewise; the heads of motion once
              reduce-scatter   gradients of what trains, once a task
              all-to-all       embeddings of a device's own tokens
    data      all-reduce       gradients of what trains, in float32, once a step: 2 g of a device's part
    slice     all-reduce       where data goes over several slices: the same, of what each slice has summed, and
                               scattered over its own data
    tensor    all-reduce       2 g of a device's activations, twice a layer and pass, and for the embeddings

The memory, with weights W of a tower as they are gathered, and every product reading its inputs and writing its output
once:

    weights       written by the gather and read by the product: 2 W forward, 2 W backward; 1 W more where the layer
                  is computed again; the gradient is written and read, 2 W
    activations   of a token and layer, forward: 8 widths, 4 hidden widths, 4 of queries and of keys and values; twice
                  that backward, and once more where the layer is computed again
    logits        float32, written and read, forward and twice backward
    optimizer     28 bytes a parameter: gradient, weight and both moments read, the last three written
"""

import dataclasses
from collections.abc import Mapping

from llamo_jax.config import LlamoConfig
from llamo_jax.training.flops import MOTION_SIDE, flow_weights, tower_weights


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a step is, and where it runs.

    Attributes:
      shape: sizes of data, fsdp and tensor.
      rows: task -> rows of the batch.
      text_len: tokens of a row.
      motion_len: slots of a row.
      trains: prefixes of the paths that train.
      remat: of `models.parallel.Parallel`.
      width: bytes of a number that is computed with.
      slices: of TPUs, that data goes over.
    """

    shape: tuple[int, int, int]
    rows: Mapping[str, int]
    text_len: int
    motion_len: int
    trains: tuple[str, ...] = MOTION_SIDE
    remat: str = "full"
    width: int = 2
    slices: int = 1

    def train(self, *paths: str) -> bool:
        """Whether something at one of these paths does."""
        return any(path.startswith(self.trains) for path in paths)

    @property
    def behind(self) -> bool:
        """Whether the motion tower has a backward pass."""
        return self.train("motion/layers/", "motion/adapter/", "motion/bom")


def _tower_passes(layout: Layout, task: str, *, motion: bool) -> tuple[int, int]:
    """(1, backward passes) through a tower."""
    if motion:
        return int(task != "text"), int(layout.behind and task != "text")
    return 1, int(task != "t2m" and (layout.behind or layout.train("motion/eom")))


def trained_part(config: LlamoConfig, layout: Layout) -> float:
    """Parameters that train, of one device, without norms and biases. The heads of motion are split over fsdp alone."""
    _, fsdp, tensor = layout.shape
    parts = {
        "motion/layers/": tower_weights(config, motion=True) / tensor,
        "flow_head/": sum(flow_weights(config)),
        "motion/adapter/": config.latent_channels * config.motion.width,
    }
    return sum(count for path, count in parts.items() if layout.train(path)) / fsdp


def network_bytes(config: LlamoConfig, layout: Layout) -> dict[tuple[str, str], float]:
    """(collective, mesh axis) -> bytes that a device sends in a step. Norms, biases and sums of a few numbers are left
    out."""
    data, fsdp, tensor = layout.shape
    devices = data * fsdp
    sent: dict[tuple[str, str], float] = {}

    def add(op: str, axis: str, size: int, count: float) -> None:
        if size > 1:
            sent[op, axis] = sent.get((op, axis), 0.0) + count * layout.width * (size - 1) / size

    towers = {motion: tower_weights(config, motion=motion) / tensor for motion in (False, True)}
    kv = 2 * config.text.num_layers * config.text.width * config.text.num_kv_heads * config.text.head_dim / tensor
    widths = {False: config.text.width, True: config.motion.width}
    for task, rows in layout.rows.items():
        if not rows:
            continue
        tokens = {False: rows / devices * layout.text_len, True: rows / devices * layout.motion_len}
        for motion, weights in towers.items():
            forward, backward = _tower_passes(layout, task, motion=motion)
            add("all-gather", "fsdp", fsdp, (forward + backward) * weights)
            if backward and motion and layout.train("motion/layers/"):
                add("reduce-scatter", "fsdp", fsdp, weights)
            passes = forward + backward * (1 if layout.remat == "none" else 1.5)
            add("all-reduce", "tensor", tensor,
                2 * passes * 2 * config.text.num_layers * tokens[motion] * widths[motion])  # fmt: skip
        text_backward = _tower_passes(layout, task, motion=False)[1]
        if task == "t2m":
            if layout.behind and layout.remat == "full":
                add("all-gather", "fsdp", fsdp, kv)  # of text, to compute again what motion sees
            head = sum(flow_weights(config)) * 4 / layout.width  # in float32
            add("all-gather", "fsdp", fsdp, head)
            if layout.train("flow_head/"):
                add("reduce-scatter", "fsdp", fsdp, head)
        else:
            head = config.text.vocab_size * config.text.width / tensor
            add("all-gather", "fsdp", fsdp, (1 + text_backward) * head)
        add("all-to-all", "fsdp", fsdp, tokens[False] * config.text.width)
        add("all-reduce", "tensor", tensor, 2 * tokens[False] * config.text.width)
    inside, between = data // layout.slices, layout.slices
    if inside > 1:
        sent["all-reduce", "data"] = 2 * 4 * trained_part(config, layout) * (inside - 1) / inside
    if between > 1:
        sent["all-reduce", "slice"] = 2 * 4 * trained_part(config, layout) / inside * (between - 1) / between
    return sent


def memory_bytes(config: LlamoConfig, layout: Layout) -> dict[str, float]:
    """What it is for -> bytes that a device reads and writes in its memory in a step."""
    data, fsdp, tensor = layout.shape
    text = config.text
    q, kv = text.num_heads * text.head_dim / tensor, text.num_kv_heads * text.head_dim / tensor
    again = layout.remat == "full"
    found = {"weights": 0.0, "activations": 0.0, "logits": 0.0}
    for task, rows in layout.rows.items():
        for motion in (False, True):
            forward, backward = _tower_passes(layout, task, motion=motion)
            trains = motion and layout.train("motion/layers/") and backward
            weights = tower_weights(config, motion=motion) / tensor * layout.width
            found["weights"] += weights * (2 * forward + (2 + again) * backward + 2 * bool(trains))
            width = config.motion.width if motion else text.width
            ffn = (config.motion.ffn_width if motion else text.ffn_width) / tensor
            tokens = rows / (data * fsdp) * (layout.motion_len if motion else layout.text_len)
            each = (8 * width + 4 * ffn + 4 * q + 4 * kv) * text.num_layers * layout.width
            found["activations"] += tokens * each * (forward + (2 + again) * backward)
        if task != "t2m":
            backward = _tower_passes(layout, task, motion=False)[1]
            tokens = rows / (data * fsdp) * layout.text_len
            found["logits"] += tokens * text.vocab_size / tensor * 4 * 2 * (1 + 2 * backward)
            found["weights"] += text.vocab_size * text.width / tensor * layout.width * 2 * (1 + backward)
    found["optimizer"] = 28 * trained_part(config, layout)
    return found
