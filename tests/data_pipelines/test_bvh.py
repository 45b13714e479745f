"""The builders of BVH folders and of the CMU set, on folders made here."""

import json

import numpy as np
import pytest

from data_pipelines.build import main
from data_pipelines.builders.bvh import Bvh
from data_pipelines.builders.cmu import Cmu, sentences_of_phrase
from data_pipelines.builders.dataset import build
from data_pipelines.builders.takes import CaptionedWindow, split_by_hash
from data_pipelines.filters import Rejections
from data_pipelines.records import SPLITS
from llamo_jax.errors import InputError
from llamo_jax.motion.representation import ROOT_VELOCITY
from tests.data_pipelines.conftest import walking_clip


@pytest.fixture
def source(tmp_path):
    source = tmp_path / "source"
    (source / "bvh").mkdir(parents=True)
    entries = {}
    for number in range(30):
        name = f"take_{number:02d}"
        walking_clip(frames=240, fps=120.0, speed=0.3).save(
            source / "bvh" / f"{name}.bvh"
        )  # 2 s; per frame as at 30 frames/s
        entries[name] = [f"a person walks {number} steps."]
    entries["take_03"] = {
        "file": "bvh/take_03.bvh",
        "cmu_index": "walk/stride",
        "cmu_subject": "Subject #7 (walk)",
        "kit_ml": ["A human is walking"],
        "humanml3d_test": [
            {"id": "000123", "start20": 20, "end20": 40, "captions": ["A man  walks on. "]},
            {"id": "000124", "start20": 0, "end20": 10, "captions": ["too short"]},
        ],
    }
    (source / "captions.json").write_text(json.dumps(entries))
    return source


def test_files_of_one_name_in_two_folders_keep_their_captions(tmp_path):
    source = tmp_path / "source"
    for folder, frames in (("a", 40), ("b", 60), ("c", 80)):
        (source / folder).mkdir(parents=True)
        walking_clip(frames=frames).save(source / folder / "walk.bvh")
    (source / "captions.json").write_text(json.dumps({"a/walk": ["first."], "b/walk": ["second."], "walk": ["which?"]}))
    shards = build(Bvh(source=source), tmp_path / "out", workers=1)
    assert {(name, record.captions, len(record.features)) for name, (record, _) in everything(shards).items()} == {
        ("a/walk", ("first.",), 40), ("b/walk", ("second.",), 60)
    }  # fmt: skip
    assert shards.manifest["rejected"] == {"several files of that name": 1, "no caption": 1}


CAPTIONS = {
    "suffixes.json": json.dumps({"a/walk.bvh": ["à gauche.", "two."], "./run.BVH": ["three."]}),
    "backslashes.json": json.dumps({"a\\walk": ["à gauche.", "two."], "run": ["three."]}, ensure_ascii=False),
    "file.json": json.dumps({"a/walk": ["à gauche.", "two."], "run": {"file": "run.bvh", "captions": ["three."]}}),
    "rows.csv": "name,caption\na/walk,à gauche\nrun,three\n\na/walk.bvh,two\n",
    "spreadsheet.csv": 'Path;Text\r\n"a\\walk.bvh";"à gauche"\r\nrun.bvh;three\r\na\\walk.bvh;two\r\n',
}


