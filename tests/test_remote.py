"""Paths on other machines: what is read and written there is whole or told, and paths of this machine stay as they
are."""

import dataclasses
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines.folder import LatentFolder
from data_pipelines.folder import require_replaceable as require_data_replaceable
from data_pipelines.records import LatentRecord
from data_pipelines.write import write_folder
from llamo_jax import commands, remote
from llamo_jax.errors import InputError
from llamo_jax.files import read_json, write_json
from llamo_jax.storage.bundle import read_bundle, require_replaceable, write_bundle
from llamo_jax.storage.huggingface import load_llm, load_tokenizer, resolve_llm
from llamo_jax.training.metrics import MetricsLog
from tests import fake_bucket
from tests.fake_bucket import Bucket


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Bucket]]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with fake_bucket.served(monkeypatch) as served:
        yield served


def put(folder: Path, where: str) -> None:
    """As a person does: with another tool, file by file."""
    for file in folder.rglob("*"):
        if file.is_file():
            Bucket().pipe_file(f"{where}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def write_records(folder: Path) -> None:
    records = [LatentRecord(f"{n}", np.full((n + 1, 4), n, np.float32), ("läuft",)) for n in range(5)]
    write_folder(folder, LatentRecord, {"train": records}, dataset={"name": "test"})


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock" and path.is_file())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(commands.Command):
    """An example."""

    out: remote.AnyPath
    vae: remote.AnyPath | None = None


def test_options_are_paths_of_any_machine(capsys: pytest.CaptureFixture) -> None:
    here = commands.read(Example, "example", ["--out", "a/b c", "--vae", "v"])
    assert (here.out, here.vae) == (Path("a/b c"), Path("v")) and type(here.out) is type(Path())
    there = commands.read(Example, "example", ["--out", "gs://bucket/a run"])
    assert str(there.out / "vae" / "config.json") == "gs://bucket/a run/vae/config.json" and there.vae is None
    assert there.out.name == "a run" and remote.is_remote(there.out) and not remote.is_remote(here.out)
    assert remote.path(there.out) is there.out and remote.path("a") == Path("a")
    with pytest.raises(SystemExit):
        commands.read(Example, "example", ["--out", "ftp://bucket/run"])
    told = " ".join("".join(letter for letter in capsys.readouterr().err if letter not in "│╭╮╰╯─").split())
    assert "ftp://bucket/run: ftp:// is not known; expected gs://" in told


def test_paths_of_this_machine_stay_as_they_are(tmp_path: Path) -> None:
    assert remote.local(tmp_path) is tmp_path and remote.local("no/such") == Path("no/such")
    remote.require_reachable(tmp_path, "no/such")
    with remote.published(tmp_path / "new" / "a.json") as temporary:
        assert temporary.parent.parent == tmp_path / "new"  # beside it, to be renamed
        temporary.write_text("1")
    assert (tmp_path / "new" / "a.json").read_text() == "1"
    with pytest.raises(InputError, match=r"new: is a folder; expected"), remote.published(tmp_path / "new"):
        pass
    with remote.Mirror(tmp_path / "log", "metrics.jsonl") as mirror:
        assert mirror.folder == tmp_path / "log" and not mirror.folder.exists()
        mirror.flush()


def test_a_data_folder_is_copied_once(bucket: type[Bucket], tmp_path: Path) -> None:
    write_records(tmp_path / "data")
    put(tmp_path / "data", "gs://bucket/my data/latents")
    where = remote.path("gs://bucket/my data/latents")
    copy = remote.local(where)
    assert copy.name == "latents" and copy.is_relative_to(tmp_path / "cache" / "llamo_jax" / "remote")
    here, there = (LatentFolder(path).split("train") for path in (tmp_path / "data", copy))
    for first, second in zip(here, there, strict=True):
        assert first.captions == second.captions
        np.testing.assert_array_equal(first.latents, second.latents)
    bucket.opened.clear()
    assert remote.local("gs://bucket/my data/latents") == copy and not bucket.opened
    require_data_replaceable(where)  # of ours
    bucket().pipe_file("gs://bucket/my data/other/a.txt", b"dear")
    with pytest.raises(InputError, match="gs://bucket/my data/other: exists and is not a data folder"):
        require_data_replaceable(where.parent / "other")
    require_data_replaceable(where.parent / "nothing")
    # What changes there is copied again.
    bucket().pipe_file("gs://bucket/my data/latents/dataset.json", b'{"schema_version": 1, "records": {}}')
    changed = remote.local(where)
    assert changed != copy
    with pytest.raises(InputError, match="has schema version 1"):
        LatentFolder(changed)
    assert len(LatentFolder(copy).split("train")) == 5


def test_an_llm_and_a_single_file(bucket: type[Bucket], llm_folder: Path, tmp_path: Path) -> None:
    put(llm_folder, "gs://bucket/llm")
    folder = resolve_llm(str(remote.local("gs://bucket/llm"))).folder
    (config, here), (_, there) = load_llm(llm_folder), load_llm(folder)
    np.testing.assert_array_equal(here["norm"], there["norm"])
    assert config.num_layers == 2 and load_tokenizer(folder).encode("runs") == load_tokenizer(llm_folder).encode("runs")
    with remote.published("gs://bucket/new/figures of a run.json") as temporary:
        write_json(temporary, {"a": 1})
    assert fake_bucket.paths()[-1] == "/bucket/new/figures of a run.json"
    assert read_json(remote.path("gs://bucket/new/figures of a run.json")) == {"a": 1}
    copy = remote.local("gs://bucket/new/figures of a run.json")
    assert copy.name == "figures of a run.json" and read_json(copy) == {"a": 1}
    with pytest.raises(InputError, match="gs://bucket/new: is a folder"), remote.published("gs://bucket/new"):
        pytest.fail("told after the work")


def test_a_bundle_goes_there_and_back(bucket: type[Bucket], bundle: Path) -> None:
    kept = read_bundle(bundle)
    with remote.published("gs://bucket/a run/bundle", directory=True) as folder:
        write_bundle(folder, kept)
    require_replaceable(remote.path("gs://bucket/a run/bundle"))
    back = read_bundle(remote.local("gs://bucket/a run/bundle"))  # compares every file with its hash
    assert back.config == kept.config and back.info == kept.info
    jax.tree.map(np.testing.assert_array_equal, back.params, kept.params)


def test_what_is_not_there_or_cannot_be_reached_is_told(
    bucket: type[Bucket], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"^gs://bucket/none: cannot be read \(nothing is there\); expected a file or"):
        remote.local("gs://bucket/none")
    with pytest.raises(InputError, match=r"none.json: cannot be read \(nothing is there\); expected a JSON file"):
        read_json(remote.path("gs://bucket/none.json"))
    bucket().pipe_file("gs://bucket/a.txt", b"a")
    bucket.fails = staticmethod(lambda mode, path: True)
    with pytest.raises(InputError, match=r"a.txt: cannot be read \(503 the bucket is away\); check the address"):
        remote.local("gs://bucket/a.txt")
    monkeypatch.delitem(fake_bucket.registry._registry, "gcs")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    fake_bucket.backend._FileSystemSpecBackend._get_filesystem.cache_clear()
    with pytest.raises(InputError, match=r"gs://bucket/a: cannot be reached \(.*gcsfs.*\); install what it names"):
        remote.require_reachable(tmp_path, "gs://bucket/a")


def test_a_copy_that_stops_leaves_nothing(bucket: type[Bucket], tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        bucket().pipe_file(f"gs://bucket/folder/{name}.txt", name.encode() * 1000)
    bucket.fails = staticmethod(lambda mode, path: path.endswith("b.txt"))
    with pytest.raises(InputError, match="the bucket is away"):
        remote.local("gs://bucket/folder")
    assert cached(tmp_path) == []
    bucket.fails = staticmethod(lambda mode, path: False)
    copy = remote.local("gs://bucket/folder")
    # One that was killed has left a part under its name: it is not taken for more.
    kept = copy.parent
    part = kept.rename(kept.with_name(f"{kept.name}.part"))
    (part / "folder" / "b.txt").write_bytes(b"half")
    assert remote.local("gs://bucket/folder") == copy and not part.exists()
    assert {path.name: path.read_text() for path in copy.iterdir()} == {f"{n}.txt": n * 1000 for n in "abc"}


def test_what_changes_while_it_is_copied_is_told(bucket: type[Bucket], tmp_path: Path) -> None:
    bucket().pipe_file("gs://bucket/folder/a.txt", b"a")

    def grows(mode: str, path: str) -> bool:
        bucket.fails = staticmethod(lambda mode, path: False)
        bucket().pipe_file("gs://bucket/folder/b.txt", b"b")
        return False

    bucket.fails = staticmethod(grows)
    with pytest.raises(InputError, match="gs://bucket/folder: changed while it was copied; wait for who writes it"):
        remote.local("gs://bucket/folder")
    assert cached(tmp_path) == []


def test_those_who_come_together_copy_once(bucket: type[Bucket]) -> None:
    for number in range(20):
        bucket().pipe_file(f"gs://bucket/folder/{number}.txt", b"x" * 1000)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(remote.local("gs://bucket/folder"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 4
    assert sorted(path for mode, path in bucket.opened if mode == "rb") == sorted(fake_bucket.paths())


def publish(names: str, text: str) -> None:
    with remote.published("gs://bucket/run/bundle", directory=True) as folder:
        (folder / "parts").mkdir()
        for name in names:
            (folder / "parts" / f"{name} 1.txt").write_text(text)


def test_a_folder_appears_whole_or_says_that_it_is_not(bucket: type[Bucket]) -> None:
    publish("abc", "old")
    assert fake_bucket.paths() == [f"/bucket/run/bundle/parts/{name} 1.txt" for name in "abc"]
    with pytest.raises(ZeroDivisionError), remote.published("gs://bucket/run/bundle", directory=True):
        raise ZeroDivisionError  # the work, before anything is copied
    assert len(fake_bucket.paths()) == 3
    bucket.fails = staticmethod(lambda mode, path: mode == "wb" and path.endswith("b 1.txt"))
    with pytest.raises(InputError, match=r"run/bundle: cannot be written \(503 the bucket is away\)"):
        publish("ab", "new")
    with pytest.raises(InputError, match=r"run/bundle: was not written to its end; wait for who writes it, or write"):
        remote.local("gs://bucket/run/bundle")
    bucket.fails = staticmethod(lambda mode, path: False)
    bucket.opened.clear()
    publish("ab", "new")
    writes = [path for mode, path in bucket.opened if mode.startswith("w")]
    assert writes[0] == "/bucket/run/bundle/_unfinished"  # before anything else changes
    copy = remote.local("gs://bucket/run/bundle")
    assert {path.name: path.read_text() for path in copy.rglob("*.txt")} == {"a 1.txt": "new", "b 1.txt": "new"}
    with (
        pytest.raises(InputError, match=r"^gs://bucket/run/bundle/x.json: is damaged$"),
        remote.published("gs://bucket/run/bundle", directory=True) as folder,
    ):
        raise InputError(f"{folder / 'x.json'}: is damaged")


def test_a_file_is_replaced_at_once(bucket: type[Bucket]) -> None:
    for text in ("old", "new"):
        with remote.published("gs://bucket/a.txt") as temporary:
            temporary.write_text(text)
    bucket.fails = staticmethod(lambda mode, path: mode == "wb")
    with pytest.raises(InputError, match="cannot be written"), remote.published("gs://bucket/a.txt") as temporary:
        temporary.write_text("newer")
    assert fake_bucket.paths() == ["/bucket/a.txt"] and bucket().cat_file("gs://bucket/a.txt") == b"new"


def lines(bucket: type[Bucket]) -> list[int]:
    text = bucket().cat_file("gs://bucket/run/metrics.jsonl").decode()
    return [json.loads(line)["step"] for line in text.splitlines()]


def test_logs_are_mirrored_and_go_on(bucket: type[Bucket]) -> None:
    with remote.Mirror("gs://bucket/run", "metrics.jsonl") as mirror, MetricsLog(mirror.folder) as log:
        for step in range(1, 4):
            log.write("stage", step, {"loss": 1.0})
        mirror.flush()
        assert lines(bucket) == [1, 2, 3]
        log.write("stage", 4, {"loss": 1.0})
    assert lines(bucket) == [1, 2, 3, 4] and not mirror.folder.exists()
    assert [path for path in fake_bucket.paths() if "tensorboard" in path]
    with remote.Mirror("gs://bucket/run", "metrics.jsonl") as mirror, MetricsLog(mirror.folder) as log:
        log.rewind("stage", 2)  # the last checkpoint's
        log.write("stage", 3, {"loss": 2.0})
    assert lines(bucket) == [1, 2, 3]


def test_a_mirror_makes_up_for_copies_that_failed(bucket: type[Bucket]) -> None:
    copied = threading.Event()

    def counts(mode: str, path: str) -> bool:
        counts.calls += mode == "wb"
        if counts.calls > 3:
            copied.set()
        return counts.calls <= 3

    counts.calls = 0
    bucket.fails = staticmethod(counts)
    with (
        pytest.warns(UserWarning, match="away.*; it is tried again") as told,
        remote.Mirror("gs://bucket/run", seconds=0.01) as mirror,
    ):
        (mirror.folder / "a.txt").write_text("a")
        assert copied.wait(20)
    assert len(told) == 1 and fake_bucket.paths() == ["/bucket/run/a.txt"]  # and no part of one
    bucket.fails = staticmethod(lambda mode, path: True)
    with (
        pytest.raises(InputError, match=r"run: cannot be written .*; what is missing there is in ") as error,
        remote.Mirror("gs://bucket/run") as mirror,
    ):
        (mirror.folder / "b.txt").write_text("b")
    assert str(mirror.folder) in str(error.value) and (mirror.folder / "b.txt").read_text() == "b"
    with (
        pytest.warns(UserWarning, match="what is missing there is in"),
        pytest.raises(ZeroDivisionError),  # what stopped the run
        remote.Mirror("gs://bucket/run") as mirror,
    ):
        (mirror.folder / "c.txt").write_text("c")
        raise ZeroDivisionError
