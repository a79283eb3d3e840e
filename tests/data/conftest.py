"""Small raw folders in the official layout, a server on the loopback with bad habits, and no user cache but its own."""

import gzip
import http.server
import io
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

FILES = ("edge", "node-feat", "edge-feat", "num-node-list", "num-edge-list", "graph-label")


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHATTN_DATA", str(tmp_path / "user"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "user"


class Molecule(NamedTuple):
    x: list[list[int]]
    bonds: list[tuple[int, int]]
    bond_attr: list[list[int]]
    y: list[float | None]
    smiles: str


def molecule(num_atoms: int, seed: int, num_tasks: int = 1) -> Molecule:
    """A path with a chord; one atom alone where num_atoms is 1."""
    generator = torch.Generator().manual_seed(seed)
    bonds = [(atom + 1, atom) for atom in range(num_atoms - 1)] + ([(0, num_atoms - 1)] if num_atoms > 3 else [])
    return Molecule(
        torch.randint(119, (num_atoms, 9), generator=generator).tolist(),
        bonds,
        torch.randint(5, (len(bonds), 3), generator=generator).tolist(),
        torch.randn(num_tasks, generator=generator).tolist(),
        f'C{num_atoms}é,"{seed}"',
    )


@pytest.fixture
def molecules() -> list[Molecule]:
    return [molecule(num_atoms, seed) for seed, num_atoms in enumerate((5, 1, 7, 2, 3, 11, 1, 13, 4, 6))]


@pytest.fixture
def make_molecule() -> Callable[..., Molecule]:
    return molecule


def _csv(rows: list[Any]) -> bytes:
    return "".join(",".join("" if v is None else str(v) for v in row) + "\n" for row in rows).encode()


def write(folder: Path, molecules: list[Molecule], smiles: bool = True, **replaced: bytes | None) -> Path:
    """Writes a folder; `replaced` gives a file other contents by name ("edge-feat", "train"), None leaves it out."""
    numbers = list(range(len(molecules)))
    contents: dict[str, bytes | None] = {
        "raw/edge": _csv([bond for one in molecules for bond in one.bonds]),
        "raw/node-feat": _csv([row for one in molecules for row in one.x]),
        "raw/edge-feat": _csv([row for one in molecules for row in one.bond_attr]),
        "raw/num-node-list": _csv([[len(one.x)] for one in molecules]),
        "raw/num-edge-list": _csv([[len(one.bonds)] for one in molecules]),
        "raw/graph-label": _csv([one.y for one in molecules]),
        "split/scaffold/train": _csv([[number] for number in numbers[::-1][:-4]]),
        "split/scaffold/valid": _csv([[number] for number in numbers[:2]]),
        "split/scaffold/test": _csv([[number] for number in numbers[2:4]]),
    }
    if smiles:
        quoted = [one.smiles.replace('"', '""') for one in molecules]
        rows = [[*one.y, f'"{text}"', f"id{number}"] for number, (one, text) in enumerate(zip(molecules, quoted))]
        header = [*(f"task {task}" for task in range(len(molecules[0].y) if molecules else 1)), "smiles", "mol_id"]
        contents["mapping/mol"] = _csv([header, *rows])
    for name in contents:
        if (short := name.rpartition("/")[2]) in replaced:
            contents[name] = replaced[short]
    for name, content in contents.items():
        if content is not None:
            path = folder / f"{name}.csv.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(content, mtime=0))
    return folder


@pytest.fixture
def layout() -> Callable[..., Path]:
    return write


@pytest.fixture
def archive(tmp_path: Path, molecules: list[Molecule]) -> bytes:
    """A zip as OGB's server has them: one folder, under another name than the data set's."""
    write(tmp_path / "served" / "esol", molecules)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as zipped:
        for path in sorted((tmp_path / "served").rglob("*")):
            zipped.write(path, path.relative_to(tmp_path / "served"))
    shutil.rmtree(tmp_path / "served")
    return stream.getvalue()


class Server:
    """Serves `content`, and does what the other attributes say; `requests` has the headers of all requests."""

    def __init__(self) -> None:
        self.content = b""
        self.etag: str | None = '"one"'
        self.knows_ranges = True
        self.tells_length = True
        self.cuts_after: list[int | None] = []  # bytes of the body per request, None for all of them
        self.status = 200
        self.requests: list[dict[str, str]] = []
        self.url = ""

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        self.requests.append(dict(handler.headers))
        if self.status != 200:
            handler.send_error(self.status)
            return
        wanted, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if not (self.knows_ranges and wanted and condition == self.etag):
            start, wanted = 0, None
        body, size = self.content[start:], len(self.content)
        handler.send_response(206 if wanted else 200)
        if wanted:
            handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if self.tells_length:
            handler.send_header("Content-Length", str(len(body)))
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.end_headers()
        cut = self.cuts_after.pop(0) if self.cuts_after else None
        handler.wfile.write(body if cut is None else body[:cut])
        handler.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    from graphattn.data import download

    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(download, "TIMEOUT", 5.0)
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        state.url = f"http://127.0.0.1:{httpd.server_address[1]}/esol.zip"
        yield state
        httpd.shutdown()
        thread.join(timeout=5)
