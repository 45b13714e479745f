"""The wordings of both tasks, and the token sequences of a sample: one place for training and inference.

    text-to-motion    [BOS] instruction with the caption | [BOM] z_0 ... z_(n-1)
    motion-to-text    [BOS] before | [BOM] z_0 ... z_(n-1) | [EOM] after, caption [EOS]

Text pieces are tokenised one by one and joined as ids, so that inference sees the very ids that training saw.
"""

from llamo_jax.errors import InputError
from llamo_jax.tokenizer import Tokenizer

TEXT_TO_MOTION = (
    "{}",
    "Show: {}",
    "Move like this: {}",
    "{} Show me.",
    "Make a motion: {}",
    "Act this out: {}",
)
"""Instructions of text-to-motion; {} is the caption. The first is what `generate` uses."""

MOTION_TO_TEXT = (
    ("", ""),
    ("Look:", "What is this?"),
    ("See", "Say what it is."),
    ("This motion", "is as follows:"),
    ("Here:", "What does the person do?"),
    ("", "Tell me what you see."),
)
"""Instructions of motion-to-text: what stands before and after the motion. The first is what `caption` uses."""


def motion_prompt(tokenizer: Tokenizer, caption: str, instruction: int = 0) -> list[int]:
    """Ids in front of a motion that is to be generated.

    Raises:
      InputError: the caption is empty.
    """
    if not caption.strip():
        raise InputError("the text is empty; expected a sentence that says what to do")
    return [tokenizer.bos_id, *tokenizer.encode(TEXT_TO_MOTION[instruction].format(caption.strip()))]


def unconditional_prompt(tokenizer: Tokenizer) -> list[int]:
    """Ids that stand for no text: a dropped condition in training, the other side of guidance in sampling."""
    return [tokenizer.bos_id]


def caption_prompt(tokenizer: Tokenizer, eom_id: int, instruction: int = 0) -> tuple[list[int], list[int]]:
    """Ids before and after a motion that is to be captioned; those after begin with [EOM]."""
    before, after = MOTION_TO_TEXT[instruction]
    return [tokenizer.bos_id, *_pieces(tokenizer, before)], [eom_id, *_pieces(tokenizer, after)]


def caption_target(tokenizer: Tokenizer, caption: str) -> list[int]:
    """Ids of a caption as the model is to write it, [EOS] at the end."""
    return [*tokenizer.encode(caption.strip()), tokenizer.eos_id]


def _pieces(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text) if text else []
