"""Named architectures. Published values: the `config.json` of each model on the Hugging Face Hub."""

from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig, RopeScaling

LLMS: dict[str, LLMConfig] = {
    "tiny": LLMConfig(512, 192, 4, 6, 3, 32, 512, max_positions=512),
    "stories260k": LLMConfig(512, 64, 5, 8, 4, 8, 172, tie_embeddings=True, max_positions=512),
    "smollm2-135m": LLMConfig(49152, 576, 30, 9, 3, 64, 1536, 1e5, tie_embeddings=True, max_positions=8192),
    "llama-3.2-1b": LLMConfig(
        128256, 2048, 16, 32, 8, 64, 8192, 5e5, RopeScaling("llama3", 32.0), tie_embeddings=True, max_positions=131072
    ),
    "llama-3.2-3b": LLMConfig(
        128256, 3072, 28, 24, 8, 128, 8192, 5e5, RopeScaling("llama3", 32.0), tie_embeddings=True, max_positions=131072
    ),
    "llama-3.1-8b": LLMConfig(128256, 4096, 32, 32, 8, 128, 14336, 5e5, RopeScaling("llama3", 8.0), max_positions=131072),
}


def llamo_config(llm: LLMConfig, latent_channels: int = 32) -> LlamoConfig:
    """The motion side that fits an LLM.

    From a width of 512 on, the motion tower has the text tower's own shape, so that it can start as its copy (paper). Narrower LLMs
    are too small to hold motion: they get a tower of 192 / 512 and a head of 256, which a CPU trains in minutes.
    "tiny" has that shape itself, and embeddings of its own for input: tied ones of words that follow on the same, like left and
    right, grow alike.
    """
    if llm.width < 512:
        return LlamoConfig(llm, MotionTowerConfig(192, 512), FlowHeadConfig(256, 3), latent_channels)
    return LlamoConfig(llm, MotionTowerConfig(llm.width, llm.ffn_width), FlowHeadConfig(1024, 3), latent_channels)
