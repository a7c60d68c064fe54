"""One bucket of Google Cloud Storage: as much of its JSON API as gcsfs and TensorStore ask for.

Generations and preconditions are those of the real one; there is neither authentication nor paging.
"""

import email
import email.policy
import itertools
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

NAME = "race"
TIME = "2026-01-01T00:00:00.000Z"


class Bucket(ThreadingHTTPServer):
    """`objects` holds (generation, bytes) by name; `environment` leads a process here."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Request)
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.generations, self.lock = itertools.count(1), threading.Lock()
        url = f"http://localhost:{self.server_port}"
        self.environment = {
            "STORAGE_EMULATOR_HOST": url,  # gcsfs
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it wants credentials
        }

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, *request):
        """Clients that are killed are what the tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*request)

    def one(self, ending: str) -> str:
        """The text of the only object with such a name."""
        (data,) = (data for name, (_, data) in self.objects.items() if name.endswith(ending))
        return data.decode()


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bucket

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def do_DELETE(self):
        self.answer()

    def answer(self):
        """Finds what is asked for and hands it to the method for it."""
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query))
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        _, _, rest = url.path.partition("/storage/v1/b/")
        bucket, _, rest = rest.partition("/")
        name = unquote(rest.removeprefix("o").removeprefix("/"))
        if bucket != NAME:
            return self.reply(404, {"error": {"code": 404, "message": "no such bucket"}})
        with self.server.lock:
            if url.path.startswith("/upload/"):
                return self.upload()
            if not rest:
                return self.reply(200, {"kind": "storage#bucket", "name": NAME})
            return self.object(name) if name else self.list()

    def upload(self):
        name, data, kind = self.query.get("name"), self.body, self.query["uploadType"]
        if kind == "resumable":  # begun with no data, which then comes in one piece
            headers = {"Location": f"http://{self.headers['Host']}{self.path}&uploadType=media"}
            return self.reply(200, {}, headers)
        if kind == "multipart":
            header = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            message = email.message_from_bytes(header + self.body, policy=email.policy.HTTP)
            about, content = message.iter_parts()
            name = json.loads(about.get_payload(decode=True))["name"]
            data = content.get_payload(decode=True)
        if self.refused(name):
            return self.reply(412, {"error": {"code": 412, "message": "precondition"}})
        self.server.objects[name] = (next(self.server.generations), data)
        return self.reply(200, self.describe(name))

    def list(self):
        prefix, end = self.query.get("prefix", ""), self.query.get("endOffset")
        delimiter, start = self.query.get("delimiter"), self.query.get("startOffset", "")
        items, folders = [], set()
        for name in sorted(self.server.objects):
            if not name.startswith(prefix) or name < start or (end and name >= end):
                continue
            inside, found, _ = name[len(prefix) :].partition(delimiter or "\0")
            if found:
                folders.add(prefix + inside + delimiter)
            else:
                items.append(self.describe(name))
        answer = {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}
        return self.reply(200, answer)

    def object(self, name: str):
        if name not in self.server.objects:
            return self.reply(404, {"error": {"code": 404, "message": f"no object {name}"}})
        if self.refused(name):
            return self.reply(412, {"error": {"code": 412, "message": "precondition"}})
        generation, data = self.server.objects[name]
        if self.command == "DELETE":
            del self.server.objects[name]
            return self.reply(204)
        if self.query.get("ifGenerationNotMatch") == str(generation):
            return self.reply(304)
        if self.query.get("alt") != "media":
            return self.reply(200, self.describe(name))
        headers = {"x-goog-generation": str(generation)}
        asked = self.headers.get("Range")
        if not asked:
            return self.reply(200, data, headers)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin = int(first) if first else len(data) - int(last)
        stop = min(int(last) + 1, len(data)) if first and last else len(data)
        headers["Content-Range"] = f"bytes {begin}-{stop - 1}/{len(data)}"
        return self.reply(206, data[begin:stop], headers)

    def refused(self, name: str) -> bool:
        wanted = self.query.get("ifGenerationMatch")
        return wanted is not None and int(wanted) != self.server.objects.get(name, (0,))[0]

    def describe(self, name: str) -> dict:
        generation, data = self.server.objects[name]
        times = dict.fromkeys(("timeCreated", "updated"), TIME)
        sizes = {"size": str(len(data)), "generation": str(generation), "metageneration": "1"}
        return {"kind": "storage#object", "name": name, "bucket": NAME} | sizes | times

    def reply(self, status: int, content: dict | bytes = b"", headers: dict | None = None):
        if isinstance(content, dict):
            content = json.dumps(content).encode()
            headers = {"Content-Type": "application/json", **(headers or {})}
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass
