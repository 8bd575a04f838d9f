"""Downloads: from a real server on loopback, with parts and without, cut, killed, wrong, and two at once."""

import hashlib
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from file_server import file_server
from waiting import until

from pipeline.data.fetch import download as module
from pipeline.data.fetch.download import RemoteFile, download
from pipeline.errors import TkdError

CONTENT = np.random.default_rng(0).bytes(5_000_000)
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


@pytest.fixture(params=[True, False], ids=["parts", "no-parts"])
def server(request, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WAITS", (0, 0, 0))
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "a b.bin").write_bytes(CONTENT)
    with file_server(tmp_path / "web", ranges=request.param) as state:
        state.ranges = request.param
        yield state


def remote(server, checksum=SHA256, n_bytes=None):
    return RemoteFile(f"{server.url}/a%20b.bin?download=1", checksum, n_bytes)


def files(folder):
    return sorted(path.name for path in folder.glob("[!.]*"))


def once(answer):
    """Answers so the first time, then None for ever."""
    answers = [answer]
    return lambda *_: answers.pop() if answers else None


@pytest.mark.parametrize(("checksum", "n_bytes"), [(SHA256, None), (MD5, len(CONTENT))])
def test_a_file_comes_whole_and_only_once(server, tmp_path, checksum, n_bytes):
    for _ in range(2):
        path = download(remote(server, checksum, n_bytes), tmp_path / "d")
        assert path == tmp_path / "d" / "a b.bin" and path.read_bytes() == CONTENT
    assert len(server.served) == 1 and files(tmp_path / "d") == ["a b.bin"]


def test_cut_connections_are_continued(server, tmp_path, capsys):
    """Every answer but the ninth is cut halfway: with parts each adds its half, without the last one brings all."""
    cut = [None] * 8
    server.change = lambda _, content: cut.pop() if cut else content
    if server.ranges:
        assert download(remote(server), tmp_path / "d").read_bytes() == CONTENT
        assert server.n_bytes == pytest.approx(len(CONTENT) / 2**8, abs=10)
        assert "the connection ended after 2500000 of 5000000 bytes; trying again in 0 s" in capsys.readouterr().err
    else:
        with pytest.raises(TkdError, match=r"ended after 2500000 of 5000000 bytes\. Run the same command again"):
            download(remote(server), tmp_path / "d")
        assert files(tmp_path / "d") == ["a b.bin.partial"]
        cut.clear()
        assert download(remote(server), tmp_path / "d").read_bytes() == CONTENT


def test_a_killed_download_goes_on_where_it_stopped(server, tmp_path):
    server.change = lambda _, content: None
    program = f"""
from pathlib import Path
from pipeline.data.fetch.download import RemoteFile, download
download({remote(server)!r}, Path({str(tmp_path / "d")!r}))
"""
    child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    partial = tmp_path / "d" / "a b.bin.partial"
    try:
        until(lambda: partial.exists() and partial.stat().st_size >= len(CONTENT) // 2, child)
    finally:
        child.kill()
        child.wait()
    assert files(tmp_path / "d") == [partial.name]
    arrived = partial.stat().st_size if server.ranges else 0
    server.change, server.n_bytes = lambda _, content: content, 0
    assert download(remote(server), tmp_path / "d").read_bytes() == CONTENT
    assert server.n_bytes == len(CONTENT) - arrived


def test_a_wrong_file_is_never_used(server, tmp_path):
    server.change = lambda _, content: content[:-1] + b"?"
    arrived = "sha256:" + hashlib.sha256(CONTENT[:-1] + b"?").hexdigest()
    with pytest.raises(TkdError, match=f"{server.url}/.* arrived with the checksum {arrived}, expected {SHA256}"):
        download(remote(server), tmp_path / "d")
    assert files(tmp_path / "d") == []
    (tmp_path / "d" / "a b.bin").write_bytes(b"mine")
    with pytest.raises(TkdError, match=f"a b.bin: has the checksum .*, expected {SHA256}. Move it away"):
        download(remote(server), tmp_path / "d")
    assert (tmp_path / "d" / "a b.bin").read_bytes() == b"mine"
    with pytest.raises(TkdError, match=r"has 5000000 bytes, expected 5000001: another file"):
        download(remote(server, n_bytes=len(CONTENT) + 1), tmp_path / "e")


@pytest.mark.parametrize("rest", [b"\0" * 1000, CONTENT[:-1] + b"?", CONTENT + b"?", CONTENT])
def test_whatever_lies_there_from_before_the_right_file_results(server, tmp_path, rest):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a b.bin.partial").write_bytes(rest)
    server.refuse = once(416) if server.ranges and len(rest) >= len(CONTENT) else server.refuse
    assert download(remote(server), tmp_path / "d").read_bytes() == CONTENT
    assert files(tmp_path / "d") == ["a b.bin"]


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(server, tmp_path):
    server.refuse = once(503)
    assert download(remote(server), tmp_path / "d").read_bytes() == CONTENT
    server.refuse = lambda _: 503
    with pytest.raises(TkdError, match=r"the server answers 503 Service Unavailable. Run the same command again"):
        download(remote(server), tmp_path / "e")
    assert len(server.served) == 6
    server.refuse = lambda _: 403
    with pytest.raises(TkdError, match=r"answers 403 Forbidden. Fetch the file another way and put it at .*e/a b.bin"):
        download(remote(server), tmp_path / "e")
    assert len(server.served) == 7


def test_no_server_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WAITS", (0,))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x.zip"
    with pytest.raises(TkdError, match=r"/x.zip: cannot be reached \(.*refused\). Run the same command again"):
        download(RemoteFile(url, SHA256), tmp_path)


def test_a_place_that_cannot_be_written_is_named(server, tmp_path, capsys):
    (tmp_path / "d").write_text("a file")
    with pytest.raises(TkdError, match=r"d/a b.bin: cannot be written"):
        download(remote(server), tmp_path / "d")
    assert "waiting" not in capsys.readouterr().err


def test_of_two_at_once_the_second_waits_and_finds_it_done(server, tmp_path, capsys):
    arrived, go_on = threading.Event(), threading.Event()

    def wait(_, content):
        arrived.set()
        go_on.wait()
        return content

    server.change = wait
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(download, remote(server), tmp_path / "d")
        try:
            arrived.wait()
            second = pool.submit(download, remote(server), tmp_path / "d")
            while "a b.bin: waiting for another process that is at it" not in capsys.readouterr().err:
                time.sleep(0.01)
            assert not second.done()
        finally:
            go_on.set()
        assert first.result() == second.result() == tmp_path / "d" / "a b.bin"
    assert (tmp_path / "d" / "a b.bin").read_bytes() == CONTENT and len(server.served) == 1
