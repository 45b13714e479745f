"""From planned tracks to a posed body: feet stay where they are planted, and two-bone inverse kinematics fills in the
legs."""

import dataclasses
from itertools import pairwise
from typing import Self

import numpy as np
from jaxtyping import Bool, Float
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d, maximum_filter1d

from llamo_jax.motion import FPS, MotionClip
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.skeleton import DEFAULT_OFFSETS, JOINT_INDEX, NUM_JOINTS

LEFT, RIGHT = 0, 1
SIDES = ("left", "right")

TOE_HEIGHT = 0.02
"""Of the toe joint over the floor in a foot that stands flat, in metres."""
HEEL_LENGTH = 0.03
"""Of the heel behind the ankle, for the default body, in metres; it is as low as the toe joint."""

_STANDING, _REACH = 0.9945, 0.9965
"""Shares of a leg's length: standing, and at most. Knees never lock: these bend by 12 and 10 degrees."""
_AHEAD = 0.038
"""Of the standing pelvis before the ankles, for the default body, in metres: its weight is over the middle of the
feet."""
_FOOT_SWAY = 0.0012
"""Metres by which the weight of a body that sways moves feet that stand: in shoes, and in markers on them."""
_TOE_BEND = 35.0
"""Degrees by which toes bend at most, as they do under a heel that leaves the floor."""

ARM_CHANNELS = ("flexion", "abduction", "twist", "elbow", "wrist")
"""Of an arm, in degrees: forwards, to the side, about the upper arm, and the bends of elbow and wrist."""


@dataclasses.dataclass(frozen=True)
class Body:
    """Somebody: proportions, and habits of posture.

    Attributes:
      offsets: [22, 3] metres in the rest pose.
      stance: metres from the middle to each ankle, standing.
      toe_out: degrees by which the feet point outwards.
      lean: degrees by which the trunk leans forwards.
      arm: the hanging arm, in the order of `ARM_CHANNELS`.
      swing: how far the arms swing in walking and running; 1 is usual.
    """

    offsets: Float[np.ndarray, "22 3"]
    stance: float
    toe_out: float
    lean: float
    arm: tuple[float, float, float, float, float]
    swing: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        """A random adult: 1.5 to 1.9 m, legs, arms and shoulders a little longer or shorter."""
        height = rng.uniform(0.9, 1.1)
        legs, arms, trunk, width = rng.uniform(0.96, 1.04, 4)
        scale = np.full(NUM_JOINTS, height)
        for side in SIDES:
            for joint in ("knee", "ankle"):
                scale[JOINT_INDEX[f"{side}_{joint}"]] *= legs
            for joint in ("elbow", "wrist"):
                scale[JOINT_INDEX[f"{side}_{joint}"]] *= arms
        for joint in ("spine1", "spine2", "spine3", "neck"):
            scale[JOINT_INDEX[joint]] *= trunk
        offsets = DEFAULT_OFFSETS * scale[:, None]
        offsets[:, 0] *= width
        return cls(
            offsets,
            stance=rng.uniform(0.075, 0.105) * height,
            toe_out=rng.uniform(3, 10),
            lean=rng.uniform(-1, 3),
            arm=(rng.uniform(-1, 6), rng.uniform(8, 14), 0.0, rng.uniform(10, 24), 0.0),
            swing=rng.uniform(0.7, 1.3),
        )

    def bone(self, name: str) -> float:
        """Length in metres of the bone that ends in a joint of the left side."""
        return float(np.linalg.norm(self.offsets[JOINT_INDEX[f"left_{name}"]]))

    @property
    def leg(self) -> float:
        """Hip to ankle, metres."""
        return self.bone("knee") + self.bone("ankle")

    @property
    def scale(self) -> float:
        """Leg length over the default body's: lengths in the actions are for the default body."""
        return self.leg / 0.797

    @property
    def toes(self) -> Float[np.ndarray, "2 3"]:
        """Toe joints from the ankles of flat feet that point ahead, metres."""
        return np.stack([self.offsets[JOINT_INDEX[f"{side}_foot"]] for side in SIDES])

    def stand(self, place: Float[np.ndarray, " 2"], yaw: float, width: float = 1.0) -> Float[np.ndarray, "2 3"]:
        """Toe joints of a body that stands at a place (X, Z) facing `yaw` degrees, its feet `width` times as far apart
        as usual."""
        facing = rot.yaw(np.radians(yaw))
        feet = np.array([[self.stance * width, 0, 0], [-self.stance * width, 0, 0]]) @ facing.T
        out = rot.yaw(np.radians([yaw + self.toe_out, yaw - self.toe_out]))
        toes = np.array([place[0], 0, place[1]]) + feet + np.einsum("sij,sj->si", out, self.toes)
        toes[:, 1] = TOE_HEIGHT
        return toes


