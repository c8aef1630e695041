"""Comparison of two checkpoints: weights, metrics, order of samples, first difference and factors."""

import collections
import json
import math
import os
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import lightning_dtool
from kit import TinyNet, trainer
from lightning_dtool import DtoolCheckpoint, DtoolDataModule, DtoolProvenanceCallback, compare
from lightning_dtool.errors import DatasetNotFoundError, NotACheckpointError, UnsafeCheckpointError, VerificationError
from lightning_dtool.record import Checkpoint, Data, Epoch, Gap, InitialWeights, Lineage, Metrics, Model
from lightning_dtool.reproduction.comparison import factors
from lightning_dtool.reproduction.delivered import delivered
from lightning_dtool.reproduction.epochs import compare_metrics, compare_order, first_difference
from lightning_dtool.reproduction.verdict import decide
from lightning_dtool.reproduction.weights import MAX_NAMES, compare_weights
from lightning_dtool.results.differences import Content
from lightning_dtool.results.reproduction import Verdict
from lightning_dtool.results.strict_json import strict_json
from lightning_dtool.store import DatasetWriter, iter_datasets
from record.samples import record


class Scheduled(TinyNet):
    """A model with a learning rate schedule."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class WithObject(TinyNet):
    """A model whose checkpoint cannot be loaded with `weights_only`."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["table"] = collections.ChainMap({"a": 1})


@pytest.fixture
def train(tmp_path: Path, arrays: str, monkeypatch: pytest.MonkeyPatch):
    """Return a function that trains and gives the URI of the last checkpoint."""

    def train(
        seed: int = 1, lr: float = 0.05, order: int = 0, epochs: int = 2, model: type = Scheduled, callbacks=(), **kw
    ) -> str:
        base = tmp_path / f"models-{len(os.listdir(tmp_path))}"
        base.mkdir()
        L.seed_everything(seed, verbose=False)
        provenance = DtoolProvenanceCallback(str(base))
        trainer(base / "local", provenance, *callbacks, max_epochs=epochs, **kw).fit(
            model(lr=lr), DtoolDataModule(arrays, batch_size=8, val_split=0.25, seed=order)
        )
        assert provenance.last_uri is not None
        return provenance.last_uri

    return train


# -- whole runs -----------------------------------------------------------------------------------


def test_the_same_training_twice_is_identical(train) -> None:
    a, b = train(), train()
    assert DtoolCheckpoint.from_uri(a).uuid != DtoolCheckpoint.from_uri(b).uuid
    found = compare(a, b)
    assert found.identical
    assert found.weights_identical
    for part in (found.weights, found.optimizers, found.schedulers, found.metrics, found.order):
        assert part.agreement == "identical"
    assert found.weights.digest_a == found.weights.digest_b is not None
    assert found.metrics.epochs == found.order.epochs == (0, 1)
    assert found.first_difference is None
    assert found.factors == ()


def test_another_learning_rate_differs_from_the_first_epoch(train) -> None:
    found = compare(train(), train(lr=0.01))
    assert not found.identical
    assert not found.weights_identical
    assert found.weights.differing_count == found.weights.tensor_count == 4
    assert found.weights.differing == tuple(sorted(TinyNet().state_dict()))
    assert 0 < found.weights.greatest_absolute < 10
    assert 0 < found.weights.greatest_relative <= 2
    assert (found.optimizers.agreement, found.schedulers.agreement) == ("different", "different")
    assert found.order.agreement == "identical"
    assert found.first_difference is not None
    assert found.first_difference.epoch == 0
    assert found.first_difference.learning_rates
    assert not found.first_difference.order
    assert "train_loss" in found.first_difference.metrics
    paths = [factor.path for factor in found.factors]
    assert "optimizers[0].param_groups[0].options.lr" in paths
    assert "model.hyperparameters.lr" in paths
    assert not [path for path in paths if path.startswith(("metrics", "checkpoint", "data.order"))]


