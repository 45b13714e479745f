"""The wordings of both tasks, and the token sequences of a sample: one place for training and inference.

    text-to-motion    [BOS] instruction with the caption | [BOM] z_0 ... z_(n-1)
    motion-to-text    [BOS] before | [BOM] z_0 ... z_(n-1) | [EOM] after, caption [EOS]

An LLM with a chat template is asked through it: a system turn that says which task it is, the instruction (or the
motion with its question) as the user's turn, and the motion or the caption as the LLM's answer:

    text-to-motion    system turn, user: instruction with the caption, assistant: | [BOM] z_0 ... z_(n-1)
    motion-to-text    system turn, user: before | [BOM] z_0 ... z_(n-1) | [EOM] after, assistant: caption [EOS]

Text pieces are tokenised one by one and joined as ids, so that inference sees the very ids that training saw.
"""

from llamo_jax.errors import InputError
from llamo_jax.tokenizer import Tokenizer, Turns

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


SYSTEM = {"t2m": "Answer with a motion.", "m2t": "Describe the motion."}
"""Task -> what the system's turn says, where there is a chat template."""


def chat_turns(tokenizer: Tokenizer) -> Turns:
    """What an LLM's chat template puts around what a person says.

    Where a template has no system turn, or leaves it out, its words stand in front of the user's.

    Raises:
      InputError: the template does not show what a person says as it is.
    """
    return {task: _around(tokenizer, system) for task, system in SYSTEM.items()}


def _around(tokenizer: Tokenizer, system: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    said = "a person walks"
    user = {"role": "user", "content": said}
    try:
        text = tokenizer.chat([{"role": "system", "content": system}, user])
    except InputError:
        text = ""
    if system not in text:
        text = tokenizer.chat([{"role": "user", "content": f"{system} {said}"}])
    before, found, after = text.partition(said)
    if not found or system not in before:
        expected = "expected one that shows what is said in it; set chat to false to ask without"
        raise InputError(f"the chat template makes {text!r:.120} of a turn; {expected}")
    return tuple(_pieces(tokenizer, before)), tuple(_pieces(tokenizer, after))


def motion_prompt(tokenizer: Tokenizer, caption: str, instruction: int = 0) -> list[int]:
    """Ids in front of a motion that is to be generated.

    Raises:
      InputError: the caption is empty.
    """
    if not caption.strip():
        raise InputError("the text is empty; expected a sentence that says what to do")
    before, after = tokenizer.turns["t2m"]
    return [*before, *tokenizer.encode(TEXT_TO_MOTION[instruction].format(caption.strip())), *after]


def unconditional_prompt(tokenizer: Tokenizer) -> list[int]:
    """Ids that stand for no text: a dropped condition in training, the other side of guidance in sampling."""
    return [tokenizer.bos_id]


def caption_prompt(tokenizer: Tokenizer, eom_id: int, instruction: int = 0) -> tuple[list[int], list[int]]:
    """Ids before and after a motion that is to be captioned; those after begin with [EOM]."""
    (before, after), (asked, question) = tokenizer.turns["m2t"], MOTION_TO_TEXT[instruction]
    return [*before, *_pieces(tokenizer, asked)], [eom_id, *_pieces(tokenizer, question), *after]


def caption_target(tokenizer: Tokenizer, caption: str) -> list[int]:
    """Ids of a caption as the model is to write it, [EOS] at the end."""
    return [*tokenizer.encode(caption.strip()), tokenizer.eos_id]


def _pieces(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text) if text else []
