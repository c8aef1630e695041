"""Metadata that a stranger made: links, pipes, sockets, devices, folders, and files that are huge or deep."""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from kit import checkpoint_dataset
from lightning_dtool import limits
from lightning_dtool.errors import CorruptDatasetError, LightningDtoolError, UnsafeDatasetError
from lightning_dtool.store import FrozenDataset, iter_datasets, local_path
from lightning_dtool.store.bounded_metadata import parse_json
from lightning_dtool.store.brokers import open_broker
from lightning_dtool.store.yaml_text import yaml_mapping
from store.box import installed_box

COMMAND = str(Path(sys.executable).parent / "lightning-dtool")
GIB = 2**30


@pytest.fixture(autouse=True)
def _no_test_hangs() -> Iterator[None]:
    """Interrupt a test that waits for a pipe."""

    def interrupt(*_: object) -> None:
        raise TimeoutError("it waits for a file")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def link_to_a_secret(path: Path) -> None:
    secret = path.parent / ".secret"
    secret.write_text('{"password": "hunter2"}')
    path.symlink_to(secret)


def listening_socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:  # a long path does not fit
        made.bind(path.name)


def device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root can make a device")


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 8 * GIB)  # without a block on the disk


FORMS: dict[str, Callable[[Path], object]] = {
    "a link to a file": link_to_a_secret,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a pipe": os.mkfifo,
    "a socket": listening_socket,
    "a device": device,
    "a folder": Path.mkdir,
    "a huge file": huge,
}
FOUND = {"a pipe": "a named pipe", "a huge file": "8589934592 bytes"} | {
    form: "a symbolic link" for form in FORMS if form.startswith("a link")
}

READERS: dict[str, Callable[[FrozenDataset], object]] = {
    ".dtool/dtool": lambda dataset: FrozenDataset.from_uri(dataset.uri),
    ".dtool/manifest.json": lambda dataset: dataset.items,
    "README.yml": FrozenDataset.readme,
    ".dtool/annotations/epoch.json": lambda dataset: dataset.annotation("epoch"),
    ".dtool/overlays/sha256.json": FrozenDataset.verify,
    ".dtool/tags/best": FrozenDataset.tags,
}


def root_of(dataset: FrozenDataset) -> Path:
    path = local_path(dataset.uri)
    assert path is not None
    return path


def put(form: str, path: Path) -> None:
    path.unlink()
    FORMS[form](path)


CASES = [(form, place) for form in FORMS for place in READERS if (form, place) != ("a huge file", ".dtool/tags/best")]


@pytest.mark.parametrize(("form", "place"), CASES)
def test_what_is_no_plain_file_is_refused_at_once(form: str, place: str, make_dataset) -> None:
    dataset = make_dataset(annotations={"epoch": 1}, tags=("best",))
    put(form, root_of(dataset) / place)
    with pytest.raises(UnsafeDatasetError) as caught:
        READERS[place](FrozenDataset.from_uri(dataset.uri))
    assert str(caught.value).startswith(f"{dataset.uri}: expected ")
    assert place in str(caught.value)
    assert FOUND.get(form, form) in str(caught.value)
    assert caught.value.path == str(root_of(dataset) / place)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "read"),
    [
        (".dtool", lambda dataset: FrozenDataset.from_uri(dataset.uri)),
        (".dtool/annotations", FrozenDataset.annotations),
        (".dtool/annotations", lambda dataset: dataset._annotation("epoch")),
        (".dtool/overlays", FrozenDataset.verify),
        (".dtool/tags", FrozenDataset.tags),
    ],
)
def test_a_folder_of_metadata_that_is_a_link_is_refused(folder: str, read, make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset(annotations={"epoch": 1}, tags=("best",))
    place = root_of(dataset) / folder
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeDatasetError, match=f"expected a folder at {folder}, found a symbolic link|plain file"):
        read(dataset)