def test_another_order_of_samples_is_the_first_difference(train) -> None:
    found = compare(train(), train(order=1))
    assert found.order.differing == (0, 1)
    assert str(found.first_difference).startswith("epoch 0: the order of the samples, ")
    assert any(factor.path.startswith("data.") for factor in found.factors)


def test_another_seed_is_a_factor(train) -> None:
    found = compare(train(), train(seed=2))
    paths = {factor.path for factor in found.factors}
    assert {"randomness.global_seed", "model.initial_weights.digest"} <= paths


def test_runs_of_different_length_are_compared_over_common_epochs(train) -> None:
    """The records agree on all common epochs, but the models differ."""
    a, b = train(epochs=1), train(epochs=2)
    found = compare(a, b)
    assert found.metrics.epochs == (0,)
    assert found.first_difference is None
    assert found.metrics.only_b == ("epoch 1",)
    assert not found.identical


def test_the_result_is_strict_json_and_a_public_type(train) -> None:
    found = lightning_dtool.compare(train(), train(lr=0.01)).to_dict()
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
    assert found["identical"] is False
    assert found["weights"]["agreement"] == "different"
    assert found["first_difference"]["epoch"] == 0
    assert {factor["path"] for factor in found["factors"]} >= {"model.hyperparameters.lr"}


def test_objects_in_the_checkpoints_are_no_obstacle(train) -> None:
    a, b = train(model=WithObject), train(model=WithObject)
    with pytest.raises(UnsafeCheckpointError, match="weights_only=False"):
        DtoolCheckpoint.from_uri(a).load()
    assert compare(a, b).identical
    assert not compare(a, train(model=WithObject, lr=0.01)).weights_identical


def test_both_checkpoints_are_verified(train) -> None:
    a, b = train(), train()
    path = DtoolCheckpoint.from_uri(b).path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # a link elsewhere may share the file
    path.write_bytes(content)
    with pytest.raises(VerificationError, match=r"checkpoint\.ckpt"):
        compare(a, b)
    with pytest.raises(DatasetNotFoundError):
        compare(a, f"{b}-gone")


def test_a_file_without_weights_is_an_error(train, tmp_path: Path) -> None:
    uri = train()
    torch.save({"epoch": 1}, tmp_path / "no.ckpt")
    with DatasetWriter("no", str(Path(DtoolCheckpoint.from_uri(uri).path).parents[2])) as writer:
        writer.put_file(tmp_path / "no.ckpt", "checkpoint.ckpt")
        writer.put_bytes(DtoolCheckpoint.from_uri(uri).item_path("provenance.json").read_bytes(), "provenance.json")
        odd = writer.commit().uri
    with pytest.raises(NotACheckpointError, match="'state_dict', found epoch"):
        compare(uri, odd)


def test_checkpoints_with_weights_only_are_compared(train) -> None:
    full = train()
    base = Path(DtoolCheckpoint.from_uri(full).path).parents[2] / "bare"
    uris = []
    for number in range(2):
        folder = base / str(number)
        folder.mkdir(parents=True)
        L.seed_everything(1, verbose=False)
        provenance = DtoolProvenanceCallback(str(folder))
        keep = ModelCheckpoint(dirpath=folder / "local", save_weights_only=True)
        data = DtoolDataModule(
            DtoolCheckpoint.from_uri(full).record.lineage.source_datasets[0].uri, batch_size=8, val_split=0.25
        )
        trainer(folder, provenance, keep).fit(Scheduled(), data)
        uris.append(provenance.last_uri)
    found = compare(*uris)
    assert found.optimizers.agreement == found.schedulers.agreement == "not recorded"
    assert found.identical
    found = compare(uris[0], full)
    assert found.weights_identical
    assert (found.optimizers.agreement, found.optimizers.digest_a) == ("not recorded", None)
    assert found.optimizers.digest_b is not None
    assert found.identical


