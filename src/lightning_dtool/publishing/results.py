"""What a callback has published in all its fits: in this process, in a child process, or on another rank."""

import json
import os
import tempfile
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lightning_dtool.publishing.account import Account, Publication
from lightning_dtool.publishing.failures import Failures


@dataclass(frozen=True)
class Result:
    """The URIs that a callback has published, as plain values that can be sent to another process.

    Attributes:
        uris: Those of all fits that are still kept, oldest first.
        by_path: The URIs by the Trainer's paths that lead to them.
        best: The best one of the latest fit.
        last: The last one of the latest fit.
    """

    uris: list[str] = field(default_factory=list)
    by_path: dict[str, str] = field(default_factory=dict)
    best: str | None = None
    last: str | None = None


class Results:
    """Collects what a callback has published."""

    def __init__(self) -> None:
        self._accounts: list[Account] = []
        self._failures: list[Failures] = []
        self._received = Result()
        self._latest_is_received = False
        # `ddp_spawn` and `ddp_fork` train in a child process. The callback there is lost, so it writes its result here.
        self._file = Path(tempfile.gettempdir()) / f"lightning-dtool-{uuid.uuid4()}.json"
        self._home_process = os.getpid()

    def begin(self, account: Account, failures: Failures) -> None:
        """Begin a fit.

        Args:
            account: The account of its DtoolCheckpointIO.
            failures: The errors of its DtoolCheckpointIO.
        """
        if self._file.exists():  # a child process has trained in the fit before, and nobody has asked for its URIs
            self._received = self._read()
        self._received = replace(self._received, best=None, last=None)
        self._latest_is_received = False
        if account not in self._accounts:
            self._accounts.append(account)
            self._failures.append(failures)

    @property
    def errors(self) -> list[Exception]:
        """The errors of all fits of this process, oldest first."""
        return [error for failures in self._failures for error in failures.errors]

    def publication_for(self, path: str | os.PathLike[str]) -> Publication | None:
        """Return what was published for one of the Trainers' paths, by the latest Trainer that used it."""
        found = (account.publication_for(path) for account in reversed(self._accounts))
        return next(filter(None, found), None)

    def received_for(self, path: str | os.PathLike[str]) -> str | None:
        """Return the URI for a path of a Trainer in another process."""
        self._receive_from_child()
        return self._received.by_path.get(os.path.abspath(path))

    def result(self, best: str | None, last: str | None) -> Result:
        """Return all URIs.

        Args:
            best: The best URI of the latest fit in this process.
            last: The last URI of the latest fit in this process.
        """
        self._receive_from_child()
        received = self._received
        publications = self._publications()
        deleted = {found.dataset_uri for found in publications if found.deleted}
        own = [(uri, publication.paths) for publication in publications if (uri := publication.uri)]
        by_path = {os.path.abspath(path): uri for uri, paths in own for path in paths}
        return Result(
            uris=[uri for uri in dict.fromkeys([*received.uris, *(uri for uri, _ in own)]) if uri not in deleted],
            by_path={path: uri for path, uri in {**received.by_path, **by_path}.items() if uri not in deleted},
            best=received.best if self._latest_is_received else best,
            last=received.last if self._latest_is_received else last,
        )

    def _publications(self) -> list[Publication]:
        every = [publication for account in self._accounts for publication in account.publications]
        return sorted(every, key=lambda publication: publication.saved_at)

    def receive(self, result: Result) -> None:
        """Take over the result of another process, which has trained in the latest fit."""
        self._received = result
        self._latest_is_received = True

    def send_to_parent(self, result: Result) -> None:
        """Leave the result for the process that started this one, if training runs in a child process."""
        if os.getpid() != self._home_process:
            self._file.write_text(json.dumps(asdict(result)))

    def _receive_from_child(self) -> None:
        if os.getpid() == self._home_process and self._file.exists():  # newer than what was received before
            self.receive(self._read())
            self._file.unlink()

    def _read(self) -> Result:
        return Result(**json.loads(self._file.read_text()))

    def carried(self, result: Result) -> "Results":
        """Return what another process needs, without the accounts and errors of this one.

        Args:
            result: The present result.
        """
        other = Results()
        other._file, other._home_process = self._file, self._home_process
        other.receive(result)
        return other
