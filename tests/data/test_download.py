import errno
import hashlib
import io
import json
import os
import stat
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from graphattn.data import download as module
from graphattn.data import files, raw
from graphattn.data.download import download, install, unpack


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def served(server, archive: bytes):
    server.content = archive
    return server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "down").mkdir()
    return tmp_path / "down" / "esol.zip"


def test_a_file_arrives_with_its_receipt_and_its_size_is_said(served, path: Path, capsys) -> None:
    receipt = download(served.url, path)
    assert path.read_bytes() == served.content
    assert receipt.sha256 == hashlib.sha256(served.content).hexdigest()
    assert (receipt.url, receipt.size) == (served.url, len(served.content))
    assert names(path.parent) == ["esol.zip"]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"graphattn: downloading {served.url} ({files.megabytes(len(served.content))})\n"


def test_a_connection_cut_in_the_middle_goes_on_where_it_was(served, path: Path) -> None:
    served.cuts_after = [1000, 500]
    assert download(served.url, path).sha256 == hashlib.sha256(served.content).hexdigest()
    assert [request.get("Range") for request in served.requests] == [None, "bytes=1000-", "bytes=1500-"]
    assert {request.get("If-Range") for request in served.requests[1:]} == {'"one"'}
    assert names(path.parent) == ["esol.zip"]


def test_a_later_run_goes_on_where_a_broken_one_ended(served, path: Path, capsys) -> None:
    served.cuts_after = [1000, 100, 10]
    with pytest.raises(ConnectionError, match=r"ended after 1,110 of .* bytes.*1 kB are kept and the next run goes on"):
        download(served.url, path)
    assert names(path.parent) == ["esol.zip.part", "esol.zip.part.json"]
    download(served.url, path)
    assert path.read_bytes() == served.content
    assert served.requests[-1]["Range"] == "bytes=1110-"
    assert "1 kB of it already here" in capsys.readouterr().err


def test_a_complete_part_is_not_asked_for_again(served, path: Path) -> None:
    size = len(served.content)
    path.with_name("esol.zip.part").write_bytes(served.content)
    notes = {"url": served.url, "size": size, "validator": '"one"'}
    path.with_name("esol.zip.part.json").write_text(json.dumps(notes))
    download(served.url, path)
    assert served.requests == []
    assert path.read_bytes() == served.content


@pytest.mark.parametrize("change", ["no ranges", "another file", "no etag"])
def test_what_cannot_go_on_starts_again(served, path: Path, change: str) -> None:
    served.etag = None if change == "no etag" else '"one"'
    served.cuts_after = [1000, 1000, 1000]
    served.knows_ranges = change != "no ranges"
    with pytest.raises(ConnectionError, match=r"did not finish"):
        download(served.url, path)
    if change == "another file":
        served.content, served.etag = served.content[::-1] + b"longer", '"two"'
    download(served.url, path)
    assert path.read_bytes() == served.content
    assert names(path.parent) == ["esol.zip"]


@pytest.mark.parametrize("notes", ["", "{", "[]", '{"url": "http://elsewhere/", "size": 10, "validator": "x"}'])
def test_a_part_that_nobody_vouches_for_is_not_used(served, path: Path, notes: str) -> None:
    path.with_name("esol.zip.part").write_bytes(b"half of something else")
    if notes:
        path.with_name("esol.zip.part.json").write_text(notes)
    download(served.url, path)
    assert path.read_bytes() == served.content
    assert "Range" not in served.requests[0]


def test_a_server_that_says_the_part_is_too_long_is_asked_anew(served, path: Path) -> None:
    served.cuts_after = [1000, 0, 0]
    with pytest.raises(ConnectionError):
        download(served.url, path)
    served.status = 416
    with pytest.raises(ConnectionError, match=r"the server has another file now"):
        download(served.url, path)
    assert names(path.parent) == []
    served.status = 200
    download(served.url, path)
    assert path.read_bytes() == served.content


def test_a_wrong_checksum_is_refused_and_nothing_kept(served, path: Path) -> None:
    with pytest.raises(
        ValueError, match=f"sha256 .*, but the card of the data set says {'0' * 64}. The file was removed"
    ):
        download(served.url, path, sha256="0" * 64)
    assert names(path.parent) == []
    download(served.url, path, sha256=hashlib.sha256(served.content).hexdigest())


@pytest.mark.parametrize("tells_length", [True, False])
def test_a_large_file_needs_yes_and_never_a_prompt(served, path: Path, tells_length: bool, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("asked a question"))
    monkeypatch.setattr(module, "LARGE", 1_000)
    served.tells_length = tells_length
    with pytest.raises(ValueError, match=r"kB or more; above 1 kB nothing is downloaded.*Pass yes=True \(--yes"):
        download(served.url, path)
    assert names(path.parent) == []
    download(served.url, path, yes=True)
    assert path.read_bytes() == served.content


def test_a_server_that_refuses_is_named_with_advice(served, path: Path) -> None:
    served.status = 404
    with pytest.raises(ConnectionError, match=r"answers HTTP 404 Not Found.*pass its directory as root"):
        download(served.url, path)
    assert len(served.requests) == 1
    served.status = 503
    with pytest.raises(ConnectionError, match=r"did not finish .HTTP 503.*unpack it, and pass the directory as root"):
        download(served.url, path)
    assert len(served.requests) == 1 + module.ATTEMPTS


