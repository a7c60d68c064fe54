"""Azure's storage on this machine, by Microsoft's imitation: npm install -g azurite."""

import base64
import contextlib
import hashlib
import hmac
import shutil
import socket
import subprocess
import urllib.request
from email.utils import formatdate

import pytest
from study_rig import until

ACCOUNT, CONTAINER = "devstoreaccount1", "race"
# Azurite's own, published in its documentation.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@contextlib.contextmanager
def azurite():
    """The environment that leads a process to a new container; skips where there is no Azurite."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("no azurite-blob on the path: npm install -g azurite")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"]
    server = subprocess.Popen([program, f"--blobPort={port}", *words], stdout=subprocess.DEVNULL)
    try:
        until(lambda: answers(port))
        url = f"http://127.0.0.1:{port}/{ACCOUNT}"
        create(url)
        yield {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": url,
        }
    finally:
        server.terminate()
        server.wait()


def answers(port):
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def create(url):
    """Creates the container, by a request that Azure would accept too."""
    date = formatdate(usegmt=True)
    headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
    signed = [f"{name}:{value}" for name, value in headers.items()]
    resource = f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}"
    text = "\n".join(["PUT", *[""] * 11, *signed, resource, "restype:container"])
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    headers["Content-Length"] = "0"
    address = f"{url}/{CONTAINER}?restype=container"
    urllib.request.urlopen(urllib.request.Request(address, headers=headers, method="PUT"))
