"""What the bodies can do. Each action plans a `Track` from where the feet are; all but sitting down end standing."""

from collections.abc import Callable

import numpy as np

from data_pipelines.synthetic.body import LEFT, RIGHT, TOE_HEIGHT, Track, keys, toes_for_ankles
from data_pipelines.synthetic.gait import Plan, jump, run, turn, walk
from llamo_jax.motion import FPS
from llamo_jax.motion import rotations as rot


def wave(plan: Plan, *, sides: tuple[int, ...]) -> Track:
    """Waves raised hands from side to side."""
    track = plan.stand(plan.rng.uniform(2.6, 3.3))
    frames = len(track)
    up = keys(frames, (0, 0), (0.06, 0), (0.28, 1), (0.78, 1), (0.97, 0), (1, 0))
    rate = plan.rng.uniform(1.5, 1.9) * plan.pace
    swing = np.sin(2 * np.pi * rate * np.arange(frames) / FPS + plan.rng.uniform(0, 6)) * np.clip(
        (up - 0.6) / 0.4, 0, 1
    )
    abduction, twist, elbow = plan.rng.uniform(62, 92), plan.rng.uniform(-80, -64), plan.rng.uniform(72, 92)
    for side in sides:
        bend = elbow + 24 * plan.size * swing
        track.arm_to(
            side, up, flexion=14 + 4 * swing, abduction=abduction + 4 * swing, twist=twist, elbow=bend, wrist=12 * swing
        )
    lean = {(LEFT,): -1.0, (RIGHT,): 1.0}.get(sides, 0.0)
    track.spine[:, 2] = 3.5 * lean * up
    track.shift[:, 0] = 0.015 * lean * up
    return track


def raise_hands(plan: Plan, *, sides: tuple[int, ...]) -> Track:
    """Raises hands over the head, holds them, and lowers them."""
    track = plan.stand(plan.rng.uniform(2.3, 2.9))
    up = keys(len(track), (0, 0), (0.07, 0), (0.36, 1), (0.64, 1), (0.94, 0), (1, 0))
    top, wide = plan.rng.uniform(155, 172), plan.rng.uniform(6, 16)
    for side in sides:
        track.arm_to(side, up, flexion=top, elbow=8, abduction=wide)
        track.arm(side, elbow=20 * np.sin(np.pi * up))
    track.spine[:, 0] -= 4 * up
    track.head[:, 0] -= 8 * up
    lean = {(LEFT,): -1.0, (RIGHT,): 1.0}.get(sides, 0.0)
    track.spine[:, 2] = 4 * lean * up
    return track


def kick(plan: Plan, *, side: int, count: int) -> Track:
    """Kicks forwards: the leg swings back, the knee comes up, the shin snaps ahead, and the foot returns to its
    place."""
    parts = []
    for number in range(count):
        track = plan.stand(plan.rng.uniform(1.55, 1.8))
        frames, other, body = len(track), 1 - side, plan.body
        high = plan.size**0.5 * plan.rng.uniform(0.94, 1.1)
        air = keys(frames, (0, 0), (0.1, 0), (0.26, 1), (0.68, 1), (0.84, 0), (1, 0))
        hip = keys(
            frames, (0, 0), (0.1, 0), (0.27, -16), (0.41, 54 * high), (0.53, 86 * high), (0.66, 38), (0.84, 4), (1, 4)
        )
        knee = keys(frames, (0, 12), (0.1, 14), (0.27, 52), (0.39, 92), (0.53, 8), (0.65, 54), (0.82, 30), (1, 12))
        # The leg in the air is posed by its angles, from where the hip will be.
        place = track.ankles(body)[:, other, [0, 2]]
        facing = rot.yaw(np.radians(plan.yaw))
        apart = (LEFT, RIGHT).index(side) * -2 + 1
        shin = np.radians(hip - knee)
        a, b = body.bone("knee"), body.bone("ankle")
        down = np.stack([
            np.full(frames, apart * (0.13 * plan.scale)),
            -a * np.cos(np.radians(hip)) - b * np.cos(shin),
            a * np.sin(np.radians(hip)) + b * np.sin(shin) + 0.02,
        ], -1)  # fmt: skip
        hip_height = track.ankles(body)[0, 0, 1] + 0.985 * body.leg
        ankles = track.ankles(body)
        ankles[:, side] = np.stack([place[:, 0], np.full(frames, hip_height), place[:, 1]], -1) + down @ facing.T
        pitch = np.zeros((frames, 2))
        pitch[:, side] = np.clip(-0.9 * np.degrees(shin) + 22 * np.clip(hip / 86, 0, 1), -60, 70)
        flying = toes_for_ankles(body, ankles, track.foot_yaw, pitch)
        # It leaves the floor and comes down upright, and clears it between.
        flying[..., 1] = TOE_HEIGHT + 0.01 * np.logaddexp(0, (flying[..., 1] - TOE_HEIGHT) / 0.01)
        up = keys(frames, (0, 0), (0.07, 0), (0.2, 1), (0.72, 1), (0.94, 0), (1, 0))
        track.toes[:, side] += air[:, None] * (flying[:, side] - track.toes[:, side])
        track.toes[:, side, 1] += 0.03 * up
        track.pitch = air[:, None] * pitch
        track.planted[:, side] = up < 1e-2
        # Weight shifts onto the foot that carries, before the other leaves the floor.
        begin = 0.0 if number == 0 else -0.1
        weight = keys(frames, (0, max(-begin * 5, 0)), (0.15, 1), (0.8, 1), (1, 0.4 if number < count - 1 else 0))
        track.place += weight[:, None] * 0.85 * (place - track.place)
        lean = keys(frames, (0, 0), (0.1, 0), (0.3, 6), (0.53, -13), (0.8, 0), (1, 0))
        track.tilt[:, 0] = lean
        track.spine[:, 0] += 0.5 * lean
        track.head[:, 0] -= lean
        forth = hip / 86
        track.tilt[:, 1] = (1 if side == RIGHT else -1) * 10 * air * np.clip(forth, 0, 1)
        counter = np.clip(forth, -0.3, 1) * air
        track.arm(other, flexion=45 * counter, elbow=28 * air, abduction=14 * air)
        track.arm(side, flexion=-28 * counter, elbow=24 * air, abduction=20 * air)
        track.lift = -0.012 * plan.scale * air
        parts.append(track)
    return Track.joined(parts)


