"""Which configuration file set the run up, if one did?

LightningCLI and Hydra are only looked at where they are imported already: then they run the program.
"""

import sys
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer as LightningTrainer

from lightning_dtool.record import Config, Gap
from lightning_dtool.redaction.record import redact_mapping, redaction_gap
from lightning_dtool.redaction.text import redact_lines

CONFIG = "config.yaml"
"""Where source.zip holds the configuration."""


def capture_config(trainer: LightningTrainer, gaps: list[Gap]) -> tuple[Config, str, bytes] | None:
    """Return the configuration of LightningCLI or Hydra: the whole of it, defaults included, ready to be used again.

    Word for word, unless it holds what looks like a credential: that is replaced, and a gap names it.

    Args:
        trainer: The Trainer.
        gaps: Receives an entry for whatever was redacted, or could not be written.

    Returns:
        The record's section, the path for `source.zip` and the content; None if there is no configuration.
    """
    for kind, read in (("LightningCLI", _lightning_cli), ("Hydra", _hydra)):
        try:
            text = read(trainer)
        except Exception as error:  # a parser or a resolver of the user's own
            reason = f"the configuration of {kind} could not be written: {type(error).__name__}"
            gaps.append(Gap(fact="trainer.config", reason=reason, remedy="keep it in a file under version control"))
            continue
        if text is not None:
            return Config(kind=kind, file=CONFIG), CONFIG, _without_secrets(text, gaps).encode()
    return None


def _lightning_cli(trainer: Any) -> str | None:
    """Return the configuration as LightningCLI writes it into the log folder."""
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
    """Return the job's configuration as Hydra has written it into the job's folder, before interpolation."""
    hydra = sys.modules.get("hydra.core.hydra_config")
    if hydra is None or not hydra.HydraConfig.initialized():
        return None
    settings = hydra.HydraConfig.get()
    written = Path(settings.runtime.output_dir) / settings.output_subdir / "config.yaml"
    return str(written.read_text(encoding="utf-8"))


def _without_secrets(text: str, gaps: list[Gap]) -> str:
    """Return YAML without credentials; where there are none, the very same text."""
    found: list[str] = []
    try:
        content = yaml.safe_load(text)
        redacted = redact_mapping(content, "trainer.config", found) if isinstance(content, dict) else content
    except (yaml.YAMLError, RecursionError):  # tags of the user's own
        hidden, lines = redact_lines(text)
        if lines:
            gaps.append(redaction_gap("trainer.config"))
        return hidden
    gaps.extend(redaction_gap(place) for place in found)
    return yaml.safe_dump(redacted, sort_keys=False, allow_unicode=True) if found else text
