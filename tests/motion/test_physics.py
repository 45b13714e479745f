import numpy as np
import pytest

from llamo_jax.motion import physics
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.representation import decode_positions, encode
from llamo_jax.motion.skeleton import JOINT_INDEX
from tests import bodies

FPS = bodies.FPS


def test_jerk_of_a_cubic_path_is_its_third_derivative():
    joints = bodies.standing(40)
    seconds = np.arange(40) / FPS
    joints[..., 0] += (seconds**3)[:, None]
    assert physics.jerk(joints, FPS) == pytest.approx(6.0)
    # Half of the joints at rest, and the same path at another rate: the mean halves, the rate drops out.
    joints[:, ::2, 0] = 0
    assert physics.jerk(joints, FPS) == pytest.approx(3.0)
    fast = bodies.standing(80)
    fast[..., 0] += ((np.arange(80) / 60) ** 3)[:, None]
    assert physics.jerk(fast, 60) == pytest.approx(6.0)
    assert np.isnan(physics.jerk(bodies.standing(3)))


def test_a_foot_that_slides_at_one_metre_a_second_skates_one_metre_a_second():
    assert physics.foot_skating(bodies.sliding(30, (0.6, 0, 0.8)), FPS) == pytest.approx(1.0)
    assert physics.foot_skating(bodies.standing(30), FPS) == 0


def test_a_foot_in_the_air_does_not_skate():
    joints = bodies.sliding(60, (0, 0, 1.0))
    left = [JOINT_INDEX["left_ankle"], JOINT_INDEX["left_foot"]]
    joints[20:, left, 1] += 0.2
    contact = physics.contacts(joints, FPS)
    assert contact[:19].all()
    assert not contact[19:, [0, 2]].any()
    assert contact[19:, [1, 3]].all()


def test_a_low_foot_counts_only_when_level_and_long_enough():
    joints = bodies.standing(60)
    left, toes = JOINT_INDEX["left_ankle"], JOINT_INDEX["left_foot"]
    joints[:, [left, toes], 1] += 0.3
    joints[30:32, [left, toes], 1] -= 0.3  # one step of contact, shorter than 0.1 s
    joints[:5, [left, toes], 1] -= 0.3  # four
    contact = physics.contacts(joints, FPS)
    assert contact[:4, 0].all()
    assert not contact[4:, 0].any()
    joints = bodies.standing(60)
    joints[:, toes, 1] += np.where(
        np.arange(60) % 2, 0.0, 0.02
    )  # the toes tap at 0.6 m/s: the heel is no contact either
    contact = physics.contacts(joints, FPS)
    assert not contact[:, [0, 2]].any()
    assert contact[:, [1, 3]].all()


def test_skating_with_the_contacts_of_the_original_sees_a_foot_that_lifts_and_slides():
    original = bodies.standing(60)
    moved = bodies.sliding(60, (0.5, 0, 0))
    moved[..., 1] += (np.arange(60) % 2 * 0.02)[:, None]  # bobs at 0.6 m/s, so that its own contact set is empty
    assert np.isnan(physics.foot_skating(moved, FPS))
    assert physics.foot_skating(moved, FPS, physics.contacts(original, FPS)) == pytest.approx(0.5)


def test_low_feet_count_whatever_their_vertical_speed():
    joints = bodies.sliding(60, (0, 0, 1.0))
    left = [JOINT_INDEX["left_ankle"], JOINT_INDEX["left_foot"]]
    joints[:, left, 2] *= 3  # the left foot slides at 3 m/s, the right at 1, and both bob by 2 cm
    joints[..., 1] += (np.arange(60) % 2 * 0.02)[:, None]
    assert physics.low_foot_speeds(joints, FPS).mean() == pytest.approx((3 + 1) / 2)
    assert physics.contact_speeds(joints, FPS).size == 0
    joints[20:, left, 1] += 0.2  # lifted: 20 steps of two joints at 3 m/s, 59 of two at 1
    assert len(physics.low_foot_speeds(joints, FPS)) == 2 * 19 + 2 * 59


def test_penetration_and_floating():
    joints = bodies.standing(10)
    joints[:5, :, 1] -= 0.04
    assert physics.penetration(joints) == pytest.approx(0.02)
    assert physics.floating(joints) == 0
    joints[5:, :, 1] += 0.06
    assert physics.floating(joints) == 0.5


def test_bone_length_drift():
    joints = bodies.standing(10)
    assert physics.bone_length_drift(joints) == pytest.approx(0)
    joints[5:, JOINT_INDEX["left_wrist"], 0] += 0.042  # one of 21 bones is 21 mm longer or shorter than its mean
    assert physics.bone_length_drift(joints) == pytest.approx(0.001, rel=1e-2)


def test_disagreement_of_positions_and_rotations():
    joints = bodies.standing(20)
    rotations = np.broadcast_to(np.eye(3), (20, 22, 3, 3)).copy()
    features = encode(joints, rotations)
    assert physics.position_rotation_disagreement(features) == pytest.approx(0, abs=1e-9)
    rotations[10:, JOINT_INDEX["left_elbow"]] = rot.from_rotvec(np.array([0, 0, np.pi]))
    # The forearm of rotations turns around, that of positions does not; offsets recovered over both halves cancel to
    # zero length, so the wrist is one forearm (0.25 m) away in every frame, one joint of 22.
    forearm = np.linalg.norm(joints[0, JOINT_INDEX["left_wrist"]] - joints[0, JOINT_INDEX["left_elbow"]])
    bent = physics.position_rotation_disagreement(encode(joints, rotations))
    assert bent == pytest.approx(forearm / 22, rel=0.01)


