"""`python -m llamo_jax.cli`."""

from llamo_jax.cli import main

main()
