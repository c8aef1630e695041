"""Plain state that no state_dict holds is exact after a resume, or there is a warning."""

import array
import collections
import copy
import ctypes
import datetime
import functools
import io
import os
import random
import time
import warnings
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from kit import same, trainer, weights
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.errors import ProvenanceWarning
from lightning_dtool.resuming.plain_state.changes import may_decide
from lightning_dtool.resuming.plain_state.clocks import Clocks
from lightning_dtool.resuming.plain_state.comparison import digest, equal
from lightning_dtool.resuming.plain_state.decoding import Decoder
from lightning_dtool.resuming.plain_state.encoding import Encoder
from lightning_dtool.resuming.plain_state.images import is_unchanged
from lightning_dtool.resuming.plain_state.kinds import NotPlainError, is_buffer
from lightning_dtool.resuming.plain_state.remembered import Remembered
from lightning_dtool.resuming.plain_state.scope import set_by_the_user
from lightning_dtool.resuming.plain_state.walk import Reached
from lightning_dtool.values.definitions import class_path

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")

SAMPLES, BATCH = 24, 8


class Net(L.LightningModule):
    """A classifier whose loss the tests change."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 2))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.layers(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def points() -> TensorDataset:
    x = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(1))
    return TensorDataset(x, (x.sum(1) > 0).long())


def plain_loader() -> DataLoader:
    return DataLoader(points(), BATCH, shuffle=True)


# -- trainings: each keeps state in another place ---------------------------------------------------


class Counter(Net):
    beta = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.beta += 0.02
        return super().training_step(batch, batch_idx) * (1 + self.beta)


class Outputs(Net):
    def __init__(self) -> None:
        super().__init__()
        self.losses: list[torch.Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.detach())
        return loss * (1 + torch.stack(self.losses).mean())


class OutputsWithGraphs(Outputs):
    """Keeps losses with their graphs, which `backward` has used."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = Net.training_step(self, batch, batch_idx)
        mean = torch.stack(self.losses).mean().detach() if self.losses else 0.0
        self.losses.append(loss)
        return loss * (1 + mean)


class Recent(Net):
    def __init__(self) -> None:
        super().__init__()
        self.recent: collections.deque[float] = collections.deque(maxlen=4)
        self.counts: dict[str, int] = collections.defaultdict(int)
        self.seen: set[int] = set()
        self.same_deque = self.recent

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.recent.append(float(loss))
        self.counts["steps"] += 1
        self.seen.add(self.counts["steps"])
        assert self.same_deque is self.recent
        return loss * (1 + sum(self.same_deque) + 0.1 * self.counts["steps"] + 0.01 * len(self.seen))


class Meter:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, value: float) -> None:
        self.total, self.count = self.total + value, self.count + 1


class Meters(Net):
    """Makes a new object of its own class in each epoch, and keeps the old one."""

    def __init__(self) -> None:
        super().__init__()
        self.meter, self.past = Meter(), [Meter()]

    def on_train_epoch_start(self) -> None:
        self.past.append(self.meter)
        self.meter = Meter()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.meter.add(float(loss))
        return loss * (1 + self.meter.total + self.past[-1].total)


Step = collections.namedtuple("Step", ["loss", "state"])


class Replay(Net):
    """Learns from steps that it has stored before, as in reinforcement learning."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer: collections.deque[Step] = collections.deque(maxlen=100)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.buffer.append(Step(loss.item(), np.full(3, float(loss))))
        drawn = random.choice(self.buffer)
        return loss * (1 + drawn.loss + drawn.state.sum())


class Queue(Net):
    """A queue of features with an int as pointer, as MoCo has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(40, 2), persistent=False)
        self.pointer = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        out = self.layers(batch[0])
        with torch.no_grad():
            self.queue[self.pointer : self.pointer + BATCH] = out
            self.pointer = (self.pointer + BATCH) % 40
        return nn.functional.cross_entropy(out, batch[1]) + (out.mean(0) * self.queue.mean(0)).sum()


class Parts(Net):
    """Keeps a value in a class, one in a variable of the module, and one in a default of a function."""

    total = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        type(self).total += 1
        STEPS.append(self.total)
        return super().training_step(batch, batch_idx) * (1 + 0.1 * self.total + 0.1 * len(STEPS) + 0.1 * counted())


