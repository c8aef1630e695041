"""A web server on this machine, which can serve a dataset as dtool publishes it."""

import http.server
import json
import threading

from lightning_dtool.store import FrozenDataset, local_path

Answer = tuple[int, dict[str, str], bytes]


class Server:
    """A web server that answers with what is in a dictionary, and notes what it is asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                status, headers, content = outer.answers.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def put(self, dataset: FrozenDataset) -> str:
        """Serve a dataset as dtool does after `dtool publish`, and return its URI."""
        folder, uri = local_path(dataset.uri), f"{self.url}/{dataset.uuid}"
        assert folder is not None
        self.answers[f"/{dataset.uuid}"] = (200, {}, b"")
        self._file(f"/{dataset.uuid}/manifest", (folder / ".dtool" / "manifest.json").read_bytes())
        self._file(f"/{dataset.uuid}/readme", (folder / "README.yml").read_bytes())
        for identifier, item in dataset.items.items():
            self._file(f"/{dataset.uuid}/{identifier}", (folder / "data" / item.relpath).read_bytes())
        manifest = {
            "admin_metadata": dict(dataset.admin_metadata),
            "manifest_url": f"{uri}/manifest",
            "readme_url": f"{uri}/readme",
            "item_urls": {identifier: f"{uri}/{identifier}" for identifier in dataset.items},
            "overlays": {},
            "annotations": {},
            "tags": [],
        }
        self._file(f"/{dataset.uuid}/http_manifest.json", json.dumps(manifest).encode())
        return uri

    def redirect(self, path: str, target: str) -> None:
        self.answers[path] = (302, {"Location": target}, b"")

    def _file(self, path: str, content: bytes) -> None:
        self.answers[path] = (200, {}, content)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