class Ema(L.Callback):
    """A callback that keeps an averaged model in its state."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.average = AveragedModel(pl_module, multi_avg_fn=get_ema_multi_avg_fn(self.decay))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.average.update_parameters(pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average.module.state_dict(), "folder": f"/tmp/{id(self)}"}


class Ensemble(TinyNet):
    """A model whose weights are in its checkpoint under another key only."""

    factor = 1.0

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["members"] = [{name: p.detach() * self.factor for name, p in self.named_parameters()}]


class OtherEnsemble(Ensemble):
    """The same, with other weights."""

    factor = 2.0


class Hidden(Ensemble):
    """A model that saves no weights at all."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save nothing more."""


def test_an_averaged_model_in_the_state_of_a_callback_is_compared(train) -> None:
    a, same, other = (train(callbacks=[Ema(decay)]) for decay in (0.9, 0.9, 0.5))
    found = compare(a, same)
    assert found.identical
    assert found.other_tensors.tensor_count == 4
    found = compare(a, other)
    assert found.weights.agreement == "identical"
    assert found.other_tensors.differing_count == 4
    assert found.other_tensors.differing[0].startswith("callbacks[Ema].average.")
    assert not found.weights_identical
    verdict, why = decide(found, (), 0, 0.95)
    assert verdict is Verdict.DIFFERENT
    assert why.startswith("4 of 4 tensors in callbacks' states and the script's own keys (callbacks[Ema].average.")


def test_the_model_that_weight_averaging_delivers_is_compared(train) -> None:
    a, b = (train(callbacks=[StochasticWeightAveraging(0.05, 1)], epochs=3, model=TinyNet) for _ in "ab")
    assert len(delivered(DtoolCheckpoint.from_uri(a).load()).tensors) >= 4
    found = compare(a, b)
    assert found.identical, found
    assert found.other_tensors.agreement == "identical"


def test_weights_under_a_key_of_the_users_are_compared(train) -> None:
    a, same, other = (train(model=model, epochs=1) for model in (Ensemble, Ensemble, OtherEnsemble))
    found = compare(a, same)
    assert (found.weights.agreement, found.other_tensors.agreement) == ("not recorded", "identical")
    assert found.identical
    verdict, why = decide(found, (), 0, 0.95)
    assert verdict is Verdict.IDENTICAL
    assert why == "every bit of the 4 tensors in callbacks' states and the script's own keys is the same"
    found = compare(a, other)
    assert not found.weights_identical
    assert found.other_tensors.differing[0].startswith("members[0].")


def test_without_any_tensor_nothing_is_called_the_same(train) -> None:
    found = compare(train(model=Hidden, epochs=1), train(model=Hidden, epochs=1))
    assert found.weights.agreement == found.other_tensors.agreement == "not recorded"
    assert not found.weights_compared
    assert not found.identical
    verdict, why = decide(found, (), 0, 0.95)
    assert verdict is Verdict.COULD_NOT_COMPARE
    assert why.startswith("nothing could be compared: neither checkpoint holds a tensor")


def test_two_checkpoints_of_one_run_are_said_to_be(train) -> None:
    keep = ModelCheckpoint(save_top_k=-1)
    last = train(epochs=3, callbacks=[keep])
    uris = [data.uri for data in iter_datasets(str(Path(DtoolCheckpoint.from_uri(last).path).parents[2]))]
    first = min(uris, key=lambda uri: DtoolCheckpoint.from_uri(uri).record.checkpoint.epoch)
    assert compare(first, last).relation == "two checkpoints of one run: epochs 0 and 2"
    assert compare(last, last).relation == "two checkpoints of one run: both of epoch 2, step 9"
    assert compare(last, train()).relation is None


# -- weights --------------------------------------------------------------------------------------


def test_different_tensors_are_named_with_their_greatest_difference() -> None:
    a = {"same": torch.ones(3), "w": torch.tensor([1.0, 2.0, -4.0]), "gone": torch.ones(1), "n": torch.tensor(3)}
    b = {"same": torch.ones(3), "w": torch.tensor([1.0, 2.5, -4.0]), "new": torch.ones(1), "n": torch.tensor(4)}
    found = compare_weights(a, b)
    assert found.differing == ("gone", "n", "new", "w")
    assert (found.differing_count, found.tensor_count) == (4, 5)
    assert found.greatest_absolute == 1.0
    assert found.greatest_relative == 0.25


