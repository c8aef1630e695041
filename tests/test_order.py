"""The order of samples in the record of a whole run."""

from pathlib import Path

from kit import TinyNet, trainer
from lightning_dtool import DtoolCheckpoint, DtoolDataModule, DtoolProvenanceCallback


def test_the_recorded_order_of_samples_distinguishes_two_runs(tmp_path: Path, arrays: str) -> None:
    (tmp_path / "models").mkdir()

    def order(seed: int) -> dict[str, str]:
        provenance = DtoolProvenanceCallback(str(tmp_path / "models"))
        trainer(tmp_path, provenance, max_epochs=3).fit(TinyNet(), DtoolDataModule(arrays, batch_size=8, seed=seed))
        return DtoolCheckpoint.from_uri(provenance.best_uri).record.data.order

    first = order(0)
    assert list(first) == ["0", "1", "2"]
    assert len(set(first.values())) == 3
    assert order(0) == first
    assert order(1)["0"] != first["0"]
