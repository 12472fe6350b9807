"""A hub of models on this machine, which answers what the library of the hub asks of one."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Repositories by name, their files by path; and the status with which everything is refused."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refusal: int | None = None

    def commit(self, repository: str) -> str:
        return hashlib.sha1(repr(sorted(self.files[repository].items())).encode()).hexdigest()


@contextmanager
def local_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def answer_json(self, value: object) -> None:
            self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else b""
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            if hub.refusal is not None:
                code = {404: "RepoNotFound", 403: "GatedRepo"}.get(hub.refusal, "")
                self.answer(hub.refusal, b'{"error": "no"}', **({"X_Error_Code": code} if code else {}))
            else:
                self.route(path, body)

        do_GET = do_HEAD = do_POST = handle_any  # noqa: N815  (the names that http.server calls)

        def route(self, path: str, body: bytes) -> None:
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'ada'}/{asked['name']}"
                hub.files.setdefault(name, {})
                hub.private[name] = bool(asked.get("private")) or asked.get("visibility") == "private"
                self.answer_json({"url": f"{hub.url}/{name}", "name": name, "id": name})
                return
            if path == "/api/validate-yaml":
                self.answer_json({"errors": [], "warnings": []})
                return
            parts = path.strip("/").split("/")
            if parts[0] == "api":
                name, rest = "/".join(parts[2:4]), parts[4:]
            else:
                name, rest = "/".join(parts[:2]), parts[2:]
            if name not in hub.files:
                self.answer(404, b'{"error": "Repository not found"}', X_Error_Code="RepoNotFound")
            elif rest[:1] == ["preupload"]:
                files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                         for each in json.loads(body)["files"]]  # fmt: skip
                self.answer_json({"files": files})
            elif rest[:1] == ["commit"]:
                for line in filter(None, body.splitlines()):
                    each = json.loads(line)
                    if each["key"] == "file":
                        hub.files[name][each["value"]["path"]] = base64.b64decode(each["value"]["content"])
                commit = hub.commit(name)
                self.answer_json({
                    "success": True, "commitOid": commit, "commitUrl": f"{hub.url}/{name}/commit/{commit}",
                    "hookOutput": "", "pullRequestUrl": None,
                })  # fmt: skip
            elif rest[:1] == ["resolve"]:
                self.file(name, "/".join(rest[2:]))
            elif rest[:1] == ["tree"]:
                self.answer_json([
                    {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for file, data in hub.files[name].items()
                ])  # fmt: skip
            else:
                self.answer_json({
                    "id": name, "modelId": name, "sha": hub.commit(name), "private": hub.private[name],
                    "tags": [], "downloads": 0, "likes": 0,
                    "siblings": [{"rfilename": file} for file in hub.files[name]],
                })  # fmt: skip

        def file(self, name: str, file: str) -> None:
            data = hub.files[name].get(file)
            if data is None:
                self.answer(404, b"", X_Error_Code="EntryNotFound")
                return
            self.answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=hub.commit(name))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
