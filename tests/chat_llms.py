"""LLM folders with a chat template."""

import json
import shutil
from pathlib import Path

CHATML = (
    "{% for message in messages %}<s>{{ message['role'] + '\n' + message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def with_template(folder: Path, copy: Path, template: str) -> Path:
    """A copy of an LLM's folder with a chat template."""
    shutil.copytree(folder, copy)
    file = copy / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    return copy
