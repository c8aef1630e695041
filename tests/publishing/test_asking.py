"""Who asked for a checkpoint, and who reads its file at once."""

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger

from lightning_dtool.publishing.asking import reads_files_at_once


def test_a_logger_that_uploads_files_is_told_from_others(tmp_path: Path) -> None:
    class Uploads(CSVLogger):
        def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
            pass

    uploads: Logger = Uploads(tmp_path)
    assert reads_files_at_once(uploads)
    assert not reads_files_at_once(CSVLogger(tmp_path))
    uploads._log_model = False  # type: ignore[attr-defined]
    assert not reads_files_at_once(uploads)
