"""Several processes, on one host or on many: how they start, what they agree on, and which rows each of them holds.

On one process everything here is nothing. Functions that exchange something must be called by all processes, in the
same order.
"""

import importlib.util
import json
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from llamo_jax.errors import InputError

Tree = TypeVar("Tree")

_JOIN_SECONDS = 300
_TPU = "tpu"


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    join_seconds: int = _JOIN_SECONDS,
) -> None:
    """Joins the processes of a run; before anything else that asks for devices.

    Without arguments, processes that Cloud TPU, Slurm or Open MPI started find each other, and one that none of these
    started is alone. A second call does nothing. From here on JAX meets SIGTERM, and tells all processes of it
    (`multihost_utils.reached_preemption_sync_point`).

    Args:
      coordinator: address of process 0, as "10.0.0.1:1234".
      num_processes: of the run.
      process_id: 0 to num_processes - 1.
      join_seconds: how long to wait for the others.

    Raises:
      InputError: some arguments are given and others are not, one is out of range, or process 0 cannot be met. (Where
        others than it stay away, JAX ends the process itself.)
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    if missing := [name for name, value in given.items() if value is None]:
        if len(missing) < len(given):
            found = ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)
            raise InputError(
                f"several processes: {found} without {' and '.join(missing)}; expected all three, or none on Cloud "
                "TPU, Slurm and Open MPI"
            )
    else:
        _require_in_range(coordinator, num_processes, process_id)
    launcher = _launcher(os.environ) if missing else "flags"
    if jax.distributed.is_initialized() or launcher is None:
        return
    if process_id:
        _wait_for(coordinator, join_seconds)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=join_seconds)
    except ValueError as error:
        if launcher == _TPU and "should be defined" in str(error):
            return  # of one host, where nothing says of others
        raise InputError(
            f"{launcher} has started several processes, and JAX does not find them ({error}); give coordinator, "
            "num_processes and process_id"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"process {process_id} of {num_processes} cannot meet the others at {coordinator} ({reason:.150}); check "
            "that all are started, with the same address and number, and that its port is free"
        ) from error


def _require_in_range(coordinator: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f'coordinator "{coordinator}"; expected the address of process 0 and a port, as 10.0.0.1:1234')
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise InputError(
            f"process {process_id} of {num_processes}; expected 1 process or more, numbered from 0 to their number - 1"
        )


def _wait_for(coordinator: str, seconds: float) -> None:
    """Waits until process 0 listens: where nobody does, JAX would abort the process."""
    host, _, port = coordinator.rpartition(":")
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() >= until:
                raise InputError(
                    f"nothing answers at the coordinator {coordinator} ({error}) after {seconds:.0f} s; check that "
                    "process 0 is started there, and that its port is open"
                ) from error
            time.sleep(1)


def _launcher(environment: Mapping[str, str]) -> str | None:
    """What has started this process beside others; None where it is alone."""
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if all(name in environment for name in slurm):
        # Under Slurm JAX gives each process one GPU: one process alone is to keep all of them.
        return "Slurm" if int(environment["SLURM_NTASKS"]) > 1 else None
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return "Open MPI" if int(environment["OMPI_COMM_WORLD_SIZE"]) > 1 else None
    platforms = environment.get("JAX_PLATFORMS") or _TPU
    return _TPU if _TPU in platforms and importlib.util.find_spec("libtpu") is not None else None


def is_first() -> bool:
    """Whether this is process 0, which alone writes logs and results."""
    return jax.process_index() == 0


def agree(value: int) -> int:
    """The largest of the values (32 bits) that the processes bring: the same on all."""
    if jax.process_count() == 1:
        return value
    with jax.transfer_guard("allow"):
        return int(multihost_utils.process_allgather(np.int32(value)).max())


def barrier(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        with jax.transfer_guard("allow"):
            multihost_utils.sync_global_devices(name)


def gather_json(value: Any) -> list[Any]:
    """The JSON values of all processes, by their numbers, on all processes."""
    if jax.process_count() == 1:
        return [json.loads(json.dumps(value))]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    with jax.transfer_guard("allow"):
        lengths = multihost_utils.process_allgather(np.int32(len(data)))
        # A power of two, since every other size is another program to compile.
        padded = np.zeros(1 << int(lengths.max() - 1).bit_length(), np.uint8)
        padded[: len(data)] = data
        rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def whole(array: jax.Array) -> np.ndarray | None:
    """A whole array in the memory of process 0; None on the others."""
    if jax.process_count() == 1:
        return np.asarray(array)
    with jax.transfer_guard("allow"):
        gathered = multihost_utils.process_allgather(array, tiled=True)
    return gathered if is_first() else None


def row_blocks(sharding: NamedSharding, rows: int) -> tuple[slice, ...]:
    """The blocks of rows that this process's devices hold, in order, where the first axis is split by `sharding`.

    A process may hold several blocks, and several processes the same, as where a tensor axis spans hosts.
    """
    indices = sharding.addressable_devices_indices_map((rows,)).values()
    blocks: list[slice] = []
    for begin, end in sorted({index[0].indices(rows)[:2] for index in indices}):
        if blocks and blocks[-1].stop == begin:
            begin = blocks.pop().start
        blocks.append(slice(begin, end))
    return tuple(blocks)


def shards_of(sharding: NamedSharding, shards: int, *rows: int) -> tuple[int, ...]:
    """The shards of the data that this process must load for its devices.

    Args:
      sharding: of batches (`sharding.batch_sharding`), whose first axis is that of the rows.
      shards: of the loader. Shard s holds the s-th of as many equal parts of the rows of every task.
      rows: of each task's global batch, to name choices by.

    Raises:
      InputError: on all processes alike. A process would need a part of a shard, or has no device of the mesh.
    """
    holders = _holders(sharding)
    processes = {device.process_index for device in jax.devices()}
    if idle := sorted(processes - set().union(*holders)):
        raise InputError(
            f"the mesh {_sizes(sharding)} has no device of process {', '.join(map(str, idle))} of {len(processes)}; "
            "expected a mesh over all devices"
        )
    held = held_shards(holders, shards)
    if held is None:
        common = math.gcd(*rows)
        sizes = [size for size in range(1, common + 1) if common % size == 0 and held_shards(holders, size)]
        choices = ", ".join(map(str, sizes)) or "no"
        raise InputError(
            f"{shards} shards of the data cannot be divided over {len(processes)} processes, which hold rows in "
            f"{len(holders)} parts on the mesh {_sizes(sharding)}: choose {choices} shards "
            f"for batches of {', '.join(map(str, rows))} rows, or another mesh"
        )
    return held[jax.process_index()]


def held_shards(holders: Sequence[set[int]], shards: int) -> dict[int, tuple[int, ...]] | None:
    """The shards of each process; None where one would need a part of a shard.

    Args:
      holders: processes that hold the first, second, ... of equal parts of the rows.
      shards: likewise, of the data.
    """
    parts = len(holders)
    pieces = math.lcm(parts, shards)  # no piece is cut by the border of a part or of a shard
    held: dict[int, tuple[int, ...]] = {}
    for process in set().union(*holders):
        mine = [process in holders[piece * parts // pieces] for piece in range(pieces)]
        size = pieces // shards
        counts = [sum(mine[shard * size : (shard + 1) * size]) for shard in range(shards)]
        if any(count % size for count in counts):
            return None
        held[process] = tuple(shard for shard, count in enumerate(counts) if count)
    return held


def place_batch(batch: Tree, sharding: NamedSharding, held: Sequence[int], shards: int) -> Tree:
    """Global arrays of a batch, of which each process brings the rows of the shards that it has loaded.

    Args:
      batch: tree of arrays [rows of the held shards, ...], in the order of `held`.
      sharding: of the global arrays.
      held: shards of this process, those of `shards_of` at least.
      shards: of the whole batch.
    """
    if jax.process_count() == 1 and list(held) == list(range(shards)):
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda leaf: _place(leaf, sharding, held, shards), batch)


def _place(leaf: np.ndarray, sharding: NamedSharding, held: Sequence[int], shards: int) -> jax.Array:
    rows = len(leaf) // len(held)  # of a shard
    shape = (rows * shards, *leaf.shape[1:])
    places = {shard: place for place, shard in enumerate(held)}

    def part(index: tuple[slice, ...]) -> np.ndarray:
        begin, end, _ = index[0].indices(shape[0])
        taken = []
        for shard in range(begin // rows, -(-end // rows)):
            offset = (places[shard] - shard) * rows
            taken.append(leaf[max(begin, shard * rows) + offset : min(end, (shard + 1) * rows) + offset])
        return (taken[0] if len(taken) == 1 else np.concatenate(taken))[:, *index[1:]]

    with jax.transfer_guard("allow"):  # meant, as that of device_put is
        return jax.make_array_from_callback(shape, sharding, part)


def _holders(sharding: NamedSharding) -> list[set[int]]:
    """The processes that hold the first, second, ... part of the rows."""
    axes = sharding.spec[0] if sharding.spec else None
    names = (axes,) if isinstance(axes, str) else axes or ()
    parts = math.prod(sharding.mesh.shape[name] for name in names)
    holders: list[set[int]] = [set() for _ in range(parts)]
    for device, index in sharding.devices_indices_map((parts,)).items():
        for part in range(*index[0].indices(parts)):
            holders[part].add(device.process_index)
    return holders


def _sizes(sharding: NamedSharding) -> str:
    return ",".join(str(size) for size in sharding.mesh.shape.values())
