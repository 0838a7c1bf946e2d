"""A hub of models on this machine, which speaks what huggingface_hub asks for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["COMMIT", "Hub", "hub"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Serves the files of `folder` as the model `model`.

    `cut` names files whose next download breaks off in the middle, `lie` those whose digest is told wrongly. `asked`
    has each download: the file, and the byte that it began at.
    """

    url: str
    folder: Path
    model: str
    cut: set[str] = field(default_factory=set)
    lie: set[str] = field(default_factory=set)
    asked: list[tuple[str, int]] = field(default_factory=list)

    def info(self) -> dict[str, Any]:
        """What the hub tells of the model; large files are those of weights, as on the real hub."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {"_id": "0", "id": self.model, "modelId": self.model, "sha": COMMIT, "private": False, "tags": [],
                "siblings": [self._sibling(path) for path in paths]}  # fmt: skip

    def tree(self) -> list[dict[str, Any]]:
        """The same files as the hub lists those of a commit."""
        return [
            {"type": "file", "path": each["rfilename"], "size": each["size"], "oid": "0",
             **({"lfs": {**each["lfs"], "oid": each["lfs"]["sha256"]}} if "lfs" in each else {})}
            for each in self.info()["siblings"]
        ]  # fmt: skip

    def digest(self, name: str) -> str:
        """The SHA-256 of a file, as the hub tells it."""
        found = hashlib.sha256((self.folder / name).read_bytes()).hexdigest()
        return found[::-1] if name in self.lie else found

    def _sibling(self, path: Path) -> dict[str, Any]:
        name, size = str(path.relative_to(self.folder)), path.stat().st_size
        large = {"lfs": {"sha256": self.digest(name), "size": size, "pointerSize": 134}}
        return {"rfilename": name, "size": size, "blobId": "0", **(large if name.endswith(".safetensors") else {})}


@contextlib.contextmanager
def hub(folder: Path, model: str) -> Iterator[Hub]:
    """A hub that has one model."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = found = Hub(f"http://127.0.0.1:{server.server_port}", folder, model)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)


class _Handler(BaseHTTPRequestHandler):
    """Answers `/api/models/ID[/revision/REVISION]`, `/api/models/ID/tree/COMMIT` and `/ID/resolve/REVISION/FILE`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        file = self._file(hub, path)
        if path in (f"/api/models/{hub.model}", f"/api/models/{hub.model}/revision/{COMMIT}"):
            self._say(json.dumps(hub.info()).encode(), {"Content-Type": "application/json"})
        elif path == f"/api/models/{hub.model}/tree/{COMMIT}":
            self._say(json.dumps(hub.tree()).encode(), {"Content-Type": "application/json"})
        elif file is None:
            self._say(b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}, 404)
        else:
            self._send(hub, file)

    do_HEAD = do_GET

    def log_message(self, format: str, *words: Any) -> None:
        """Nothing."""

    def _file(self, hub: Hub, path: str) -> str | None:
        for revision in (COMMIT, "main"):
            start = f"/{hub.model}/resolve/{revision}/"
            if path.startswith(start) and (hub.folder / path[len(start) :]).is_file():
                return path[len(start) :]
        return None

    def _send(self, hub: Hub, name: str) -> None:
        data = (hub.folder / name).read_bytes()
        given = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        first, last = int(given[0]), int(given[2] or len(data) - 1)
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if "Range" in self.headers:
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        part = data[first : last + 1]
        if self.command == "GET":
            hub.asked.append((name, first))
            if name in hub.cut:
                hub.cut.discard(name)
                self._say(part, headers, send=len(part) // 2)
                self.close_connection = True
                return
        self._say(part, headers, 206 if "Range" in self.headers else 200)

    def _say(self, body: bytes, headers: dict[str, str], status: int = 200, send: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:send])
