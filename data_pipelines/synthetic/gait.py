"""How the bodies get about: steps planned foot by foot. Each gait starts and ends standing, from where the feet are."""

import dataclasses
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d

from data_pipelines.synthetic.body import LEFT, RIGHT, Body, Track, ease, keys
from llamo_jax.motion import FPS
from llamo_jax.motion import rotations as rot

GRAVITY = 9.81

_SWING = 0.8
"""Share of a step for which a foot is in the air; for the rest both feet carry."""


@dataclasses.dataclass(eq=False)
class Plan:
    """A body about to act: where its feet are, where it faces, and what varies.

    Attributes:
      body: whose.
      toes: [2, 3] toe joints, metres.
      yaw: degrees.
      pace: how fast it acts; 1 is normal.
      size: how large its movements are; 1 is usual.
      rng: draws what else varies.
      short: whether another action follows or went before, and this one is kept short.
    """

    body: Body
    toes: Float[np.ndarray, "2 3"]
    yaw: float
    pace: float
    size: float
    rng: np.random.Generator
    short: bool = False

    @property
    def scale(self) -> float:
        """Leg length over the default body's."""
        return self.body.scale

    @property
    def place(self) -> Float[np.ndarray, " 2"]:
        """X and Z between the ankles."""
        return Track.standing(1, self.body, self.toes, self.yaw).place[0]

    def stand(self, seconds: float) -> Track:
        """A track of this many seconds at the normal pace, in which nothing happens yet."""
        return self.stand_exactly(seconds / self.pace)

    def stand_exactly(self, seconds: float) -> Track:
        """A track of this many seconds, in which nothing happens yet."""
        return Track.standing(max(round(seconds * FPS), 12), self.body, self.toes, self.yaw)


@dataclasses.dataclass(frozen=True)
class _Manner:
    """How feet are lifted and set down, in degrees and metres.

    Attributes:
      lift: of the toes, half-way.
      push: pitch of a foot as it leaves.
      strike: pitch of a foot as it lands.
      bob: of the pelvis, up and down.
      sway: of the pelvis over the foot that carries.
    """

    lift: float
    push: float
    strike: float
    bob: float
    sway: float


_MANNERS = {
    "forward": _Manner(lift=0.045, push=44, strike=-18, bob=0.013, sway=0.016),
    "backward": _Manner(lift=0.05, push=-8, strike=24, bob=0.006, sway=0.02),
    "sideways": _Manner(lift=0.06, push=12, strike=8, bob=0.006, sway=0.02),
    "turn": _Manner(lift=0.05, push=14, strike=6, bob=0.005, sway=0.025),
}

_Landing = tuple[int, Float[np.ndarray, "3"], float]
"""Side, toe joint and yaw of a foot set down."""


