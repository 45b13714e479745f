"""Seconds, GB/s and memory of importing, saving and loading an LLM of a preset's shape, beside transformers on the same
files.

    python -m experiments.benchmarks.llm_import --preset llama-3.2-1b --shards 2 --work DIR

Every measurement is a process of its own, several rounds of all of them in turn; the files are in the page cache.
"""

import dataclasses
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from llamo_jax.commands import Reporting
from llamo_jax.config import require
from llamo_jax.files import write_json
from llamo_jax.models import llamo
from llamo_jax.presets import LLMS
from llamo_jax.storage.gguf_llm import llama_cpp_name
from llamo_jax.storage.huggingface import write_config
from llamo_jax.storage.layout import LLM
from llamo_jax.storage.tensor_files import write_tensors
from llamo_jax.storage.weights import declared
from llamo_jax.tokenizer import train_tokenizer

_JAX = (
    "import jax, llamo_jax; from llamo_jax.convert import from_hf; from llamo_jax.storage import bundle, huggingface; "
    "jax.numpy.zeros(1).block_until_ready()"
)
_READY = "jax.block_until_ready(kept.params)"
_TORCH = "import torch, transformers; from transformers import AutoModelForCausalLM"

TASKS = {
    "import": (_JAX, "kept = jax.block_until_ready(huggingface.load_llm({llm!r}))"),
    "import, fsdp over 8 devices": (
        "import jax; jax.config.update('jax_num_cpu_devices', 8); from llamo_jax import sharding; " + _JAX,
        "kept = jax.block_until_ready(huggingface.load_llm({llm!r}, mesh=sharding.make_mesh(fsdp=8)))",
    ),
    "transformers from_pretrained": (
        _TORCH,
        "kept = AutoModelForCausalLM.from_pretrained({llm!r}, dtype=torch.bfloat16, trust_remote_code=False)\n"
        "sum(p.view(-1)[::2048].float().sum() for p in kept.parameters())",
    ),
    "from-hf": (_JAX, "from_hf.bundle_from_llm({llm!r}, {bundle!r})"),
    "GGUF": (_JAX + "; import gguf.quants, transformers.integrations.gguf", "huggingface.resolve_llm({gguf!r})"),
    "load": (_JAX, "kept = bundle.read_bundle({bundle!r}); " + _READY),
    "load, hashes not checked": (_JAX, "kept = bundle.read_bundle({bundle!r}, verify=False); " + _READY),
    "save": (_JAX + "; kept = bundle.read_bundle({bundle!r}, verify=False)", "bundle.write_bundle({saved!r}, kept)"),
}
"""What is timed, each in a fresh process: preparation, and the statement itself. Memory-mapped weights count when they
are touched."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LLMImport(Reporting):
    """Measure importing, saving and loading an LLM of a preset's shape, beside transformers on the same files."""

    preset: str = "llama-3.2-1b"
    """Whose shape; the weights are random bfloat16."""
    shards: int = 2
    """Safetensors files of the checkpoint."""
    rounds: int = 3
    """Rounds of all tasks in turn."""
    tasks: tuple[str, ...] = tuple(task for task in TASKS if task != "GGUF")
    """Which to run. "GGUF" makes a Hugging Face folder of a GGUF file of the same shape."""
    gguf_type: str = "Q4_0"
    """What its random weights are quantised as."""
    work: Path | None = None
    """Folder for the files, deleted afterwards; by default a temporary one."""

    def run(self) -> None:
        require(self.preset in LLMS, f'preset "{self.preset}" does not exist; expected one of {", ".join(LLMS)}')
        require(not (unknown := set(self.tasks) - set(TASKS)), f"--tasks {unknown}; expected among {list(TASKS)}")
        of_bundle = [task for task in self.tasks if task.startswith(("load", "save"))]
        require("from-hf" in self.tasks or not of_bundle, f"--tasks {of_bundle} need from-hf, which makes the bundle")
        work = Path(tempfile.mkdtemp(prefix="llm_import-", dir=self.work))
        try:
            shard = synthetic_checkpoint(work / "llm", self.preset, self.shards)
            if "GGUF" in self.tasks:
                synthetic_gguf(work / "model.gguf", self.preset, self.gguf_type)
            figures = self._measure(work, shard)
        finally:
            shutil.rmtree(work)
        if self.json:
            write_json(self.json, figures)

    def _measure(self, work: Path, shard: int) -> dict[str, dict[str, float]]:
        paths = {name: str(work / name) for name in ("llm", "bundle", "saved")} | {"gguf": str(work / "model.gguf")}
        runs: dict[str, list[dict[str, float]]] = {task: [] for task in self.tasks}
        for _ in range(self.rounds):
            for task in self.tasks:
                shutil.rmtree(work / "cache", ignore_errors=True)  # where GGUF files are converted to
                code = (code.format(**paths) for code in TASKS[task])
                runs[task].append(_run(*code, cache=work / "cache"))
        llm, bundle = _size(work / "llm"), _size(work / "bundle")
        figures = {}
        for task, results in runs.items():
            size = llm if task.startswith(("import", "transformers", "from-hf")) else bundle
            size = _size(work / "cache") if task == "GGUF" else size
            seconds = [result["seconds"] for result in results]
            median, peak = statistics.median(seconds), max(result["peak"] - result["before"] for result in results)
            figures[task] = {
                "seconds": median, "least": min(seconds), "most": max(seconds), "GB": size / 1e9,
                "GB_per_second": size / 1e9 / median,
                "peak_GB": peak / 1e9, "largest_shard_GB": shard / 1e9,
                "beyond_weights_in_shards": (peak - size) / shard,
            }  # fmt: skip
            speed = f"{size / 1e9:6.2f} GB  {size / 1e9 / median:6.2f} GB/s"
            print(
                f"{task:<30} {median:7.2f} s ({min(seconds):.2f} to {max(seconds):.2f})  {speed}  "
                f"peak {peak / 1e9:6.2f} GB, {(peak - size) / shard:+.2f} shards beyond the weights"
            )
        return figures


