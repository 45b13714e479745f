"""Several processes: real ones over gloo, and what is refused before they start."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from llamo_jax import hosts
from llamo_jax.commands import RESUMABLE
from llamo_jax.errors import InputError
from llamo_jax.sharding import batch_sharding, make_mesh
from tests import devices
from tests.training import worker_hosts, worker_train
from tests.training.latents import loader, write_latents

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    write_latents(folder)
    return folder


def launch(folder: Path, count: int) -> tuple[list[dict], list[int]]:
    """Runs the worker in `count` processes with 8 devices in all; what each of them found, and their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"XLA_FLAGS": devices.flags(8 // count), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.training.worker_hosts", str(folder), str(port), str(count)]
    logs = [folder / f"log-{count}-{process}.txt" for process in range(count)]
    running = [
        subprocess.Popen([*command, str(process)], cwd=ROOT, env=environment, stdout=log.open("w"), stderr=-2)
        for process, log in enumerate(logs)
    ]
    try:
        codes = [process.wait(timeout=500) for process in running]
    finally:
        for process in running:
            process.kill()
    print("\n".join(log.read_text()[-3000:] for log in logs))  # shown where a test fails
    return json.loads((folder / f"found-{count}.json").read_text()), codes


@pytest.fixture(scope="module")
def launched(folder: Path) -> dict[int, tuple[list[dict], list[int]]]:
    """Two processes, then four, in one folder."""
    return {count: launch(folder, count) for count in (2, 4)}


def test_processes_have_the_batches_of_one(folder: Path, launched: dict) -> None:
    """Positions go from two processes to four, and from four to one."""
    iterator = iter(loader(folder))
    batches = [worker_hosts.arrays(next(iterator)) for _ in range(worker_hosts.LAST + 1)]
    found = {count: found for count, (found, _) in launched.items()}
    for count in found:
        with np.load(folder / f"batches-{count}.npz") as kept:
            numbers = {"0": 0, str(worker_hosts.LAST): worker_hosts.LAST}
            numbers |= {"resumed": worker_hosts.SAVED} if count == 4 else {}
            assert {name.partition("/")[0] for name in kept.files} == set(numbers)
            for name in kept.files:
                number, _, path = name.partition("/")
                np.testing.assert_array_equal(kept[name], batches[numbers[number]][path], err_msg=f"{count}: {name}")
    resumed = iter(loader(folder))
    resumed.set_state(json.loads((folder / "position.json").read_text()))
    for path, array in worker_hosts.arrays(next(resumed)).items():
        np.testing.assert_array_equal(array, batches[worker_hosts.SAVED][path], err_msg=path)

    for count, processes in found.items():
        assert [each["text"] for each in processes] == ["ü" * 40 * process for process in range(count)]
        (said,) = {each["refused"] for each in processes}  # all alike: none waits for one that has ended
        choices = "2, 4, 8" if count == 2 else "4, 8"
        assert said.startswith(f"{count // 2} shards of the data cannot be divided over {count} processes, which hold")
        assert f"in 8 parts on the mesh 8,1,1: choose {choices} shards for batches of 16, 8 rows" in said
    two, four = ([each["places"] for each in found[count]] for count in (2, 4))
    assert [each["8,1,1"]["held"] for each in two] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [each["2,2,2"]["rows"] for each in four] == [[[0, 4]], [[4, 8]], [[8, 12]], [[12, 16]]]
    assert [each["apart"]["held"] for each in two] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert four[3]["apart"] == {"held": [5, 7], "rows": [[10, 12], [14, 16]]}
    # Where a tensor axis spans hosts, all of them need all rows.
    assert all(each["1,1,8"] == {"held": list(range(8)), "rows": [[0, 16]]} for each in two + four)


def test_processes_train_as_one_and_stop_together(folder: Path, launched: dict) -> None:
    """Two processes trained, and one of them was asked to end: both saved, and exited with the code for that. Four went
    on. Losses, parameters and averages are those of one process that was never stopped."""
    assert {count: codes for count, (_, codes) in launched.items()} == {2: [RESUMABLE] * 2, 4: [0] * 4}
    saved = sorted(int(path.name) for path in (folder / "run" / "checkpoints").iterdir())
    assert len(saved) == 2 and 3 <= saved[0] < saved[1] == worker_train.STEPS
    alone = worker_train.run(folder, folder / "alone", stop=False)
    lines, expected = (
        [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("run", "alone")
    )
    assert [line["step"] for line in lines] == list(range(1, worker_train.STEPS + 1))
    for name in ("loss", "gradient_norm"):  # of the same parameters and rows; figures are logged to six digits
        assert lines[0][name] == pytest.approx(expected[0][name], rel=2e-6), name
    for line, wanted in zip(lines, expected, strict=True):
        for name in ("loss", "t2m_flow", "m2t_loss", "gradient_norm", "text_tokens", "motion_padding"):
            assert line[name] == pytest.approx(wanted[name], rel=2e-5), name
    with np.load(folder / "params.npz") as params:
        for path, leaf in alone.items():
            # Adam divides by the root of tiny second moments, so that sums in another order show in single weights.
            np.testing.assert_allclose(params[path], leaf, atol=1e-3, err_msg=path)


def test_one_process_holds_everything(folder: Path) -> None:
    hosts.start()
    hosts.start()
    assert not jax.distributed.is_initialized()
    assert hosts.is_first() and hosts.agree(7) == 7 and hosts.gather_json({"a": [1]}) == [{"a": [1]}]
    hosts.barrier("alone")
    where = batch_sharding(make_mesh(2, 2, 2))
    assert hosts.shards_of(where, 3, 12) == (0, 1, 2) and hosts.row_blocks(where, 12) == (slice(0, 12),)
    rows = np.arange(24).reshape(12, 2)
    for held in ((0, 1, 2), (2, 0, 1)):
        brought = np.concatenate([np.split(rows, 3)[shard] for shard in held])
        with jax.transfer_guard("disallow"):
            placed = hosts.place_batch({"a": brought}, where, held, 3)["a"]
        assert placed.sharding.is_equivalent_to(where, 2)
        np.testing.assert_array_equal(placed, rows)


def test_shards_of_a_pod() -> None:
    """64 hosts of four chips."""
    chips = [chip // 4 for chip in range(256)]
    split = [{host} for host in chips]  # mesh 4,64,1
    assert hosts.held_shards(split, 64) == {host: (host,) for host in range(64)}
    assert hosts.held_shards(split, 128)[3] == (6, 7)
    assert hosts.held_shards(split, 32) is None and hosts.held_shards(split, 96) is None
    spanning = [set(chips[part * 8 : part * 8 + 8]) for part in range(32)]  # mesh 1,32,8: two hosts have the same rows
    assert hosts.held_shards(spanning, 64) == {host: (host // 2 * 2, host // 2 * 2 + 1) for host in range(64)}
    assert hosts.held_shards(spanning, 32)[63] == (31,) and hosts.held_shards(spanning, 16) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("10.0.0.1:1234", None, 0),
            "coordinator 10.0.0.1:1234, process_id 0 without num_processes; expected all three",
        ),
        ((None, 2, None), "num_processes 2 without coordinator and process_id; expected all three, or none on Cloud"),
        (("10.0.0.1", 2, 0), 'coordinator "10.0.0.1"; expected the address of process 0 and a port, as 10.0.0.1:1234'),
        (("a:99999", 2, 0), 'coordinator "a:99999"; expected the address'),
        (("a:1234", 2, 2), "process 2 of 2; expected 1 process or more, numbered from 0 to their number - 1"),
        (("a:1234", 0, 0), "process 0 of 0; expected 1 process or more"),
    ],
)
def test_arguments_that_do_not_fit_are_told(given: tuple, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        hosts.start(*given)


def test_a_coordinator_that_does_not_answer_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=f"nothing answers at the coordinator {address} .* after 0 s; check that"):
            hosts.start(address, 2, 1, join_seconds=0)
    assert not jax.distributed.is_initialized()


SLURM = {"SLURM_JOB_ID": "9", "SLURM_STEP_NODELIST": "a,b", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({}, None),
        (SLURM | {"SLURM_NTASKS": "16"}, "Slurm"),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        ({"SLURM_JOB_ID": "9", "SLURM_NTASKS": "16"}, None),  # outside of srun
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "Open MPI"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ],
)
def test_who_has_started_others_too(environment: dict, launcher: str | None) -> None:
    assert hosts._launcher(environment | {"JAX_PLATFORMS": "cpu"}) == launcher


def test_processes_that_do_not_find_each_other_are_no_runs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def initialize(*given: object, **options: object) -> None:
        assert given == (None, None, None)
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"Open MPI has started several processes, and JAX does not .*give"):
        hosts.start()
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE")
    monkeypatch.setattr(hosts, "_launcher", lambda environment: "tpu")
    hosts.start()  # one host alone
