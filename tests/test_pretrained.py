"""The class a person holds: same seed same motion, rows that do not see each other, text that stays the LLM's."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import llamo_jax
from llamo_jax.convert.from_hf import bundle_from_llm
from llamo_jax.errors import InputError
from llamo_jax.evaluation.language import TEXTS, text_fidelity
from llamo_jax.motion import MotionClip
from llamo_jax.pretrained import Llamo, text_logits
from llamo_jax.storage.huggingface import load_llm

TEXT = "a person waves the left hand."


def test_the_same_seed_gives_the_same_motion(model: Llamo) -> None:
    first, again, other = (model.generate(TEXT, seed=seed, seconds=1.0).joints for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_settings_matter_and_length_is_kept(model: Llamo) -> None:
    clip = model.generate(TEXT, seconds=1.0)
    assert len(clip) == 30 and clip.fps == 30 and clip.captions == (TEXT,)
    for changed in ({"guidance": 1.0}, {"steps": 4}, {"solver": "midpoint"}, {"solver": "heun"}):
        assert np.abs(model.generate(TEXT, seconds=1.0, **changed).joints - clip.joints).max() > 1e-6, changed
    assert len(model.generate(TEXT, max_seconds=2.0)) <= 60


def test_lengths_are_drawn_where_asked(model: Llamo) -> None:
    rarely = {"weight": jnp.zeros((1, 24)), "bias": jnp.full(1, -2.0)}  # 12 % a latent: a median of 5 latents
    params = model.bundle.params | {"exit_head": rarely}
    patient = Llamo(dataclasses.replace(model.bundle, params=params))
    assert len({len(clip) for clip in patient.generate([TEXT] * 8, max_seconds=8.0, length="drawn")}) > 3
    assert len({len(clip) for clip in patient.generate([TEXT] * 8, max_seconds=8.0)}) == 1
    assert [len(clip) for clip in patient.generate([TEXT] * 3, seconds=0.5, length="drawn")] == [15] * 3


def test_a_batch_draws_what_its_rows_draw_alone(model: Llamo) -> None:
    """Row i has a stream of its own, so that neighbours and padding change nothing but the last bits."""
    batch = model.generate([TEXT, "someone runs."], seed=5, seconds=1.0)
    swapped = model.generate([TEXT, "a person walks and walks and walks."], seed=5, seconds=1.0)
    alone = model.generate(TEXT, seed=5, seconds=1.0)
    np.testing.assert_allclose(batch[0].joints, alone.joints, atol=1e-4)
    np.testing.assert_allclose(batch[0].joints, swapped[0].joints, atol=1e-4)


def test_captions_are_text_and_batched_as_alone(model: Llamo, clip: MotionClip) -> None:
    short = MotionClip.from_features(clip.features()[:24])
    alone = model.caption(clip, max_tokens=8)
    assert isinstance(alone, str) and model.caption([clip, short], max_tokens=8)[0] == alone


def test_text_is_the_llm_bitwise(model: Llamo, llm_folder: Path) -> None:
    config, text = load_llm(llm_folder, unstacked=True)
    for sentence in TEXTS:
        ids = np.array([model.tokenizer.encode(sentence)])
        np.testing.assert_array_equal(model.text_logits(ids), text_logits(text, config, ids))
    assert text_fidelity(model, llm_folder)["changed_logits"] == 0


def test_greedy_text_follows_the_logits(model: Llamo) -> None:
    """Cached decoding says what the whole forward pass says."""
    prompt = "a person"
    ids = [model.tokenizer.bos_id, *model.tokenizer.encode(prompt)]
    for _ in range(6):
        following = int(np.asarray(model.text_logits(np.array([ids])))[0, -1].argmax())
        if following == model.tokenizer.eos_id:
            break
        ids.append(following)
    assert (prompt + model.complete(prompt, max_tokens=6)).strip() == model.tokenizer.decode(ids).strip()


def test_encoding_and_decoding_are_inverse_in_shape(model: Llamo, clip: MotionClip) -> None:
    latents = model.encode(clip)
    assert latents.shape == (15, 4) and model.decode_latents(latents).shape == (60, 272)


def test_saved_and_loaded_is_the_same_model(model: Llamo, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "copy")
    again = llamo_jax.load(tmp_path / "copy")
    np.testing.assert_array_equal(again.generate(TEXT, seconds=0.5).joints, model.generate(TEXT, seconds=0.5).joints)


def test_a_bundle_from_an_llm_alone_talks_and_does_not_move(llm_folder: Path, tmp_path: Path, clip: MotionClip) -> None:
    bundle_from_llm(llm_folder, tmp_path / "fresh")
    fresh = llamo_jax.load(tmp_path / "fresh")
    assert isinstance(fresh.complete("a person", max_tokens=2), str)
    with pytest.raises(InputError, match="knows no motion yet"):
        fresh.generate(TEXT)
    with pytest.raises(InputError, match="knows no motion yet"):
        fresh.caption(clip)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "leapfrog"}, 'solver "leapfrog" does not exist; expected one of euler, midpoint, heun'),
        ({"steps": 0}, "steps is 0; expected at least 1"),
        ({"length": "long"}, 'length is "long"; expected median or drawn'),
        ({"guidance": -1.0}, r"guidance is -1\.0; expected 0 or more"),
        ({"seconds": 0.0}, "expected at least 0.13 s, one latent"),
        ({"seconds": float("nan")}, "expected at least 0.13 s, one latent"),
        ({"seconds": float("inf")}, "duration is inf s"),
        ({"seconds": 400.0}, r"and 400 s need \d+ positions; the LLM has 2048: make it shorter"),
    ],
)
def test_settings_out_of_range_are_told(model: Llamo, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.generate(TEXT, **settings)


def test_mistakes_in_input_are_told(model: Llamo, clip: MotionClip) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        model.generate("  ")
    with pytest.raises(InputError, match=r"a text of 2 tokens and 5000 more need 5002 positions; the LLM has 2048"):
        model.complete("a", max_tokens=5000)
    with pytest.raises(InputError, match="token ids run from 5 to 5000; expected 0 to 299"):
        model.text_logits(np.array([[5, 5000]]))
    assert model.generate([]) == [] and model.caption([]) == []
    with pytest.raises(InputError, match="has 3 frames; expected at least 4"):
        model.caption(MotionClip.from_features(clip.features()[:3]))