@dataclasses.dataclass(eq=False)
class Track:
    """What an action plans, T frames of it. Angles in degrees, lengths in metres, feet in the world.

    Attributes:
      toes: [T, 2, 3] toe joints, left and right, were the feet not pitched; a planted toe does not move.
      pitch: [T, 2] of the feet. Positive raises the heel over the planted toes, negative the toes over the planted
        heel.
      foot_yaw: [T, 2] where the feet point, positive to the left.
      planted: [T, 2] feet that must reach the floor: the pelvis comes down for them.
      place: [T, 2] X and Z of the middle of the feet that the pelvis follows.
      yaw: [T] of the pelvis.
      lift: [T] of the pelvis over its standing height.
      shift: [T, 3] of the pelvis in its own heading.
      tilt: [T, 3] of the pelvis: forwards, twist to the left, side to the left.
      spine: [T, 3] of the whole spine, likewise.
      head: [T, 3] likewise.
      arms: [T, 2, 5] of both arms, in the order of `ARM_CHANNELS`.
    """

    toes: np.ndarray
    pitch: np.ndarray
    foot_yaw: np.ndarray
    planted: np.ndarray
    place: np.ndarray
    yaw: np.ndarray
    lift: np.ndarray
    shift: np.ndarray
    tilt: np.ndarray
    spine: np.ndarray
    head: np.ndarray
    arms: np.ndarray

    @classmethod
    def standing(cls, frames: int, body: Body, toes: Float[np.ndarray, "2 3"], yaw: float) -> Self:
        """A body that stands on these toes and does nothing: what actions start from."""
        zeros = np.zeros
        foot_yaw = np.tile([yaw + body.toe_out, yaw - body.toe_out], (frames, 1))
        track = cls(
            toes=np.tile(toes, (frames, 1, 1)),
            pitch=zeros((frames, 2)),
            foot_yaw=foot_yaw,
            planted=np.ones((frames, 2), bool),
            place=zeros((frames, 2)),
            yaw=np.full(frames, float(yaw)),
            lift=zeros(frames),
            shift=zeros((frames, 3)),
            tilt=zeros((frames, 3)),
            spine=np.tile([body.lean, 0.0, 0.0], (frames, 1)),
            head=np.tile([-0.7 * body.lean, 0.0, 0.0], (frames, 1)),
            arms=np.tile(body.arm, (frames, 2, 1)),
        )
        track.place = track.ankles(body).mean(1)[:, [0, 2]]
        return track

    def ankles(self, body: Body) -> Float[np.ndarray, "T 2 3"]:
        """Ankles, were the feet not pitched."""
        return self.toes - np.einsum("tsij,sj->tsi", rot.yaw(np.radians(self.foot_yaw)), body.toes)

    def arm(self, side: int, **channels: np.ndarray | float) -> None:
        """Moves channels of one arm by so much from where it hangs."""
        for name, values in channels.items():
            self.arms[:, side, ARM_CHANNELS.index(name)] += values

    def arm_to(self, side: int, share: np.ndarray, **channels: np.ndarray | float) -> None:
        """Takes channels of one arm to values, by a share [T] from 0 (hanging) to 1."""
        for name, values in channels.items():
            index = ARM_CHANNELS.index(name)
            self.arms[:, side, index] += share * (values - self.arms[:, side, index])

    def __len__(self) -> int:
        return len(self.yaw)

    def held(self, frames: int) -> Self:
        """The last frame, for so many frames."""
        return type(self)(*(np.repeat(getattr(self, f.name)[-1:], frames, axis=0) for f in dataclasses.fields(self)))

    @classmethod
    def joined(cls, tracks: list[Self]) -> Self:
        """One after the other."""
        return cls(*(np.concatenate([getattr(track, f.name) for track in tracks]) for f in dataclasses.fields(cls)))


