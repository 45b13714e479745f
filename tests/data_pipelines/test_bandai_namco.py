"""The Bandai-Namco builder on a small copy of its layout, made here."""

import json
import os
import re
import tarfile

import numpy as np
import pytest

from data_pipelines.build import main
from data_pipelines.builders.bandai_namco import BandaiNamco
from data_pipelines.builders.bandai_namco_captions import CONTENTS, STYLES, all_captions, captions, labels_of
from data_pipelines.builders.dataset import build
from data_pipelines.folder import MotionFolder
from data_pipelines.records import SPLITS
from llamo_jax.errors import InputError
from llamo_jax.motion.representation import HEADING_DELTA, ROOT_VELOCITY, decode_positions, headings
from tests.data_pipelines.conftest import walking_clip

CONTENT_LABELS = {
    "dataset-1": ["walk", "dash", "byebye"],
    "dataset-2": ["walk", "run", "walk-turn-left", "wave-both-hands"],
}
STYLE_LABELS = {"dataset-1": ["normal", "old"], "dataset-2": ["elderly", "normal"]}


def write_take(source, dataset, content, style, number, **motion):
    stem = f"{dataset}_{content}_{style}_{number:03d}"
    path = source / dataset / "data" / f"{stem}.bvh"
    path.parent.mkdir(parents=True, exist_ok=True)
    walking_clip(**motion).save(path)
    numbers = {"content": CONTENT_LABELS[dataset].index(content), "style": STYLE_LABELS[dataset].index(style)}
    path.with_suffix(".json").write_text(json.dumps(numbers))
    return path


@pytest.fixture
def source(tmp_path):
    source = tmp_path / "source"
    for dataset in CONTENT_LABELS:
        (source / dataset / "cfg").mkdir(parents=True)
        for kind, labels in (("content", CONTENT_LABELS), ("style", STYLE_LABELS)):
            (source / dataset / "cfg" / f"{kind}_label.txt").write_text(
                "\n".join(f"{dataset}_{name}" for name in labels[dataset])
            )
    for number in range(1, 7):
        write_take(source, "dataset-2", "walk", "normal", number, frames=30 + number)
        write_take(source, "dataset-2", "walk-turn-left", "elderly", number, turn=1.5)
        write_take(source, "dataset-1", "dash", "old", number, speed=3.5)
    return source


def test_build(source, tmp_path):
    shards = build(BandaiNamco(source=source), tmp_path / "out", workers=1)
    records = {record.name: (record, split) for split in SPLITS for record in shards.split(split)}
    assert len(records) == 18 and shards.manifest["rejected"] == {}
    record, _ = records["dataset-1_dash_old_003"]
    # Labels that the two sets call differently are one.
    assert record.labels == {"content": "run", "style": "elderly", "dataset": "dataset-1"}
    assert len(record.captions) == 5 == len(set(record.captions)) and record.requests == ()
    assert all(labels_of(caption) == ("run", "elderly") for caption in record.captions)
    assert np.linalg.norm(record.features[1:, ROOT_VELOCITY], axis=1).mean() * 30 == pytest.approx(3.5, rel=1e-3)
    turned, _ = records["dataset-2_walk-turn-left_elderly_001"]
    assert headings(turned.features)[-1] == pytest.approx(1.5, abs=0.05)  # one frame turns by 0.04
    assert (turned.features[0, HEADING_DELTA] == [1, 0, 0, 0, 1, 0]).all()
    for content in ("walk", "run", "walk-turn-left"):
        splits = [split for record, split in records.values() if record.labels["content"] == content]
        assert splits.count("test") == 1 and splits.count("train") >= 4


def test_english(source, tmp_path):
    shards = build(BandaiNamco(source=source, captions="english"), tmp_path / "out", workers=1)
    assert shards.manifest["dataset"]["captions"] == "english"
    records = [record for split in SPLITS for record in shards.split(split)]
    for record in records:
        assert len(record.captions) == 6 and len(record.requests) == 4
        labels = {name: record.labels[name] for name in ("content", "style")}
        assert all(BandaiNamco.facts(text) == labels for text in record.captions + record.requests)
    assert len({text for record in records for text in record.captions}) > 5 * len(records)


def test_the_same_records_whatever_the_workers(source, tmp_path):
    one = build(BandaiNamco(source=source), tmp_path / "one", workers=1)
    two = build(BandaiNamco(source=source), tmp_path / "two", workers=2)
    for split in SPLITS:
        for first, second in zip(one.split(split), two.split(split), strict=True):
            assert (first.name, first.captions, first.labels) == (second.name, second.captions, second.labels)
            np.testing.assert_array_equal(first.features, second.features)
    np.testing.assert_array_equal(one.statistics.std, two.statistics.std)


