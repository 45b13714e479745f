"""LLaMo in PyTorch, for use and for further training. It needs PyTorch and safetensors; transformers for the tokenizer.

Its files have the names of the JAX project's files whose functions they port.
"""

from .config import SOLVERS, LLaMoConfig, Sampling, TextConfig, VAEConfig
from .model import LLaMoForMotion, LLaMoOutput
from .representation import recover_joints

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
