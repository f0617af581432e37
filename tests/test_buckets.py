"""Buckets on an S3 server and a Google Storage emulator of this machine, as on a disk. `make buckets` runs these."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from helpers_registry import crowd_promotes, promote

from flows.registry import Entry, Registry, RegistryError
from models.weights.fetch import FetchError, NetworkError, fetch

REASON = "moto, gcp-storage-emulator and fsspec's plug-ins are not installed here; `make buckets` runs this"
moto = pytest.importorskip("moto.server", reason=REASON, exc_type=ImportError)
emulator = pytest.importorskip("gcp_storage_emulator.server", reason=REASON, exc_type=ImportError)
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # else a minute of gRPC, which the emulator does not speak
for plug_in in ("s3fs", "gcsfs"):
    pytest.importorskip(plug_in, reason=REASON, exc_type=ImportError)
BODY = random.Random(5).randbytes(9 << 20)  # several of fsspec's blocks
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(scope="module")
def amazon() -> Iterator[str]:
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture(scope="module")
def google() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = emulator.create_server("127.0.0.1", port, in_memory=True)
    running.start()
    yield f"http://127.0.0.1:{port}"
    running.stop()


@pytest.fixture(params=["s3", "gs"])
def bucket(amazon: str, google: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty bucket of the test's own."""
    keys = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}
    places = {"AWS_ENDPOINT_URL": amazon, "STORAGE_EMULATOR_HOST": google}
    anonymous = {"token": "anon", "project": "p"}
    for name, value in {**keys, **places, "FSSPEC_GS": json.dumps(anonymous)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "gs", anonymous)  # this process read its environment long ago
    name = f"bucket-{zlib.crc32(request.node.nodeid.encode())}"
    fsspec.filesystem(request.param).mkdir(name)
    yield f"{request.param}://{name}"
    fsspec.filesystem(request.param).clear_instance_cache()


def put(url: str, body: bytes) -> None:
    fsspec.filesystem(url.partition(":")[0]).pipe_file(url, body)


def test_an_object_lands_whole_and_is_not_asked_for_again(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(f"{bucket}/a/net.pth", BODY)
    fetched = fetch(f"{bucket}/a/net.pth", tmp_path)
    assert (fetched.path, fetched.sha256) == (tmp_path / SHA / "net.pth", SHA)
    assert fetched.path.read_bytes() == BODY
    assert f"{SHA}  {len(BODY)}  {bucket}/a/net.pth\n" in (tmp_path / "weights.lock").read_text()
    monkeypatch.setenv("ANNOTUNE_OFFLINE", "1")
    assert fetch(f"{bucket}/a/net.pth", tmp_path) == fetched


def test_another_content_than_the_first_is_refused_and_so_is_a_wrong_hash(bucket: str, tmp_path: Path) -> None:
    put(f"{bucket}/net.pth", BODY)
    fetch(f"{bucket}/net.pth", tmp_path).path.unlink()
    put(f"{bucket}/net.pth", BODY[::-1])
    for _ in range(2):
        with pytest.raises(FetchError, match="as given or as first fetched"):
            fetch(f"{bucket}/net.pth", tmp_path)
    put(f"{bucket}/net-00000000.pth", BODY)
    with pytest.raises(FetchError, match="as its name says"):
        fetch(f"{bucket}/net-00000000.pth", tmp_path)


def _fetch_and_die(url: str, folder: Path) -> None:
    def die(done: int, total: int | None) -> None:
        raise SystemExit(9)

    fetch(url, folder, progress=die)


def test_what_an_ended_process_left_is_gone_on_with(bucket: str, tmp_path: Path) -> None:
    put(f"{bucket}/net.pth", BODY)
    process = multiprocessing.get_context("spawn").Process(target=_fetch_and_die, args=(f"{bucket}/net.pth", tmp_path))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not (tmp_path / SHA).exists()
    seen: list[int] = []
    fetch(f"{bucket}/net.pth", tmp_path, progress=lambda done, _: seen.append(done))
    assert seen == [8 << 20, 9 << 20]  # the first 4 MB were there
    assert (tmp_path / SHA / "net.pth").read_bytes() == BODY


def test_a_part_of_another_version_is_not_gone_on_with(bucket: str, tmp_path: Path) -> None:
    put(f"{bucket}/net.pth", BODY[::-1])

    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(f"{bucket}/net.pth", tmp_path, progress=stop)
    put(f"{bucket}/net.pth", BODY)
    assert fetch(f"{bucket}/net.pth", tmp_path).sha256 == SHA


def _fetch(url: str, folder: Path) -> None:
    assert fetch(url, folder).sha256 == SHA


def test_two_processes_at_once_end_with_one_file(bucket: str, tmp_path: Path) -> None:
    put(f"{bucket}/net.pth", BODY)
    context = multiprocessing.get_context("spawn")
    crowd = [context.Process(target=_fetch, args=(f"{bucket}/net.pth", tmp_path)) for _ in range(2)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join()
    assert [process.exitcode for process in crowd] == [0, 0]
    assert [path.name for path in (tmp_path / SHA).glob("[!.]*")] == ["net.pth"]


def test_what_is_not_there_says_so_and_nobody_there_may_heal(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for absent in (f"{bucket}/absent.pth", f"{bucket}-nowhere/net.pth"):
        with pytest.raises(FetchError, match="no such object") as caught:
            fetch(absent, tmp_path)
        assert not isinstance(caught.value, OSError)
    if bucket.startswith("gs"):
        return  # gcsfs tries for a minute before it says so
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(NetworkError, match="s3://bucket-"):
        fetch(f"{bucket}/net.pth", tmp_path)


def test_a_registry_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    book = Registry(f"{bucket}/models")
    assert book.champion() is None
    first, second = promote(book, tmp_path, "one"), promote(book, tmp_path, "two")
    other = Registry(f"{bucket}/models")  # as another process sees it
    assert other.champion() == second
    book.keep(Entry(event="kept", champion="0002", data="later", reasons=("worse",)))
    assert other.rollback() == first
    assert book.champion() == first
    assert [entry.event for entry in book.history()] == ["promoted", "promoted", "kept", "rolled back"]
    with pytest.raises(RegistryError, match="changed from 0002 to 0001"):
        book.keep(Entry(event="kept", champion="0002", data="d", reasons=()))
    assert book.checkpoint(second, tmp_path / "here").read_text() == "two"


def test_a_version_in_a_bucket_is_never_written_again(bucket: str, tmp_path: Path) -> None:
    with_preconditions(bucket)
    book = Registry(f"{bucket}/models")
    promote(book, tmp_path, "one")
    put(f"{bucket}/models/versions/0002/model.pt", b"another run is writing this version")
    assert promote(book, tmp_path, "two").number == "0003"
    left = fsspec.filesystem("s3").cat_file(f"{bucket}/models/versions/0002/model.pt")
    assert left == b"another run is writing this version"
    assert book.versions() == ("0001", "0003")


def test_two_processes_that_promote_at_once_are_one_after_the_other(bucket: str, tmp_path: Path) -> None:
    with_preconditions(bucket)
    crowd_promotes(f"{bucket}/models", tmp_path, times=4)


def with_preconditions(bucket: str) -> None:
    if bucket.startswith("gs"):
        pytest.skip("the emulator overwrites where Google Storage itself refuses (ifGenerationMatch=0)")