def test_what_cannot_be_used_is_counted_and_named(source, tmp_path):
    write_take(source, "dataset-2", "walk", "normal", 7, frames=10)
    cut = write_take(source, "dataset-2", "walk", "normal", 8)
    cut.write_text(cut.read_text()[:-500])
    nan = write_take(source, "dataset-2", "walk", "normal", 9)
    nan.write_text(re.sub(r"\S+\n$", "nan\n", nan.read_text()))
    write_take(source, "dataset-2", "walk", "normal", 10).with_suffix(".json").unlink()
    write_take(source, "dataset-2", "walk", "normal", 11).with_suffix(".json").write_text('{"content": 40, "style": 0}')
    write_take(source, "dataset-2", "walk-turn-left", "normal", 12, turn=-1.5)
    write_take(source, "dataset-2", "wave-both-hands", "normal", 13)
    manifest = build(BandaiNamco(source=source), tmp_path / "out", workers=1).manifest
    assert manifest["rejected"] == {
        "no labels": 2,
        "shorter than 16 frames": 1,
        "unreadable": 1,
        "NaN or infinity": 1,
        "turns the other way": 1,
        "content wave-both-hands has fewer than 5 takes": 1,
    }
    named = manifest["rejected_names"]
    assert (
        "the file may be truncated" in named["unreadable"][0] and "dataset-2_walk_normal_008" in named["unreadable"][0]
    )
    assert named["shorter than 16 frames"] == ["dataset-2_walk_normal_007: 10 frames"]
    assert "content 40 is not a number of cfg/content_label.txt, which has 4" in named["no labels"][1]
    assert sum(manifest["records"].values()) == 18


def test_command(source, tmp_path, capsys):
    main(
        [
            "bandai_namco",
            "--source",
            str(source),
            "--out",
            str(tmp_path / "out"),
            "--workers",
            "1",
            "--json",
            str(tmp_path / "x.json"),
        ]
    )
    assert f"-> {tmp_path / 'out'}" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.json").read_text()) == MotionFolder(tmp_path / "out").manifest


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["bandai_namco", "--source", str(tmp_path), "--out", str(tmp_path / "out")])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "no file dataset-*_*.bvh in it" in error and "\n" not in error
    with pytest.raises(InputError):
        main(["bandai_namco", "--source", str(tmp_path), "--out", str(tmp_path / "out"), "--debug"])


def test_wholly_unreadable_source(source, tmp_path):
    for path in source.rglob("*.bvh"):
        path.write_text("HIERARCHY")
    with pytest.raises(
        InputError, match=r"no usable motion for the train split; .* was not written \(rejected: 18 unreadable\)"
    ):
        build(BandaiNamco(source=source), tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_source_without_label_names(source, tmp_path):
    for path in source.rglob("style_label.txt"):
        path.unlink()
    with pytest.raises(InputError, match=r"no cfg/style_label\.txt in it"):
        build(BandaiNamco(source=source), tmp_path / "out", workers=1)


class TestCaptions:
    def test_many_wordings_that_name_their_labels(self):
        for content in CONTENTS:
            for style in STYLES:
                sentences = all_captions(content, style)
                assert len(set(sentences)) == len(sentences) >= 12
                assert all(labels_of(sentence) == (content, style) for sentence in sentences)
                assert all(
                    sentence == sentence.strip() and sentence.endswith(".") and "  " not in sentence
                    for sentence in sentences
                )

    def test_clips_differ(self):
        chosen = {captions("walk", "happy", f"dataset-1_walk_happy_{number:03d}") for number in range(10)}
        assert len(chosen) == 10
        assert captions("walk", "happy", "a") == captions("walk", "happy", "a")
        assert set(captions("walk", "happy", "a")) <= set(all_captions("walk", "happy"))

    def test_labels_of(self):
        assert labels_of("A person walks backwards, like an old person") == ("walk-back", "elderly")
        assert labels_of("a woman waves the left hand.") == ("wave-left-hand", "feminine")
        assert labels_of("a person waves both hands.") == ("wave-both-hands", "normal")
        assert labels_of("lilly saw a happy, angry dog.") == (None, None)


@pytest.mark.shared_data
def test_real_takes(shared, tmp_path):
    """A few of the real recordings: walking walks, the named hand goes up, turns go the right way."""
    wanted = re.compile(r".*/(cfg/.*|data/dataset-2_(walk|wave-left-hand|walk-turn-left)_normal_00[1-6]\.(bvh|json))")
    with tarfile.open(shared / "data" / "bandai_namco.tar.xz") as archive:
        for member in archive:
            if wanted.fullmatch(member.name):
                archive.extract(member, tmp_path / "source", filter="data")
    shards = build(BandaiNamco(source=tmp_path / "source"), tmp_path / "out", workers=1)
    records = [record for split in SPLITS for record in shards.split(split)]
    assert len(records) == len(list((tmp_path / "source").rglob("*.bvh"))) > 10
    for record in records:
        joints = decode_positions(record.features)
        speed = np.linalg.norm(record.features[:, ROOT_VELOCITY], axis=1).mean() * 30
        turn = np.degrees(headings(record.features)[-1])
        if record.labels["content"] == "walk":
            assert 0.9 < speed < 1.8
        elif record.labels["content"] == "walk-turn-left":
            assert 60 < turn < 120
        else:
            assert joints[:, 20, 1].max() > 1.4 > 1.0 > joints[:, 21, 1].max() and speed < 0.1


def test_a_worker_that_dies_is_told(source, tmp_path):
    """A process that is killed must not leave the build waiting for ever."""

    class Deadly(BandaiNamco):
        filters = (die,)

    with pytest.raises(InputError, match="a worker process died: it ran out of memory, was killed, or"):
        build(Deadly(source=source), tmp_path / "out", workers=2)
    assert not (tmp_path / "out").exists()


def die(record):
    os._exit(1)