def squat(plan: Plan, *, count: int) -> Track:
    """Squats with the feet where they are and the arms held out in front for balance."""
    parts = []
    for _ in range(count):
        track = plan.stand(plan.rng.uniform(1.7, 2.0) * (1.0 if count == 1 else 0.9))
        down = keys(len(track), (0, 0), (0.06, 0), (0.46, 1), (0.56, 1), (0.95, 0), (1, 0))
        deep = plan.rng.uniform(0.9, 1.1) * plan.size
        track.lift = -0.4 * deep * plan.scale * down
        track.shift[:, 2] = -0.17 * plan.scale * down
        track.tilt[:, 0] = 24 * deep * down
        track.spine[:, 0] += 14 * deep * down
        track.head[:, 0] -= 22 * deep * down
        for side in (LEFT, RIGHT):
            track.arm_to(side, down, flexion=84 + 38 * deep, elbow=8, abduction=6)
        parts.append(track)
    return Track.joined(parts)


def sit(plan: Plan) -> Track:
    """Sits down as on a chair and stays."""
    track = plan.stand(plan.rng.uniform(2.5, 3.1))
    down = keys(len(track), (0, 0), (0.08, 0), (0.58, 1), (1, 1))
    moving = keys(len(track), (0, 0), (0.05, 0), (0.34, 1), (0.7, 0), (1, 0))
    track.lift = -plan.rng.uniform(0.365, 0.4) * plan.scale * down
    track.shift[:, 2] = -0.37 * plan.scale * down
    track.tilt[:, 0] = 24 * moving - 4 * down
    track.spine[:, 0] += 18 * moving + 6 * down
    track.head[:, 0] -= 20 * moving + 2 * down
    for side in (LEFT, RIGHT):
        # Hands come to rest on the thighs.
        track.arm_to(side, down, flexion=22, elbow=34, abduction=5)
        track.arm(side, flexion=26 * moving)
    return track


def bow(plan: Plan, *, count: int) -> Track:
    """Bends the trunk forwards from the hips with nearly straight legs."""
    parts = []
    hang = plan.rng.uniform(0.3, 0.8)
    for _ in range(count):
        track = plan.stand(plan.rng.uniform(1.9, 2.3) * (1.0 if count == 1 else 0.85))
        down = keys(len(track), (0, 0), (0.06, 0), (0.42, 1), (0.6, 1), (0.95, 0), (1, 0))
        angle = plan.rng.uniform(48, 66) * plan.size
        track.tilt[:, 0] = 0.58 * angle * down
        track.spine[:, 0] += 0.5 * angle * down
        track.head[:, 0] += 0.15 * angle * down
        track.shift[:, 2] = -0.0022 * angle * plan.scale * down
        for side in (LEFT, RIGHT):
            # Arms hang: they do not swing out with the trunk.
            track.arm(side, flexion=hang * angle * down, elbow=-4 * down)
        parts.append(track)
    return Track.joined(parts)


def stand(plan: Plan) -> Track:
    """Stands, shifts the weight and looks about a little."""
    track = plan.stand(plan.rng.uniform(1.6, 2.2) if plan.short else plan.rng.uniform(2.2, 3.6))
    drift, gaze = (
        keys(len(track), (0, 0), (0.33, plan.rng.uniform(-1, 1)), (0.67, plan.rng.uniform(-1, 1)), (1, 0))
        for _ in range(2)
    )
    track.shift[:, 0] = 0.025 * drift
    track.tilt[:, 2] = -1.5 * drift
    track.spine[:, 2] = 0.5 * drift
    track.head[:, 1] = 14 * gaze
    return track


_SIDES = {"left": (LEFT,), "right": (RIGHT,), "both": (LEFT, RIGHT)}
_SIGNS = {"none": 0, "left": 1, "right": -1}

ACTIONS: dict[str, Callable[[Plan, str, int], Track]] = {
    "walk": lambda plan, side, count: walk(plan, turn=_SIGNS[side] * plan.rng.uniform(60, 100)),
    "walk_backward": lambda plan, side, count: walk(plan, direction="backward"),
    "sidestep": lambda plan, side, count: walk(plan, direction=side),
    "run": lambda plan, side, count: run(plan),
    "turn": lambda plan, side, count: turn(
        plan, degrees=_SIGNS[side] * plan.rng.uniform(80, 120 if plan.short else 180)
    ),
    "jump": lambda plan, side, count: jump(plan, count=count),
    "wave": lambda plan, side, count: wave(plan, sides=_SIDES[side]),
    "raise": lambda plan, side, count: raise_hands(plan, sides=_SIDES[side]),
    "kick": lambda plan, side, count: kick(plan, side=_SIDES[side][0], count=count),
    "squat": lambda plan, side, count: squat(plan, count=count),
    "bow": lambda plan, side, count: bow(plan, count=count),
    "sit": lambda plan, side, count: sit(plan),
    "stand": lambda plan, side, count: stand(plan),
}
"""Action -> (plan, side, count) -> track."""
