"""What a human motion is. NumPy only: data workers import it."""

from llamo_jax.motion.clip import MotionClip
from llamo_jax.motion.representation import FEATURES, FPS

__all__ = ["FEATURES", "FPS", "MotionClip"]