@pytest.mark.parametrize(
    ("a", "b", "greatest"),
    [
        (torch.zeros(2), -torch.zeros(2), (0.0, 0.0)),
        (torch.tensor([math.nan, 1.0]), torch.tensor([math.nan, 3.0]), (2.0, 2 / 3)),
        (torch.tensor([math.nan]), torch.tensor([1.0]), (math.inf, math.inf)),
        (torch.tensor([math.inf]), torch.tensor([-math.inf]), (math.inf, math.inf)),
        (torch.tensor([math.inf]), torch.tensor([1.0]), (math.inf, math.inf)),
        (torch.ones(2), torch.ones(3), (None, None)),
        (torch.ones(2), torch.ones(2, dtype=torch.float64), (0.0, 0.0)),
        (torch.ones(2, dtype=torch.bfloat16), torch.full((2,), 2.0, dtype=torch.bfloat16), (1.0, 0.5)),
        (torch.tensor([1 + 1j]), torch.tensor([1 - 1j]), (2.0, math.sqrt(2))),
        (torch.tensor([True]), torch.tensor([False]), (1.0, 1.0)),
        (torch.ones(2).to_sparse(), torch.zeros(2).to_sparse(), (None, None)),
        (torch.ones(0), torch.ones(0, dtype=torch.int64), (0.0, 0.0)),
        ({"extra": 1}, {"extra": 2}, (None, None)),
        (1, torch.ones(1), (None, None)),
    ],
)
def test_the_greatest_difference_of_two_tensors(a: Any, b: Any, greatest: Any) -> None:
    found = compare_weights({"w": a}, {"w": b})
    assert found.agreement == "different"
    assert (found.greatest_absolute, found.greatest_relative) == pytest.approx(greatest)


def test_long_lists_of_different_tensors_are_truncated_and_counted() -> None:
    a = {f"{number:03}": torch.zeros(1) for number in range(MAX_NAMES + 7)}
    found = compare_weights(a, {name: value + 1 for name, value in a.items()})
    assert len(found.differing) == MAX_NAMES
    assert found.differing_count == MAX_NAMES + 7


def test_large_tensors_are_compared_completely() -> None:
    a = torch.zeros(2**20 + 3)
    b = a.clone()
    b[-1] = 0.5
    assert compare_weights({"w": a}, {"w": b}).greatest_absolute == 0.5