def test_speeds_follow_the_facing_direction():
    ahead = bodies.sliding(60, (0, 0, 1.2))
    assert bodies.forward_speed(ahead, FPS) == pytest.approx(1.2)
    assert bodies.forward_speed(bodies.sliding(60, (0, 0, -0.7)), FPS) == pytest.approx(-0.7)
    aside = bodies.sliding(60, (0.9, 0, 0))
    assert bodies.forward_speed(aside, FPS) == pytest.approx(0, abs=1e-12)
    assert physics.travel_speed(aside, FPS) == pytest.approx(0.9)
    turned = ahead @ rot.yaw(np.pi / 2).T  # the whole world turned: still forwards
    assert bodies.forward_speed(turned, FPS) == pytest.approx(1.2)
    assert np.isnan(physics.travel_speed(bodies.standing(1), FPS))


def test_sway_is_no_travel():
    joints = bodies.standing(120)
    joints[..., 0] += (0.02 * np.sin(2 * np.pi * 2 * np.arange(120) / FPS))[
        :, None
    ]  # 2 Hz: back where it was after half a second
    assert physics.travel_speed(joints, FPS) == pytest.approx(0, abs=1e-9)


def test_heading_change_is_positive_to_the_left_and_counts_whole_turns():
    angles = np.radians(np.linspace(0, 450, 90))
    turning = bodies.standing(90) @ np.swapaxes(rot.yaw(angles), -1, -2)
    assert bodies.heading_change(turning) == pytest.approx(450)
    facing = turning[30, JOINT_INDEX["left_foot"]] - turning[30, JOINT_INDEX["left_ankle"]]
    assert np.cos(bodies.heading(turning)[30] - np.arctan2(facing[0], facing[2])) > 0.95  # toes point where it faces
    right = bodies.standing(90) @ np.swapaxes(rot.yaw(-angles), -1, -2)
    assert bodies.heading_change(right) == pytest.approx(-450)


def test_hand_heights_are_left_then_right():
    joints = bodies.standing(10)
    joints[4, JOINT_INDEX["left_wrist"], 1] = 1.9
    joints[6, JOINT_INDEX["right_wrist"], 1] = 1.7
    assert physics.hand_heights(joints) == (1.9, 1.7)


def test_freezes():
    still, moving = bodies.standing(61), bodies.sliding(120, (0, 0, 0.1))
    assert physics.freezes(still, FPS)
    assert not physics.freezes(still[:59], FPS)  # shorter than two seconds
    assert not physics.freezes(moving, FPS)
    stops = np.concatenate([moving, np.repeat(moving[-1:], 70, axis=0)])
    assert physics.freezes(stops, FPS)
    assert not physics.freezes(stops[:150], FPS)  # has stopped for one second
    jitter = still + np.random.default_rng(0).normal(0, 2e-4, still.shape)  # 1 cm/s from frame to frame, going nowhere
    assert physics.freezes(jitter, FPS)


def test_explodes():
    joints = bodies.sliding(60, (0, 0, 3.0))
    assert not physics.explodes(joints, FPS)
    for change in ("speed", "reach", "sinks", "flies", "nan"):
        broken = joints.copy()
        if change == "speed":
            broken[30:, :, 0] += 1.0  # 30 m/s in one frame
        elif change == "reach":
            broken[:, JOINT_INDEX["left_wrist"], 0] = 2.5
        elif change == "nan":
            broken[3, 4, 1] = np.nan
        else:
            broken[..., 1] += -2.0 if change == "sinks" else 2.5
        assert physics.explodes(broken, FPS), change


def test_summary_weighs_frames_and_counts_clips():
    sunk = bodies.standing(90)
    sunk[..., 1] -= 0.03
    figures = physics.summarise([sunk, bodies.sliding(30, (0, 0, 1.0))], FPS)
    assert figures["penetration_mm"] == pytest.approx(30 * 90 / 120)
    assert figures["foot_skating"] == pytest.approx(29 / (89 + 29))  # steps of contact at 1 m/s among all of them
    assert (figures["frozen"], figures["exploded"]) == (1, 0)


@pytest.mark.shared_data
def test_a_real_clip_is_sound(shared):
    features = np.load(shared / "data" / "motion_272_golden" / "features_272.npy")
    assert physics.position_rotation_disagreement(features) < 1e-5
    joints = decode_positions(features)
    assert physics.bone_length_drift(joints) < 1e-5
    assert physics.penetration(joints) < 1e-6
    assert physics.foot_skating(joints) < 0.1
    assert not physics.explodes(joints)


def test_mean_speed_is_that_of_all_joints():
    assert physics.mean_speed(bodies.sliding(40, (0.3, 0, 0.4)), FPS) == pytest.approx(0.5)
    assert physics.mean_speed(bodies.standing(1), FPS) == 0
