"""Is this PyTorch model the JAX model that it was made from? Compares it with outputs that JAX recorded; exit code 0 or 1.

    python verify.py                needs torch, safetensors and transformers (for its tokenizer)
    python verify.py --device cuda
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from modeling_llamo import LLaMoForMotion, Sampling
from safetensors import safe_open

FOLDER = Path(__file__).resolve().parent


def main() -> int:
    """Prints each comparison; returns 0 if all hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="where to run the model")
    device = parser.parse_args().device
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with safe_open(FOLDER / "reference.safetensors", framework="pt", device=device) as file:
        recorded = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file is no dict)
        said = json.loads(file.metadata()["said"])
    try:
        model = LLaMoForMotion.from_pretrained(FOLDER, dtype=torch.float32, device=device)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with torch.no_grad():
        ok = [_compare(name, actual, recorded[name], 1e-5 * _scale(recorded[name])) for name, actual in _outputs(model, recorded)]
        ok += [_compare(name, actual, recorded[name], 1e-4) for name, actual in _generated(model, recorded)]
        ok += [_same(name, actual, said[name]) for name, actual in _words(model, recorded, said)]
    print("the PyTorch model is the JAX model" if all(ok) else "the PyTorch model is NOT the JAX model")
    return 0 if all(ok) else 1


def _outputs(model: LLaMoForMotion, recorded: dict[str, torch.Tensor]):
    """Name and what this model computes, part by part."""
    batch = {name.removeprefix("batch."): value for name, value in recorded.items() if name.startswith("batch.")}
    output = model(**{name: value.long() if value.dtype == torch.int32 else value for name, value in batch.items()})
    yield "text_logits", model.text_logits(recorded["tokens"].long())
    yield "text_hidden", output.text_hidden
    yield "motion_hidden", output.motion_hidden
    yield "exit_logits", output.exit_logits
    yield "velocity", model.flow_head.velocity(recorded["x_t"], recorded["motion_hidden"], recorded["t"])
    yield "encoded", model.encode(recorded["features"])
    yield "decoded", model.decode(recorded["latents"])


def _generated(model: LLaMoForMotion, recorded: dict[str, torch.Tensor]):
    """Name and the normalised latents of a motion, from recorded noise, with each solver."""
    noise = recorded["noise"]
    prompts = [[model.config.bos, *recorded["prompt"].tolist()]]
    for solver in ("euler", "midpoint", "heun"):
        sampling = Sampling(guidance=2.0, steps=10, solver=solver, exit_threshold=None)
        yield f"generated_{solver}", model.generate_latents(prompts, noise.shape[1], sampling, noise=noise)[0]


def _words(model: LLaMoForMotion, recorded: dict[str, torch.Tensor], said: dict):
    """Name and what this model says."""
    yield "caption", model.caption_tokens([recorded["latents"]], max_tokens=len(said["caption"]))[0]
    yield "continuation", model.complete(said["text"], max_tokens=32)


def _scale(expected: torch.Tensor) -> float:
    return max(1.0, float(expected.abs().max()))


def _compare(name: str, actual: torch.Tensor, expected: torch.Tensor, allowed: float) -> bool:
    if actual.shape != expected.shape:
        print(f"FAIL  {name:<20} shape {list(actual.shape)}, recorded {list(expected.shape)}")
        return False
    difference = float((actual - expected).abs().max())
    ok = difference <= allowed  # False for NaN
    print(f"{'ok  ' if ok else 'FAIL'}  {name:<20} largest difference {difference:.2e}, allowed {allowed:.2e}")
    return ok


def _same(name: str, actual: object, expected: object) -> bool:
    ok = actual == expected
    print(f"{'ok  ' if ok else 'FAIL'}  {name:<20} {'identical' if ok else f'{actual!r}, recorded {expected!r}'}")
    return ok


if __name__ == "__main__":
    sys.exit(main())