def keys(frames: int, *points: tuple[float, float]) -> Float[np.ndarray, " T"]:
    """A smooth curve through (share of the duration, value): monotone between the points, at rest where it turns."""
    times, values = np.array(points, float).T
    curve = PchipInterpolator(times * max(frames - 1, 1), values)(np.arange(frames))
    return gaussian_filter1d(curve, min(2.0, frames / 16), mode="nearest")


def ease(x: np.ndarray) -> np.ndarray:
    """0 to 1 with the least jerk, for x from 0 to 1 (Flash and Hogan's reaching movement)."""
    x = np.clip(x, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


def heel_rise(body: Body, foot_yaw: np.ndarray, pitch: np.ndarray) -> Float[np.ndarray, "T 2 3"]:
    """How a foot whose toes are up (negative pitch) moves its toe joint from where it would lie, for the heel to stay
    on the floor."""
    heel = (-body.toes - [0, 0, HEEL_LENGTH * body.scale]) * [1, 0, 1]
    raised = heel - np.einsum("tsij,sj->tsi", _pitched(np.minimum(pitch, 0)), heel)
    return np.einsum("tsij,tsj->tsi", rot.yaw(np.radians(foot_yaw)), raised)


def toes_for_ankles(
    body: Body, ankles: np.ndarray, foot_yaw: np.ndarray, pitch: np.ndarray
) -> Float[np.ndarray, "T 2 3"]:
    """The planned toes with which the posed ankles are where they should be: [T, 2, 3] metres, for feet in the air."""
    turned = rot.yaw(np.radians(foot_yaw)) @ _pitched(pitch)
    return ankles + np.einsum("tsij,sj->tsi", turned, body.toes) - heel_rise(body, foot_yaw, pitch)


def pose_body(track: Track, body: Body, rng: np.random.Generator, **metadata) -> MotionClip:
    """The motion of a body along a track, with a little sway of its own."""
    frames = len(track)
    sway = _sway(frames, rng)
    heading = rot.yaw(np.radians(_smooth(track.yaw, 2.5)))
    pelvis = heading @ _tilted(_smooth(track.tilt, 1.0) + 0.6 * sway[:, 0:3])

    foot_yaw = _smooth(track.foot_yaw, 1.0)
    turned = rot.yaw(np.radians(foot_yaw))
    pitch = _smooth(track.pitch, 0.7)
    feet = turned @ _pitched(pitch)
    # Under a raised heel the toes stay flat on the floor, as far as they bend.
    toes = turned @ _pitched(pitch - np.clip(pitch, 0, _TOE_BEND))
    ankles = track.toes + heel_rise(body, foot_yaw, pitch) - np.einsum("tsij,sj->tsi", feet, body.toes)
    ankles[..., [0, 2]] += _FOOT_SWAY * _sway(frames, rng, 4).reshape(frames, 2, 2)

    hips = np.stack([body.offsets[JOINT_INDEX[f"{side}_hip"]] for side in SIDES])
    root = np.zeros((frames, 3))
    root[:, [0, 2]] = _smooth(track.place, 1.5)
    shift = _smooth(track.shift, 1.0) + [0, 0, _AHEAD * body.scale] + 0.004 * sway[:, 6:9] * [1, 0, 1]
    root += np.einsum("tij,tj->ti", heading, shift * [1, 0, 1])
    root[:, 1] = TOE_HEIGHT - body.toes[0, 1] + _STANDING * body.leg - hips[0, 1] + track.lift
    reach = body.leg * _REACH
    root[:, 1] -= _too_high(_hips(root, pelvis, hips), ankles, reach, track.planted)
    hip_positions = _hips(root, pelvis, hips)
    # A foot in the air comes along where the leg is too short for its plan.
    leg = ankles - hip_positions
    ankles = hip_positions + leg * np.minimum(1, reach / np.linalg.norm(leg, axis=-1, keepdims=True))

    rotations = np.broadcast_to(np.eye(3), (frames, NUM_JOINTS, 3, 3)).copy()
    rotations[:, 0] = pelvis
    arms = track.arms + 1.5 * np.stack([sway[:, 9:12], sway[:, 12:15]], 1)[..., [0, 1, 1, 2, 2]] * [1, 0.4, 0, 1, 1.5]
    for index, side in enumerate(SIDES):
        across = turned[:, index, :, 0] + pelvis[:, :, 0]
        thigh, shin = _leg(hip_positions[:, index], ankles[:, index], across, body, side)
        chain = [pelvis, thigh, shin, feet[:, index], toes[:, index]]
        for joint, (parent, child) in zip(("hip", "knee", "ankle", "foot"), pairwise(chain), strict=True):
            rotations[:, JOINT_INDEX[f"{side}_{joint}"]] = np.swapaxes(parent, -1, -2) @ child
        for joint, values in zip(("collar", "shoulder", "elbow", "wrist"), _arm(arms[:, index], index), strict=True):
            rotations[:, JOINT_INDEX[f"{side}_{joint}"]] = values
    spine = track.spine + sway[:, 3:6]
    for joint in ("spine1", "spine2", "spine3"):
        rotations[:, JOINT_INDEX[joint]] = _tilted(spine / 3)
    for joint in ("neck", "head"):
        rotations[:, JOINT_INDEX[joint]] = _tilted((track.head - 0.8 * sway[:, 3:6] + 1.5 * sway[:, 15:18]) / 2)
    return MotionClip.from_rotations(rotations, root, body.offsets, **metadata)


def _smooth(values: np.ndarray, frames: float) -> np.ndarray:
    return gaussian_filter1d(values, frames, axis=0, mode="nearest")


def _hips(root: np.ndarray, pelvis: np.ndarray, hips: np.ndarray) -> Float[np.ndarray, "T 2 3"]:
    return root[:, None] + np.einsum("tij,sj->tsi", pelvis, hips)


def _too_high(
    hips: np.ndarray, ankles: np.ndarray, reach: float, planted: Bool[np.ndarray, "T 2"]
) -> Float[np.ndarray, " T"]:
    """How far the pelvis must come down so that planted feet are within reach; smooth, and never less than needed."""
    across = np.linalg.norm((ankles - hips)[..., [0, 2]], axis=-1)
    highest = ankles[..., 1] + np.sqrt(np.maximum(reach**2 - across**2, 0.01))
    need = np.where(planted, np.maximum(hips[..., 1] - highest, 0), 0).max(1)
    # A running maximum before the smoothing keeps the smoothed curve above every single need.
    return np.maximum(_smooth(maximum_filter1d(need, 11, mode="nearest"), 1.8), need)


def _leg(
    hip: np.ndarray, ankle: np.ndarray, across: np.ndarray, body: Body, side: str
) -> tuple[Float[np.ndarray, "T 3 3"], Float[np.ndarray, "T 3 3"]]:
    """World rotations of thigh and shin of a knee that bends about `across`, and so always forwards."""
    upper, lower = (body.offsets[JOINT_INDEX[f"{side}_{joint}"]] for joint in ("knee", "ankle"))
    a, b = np.linalg.norm(upper), np.linalg.norm(lower)
    line = ankle - hip
    c = np.clip(np.linalg.norm(line, axis=-1), abs(a - b) + 1e-3, a + b - 1e-6)
    u = line / np.linalg.norm(line, axis=-1, keepdims=True)
    hinge = across - (across * u).sum(-1, keepdims=True) * u
    hinge /= np.linalg.norm(hinge, axis=-1, keepdims=True)
    ahead = np.cross(u, hinge)
    cos = (a**2 + c**2 - b**2) / (2 * a * c)
    knee = hip + a * (cos[:, None] * u + np.sqrt(np.maximum(1 - cos**2, 0))[:, None] * ahead)
    return _bone_rotation(upper, knee - hip, hinge), _bone_rotation(lower, ankle - knee, hinge)


def _bone_rotation(rest: np.ndarray, bone: np.ndarray, hinge: np.ndarray) -> Float[np.ndarray, "T 3 3"]:
    """The world rotation that takes a rest bone to `bone` and the X axis, as nearly as it can, to `hinge`."""
    return _frame(bone, hinge) @ _frame(rest[None], np.array([[1.0, 0, 0]]))[0].T


def _frame(bone: np.ndarray, hinge: np.ndarray) -> Float[np.ndarray, "T 3 3"]:
    y = -bone / np.linalg.norm(bone, axis=-1, keepdims=True)
    x = hinge - (hinge * y).sum(-1, keepdims=True) * y
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], -1)


