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

import importlib.util
import sys
import zlib
from pathlib import Path
from types import ModuleType


def _package() -> ModuleType:
    """The package beside this file, whatever another folder's file has brought into this process."""
    folder = Path(__file__).resolve().parent / "llamo_torch"
    name = "llamo_torch"
    if name in sys.modules and Path(sys.modules[name].__file__).parent != folder:
        name += f"_{zlib.crc32(str(folder).encode())}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


_llamo_torch = _package()
SOLVERS = _llamo_torch.SOLVERS
LLaMoConfig = _llamo_torch.LLaMoConfig
LLaMoForMotion = _llamo_torch.LLaMoForMotion
LLaMoOutput = _llamo_torch.LLaMoOutput
Sampling = _llamo_torch.Sampling
TextConfig = _llamo_torch.TextConfig
VAEConfig = _llamo_torch.VAEConfig
recover_joints = _llamo_torch.recover_joints

__all__ = list(_llamo_torch.__all__)
