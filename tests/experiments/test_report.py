import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from experiments.report import AskedRow, CaptionRow, Pair, read_metrics, write_report
from llamo_jax.errors import InputError
from llamo_jax.evaluation.figure import Aim, Figure, Judged
from llamo_jax.evaluation.language import Chat
from llamo_jax.evaluation.lengths import LabelLengths, Lengths, calibrate
from llamo_jax.motion import MotionClip

FIGURES = [
    Judged(Figure("MPJPE", 16.234, "mm", "VAE", note="positions"), Aim(high=18)),
    Judged(Figure("Skating", 1.42, "", "VAE", control=1), Aim(high=1.3)),
    Judged(Figure("Content", 83.0, "%", "Control", control=98.6), Aim(low=80)),
    Judged(Figure("Fréchet distance", 40.3, group="Control")),
]


def clip(frames: int = 6) -> MotionClip:
    rotations = np.broadcast_to(np.eye(3), (frames, 22, 3, 3)).copy()
    return MotionClip.from_rotations(rotations, np.tile([0, 0.95, 0.0], (frames, 1)))


@pytest.fixture
def metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"stage": stage, "step": step, "time": 5.0, "loss": 1 / step, "note": "x"}
        for stage in ("one", "two")
        for step in (1, 5, 9)
    ]
    lines.append({"stage": "two", "step": 12, "time": 6.0, "loss": float("nan"), "rate": 0.5})
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


def measured_lengths() -> Lengths:
    lengths = Lengths([], ("content",))
    chances = np.array([0, 0, 0, 0, 0, 0, 0.4, 0.4, 0.2])
    recorded = np.bincount([9, 10, 10, 10, 10, 11, 11, 12, 13, 13, 14, 15])[1:] / 12
    for value, floor in (("walk", 1.25), ("jump & turn", np.nan)):
        lengths.values.append(LabelLengths(value, np.array([9, 10]), recorded, chances, 3.5, floor))
    lengths.calibration = calibrate(
        [np.linspace(0.01, 0.4, n) for n in (9, 12, 15)], [True] * 3, np.random.default_rng(0)
    )
    return lengths


class Page(HTMLParser):
    """Tags, sources and text of a page; fails on tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sources, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def test_the_report_has_everything_and_nothing_from_outside(tmp_path, metrics):
    labels, recognised = {"content": "walk", "style": "old"}, {"content": "walk", "style": "sad"}
    pairs = [Pair("<script>alert('x')</script> & walks", clip(), clip(), labels, recognised)]
    captions = [
        CaptionRow("clip-7", "a person <b>waves</b>", ["someone waves", "waving & smiling"], True, clip()),
        CaptionRow("clip-8", "a person runs", ["someone sits"], False),
    ]
    facts = {
        "command": "python -m x",
        "Machine": {"cores": 2},
        "Config": {"vae": {"width": 128}, "rate": 3e-3, "figure": FIGURES[1].figure},
        "Time": {"VAE": "9 min"},
    }
    asked = [AskedRow("strolls <i>slowly</i>", "content", {"content": "walk"}, {"content": "run", "style": "old"})]
    chats = [Chat("What is 1 & 1?", "Two.", "Two."), Chat("Why?", "Because.", "a person <walks>")]
    index = write_report(
        tmp_path / "out",
        "A <run>",
        facts,
        FIGURES,
        {"VAE": metrics},
        pairs,
        captions,
        asked=asked,
        lengths=measured_lengths(),
        chats=chats,
    )
    assert index == tmp_path / "out" / "index.html"
    text = index.read_text()
    page = Page(text)
    assert page.tags.count("script") == 1  # ours; the prompt's is text
    for words in (
        "<script>alert('x')</script> & walks", "a person <b>waves</b>", "waving & smiling", "someone sits", "clip-7",
        "A <run>",
        "content: walk", "style: sad, asked for old", "python -m x", "128", "0.003", "1.42", "9 min", "16.2",
        "at most 18 mm", "98.6 %",
        "strolls <i>slowly</i>", "content: run, asked for walk", "What is 1 & 1?", "a person <walks>", "✓ the same",
        "✗ changed", "11 (10 to 13)", "8 (7 to 8)", "3.50", "jump & turn",
        "Fréchet distance", "2 of 3 aims met", "positions", "control", "✓ right", "✗ wrong",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.text.count("✓ met") == 2
    assert page.text.count("✗ missed") == 1
    assert page.sources and not re.search(r"https?://|@import|url\(", text)
    for source in page.sources:
        assert (index.parent / source).stat().st_size > 100, source
    written = {path.relative_to(index.parent).as_posix() for path in index.parent.rglob("*") if path.is_file()}
    assert written == {"index.html", *page.sources}
    assert {source.split(".")[-1] for source in page.sources} == {"mp4", "png", "svg"}


def test_curves_are_drawn_with_stages_in_sequence(tmp_path, metrics):
    scalars = read_metrics(metrics)
    assert scalars["loss"] == {
        "one": [(1, 1), (5, 0.2), (9, 1 / 9)],
        "two": [(1, 1), (5, 0.2), (9, 1 / 9)],
    }  # NaN is left out
    assert scalars["rate"] == {"two": [(12, 0.5)]}
    assert set(scalars) == {"loss", "rate"}
    first, second = (
        write_report(tmp_path / name, "t", {}, [], {"a": metrics}).parent / "curves" / "00.svg"
        for name in ("one", "two")
    )
    assert ElementTree.parse(first).getroot().tag.endswith("svg")
    assert first.read_bytes() == second.read_bytes()


def test_of_steps_that_were_trained_twice_the_last_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "".join(f'{{"step": {step}, "loss": {loss}}}\n' for step, loss in ((1, 9), (2, 8), (3, 7), (2, 6), (3, 5)))
    )
    assert read_metrics(path) == {"loss": {"": [(1, 9), (2, 6), (3, 5)]}}


def test_a_new_report_replaces_the_old_one_and_a_failed_one_leaves_it(tmp_path, metrics):
    folder = tmp_path / "out"
    write_report(folder, "first", {}, FIGURES)
    (folder / "stale.txt").write_text("old")
    write_report(folder, "second", {}, FIGURES)
    assert not (folder / "stale.txt").exists()
    with pytest.raises(InputError, match="cannot be read"):
        write_report(folder, "third", {}, FIGURES, {"a": tmp_path / "none.jsonl"})
    assert "second" in (folder / "index.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "out"]


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"step": null}'])
def test_broken_metrics_are_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "loss": 2}}\n{line}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: not a record of metrics"):
        read_metrics(path)