def walk(plan: Plan, *, direction: str = "forward", turn: float = 0.0) -> Track:
    """Steps forwards, backwards, or sideways ("left", "right"), on a curve of `turn` degrees in all."""
    rng = plan.rng
    manner = direction if direction in ("forward", "backward") else "sideways"
    # Who walks fast takes longer steps, not only quicker ones.
    stride = {"forward": 0.64, "backward": 0.42, "sideways": 0.36}[manner] * plan.size * plan.scale * plan.pace**0.4
    period = {"forward": 0.55, "backward": 0.62, "sideways": 0.5}[manner] / plan.pace**0.6
    if plan.short:
        steps = 4 if manner == "sideways" else int(rng.integers(3, 5))
    else:
        # However slow, no walk lasts much longer than five seconds.
        most = min(7, int(4.4 / period))
        steps = 2 * int(rng.integers(2, most // 2 + 1)) if manner == "sideways" else int(rng.integers(4, most + 1))
    first = {"left": LEFT, "right": RIGHT}.get(direction, int(rng.integers(2)))
    place, yaw, landings = plan.place, plan.yaw, []
    ahead = {"forward": 0.0, "backward": 180.0, "left": 90.0, "right": -90.0}[direction]
    for step in range(steps):
        last = step == steps - 1
        # The first step is short and the last brings the feet together, both pointing the same way; sideways every
        # second step closes.
        yaw += 0.0 if last else turn / (steps - 1)
        share = 0.0 if last or (manner == "sideways" and step % 2) else 0.75 if step == 0 else 1.0
        going = rot.yaw(np.radians(yaw + ahead)) @ [0, 0, 1.0]
        place = place + going[[0, 2]] * stride * share
        side = (first + step) % 2
        width = 0.7 if manner in ("forward", "backward") and not last and step < steps - 2 else 1.0
        landings.append((side, plan.body.stand(place, yaw, width)[side], yaw))
    track = _stepping(plan, landings, period, _MANNERS[manner])
    if manner != "sideways":
        _swing_arms(track, plan, landings, period, backward=manner == "backward")
    return track


def turn(plan: Plan, *, degrees: float) -> Track:
    """Turns on the spot in small steps, positive to the left; the foot on the inner side goes first."""
    pairs = max(2, round(abs(degrees) / 60))
    first = LEFT if degrees > 0 else RIGHT
    landings = []
    for step in range(2 * pairs):
        yaw = plan.yaw + degrees * (step // 2 + 1) / pairs
        side = (first + step) % 2
        landings.append((side, plan.body.stand(plan.place, yaw)[side], yaw))
    period = 0.42 / plan.pace
    track = _stepping(plan, landings, period, _MANNERS["turn"])
    # The head looks where the body is about to face.
    time = np.arange(len(track))
    ahead = np.interp(time + 0.25 / plan.pace * FPS, time, track.yaw) - track.yaw
    track.head[:, 1] += 0.7 * ahead
    track.spine[:, 1] += 0.25 * ahead
    return track


def _stepping(plan: Plan, landings: list[_Landing], period: float, manner: _Manner) -> Track:
    """Puts the feet down one after the other; between, one foot swings and the other carries."""
    steps, pause = len(landings), 0.3 / plan.pace**0.5
    track = plan.stand_exactly(2 * pause + steps * period)
    time = np.arange(len(track)) / FPS
    phase = np.clip((time - pause) / period, 0, steps)
    first = landings[0][0]
    toes, yaws = plan.toes.copy(), [plan.yaw, plan.yaw]
    usual = max(np.linalg.norm(after[1] - before[1]) for before, after in pairwise(landings)) * 1.5
    for step, (side, target, yaw) in enumerate(landings):
        share = np.clip((phase - step) / _SWING, 0, 1)
        going, moving = phase >= step, _swung(share)
        track.toes[going, side] = (toes[side] + moving[:, None] * (target - toes[side]))[going]
        track.foot_yaw[going, side] += (moving * (yaw - yaws[side]))[going]
        track.planted[:, side] &= (share <= 0) | (share >= 1)
        # A heel rises before its toes leave. Short steps take less of it, and lift the whole foot instead.
        amount = min(np.linalg.norm(target - toes[side]) / usual, 1.1)
        lift = manner.lift * plan.scale * (1.6 - 0.6 * min(amount, 1))
        track.toes[going, side, 1] += (lift * np.sin(np.pi * share) ** 2)[going]
        times = step + np.array([-0.42, 0.0, 0.1, 0.6 * _SWING, 0.93 * _SWING, _SWING, _SWING + 0.16])
        pitches = amount * np.array(
            [0, 0.75 * manner.push, manner.push, 0.1 * manner.push, manner.strike, 0.9 * manner.strike, 0]
        )
        track.pitch[:, side] += PchipInterpolator(times, pitches, extrapolate=False)(
            np.clip((time - pause) / period, times[0], times[-1])
        )
        toes[side], yaws[side] = target, yaw
    track.yaw = PchipInterpolator(
        [0, *(np.arange(steps) + 0.75), steps + 1.0], [plan.yaw, *(y for *_, y in landings), yaw]
    )(phase)
    track.place = _followed(track, plan.body, 0.42 * period)
    inside = np.sin(np.pi * np.clip(phase, 0, 1) / 2) * np.sin(np.pi * np.clip(steps - phase, 0, 1) / 2)
    carried = np.sin(np.pi * (phase - 0.5 * (_SWING - 1))) * (1 if first == RIGHT else -1) * inside
    track.shift[:, 0] = manner.sway * plan.scale * carried
    track.tilt[:, 2], track.spine[:, 2] = -2.5 * carried, 2.5 * carried
    # Highest over the leg that carries, half-way through the swing of the other.
    track.lift = plan.scale * (manner.bob * np.cos(2 * np.pi * (phase - _SWING / 2)) - 0.012) * inside
    return track


def _swing_arms(track: Track, plan: Plan, landings: list[_Landing], period: float, *, backward: bool) -> None:
    """Arms swing with the legs of the other side; the pelvis turns with the legs and the chest with the arms."""
    steps, pause = len(landings), 0.3 / plan.pace**0.5
    phase = np.clip((np.arange(len(track)) / FPS - pause) / period, 0, steps)
    inside = np.sin(np.pi * np.clip(phase, 0, 1) / 2) * np.sin(np.pi * np.clip(steps - phase, 0, 1) / 2)
    # 1 where the left leg is farthest in front: after it landed, before the other leaves.
    leading = (
        np.cos(np.pi * (phase - (1 + _SWING) / 2))
        * inside
        * (1 if landings[0][0] == LEFT else -1)
        * (-1 if backward else 1)
    )
    amount = plan.size * plan.pace**0.5 * (0.45 if backward else 1.0)
    track.tilt[:, 1] = -4 * leading * amount
    track.spine[:, 1] += 7 * leading * amount
    track.head[:, 1] -= 3 * leading * amount
    track.spine[:, 0] += (-2 if backward else 3 * plan.pace) * inside
    for side, sign in ((LEFT, -1), (RIGHT, 1)):
        swing = sign * leading * amount * plan.body.swing
        track.arm(side, flexion=21 * swing, elbow=6 * inside + 11 * swing)


def run(plan: Plan) -> Track:
    """Runs forwards, both feet off the floor between the steps; starts and stops within two steps."""
    period, pause = 0.36 / plan.pace**0.4, 0.3
    stride = 1.02 * plan.size * plan.scale * plan.pace**0.6
    steps = int(plan.rng.integers(6, 8) if plan.short else plan.rng.integers(8, 11))
    first = int(plan.rng.integers(2))
    track = plan.stand_exactly(2 * pause + (steps + 0.3) * period)
    time = np.arange(len(track)) / FPS
    phase = (time - pause) / period
    going = (rot.yaw(np.radians(plan.yaw)) @ [0, 0, 1.0])[[0, 2]]
    speeds = np.clip(np.minimum((np.arange(steps) + 1) / 2, (steps - np.arange(steps) - 1) / 2.5), 0, 1)
    # Foot k lands at phase k + 1. Both feet are off the floor before that, or, in slow steps, neither.
    flights = 0.42 * speeds - 0.12 * (1 - speeds)
    toes, place, leaves = plan.toes.copy(), plan.place, 0.2
    for step, speed in enumerate(speeds):
        side = (first + step) % 2
        place = place + going * stride * speed
        target = plan.body.stand(place, plan.yaw, 1 - 0.6 * speed)[side]
        share = np.clip((phase - leaves) / (step + 1 - leaves), 0, 1)
        gone = phase >= leaves
        track.toes[gone, side] = (toes[side] + _swung(share)[:, None] * (target - toes[side]))[gone]
        height = PchipInterpolator([0, 0.38, 0.75, 1], [0, 1, 0.3, 0])(share)
        track.toes[gone, side, 1] += ((0.05 + 0.2 * speed * plan.size) * plan.scale * height)[gone]
        track.planted[:, side] &= (share <= 0) | (share >= 1)
        pushed = speeds[max(step - 1, 0)] * 0.5 + speed * 0.5
        swing = step + 1 - leaves
        times = np.array([leaves - 0.45, leaves, leaves + 0.25 * swing, leaves + 0.75 * swing, step + 1.0, step + 1.12])
        pitches = np.array([0, 50 * pushed, 78 * pushed, 8 * speed, -6 * speed, 0])
        track.pitch[:, side] += PchipInterpolator(times, pitches)(np.clip(phase, times[0], times[-1]))
        toes[side], leaves = target, step + 1 - flights[step]
    phase = np.clip(phase, 0, steps)
    inside = ease(np.interp(phase, [0.2, 2.2, steps - 2.0, steps], [0, 1, 1, 0]))
    # In flight the pelvis falls freely, so its rise and fall at one hertz has one size: g / (2 pi f)^2.
    rise = 0.9 * GRAVITY * (period / (2 * np.pi)) ** 2
    track.lift = (-0.055 * plan.scale + rise * np.cos(2 * np.pi * (phase + 0.21))) * inside
    track.place = _followed(track, plan.body, 0.62 * period)
    track.shift[:, 2] = 0.07 * plan.scale * inside
    leading = np.cos(np.pi * phase) * inside * (-1 if first == LEFT else 1)
    track.tilt[:, 0], track.tilt[:, 1] = 5 * inside, -6 * leading
    track.spine[:, 0] += 6 * inside * plan.pace
    track.spine[:, 1] += 11 * leading
    track.head[:, 0] -= 8 * inside
    track.head[:, 1] -= 5 * leading
    for side, sign in ((LEFT, -1), (RIGHT, 1)):
        swing = sign * leading * plan.size * plan.body.swing**0.5
        track.arm(side, flexion=2 * inside + 38 * swing, elbow=65 * inside + 10 * swing, abduction=4 * inside)
    return track


def jump(plan: Plan, *, count: int) -> Track:
    """Jumps on the spot: crouch, flight under gravity, landing."""
    parts = []
    for number in range(count):
        apex = plan.rng.uniform(0.16, 0.3) * plan.size * plan.scale
        depth = plan.rng.uniform(0.2, 0.27) * plan.scale
        speed = np.sqrt(2 * GRAVITY * apex)
        more = number < count - 1
        seconds = {
            "wait": 0.2 if number == 0 else 0.02, "down": 0.36, "push": 1.9 * depth / speed,
            "flight": 2 * speed / GRAVITY,
            "land": 0.2, "up": 0.24 if more else 0.45, "rest": 0.02 if more else 0.2,
        }  # fmt: skip
        ends = np.cumsum(list(seconds.values()))
        waited, down, off, landed, low, up, _ = ends
        track = plan.stand_exactly(ends[-1])
        time = np.arange(len(track)) / FPS
        top = 0.05 * plan.scale  # on the toes, at take-off
        lift = np.zeros(len(track))
        for begin, end, y0, y1, v0, v1 in (
            (waited, down, 0.0, -depth, 0.0, 0.0),
            (down, off, -depth, top, 0.0, speed),
            (off, landed, top, top, speed, -speed),
            (landed, low, top, -0.75 * depth, -speed, 0.0),
            (low, up, -0.75 * depth, 0.0, 0.0, 0.0),
        ):
            now = (time >= begin) & (time < end)
            lift[now] = _hermite((time[now] - begin) / (end - begin), y0, y1, v0 * (end - begin), v1 * (end - begin))
        track.lift = lift
        air = (time >= off) & (time < landed)
        tuck = 0.06 * plan.scale * np.sin(np.pi * np.clip((time - off) / (landed - off), 0, 1)) ** 2
        track.toes[:, :, 1] += (np.where(air, np.maximum(lift - top, 0), 0) + tuck)[:, None]
        track.planted[air] = False
        at = ends / ends[-1]
        toe_off, toe_on = at[2], at[3]
        pitch = keys(len(track), (0, 0), (0.4 * at[1] + 0.6 * toe_off, 0), (toe_off, 42),
        (0.4 * toe_off + 0.6 * toe_on, 48), (toe_on, 30),
                     (0.5 * (toe_on + at[4]), 0), (1, 0))  # fmt: skip
        track.pitch[:] = np.maximum(pitch, 0)[:, None]
        lean = keys(len(track), (0, 0), (at[0], 0), *zip(at[1:5], (44, 2, 6, 34), strict=True), (at[5], 0), (1, 0))
        track.tilt[:, 0] = 0.6 * lean
        track.spine[:, 0] += 0.5 * lean
        track.head[:, 0] -= 0.6 * lean
        track.shift[:, 2] = -0.0026 * plan.scale * lean
        swing = keys(len(track), (0, 0), (at[0], 0), *zip(at[1:5], (-42, 95, 60, 8), strict=True), (at[5], 0), (1, 0))
        for side in (LEFT, RIGHT):
            track.arm(side, flexion=swing, elbow=0.3 * np.abs(swing), abduction=0.12 * np.abs(swing))
        parts.append(track)
    return Track.joined(parts)


def _swung(share: np.ndarray) -> np.ndarray:
    """How far a swinging foot has come, 0 to 1: faster at once than with the least jerk, and so with a lower peak, as
    legs do."""
    x = np.clip(share, 0, 1)
    return 0.5 * (ease(x) + x**2 * (3 - 2 * x))


def _hermite(x: np.ndarray, y0: float, y1: float, d0: float, d1: float) -> np.ndarray:
    """Cubic with these values and slopes at x = 0 and 1; between equal heights and opposite speeds it is the parabola
    of free fall."""
    return (2 * x**3 - 3 * x**2 + 1) * y0 + (x**3 - 2 * x**2 + x) * d0 + (3 * x**2 - 2 * x**3) * y1 + (x**3 - x**2) * d1


def _followed(track: Track, body: Body, seconds: float) -> Float[np.ndarray, "T 2"]:
    """The place between the ankles, followed so slowly that steps become an even pace; at rest at both ends."""
    return gaussian_filter1d(track.ankles(body).mean(1)[:, [0, 2]], seconds * FPS, axis=0, mode="nearest", truncate=2.0)