def synthetic_checkpoint(folder: Path, preset: str, shards: int) -> int:
    """Writes an LLM with random weights, config and a tokenizer, in `shards` files; returns the bytes of the
    largest."""
    config = LLMS[preset]
    tensors = {name: leaf.shape for leaf in declared(LLM, llamo.LLM, config) for name in leaf.names}
    folder.mkdir(parents=True)
    block = np.random.default_rng(0).normal(scale=0.02, size=1 << 20).astype(ml_dtypes.bfloat16)
    total = sum(2 * math.prod(shape) for shape in tensors.values())
    parts: list[dict[str, tuple[int, ...]]] = [{} for _ in range(shards)]
    written = 0
    # In the order of layers, as real checkpoints are.
    for name in sorted(
        tensors, key=lambda name: ["embed" not in name, *[int(part) for part in name.split(".") if part.isdigit()]]
    ):
        parts[min(shards - 1, written * shards // total)][name] = tensors[name]
        written += 2 * math.prod(tensors[name])
    files = {f"model-{number:05d}-of-{shards:05d}.safetensors": part for number, part in enumerate(parts, 1)}
    for file, part in files.items():
        made = {name: (block.dtype, shape, lambda shape=shape: np.resize(block, shape)) for name, shape in part.items()}
        write_tensors(folder / file, made)
    weight_map = {name: file for file, part in files.items() for name in part}
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    write_config(folder, config, bos_id=1, eos_id=2, dtype="bfloat16")
    train_tokenizer(["a person walks."], 300, folder)
    return max((folder / file).stat().st_size for file in files)


def synthetic_gguf(path: Path, preset: str, kind: str) -> None:
    """Writes a GGUF file of a Llama preset's shape: matrices of one type with random weights, and tokens without
    meaning."""
    import gguf
    from gguf import GGMLQuantizationType

    config, type_ = LLMS[preset], GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=True)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    tokens = ["<s>", "</s>", "a", "b", "ab", *(f"[PAD{number}]" for number in range(5, config.vocab_size))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    block = np.random.default_rng(0).normal(scale=0.02, size=(1024, 1024)).astype(np.float32)
    stored = gguf.quants.quantize(block, type_).reshape(-1).view(np.uint8)
    for leaf in declared(LLM, llamo.LLM, config):
        for name in map(llama_cpp_name, leaf.names):
            if len(leaf.shape) == 1:
                writer.add_tensor(name, np.ones(leaf.shape, np.float32))
            else:
                shape = gguf.quant_shape_to_byte_shape(leaf.shape, type_)
                writer.add_tensor(name, np.resize(stored, shape), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _run(prepare: str, statement: str, cache: Path) -> dict[str, float]:
    """Seconds of a statement in a fresh process, and the most memory that the process held before and in all."""
    code = (
        "import json, time\n"
        "def status(name):\n"
        "    return 1024 * next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith(name))\n"
        f"{prepare}\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"
        "before, started = status('VmRSS'), time.perf_counter()\n"
        f"{statement}\n"
        "print(json.dumps({'seconds': time.perf_counter() - started, 'before': before, 'peak': status('VmHWM')}))\n"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    environment |= {"XDG_CACHE_HOME": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    time.sleep(1)
    return json.loads(done.stdout.splitlines()[-1])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors")) if folder.exists() else 0


if __name__ == "__main__":
    LLMImport.main("python -m experiments.benchmarks.llm_import")
