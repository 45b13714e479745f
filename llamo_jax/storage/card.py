"""The model card of a bundle: the README.md that the Hugging Face Hub shows."""

from typing import Any


def model_card(values: dict[str, Any]) -> str:
    """Markdown with the Hub's metadata: what the model is, its data, recipe, figures and licences.

    Args:
      values: the bundle's config.json.
    """
    info, llm, model = values["info"], values["llm"], values["model"]
    data = info.get("data", {})
    base = llm["id"] or "a Llama-family LLM"
    metadata = [
        "library_name: llamo_jax",
        "tags: [text-to-motion, motion-to-text, human-motion, llamo]",
        "license: other",
    ]
    if llm["id"]:
        metadata.append(f"base_model: {llm['id']}")
    header = "\n".join(["---", *metadata, "---"])
    trained = "generates human motion from sentences and describes motion in words" if info.get("trained") else (
        "has a motion side that is not trained yet; its text side works"
    )  # fmt: skip
    sections = [
        f"{header}\n# LLaMo on {base}\n\nOne pretrained LLM with a motion tower beside it (LLaMo, arXiv 2602.12370): "
        f"it {trained}. "
        "The LLM is unchanged, bit for bit.",
        "## Use\n\n```python\nimport llamo_jax\n\nmodel = llamo_jax.load(PATH_OR_ID)\n"
        'clip = model.generate("a person waves the left hand.")\nmodel.caption(clip)\n```\n\n'
        "In PyTorch, without JAX: `llamo convert to-torch BUNDLE -o DIR` writes a folder with the model file, an "
        "example and a check.",
        "## Data\n\n" + _list(data, "None: the motion side holds its initial weights."),
        "## Recipe\n\n" + _list(info.get("recipe", {}), "None."),
        "## Figures\n\n" + _list(info.get("figures", {}), "Not measured yet."),
        "## Licence\n\n" + _licence(base, data),
        f"## Shape\n\nText tower: {_line(model['text'])}.\n\nMotion tower: {_line(model['motion'])}; flow head: "
        f"{_line(model['flow_head'])}; "
        f"motion VAE: {_line(values['motion_vae'])}.",
    ]
    return "\n\n".join(sections) + "\n"


def _licence(base: str, data: dict[str, Any]) -> str:
    licence = data.get("licence")
    motion = f"under that of their training data ({licence or 'not recorded here'})"
    return (
        f"The LLM's weights are under the licence of {base}; the motion weights are {motion if data else 'untrained'}."
    )


def _list(entries: dict[str, Any], empty: str) -> str:
    if not entries:
        return empty
    return "\n".join(f"- {name.replace('_', ' ')}: {_line(value)}" for name, value in entries.items())


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_line(item)}" for name, item in value.items() if item is not None)
    if isinstance(value, list):
        return "; ".join(map(_line, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
