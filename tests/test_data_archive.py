"""Archives: what is in them comes out, what does not belong in them does not, and nothing comes out by halves."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from waiting import until

from pipeline.data.fetch import archive as module
from pipeline.data.fetch.archive import extract
from pipeline.errors import TkdError

CONTENT = {f"clips/{i}.wav": np.random.default_rng(i).bytes(9000 + i) for i in range(40)} | {
    "lists/empty.txt": b"",
    "README.md": b"words " * 5000,
}


@pytest.fixture
def tree(tmp_path) -> Path:
    for name, content in CONTENT.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    return tmp_path / "in"


def pack(tree: Path, kind: str) -> Path:
    if kind == "tar.gz":
        with tarfile.open(tree.with_name("x.tar.gz"), "w:gz") as tar:
            tar.add(tree, ".")
    elif kind == "zip":
        shutil.make_archive(str(tree.with_name("x")), "zip", tree)
    else:
        if not shutil.which("zip"):
            pytest.skip("Info-ZIP's zip is not installed")
        subprocess.run(["zip", "-q", "-r", "-s", "64k", "../x.zip", "."], cwd=tree, check=True)
        assert len(list(tree.parent.glob("x.z*"))) == 6
    return tree.with_name(f"x.{kind.removeprefix('split-')}")


def extracted(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["tar.gz", "zip", "split-zip"])
def test_what_was_packed_comes_out(tree, tmp_path, kind):
    archive = pack(tree, kind)
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "left.over").touch()
    assert extract(archive, tmp_path / "out") == tmp_path / "out"
    assert extracted(tmp_path / "out") == CONTENT
    assert not (tmp_path / "out.partial").exists()
    archive.unlink()
    assert extract(archive, tmp_path / "out") == tmp_path / "out"  # there already: not read again


@pytest.mark.parametrize("kind", ["tar.gz", "zip", "split-zip"])
def test_a_cut_or_damaged_archive_leaves_nothing_that_looks_whole(tree, tmp_path, kind):
    archive = pack(tree, kind)
    damaged = tmp_path / "x.z02" if kind == "split-zip" else archive
    whole = damaged.read_bytes()
    for content in (b"", whole[:-200], whole[: len(whole) // 2], whole[:30000] + bytes(40) + whole[30040:]):
        damaged.write_bytes(content)
        with pytest.raises(TkdError, match=str(tmp_path / "x.")):
            extract(archive, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    damaged.write_bytes(whole)
    assert extracted(extract(archive, tmp_path / "out")) == CONTENT


def test_a_missing_part_is_named(tree, tmp_path):
    archive = pack(tree, "split-zip")
    (tmp_path / "x.z02").unlink()
    (tmp_path / "x.z05").unlink()
    with pytest.raises(TkdError, match=r"x.zip: is the last of 6 parts, missing x.z02, x.z05. Put them beside it."):
        extract(archive, tmp_path / "out")
    with pytest.raises(TkdError, match=r"x.z01: expected an archive that ends in .tar.gz, .tgz or .zip"):
        extract(tmp_path / "x.z01", tmp_path / "out")


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def linked(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/tmp/tkd-x", "a/.."])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    tar_of(tmp_path / "x.tar.gz", (tarfile.TarInfo(name), b"x"))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(name, b"x")
    for kind in ("tar.gz", "zip"):
        with pytest.raises(TkdError, match=r"would be written outside of its folder. Do not trust it."):
            extract(tmp_path / f"x.{kind}", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["out.partial", "x.tar.gz", "x.zip"]


def test_links_and_devices_are_refused(tmp_path):
    kinds = {
        "symbolic": linked("a", tarfile.SYMTYPE, "/etc"),
        "hard": linked("a", tarfile.LNKTYPE, "b"),
        "device": linked("a", tarfile.CHRTYPE),
        "pipe": linked("a", tarfile.FIFOTYPE),
    }
    for name, member in kinds.items():
        with pytest.raises(TkdError, match=r"'a' is a link or a device, not a file. Do not trust it."):
            extract(tar_of(tmp_path / f"{name}.tar.gz", (member, b"")), tmp_path / "out")
    link = zipfile.ZipInfo("a")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(TkdError, match="'a' is a link or a device"):
        extract(tmp_path / "x.zip", tmp_path / "out")


@pytest.mark.parametrize("second", ["./a", "a/b", "a/b/c"])
def test_a_name_that_stands_for_two_things_is_refused(tmp_path, second):
    tar_of(tmp_path / "x.tar.gz", (tarfile.TarInfo("a"), b"1"), (tarfile.TarInfo(second), b"2"))
    with pytest.raises(TkdError, match=f"{second} is in it twice, or as file and folder"):
        extract(tmp_path / "x.tar.gz", tmp_path / "out")


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_bombs_are_refused_before_they_go_off(tmp_path, monkeypatch, kind):
    """A hundredfold of the archive's size and a stated harmless size are the ceiling, here of 1 MB."""
    monkeypatch.setattr(module, "HARMLESS", 1 << 20)
    (tmp_path / "in").mkdir()
    for i in range(20):
        (tmp_path / "in" / f"{i}.txt").write_bytes(bytes(1 << 17))
    bomb = pack(tmp_path / "in", kind)
    with pytest.raises(TkdError, match=rf"of {bomb.stat().st_size} bytes, unpacks to .* expected .* {1 << 20} at most"):
        extract(bomb, tmp_path / "out")
    assert sum(len(content) for content in extracted(tmp_path / "out.partial").values()) <= 1 << 20


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_small_disk_is_noticed_before_it_is_full(tree, tmp_path, kind):
    """On a real small disk, where the tests may mount one."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk takes root")
    try:
        with pytest.raises(TkdError, match=r"are free. Free some space and run again."):
            extract(pack(tree, kind), small / "out")
        assert not (small / "out").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_killed_extraction_is_begun_again(tmp_path):
    content = {f"{i:04d}.txt": str(i).encode() for i in range(4000)}
    archive = tar_of(tmp_path / "x.tar.gz", *((tarfile.TarInfo(name), data) for name, data in content.items()))
    program = "import sys; from pathlib import Path; from pipeline.data.fetch.archive import extract; "
    program += "extract(Path(sys.argv[1]), Path(sys.argv[2]))"
    child = subprocess.Popen([sys.executable, "-c", program, str(archive), str(tmp_path / "out")])
    try:
        until((tmp_path / "out.partial" / "0005.txt").exists, child)
    finally:
        child.kill()
    assert child.wait() == -9
    assert not (tmp_path / "out").exists()
    assert extracted(extract(archive, tmp_path / "out")) == content
