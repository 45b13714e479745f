"""Sessions: the motion of `generate` as it is made, and on from there."""

import itertools
from pathlib import Path

import jax
import numpy as np
import pytest

from llamo_jax.errors import InputError
from llamo_jax.inference.session import Window
from llamo_jax.motion import MotionClip
from llamo_jax.motion.representation import decode_positions, decode_rotations
from llamo_jax.pretrained import Llamo

TEXT = "a person walks."
SHORT = Window(latents=6, kept=3, carried=2, text=32)


def frames(session, latents: int) -> np.ndarray:
    return np.concatenate([chunk.features for chunk in itertools.islice(session, latents)])


def test_a_session_is_what_generate_makes(model: Llamo) -> None:
    whole = model.generate(TEXT, seed=3, seconds=3.2)
    session = model.stream(TEXT, seed=3)
    chunks = list(itertools.islice(session, 24))
    features = np.concatenate([chunk.features for chunk in chunks])
    np.testing.assert_allclose(np.concatenate([chunk.joints for chunk in chunks]), whole.joints, atol=1e-4)
    np.testing.assert_allclose(
        np.concatenate([chunk.joints for chunk in chunks]), decode_positions(features), atol=1e-12
    )
    rotations = np.concatenate([chunk.rotations for chunk in chunks])
    np.testing.assert_allclose(rotations, decode_rotations(features)[0], atol=1e-12)
    assert [chunk.index for chunk in chunks] == list(range(24)) and chunks[6].seconds == pytest.approx(0.8)
    assert {chunk.text for chunk in chunks} == {TEXT}


def test_it_ends_where_generate_ends(model: Llamo) -> None:
    for seed in range(3):
        whole = model.generate(TEXT, seed=seed, length="drawn", max_seconds=12)
        streamed = list(itertools.islice(model.stream(TEXT, seed=seed, length="drawn", until_exit=True), 90))
        assert 4 * len(streamed) == len(whole.joints)


def test_a_full_window_goes_on_from_what_it_keeps(model: Llamo) -> None:
    """Made anew at the same place, by a session that has seen the kept latents alone."""
    streams = model.streams(window=SHORT)
    session = streams.open(TEXT, 1)
    frames(session, 6)
    assert session.slots == 6
    kept = list(session.latents)[-3:]
    seventh = next(session)
    assert session.slots == 4 and seventh.index == 6
    other = model.streams(window=SHORT).open(TEXT, 1)
    frames(other, 5)
    other.latents.clear()
    other.latents.extend(kept)
    other.index = 6
    other._streams._read(other, 3)
    next(other)
    np.testing.assert_array_equal(other.latents[-1], session.latents[-1])
    # For as long as anybody wants, within the window.
    for _ in range(40):
        next(session)
        assert session.slots <= 6
    assert np.isfinite(session.latents).all()


def test_a_prompt_changes_what_comes_and_not_what_was(model: Llamo) -> None:
    plain, changed = (model.streams(window=SHORT).open(TEXT) for _ in range(2))
    before = [frames(each, 4) for each in (plain, changed)]
    np.testing.assert_array_equal(*before)
    changed.prompt("someone runs fast.")
    assert changed.prompts == [(0, TEXT), (4, "someone runs fast.")]
    after = [list(itertools.islice(each, 4)) for each in (plain, changed)]
    assert np.abs(np.subtract(plain.latents, changed.latents)[4:]).max() > 1e-3
    assert after[1][0].text == "someone runs fast."
    # The body goes on from where it is.
    assert after[1][0].start == after[0][0].start


def test_sessions_on_one_device_are_what_they_are_alone(model: Llamo) -> None:
    """They join and leave, wait and go on; nobody notices."""
    texts = {0: TEXT, 1: "someone runs fast.", 2: "a person waves the left hand."}
    alone = {seed: frames(model.streams(window=SHORT).open(text, seed), 9) for seed, text in texts.items()}
    streams = model.streams(capacity=2, window=SHORT)
    first, second = streams.open(texts[0], 0), streams.open(texts[1], 1)
    made = {0: [frames(first, 3)], 1: []}
    made[1].append(frames(second, 2))
    with pytest.raises(InputError, match="all 2 places"):
        streams.open(TEXT)
    made[0].append(frames(first, 6))  # the second waits
    first.stop()
    third = streams.open(texts[2], 2)
    made[2] = [frames(third, 4)]
    made[1].append(frames(second, 7))
    made[2].append(frames(third, 5))
    for seed, parts in made.items():
        np.testing.assert_allclose(np.concatenate(parts), alone[seed], atol=2e-5)
    assert list(first) == []


def test_what_cannot_be_asked(model: Llamo) -> None:
    session = model.streams(window=SHORT).open(TEXT)
    for text, message in (("", "empty"), ("walks " * 80, "tokens.*make it shorter"), ("walks " * 10**6, "letters")):
        with pytest.raises(InputError, match=message):
            session.prompt(text)
        with pytest.raises(InputError, match=message):
            model.streams(window=SHORT).open(text)
    assert session.text == TEXT and next(session).index == 0
    with pytest.raises(InputError, match="guidance"):
        model.stream(TEXT, guidance=float("nan"))
    with pytest.raises(InputError, match="capacity"):
        model.streams(capacity=0)
    with pytest.raises(InputError, match="positions"):
        model.streams(window=Window(latents=10**6))


def test_a_clip_of_the_next_seconds(model: Llamo) -> None:
    with model.stream(TEXT) as session:
        clip = session.clip(1.0)
        for seconds in (0, -1.0, float("nan"), float("inf")):
            with pytest.raises(InputError, match="duration"):
                session.clip(seconds)
        assert isinstance(clip, MotionClip) and len(clip.joints) == 32 and clip.captions == (TEXT,)
    assert jax.tree.leaves(session._streams._rows) == []


def test_a_session_says_what_it_did(model: Llamo) -> None:
    """From the motion alone: as `caption_latents` of what it made, whatever the prompt was."""
    session = model.streams(window=SHORT).open(TEXT)
    with pytest.raises(InputError, match="nothing has moved"):
        session.caption()
    frames(session, 9)
    assert session.caption() == model.caption_latents([np.array(session.latents)])[0]
    assert session.caption(0.4) == model.caption_latents([np.array(session.latents)[-3:]])[0]
    with pytest.raises(InputError, match="less than a latent"):
        session.caption(0.01)


@pytest.mark.parametrize("capacity", [1, 2])
def test_a_saved_session_goes_on_to_the_bit(model: Llamo, tmp_path: Path, capacity: int) -> None:
    session = model.streams(window=SHORT, capacity=capacity).open(TEXT, 4)
    frames(session, 7)
    session.prompt("someone runs fast.")
    frames(session, 2)
    session.save(tmp_path / "session.npz")
    other = model.streams(window=SHORT, capacity=capacity).load(tmp_path / "session.npz")
    assert other.prompts == session.prompts and other.index == 9 and other.text == "someone runs fast."
    for mine, its in zip(itertools.islice(session, 8), other, strict=False):
        np.testing.assert_array_equal(mine.features, its.features)
        assert mine.start == its.start and mine.index == its.index
    with pytest.raises(InputError, match="another sampling, window"):
        model.streams(guidance=1.0).load(tmp_path / "session.npz")
    for name, content in (("a.npz", b"no"), ("b.npz", None)):
        if content is None:
            np.savez(tmp_path / name, told="{}")
        else:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            model.streams(window=SHORT).load(tmp_path / name)
