"""Which of the addresses that a record names are opened, with real servers on this machine."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_dtool.errors import InvalidURIError, LightningDtoolError, StoreError
from lightning_dtool.store import Addresses, addresses
from lightning_dtool.store.hosts import is_link_local, is_loopback
from web_server import Server


@pytest.fixture
def other() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def silent() -> Iterator[str]:
    """Return the address of a server that takes requests and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/x"


def refused(call: Callable[[], object]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        call()
    return caught.value


def test_another_store_is_not_opened(web: Server, make_dataset: Any, tmp_path: Path) -> None:
    uri = web.put(make_dataset())
    for asked in (str(tmp_path), "s3://lab/x", "http://example.invalid/x", None):
        error = refused(lambda asked=asked: Addresses(asked).open(uri))
        assert error.kind == "offline"
        assert error.uri == uri
        assert "--online" in error.reason
        assert "LIGHTNING_DTOOL_STORES" in error.reason
    assert web.asked == []


def test_with_consent_it_is_opened_and_verified(web: Server, make_dataset: Any, tmp_path: Path) -> None:
    dataset = make_dataset({"a.txt": b"text"})
    found = Addresses(str(tmp_path), online=True).open(web.put(dataset))
    assert found.content_digest == dataset.content_digest
    (identifier,) = found.items
    assert found.read_bytes(identifier) == b"text"
    web.answers[f"/{dataset.uuid}/{identifier}"] = (200, {}, b"TEXT")
    with pytest.raises(LightningDtoolError, match="expected 1 items as recorded, found 1 differences"):
        found.verify()


def test_the_store_of_the_record_is_opened(web: Server, make_dataset: Any) -> None:
    uri = web.put(make_dataset())
    assert Addresses(f"{web.url}/another").open(uri).uri == uri
    assert Addresses("s3://lab/x", given=[web.url]).open(uri).uri == uri


def test_data_on_disk_is_opened_for_a_record_on_disk_or_in_a_store_of_the_user(
    make_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset()
    assert Addresses(str(tmp_path / "model")).open(dataset.uri).uuid == dataset.uuid
    assert refused(lambda: Addresses("s3://lab/x").open(dataset.uri)).kind == "offline"
    assert refused(lambda: Addresses("s3://lab/x", given=[tmp_path / "out"]).open(dataset.uri)).kind == "offline"
    assert Addresses("s3://lab/x", given=[tmp_path]).open(dataset.uri).uuid == dataset.uuid
    monkeypatch.setenv("DTOOL_S3_ENDPOINT_lab", "http://localhost:9000")
    assert Addresses("s3://lab/x").open(dataset.uri).uuid == dataset.uuid


def test_a_store_that_the_user_has_configured_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = Addresses(str(tmp_path))
    assert refused(lambda: here.permit("s3://lab/x")).kind == "offline"
    monkeypatch.setenv("DTOOL_S3_ENDPOINT_lab", "http://localhost:9000")
    here.permit("s3://lab/x")
    assert refused(lambda: here.permit("s3://lab-2/x")).kind == "offline"
    monkeypatch.setenv(addresses.STORES, "s3://lab-2 http://data.example.org/public")
    here.permit("s3://lab-2/x")
    here.permit("http://data.example.org/public/x")
    assert refused(lambda: here.permit("http://data.example.org/publicity")).kind == "offline"


def test_settings_in_dtools_file_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = tmp_path / "dtool.json"
    monkeypatch.setattr("dtoolcore.utils.DEFAULT_CONFIG_PATH", str(settings))
    settings.write_text('{"DTOOL_S3_ENDPOINT_lab": "http://localhost:9000"}')
    Addresses(str(tmp_path)).permit("s3://lab/x")
    settings.write_text("no JSON")
    assert refused(lambda: Addresses(str(tmp_path)).permit("s3://lab/x")).kind == "offline"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]"])
def test_a_remote_record_never_leads_to_this_machine(host: str) -> None:
    error = refused(lambda: Addresses("s3://lab/x", online=True).permit(f"http://{host}:1/x"))
    assert error.kind == "denied"


def test_no_record_leads_to_the_metadata_service(tmp_path: Path) -> None:
    for asked in (str(tmp_path), "s3://lab/x"):
        error = refused(lambda asked=asked: Addresses(asked, online=True).permit("http://169.254.169.254/latest"))
        assert error.kind == "denied"
    assert is_link_local("fe80::1%eth0")
    assert is_link_local("::ffff:169.254.169.254")
    assert is_loopback("127.9.9.9")
    assert not is_loopback("10.0.0.1")


@pytest.mark.parametrize("place", ["page", "manifest"])
def test_no_server_leads_to_this_machine(
    web: Server, other: Server, make_dataset: Any, tmp_path: Path, place: str
) -> None:
    """A redirect, or an address in what the server says about the dataset, leads to a service beside it."""
    dataset = make_dataset()
    uri = web.put(dataset)
    if place == "page":
        web.redirect(f"/{dataset.uuid}", f"{other.url}/secret")
    else:
        status, headers, content = web.answers[f"/{dataset.uuid}/http_manifest.json"]
        content = content.replace(f"{uri}/manifest".encode(), f"{other.url}/secret".encode())
        web.answers[f"/{dataset.uuid}/http_manifest.json"] = (status, headers, content)
    error = refused(lambda: Addresses(str(tmp_path), online=True).open(uri))
    assert error.kind == "denied"
    assert "leads to 127.0.0.1 (127.0.0.1), a loopback or link-local address" in str(error)
    assert other.asked == []


def test_few_redirects_are_followed(web: Server, make_dataset: Any, tmp_path: Path) -> None:
    dataset = make_dataset()
    uri = web.put(dataset)
    web.redirect("/moved", uri)
    assert Addresses(str(tmp_path), online=True).open(f"{web.url}/moved").uuid == dataset.uuid
    web.redirect("/round", f"{web.url}/round")
    web.asked.clear()
    assert "redirects" in str(refused(lambda: Addresses(str(tmp_path), online=True).open(f"{web.url}/round")))
    assert web.asked == ["/round"] * 4


def test_all_addresses_of_a_record_share_one_time_limit(
    silent: str, web: Server, make_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTNING_DTOOL_STORE_TIMEOUT", "0.5")
    asking = Addresses(str(tmp_path), online=True)
    begun = time.monotonic()
    for number in range(5):
        assert refused(lambda number=number: asking.open(f"{silent}{number}")).kind in ("no_answer", "other")
    assert time.monotonic() - begun < 20  # five limits of one address are much more on no machine
    assert "0.5 s are over" in str(refused(lambda: asking.open(web.put(make_dataset()))))
    assert web.asked == []


def test_a_record_names_only_so_many_addresses(tmp_path: Path) -> None:
    asking = Addresses(str(tmp_path), online=True)
    for number in range(addresses.MAX_ADDRESSES):
        asking.permit(f"s3://lab-{number}/x")
    asking.permit("s3://lab-0/x")
    assert "32 other addresses" in str(refused(lambda: asking.permit("s3://lab/x")))


@pytest.mark.parametrize("uri", ["http://h:99999/x", "http://[::1/x", "unheard-of://x/y", ""])
def test_what_is_no_address(uri: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidURIError):
        Addresses(str(tmp_path), online=True).permit(uri)
