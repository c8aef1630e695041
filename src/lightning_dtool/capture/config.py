"""The configuration of LightningCLI or Hydra, if one of them set up the run.

Neither is imported here. A program that one of them runs has imported it already.
"""

import sys
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer as LightningTrainer

from lightning_dtool.record import Config, Gaps
from lightning_dtool.redaction.record import add_redaction, redact_mapping
from lightning_dtool.redaction.text import redact_lines

CONFIG = "config.yaml"
"""Path in source.zip of the configuration."""


def capture_config(trainer: LightningTrainer, gaps: Gaps) -> tuple[Config, str, bytes] | None:
    """Return the complete configuration of LightningCLI or Hydra, including defaults, in a form that can be used again.

    What looks like a credential is replaced and adds a gap. Everything else is unchanged.

    Args:
        trainer: The Trainer.
        gaps: Receives a gap for everything that was redacted or could not be written.

    Returns:
        The record's section, the path in `source.zip` and the content. None if there is no configuration.
    """
    for kind, read in (("LightningCLI", _lightning_cli), ("Hydra", _hydra)):
        try:
            text = read(trainer)
        except Exception as error:  # a user's parser or resolver may raise anything
            reason = f"the configuration of {kind} could not be written: {type(error).__name__}"
            gaps.at("trainer.config").add(reason, "keep it in a file under version control")
            continue
        if text is not None:
            return Config(kind=kind, file=CONFIG), CONFIG, _without_secrets(text, gaps.at("trainer.config")).encode()
    return None


def _lightning_cli(trainer: Any) -> str | None:
    """Return the configuration as LightningCLI writes it to the log folder."""
    cli = next(
        (sys.modules[name] for name in ("lightning.pytorch.cli", "pytorch_lightning.cli") if name in sys.modules), None
    )
    if cli is None:
        return None
    for callback in trainer.callbacks:
        if isinstance(callback, cli.SaveConfigCallback):
            return str(callback.parser.dump(callback.config, skip_none=False))
    return None


def _hydra(_: object) -> str | None:
    """Return the configuration that Hydra wrote to the job's folder, before interpolation."""
    hydra = sys.modules.get("hydra.core.hydra_config")
    if hydra is None or not hydra.HydraConfig.initialized():
        return None
    settings = hydra.HydraConfig.get()
    written = Path(settings.runtime.output_dir) / settings.output_subdir / "config.yaml"
    return str(written.read_text(encoding="utf-8"))


def _without_secrets(text: str, gaps: Gaps) -> str:
    """Return YAML with its credentials replaced. The same text if there are none."""
    found = Gaps()
    try:
        content = yaml.safe_load(text)
        redacted = redact_mapping(content, found) if isinstance(content, dict) else content
    except (yaml.YAMLError, RecursionError):  # for example custom tags
        hidden, lines = redact_lines(text)
        if lines:
            add_redaction(gaps)
        return hidden
    gaps.include(found)
    return yaml.safe_dump(redacted, sort_keys=False, allow_unicode=True) if found else text
