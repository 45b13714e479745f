"""Compiling ahead of time, as far as it goes without the compiler of TPUs: what is counted, and what is refused."""

import dataclasses
import itertools
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.aot_compile import (
    KINDS,
    STAGES,
    STANDARD,
    TABLE,
    AotCompile,
    Torus,
    _fitting,
    _rows,
    compiled_draw,
    compiled_step,
    markdown,
)
from experiments.recipes import ALL_MOTION
from llamo_jax import sharding
from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig, SamplingConfig
from llamo_jax.errors import InputError
from llamo_jax.training.collectives import Collective, collectives_of
from llamo_jax.training.compiled import product_flops
from llamo_jax.training.devices import DEVICES
from llamo_jax.training.flops import step_flops, tower_weights


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks of a TPU."""

    id: int
    coords: tuple[int, ...]
    device_kind: str
    slice_index: int = 0
    platform: str = "tpu"
    core_on_chip: int = 0
    process_index: int = 0


def chips(kind: str, *shape: int, slices: int = 1) -> list[Chip]:
    places = list(itertools.product(*(range(size) for size in shape)))
    return [
        Chip(index * len(places) + number, place, kind, index)
        for index in range(slices)
        for number, place in enumerate(places)
    ]


def collective(op: str, axes: tuple[str, ...], size: int) -> Collective:
    return Collective(op, axes, "bf16", (500_000_000,), 1, size)


def test_a_mesh_lies_along_whole_axes_of_the_torus() -> None:
    mesh = sharding.mesh_of(chips("TPU v5", 4, 4, 4), (4, 16, 1))
    planes = np.array([[device.coords for device in row] for row in mesh.devices[:, :, 0]])
    assert all(sum(len(set(plane[:, axis])) > 1 for axis in range(3)) == 2 for plane in planes)
    assert sharding.mesh_of(chips("TPU v5", 4, 4, 4), (8, 8, 1)).devices.size == 64  # cuts an axis in two
    two = sharding.mesh_of(chips("TPU v5", 2, 2, 2, slices=2), (4, 4, 1))
    assert [{device.slice_index for device in part.flat} for part in two.devices] == [{0}, {0}, {1}, {1}]
    with pytest.raises(
        InputError, match=r"mesh 1,16,1 on 2 slices: only data can go .* its size 1 is no multiple of 2"
    ):
        sharding.mesh_of(chips("TPU v5", 2, 2, 2, slices=2), (1, 16, 1))


@pytest.mark.parametrize(
    ("kind", "torus", "shape", "links"),
    [
        ("TPU v5", (4, 4, 4), (4, 16, 1), {"fsdp": 4, "data": 2}),
        ("TPU v5", (2, 2, 2), (1, 8, 1), {"fsdp": 3}),  # lines of two chips
        ("TPU v6 lite", (16, 16, 1), (1, 256, 1), {"fsdp": 4}),
        ("TPU v6 lite", (8, 8, 1), (1, 64, 1), {"fsdp": 2}),  # too short to be rings
        ("TPU v5 lite", (16, 16, 1), (16, 16, 1), {"fsdp": 2, "data": 2}),
    ],
)
def test_links_of_the_torus(kind: str, torus: tuple, shape: tuple, links: dict[str, int]) -> None:
    network = Torus(sharding.mesh_of(chips(kind, *torus), shape), DEVICES[kind])
    for axis, count in links.items():
        seconds = network.seconds(collective("all-gather", (axis,), 10**9))
        assert seconds == pytest.approx(1e9 / (count * DEVICES[kind].link))


PROGRAM = """\
%start (a: bf16[8,2]) -> bf16[8,32] {
  %all-gather.1 = bf16[8,32]{1,0} all-gather(%a), channel_id=5, replica_groups={{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}}, dimensions={1}
  ROOT %custom-call = bf16[8,32]{1,0} custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.7 (a: bf16[8,2]) -> bf16[8,32] {
  ROOT %all-gather.2 = bf16[8,32]{1,0} all-gather(%a), channel_id=5, replica_groups={{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}}, dimensions={1}
}

%done (a: bf16[8,2]) -> bf16[8,32] {
  %all-gather.3 = bf16[8,32]{1,0} all-gather(%a), channel_id=5, replica_groups={{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}}, dimensions={1}
  ROOT %custom-call = bf16[8,32]{1,0} custom-call(%all-gather.3), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (a: bf16[8,2]) -> bf16[8,32] {
  %s = bf16[8,32]{1,0} fusion(%a), kind=kCustom, calls=%start
  %f = bf16[8,32]{1,0} fusion(%s), kind=kOutput, calls=%async_collective_fusion.7
  %send = (f32[4,128]{1,0:T(8,128)}, u32[], token[]) send(%x, %after-all), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_megascale_reduce_operation="SUM",_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %d = bf16[8,32]{1,0} fusion(%f), kind=kCustom, calls=%done
}
"""  # noqa: E501, as TPUs write it


def test_collectives_in_parts_and_between_slices() -> None:
    """A gather that goes on beside computing is three computations, and counts once; 2 KB go to the other slice."""
    mesh = sharding.mesh_of(chips("TPU v5", 4, 2, 2, slices=2), (2, 16, 1))
    assert collectives_of(PROGRAM, mesh, 2) == [
        Collective("all-reduce", ("slice",), "f32", (4, 128), 1, 2048),
        Collective("all-gather", ("fsdp",), "bf16", (8, 32), 1, 480, overlapped=1),
    ]
    network = Torus(mesh, DEVICES["TPU v5"])
    assert network.seconds(collective("all-reduce", ("slice",), 10**9)) == pytest.approx(1e9 / 6.25e9)


CONFIG = LlamoConfig(
    LLMConfig(vocab_size=128, width=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, ffn_width=128),
    MotionTowerConfig(64, 128),
    FlowHeadConfig(32, 2),
    latent_channels=16,
)


def test_a_step_compiled_ahead_executes_what_is_on_paper() -> None:
    """Attention without its causal mask and one gradient too many of keys, and nothing twice without recomputation."""
    rows, lengths = {"t2m": 8, "m2t": 8}, {"text_len": 16, "motion_len": 8}
    mesh = sharding.make_mesh(1, 8, 1)
    step = compiled_step(CONFIG, mesh, trains=ALL_MOTION, rows=rows, **lengths, remat="none")
    told = step_flops(CONFIG, rows, **lengths, timesteps=4, trains=ALL_MOTION)
    executed = 8 * product_flops(step.as_text())
    products = sum(told.values()) - told["attention"]
    assert products < executed < products + 3 * told["attention"]
    again = compiled_step(CONFIG, mesh, trains=ALL_MOTION, rows=rows, **lengths, remat="full")
    most = 2 * (8 * 16 * 2 * tower_weights(CONFIG, motion=False) + 16 * 8 * tower_weights(CONFIG, motion=True))
    assert 0.5 * most < 8 * product_flops(again.as_text()) - executed < 1.2 * most
    assert {each.mesh_axes for each in collectives_of(again.as_text(), mesh)} == {("fsdp",)}


def test_a_decode_step_is_compiled_ahead() -> None:
    step = compiled_draw(CONFIG, jax.devices()[0], samples=2, slots=16, sampling=SamplingConfig())
    one = 2 * tower_weights(CONFIG, motion=True)
    assert 4 * one < product_flops(step.as_text()) < 20 * one  # two rows with text, two without; ten looks of the head


def test_rows_of_tasks_divide_over_the_devices() -> None:
    assert _rows({"t2m": 0.8, "m2t": 0.2}, 256, 64) == {"t2m": 192, "m2t": 64}
    assert _rows({"t2m": 1.0}, 128, 64) == {"t2m": 128}
    with pytest.raises(InputError, match="--rows 100; expected a multiple of 64"):
        _rows({"t2m": 0.8, "m2t": 0.2}, 100, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topology": "v3:2x2"}, '--topology "v3:2x2"; expected one of v5p, v5e, v6e'),
        ({"preset": "llama-9b"}, "--preset llama-9b, --stage 2; expected one of"),
        ({"stage": 4}, "--stage 4; expected one of .*; 1 to 3"),
    ],
)
def test_mistakes_are_told(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        AotCompile(**{"preset": "llama-3.2-1b", "json": tmp_path / "told.json"} | options).run()


def test_what_does_not_fit_is_told_with_a_remedy() -> None:
    refusal = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.01G of 15.75G hbm. Exceeded by 1.2G."
    with (
        pytest.raises(InputError, match=r"a step takes 17.01G of 15.75G: fewer rows"),
        _fitting("a step", "fewer rows"),
    ):
        raise jax.errors.JaxRuntimeError(refusal)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), _fitting("a step", "fewer rows"):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_the_table_has_a_line_for_each_step() -> None:
    step = {
        "preset": "llama-3.1-8b", "stage": 2, "topology": "v5p:4x4x4", "slices": 2, "mesh": [8, 16, 1],
        "rows": {"t2m": 768, "m2t": 256}, "memory_bytes": {"arguments": 6e9, "temporary": 24e9}, "bound": "compute",
        "memory_of_a_chip": 102e9, "seconds": {"compute": 0.7, "memory": 0.2, "network": 0.3},
        "mfu_at_most": {"network_hidden": 0.8, "network_as_compiled": 0.7, "network_counted": 0.56}, "remat": "full",
    }  # fmt: skip
    large = step | {"memory_bytes": {"arguments": 6e9, "temporary": 97e9}, "slices": 1}
    lines = markdown([step, large]).splitlines()
    assert lines[-2] == (
        "| llama-3.1-8b, 2 | v5p:4x4x4 x 2, 8,16,1 | 1024, full | 30.0 of 102 GB | 700 / 200 / 300 ms | compute "
        "| 80% / 70% / 56% |"
    )
    assert "| v5p:4x4x4, 8,16,1 | 1024, full | 103.0 of 102 GB, too much |" in lines[-1]


def test_every_step_of_the_tables_can_be_split() -> None:
    assert len(TABLE) == 29 and len(STANDARD) == 5 and set(STANDARD) <= set(TABLE)
    for case in TABLE:
        data, fsdp, tensor = sharding.mesh_shape(case.mesh)
        version, _, shape = case.topology.partition(":")
        assert data * fsdp * tensor == math.prod(map(int, shape.split("x"))) * case.slices and version in KINDS
        rows = _rows(STAGES[case.stage][1], case.rows, data * fsdp)
        assert sum(rows.values()) == case.rows >= 256
