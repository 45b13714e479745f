"""Rigs of every kind, made by formulas: a known motion on a skeleton with other names, axes, units, rest poses, joints
and rates, as a BVH file holds it."""

import dataclasses

import numpy as np

from llamo_jax.motion import MotionClip
from llamo_jax.motion import rotations as rot
from llamo_jax.motion.axes import to_y_up
from llamo_jax.motion.bvh import Bvh
from llamo_jax.motion.skeleton import JOINT_INDEX, JOINT_NAMES, PARENTS, pose

PARTS = ("pelvis", "spine1", "spine2", "spine3", "neck", "head", "hip", "knee", "ankle", "foot", "collar", "shoulder",
         "elbow", "wrist")  # fmt: skip

# Names of the 14 parts in the order of PARTS, and how a sided name is put together.
RIGS: dict[str, tuple[str, str]] = {
    "Mixamo": ("Hips Spine Spine1 Spine2 Neck Head UpLeg Leg Foot ToeBase Shoulder Arm ForeArm Hand",
               "mixamorig:{Side}{name}"),
    "LAFAN1": ("Hips Spine Spine1 Spine2 Neck Head UpLeg Leg Foot Toe Shoulder Arm ForeArm Hand", "{Side}{name}"),
    "Biped": ("Pelvis Spine Spine1 Spine2 Neck Head Thigh Calf Foot Toe0 Clavicle UpperArm Forearm Hand",
              "Bip01 {S} {name}"),
    "3ds Max": ("Pelvis Spine Spine1 Spine2 Neck Head Thigh Calf Foot Toe0 Clavicle UpperArm Forearm Hand",
                "Bip001 {S} {name}"),
    "MotionBuilder": ("Hips Spine Spine1 Spine2 Neck Head UpLeg Leg Foot ToeBase Shoulder Arm ForeArm Hand",
                      "Character1_{Side}{name}"),
    "ASF": ("hip lowerback upperback thorax lowerneck head femur tibia foot toes clavicle humerus radius wrist",
            "{s}{name}"),
    "underscored": ("Pelvis Spine Spine1 Spine2 Neck Head Thigh Calf Foot Toe0 Clavicle UpperArm Forearm Hand",
                    "{name}_{S}"),
    "SMPL": (" ".join(PARTS), "{side}_{name}"),
    "SMPL FBX": ("Pelvis Spine1 Spine2 Spine3 Neck Head Hip Knee Ankle Foot Collar Shoulder Elbow Wrist",
                 "f_avg_{S}_{name}"),
    "Unreal": ("pelvis spine_01 spine_02 spine_03 neck_01 head thigh calf foot ball clavicle upperarm lowerarm hand",
               "{name}_{s}"),
    "VRoid": ("Hips Spine Chest UpperChest Neck Head UpperLeg LowerLeg Foot ToeBase Shoulder UpperArm LowerArm Hand",
              "J_Bip_{S}_{name}"),
    "VRM": ("hips spine chest upperChest neck head UpperLeg LowerLeg Foot Toes Shoulder UpperArm LowerArm Hand",
            "{side}{name}"),
    "Daz": ("hip abdomenLower abdomenUpper chestUpper neckLower head ThighBend Shin Foot Toe Collar ShldrBend "
            "ForearmBend Hand", "{s}{name}"),
    "Poser": ("hip abdomen abdomen2 chest neck head Thigh Shin Foot Toe Collar Shldr ForeArm Hand", "{s}{name}"),
    "Rokoko": ("Hips Spine1 Spine2 Spine4 Neck Head Thigh Shin Foot Toe Shoulder Arm ForeArm Hand", "{Side}{name}"),
    "Xsens": ("Hips Chest Chest2 Chest4 Neck Head Hip Knee Ankle Toe Collar Shoulder Elbow Wrist", "{Side}{name}"),
    "MVN": ("Pelvis L5 L3 T8 Neck Head UpperLeg LowerLeg Foot Toe Shoulder UpperArm ForeArm Hand", "{Side}{name}"),
    "Motive": ("Hip Ab Ab2 Chest Neck Head Thigh Shin Foot Toe Shoulder UArm FArm Hand", "{S}{name}"),
    "mocopi": ("root torso_1 torso_4 torso_7 neck_1 head up_leg low_leg foot toes shoulder up_arm low_arm hand",
               "{s}_{name}"),
    "Character Creator": ("Hip Waist Spine01 Spine02 NeckTwist01 Head Thigh Calf Foot ToeBase Clavicle Upperarm "
                          "Forearm Hand", "CC_Base_{S}_{name}"),
    "Rigify": ("spine spine.001 spine.002 spine.003 spine.004 spine.006 thigh shin foot toe shoulder upper_arm "
               "forearm hand", "DEF-{name}.{S}"),
    "Auto-Rig": ("root.x spine_01.x spine_02.x spine_03.x neck.x head.x thigh_stretch leg_stretch foot toes_01 "
                 "shoulder arm_stretch forearm_stretch hand", "{name}.{s}"),
    "Advanced": ("Root_M Spine1_M Spine2_M Chest_M Neck_M Head_M Hip Knee Ankle Toes Scapula Shoulder Elbow Wrist",
                 "{name}_{S}"),
    "Valve": ("Pelvis Spine Spine1 Spine4 Neck1 Head1 Thigh Calf Foot Toe0 Clavicle UpperArm Forearm Hand",
              "ValveBiped.Bip01_{S}_{name}"),
    "Source 2": ("pelvis spine_0 spine_1 spine_2 neck_0 head_0 leg_upper leg_lower ankle ball clavicle arm_upper "
                 "arm_lower hand", "{name}_{S}"),
    "Kinect": ("SpineBase SpineMid SpineMid2 SpineShoulder Neck Head Hip Knee Ankle Foot Collar Shoulder Elbow Wrist",
               "{name}{Side}"),
    "Azure": ("PELVIS SPINE_NAVEL SPINE_MID SPINE_CHEST NECK HEAD HIP KNEE ANKLE FOOT CLAVICLE SHOULDER ELBOW WRIST",
              "{name}_{SIDE}"),
    "Neuron": ("Hips Spine Spine1 Spine2 Neck Head UpLeg Leg Foot ToeBase Shoulder Arm ForeArm Hand",
               "Robot_{Side}{name}"),
    "MakeHuman": ("root spine05 spine03 spine01 neck01 head upperleg01 lowerleg01 foot toe1-1 clavicle upperarm01 "
                  "lowerarm01 wrist", "{name}.{S}"),
    "BEAT": ("Hips Spine Spine1 Spine3 Neck Head UpLeg Leg Foot ForeFoot Shoulder Arm ForeArm Hand", "{Side}{name}"),
    "Biovision": ("Hips Chest Chest2 Chest3 Neck Head UpLeg LowLeg Foot Toe Collar UpArm LowArm Hand", "{Side}{name}"),
    "SOMA": ("Hips Spine1 Spine2 Chest Neck1 Head Leg Shin Foot ToeBase Shoulder Arm ForeArm Hand", "{Side}{name}"),
    "joined": ("hips spine spine1 chest neck head upleg leg foot toebase shoulder arm forearm hand", "{side}{name}"),
    "capitals": ("HIPS SPINE SPINE1 CHEST NECK HEAD UPLEG LEG FOOT TOEBASE SHOULDER ARM FOREARM HAND", "{SIDE}{name}"),
    "DeepMotion": ("hips_JNT spine_JNT spine1_JNT spine2_JNT neck_JNT head_JNT upleg leg foot toebase shoulder arm "
                   "forearm hand", "{s}_{name}_JNT"),
    "MMD": ("センター 上半身 上半身1 上半身2 首 頭 足 ひざ 足首 つま先 肩 腕 ひじ 手首", "{左}{name}"),
}  # fmt: skip


