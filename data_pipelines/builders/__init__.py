"""One object a data set. `DATASETS` lists them: a new one is a file and an entry there."""

from data_pipelines.builders.bandai_namco import BandaiNamco
from data_pipelines.builders.bvh import Bvh
from data_pipelines.builders.cmu import Cmu
from data_pipelines.builders.synthetic import Synthetic

DATASETS = (Synthetic, BandaiNamco, Bvh, Cmu)
