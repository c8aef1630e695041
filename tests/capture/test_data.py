"""The recorded data of every stage: its samples, and how they were chosen, prepared, loaded and ordered."""

import json
from pathlib import Path
from typing import Any

import dtoolcore
import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from counting import counted
from kit import TinyNet, loader, same, trainer, weights
from lightning_dtool import DtoolDataModule, DtoolDataset
from lightning_dtool.capture import content, dataset_description
from lightning_dtool.capture.data import capture_data
from lightning_dtool.capture.data_identity import foreign_data_message, training_datasets
from lightning_dtool.capture.fingerprint import Fingerprint, fingerprint
from lightning_dtool.capture.loaders import capture_loader
from lightning_dtool.data.samples import Items
from lightning_dtool.record import Data, DataSource, Gap, Gaps
from lightning_dtool.store import FrozenDataset

FILES = {f"{'oak' if i % 3 else 'elm'}/{i:02}.txt": bytes([65 + i]) for i in range(30)}
CATEGORY = {relpath: relpath[:3] for relpath in FILES}
USETYPE = {relpath: ["train", "train", "Validation", "test"][i % 4] for i, relpath in enumerate(FILES)}


class Net(TinyNet):
    """Accepts any batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layers(torch.randn(2, 8)).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


class Watch(L.Callback):
    """Observes the data when training starts, as the callback does, and the order at each epoch's end."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.gaps = Gaps()
        self.data = capture_data(trainer, pl_module, self.gaps)
        Data.model_validate(self.data.model_dump())

    def source(self, stage: str = "train", index: int = 0) -> DataSource:
        return self.data.stages[stage][index]

    def facts(self) -> list[str]:
        return [gap.fact for gap in self.gaps]


def observed(folder: Path, *data: Any, model: Any = None, **options: Any) -> Watch:
    watch = Watch()
    settings = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "enable_checkpointing": False}
    trainer(folder, watch, **{**settings, **options}).fit(model or Net(), *data)
    return watch


def gap_of(watch: Watch, fact: str) -> Gap:
    return next(gap for gap in watch.gaps if gap.fact == fact)


def to_number(text: str) -> torch.Tensor:
    return torch.tensor(float(ord(text)))


@pytest.fixture
def uri(make_dataset: Any) -> str:
    return make_dataset(FILES, overlays={"category": CATEGORY, "usetype": USETYPE}).uri


# -- our own DataModule ---------------------------------------------------------------------------


def test_a_dtool_datamodule_is_recorded_without_gaps(uri: str, tmp_path: Path) -> None:
    module = DtoolDataModule(
        uri, val_split=0.2, test_split=0.1, seed=4, stratify=True, batch_size=4, select={"category": ["oak", "elm"]},
        train_transform=to_number, eval_transform=lambda text: torch.tensor(1.0), target_transform=int,
    )  # fmt: skip
    watch = observed(tmp_path, module)
    train, val, test = (watch.source(stage) for stage in ("train", "val", "test"))
    frozen = FrozenDataset.from_uri(uri)
    assert train.dataset is not None
    assert (train.dataset.uuid, train.dataset.content_digest) == (frozen.uuid, frozen.content_digest)
    facts = module.description()["stages"]
    for stage, source in (("train", train), ("val", val), ("test", test)):
        assert (source.count, source.selection_digest) == (facts[stage]["count"], facts[stage]["selection_digest"])
        assert source.class_counts == facts[stage]["class_counts"]
        assert source.selection == {
            "part": stage, "by": "fractions", "val_split": 0.2, "test_split": 0.1, "seed": 4, "stratify": True,
            "select": {"category": ["oak", "elm"]},
        }  # fmt: skip
    assert train.transforms["transform"]["name"] == f"{__name__}:to_number"
    assert train.transforms["transform"]["source"].startswith("def to_number(text")
    assert train.transforms["target_transform"] == {"type": "builtins:type", "name": "builtins:int"}
    assert val.transforms["transform"]["source"] == test.transforms["transform"]["source"]
    assert val.transforms["transform"]["source"] == "lambda text: torch.tensor(1.0)"
    assert train.loader is not None
    assert train.loader.sampler == {
        "class_path": "lightning_dtool:ResumableSampler", "seed": 4, "shuffle": True, "drop_last": False,
        "num_replicas": 1, "rank": 0,
    }  # fmt: skip
    assert (train.loader.batch_size, train.loader.num_workers, train.loader.drop_last) == (4, 0, False)
    assert test.loader is None
    assert watch.data.datamodule is not None
    assert watch.data.datamodule.arguments["seed"] == 4
    assert watch.facts() == ["data.datamodule.arguments.eval_transform"]
    assert foreign_data_message(watch.data) is None
    assert [reference.uuid for reference in training_datasets(watch.data)] == [frozen.uuid]


def test_a_split_by_an_overlay_is_recorded(uri: str, tmp_path: Path) -> None:
    watch = observed(tmp_path, DtoolDataModule(uri, split_overlay="usetype"))
    assert watch.source("train").selection == {
        "part": "train", "by": "overlay", "overlay": "usetype", "values": ["train"],
    }  # fmt: skip
    assert watch.source("val").selection["values"] == ["Validation"]
    assert watch.source("test").selection["values"] == ["test"]
    assert watch.facts() == []


