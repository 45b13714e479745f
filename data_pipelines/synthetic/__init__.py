"""The procedural corpus: bodies of 22 joints that walk, run, jump, wave and more, with captions. The embedded default;
needs no data."""

from data_pipelines.synthetic.captions import caption_facts
from data_pipelines.synthetic.corpus import Spec, generate_corpus, synthesize

__all__ = ["Spec", "caption_facts", "generate_corpus", "synthesize"]
