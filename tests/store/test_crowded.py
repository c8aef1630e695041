"""Several processes that write, read, list, verify and remove datasets in one base URI at the same time."""

import json
import subprocess
import sys
from pathlib import Path

from lightning_dtool.store import FrozenDataset, iter_datasets
from lightning_dtool.store.places import leftovers

PROCESSES, ROUNDS = 8, 6

WORK = """
import json, os, sys
from lightning_dtool.errors import DatasetExistsError, DatasetNotFoundError, LightningDtoolError
from lightning_dtool.store import DatasetWriter, FrozenDataset, delete_dataset, iter_datasets

base, me, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.stdin.readline()  # all of them begin at the same time
won, kept, retired = [], [], None
for number in range(rounds):
    try:
        with DatasetWriter(f"contested{number}", base) as writer:
            writer.put_bytes(me.encode() * 1000, "who")
            writer.commit()
        won.append(number)
    except DatasetExistsError:
        pass
    with DatasetWriter(f"kept{me}-{number}", base) as writer:
        writer.put_bytes(os.urandom(50_000), "a/b")
        writer.put_tag("t")
        writer.commit()
    kept.append(f"kept{me}-{number}")
    with DatasetWriter(f"retired{me}-{number}", base) as writer:
        writer.put_bytes(os.urandom(50_000), "a")
        uri = writer.commit().uri
    if retired:
        delete_dataset(retired)
    retired = uri
    wrong = []
    for dataset in iter_datasets(base, lambda uri, error: wrong.append(f"{uri}: {error}")):
        try:
            dataset.verify()
        except LightningDtoolError as error:
            try:
                FrozenDataset.from_uri(dataset.uri).verify()
            except DatasetNotFoundError:
                continue  # it was retired meanwhile
            wrong.append(str(error))
    assert not wrong, wrong
print(json.dumps({"won": won, "kept": kept, "retired": retired.rpartition("/")[2]}))
"""


def test_nothing_is_lost_or_corrupt(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, str(tmp_path), str(me), str(ROUNDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for me in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    done = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES, [errors for _, errors in done]
    told = [json.loads(output) for output, _ in done]

    assert sorted(number for each in told for number in each["won"]) == list(range(ROUNDS))
    expected = {f"contested{number}" for number in range(ROUNDS)}
    expected |= {name for each in told for name in [*each["kept"], each["retired"]]}
    datasets = list(iter_datasets(str(tmp_path)))
    assert {dataset.name for dataset in datasets} == expected
    assert {path.name for path in tmp_path.iterdir()} == expected
    for dataset in datasets:
        dataset.verify()
    for me, each in enumerate(told):
        for number in each["won"]:
            dataset = FrozenDataset.from_uri(tmp_path / f"contested{number}")
            assert dataset.read_bytes(dataset.item("who").identifier) == str(me).encode() * 1000
    assert leftovers(str(tmp_path)) == []