def test_no_server_at_all_is_named_with_advice(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    with pytest.raises(ConnectionError, match=r"cannot reach the server: .*Connection refused"):
        download("http://127.0.0.1:9/esol.zip", path)
    with pytest.raises(ValueError, match=r"must begin with http:// or https://"):
        download("file:///etc/hostname", path)


def test_a_full_disk_removes_the_part_and_says_how_much_is_needed(served, path: Path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "fsync", full)
    size = files.megabytes(len(served.content))
    with pytest.raises(OSError, match=f"the disk is full: this needs {size}, and nothing unfinished") as caught:
        download(served.url, path)
    assert caught.value.errno == errno.ENOSPC
    assert names(path.parent) == []


def test_a_bar_is_shown_where_somebody_watches(served, path: Path, monkeypatch) -> None:
    pytest.importorskip("rich")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    download(served.url, path)
    assert "━" in terminal.getvalue()


def test_installed_data_are_whole_and_know_where_they_came_from(served, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "ogbg_molesol"
    install(served.url, folder)
    assert raw.missing_files(folder) == []
    assert len(raw.read_graphs(folder)[0]) == 10
    receipt = json.loads((folder / "DOWNLOADED.json").read_text())
    assert receipt["sha256"] == hashlib.sha256(served.content).hexdigest()
    assert (receipt["url"], receipt["size"]) == (served.url, len(served.content))
    assert receipt["date"].endswith("+00:00")
    assert names(tmp_path / "root") == ["ogbg_molesol"]


def test_two_at_once_download_once(served, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "ogbg_molesol"
    threads = [threading.Thread(target=install, args=(served.url, folder)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(served.requests) == 1
    assert raw.missing_files(folder) == []


SPOILED = {
    "truncated": lambda content: content[:-200],
    "a web page": lambda content: b"<html>moved</html>",
    "overwritten": lambda content: content[:3000] + b"x" * 99 + content[3099:],
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_damaged_archive_leaves_nothing(served, tmp_path: Path, spoil) -> None:
    served.content = spoil(served.content)
    with pytest.raises(ValueError, match=r"ogbg_molesol.zip is damaged or no zip archive.*try again"):
        install(served.url, tmp_path / "root" / "ogbg_molesol")
    assert names(tmp_path / "root") == []


def test_an_interrupted_install_leaves_only_what_can_go_on(served, tmp_path: Path) -> None:
    served.cuts_after = [1000, 0, 0]
    folder = tmp_path / "root" / "ogbg_molesol"
    with pytest.raises(ConnectionError):
        install(served.url, folder)
    assert names(tmp_path / "root") == ["ogbg_molesol.zip.part", "ogbg_molesol.zip.part.json"]
    install(served.url, folder)
    assert names(tmp_path / "root") == ["ogbg_molesol"]


def test_what_a_killed_process_left_is_no_obstacle(served, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / ".ogbg_molesol.unpacking" / "esol" / "raw").mkdir(parents=True)
    (root / ".ogbg_molesol.unpacking" / "esol" / "raw" / "edge.csv.gz").write_bytes(b"half")
    install(served.url, root / "ogbg_molesol")
    assert len(raw.read_graphs(root / "ogbg_molesol")[0]) == 10
    assert names(root) == ["ogbg_molesol"]


def test_a_full_disk_while_unpacking_leaves_nothing(served, tmp_path: Path, monkeypatch) -> None:
    def full(self, member, path=None, pwd=None):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zipfile.ZipFile, "extract", full)
    with pytest.raises(OSError, match=r"the disk is full: this needs .* kB"):
        install(served.url, tmp_path / "root" / "ogbg_molesol")
    assert names(tmp_path / "root") == []


def test_a_directory_that_may_not_be_written_to_is_named(served, tmp_path: Path, monkeypatch) -> None:
    def denied(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files.os, "open", denied)
    with pytest.raises(
        PermissionError, match=r"may not be written to. Pass another root, or set GRAPHATTN_DATA.*/root'"
    ):
        install(served.url, tmp_path / "root" / "ogbg_molesol")


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "..\\outside", "a link"])
def test_an_archive_that_would_write_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    member = zipfile.ZipInfo(name)
    if name == "a link":
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as zipped:
        zipped.writestr(member, "/etc")
    with pytest.raises(ValueError, match=r"written outside of its folder. Nothing was unpacked"):
        unpack(tmp_path / "bad.zip", tmp_path / "into")
    assert names(tmp_path) == ["bad.zip"]


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as zipped:
        zipped.writestr("esol/raw/edge.csv.gz", b"")
    with pytest.raises(ValueError, match=r"lacks raw/node-feat.csv.gz.*check the address"):
        unpack(tmp_path / "other.zip", tmp_path / "into")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(ValueError, match=r"has raw/edge.csv.gz 0 times"):
        unpack(tmp_path / "empty.zip", tmp_path / "into empty")
