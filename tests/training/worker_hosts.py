"""One of several processes of a run, as `test_hosts.py` starts them: python -m tests.training.worker_hosts FOLDER PORT
COUNT PROCESS. FOLDER has `latents`; process 0 leaves there what the processes found."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from llamo_jax import hosts
from llamo_jax.batch import Batch
from llamo_jax.commands import Stopped
from llamo_jax.errors import InputError
from llamo_jax.sharding import MESH_AXES, batch_sharding, make_mesh, replicated
from tests.training import worker_train
from tests.training.latents import ROWS, loader

SAVED, LAST = 3, 5
"""Batches after which the position is saved, and the number of the last one."""


def arrays(batch: dict[str, Batch]) -> dict[str, Any]:
    """Path -> array."""
    return {f"{task}/{name}": array for task, rows in batch.items() for name, array in rows.arrays().items()}


def meshes() -> dict[str, Mesh]:
    """Meshes whose processes hold rows that lie together, rows that do not, and all rows."""
    made = {",".join(map(str, sizes)): make_mesh(*sizes) for sizes in ((8, 1, 1), (2, 2, 2), (1, 1, 8))}
    apart = np.array(jax.devices()).reshape(2, 4).T.reshape(8, 1, 1)
    return made | {"apart": Mesh(apart, MESH_AXES, axis_types=(AxisType.Auto,) * 3)}


def check_places(folder: Path) -> dict[str, Any]:
    """On each mesh every device gets its own rows of the global batch; which shards and rows are this process's."""
    data, found = loader(folder), {}
    expected = arrays(next(iter(data)))
    for name, mesh in meshes().items():
        where = batch_sharding(mesh)
        held = hosts.shards_of(where, data.shards, *ROWS.values())
        placed = arrays(hosts.place_batch(next(data.iterator(held)), where, held, data.shards))
        for path, array in placed.items():
            assert array.shape == expected[path].shape and array.sharding.is_equivalent_to(where, array.ndim), path
            for piece in array.addressable_shards:
                np.testing.assert_array_equal(piece.data, expected[path][piece.index], err_msg=path)
        found[name] = {"held": held, "rows": [[block.start, block.stop] for block in hosts.row_blocks(where, 16)]}
    return found


def check_batches(folder: Path, count: int) -> None:
    """Global batches, gathered from all processes: the first and the last, and the one after a position that other
    processes saved."""
    mesh, data = make_mesh(8), loader(folder)
    where = batch_sharding(mesh)
    held = hosts.shards_of(where, data.shards, *ROWS.values())

    everywhere = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))

    def gathered(iterator: Any) -> dict[str, np.ndarray]:
        placed = arrays(hosts.place_batch(next(iterator), where, held, data.shards))
        return jax.tree.map(np.asarray, everywhere(placed))

    iterator, kept = data.iterator(held), {}
    for number in range(LAST + 1):
        if number == SAVED:
            states = hosts.gather_json(iterator.get_state())
        batch = gathered(iterator)
        if number in (0, LAST):
            kept |= {f"{number}/{path}": array for path, array in batch.items()}
    if (position := folder / "position.json").exists():
        resumed = data.iterator(held)
        resumed.set_state(json.loads(position.read_text()))
        kept |= {f"resumed/{path}": array for path, array in gathered(resumed).items()}
    hosts.barrier("read")
    if hosts.is_first():
        np.savez(folder / f"batches-{count}.npz", **kept)
        position.write_text(json.dumps({shard: state for part in states for shard, state in part.items()}))


def refused(count: int) -> str:
    """What is said where shards do not fall on the borders of processes."""
    try:
        hosts.shards_of(batch_sharding(make_mesh(8)), count // 2, *ROWS.values())
    except InputError as error:
        return str(error)
    return ""


def main(folder: Path, port: int, count: int, process: int) -> int:
    for _ in range(2):  # once more is harmless
        hosts.start(f"127.0.0.1:{port}", count, process)
    assert (jax.process_count(), jax.process_index(), jax.device_count()) == (count, process, 8)
    assert hosts.agree(10 - process) == 10 and hosts.is_first() == (process == 0)
    numbers = np.arange(64, dtype=np.float32).reshape(16, 4)
    split = hosts.place_batch(np.split(numbers, count)[process], batch_sharding(make_mesh(2, 2, 2)), [process], count)
    whole = hosts.whole(split)
    assert np.array_equal(whole, numbers) if process == 0 else whole is None
    check_batches(folder, count)
    found = hosts.gather_json({"places": check_places(folder), "refused": refused(count), "text": "ü" * 40 * process})
    if hosts.is_first():
        (folder / f"found-{count}.json").write_text(json.dumps(found))
    # Two processes train, and one of them is asked to end; four go on.
    try:
        params = worker_train.run(folder, folder / "run", stop=(count, process) == (2, 1))
    except Stopped as stopped:
        return stopped.code
    if hosts.is_first():
        np.savez(folder / "params.npz", **params)
    hosts.barrier("written")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
