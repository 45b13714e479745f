"""The `llamo` command. Thin: every command calls the library."""

from typing import Annotated

import tyro

from llamo_jax.cli.caption import Caption
from llamo_jax.cli.convert import Convert
from llamo_jax.cli.evaluate import Evaluate
from llamo_jax.cli.generate import Generate
from llamo_jax.cli.inspect import Inspect
from llamo_jax.cli.render import Render
from llamo_jax.commands import read, run

COMMANDS = (
    Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Caption, tyro.conf.subcommand("caption")]
    | Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit code 0, or 2 for a user's mistake, told in one line."""
    run(read(COMMANDS, "llamo", arguments, "Text and human motion in one pretrained LLM."))
