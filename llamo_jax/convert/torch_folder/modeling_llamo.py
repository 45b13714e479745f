"""LLaMo in PyTorch: text to motion and motion to text. The code is the package `llamo_torch` beside this file.

    model = LLaMoForMotion.from_pretrained("BUNDLE")
    features = model.generate("a person walks forward and sits down.")  # [T, 272] at 30 frames/s
    joints = recover_joints(features)  # [T, 22, 3] metres, Y up
    text = model.caption(features)

A frozen LLM and a motion tower run over two streams of tokens and meet in one attention a layer. A flow-matching head
turns the motion tower's hidden states into latents (7.5/s), an exit head says when the motion ends, and a causal VAE
turns latents into features (30/s). Weights are cast to the dtype of the activations at use: that of the text
embeddings in both towers, float32 in the heads and the VAE.
"""

import sys
from pathlib import Path

# The package is found wherever this file is loaded from.
if (_folder := str(Path(__file__).resolve().parent)) not in sys.path:
    sys.path.insert(0, _folder)

from llamo_torch import (
    SOLVERS,
    LLaMoConfig,
    LLaMoForMotion,
    LLaMoOutput,
    Sampling,
    TextConfig,
    VAEConfig,
    recover_joints,
)

__all__ = [
    "SOLVERS",
    "LLaMoConfig",
    "LLaMoForMotion",
    "LLaMoOutput",
    "Sampling",
    "TextConfig",
    "VAEConfig",
    "recover_joints",
]