STEPS: list[int] = []


def counted(memory: dict[str, int] = {}) -> int:  # noqa: B006
    memory["calls"] = memory.get("calls", 0) + 1
    return memory["calls"]


class Flags(Net):
    """Freezes a layer, sets batch norm to evaluation mode and changes the rate of dropout, once and for all."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step == 2:
            self.layers[0].requires_grad_(False)
            self.layers[1].eval()
            self.layers[3].p = 0.6

    def on_validation_model_train(self) -> None:
        pass

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.layers(batch[0])

    def val_dataloader(self) -> Any:
        return DataLoader(points(), BATCH)


class Closure(Net):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        calls = 0

        def factor(step: int) -> float:
            nonlocal calls
            calls += 1
            return 1 / (1 + calls)

        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}]


class Sgd(torch.optim.SGD):
    """An optimizer with a value that it does not save."""

    calls = 0

    def step(self, closure: Any = None) -> Any:
        self.calls += 1
        self.param_groups[0]["lr"] = 0.1 / self.calls
        return super().step(closure)


class OwnOptimizer(Net):
    def configure_optimizers(self) -> Any:
        return Sgd(self.parameters(), lr=0.1)


class Validated(Net):
    """Remembers the best loss of a validation, which the sanity check sets too."""

    best = float("inf")

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * (1 + self.best)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.best = min(self.best, float(super().training_step(batch, batch_idx)))

    def val_dataloader(self) -> Any:
        return DataLoader(points(), BATCH)


class Ema(L.Callback):
    """An average of the weights, which the callback copies when training starts and does not save."""

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.average = copy.deepcopy(module.layers).requires_grad_(False)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        for kept, now in zip(self.average.parameters(), module.layers.parameters(), strict=True):
            kept.data.mul_(0.9).add_(now.data, alpha=0.1)
            now.data.add_(kept.data, alpha=0.01)


class EmaOfTensors(L.Callback):
    """The same with a dict of tensors, which exists from the beginning."""

    def __init__(self) -> None:
        self.average: dict[str, torch.Tensor] = {}

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        for name, now in module.named_parameters():
            self.average[name] = 0.9 * self.average.get(name, torch.zeros_like(now.data)) + 0.1 * now.data
            now.data.add_(self.average[name], alpha=0.01)


class EveryTwenty(L.Callback):
    n = 0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.n += 1
        trainer.optimizers[0].param_groups[0]["lr"] = 0.1 / self.n


class BeginsAt(L.Callback):
    """Notes in which epoch a run began."""

    first = 0

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.first = 10 + trainer.current_epoch

    def on_train_epoch_start(self, trainer: L.Trainer, module: Any) -> None:
        trainer.optimizers[0].param_groups[0]["lr"] = 0.1 / (1 + trainer.current_epoch + self.first)


class Balanced(Sampler):
    def __init__(self, samples: int) -> None:
        self.samples, self.own = samples, torch.Generator().manual_seed(0)

    def __iter__(self) -> Any:
        yield from torch.randperm(self.samples, generator=self.own).view(-1, BATCH).tolist()

    def __len__(self) -> int:
        return self.samples // BATCH


class Noisy(Dataset):
    """A dataset that draws from generators of its own, of three kinds."""

    def __init__(self) -> None:
        self.data = points()
        self.rng, self.old = np.random.default_rng(3), np.random.RandomState(4)
        self.transform = Jitter()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        x, y = self.data[index]
        noise = self.rng.standard_normal(4) + self.old.standard_normal(4)
        return self.transform(x + torch.from_numpy(noise.astype("float32"))), y


class Jitter:
    """A transform as MONAI has them: with a generator in `R`."""

    def __init__(self) -> None:
        self.R, self.calls = random.Random(5), 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x + self.R.random() + 0.001 * self.calls


class Reloading(Net):
    """Makes a dataset anew in each epoch."""

    def train_dataloader(self) -> Any:
        return DataLoader(Noisy(), BATCH)


Made = tuple[L.LightningModule, Any, list[L.Callback], dict[str, Any]]

TRAININGS: dict[str, Callable[[], Made]] = {
    "counter": lambda: (Counter(), plain_loader(), [], {}),
    "list of outputs": lambda: (Outputs(), plain_loader(), [], {}),
    "outputs with graphs": lambda: (OutputsWithGraphs(), plain_loader(), [], {}),
    "deque, defaultdict and set": lambda: (Recent(), plain_loader(), [], {}),
    "objects of the user": lambda: (Meters(), plain_loader(), [], {}),
    "replay buffer": lambda: (Replay(), plain_loader(), [], {}),
    "queue with a pointer": lambda: (Queue(), plain_loader(), [], {}),
    "class, variable and default": lambda: (Parts(), plain_loader(), [], {}),
    "flags, modes and rates": lambda: (Flags(), plain_loader(), [], {}),
    "closure of LambdaLR": lambda: (Closure(), plain_loader(), [], {}),
    "own optimizer": lambda: (OwnOptimizer(), plain_loader(), [], {}),
    "best of the validations": lambda: (Validated(), plain_loader(), [], {}),
    "EMA made at the start": lambda: (Net(), plain_loader(), [Ema()], {}),
    "EMA as a dict of tensors": lambda: (Net(), plain_loader(), [EmaOfTensors()], {}),
    "callback that counts": lambda: (Net(), plain_loader(), [EveryTwenty()], {}),
    "value of a start hook": lambda: (Net(), plain_loader(), [BeginsAt()], {}),
    "batch sampler with a generator": lambda: (Net(), DataLoader(points(), batch_sampler=Balanced(SAMPLES)), [], {}),
    "dataset and transform with generators": lambda: (Net(), DataLoader(Noisy(), BATCH, shuffle=True), [], {}),
    "loaders made anew": lambda: (Reloading(), None, [], {"reload_dataloaders_every_n_epochs": 1}),
}


def forget_globals() -> None:
    """Give the variables of this file their first values, as in a new process."""
    Parts.total = 0
    STEPS.clear()
    counted.__defaults__[0].clear()  # type: ignore[index]


def fit(folder: Path, made: Made, ckpt: str | None = None, seed: int = 1, epochs: int = 4) -> Any:
    """Train, and return the module, the provenance callback and the warnings about the resume."""
    forget_globals()
    (folder / "models").mkdir(parents=True, exist_ok=True)
    module, data, callbacks, options = made
    provenance = DtoolProvenanceCallback(str(folder / "models"), retention="all")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(folder, *callbacks, provenance, max_epochs=epochs, **options).fit(module, data, ckpt_path=ckpt)
    texts = [str(each.message) for each in caught if issubclass(each.category, ProvenanceWarning)]
    return module, provenance, [text for text in texts if "may differ" in text]


def made(name: str, seed: int) -> Made:
    L.seed_everything(seed, verbose=False)
    return TRAININGS[name]()


def reasons(uri: str) -> list[str]:
    return [gap.reason for gap in DtoolCheckpoint.from_uri(uri).record.gaps if gap.fact == "checkpoint.resume"]


@pytest.mark.parametrize("name", TRAININGS)
def test_plain_state_is_as_in_an_uninterrupted_run(tmp_path: Path, name: str) -> None:
    whole, provenance, _ = fit(tmp_path / "whole", made(name, 1))
    uri = provenance.uris[1]
    resumed, again, told = fit(tmp_path / "resumed", made(name, 2), uri)
    assert told == []
    assert reasons(uri) == []
    assert same(weights(whole), weights(resumed))
    # A run that resumed saves what a third run needs.
    third, _, told = fit(tmp_path / "third", made(name, 3), again.uris[0])
    assert told == []
    assert same(weights(whole), weights(third))


# -- doubts -----------------------------------------------------------------------------------------


class Generates(Net):
    """Draws factors from a generator of Python, whose position cannot be saved."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = (1 + number / 10 for number in range(1000))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * next(self.factors)


