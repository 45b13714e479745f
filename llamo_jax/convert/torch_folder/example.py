"""Text to motion, in one piece and as it comes, and motion to text."""

from pathlib import Path

from modeling_llamo import LLaMoForMotion, recover_joints

model = LLaMoForMotion.from_pretrained(Path(__file__).parent)
features = model.generate("a person waves the left hand.", seed=0)  # [T, 272] at 30 frames/s; same seed, same motion
print(recover_joints(features).shape, "joints in metres:", model.caption(features))
pieces = list(model.stream("a person walks forward.", seed=0, max_seconds=4))
print(sum(map(len, pieces)), "frames, streamed four at a time")
