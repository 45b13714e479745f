"""Data folders: what is written is read, whole or not at all."""

import dataclasses
import json

import numpy as np
import pytest

from data_pipelines.folder import LatentFolder, MotionFolder, Split, require_replaceable
from data_pipelines.records import LatentRecord, MotionRecord
from data_pipelines.write import _Records, _Tally, write_folder
from llamo_jax.errors import InputError

DATASET = {"name": "test", "seed": 3}


def motion_records(count, seed=0):
    rng = np.random.default_rng(seed)
    for number in range(count):
        features = rng.normal(size=(20 + number, 272)).astype(np.float32)
        texts = {"captions": (f"caption {number}", "ein Mann läuft"), "requests": ("Lauf!",) * (number % 2)}
        yield MotionRecord(f"clip{number}", features, labels={"content": "walk"}, **texts)


def renamed(records):
    return (dataclasses.replace(record, name=f"test-{record.name}") for record in records)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "data"
    splits = {"train": motion_records(5), "validation": motion_records(0), "test": renamed(motion_records(2, 1))}
    write_folder(path, MotionRecord, splits, dataset=DATASET, details=lambda: {"rejected": {"too short": 3}})
    return path


def test_motion_round_trip(folder):
    shards = MotionFolder(folder)
    train = shards.split("train")
    assert len(train) == 5 and len(shards.split("validation")) == 0 and len(shards.split("test")) == 2
    for found, expected in zip(train, motion_records(5), strict=True):
        assert (found.name, found.captions, found.labels) == (expected.name, expected.captions, expected.labels)
        assert found.requests == expected.requests
        np.testing.assert_array_equal(found.features, expected.features)
    assert train[-1].name == "clip4"


def test_a_folder_from_before_requests(tmp_path, monkeypatch):
    """Its records have no such column."""
    columns, count = _Records._columns, _Tally.count
    monkeypatch.setattr(_Records, "_columns", lambda self: without_requests(columns(self)))
    monkeypatch.setattr(_Tally, "count", lambda self, records: map(without_requests, count(self, records)))
    write_folder(tmp_path / "old", MotionRecord, {"train": motion_records(2)}, dataset=DATASET)
    first, second = MotionFolder(tmp_path / "old").split("train")
    assert first.requests == second.requests == () and second.captions == ("caption 1", "ein Mann läuft")


def without_requests(columns):
    return {name: column for name, column in columns.items() if name != "requests"}


def test_latent_round_trip(tmp_path):
    records = [
        LatentRecord(f"{n}", np.full((n + 1, 32), n, np.float32), ("a",), {}, complete=n % 2 == 0) for n in range(4)
    ]
    write_folder(tmp_path / "z", LatentRecord, {"train": records}, dataset=DATASET)
    found = list(LatentFolder(tmp_path / "z").split("train"))
    assert [record.complete for record in found] == [True, False, True, False]
    assert [record.latents.shape for record in found] == [(1, 32), (2, 32), (3, 32), (4, 32)]
    assert all((record.latents == index).all() for index, record in enumerate(found))


def test_manifest_and_statistics(folder):
    manifest = json.loads((folder / "dataset.json").read_text())
    assert manifest["schema_version"] == 2 and manifest["kind"] == "motion"
    assert manifest["records"] == {"train": 5, "test": 2}
    assert manifest["dataset"] == DATASET
    assert manifest["rejected"] == {"too short": 3}
    assert manifest["hours"]["train"] == pytest.approx(sum(20 + n for n in range(5)) / 30 / 3600, abs=1e-4)
    features = np.concatenate([record.features for record in motion_records(5)]).astype(np.float64)
    statistics = MotionFolder(folder).statistics
    np.testing.assert_allclose(statistics.mean, features.mean(0), atol=1e-6)
    np.testing.assert_allclose(statistics.std[8:74], np.sqrt(features[:, 8:74].var(0).mean()), rtol=1e-6)


def test_failed_build_leaves_nothing(tmp_path):
    def failing():
        yield from motion_records(3)
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        write_folder(tmp_path / "data", MotionRecord, {"train": failing()}, dataset=DATASET)
    assert list(tmp_path.iterdir()) == []


def test_failed_rebuild_keeps_the_old_folder(folder):
    def failing():
        yield from motion_records(3)
        raise InputError("bad take")

    with pytest.raises(InputError, match="bad take"):
        write_folder(folder, MotionRecord, {"train": failing()}, dataset=DATASET)
    assert len(MotionFolder(folder).split("train")) == 5
    assert [path.name for path in folder.parent.iterdir()] == ["data"]


def test_rebuild_replaces(folder):
    write_folder(folder, MotionRecord, {"train": motion_records(1)}, dataset=DATASET)
    assert len(MotionFolder(folder).split("train")) == 1 and len(MotionFolder(folder).split("test")) == 0


def test_what_was_read_is_kept_as_far_as_there_is_room(folder, monkeypatch):
    split = MotionFolder(folder).split("train")
    assert split[1] is split[1] and split[-4] is split[1]
    monkeypatch.setattr(Split, "CACHE_BYTES", 1000)
    split = MotionFolder(folder).split("train")
    assert split[1] is not split[1]
    np.testing.assert_array_equal(split[1].features, split[1].features)