def test_state_that_cannot_be_saved_is_a_gap_and_a_warning(tmp_path: Path) -> None:
    _, provenance, _ = fit(tmp_path / "whole", (Generates(), plain_loader(), [], {}))
    (reason,) = reasons(provenance.uris[1])
    assert "`model.factors` is a builtins:generator, whose position cannot be saved" in reason
    _, _, told = fit(tmp_path / "resumed", (Generates(), plain_loader(), [], {}), provenance.uris[1])
    assert "`model.factors`" in told[0]


def test_state_that_is_too_large_is_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_dtool.resuming.plain_state.encoding.MAX_BYTES", 100)
    _, provenance, _ = fit(tmp_path, made("queue with a pointer", 1))
    (reason,) = reasons(provenance.uris[0])
    assert "`model.queue` is too large" in reason
    assert "pointer" not in reason


def test_a_value_that_begins_otherwise_is_not_overwritten(tmp_path: Path) -> None:
    _, provenance, _ = fit(tmp_path / "whole", (Counter(), plain_loader(), [], {}))
    other = Counter()
    other.beta = 5.0
    resumed, _, told = fit(tmp_path / "resumed", (other, plain_loader(), [], {}), provenance.uris[1], epochs=3)
    assert "`model.beta` did not begin with the value" in told[0]
    assert resumed.beta == pytest.approx(5 + 3 * 0.02)