@pytest.mark.parametrize("name", CAPTIONS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_from_other_systems(tmp_path, name, encoding):
    (tmp_path / "a").mkdir()
    for path in ("a/walk.bvh", "run.BVH"):
        walking_clip(frames=20).save(tmp_path / "motion.bvh")
        (tmp_path / "motion.bvh").rename(tmp_path / path)
    (tmp_path / name).write_bytes(CAPTIONS[name].encode(encoding))
    rejections = Rejections()
    takes = Bvh(source=tmp_path, captions=tmp_path / name).takes(rejections)
    assert {take.path.name: take.windows for take in takes} == {
        "walk.bvh": (CaptionedWindow("a/walk", ("à gauche.", "two.")),),
        "run.BVH": (CaptionedWindow("run", ("three.",)),),
    }
    assert rejections.counts == {}


def everything(shards):
    return {record.name: (record, split) for split in SPLITS for record in shards.split(split)}


def test_build(source, tmp_path):
    shards = build(Cmu(source=source), tmp_path / "out", workers=1)
    records = everything(shards)
    assert len(records) == 31
    whole, split = records["take_03"]
    assert whole.captions == ("a human is walking.", *sentences_of_phrase("walk/stride"))
    assert whole.labels == {"subject": "Subject #7"}
    assert len(whole.features) == 60  # 240 frames at 120 frames/s
    part, split_of_part = records["take_03/000123"]
    assert part.captions == ("a man walks on.",)
    assert len(part.features) == 30 and split == split_of_part
    assert (part.features[0, ROOT_VELOCITY] == 0).all()
    speed = np.linalg.norm(part.features[1:, ROOT_VELOCITY], axis=1).mean() * 30
    assert speed == pytest.approx(0.3 * 4, rel=1e-3)
    assert shards.manifest["rejected"] == {"shorter than 16 frames": 1}
    assert shards.manifest["rejected_names"] == {"shorter than 16 frames": ["take_03/000124: 15 frames"]}
    splits = [split for _, split in records.values()]
    assert splits.count("train") > 18 and splits.count("test") and splits.count("validation")


def test_splits_do_not_move_when_the_set_grows(source, tmp_path):
    before = everything(build(Cmu(source=source), tmp_path / "before", workers=1))
    walking_clip().save(source / "bvh" / "another.bvh")
    entries = json.loads((source / "captions.json").read_text())
    (source / "captions.json").write_text(json.dumps(entries | {"another": ["a person walks."]}))
    after = everything(build(Cmu(source=source), tmp_path / "after", workers=1))
    assert {name: split for name, (_, split) in after.items() if name != "another"} == {
        name: split for name, (_, split) in before.items()
    }


def test_what_cannot_be_used_is_counted_and_named(source, tmp_path):
    (source / "bvh" / "broken.bvh").write_text("HIERARCHY\nROOT hips\n{\n")
    walking_clip().save(source / "bvh" / "mute.bvh")
    entries = json.loads((source / "captions.json").read_text()) | {"broken": ["a"], "gone": ["b"], "take_05": []}
    (source / "captions.json").write_text(json.dumps(entries))
    manifest = build(Cmu(source=source), tmp_path / "out", workers=1).manifest
    assert manifest["rejected"] == {
        "no caption": 2,
        "captioned, but no file": 1,
        "shorter than 16 frames": 1,
        "unreadable": 1,
    }
    assert manifest["rejected_names"]["no caption"] == ["take_05", "mute: not in captions.json"]
    assert "broken.bvh" in manifest["rejected_names"]["unreadable"][0]


def test_command(source, tmp_path, capsys):
    main(["cmu", "--source", str(source), "--out", str(tmp_path / "out"), "--workers", "1"])
    out = capsys.readouterr().out
    assert "1 shorter than 16 frames" in out and "shorter than 16 frames: take_03/000124: 15 frames" in out


@pytest.mark.parametrize(
    ("phrase", "sentence"),
    [
        ("walk", "a person walks."),
        ("run/jog", "a person runs or jogs."),
        ("Start Hop Stop", "a person starts, hops and stops."),
        ("jump up and down, hop on one foot", "a person jumps up and down and hops on one foot."),
        ("balance on one leg, outstretched arms", "a person balances on one leg with outstretched arms."),
        ("wash self", "a person washes himself."),
        ("forward jump", "a person does a forward jump."),
        ("cartwheels", "a person does cartwheels."),
        ("dance - sideways steps, pirouette", "a person dances: sideways steps, pirouette."),
        ("acrobatics - spin/twirl, hang on ropes", "a person does acrobatics: spin or twirl, hang on ropes."),
    ],
)
def test_phrases(phrase, sentence):
    first, *others = sentences_of_phrase(phrase)
    assert first == sentence and len(others) == 2


def test_marks_at_the_end_of_a_sentence_stay(tmp_path):
    walking_clip(frames=40).save(tmp_path / "walk.bvh")
    (tmp_path / "captions.json").write_text(
        json.dumps({"walk": ["Is he  walking?", "She waves!", "He walks ...", " ... "]})
    )
    shards = build(Bvh(source=tmp_path), tmp_path / "out", workers=1)
    assert shards.split("train")[0].captions == ("is he walking?", "she waves!", "he walks.")


@pytest.mark.parametrize("count", range(2, 12))
def test_a_few_recordings_have_something_to_test_on(count):
    splits = split_by_hash([f"walk_{number}" for number in range(count)])
    assert {"train", "test"} <= set(splits.values())


def test_splits_stay_when_a_data_set_grows():
    names = [f"walk_{number}" for number in range(500)]
    whole, part = split_by_hash(names), split_by_hash(names[:100])
    assert all(part[name] == whole[name] for name in names[:100])
    shares = [list(whole.values()).count(split) / 500 for split in SPLITS]
    np.testing.assert_allclose(shares, (0.8, 0.1, 0.1), atol=0.04)


def test_the_cmu_set_has_a_builder_of_its_own(source, tmp_path):
    with pytest.raises(InputError, match=r'"take_03" has cmu_index, .*; expected among file, captions; .* `cmu`'):
        build(Bvh(source=source), tmp_path / "out", workers=1)


class TestBadInput:
    def test_no_folder(self, tmp_path):
        with pytest.raises(InputError, match="nowhere: no such folder; expected a folder of BVH files"):
            build(Cmu(source=tmp_path / "nowhere"), tmp_path / "out")

    def test_no_files(self, tmp_path):
        with pytest.raises(InputError, match=r"no .bvh file in it"):
            build(Cmu(source=tmp_path), tmp_path / "out")

    def test_no_captions(self, source, tmp_path):
        (source / "captions.json").unlink()
        with pytest.raises(
            InputError, match=r"captions.json: cannot be read \(No such file or directory\); expected a JSON file"
        ):
            build(Cmu(source=source), tmp_path / "out")

    @pytest.mark.parametrize(
        ("entries", "message"),
        [
            (["a"], 'holds a list; expected an object, {"clip": \\["caption", ...\\]}'),
            ({"take_01": "a person walks."}, '"take_01" has .*; expected a list of captions or an object'),
            ({"take_01": [1]}, r'"take_01" has \[1\] as captions; expected a list of sentences'),
            (
                {"take_01": {"humanml3d_test": [{"start20": 0}]}},
                "expected an object with the numbers 0 <= start20 <= end20",
            ),
            (
                {"take_01": {"humanml3d_test": [{"start20": float("nan"), "end20": 9}]}},
                "expected an object with the numbers 0 <= start20",
            ),
            ({"take_01": {"file": 5, "captions": ["a"]}}, '"take_01" has 5 as file; expected a path'),
            ({"other": ["a"]}, "none of 30 BVH files has a caption in"),
        ],
    )
    def test_captions(self, source, tmp_path, entries, message):
        (source / "captions.json").write_text(json.dumps(entries))
        with pytest.raises(InputError, match=message):
            build(Cmu(source=source), tmp_path / "out", workers=1)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            (
                "captions.csv",
                "clip,words\na,b\n",
                "header is 'clip,words'; expected one of name, .* and one of caption",
            ),
            ("captions.csv", "name,caption\nwalk,he walks, then runs\n", "line 2 has more values than the header"),
            ("captions.csv", "name,caption\n,he walks\n", "line 2 has no name"),
            ("captions.json", '{"walk": ["a"], "walk.bvh": ["b"]}', '"walk.bvh" is there twice, with and without .bvh'),
        ],
    )
    def test_captions_that_cannot_be_meant(self, tmp_path, name, text, message):
        walking_clip(frames=20).save(tmp_path / "walk.bvh")
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            Bvh(source=tmp_path).takes(Rejections())

    def test_two_captions_files(self, tmp_path):
        walking_clip(frames=20).save(tmp_path / "walk.bvh")
        (tmp_path / "captions.json").touch()
        (tmp_path / "captions.csv").touch()
        with pytest.raises(InputError, match=r"has captions\.json and captions\.csv; say which one with --captions"):
            Bvh(source=tmp_path).takes(Rejections())