def test_a_base_folder_behind_a_link_is_the_users_own(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset(annotations={"epoch": 1}, tags=("best",))
    (tmp_path / "link").symlink_to(root_of(dataset).parent)
    [found] = iter_datasets(tmp_path / "link")
    assert (found.annotations(), found.tags()) == ({"epoch": 1}, ["best"])
    found.verify()
    (tmp_path / "leaves").symlink_to(root_of(dataset))
    assert FrozenDataset.from_uri(tmp_path / "leaves").readme() == dataset.readme()


def test_files_that_the_writer_links_are_read(make_dataset) -> None:
    one, two = make_dataset(name="one", tags=("best",)), make_dataset(name="two", tags=("best",))
    tags = [root_of(dataset) / ".dtool/tags/best" for dataset in (one, two)]
    assert tags[0].stat().st_ino == tags[1].stat().st_ino
    assert two.tags() == ["best"]


def test_a_folder_beside_annotations_and_overlays_is_none_of_them(make_dataset) -> None:
    dataset = make_dataset(annotations={"epoch": 1})
    (root_of(dataset) / ".dtool/annotations/notes").mkdir()
    os.mkfifo(root_of(dataset) / ".dtool/annotations/.hidden.json")
    assert dataset.annotations() == {"epoch": 1}


def test_too_many_names_are_refused(make_dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset(tags=("a", "b", "c"))
    monkeypatch.setattr(limits, "MAX_NAMES", 2)
    with pytest.raises(UnsafeDatasetError, match=r"at most 2 files in \.dtool/tags, found more"):
        dataset.tags()


@pytest.mark.parametrize("content", [b"9" * 5000, b'"\xff"', b"[" * 100_000, b"[" * 151 + b"]" * 151, b"{"])
def test_json_that_no_reader_can_use_is_damaged(content: bytes, make_dataset) -> None:
    dataset = make_dataset(annotations={"epoch": 1})
    (root_of(dataset) / ".dtool/annotations/epoch.json").write_bytes(content)
    with pytest.raises(CorruptDatasetError, match="cannot read annotation 'epoch': expected JSON"):
        dataset.annotation("epoch")
    assert parse_json(b"[" * 150 + b"]" * 150)


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (GIB, GIB))


def test_bad_datasets_among_many_never_stop_the_listing(base_uri: str, tmp_path: Path) -> None:
    good = checkpoint_dataset(base_uri, {}, "good", epoch=3, global_step=1)
    base = local_path(base_uri)
    assert base is not None
    bad = {}
    for number, (form, place) in enumerate(CASES):
        if place in {".dtool/dtool", ".dtool/annotations/epoch.json", ".dtool/tags/best"} and form != "a device":
            name = f"bad{number}"
            shutil.copytree(base / "good", base / name)
            (base / name / ".dtool/tags/best").touch()
            put(form, base / name / place)
            bad[name] = place
    hidden = base / ".writing-0123"
    (hidden / "model/.dtool").mkdir(parents=True)
    os.mkfifo(hidden / "owner.json")
    os.mkfifo(hidden / "model/.dtool/dtool")
    done = subprocess.run(
        [COMMAND, "ls", str(base)], capture_output=True, text=True, timeout=100, check=True, preexec_fn=limited
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["NAME", "good"]
    warnings = {line.split(": ")[1].rpartition("/")[2]: line for line in done.stderr.splitlines() if "left out" in line}
    assert warnings.keys() == bad.keys()
    assert all(place in warnings[name] for name, place in bad.items())
    assert good in done.stdout
    hidden_ones = list(open_broker(base_uri).leftovers(base_uri))
    assert [(left.owner, left.whole) for left in hidden_ones] == [(None, None)]


@pytest.mark.parametrize("form", ["a link to a file", "a pipe", "a huge file"])
def test_commands_end_with_the_code_of_what_cannot_be_read(form: str, base_uri: str, run) -> None:
    for name, place in (
        ("one", ".dtool/dtool"),
        ("two", ".dtool/manifest.json"),
        ("three", ".dtool/overlays/sha256.json"),
    ):
        uri = checkpoint_dataset(base_uri, {}, name)
        put(form, Path(str(local_path(uri)), place))
        for command in ("verify",) if name == "three" else ("verify", "show", "check", "resolve"):
            assert place in run(command, uri, code=3).stderr


@pytest.mark.parametrize("form", ["a link to a file", "a pipe", "a huge file"])
def test_brokers_of_others_that_derive_from_dtools_are_read_alike(form: str, base_uri: str, make_dataset) -> None:
    with installed_box(remote=True):
        dataset = make_dataset(base=base_uri.replace("file:", "box:"), annotations={"epoch": 1})
        put(form, Path(str(local_path(base_uri)), "leaves/.dtool/annotations/epoch.json"))
        with pytest.raises(UnsafeDatasetError, match=r"annotations/epoch\.json"):
            dataset.annotation("epoch")


def test_what_a_stranger_called_things_cannot_write_to_a_terminal() -> None:
    error = LightningDtoolError("item \x1b[2J\u202egnp.exe\nnext line", uri="file:///x\r\x9b")
    assert str(error) == "file:///x\\r\\x9b: item \\x1b[2J\\u202egnp.exe\nnext line"


def test_the_manifest_has_names_that_are_escaped(make_dataset) -> None:
    dataset = make_dataset({"a.txt": b"a"})
    path = root_of(dataset) / ".dtool/annotations"
    (path / "\x1b[31mred\n.json").write_text(json.dumps(1))
    with pytest.raises(LightningDtoolError) as caught:
        dataset.annotation("epoch")
    assert "\x1b" not in str(caught.value)


ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ALIASES, "at most 100000 values, counting what aliases stand for"),
        (
            "a: &a {x: 1}\n" + "".join(f"b{n}: {{<<: [{','.join(['*a'] * 5000)}]}}\n" for n in range(20)),
            "at most 100000",
        ),
        ("[" * 51 + "]" * 51, "nested at most 50 deep"),
        ("- " * 10_000, "nested at most 50 deep"),
    ],
)
def test_yaml_that_stands_for_much_more_is_refused(text: str, reason: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnsafeDatasetError, match=reason):
        yaml_mapping("file:///x", text)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**15  # in KiB


@pytest.mark.parametrize(
    "text",
    [
        *("", "- a", "a: [", "a: &a [*a]", "a: *b", "a: 2020-13-45", "a: !!int ''", "a: !!bool x", "a: !!timestamp x"),
        *("[a]: 1", "a: " + "9" * 5000, "? {a: 1}\n: 2", "a: !!python/object/apply:os.system [ls]"),
    ],
)
def test_yaml_that_is_no_mapping_is_none(text: str) -> None:
    assert yaml_mapping("file:///x", text) is None


def test_yaml_with_aliases_and_merged_keys_is_read() -> None:
    text = "a: &a {x: 1}\nb: *a\nc: {<<: *a, y: [*a, *a]}\n"
    assert yaml_mapping("file:///x", text) == yaml.safe_load(text)
    assert yaml_mapping("file:///x", "---\ndescription: Bäume\n") == {"description": "Bäume"}
