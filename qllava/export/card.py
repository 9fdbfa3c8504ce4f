"""The model card: what it is, how to use it, what it was made from, how it was proven."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from qllava.checkpoint.manifest import Run
from qllava.data.chat_template import load_chat_template
from qllava.export.gates import Gate

Form = Literal["hf", "hf-4bit", "adapter", "gguf"]
_USE: dict[Form, str] = {
    "hf": """```python
from transformers import AutoProcessor, LlavaForConditionalGeneration

model = LlavaForConditionalGeneration.from_pretrained("{name}", dtype="bfloat16", device_map="auto")
processor = AutoProcessor.from_pretrained("{name}")
```""",
    "hf-4bit": """```python
from peft import PeftModel
from transformers import AutoProcessor, LlavaForConditionalGeneration

model = LlavaForConditionalGeneration.from_pretrained("{name}", dtype="bfloat16", device_map="auto")
model = PeftModel.from_pretrained(model, "{name}/adapter")
processor = AutoProcessor.from_pretrained("{name}")
```
The adapter is not merged on purpose: quantising a merged model again loses the fine-tune.""",
    "adapter": """```
qllava chat picture.jpg --run {name}
```
It needs its base: {base} and {tower}, quantised as in `recipe.yaml`.""",
    "gguf": """```
llama-mtmd-cli -m {name}/model.gguf --mmproj {name}/mmproj.gguf --image picture.jpg -p "What is in the picture?"
```""",
}


def model_card(run: Run, form: Form, name: str, gates: Sequence[Gate], *, merged_into: str = "") -> str:
    """README.md of an export.

    Args:
        run: what was exported.
        form: how.
        name: of the folder or repository.
        gates: the comparisons that held.
        merged_into: in words, what LoRA was added to; empty where it was not merged.
    """
    manifest, recipe = run.manifest, run.recipe
    model = recipe.model
    use = _USE[form].format(name=name, base=model.language_model, tower=model.vision_tower)
    stops = ", ".join(f"`{stop}`" for stop in load_chat_template(recipe.template).stop)
    into = f"; merged into {merged_into}" if merged_into else ""
    proofs = "\n".join(f"- {gate}" for gate in gates) or "- files equal to the run's, by hash"
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
license: other
license_name: that-of-its-parts
base_model: [{model.language_model}, {model.vision_tower}]
tags: [llava, qllava, vision-language]
---
# {name}

A vision-language assistant: {model.language_model} and {model.vision_tower}, joined and tuned by the LLaVA recipe with
qllava (recipe `{recipe.name}`).

## Use
{use}

Chat template `{recipe.template}`; an answer ends with {stops}. Answers are greedy unless asked otherwise.
{_linear(model.projector, form)}
## Training
| | |
|---|---|
| language model | {model.language_model}, {"NF4 with LoRA" if model.quantization == "nf4" else "16 bit with LoRA"} |
| vision tower | {model.vision_tower}, layer {model.feature_layer}, frozen |
| projector | {model.projector}, fully trained |
| LoRA | rank {recipe.lora.rank}, alpha {recipe.lora.scaling_alpha}{into} |
| steps | {manifest.steps} |
| samples in the data | {manifest.data.get("samples", "unknown")} |
{_data(run)}{_metrics(run)}
## Proofs
Before it was released, this export was compared with the run it comes from:

{proofs}

## Licences
Those of its parts hold together: the language model's ({model.language_model}), the vision tower's
({model.vision_tower}), and the data's: the pictures', the annotations' and, where a language model wrote the
instructions, the terms of its provider. Fill in what applies to yours.
"""


def _linear(projector: str, form: Form) -> str:
    if projector != "linear" or form == "gguf":
        return ""
    return (
        "\nIts projector is one linear map (LLaVA v1), stored as the stock two-layer module with a linear activation "
        "and an identity: transformers runs it, vLLM knows no linear activation.\n"
    )


def _data(run: Run) -> str:
    """What gen-data's card says of the data, where the run's data is still there."""
    path = Path(str(run.manifest.data.get("path", ""))).parent / "card.json"
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        by_kind = ", ".join(f"{kind} {number:,}" for kind, number in card["counts"]["by_kind"].items())
        writer = card["teacher"] if card["model"] is None else f"{card['model']} ({card['teacher']})"
        return f"| instructions | {by_kind}; written by {writer} from {card['source']} |\n"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _metrics(run: Run) -> str:
    picture = run.manifest.picture
    if not picture:
        return ""
    return (
        f"| loss at the end | {picture['right']:.3f} nats a token with the right picture, "
        f"{picture['shuffled']:.3f} with another |\n"
    )