def test_the_dataset_of_each_stage_is_recorded(make_dataset: Any, tmp_path: Path) -> None:
    one, two = make_dataset(FILES, "one"), make_dataset({"a.txt": b"A"}, "two")
    watch = observed(tmp_path, DtoolDataModule(train_uri=one.uri, val_uri=two.uri, test_uri=two.uri))
    assert watch.source("train").selection == {"part": "train", "by": "whole"}
    assert watch.source("val").dataset.name == "two"  # type: ignore[union-attr]
    assert sorted(watch.data.stages) == ["train", "val"]


def test_a_dataloader_of_the_user_is_recorded(uri: str, tmp_path: Path) -> None:
    class Mine(DtoolDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader(Subset(DtoolDataset(uri), [0, 3]), batch_size=2)

    watch = observed(tmp_path, Mine(uri, val_split=0.5))
    train = watch.source("train")
    assert (train.count, train.class_path) == (2, "torch.utils.data.dataset:Subset")
    assert train.selection == {"by": "positions", "positions": [0, 3]}
    assert train.loader.class_path == "torch.utils.data.dataloader:DataLoader"  # type: ignore[union-attr]


def test_recording_reads_no_item(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    load = Items.load
    monkeypatch.setattr(Items, "load", lambda self, *place, **how: read.append(place) or load(self, *place, **how))

    class Counting(Watch):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            before = len(read)
            super().on_train_start(trainer, pl_module)
            assert len(read) == before

    watch = Counting()
    run = trainer(tmp_path, watch, max_epochs=1, enable_checkpointing=False, limit_train_batches=1)
    run.fit(Net(), DtoolDataModule(uri, val_split=0.2))
    run.fit_loop.max_epochs = 2
    run.fit(Net(), DataLoader(DtoolDataset(uri)))
    assert read
    assert watch.source().dataset is not None


def test_the_cost_of_recording_does_not_grow_with_the_samples(
    make_dataset: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The data has 100,000 samples: the rows of an array, each with its own name."""
    import io

    arrays = {}
    for name, array in (("data.npy", np.zeros((100_000, 1), np.float32)), ("labels.npy", np.arange(100_000) % 7)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        arrays[name] = buffer.getvalue()
    frozen = make_dataset(arrays, "rows")

    class Counted(Watch):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            _, self.calls = counted(super().on_train_start, trainer, pl_module)

    watch = Counted()
    module = DtoolDataModule(frozen.uri, val_split=0.1)
    run = trainer(tmp_path, watch, max_epochs=1, limit_train_batches=1, limit_val_batches=1, enable_checkpointing=False)
    run.fit(Net(), module)
    assert watch.source().count == 90_000
    assert watch.calls < 20_000
    assert watch.source().class_counts is not None


# -- wrappers of a dataset ------------------------------------------------------------------------


class Wrapper(Dataset):  # type: ignore[type-arg]
    def __init__(self, inner: Any, transform: Any = None, length: int | None = None) -> None:
        self.inner = inner
        self.transform = transform
        self.length = length

    def __len__(self) -> int:
        return len(self.inner) if self.length is None else self.length

    def __getitem__(self, index: int) -> Any:
        return self.inner[index]


def test_a_selection_by_positions_is_recorded(uri: str, tmp_path: Path) -> None:
    whole = DtoolDataset(uri, transform=str.lower)
    part = Wrapper(Subset(Subset(whole, range(0, 30, 2)), [1, 0, 2]), str.upper)
    watch = observed(tmp_path, DataLoader(part))
    source = watch.source()
    assert source.selection == {"by": "positions", "positions": [2, 0, 4]}
    assert source.selection_digest is not None
    assert source.selection_digest == observed(tmp_path, DataLoader(Subset(whole, [0, 2, 4]))).source().selection_digest
    assert source.selection_digest != observed(tmp_path, DataLoader(Subset(whole, [0, 2, 3]))).source().selection_digest
    assert source.class_counts == {"elm": 3, "oak": 0}
    assert source.transforms.pop("dataset")["source"].startswith("class Wrapper(Dataset)")
    assert source.transforms == {
        "transform": {"type": "builtins:function", "name": "builtins:str.upper"},
        "DtoolDataset.transform": {"type": "builtins:function", "name": "builtins:str.lower"},
    }  # fmt: skip
    assert watch.facts() == ["data.order"]


def test_an_unknown_part_of_a_selection_is_a_gap(uri: str, tmp_path: Path) -> None:
    watch = observed(tmp_path, DataLoader(Wrapper(DtoolDataset(uri), length=3)))
    assert "data.stages.train[0].selection" in watch.facts()
    assert watch.source().selection_digest is None
    unsure = observed(
        tmp_path, DataLoader(Subset(Wrapper(DtoolDataset(uri)), [1]))
    )  # the wrapper may reorder its samples
    assert "data.stages.train[0].selection" in unsure.facts()
    assert (unsure.source().selection, unsure.source().selection_digest) == ({}, None)
    selected = observed(tmp_path, DataLoader(DtoolDataset(uri, select={"category": "elm"})))
    assert "data.stages.train[0].selection" in selected.facts()
    assert selected.source().count == 10
    both = observed(tmp_path, DataLoader(ConcatDataset([DtoolDataset(uri), DtoolDataset(uri)])))
    assert [source.count for source in both.data.stages["train"]] == [30, 30]


def test_transforms_of_torchvision_datasets_are_recorded(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    from PIL import Image

    for label in ("elm", "oak"):
        (tmp_path / "leaves" / label).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "leaves" / label / "1.png")
    to_tensor = torchvision.transforms.ToTensor()
    data = torchvision.datasets.ImageFolder(str(tmp_path / "leaves"), transform=to_tensor, target_transform=int)
    watch = observed(tmp_path, DataLoader(data))
    source = watch.source()
    assert sorted(source.transforms) == ["decoder", "target_transform", "transform"]
    assert source.transforms["decoder"]["name"] == "torchvision.datasets.folder:default_loader"
    assert source.root == str(tmp_path / "leaves")
    assert source.classes == ["elm", "oak"]
    first = source.fingerprint
    assert first is not None
    assert source.fingerprint_complete is False
    assert "imgs: the content of 2 files" in gap_of(watch, "data.stages.train[0].fingerprint").reason
    assert "names and sizes of 2 files" in gap_of(watch, "data.stages.train[0].dataset").reason
    moved = (tmp_path / "leaves").rename(tmp_path / "moved")
    again = torchvision.datasets.ImageFolder(str(moved), transform=to_tensor)
    assert observed(tmp_path, DataLoader(again)).source().fingerprint == first
    Image.new("L", (40, 40), 3).save(moved / "elm" / "1.png")
    changed = torchvision.datasets.ImageFolder(str(moved), transform=to_tensor)
    assert observed(tmp_path, DataLoader(changed)).source().fingerprint != first
    joint = torchvision.datasets.FakeData(4)
    joint.transforms = lambda image, target: (to_tensor(image), target)
    assert sorted(observed(tmp_path, DataLoader(joint, collate_fn=len)).source().transforms) == ["transforms"]


# -- loaders and samplers -------------------------------------------------------------------------


def collate(samples: list[Any]) -> Any:
    return torch.utils.data.default_collate(samples)


def test_the_settings_of_a_loader_are_recorded(tmp_path: Path) -> None:
    data = TensorDataset(torch.zeros(300))
    generator = torch.Generator().manual_seed(2**63 + 1)
    sampler = WeightedRandomSampler([0.5] * 299 + [1.0], 20, generator=generator)
    kept = DataLoader(
        data, 3, sampler=sampler, drop_last=True, collate_fn=collate, generator=generator, worker_init_fn=print,
        num_workers=1, prefetch_factor=4, persistent_workers=True, multiprocessing_context="fork", timeout=30,
    )  # fmt: skip
    found = observed(tmp_path, kept).source().loader
    assert found is not None
    assert (found.batch_size, found.num_workers, found.drop_last) == (3, 1, True)
    assert found.collate_fn["source"].startswith("def collate(samples")
    assert found.sampler["class_path"] == "torch.utils.data.sampler:WeightedRandomSampler"
    assert (found.sampler["num_samples"], found.sampler["replacement"]) == (20, True)
    assert found.sampler["weights"]["length"] == 300
    assert found.sampler["generator"] == {
        "type": "torch:Generator", "repr": "a generator",
        "initial_seed": {"type": "builtins:int", "value": str(2**63 + 1)},
    }  # fmt: skip
    expected = {"prefetch_factor": 4, "persistent_workers": True, "multiprocessing_context": "fork", "timeout": 30}
    assert expected.items() <= found.settings.items()
    assert found.settings["worker_init_fn"] == {"type": "builtins:function", "name": "builtins:print"}


def test_different_samplers_have_different_records(tmp_path: Path) -> None:
    data = TensorDataset(torch.zeros(500))

    def of(sampler: Any = None, **how: Any) -> dict[str, Any]:
        return observed(tmp_path, DataLoader(data, sampler=sampler, **how)).source().loader.sampler  # type: ignore[union-attr]

    assert of(SubsetRandomSampler(range(400))) != of(SubsetRandomSampler([*range(399), 400]))
    assert of(shuffle=True)["class_path"] == "torch.utils.data.sampler:RandomSampler"
    assert of(RandomSampler(data, True, 7))["num_samples"] == 7


class Tempered(Sampler[int]):
    __slots__ = ("power",)
    temperature = 1

    def __init__(self, power: int) -> None:
        self.power = power

    def __iter__(self) -> Any:
        return iter([self.temperature, self.power])


class Scaling(DataLoader[Any]):
    scale = 1
    factor = 1

    def __iter__(self) -> Any:
        return (batch * self.scale * self.factor for batch in super().__iter__())


@pytest.mark.parametrize("part", ["a slot", "a class attribute", "a list", "a loader", "the class of a loader"])
def test_what_a_users_sampler_or_loader_holds_is_recorded(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for value in (0, 0, 1):
        sampler: Any = [0, value] if part == "a list" else Tempered(value if part == "a slot" else 0)
        made = Scaling(range(2), sampler=sampler)  # type: ignore[arg-type]
        if part == "a loader":
            made.scale = value
        if part in ("a class attribute", "the class of a loader"):
            owner, name = (Tempered, "temperature") if part == "a class attribute" else (Scaling, "factor")
            monkeypatch.setattr(owner, name, value)
        gaps = Gaps()
        found.append(capture_loader(made, gaps))
        assert not gaps
    assert found[0] == found[1]
    assert found[2] != found[0]


def test_a_stack_of_data_names_its_parts(tmp_path: Path) -> None:
    one, two = TensorDataset(torch.zeros(2)), TensorDataset(torch.ones(2))
    found = [
        [
            (source.fingerprint, source.selection)
            for source in observed(tmp_path, DataLoader(StackDataset(**parts))).data.stages["train"]
        ]
        for parts in ({"x": one, "y": two}, {"y": one, "x": two})
    ]
    assert [selection for _, selection in found[0]] == [{"stacked_as": "x"}, {"stacked_as": "y"}]
    assert found[0] != found[1]


def test_a_batch_sampler_of_the_user_is_recorded(tmp_path: Path) -> None:
    class Pairs(BatchSampler):
        def __init__(self, sampler: Any, batch_size: int, drop_last: bool, gap: int = 1) -> None:
            super().__init__(sampler, batch_size, drop_last)
            self.gap = gap

    data = TensorDataset(torch.zeros(8))
    found = observed(tmp_path, DataLoader(data, batch_sampler=Pairs(RandomSampler(data), 2, True))).source().loader
    assert found is not None
    assert (found.batch_size, found.drop_last) == (2, True)
    assert found.settings["batch_sampler"]["gap"] == 1
    assert found.settings["batch_sampler"]["sampler"]["class_path"] == "torch.utils.data.sampler:RandomSampler"


class Wrapped:
    """A loader around another one."""

    def __init__(self, inner: Any, **others: Any) -> None:
        self.loader = inner
        self.__dict__.update(others)

    def __iter__(self) -> Any:
        return iter(self.loader)


class OfBatches(IterableDataset):  # type: ignore[type-arg]
    def __init__(self, **others: Any) -> None:
        self.__dict__.update(others)

    def __iter__(self) -> Any:
        yield torch.zeros(4, 8)


class OwnBatches(Sampler):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        yield [0]
        yield [1, 2]


ROWS = TensorDataset(torch.zeros(8))


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: [torch.zeros(4, 8)], None),
        (lambda: Wrapped(DataLoader(ROWS, 2)), None),
        (lambda: Wrapped(DataLoader(ROWS, 2), batch_size=2), 2),
        (lambda: DataLoader(OfBatches(), batch_size=None), None),
        (lambda: DataLoader(OfBatches(batch_size=4), batch_size=None), 4),
        (lambda: DataLoader(OfBatches(), batch_size=3), 3),
        (lambda: DataLoader(ROWS, batch_sampler=OwnBatches()), None),
        (lambda: DataLoader(ROWS, batch_sampler=BatchSampler(RandomSampler(ROWS), 5, False)), 5),
        (lambda: DataLoader(ROWS, sampler=BatchSampler(RandomSampler(ROWS), 5, True), batch_size=None), 5),
    ],
)
def test_a_batch_size_is_recorded_or_a_gap(make: Any, size: int | None) -> None:
    gaps = Gaps()
    assert capture_loader(make(), gaps).batch_size == size
    assert [gap.fact for gap in gaps if gap.remedy] == (["batch_size"] if size is None else [])


def test_the_loaders_inside_a_loader_are_recorded() -> None:
    found = capture_loader(Wrapped(DataLoader(ROWS, 2, drop_last=True), num_workers=3), Gaps())
    (inner,) = found.settings["loaders"]
    assert (inner["batch_size"], inner["drop_last"], found.num_workers) == (2, True, 3)


def test_an_iterable_dataset_has_no_sampler(tmp_path: Path) -> None:
    found = observed(tmp_path, DataLoader(OfBatches(), batch_size=None)).source().loader
    assert found is not None
    assert (found.sampler, found.settings["automatic_batching"]) == ({}, False)


def test_how_loaders_are_combined_is_recorded(tmp_path: Path) -> None:
    for given, mode in (
        ({"a": loader(), "b": loader()}, "max_size_cycle"),
        (CombinedLoader([loader(), loader()], "min_size"), "min_size"),
    ):
        watch = observed(tmp_path, given)
        assert [source.loader.settings["combined_by"] for source in watch.data.stages["train"]] == [mode, mode]  # type: ignore[union-attr]
    assert "combined_by" not in observed(tmp_path, loader()).source().loader.settings  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_a_sampler_replaced_by_lightning_is_recorded(uri: str, tmp_path: Path) -> None:
    plain = observed(tmp_path, DataLoader(TensorDataset(torch.zeros(8)), shuffle=True), overfit_batches=1)
    assert plain.source().loader.sampler == {"class_path": "torch.utils.data.sampler:SequentialSampler"}  # type: ignore[union-attr]
    module = DtoolDataModule(uri)
    own = observed(tmp_path, module, overfit_batches=1)
    assert own.source().loader.sampler["class_path"] == "torch.utils.data.sampler:SequentialSampler"  # type: ignore[union-attr]
    assert own.source().dataset is not None
    assert module.order_digests() == {}


# -- data other than dtool datasets ---------------------------------------------------------------


class Endless(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter([torch.zeros(1)] * 3)


class Strange:
    """Like a dataset of Hugging Face: it has columns, and some of its attributes raise."""

    def __init__(self) -> None:
        self._format_kwargs = {"transform": str.upper}
        self.features = {"text": object()}

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name) if not name.startswith("__") else AttributeError(name)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return {"text": "a"}


@pytest.mark.parametrize(
    "data",
    [
        lambda: [loader(), loader()],
        lambda: {"a": loader(), "b": [loader(), loader()]},
        lambda: CombinedLoader({"a": loader(), "b": loader()}, "max_size"),
        lambda: [torch.zeros(3), torch.zeros(3)],
        lambda: [[torch.zeros(3)], [torch.zeros(3)]],
        lambda: DataLoader(Endless()),
        lambda: DataLoader([{"x": 1.0}, {"x": 2.0}]),
        lambda: DataLoader(Strange()),
        lambda: range(5),
    ],
)
def test_any_kind_of_training_data_is_described(data: Any, tmp_path: Path) -> None:
    watch = observed(tmp_path, data())
    sources = watch.data.stages["train"]
    assert sources
    assert all(source.dataset is None and source.loader is not None for source in sources)
    without = [fact for fact in watch.facts() if fact.startswith("data.stages.train[") and fact.endswith(".dataset")]
    assert len(without) == len(sources) or any("could not be observed" in gap.reason for gap in watch.gaps)
    assert "data.order" in watch.facts()


def test_an_exception_while_reading_the_trainer_is_a_gap(tmp_path: Path) -> None:
    class Broken:
        datamodule = None
        world_size = 1
        val_dataloaders = None

        @property
        def train_dataloader(self) -> Any:
            raise RuntimeError("no loader")

    gaps = Gaps()
    data = capture_data(Broken(), TinyNet(), gaps)  # type: ignore[arg-type]
    assert data.stages == {}
    assert gaps[0].fact == "data.stages.train"
    assert gaps[0].reason == "it could not be observed: RuntimeError: no loader"


class Unsized(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter([])

    def __len__(self) -> int:
        raise NotImplementedError


class FakeTrainer:
    """The attributes of a Trainer that `capture_data` reads."""

    datamodule = None
    val_dataloaders = None

    def __init__(self, *datasets: Any, loaders: Any = ()) -> None:
        self.train_dataloader = [*(DataLoader(dataset) for dataset in datasets), *loaders]


def test_datasets_inside_subsets_and_concatenations_are_found(make_dataset: Any) -> None:
    one, two = (DtoolDataset(make_dataset(name=name).uri) for name in ("one", "two"))
    gaps = Gaps()
    data = capture_data(FakeTrainer(Subset(one, [0, 1]), ConcatDataset([one, Subset(two, [0])]), Unsized()), None, gaps)  # type: ignore[arg-type]
    found = [(source.dataset.name if source.dataset else None, source.count) for source in data.stages["train"]]
    assert found == [("one", 2), ("one", 3), ("two", 1), (None, None)]
    assert "data.stages.train[3].dataset" in [gap.fact for gap in gaps]
    assert [reference.name for reference in training_datasets(data)] == ["one", "two"]


class Pairs(Dataset):  # type: ignore[type-arg]
    """Combines datasets in a way of its own."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return index


def held_in_a_closure(one: Any, two: Any) -> Any:
    def batches() -> Any:
        yield from zip(one, two, strict=False)

    return batches


SEVERAL = {
    "attributes": lambda one, two: DataLoader(Pairs(one=one, two=two)),
    "a list": lambda one, two: DataLoader(Pairs(parts=[one, Subset(two, [0])])),
    "a dict": lambda one, two: DataLoader(Pairs(parts={"a": one, "b": {"c": two}})),
    "an object": lambda one, two: DataLoader(Pairs(parts=Wrapped([one, two]))),
    "a subset of pairs": lambda one, two: DataLoader(Subset(Pairs(one=one, two=two), [0])),
    "a chain": lambda one, two: DataLoader(ChainDataset([one, two])),
    "a stack": lambda one, two: DataLoader(StackDataset(one, two)),
    "a stack by name": lambda one, two: DataLoader(StackDataset(a=one, b=two)),
    "random parts": lambda one, two: DataLoader(ConcatDataset([random_split(one, [1, 2])[0], two])),
    "a loader around loaders": lambda one, two: Wrapped([DataLoader(one), DataLoader(two)]),
    "a loader around a dataset": lambda one, two: Wrapped(DataLoader(Pairs(one=one, two=two))),
    "a zip": lambda one, two: Wrapped(None, parts=[zip, one, two]),
    "a generator function": lambda one, two: Wrapped(held_in_a_closure(one, two)),
    "a collate function": lambda one, two: DataLoader(Pairs(one=one), collate_fn=Wrapped(two)),
    "a transform": lambda one, two: DataLoader(DtoolDataset(one.dataset, transform=Wrapped(two))),
    "opened by the user": lambda one, two: DataLoader(Pairs(one=one.dataset, two=two.dataset)),
    "opened with dtoolcore": lambda one, two: DataLoader(
        Pairs(**{name: dtoolcore.DataSet.from_uri(each.dataset.uri) for name, each in (("one", one), ("two", two))})
    ),
}


@pytest.mark.parametrize("form", SEVERAL)
def test_every_dtool_dataset_inside_a_loader_is_found(form: str, make_dataset: Any) -> None:
    one, two = (DtoolDataset(make_dataset(name=name).uri) for name in ("one", "two"))
    gaps = Gaps()
    data = capture_data(FakeTrainer(loaders=[SEVERAL[form](one, two)]), None, gaps)  # type: ignore[arg-type]
    assert sorted(reference.name for reference in training_datasets(data)) == ["one", "two"]
    known = form in ("a chain", "a stack", "a stack by name", "random parts")
    assert any(gap.fact.endswith(".selection") for gap in gaps) != known


def test_other_data_beside_dtool_datasets_is_found(make_dataset: Any) -> None:
    one, numbers = DtoolDataset(make_dataset(name="one").uri), TensorDataset(torch.zeros(2))
    for whole in (Pairs(a=one, b=numbers), ConcatDataset([one, numbers])):
        data = capture_data(FakeTrainer(whole), None, Gaps())  # type: ignore[arg-type]
        first, second = data.stages["train"]
        assert first.dataset is not None
        assert (second.dataset, second.fingerprint_complete) == (None, True)


class Labelled(DtoolDataset):
    def __init__(self, uri: str, labels: Any) -> None:
        super().__init__(uri)
        self.labels = labels


class Graphs(DataLoader):  # type: ignore[type-arg]
    """Keeps the data beside the dataset, which is a range of indices."""

    def __init__(self, data: Any, dataset: Any = None) -> None:
        super().__init__(TensorDataset(torch.arange(3)) if dataset is None else dataset)
        self.data = data


@pytest.mark.parametrize(
    "make",
    [
        lambda one, labels: Labelled(one.dataset.uri, labels),
        lambda one, labels: Wrapper(one, length=None) if labels is None else Relabelled(one, labels),
        lambda one, labels: Graphs(labels, one),
    ],
)
def test_data_beside_a_dtool_dataset_has_a_fingerprint(make: Any, make_dataset: Any) -> None:
    one = DtoolDataset(make_dataset(name="one").uri)

    def source(labels: Any) -> DataSource:
        made = make(one, labels)
        loaders = [made if isinstance(made, DataLoader) else DataLoader(made)]
        data = capture_data(FakeTrainer(loaders=loaders), None, Gaps())  # type: ignore[arg-type]
        (found,) = data.stages["train"]
        assert found.dataset is not None
        return found

    first, again, changed, without = (
        source(labels) for labels in (torch.zeros(3), torch.zeros(3), torch.ones(3), None)
    )
    assert first.fingerprint is not None
    assert first.fingerprint_complete
    assert first.fingerprint == again.fingerprint != changed.fingerprint
    assert (without.fingerprint, without.fingerprint_complete) == (None, None)


class Relabelled(Wrapper):
    def __init__(self, inner: Any, labels: Any) -> None:
        super().__init__(inner)
        self.labels = labels


def test_the_attributes_of_a_dtool_dataset_are_not_data_of_the_users(make_dataset: Any) -> None:
    assert set(vars(DtoolDataset(make_dataset().uri))) == dataset_description._OF_A_DTOOL_DATASET


def test_data_of_a_loader_is_part_of_the_fingerprint() -> None:
    def of(data: Any) -> DataSource:
        found = capture_data(FakeTrainer(loaders=[Graphs(data)]), None, Gaps())  # type: ignore[arg-type]
        return found.stages["train"][0]

    assert of({"x": torch.zeros(2)}).fingerprint != of({"x": torch.ones(2)}).fingerprint
    assert of({"x": torch.zeros(2)}).fingerprint_complete


def test_a_selection_from_several_datasets_is_a_gap(make_dataset: Any) -> None:
    one, two = (DtoolDataset(make_dataset(name=name).uri) for name in ("one", "two"))
    gaps = Gaps()
    data = capture_data(FakeTrainer(Subset(ConcatDataset([one, two]), [0, 4])), None, gaps)  # type: ignore[arg-type]
    assert [source.count for source in data.stages["train"]] == [None, None]
    assert "data.stages.train[0].count" in [gap.fact for gap in gaps]


def test_data_in_memory_has_a_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(*tensors: Any) -> str | None:
        return fingerprint(TensorDataset(*tensors)).digest

    x, y = torch.arange(6.0), torch.arange(6)
    assert of(x, y) == of(x.clone(), y.clone()) is not None
    others = [of(x), of(x, y + 1), of(y, x), of(x.double(), y), of(x.reshape(6, 1), y), of(x.to(torch.bfloat16), y)]
    assert len({of(x, y), *others}) == 7
    assert fingerprint([(x, 1), (y, 2)]).digest != fingerprint([(x, 1), (y, 3)]).digest
    assert fingerprint(TensorDataset(x)).is_complete
    assert fingerprint(Endless()) == Fingerprint(None, "nothing", ("the samples, which it does not hold in memory",))
    monkeypatch.setattr(content, "MAX_BYTES", 20)
    found = fingerprint(TensorDataset(x))
    assert (found.is_complete, found.omits) == (False, ("tensors: more than the limit of 2e-05 MB in all",))


@pytest.mark.parametrize(
    "data",
    [
        lambda: [(torch.zeros(1), 1)] * 100_000,
        lambda: [[str(number) for number in range(100)]] * 100_000,
        lambda: [str(number) for number in range(10**6)],
        lambda: [{"a": object()}] * 10**6,
        lambda: [[[[1.0] * 100] * 100] * 100] * 100,
    ],
)
def test_a_fingerprint_costs_few_calls(data: Any) -> None:
    samples = data()
    found, calls = counted(fingerprint, samples)
    assert not found.is_complete
    assert calls < 1_500_000


def test_the_hyperparameters_of_any_datamodule_are_recorded(tmp_path: Path) -> None:
    class Mine(L.LightningDataModule):
        def __init__(self, batch_size: int = 8, api_key: str = "a1b2c3") -> None:
            super().__init__()
            self.save_hyperparameters(logger=False)

        def train_dataloader(self) -> Any:
            return loader()

    watch = observed(tmp_path, Mine())
    assert watch.data.datamodule is not None
    assert watch.data.datamodule.arguments == {"batch_size": 8, "api_key": "[redacted]"}


# -- inertness and order --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ours", "foreign"])
def test_recording_data_changes_no_weights(kind: str, uri: str, tmp_path: Path) -> None:
    def run(*callbacks: L.Callback) -> Any:
        L.seed_everything(3)
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(24, 8)
        aug = torch.nn.Sequential(torch.nn.Dropout(0.1))
        if kind == "ours":
            data: Any = DtoolDataModule(uri, val_split=0.2, train_transform=lambda text: torch.rand(1))
        else:
            data = DataLoader(TensorDataset(x), 4, shuffle=True, generator=generator, collate_fn=lambda s: aug(s[0][0]))
        model = Net()
        trainer(tmp_path, *callbacks, max_epochs=2, enable_checkpointing=False).fit(model, data)
        return weights(model), torch.rand(3), np.random.rand(), generator.get_state()

    plain, watched = run(), run(Watch())
    assert same(plain[0], watched[0])
    assert torch.equal(plain[1], watched[1])
    assert plain[2] == watched[2]
    assert torch.equal(plain[3], watched[3])


class Order(L.Callback):
    """Keeps the digests of each epoch, and saves in the middle of an epoch."""

    def __init__(self, save: Path | None = None, stop: bool = False) -> None:
        self.save = save
        self.stop = stop

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.save is not None and trainer.current_epoch == 1 and batch_idx == 1:
            trainer.save_checkpoint(self.save)
            self.at_save = trainer.datamodule.order_digests()  # type: ignore[attr-defined]
            self.save = None
            if self.stop:
                raise KeyboardInterrupt


def orders(
    folder: Path, module: DtoolDataModule, *callbacks: Any, ckpt_path: Any = None, **options: Any
) -> dict[str, str]:
    given = {"max_epochs": 3, "enable_checkpointing": False, "limit_val_batches": 0, **options}
    trainer(folder, *callbacks, **given).fit(Net(), module, ckpt_path=ckpt_path)
    return module.order_digests()


def test_the_order_digests_depend_on_the_seed_alone(uri: str, tmp_path: Path) -> None:
    whole = orders(tmp_path, DtoolDataModule(uri, batch_size=4))
    assert sorted(whole) == ["0", "1", "2"]
    assert all(value.startswith("sha256:") and len(value) == 71 for value in whole.values())
    assert orders(tmp_path, DtoolDataModule(uri, batch_size=4, num_workers=1)) == whole
    assert orders(tmp_path, DtoolDataModule(uri, batch_size=4), accumulate_grad_batches=3) == whole
    other = orders(tmp_path, DtoolDataModule(uri, batch_size=4, seed=1))
    assert all(other[epoch] != whole[epoch] for epoch in whole)
    reloaded = orders(tmp_path, DtoolDataModule(uri, batch_size=4), reload_dataloaders_every_n_epochs=1)
    assert reloaded == whole


def test_prefetched_batches_do_not_count_for_the_order(uri: str, tmp_path: Path) -> None:
    first, second = (
        orders(tmp_path, DtoolDataModule(uri, batch_size=4, num_workers=n), limit_train_batches=2) for n in (0, 2)
    )
    assert first == second
    assert not set(first.values()) & set(orders(tmp_path, DtoolDataModule(uri, batch_size=4)).values())
    sampler = DtoolDataModule(uri, batch_size=4)
    sampler.setup("fit")
    loader = sampler.train_dataloader()
    batches = iter(loader)
    next(batches), next(batches)
    assert loader.order_digests["0"] == first["0"]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stop", [False, True])
def test_a_resumed_run_has_the_order_digests_of_an_uninterrupted_run(
    uri: str, tmp_path: Path, workers: int, stop: bool
) -> None:
    def make() -> DtoolDataModule:
        return DtoolDataModule(uri, batch_size=4, num_workers=workers)

    whole = orders(tmp_path, make())
    saver = Order(tmp_path / "mid.ckpt", stop)
    try:
        orders(tmp_path, make(), saver)
    except (KeyboardInterrupt, SystemExit):
        assert stop
    assert sorted(saver.at_save) == ["0", "1"]
    assert saver.at_save["0"] == whole["0"]
    assert saver.at_save["1"] != whole["1"]
    assert orders(tmp_path, make(), ckpt_path=tmp_path / "mid.ckpt") == whole


def test_a_checkpoint_without_order_digests_can_be_resumed(uri: str, tmp_path: Path) -> None:
    whole = orders(tmp_path, DtoolDataModule(uri, batch_size=4), Order(tmp_path / "mid.ckpt"))
    checkpoint = torch.load(tmp_path / "mid.ckpt", weights_only=True)
    (state,) = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert sorted(state.pop("order")) == ["0", "1"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    resumed = orders(tmp_path, DtoolDataModule(uri, batch_size=4), ckpt_path=tmp_path / "old.ckpt")
    assert resumed == {"2": whole["2"]}


def test_a_datamodule_used_twice_has_the_order_digests_of_its_last_run(uri: str, tmp_path: Path) -> None:
    module = DtoolDataModule(uri, batch_size=4)
    whole = orders(tmp_path, module)
    next(iter(module.train_dataloader()))  # reading a batch outside of training changes nothing
    assert module.order_digests() == whole
    assert orders(tmp_path, module, max_epochs=1) == {"0": whole["0"]}


class WritesOrder(L.Callback):
    """Writes what each process has seen to a file: forked processes return nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.gaps = Gaps()
        self.data = capture_data(trainer, pl_module, self.gaps)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        facts = {
            "order": trainer.datamodule.order_digests(),  # type: ignore[attr-defined]
            "sampler": self.data.stages["train"][0].loader.sampler,  # type: ignore[union-attr]
            "gaps": [gap.reason for gap in self.gaps if gap.fact == "data.order"],
        }
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(facts))


@pytest.mark.filterwarnings("ignore:.*use of fork.*may lead to deadlocks:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*process group has NOT been destroyed.*:UserWarning")
def test_each_process_of_a_distributed_run_has_its_own_order(uri: str, tmp_path: Path) -> None:
    class Forked(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self(torch.ones(2, 8)).sum()

    options = {"devices": 2, "strategy": "ddp_fork", "enable_checkpointing": False, "limit_val_batches": 0}
    trainer(tmp_path, WritesOrder(tmp_path), **options).fit(Forked(), DtoolDataModule(uri, batch_size=4))
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert sorted(first["order"]) == sorted(second["order"]) == ["0", "1"]
    assert all(first["order"][epoch] != second["order"][epoch] for epoch in ("0", "1"))
    assert (first["sampler"]["num_replicas"], first["sampler"]["rank"], second["sampler"]["rank"]) == (2, 0, 1)
    assert "each of the 2 processes has its own order" in first["gaps"][0]


@pytest.mark.filterwarnings("ignore:.*use of fork.*may lead to deadlocks:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*process group has NOT been destroyed.*:UserWarning")
def test_the_distributed_sampler_of_lightning_is_recorded(tmp_path: Path) -> None:
    class WritesSampler(WritesOrder):
        def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            (self.folder / "sampler.json").write_text(json.dumps(self.data.stages["train"][0].loader.sampler))  # type: ignore[union-attr]

    class Forked(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self(torch.ones(2, 8)).sum()

    options = {"devices": 2, "strategy": "ddp_fork", "enable_checkpointing": False, "max_epochs": 1}
    data = TensorDataset(torch.zeros(8))
    weighted = WeightedRandomSampler([1.0] * 8, 6)
    trainer(tmp_path, WritesSampler(tmp_path), **options).fit(Forked(), DataLoader(data, 2, sampler=weighted))
    found = json.loads((tmp_path / "sampler.json").read_text())
    assert found["class_path"] == "lightning.fabric.utilities.distributed:DistributedSamplerWrapper"
    assert (found["num_replicas"], found["shuffle"]) == (2, True)
    assert found["sampler"]["class_path"] == "torch.utils.data.sampler:WeightedRandomSampler"
    assert found["sampler"]["num_samples"] == 6


# -- targets and verification ------------------------------------------------------------------------


def test_the_targets_are_part_of_the_record(make_dataset: Any, tmp_path: Path) -> None:
    exchanged = {relpath: {"oak": "elm", "elm": "oak"}[value] for relpath, value in CATEGORY.items()}
    one = make_dataset(FILES, "one", overlays={"category": CATEGORY}).uri
    other = make_dataset(FILES, "other", overlays={"category": exchanged}).uri

    def digest(*data: Any) -> Any:
        return observed(tmp_path, *data).source().targets_digest

    assert digest(DtoolDataModule(one)) == digest(DataLoader(DtoolDataset(one)))
    assert digest(DtoolDataModule(one)) != digest(DtoolDataModule(other))
    assert digest(DtoolDataModule(one)) != digest(DtoolDataModule(one, target=lambda item: len(item.relpath) % 2))
    assert digest(DtoolDataModule(one, target="none")) is None
    first, again = (DataLoader(Subset(DtoolDataset(one), order)) for order in ([0, 3, 4], [4, 0, 3]))
    assert digest(first) == digest(again) != digest(DataLoader(DtoolDataset(one)))


def test_what_was_not_verified_is_a_gap(uri: str, tmp_path: Path) -> None:
    place = "data.stages.train[0].dataset.content_digest"
    for verify in (True, False):
        module = observed(tmp_path, DtoolDataModule(uri, verify=verify))
        assert (place in module.facts()) is not verify
        assert module.data.datamodule is not None
        assert module.data.datamodule.arguments["verify"] is verify
        assert (place in observed(tmp_path, DataLoader(DtoolDataset(uri, verify=verify))).facts()) is not verify