def names_of(rig: str) -> list[str]:
    """The 22 joints under the names of a rig."""
    words, pattern = RIGS[rig]
    table = dict(zip(PARTS, words.split(), strict=True))
    # What the pattern puts before all names, sided or not.
    before = pattern[: pattern.index("{")]
    names = []
    for joint in JOINT_NAMES:
        side, _, part = joint.rpartition("_")
        name = table[part]
        if side:
            side_words = {"Side": side.title(), "SIDE": side.upper(), "side": side, "S": side[0].upper(), "s": side[0],
                          "左": "左" if side == "left" else "右"}  # fmt: skip
            names.append(pattern.format(name=name, **side_words))
        else:
            names.append(before + ("C_" if rig == "VRoid" else "") + name)
    return names


@dataclasses.dataclass(frozen=True, kw_only=True)
class RigFile:
    """How a file shows a clip.

    Attributes:
      names: of the 22 joints.
      bones: [22, 3] metres in the T-pose.
      rest: [22, 3, 3] world rotation of each joint in SMPL's T-pose: the identity where the zero pose is the T-pose.
      order: of Euler angles.
      scale: units in a metre.
      world_up: the axis that points up in the file's world.
      rest_up: the axis that points up in the zero pose.
      without: joints that the file does not have; what hangs on them hangs on their parents.
      ends: joints that are end sites.
      twists: joints with a twist bone beside the next joint.
      reference: whether a joint stands over the pelvis.
      held: rows of zero pose before the motion.
    """

    names: list[str]
    bones: np.ndarray
    rest: np.ndarray = dataclasses.field(default_factory=lambda: np.broadcast_to(np.eye(3), (22, 3, 3)))
    order: str = "ZXY"
    scale: float = 100.0
    world_up: str = "y"
    rest_up: str = "y"
    without: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    twists: tuple[str, ...] = ()
    reference: bool = False
    held: int = 0

    def bvh(self, clip: MotionClip) -> Bvh:
        """The file's contents, with channels for all joints and no end sites but `ends`."""
        _, world = pose(clip.rotations, clip.joints[:, 0], self.bones)
        to_world, to_rest = to_y_up(self.world_up).T, to_y_up(self.rest_up).T
        # A joint whose local axes are `rest` in the T-pose; all of them turned so that the zero pose stands as asked.
        world = to_world @ world @ self.rest @ to_rest.T
        if self.held:
            world = np.concatenate([np.broadcast_to(to_world @ to_rest.T, (self.held, *world.shape[1:])), world])
        root = np.concatenate([clip.joints[:1, 0].repeat(self.held, 0), clip.joints[:, 0]]) * self.scale @ to_world.T
        kept = [joint for joint, name in enumerate(JOINT_NAMES) if name not in self.without]
        names, parents, offsets, local, channels = [], [], [], [], []
        place: dict[int, int] = {}
        frames = len(root)

        def add(name: str, parent: int, offset: np.ndarray, rotation: np.ndarray, kinds: tuple[str, ...]) -> int:
            names.append(name)
            parents.append(parent)
            offsets.append(offset)
            local.append(rotation)
            channels.append(kinds)
            return len(names) - 1

        still = np.broadcast_to(np.eye(3), (frames, 3, 3))
        turns = tuple(f"{axis}rotation" for axis in self.order)
        moves = ("Xposition", "Yposition", "Zposition")
        if self.reference:
            add("Reference", -1, np.zeros(3), still, (*moves, *turns))
        for joint in sorted(kept, key=lambda joint: (JOINT_NAMES[joint] in self.ends, joint)):
            above, offset = PARENTS[joint], self.rest[PARENTS[joint]].T @ self.bones[joint] if joint else np.zeros(3)
            while above >= 0 and JOINT_NAMES[above] in self.without:
                # In the rest pose of the next joint above; what is left out does not turn.
                offset = offset + self.rest[PARENTS[above]].T @ self.bones[above]
                above = PARENTS[above]
            offset = to_rest @ offset * self.scale
            if above < 0:
                place[joint] = add(self.names[joint], 0 if self.reference else -1, offset, world[:, joint],
                                   (*moves, *turns))  # fmt: skip
            elif JOINT_NAMES[joint] in self.ends:
                place[joint] = add(f"{names[place[above]]} end", place[above], offset, still, ())
            else:
                rotation = np.swapaxes(world[:, above], -1, -2) @ world[:, joint]
                if JOINT_NAMES[above] in self.twists:
                    add(f"{names[place[above]]}Twist", place[above], offset / 2, still, turns)
                place[joint] = add(self.names[joint], place[above], offset, rotation, turns)
        # Parents before children, as in a file.
        columns = []
        for index, kinds in enumerate(channels):
            if "Xposition" in kinds:
                columns.append(root if (parents[index] < 0 and not self.reference) or (index == 1 and self.reference)
                               else np.zeros((frames, 3)))  # fmt: skip
            if kinds:
                columns.append(rot.to_euler(self.order, local[index]))
        return Bvh(tuple(names), tuple(parents), np.array(offsets), tuple(channels), np.concatenate(columns, 1),
                   1 / clip.fps)  # fmt: skip

    def joints(self) -> dict[str, int]:
        """SMPL joint -> index, of those whose place is known."""
        return {name: JOINT_INDEX[name] for name in JOINT_NAMES if name not in self.without}


