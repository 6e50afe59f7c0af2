"""Say which models agescale brings, or knows of others, and make a checkpoint of one.

python jobs/weights.py
python jobs/weights.py included --out runs/included
python jobs/weights.py faceres --source faceres-deep --out runs/faceres
"""

from __future__ import annotations

from agescale.config import WeightsConfig
from agescale.models import included
from agescale.models.foreign_models import ForeignModel, foreign_models, import_model
from agescale.store import paths


def main(config: WeightsConfig) -> None:
    config = paths.with_absolute_uris(config)
    if not config.name:
        known = [described(name, model) for name, model in foreign_models().items()]
        print("\n\n".join([included.summary(), *known]))
    elif config.name == included.NAME and not config.out:
        print(included.card(), end="")
    else:
        is_ours = config.name == included.NAME
        checkpoint = included.copy(config.out) if is_ours else import_model(config.name, config.source, config.out)
        print(f"checkpoint: {config.out} (model {checkpoint.digest})")


def described(name: str, model: ForeignModel) -> str:
    """What is known of a foreign model, in lines."""
    lines = [
        ("encoder", model.spec.encoder),
        ("source", model.source),
        ("licence of code", model.code_license),
        ("licence of weights", model.weights_license),
        ("trained on", model.training_data),
        ("size", f"{model.size_bytes:,} bytes"),
        *((file, f"SHA-256 {sha256}") for file, sha256 in model.files.items()),
        ("checkpoint", f"agescale weights {name} --source FOLDER --out CHECKPOINT"),
    ]
    return "\n".join([f"{name}: {model.purpose}", *(f"  {title:<18} {text}" for title, text in lines)])
