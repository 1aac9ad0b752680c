"""The server that is measured against: scripts/model_s3, and what it counts."""

import json
import subprocess
import urllib.request

# What the server holds. Nothing of it is stored, so that each mount can have a fresh server.
CONTENT = [
    "--object=big=1GiB",
    "--tree=small:files=200,size=100KB",
    "--tree=walk:dirs=100,files=20,size=4KiB",
    "--tree=many:files=10000,size=4KiB",
    "--tree=flat100k:files=100000,size=4KiB",
    "--tree=flat1m:files=1000000,size=4KiB",
    "--tree=readers:files=32,size=64MiB",
]
LATENCY = ["--first-byte-ms=20", "--list-ms=40", "--write-ms=30", "--mb-per-second=90"]
NO_LATENCY = ["--first-byte-ms=0", "--list-ms=0", "--write-ms=0", "--mb-per-second=0"]
BUCKET = "bench"


class Model:
    """A running server."""

    def __init__(self, program, delays, content=CONTENT):
        command = [program, "serve", "--bucket", BUCKET, *content, *delays]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise SystemExit("model_s3 does not start")

    def reset(self):
        urllib.request.urlopen(f"{self.url}/-/reset", data=b"").close()

    def counts(self):
        with urllib.request.urlopen(f"{self.url}/-/counts") as answer:
            return json.load(answer)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def write_content(program, key, size, file):
    """Writes the content of a key: uploaded again, the server keeps it without storing it."""
    with open(file, "wb") as output:
        subprocess.run([program, "content", "--key", key, "--size", size], stdout=output, check=True)