def _pitched(degrees: np.ndarray) -> Float[np.ndarray, "*n 3 3"]:
    """Rotations about X; positive takes +Z down."""
    angles = np.radians(degrees)
    cos, sin, zero, one = np.cos(angles), np.sin(angles), np.zeros_like(angles), np.ones_like(angles)
    return np.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], -1).reshape(*angles.shape, 3, 3)


def _tilted(degrees: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, "T 3 3"]:
    """Rotations from (forwards, twist to the left, side to the left)."""
    forwards, twist, side = np.moveaxis(degrees, -1, 0)
    return rot.from_euler("YXZ", np.stack([twist, forwards, -side], -1))


def _arm(channels: Float[np.ndarray, "T 5"], side: int) -> list[Float[np.ndarray, "T 3 3"]]:
    """Local rotations of collar, shoulder, elbow and wrist. Written for the left arm; the right one is its mirror
    image."""
    flexion, abduction, twist, elbow, wrist = np.moveaxis(channels, -1, 0)
    zero = np.zeros_like(flexion)
    # An arm above the shoulder takes the collar along, a sixth of the way.
    raised = np.logaddexp(0, (np.hypot(flexion, abduction) - 60) / 8) * 8 / 6
    parts = [
        rot.from_euler("XYZ", np.stack([zero, zero, raised], -1)),
        rot.from_euler("XZX", np.stack([-flexion, abduction - 90 - raised * np.cos(np.radians(flexion)), twist], -1)),
        rot.from_euler("XYZ", np.stack([zero, -elbow, zero], -1)),
        rot.from_euler("XYZ", np.stack([zero, zero, wrist], -1)),
    ]
    if side == RIGHT:
        flip = np.diag([-1.0, 1, 1])
        parts = [flip @ part @ flip for part in parts]
    return parts


_SWAY = ((0.15, 0.3, 1.0), (0.25, 0.5, 0.6), (0.4, 0.9, 0.3), (3.0, 5.0, 0.2), (5.0, 8.0, 0.125))
"""Of what nobody holds still: lowest and highest frequency in Hz, and amplitude. Breath and balance are slow; the last
two are tremor, with which feet that stand move by 0.9 cm/s and joints jerk by 72 m/s^3: 1.0 and 84 in recordings."""


def _sway(frames: int, rng: np.random.Generator, channels: int = 18) -> Float[np.ndarray, "T C"]:
    """Noise of about unit size: sums of sines."""
    lowest, highest, amplitudes = np.array(_SWAY).T[..., None]
    frequencies = rng.uniform(lowest, highest, (len(_SWAY), channels))
    phases = rng.uniform(0, 2 * np.pi, frequencies.shape)
    time = np.arange(frames)[:, None, None] / FPS
    return (np.sin(2 * np.pi * frequencies * time + phases) * amplitudes).sum(1)
