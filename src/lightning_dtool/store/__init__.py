"""Reading and writing of dtool datasets. Only these modules import dtoolcore.

Every failure is raised as an error of `lightning_dtool.errors`. `README.md` explains how a dataset is written.
"""

from lightning_dtool.store.addresses import Addresses
from lightning_dtool.store.dataset import FrozenDataset
from lightning_dtool.store.digest import generate_identifier
from lightning_dtool.store.hashing_writer import Digests
from lightning_dtool.store.item import Item
from lightning_dtool.store.locating import locate
from lightning_dtool.store.places import delete_dataset, ensure_writable, iter_datasets
from lightning_dtool.store.uris import is_dataset_uri, local_path, normalize_uri
from lightning_dtool.store.waiting import hurry, relax
from lightning_dtool.store.writer import DatasetWriter
from lightning_dtool.store.writing_process import WritingProcess

__all__ = [
    "Addresses",
    "DatasetWriter",
    "Digests",
    "FrozenDataset",
    "Item",
    "WritingProcess",
    "delete_dataset",
    "ensure_writable",
    "generate_identifier",
    "hurry",
    "is_dataset_uri",
    "iter_datasets",
    "local_path",
    "locate",
    "normalize_uri",
    "relax",
]
