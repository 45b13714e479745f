"""A Hugging Face Hub on this machine: as much of its protocol as fetching and pushing a model takes."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml


class FakeHub:
    """Serves repositories of small files.

    Attributes:
      url: to set HF_ENDPOINT to.
      repositories: id -> name -> content; what is pushed lands here.
      private: ids that nobody may see.
      gated: ids whose licence nobody accepted.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        hub = self

        class Handler(_Handler):
            def answer(self, path: str, body: bytes) -> tuple[int, object, dict[str, str]]:
                return hub._answer(self.command, path, body, self.headers)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()

    def commit(self, repo_id: str) -> str:
        """The hash of a repository's contents."""
        return hashlib.sha1(repr(sorted(self.repositories[repo_id].items())).encode()).hexdigest()

    def _answer(self, method: str, path: str, body: bytes, headers: object) -> tuple[int, object, dict[str, str]]:
        parts = path.strip("/").split("/")
        if method == "POST" and path == "/api/repos/create":
            if not headers["Authorization"]:
                return 401, {"error": "log in"}, {}
            name = json.loads(body)
            repo_id = f"{name.get('organization') or 'someone'}/{name['name']}"
            self.repositories.setdefault(repo_id, {})
            return 200, {"url": f"{self.url}/{repo_id}"}, {}
        if path == "/api/validate-yaml":
            metadata = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            known = {"library_name": str, "tags": list, "license": str, "base_model": str}
            errors = [
                {"message": f"{name}: {value}"}
                for name, value in metadata.items()
                if not isinstance(value, known.get(name, ()))
            ]
            return 400 if errors else 200, {"errors": errors, "warnings": []}, {}
        repo_id = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if repo_id not in self.repositories or repo_id in self.private:
            return 401, {"error": "no such repository"}, {"X-Error-Code": "RepoNotFound"}
        if repo_id in self.gated:
            return 403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"}
        files, commit = self.repositories[repo_id], self.commit(repo_id)
        if parts[0] != "api":
            revision, name = parts[3], "/".join(parts[4:])
            content = files[name]
            digest = hashlib.sha1(content).hexdigest()
            return 200, content, {"ETag": f'"{digest}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if parts[4] == "preupload":
            asked = json.loads(body)["files"]
            return (
                200,
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]},
                {},
            )
        if parts[4] == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = self.commit(repo_id)
            return 200, {"commitOid": commit, "commitUrl": f"{self.url}/{repo_id}/commit/{commit}", "success": True}, {}
        revision = parts[5] if len(parts) > 5 else "main"
        if revision not in ("main", commit):
            return 404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"}
        if parts[4] == "tree":
            entries = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in files.items()
            ]
            return 200, entries, {}
        return 200, {"id": repo_id, "sha": commit, "siblings": [{"rfilename": name} for name in files]}, {}


class _Handler(BaseHTTPRequestHandler):
    def answer(self, path: str, body: bytes) -> tuple[int, object, dict[str, str]]:
        """Status, content and headers."""
        raise NotImplementedError

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, content, headers = self.answer(unquote(urlsplit(self.path).path), body)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = _serve

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""
