"""One bucket of S3 and of Google Cloud Storage: as much of both as our libraries ask for.

Google's JSON API is for gcsfs and TensorStore, the XML API of S3 and Google for obstore. ETags,
generations and preconditions are those of the real ones; there is no authentication.
`python tests/support/fake_bucket.py` serves one until killed, with accidents: see `Bucket.fault`.
"""

import email
import email.policy
import hashlib
import itertools
import json
import os
import random
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

NAME = "race"
TIME = "2026-01-01T00:00:00.000Z"


def environment(url: str) -> dict[str, str]:
    """What leads a process to the bucket at a URL."""
    account = {"gcs_base_url": url, "disable_oauth": True}
    account |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
    return {
        "STORAGE_EMULATOR_HOST": url,  # gcsfs
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it wants credentials
        "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account),  # obstore
        "AWS_ENDPOINT_URL": url,
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_REGION": "us-east-1",
    }


class Bucket(ThreadingHTTPServer):
    """`objects` holds (generation, bytes) by name; `environment` leads a process here."""

    daemon_threads = True

    request_queue_size = 128

    def __init__(self, accidents: float = 0.0, seed: int = 0):
        """`accidents`: the share of requests through the XML API that meet one."""
        super().__init__(("127.0.0.1", 0), Request)
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.generations, self.lock = itertools.count(1), threading.Lock()
        url = f"http://localhost:{self.server_port}"
        self.environment = environment(url)
        self.accidents, self.rng = accidents, random.Random(seed)
        self.denied: tuple[str, ...] = ()  # XML methods that nobody has the right to
        self.counts: dict[str, int] = {}  # XML requests by method

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

    def fault(self) -> tuple[float, bool, bool]:
        """(seconds to wait, fail before it is done, fail after it is done) of a request."""
        with self.lock:
            if self.rng.random() >= self.accidents:
                return 0.0, False, False
            kind = self.rng.randrange(3)
        return (self.rng.random() * 2 if kind == 0 else 0.0), kind == 1, kind == 2

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

    def do_PUT(self):
        self.answer()

    def do_HEAD(self):
        self.answer()

    def answer(self):
        """Finds what is asked for and hands it to the method for it."""
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query, keep_blank_values=True))
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "/storage/v1/" not in url.path:
            return self.xml(*unquote(url.path)[1:].partition("/")[::2])
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

    def xml(self, bucket: str, name: str):
        """The API of S3, which Google speaks too."""
        if bucket != NAME:
            return self.reply(404, b"<Error><Message>there is no such bucket</Message></Error>")
        if self.command in self.server.denied:
            return self.reply(403, b"<Error><Message>Access Denied</Message></Error>")
        wait, before, after = self.server.fault()
        time.sleep(wait)
        if before:
            return self.reply(503, b"<Error><Message>slow down</Message></Error>")
        with self.server.lock:
            self.server.counts[self.command] = self.server.counts.get(self.command, 0) + 1
            answer = self.xml_list() if not name and self.command == "GET" else self.xml_one(name)
        return self.reply(503, b"<Error/>") if after else self.reply(*answer)

    def xml_one(self, name: str):
        objects = self.server.objects
        if self.command == "POST":  # S3 removes many at once
            gone = re.findall("<Key>(.*?)</Key>", self.body.decode())
            for key in gone:
                objects.pop(unquote(key), None)
            told = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in gone)
            return 200, f"<DeleteResult>{told}</DeleteResult>".encode()
        there = name in objects
        if self.command == "PUT":
            wanted = self.headers.get("x-goog-if-generation-match")
            generation = objects[name][0] if there else 0
            if (wanted is not None and int(wanted) != generation) or (
                there and self.headers.get("If-None-Match") == "*"
            ):
                return 412, b"<Error><Message>precondition</Message></Error>"
            if "If-Match" in self.headers and not there:
                return 404, b"<Error><Message>there is no such key</Message></Error>"
            if there and self.headers.get("If-Match", self.tag(name)) != self.tag(name):
                return 412, b"<Error><Message>precondition</Message></Error>"
            objects[name] = (next(self.server.generations), self.body)
            return 200, b"", self.about(name)
        if not there:
            return 404, b"<Error><Message>there is no such key</Message></Error>"
        if self.command == "DELETE":
            del objects[name]
            return 204, b""
        data = objects[name][1]
        if not (asked := self.headers.get("Range")):
            return 200, data, self.about(name)
        begin, stop = map(int, asked.removeprefix("bytes=").split("-"))
        part = data[begin : stop + 1]
        found = {"Content-Range": f"bytes {begin}-{begin + len(part) - 1}/{len(data)}"}
        return 206, part, {**self.about(name), **found}

    def tag(self, name: str) -> str:
        return f'"{hashlib.md5(self.server.objects[name][1]).hexdigest()}"'

    def about(self, name: str) -> dict:
        generation = str(self.server.objects[name][0])
        times = {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        return {"ETag": self.tag(name), "x-goog-generation": generation, **times}

    def xml_list(self):
        """A page of at most a thousand names."""
        prefix = self.query.get("prefix", "")
        start = self.query.get("continuation-token") or self.query.get("start-after", "")
        names = [n for n in sorted(self.server.objects) if n.startswith(prefix) and n > start]
        more = len(names) > 1000
        items = "".join(
            f"<Contents><Key>{escape(n)}</Key><LastModified>{TIME}</LastModified>"
            f"<ETag>{escape(self.tag(n))}</ETag><Size>{len(self.server.objects[n][1])}</Size>"
            "</Contents>"
            for n in names[:1000]
        )
        last = escape(names[999]) if more else ""
        token = f"<NextContinuationToken>{last}</NextContinuationToken>" * more
        text = f"<ListBucketResult>{items}<IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        return 200, f"{text}</ListBucketResult>".encode()

    def reply(self, status: int, content: dict | bytes = b"", headers: dict | None = None):
        if isinstance(content, dict):
            content = json.dumps(content).encode()
            headers = {"Content-Type": "application/json", **(headers or {})}
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    served = Bucket(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0)
    print(json.dumps(served.environment), flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    served.serve_forever()