def test_the_index_says_lengths_speeds_and_labels(tmp_path):
    rows = [({"content": "walk", "style": "old"}, 0.5), ({"content": "run"}, 3.0), ({"content": "walk"}, 0.25)]
    records = [
        MotionRecord(f"clip{n}", np.zeros((20 + n, 272), np.float32), ("a",), labels, speed)
        for n, (labels, speed) in enumerate(rows)
    ]
    write_folder(tmp_path / "data", MotionRecord, {"train": records}, dataset=DATASET)
    split = MotionFolder(tmp_path / "data").split("train")
    assert [record.speed for record in split] == [0.5, 3.0, 0.25]
    index = split.index
    assert index.lengths.tolist() == [20, 21, 22] and index.speeds.tolist() == [0.5, 3.0, 0.25]
    assert index.classes == {"content": ["run", "walk"], "style": ["old"]}
    assert index.labels["content"].tolist() == [1, 0, 1] and index.labels["style"].tolist() == [0, -1, -1]
    np.testing.assert_allclose(index.balanced_weights(np.arange(3), "content"), [2**-0.5, 1, 2**-0.5])
    np.testing.assert_array_equal(index.balanced_weights(np.arange(3), None), [1, 1, 1])
    with pytest.raises(
        InputError, match=r'2 of 3 records have no label "style" to balance by .number 1.; labels are content'
    ):
        index.balanced_weights(np.arange(3), "style")
    with pytest.raises(InputError, match='no record has a label "mood" to balance by; they have content, style'):
        index.balanced_weights(np.arange(3), "mood")


@pytest.mark.parametrize("damage", ["shorter", "text", "missing", "classes"])
def test_a_damaged_index_is_told(folder, damage):
    column, classes = folder / "index" / "train" / "length.npy", folder / "index" / "train" / "classes.json"
    if damage == "shorter":
        np.save(column, np.load(column)[:-1])
    elif damage == "text":
        column.write_text("no array")
    elif damage == "missing":
        column.unlink()
    else:
        classes.write_text("[]")
    with pytest.raises(InputError, match="index"):
        MotionFolder(folder).split("train")


def test_quiet(tmp_path, capfd):
    write_folder(tmp_path / "data", MotionRecord, {"train": motion_records(2)}, dataset=DATASET)
    assert MotionFolder(tmp_path / "data").split("train")[0].name == "clip0"
    assert capfd.readouterr() == ("", "")


class TestBadInput:
    def test_missing_folder(self, tmp_path):
        with pytest.raises(
            InputError, match=r"nowhere: no such data folder; make one with `python -m data_pipelines.build`"
        ):
            MotionFolder(tmp_path / "nowhere")

    def test_folder_of_other_things(self, tmp_path):
        (tmp_path / "dataset.json").write_text('{"hello": 1}')
        with pytest.raises(InputError, match="not the manifest of a data folder"):
            MotionFolder(tmp_path)

    def test_other_kind(self, folder):
        with pytest.raises(InputError, match="holds motion records; expected a folder of latent records"):
            LatentFolder(folder)

    def test_other_schema_version(self, folder):
        manifest = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps(manifest | {"schema_version": 7}))
        with pytest.raises(InputError, match="has schema version 7, expected 2; build the data folder again"):
            MotionFolder(folder)

    def test_unknown_split(self, folder):
        with pytest.raises(InputError, match='split "trian" does not exist; expected one of train, validation, test'):
            MotionFolder(folder).split("trian")

    @pytest.mark.parametrize("keep", [0.0, 0.1, 0.6, 0.99])
    def test_truncated_shard(self, folder, keep):
        (shard,) = folder.glob("*/*/*train.array_record*")
        data = shard.read_bytes()
        shard.write_bytes(data[: int(len(data) * keep)])
        with pytest.raises(InputError, match=r'split "train" cannot be read .*; build the data folder again'):
            MotionFolder(folder).split("train")

    def test_flipped_bytes(self, folder):
        (shard,) = folder.glob("*/*/*train.array_record*")
        data = bytearray(shard.read_bytes())
        data[60_000:60_100] = bytes(100)
        shard.write_bytes(data)
        with pytest.raises(InputError, match=r"cannot be read .*; build the data folder again"):
            list(MotionFolder(folder).split("train"))

    def test_missing_shard(self, folder):
        (shard,) = folder.glob("*/*/*test.array_record*")
        shard.unlink()
        with pytest.raises(InputError, match='split "test" cannot be read'):
            MotionFolder(folder).split("test")

    def test_no_train_split(self, tmp_path):
        with pytest.raises(
            InputError,
            match=r"test: no usable motion for the train split; .* was not written \(rejected: 2 late\)",
        ):
            write_folder(
                tmp_path / "x",
                MotionRecord,
                {"train": motion_records(0), "test": motion_records(1)},
                dataset=DATASET,
                details=lambda: {"rejected": {"late": 2}},
            )
        assert not (tmp_path / "x").exists()

    def test_two_records_of_one_name(self, tmp_path):
        splits = {"train": motion_records(3), "test": motion_records(1)}
        with pytest.raises(InputError, match='two records are called "clip0"; expected names that are unique'):
            write_folder(tmp_path / "x", MotionRecord, splits, dataset=DATASET)
        assert not (tmp_path / "x").exists()

    def test_something_in_the_way(self, tmp_path):
        (tmp_path / "letter.txt").write_text("dear")
        with pytest.raises(InputError, match="exists and is not a data folder"):
            write_folder(tmp_path, MotionRecord, {"train": motion_records(1)}, dataset=DATASET)
        assert (tmp_path / "letter.txt").read_text() == "dear"

    def test_the_manifest_of_another_tool_in_the_way(self, tmp_path):
        (tmp_path / "dataset.json").write_text('{"name": "mine"}')
        with pytest.raises(InputError, match="exists and is not a data folder"):
            require_replaceable(tmp_path)
