"""The Hugging Face hub without network: the cache that a download leaves behind, and a server of our own."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123abc" + 33 * "0"


def prepare(cache: Path, name: str, folder: Path) -> None:
    """Put a folder into a cache of the hub as the repository ``USER/NAME``."""
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)


@contextmanager
def serve(name: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that has one repository, and the files that were asked of it so far."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(whole=False)

        def do_GET(self) -> None:
            self._answer(whole=True)

        def _answer(self, *, whole: bool) -> None:
            repository, _, path = self.path.lstrip("/").partition("/resolve/main/")
            if not path:  # The library asks for the file by the commit that the first answer names.
                repository, _, path = self.path.lstrip("/").partition(f"/resolve/{COMMIT}/")
            file = folder / path
            asked.append(path)
            there = repository == name and path != "" and file.is_file()
            body = file.read_bytes() if there else b""
            self.send_response(200 if there else 404)
            self.send_header("X-Repo-Commit", COMMIT)
            if there:
                self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            else:
                self.send_header("X-Error-Code", "EntryNotFound" if repository == name else "RepoNotFound")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if whole:
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