@given(st.lists(st.floats(width=32), min_size=1, max_size=8), st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_the_comparison_of_weights_is_symmetric(a: list[float], b: list[float]) -> None:
    one, two = {"w": torch.tensor(a)}, {"w": torch.tensor(b)}
    forward, backward = compare_weights(one, two), compare_weights(two, one)
    assert (forward.agreement, forward.greatest_absolute, forward.greatest_relative) == (
        backward.agreement,
        backward.greatest_absolute,
        backward.greatest_relative,
    )
    assert compare_weights(one, {"w": torch.tensor(a)}).agreement == "identical"


# -- records --------------------------------------------------------------------------------------


def measured(*epochs: dict[str, Any], at_checkpoint: dict[str, Any] | None = None, order: Any = None, rates: Any = ()):
    history = [
        Epoch(
            epoch=number,
            global_step=number,
            seconds=number + len(epochs),
            metrics=metrics,
            learning_rates=[[rates[number]]] if rates else [],
        )
        for number, metrics in enumerate(epochs)
    ]
    return record(metrics=Metrics(history=history, at_checkpoint=at_checkpoint or {}), data=Data(order=order or {}))


def test_metrics_are_compared_exactly() -> None:
    a = measured({"x": 0.1}, {"x": 0.3, "y": 1.0}, at_checkpoint={"x": 0.3})
    b = measured({"x": 0.1}, {"x": 0.1 + 0.2, "z": 1.0}, at_checkpoint={"x": 0.3})
    found = compare_metrics(a, b)
    assert found.agreement == "different"
    assert [(entry.name, entry.epoch, entry.a, entry.b) for entry in found.differing] == [("x", 1, 0.3, 0.1 + 0.2)]
    assert (found.only_a, found.only_b) == (("y",), ("z",))
    assert found.epochs == (0, 1)
    assert compare_metrics(measured(), measured()).agreement == "not recorded"
    assert compare_metrics(measured({"x": 0.0}), measured({"x": -0.0})).agreement == "different"
    nan = {"type": "builtins:float", "value": "nan"}
    assert compare_metrics(measured({"x": nan}), measured({"x": nan})).agreement == "identical"
    assert compare_metrics(measured({"x": nan}), measured({"x": 1.0})).agreement == "different"


def test_metrics_at_the_checkpoint_are_compared() -> None:
    found = compare_metrics(
        measured({"x": 1.0}, at_checkpoint={"x": 1.0}), measured({"x": 1.0}, at_checkpoint={"x": 2.0})
    )
    assert [(entry.name, entry.epoch) for entry in found.differing] == [("x", None)]


def test_the_order_is_compared_in_epochs_that_both_recorded() -> None:
    a, b = measured(order={"0": "a", "1": "b", "10": "c"}), measured(order={"0": "a", "10": "d", "2": "e"})
    found = compare_order(a, b)
    assert (found.agreement, found.epochs, found.differing) == ("different", (0, 10), (10,))
    assert compare_order(a, measured()).agreement == "not recorded"
    assert compare_order(measured(order={"no number": "a"}), a).agreement == "not recorded"
    assert first_difference(a, b).epoch == 10


def test_the_first_difference_is_found() -> None:
    a = measured({"x": 1.0}, {"x": 2.0}, {"x": 3.0}, rates=[0.1, 0.1, 0.1])
    assert first_difference(a, a) is None
    assert first_difference(a, measured()) is None
    b = measured({"x": 1.0}, {"x": 2.0}, {"x": 4.0}, rates=[0.1, 0.2, 0.2])
    found = first_difference(a, b)
    assert (found.epoch, found.order, found.metrics, found.learning_rates) == (1, False, (), True)
    assert str(found) == "epoch 1: the learning rates"


def test_outcomes_of_training_are_not_factors() -> None:
    a = Content(
        measured({"x": 1.0}, order={"0": "a"}, at_checkpoint={"x": 1}).model_copy(
            update={
                "gaps": [Gap(fact="data", reason="?")],
                "model": Model(class_path="a:A", initial_weights=InitialWeights(origin="script", digest="sha256:1")),
            }
        )
    )
    checkpoint = Checkpoint(**{**a.record.checkpoint.model_dump(), "epoch": 4, "global_step": 9})
    other = measured({"x": 2.0}, order={"0": "b"}, at_checkpoint={"x": 2}).model_copy(
        update={
            "checkpoint": checkpoint,
            "lineage": Lineage(),
            "model": Model(class_path="a:A", initial_weights=InitialWeights(origin="script", digest="sha256:2")),
        }
    )
    assert [factor.path for factor in factors(a, Content(other))] == ["model.initial_weights.digest"]
    assert factors(a, a) == []


def test_packages_and_code_are_factors() -> None:
    a = Content(record(), {"train.py": b"a\n"}, "torch==2.6.0\n")
    b = Content(record(), {"train.py": b"b\n"}, "torch==2.7.0\n")
    assert [factor.path for factor in factors(a, b)] == ["environment.packages.torch", "code.files[train.py]"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")),
        lambda inner: st.lists(inner) | st.dictionaries(st.integers() | st.text(st.characters(codec="utf-8")), inner),
        max_leaves=10,
    )
)
def test_any_value_becomes_strict_json(value: Any) -> None:
    text = json.dumps(strict_json(value), allow_nan=False)
    assert strict_json(json.loads(text)) == json.loads(text)
