"""The procedural corpus: bodies do what their labels say, with feet that stand and joints that bend as people's do."""

import itertools

import numpy as np
import pytest
from scipy.signal import find_peaks

from data_pipelines.synthetic import Spec, caption_facts, generate_corpus, synthesize
from data_pipelines.synthetic.corpus import HELD_OUT, HELD_OUT_SEQUENCES, VARIATIONS, draw_spec
from llamo_jax.errors import InputError
from llamo_jax.motion import MotionClip, physics
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.skeleton import JOINT_INDEX, PARENTS
from tests import bodies

SPECS = [
    Spec((action,), (side,), speed, count)
    for action, (sides, speeds, counts, _) in VARIATIONS.items()
    for side, speed, count in itertools.product(sides, speeds, counts)
]
PAIRS = [(first, second) for first, second in itertools.permutations(VARIATIONS, 2) if first != "sit"]
FLYING = {"jump", "run"}


def pair(actions: tuple[str, str], number: int = 0) -> Spec:
    return Spec(actions, tuple(VARIATIONS[action][0][number % len(VARIATIONS[action][0])] for action in actions))


def name_of(spec: Spec) -> str:
    return "-".join([*spec.actions, *spec.sides, spec.speed, str(spec.count)])


def at(clip: MotionClip, name: str) -> np.ndarray:
    return clip.joints[:, JOINT_INDEX[name]]


