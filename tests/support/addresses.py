"""Where botocore sends a HeadObject: a row as JSON a line on stdin, an answer a line on stdout.

A row has the bucket, the environment and the text of a config file; the answer the URL and the scope that the request
is signed for, or what botocore refuses it with. Nothing is sent.
"""

import json
import os
import sys
import tempfile

import botocore.loaders
import botocore.session

KEY = "a b"
LOADER = botocore.loaders.create_loader()
BEFORE = dict(os.environ)


class Caught(Exception):
    pass


def send(request, **_):
    raise Caught(request)


def ask(row):
    with tempfile.NamedTemporaryFile("w", suffix=".config") as config:
        config.write(row["config"])
        config.flush()
        os.environ.clear()
        # That of us-east-1 had no region in its name once; botocore needs to be told that it has now.
        os.environ.update(BEFORE, AWS_S3_US_EAST_1_REGIONAL_ENDPOINT="regional", AWS_CONFIG_FILE=config.name)
        os.environ.update(row["env"])
        session = botocore.session.get_session()
        session.register_component("data_loader", LOADER)
        client = session.create_client("s3")
        client.meta.events.register("before-send.s3", send)
        try:
            client.head_object(Bucket=row["bucket"], Key=KEY)
        except Caught as caught:
            request = caught.args[0]
            authorization = request.headers["Authorization"].decode()
            scope = authorization.split("Credential=")[1].split(",")[0].split("/")[2:-1]
            return {"url": request.url, "scope": "/".join(scope)}
        return {"refused": "nothing was sent"}


for line in sys.stdin:
    try:
        answer = ask(json.loads(line))
    except Exception as e:
        answer = {"refused": f"{type(e).__name__}: {e}"}
    print(json.dumps(answer), flush=True)