def text_of(bvh: Bvh) -> str:
    """A BVH file's text."""
    lines = ["HIERARCHY"]

    def joint(index: int, indent: str) -> None:
        end = bvh.is_end(index)
        keyword = "End Site" if end else f"{'JOINT' if bvh.parents[index] >= 0 else 'ROOT'} {bvh.names[index]}"
        lines.append(f"{indent}{keyword}")
        lines.append(f"{indent}{{")
        lines.append(f"{indent}\tOFFSET {' '.join(f'{number:.6f}' for number in bvh.offsets[index])}")
        if not end:
            lines.append(f"{indent}\tCHANNELS {len(bvh.channels[index])} {' '.join(bvh.channels[index])}")
            order.append(index)
        for child, parent in enumerate(bvh.parents):
            if parent == index:
                joint(child, indent + "\t")
        lines.append(f"{indent}}}")

    order: list[int] = []
    starts = np.cumsum([0, *map(len, bvh.channels)])
    joint(0, "")
    values = bvh.values[:, [column for index in order for column in range(starts[index], starts[index + 1])]]
    lines += ["MOTION", f"Frames: {len(values)}", f"Frame Time: {bvh.frame_time:.7f}"]
    return "\n".join([*lines, *(" ".join(f"{number:.6f}" for number in row) for row in values)]) + "\n"