def bend(clip: MotionClip, upper: str, middle: str, lower: str) -> np.ndarray:
    """Degrees by which a limb is bent; 0 is straight."""
    first, second = at(clip, middle) - at(clip, upper), at(clip, lower) - at(clip, middle)
    cosine = (first * second).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(second, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def peaks(height: np.ndarray, least: float) -> int:
    """How often a curve rises out of its first value by more than `least`."""
    return len(find_peaks(np.r_[0, height - height[0], 0], height=least, prominence=0.5 * least)[0])


def kick_height(clip: MotionClip, side: str) -> np.ndarray:
    """Metres of an ankle over the other, while it is ahead of the pelvis by 0.4 m."""
    other = {"left": "right", "right": "left"}[side]
    ahead = ((at(clip, f"{side}_ankle") - at(clip, "pelvis")) * clip.rotations[:, 0, :, 2]).sum(-1) > 0.4
    return np.where(ahead, at(clip, f"{side}_ankle")[:, 1] - at(clip, f"{other}_ankle")[:, 1], 0)


def faults_of_a_body(clip: MotionClip, flying: bool) -> list[str]:
    """What no motion of a person may have."""
    faults = []
    speeds = physics.contact_speeds(clip.joints)
    if speeds.size == 0 or speeds.max() > 0.01 * clip.fps:
        faults.append(f"a standing foot slides at {100 * speeds.max(initial=np.inf) / clip.fps:.2f} cm a frame")
    lowest = clip.joints[..., 1].min(-1)
    if lowest.min() < -0.01:
        faults.append(f"a joint is {-100 * lowest.min():.1f} cm under the floor")
    if not flying and lowest.max() > 0.05:
        faults.append(f"the body floats {100 * lowest.max():.1f} cm over the floor")
    for side in ("left", "right"):
        knee = bend(clip, f"{side}_hip", f"{side}_knee", f"{side}_ankle")
        elbow = bend(clip, f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist")
        thigh, shin = (
            at(clip, f"{side}_knee") - at(clip, f"{side}_hip"),
            at(clip, f"{side}_ankle") - at(clip, f"{side}_knee"),
        )
        hinge = (np.cross(thigh, shin) * clip.rotations[:, 0, :, 0]).sum(-1)
        if knee.min() < 4 or knee.max() > 140 or hinge.min() <= 0:
            way = "backwards" if hinge.min() <= 0 else "forwards"
            faults.append(f"{side} knee bends {way} by {knee.min():.0f} to {knee.max():.0f} degrees")
        if elbow.min() < 0.5 or elbow.max() > 140:
            faults.append(f"{side} elbow bends by {elbow.min():.0f} to {elbow.max():.0f} degrees")
    fastest = np.linalg.norm(np.diff(clip.joints, axis=0), axis=-1).max() * clip.fps
    jerk = np.linalg.norm(np.diff(clip.joints, n=3, axis=0), axis=-1).max() * clip.fps**3
    spin = np.degrees(rot.geodesic(clip.rotations[1:], clip.rotations[:-1])).max() * clip.fps
    if fastest > 13 or jerk > 10000 or spin > 1700:
        faults.append(f"a joint reaches {fastest:.1f} m/s, {jerk:.0f} m/s^3 or {spin:.0f} degrees/s")
    return faults


def faults_of_an_action(clip: MotionClip) -> list[str]:
    """Where a clip of one action does not do what its labels say."""
    action, side, count = clip.labels["action"], clip.labels["side"], int(clip.labels["count"])
    size = clip.joints[0, JOINT_INDEX["head"], 1] / 1.5
    shoulders = at(clip, "left_shoulder")[0, 1]
    raised = {s for s in ("left", "right") if at(clip, f"{s}_wrist")[:, 1].max() > shoulders + 0.12 * size}
    kicked = {s for s in ("left", "right") if kick_height(clip, s).max() > 0.25 * size}
    turned, forward = bodies.heading_change(clip.joints), bodies.forward_speed(clip.joints)
    path = clip.joints[-1, 0] - clip.joints[0, 0]
    airborne = clip.joints[..., 1].min(-1) > 0.045
    flights = int((np.diff(airborne.astype(int)) == 1).sum())
    sign = {"left": 1, "right": -1, "both": 0, "none": 0}[side]
    expected = {
        "hands": {"left", "right"} if side == "both" else {side} if action in ("wave", "raise") else set(),
        "kicks": {side} if action == "kick" else set(),
        "turn": sign if action in ("turn", "walk") else 0,
        "ahead": {"walk": 1, "run": 1, "walk_backward": -1}.get(action, 0),
        "aside": sign if action == "sidestep" else 0,
    }
    found = {
        "hands": raised if action != "jump" else set(),
        "kicks": kicked,
        "turn": int(np.sign(turned)) if abs(turned) > 30 else 0,
        "ahead": int(np.sign(forward)) if abs(forward) > 0.2 else 0,
        "aside": int(np.sign(path[0])) if action in ("sidestep", "stand") and abs(path[0]) > 0.4 else 0,
    }
    times = {
        "jump": flights,
        "kick": peaks(kick_height(clip, side), 0.25 * size) if action == "kick" else 0,
        "squat": peaks(-at(clip, "pelvis")[:, 1], 0.2),
        "bow": peaks(-at(clip, "head")[:, 1], 0.15),
    }.get(action, 1)
    faults = [f"{what} {found[what]}, expected {value}" for what, value in expected.items() if found[what] != value]
    if times != count:
        faults.append(f"{times} times, expected {count}")
    if action == "run" and flights < 4:
        faults.append(f"runs with {flights} flights")
    if action == "sit" and abs(at(clip, "left_hip")[-1, 1] - at(clip, "left_knee")[-1, 1]) > 0.1:
        faults.append("thighs are not level at the end")
    return faults


def check(clip: MotionClip) -> list[str]:
    """Everything that is wrong with a clip of one action; empty for a good one."""
    return faults_of_a_body(clip, clip.labels["action"] in FLYING) + faults_of_an_action(clip)


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_does_what_it_says(spec: Spec):
    for seed in range(3):
        clip = synthesize(spec, np.random.default_rng(seed))
        assert check(clip) == []
        assert clip.labels == spec.labels and clip.fps == 30
        assert 32 <= len(clip) <= 188


def test_pairs_join():
    for number, actions in enumerate(PAIRS):
        spec = pair(actions, number)
        clip = synthesize(spec, np.random.default_rng(number))
        assert faults_of_a_body(clip, bool(FLYING & set(actions))) == [], actions
        assert len(clip) <= 195
        # The pelvis goes on where it was: no jump between the actions.
        acceleration = np.linalg.norm(np.diff(clip.joints[:, 0], n=2, axis=0), axis=-1).max() * 900
        assert acceleration < (45 if FLYING & set(actions) else 14), actions


def test_check_finds_faults():
    def clip(action, side="none"):
        return synthesize(Spec((action,), (side,)), np.random.default_rng(0))

    def moved(clip, joints=None, labels=None):
        return MotionClip(clip.joints if joints is None else joints, clip.rotations, labels=labels or clip.labels)

    stand, wave = clip("stand"), clip("wave", "left")
    drift = np.linspace(0, 0.02 * len(stand), len(stand))[:, None, None] * [1.0, 0, 0]
    assert any("slides" in fault for fault in check(moved(stand, stand.joints + drift)))
    assert any("under the floor" in fault for fault in check(moved(stand, stand.joints - [0, 0.05, 0])))
    assert any("floats" in fault for fault in check(moved(stand, stand.joints - [0, -0.05, 0])))
    back = stand.joints.copy()
    back[:, JOINT_INDEX["left_knee"]] -= stand.rotations[:, 0, :, 2] * 0.15
    assert any("backwards" in fault for fault in check(moved(stand, back)))
    for action, side in (
        ("wave", "left"),
        ("raise", "right"),
        ("kick", "left"),
        ("turn", "right"),
        ("sidestep", "left"),
        ("walk", "left"),
    ):
        one = clip(action, side)
        assert check(moved(bodies.mirrored(one), labels=one.labels)) != [], action
    assert any("ahead" in fault for fault in check(moved(clip("walk"), labels=clip("walk_backward").labels)))
    assert any("times" in fault for fault in check(moved(clip("jump"), labels={**clip("jump").labels, "count": "2"})))
    jump = wave.joints.copy()
    jump[40:] += [0.5, 0, 0]
    assert any("reaches" in fault for fault in check(moved(wave, jump)))


def test_speed_words():
    for action, (sides, speeds, _, _) in VARIATIONS.items():
        if len(speeds) < 3:
            continue
        seconds, travel = [], []
        for speed in ("slow", "normal", "fast"):
            clips = [synthesize(Spec((action,), (sides[0],), speed), np.random.default_rng(seed)) for seed in range(6)]
            seconds.append(np.mean([clip.seconds for clip in clips]))
            travel.append(np.mean([np.abs(physics.travel_speed(clip.joints)) for clip in clips]))
        if action in ("walk", "walk_backward", "run", "sidestep"):
            assert travel[1] > 1.25 * travel[0] and travel[2] > 1.25 * travel[1], action
        else:
            assert seconds[0] > 1.25 * seconds[1] and seconds[1] > 1.25 * seconds[2], action


def test_bodies_and_manners_differ():
    clips = [synthesize(Spec(("walk",), ("none",)), np.random.default_rng(seed)) for seed in range(12)]
    heads = [at(clip, "head")[0, 1] for clip in clips]
    assert min(heads) > 1.25 and max(heads) < 1.85 and max(heads) - min(heads) > 0.12
    proportions = [np.linalg.norm(clip.offsets[4]) / np.linalg.norm(clip.offsets[3]) for clip in clips]
    assert np.std(proportions) > 0.01
    assert len({len(clip) for clip in clips}) > 4


def test_arms_hang():
    clip = synthesize(Spec(("stand",), ("none",)), np.random.default_rng(0))
    for side in ("left", "right"):
        assert (at(clip, f"{side}_wrist")[:, 1] < at(clip, f"{side}_elbow")[:, 1] - 0.15).all()
        assert (np.abs(at(clip, f"{side}_wrist")[:, 0] - at(clip, f"{side}_shoulder")[:, 0]) < 0.2).all()


def test_arms_swing_against_the_legs():
    clip = synthesize(Spec(("walk",), ("none",)), np.random.default_rng(1))
    legs = at(clip, "left_ankle")[:, 2] - at(clip, "right_ankle")[:, 2]
    arms = at(clip, "left_wrist")[:, 2] - at(clip, "right_wrist")[:, 2]
    assert np.corrcoef(legs, arms)[0, 1] < -0.8


def test_jumps_fall_freely():
    clip = synthesize(Spec(("jump",), ("none",)), np.random.default_rng(0))
    flight = np.flatnonzero(clip.joints[..., 1].min(-1) > 0.08)
    fall = np.diff(at(clip, "pelvis")[flight[1] : flight[-1], 1], n=2) * clip.fps**2
    np.testing.assert_allclose(fall, -9.81, atol=0.5)


def test_features():
    for spec in (Spec(("walk",), ("left",)), pair(("turn", "jump"))):
        clip = synthesize(spec, np.random.default_rng(0))
        features = clip.features()
        assert features.shape == (len(clip), 272) and np.isfinite(features).all()
        joints, posed = (
            MotionClip.from_features(features, source=source).joints for source in ("positions", "rotations")
        )
        assert np.abs(joints - posed).max() < 1e-4


def test_bones_are_rigid():
    clip = synthesize(Spec(("run",), ("none",), "fast"), np.random.default_rng(0))
    lengths = np.linalg.norm(clip.joints[:, 1:] - clip.joints[:, PARENTS[1:]], axis=-1)
    assert np.ptp(lengths, axis=0).max() < 1e-9


def test_captions():
    words, sentences_of = set(), {}
    for spec in [*SPECS, *(pair(actions, number) for actions in PAIRS for number in range(3))]:
        sentences = spec.sentences()
        assert len(set(sentences)) == len(sentences) >= 6
        for sentence in sentences:
            assert caption_facts(sentence) == spec.labels, sentence
            assert sentence == " ".join(sentence.split()) and sentence.endswith(".") and sentence == sentence.lower()
            words.update(sentence.strip(".").replace(",", "").split())
        sentences_of[name_of(spec)] = sentences
    assert len(words) < 150
    assert "a person kicks with the left leg twice, quickly." in sentences_of["kick-left-fast-2"]
    assert "someone is waving both hands." in sentences_of["wave-both-normal-1"]
    assert "the person walks forward and then raises the left hand." in sentences_of["walk-raise-none-left-normal-1"]


def test_facts_of_other_text():
    assert caption_facts("") == {} and caption_facts("the cat sleeps.") == {}
    assert caption_facts("a person waves and then sings.") == {}
    assert caption_facts("Someone WAVES with their left hand, fast or slowly") == {
        "action": "wave", "side": "left", "speed": "slow", "count": "1"
    }  # fmt: skip


def test_corpus_is_deterministic():
    long, short = list(generate_corpus(24, 7)), list(generate_corpus(9, 7))
    for (split, clip), (other_split, other) in zip(long, short, strict=False):
        assert (split, clip.name, clip.captions, clip.labels) == (other_split, other.name, other.captions, other.labels)
        np.testing.assert_array_equal(clip.joints, other.joints)
        np.testing.assert_array_equal(clip.rotations, other.rotations)
    others = [clip for _, clip in generate_corpus(9, 8)]
    assert all(
        a.joints.shape != b.joints.shape or not np.allclose(a.joints, b.joints)
        for (_, a), b in zip(short, others, strict=True)
    )


def test_corpus_lengths_and_splits():
    clips = list(generate_corpus(300, 1))
    assert len({clip.name for _, clip in clips}) == 300
    splits = [split for split, _ in clips]
    assert {split: splits.count(split) for split in set(splits)} == {"train": 255, "validation": 15, "test": 30}
    assert np.mean([len(clip) > 152 for _, clip in clips]) < 0.15
    assert 0.2 < np.mean(["sequence" in clip.labels for _, clip in clips]) < 0.4
    assert all(len(set(clip.captions)) == 6 for _, clip in clips)


def test_test_split_is_unseen_combinations():
    rng = np.random.default_rng(0)
    seen, unseen = ({draw_spec(rng, held_out=held_out) for _ in range(4000)} for held_out in (False, True))
    singles, pairs = ({spec for spec in seen if len(spec.actions) == n} for n in (1, 2))
    seen_single, unseen_single = (
        {(s.actions[0], s.sides[0], s.speed, s.count) for s in group if len(s.actions) == 1}
        for group in (singles, unseen)
    )
    assert seen_single.isdisjoint(HELD_OUT) and unseen_single == HELD_OUT
    assert {s.actions for s in pairs}.isdisjoint(HELD_OUT_SEQUENCES)
    assert {s.actions for s in unseen if len(s.actions) == 2} == HELD_OUT_SEQUENCES
    # Its speed and its count are in training, each with another of the other, and no side stands out.
    for action, side, speed, count in HELD_OUT:
        sides, speeds, counts, _ = VARIATIONS[action]
        assert {(action, other, speed, count) for other in sides} <= HELD_OUT
        neighbours = {(action, side, other, count) for other in speeds} | {
            (action, side, speed, other) for other in counts
        }
        assert neighbours - {(action, side, speed, count)} <= seen_single
    for first, second in HELD_OUT_SEQUENCES:
        assert any(s.actions[0] == first for s in pairs) and any(s.actions[1] == second for s in pairs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("fly",), ("none",)), 'the action "fly"; expected one of walk, '),
        ((("kick",), ("both",)), "Spec of \"kick\" has side 'both'; expected one of left, right"),
        ((("kick",), ("left",), "slow"), "Spec of \"kick\" has speed 'slow'; expected one of normal, fast"),
        ((("jump",), ("none",), "normal", 4), 'Spec of "jump" has count 4; expected one of 1, 2, 3'),
        (
            (("walk", "bow"), ("none", "none"), "fast"),
            'two actions has speed "fast" and count 1; expected "normal" and 1',
        ),
        ((("sit", "walk"), ("none", "none")), 'Spec has "sit" first of two actions'),
        ((("walk",), ("none", "left")), "expected one or two of both"),
    ],
)
def test_impossible_specs(arguments, message):
    with pytest.raises(InputError, match=message):
        Spec(*arguments)