class OtherMeter(Meter):
    pass


def test_an_object_of_another_class_is_a_doubt(tmp_path: Path) -> None:
    class Kept(Net):
        def __init__(self, meter: Meter) -> None:
            super().__init__()
            self.meter = meter

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.meter.add(1.0)
            return super().training_step(batch, batch_idx)

    _, provenance, _ = fit(tmp_path / "whole", (Kept(Meter()), plain_loader(), [], {}))
    resumed, _, told = fit(tmp_path / "resumed", (Kept(OtherMeter()), plain_loader(), [], {}), provenance.uris[1])
    assert "OtherMeter now, and was a" in told[0]
    assert resumed.meter.count == 2 * SAMPLES // BATCH


# -- no false doubts --------------------------------------------------------------------------------


class Hostile:
    """Raises whenever its own code runs."""

    def _refuse(self, *_: Any) -> Any:
        raise AssertionError("observing ran code of the user")

    __eq__ = __len__ = __iter__ = __bool__ = __repr__ = __hash__ = __getattr__ = __setattr__ = __delattr__ = _refuse  # type: ignore


class Ordinary(L.Callback):
    """Has what many callbacks have, and nothing that decides how training continues."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.hostile, self.files, self.opened = folder, Hostile(), {"file": None}, None
        self.folder_of_this_run = ""
        self.moment, self.took, self.today = datetime.datetime.now(), datetime.timedelta(), datetime.date(2020, 1, 1)
        self.times = {"last": datetime.datetime.now()}

    @functools.cached_property
    def tool(self) -> Any:
        return nn.functional.relu, object()

    @functools.cached_property
    def data(self) -> list[int]:
        return list(range(20_000))

    @functools.cached_property
    def log_folder(self) -> str:
        return self.folder_of_this_run

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.began = time.time()
        self.folder_of_this_run = trainer.default_root_dir
        self.trainer, self.module = trainer, module

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.opened is None:
            self.opened = self.files["file"] = open(self.folder / "log.txt", "a")  # noqa: SIM115
        self.seconds = time.time() - self.began
        self.moment, self.times["last"] = datetime.datetime.now(), datetime.datetime.now(datetime.timezone.utc)
        self.took, self.today = datetime.datetime.now() - self.moment, datetime.date.today()
        assert self.tool is not None
        assert len(self.data) == 20_000
        assert self.log_folder == trainer.default_root_dir
        os.environ["TORCH_NOTE"] = str(trainer.global_step)
        vars(self.hostile)["calls"] = vars(self.hostile).get("calls", 0) + 1


def test_files_clocks_and_folders_give_no_doubt_and_no_code_of_the_user_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_NOTE", raising=False)
    one, two = Ordinary(tmp_path), Ordinary(tmp_path)
    _, provenance, _ = fit(tmp_path / "whole", (Net(), plain_loader(), [one], {}))
    assert reasons(provenance.uris[1]) == []
    _, _, told = fit(tmp_path / "resumed", (Net(), plain_loader(), [two], {}), provenance.uris[1])
    assert told == []
    assert vars(two.hostile)["calls"] == 4 * SAMPLES // BATCH
    assert two.folder_of_this_run == two.log_folder == str(tmp_path / "resumed")
    assert two.began > one.began
    one.opened.close()
    two.opened.close()


def test_a_trainer_has_no_attributes_that_are_taken_for_the_users(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_epochs=1, val_check_interval={"seconds": 60}, check_val_every_n_epoch=None)
    made.fit(Validated(), plain_loader())
    made.validate(made.lightning_module, verbose=False)
    assert [name for name, value in set_by_the_user(made).items() if name.startswith("_") or may_decide(value)] == []
    made._own, made.own = 1, 2
    found = set_by_the_user(made)
    assert (found["_own"], found["own"]) == (1, 2)


def test_a_removed_callback_gives_no_doubt(tmp_path: Path) -> None:
    _, provenance, _ = fit(tmp_path / "whole", (Net(), plain_loader(), [EveryTwenty(), BeginsAt()], {}))
    _, _, told = fit(tmp_path / "resumed", (Net(), plain_loader(), [BeginsAt()], {}), provenance.uris[1])
    assert told == []


# -- values -------------------------------------------------------------------------------------------

ZONE = datetime.timezone(datetime.timedelta(hours=2))

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5),
    st.complex_numbers(), st.sampled_from([torch.float32, torch.device("cpu"), torch.Size([1, 2]), range(3)]),
    st.sampled_from([np.float32(1.5), np.int64(3), Path("folder")]), st.dates(), st.times(), st.timedeltas(),
    st.datetimes(timezones=st.sampled_from([None, ZONE, datetime.timezone.utc, zoneinfo.ZoneInfo("UTC")])),
)  # fmt: skip

KEYS = st.one_of(st.integers(), st.text(max_size=3), st.tuples(st.integers(), st.text(max_size=2)))


def objects(one: Any, two: Any) -> Any:
    made = np.empty((2, 1), dtype=object)
    made[0, 0], made[1, 0] = one, two
    return made


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(KEYS, inner, max_size=3),
        st.sets(KEYS, max_size=3),
        st.frozensets(st.integers(), max_size=3),
        st.builds(lambda entries: collections.deque(entries, maxlen=5), st.lists(inner, max_size=3)),
        st.builds(lambda entries: collections.OrderedDict(entries), st.dictionaries(KEYS, inner, max_size=3)),
        st.builds(lambda number: torch.full((2, 3), number), st.floats(width=32)),
        st.builds(lambda number: np.full((2, 1), number), st.integers(-100, 100)),
        st.builds(lambda one, two: Step(one, two), inner, inner),
        st.builds(lambda numbers: array.array("q", numbers), st.lists(st.integers(-9, 9), max_size=3)),
        st.builds(objects, inner, inner),
    ),
    max_leaves=10,
)

CLASSES = {class_path(Step): Step, class_path(Meter): Meter}


def round_trip(value: Any) -> tuple[Any, bool]:
    """Encode a value, save and load it, and decode it. Returns the new value, and whether it encodes as before."""
    encoder = Encoder(lambda value: None)
    encoded = encoder.value(value)
    stream = io.BytesIO()
    torch.save([encoded, encoder.table], stream)
    stream.seek(0)
    loaded, table = torch.load(stream, weights_only=True)
    decoded = Decoder(table, lambda path: None, CLASSES.get, torch.device("cpu")).value(loaded)
    again = Encoder(lambda value: None)
    return decoded, equal(again.value(decoded), again.table, encoded, encoder.table)


@given(VALUES)
@settings(max_examples=150, deadline=None)
def test_a_value_is_the_same_after_a_safe_load(value: Any) -> None:
    decoded, as_before = round_trip(value)
    assert type(decoded) is type(value) or isinstance(value, Path)
    assert as_before


@given(VALUES, VALUES)
@settings(max_examples=150, deadline=None)
def test_the_digests_of_two_values_are_equal_only_if_the_values_are(one: Any, other: Any) -> None:
    first, second = Encoder(lambda value: None), Encoder(lambda value: None)
    a, b = first.value(one), second.value(other)
    same_digest = digest(a, first.table) == digest(b, second.table)
    assert same_digest == equal(a, first.table, b, second.table)


@pytest.mark.parametrize(
    "value",
    [
        datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1, tzinfo=ZONE),
        datetime.timedelta(days=1), datetime.timedelta(seconds=-1),
    ],
)  # fmt: skip
def test_a_date_that_no_clock_has_shown_is_state(value: Any) -> None:
    assert not Clocks().may_have_given(value, "last_time")


@pytest.mark.parametrize("name", ["array", "tensor"])
def test_of_large_arrays_all_values_count_up_to_a_limit(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("lightning_dtool.resuming.plain_state.walk._MAX_HASHED", 5 * 2**20)
    held = [np.zeros(2**18), np.zeros((2**10, 2**8)).T, np.zeros(2**18)]
    values = held if name == "array" else [torch.from_numpy(each) for each in held[:1]]
    reached = Reached()
    reached.walk([("values", values)])
    for each in held:
        each.ravel(order="K")[1] = 1.0
    unchanged = [is_unchanged(node) for node in reached.nodes]
    assert unchanged == ([True, False, False, True] if name == "array" else [True, False])


def test_a_buffer_with_pointers_is_left_alone() -> None:
    class Numbers(ctypes.Structure):
        _fields_ = (("one", ctypes.c_int), ("more", ctypes.c_double * 3))

    class Linked(ctypes.Structure):
        _fields_ = (("one", ctypes.c_int), ("next", ctypes.c_void_p))

    assert all(map(is_buffer, (array.array, ctypes.c_float, ctypes.c_int * 3, Numbers)))
    assert not any(map(is_buffer, (Linked, ctypes.c_char_p, ctypes.py_object, ctypes.c_void_p * 2, bytearray)))


def test_an_object_in_two_places_and_in_itself_stays_one() -> None:
    shared: list[Any] = [torch.ones(2)]
    shared.append(shared)
    decoded, _ = round_trip({"one": shared, "two": (shared, shared[0])})
    assert decoded["one"] is decoded["two"][0]
    assert decoded["one"][1] is decoded["one"]
    assert decoded["one"][0] is decoded["two"][1]


@pytest.mark.parametrize(
    "generator",
    [
        random.Random(3), np.random.default_rng(3), np.random.RandomState(3), torch.Generator().manual_seed(3),
        np.random.Generator(np.random.MT19937(3)), np.random.Generator(np.random.Philox(3)),
    ],
    ids=lambda generator: type(generator).__name__,
)  # fmt: skip
def test_a_generator_goes_on_with_the_same_numbers(generator: Any) -> None:
    def draw(generator: Any) -> Any:
        if isinstance(generator, torch.Generator):
            return torch.rand(3, generator=generator).tolist()
        return [generator.random() for _ in range(3)]

    draw(generator)
    decoded, _ = round_trip(generator)
    assert draw(decoded) == draw(generator)


@pytest.mark.parametrize(
    "value",
    [
        lambda: None, open, object(), iter([1]), torch.nn.ReLU(), np.array([object()]), "\udc80", ctypes.c_int(3),
        type("Day", (datetime.date,), {})(2020, 1, 1),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_refused_and_leaves_no_trace(value: Any) -> None:
    encoder = Encoder(lambda value: None)
    with pytest.raises(NotPlainError):
        encoder.attempt([1, value])
    assert encoder.table == []
    assert encoder.attempt([1]) == {"kind": "new", "index": 0}


@pytest.mark.parametrize("large", [torch.zeros(26), np.zeros(26), 101 * "a", 101 * b"a", [60 * "a", 60 * "b"]])
def test_a_value_that_is_too_large_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch, large: Any) -> None:
    monkeypatch.setattr("lightning_dtool.resuming.plain_state.encoding.MAX_BYTES", 100)
    encoder = Encoder(lambda value: None)
    with pytest.raises(NotPlainError, match="is too large"):
        encoder.attempt(large)
    assert encoder.attempt(99 * "a") == 99 * "a"


def test_an_error_while_a_validation_begins_is_a_reason_at_the_save() -> None:
    class Fails(Remembered):
        def _collected(self, modes: Any) -> Any:
            raise RuntimeError

    remembered = Remembered()
    remembered.note_before_validation()
    assert remembered.changed_by_validation({"table": [], "changes": []}) == []
    failing = Fails()
    failing.note_before_validation()
    assert failing.changed_by_validation({"table": [], "changes": []}) != []
