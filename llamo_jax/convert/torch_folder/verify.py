"""Is this PyTorch model the JAX model that it was made from? Compares it with outputs that JAX recorded; exit code 0 or
1.

python verify.py                needs torch, safetensors and transformers (for its tokenizer)
python verify.py --device cuda
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from modeling_llamo import SOLVERS, LLaMoForMotion, Sampling
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
        ok = [
            _compare(name, actual, recorded[name], 1e-5 * _scale(recorded[name]))
            for name, actual in _outputs(model, recorded)
        ]
        for solver in SOLVERS:
            ok += _motion(model, recorded, solver)
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


def _motion(model: LLaMoForMotion, recorded: dict[str, torch.Tensor], solver: str) -> list[bool]:
    """Compares the latents of a motion with one solver, from recorded noise.

    First latent by latent, each after those that JAX recorded: every step is the same computation. Then a free run, in
    which each latent follows this model's own. It multiplies rounding, so that it is held to ten times what JAX differs
    from itself when its noise is changed in the last bit.
    """
    noise, expected = recorded["noise"], recorded[f"generated.{solver}"]
    prompts = [recorded["prompt"].tolist()]
    sampling = Sampling(guidance=2.0, steps=10, solver=solver, exit_threshold=None)
    steps = model.generate_latents(prompts, noise.shape[1], sampling, noise=noise, history=expected[None])[0]
    free = model.generate_latents(prompts, noise.shape[1], sampling, noise=noise)[0]
    rounding = 1e-5 * _scale(expected)
    allowed = max(rounding, 10 * float(recorded[f"divergence.{solver}"]))
    return [
        _compare(f"{solver}, step by step", steps, expected, rounding),
        _compare(f"{solver}, free run", free, expected, allowed),
    ]


def _words(model: LLaMoForMotion, recorded: dict[str, torch.Tensor], said: dict):
    """Name and what this model says."""
    yield "caption", model.caption_tokens([recorded["latents"]], max_tokens=len(said["caption"]))[0]
    yield "continuation", model.complete(said["text"], max_tokens=32)


def _scale(expected: torch.Tensor) -> float:
    return max(1.0, float(expected.abs().max()))


def _compare(name: str, actual: torch.Tensor, expected: torch.Tensor, allowed: float) -> bool:
    if actual.shape != expected.shape:
        print(f"FAIL  {name:<24} shape {list(actual.shape)}, recorded {list(expected.shape)}")
        return False
    difference = float((actual - expected).abs().max())
    ok = difference <= allowed  # False for NaN
    print(f"{'ok  ' if ok else 'FAIL'}  {name:<24} largest difference {difference:.2e}, allowed {allowed:.2e}")
    return ok


def _same(name: str, actual: object, expected: object) -> bool:
    ok = actual == expected
    print(f"{'ok  ' if ok else 'FAIL'}  {name:<24} {'identical' if ok else f'{actual!r}, recorded {expected!r}'}")
    return ok


if __name__ == "__main__":
    sys.exit(main())
