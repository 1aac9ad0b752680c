"""boto3 at the tests' service: one order a line on stdin, one answer a line on stdout.

A line is words parted by spaces, each word percent-encoded, so that any key and any bytes fit in.
An answer begins with `ok`, or with `err` and S3's code.
"""

import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote_from_bytes, unquote_to_bytes
from urllib.request import urlopen

import boto3
import botocore.client
import botocore.exceptions


def client(endpoint, access_key, secret_key, region):
    config = botocore.client.Config(
        s3={"addressing_style": "path"},
        max_pool_connections=16,
        retries={"max_attempts": 1},
        connect_timeout=5,
        read_timeout=60,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=config,
    )


def listed(s3, bucket, prefix):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for page in pages:
        for entry in page.get("Contents", []):
            yield entry["Key"]


def probe(s3):
    bucket = "pailfs-probe"
    try:
        s3.create_bucket(Bucket=bucket)
    except s3.exceptions.BucketAlreadyOwnedByYou:
        pass
    s3.put_object(Bucket=bucket, Key="probe", Body=b"ready")
    got = s3.get_object(Bucket=bucket, Key="probe")["Body"].read()
    if got != b"ready":
        raise RuntimeError("the probe's bytes came back changed")
    return []


def create(s3, bucket):
    s3.create_bucket(Bucket=bucket)
    return []


def put(s3, bucket, key, data, *headers):
    """headers: content type (empty: none), then pairs of metadata."""
    more = {}
    if headers and headers[0]:
        more["ContentType"] = headers[0].decode()
    pairs = [h.decode() for h in headers[1:]]
    more["Metadata"] = dict(zip(pairs[::2], pairs[1::2]))
    return [s3.put_object(Bucket=bucket, Key=key, Body=data, **more)["ETag"]]


def put_file(s3, bucket, key, path):
    s3.upload_file(path.decode(), bucket, key)
    return []


def put_many(s3, bucket, data, *keys):
    with ThreadPoolExecutor(16) as pool:
        keys = [k.decode() for k in keys]
        list(pool.map(lambda k: s3.put_object(Bucket=bucket, Key=k, Body=data), keys))
    return []


def get(s3, bucket, key):
    return [s3.get_object(Bucket=bucket, Key=key)["Body"].read()]


def get_sum(s3, bucket, key):
    digest = hashlib.sha256()
    size = 0
    for chunk in s3.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(1 << 20):
        digest.update(chunk)
        size += len(chunk)
    return [str(size), digest.hexdigest()]


def head(s3, bucket, key):
    got = s3.head_object(Bucket=bucket, Key=key)
    answer = [str(got["ContentLength"]), got["ETag"], got.get("ContentType", "")]
    for name, value in sorted(got["Metadata"].items()):
        answer += [name, value]
    return answer


def delete(s3, bucket, *keys):
    for key in keys:
        s3.delete_object(Bucket=bucket, Key=key.decode())
    return []


def empty(s3, bucket, prefix):
    keys = list(listed(s3, bucket, prefix))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda k: s3.delete_object(Bucket=bucket, Key=k), keys))
    return [str(len(keys))]


def keys(s3, bucket, prefix):
    return list(listed(s3, bucket, prefix))


def uploads(s3, bucket):
    answer = []
    for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for upload in page.get("Uploads", []):
            answer += [upload["Key"], upload["UploadId"]]
    return answer


def call(s3, method, arguments):
    """Any method of the client; arguments and answer are JSON."""
    answer = getattr(s3, method)(**json.loads(arguments))
    if isinstance(answer, dict):
        answer.pop("ResponseMetadata", None)
        if hasattr(answer.get("Body"), "read"):
            answer["Body"] = answer["Body"].read().decode()
    return [json.dumps(answer, default=lambda value: value.isoformat())]


def code_of(call):
    """S3's code of what a call fails with."""
    try:
        call()
    except botocore.exceptions.ClientError as e:
        return e.response["Error"]["Code"]
    return "no error"


def evaluate(s3, text):
    """A line of docs/S3.md; its value as JSON."""
    value = eval(text, {"s3": s3, "code_of": code_of, "urlopen": urlopen})
    if isinstance(value, dict):
        value.pop("ResponseMetadata", None)
    return [json.dumps(value, default=lambda value: value.isoformat())]


def snapshot(s3, bucket):
    """All that a bucket holds and has beside it, but for what differs by nature: times, ids, owners' names."""

    def asked(method, **arguments):
        try:
            told = getattr(s3, method)(Bucket=bucket, **arguments)
        except botocore.exceptions.ClientError as e:
            return e.response["Error"]["Code"]
        told.pop("ResponseMetadata")
        told.pop("VersionId", None)
        return told

    state = {}
    for what in ("tagging", "cors", "lifecycle_configuration", "policy", "encryption", "website", "versioning"):
        state[what] = asked("get_bucket_" + what)
    state["logging"] = asked("get_bucket_logging")
    state["acl"] = [grant["Permission"] for grant in asked("get_bucket_acl")["Grants"]]
    state["uploads"] = [u["Key"] for u in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]
    listed = s3.list_object_versions(Bucket=bucket)
    state["deleted"] = [marker["Key"] for marker in listed.get("DeleteMarkers", [])]
    # Directories that were made on a mount are objects.
    state["versions"] = sorted(
        [v["Key"], v["Size"], v["ETag"], v["StorageClass"], v["IsLatest"]]
        for v in listed.get("Versions", [])
        if not v["Key"].endswith("/")
    )
    for key, _, _, _, latest in state["versions"]:
        if latest:
            state["tags of " + key] = asked("get_object_tagging", Key=key)
            state["acl of " + key] = asked("get_object_acl", Key=key)
            head = asked("head_object", Key=key)
            state["restore of " + key] = head if isinstance(head, str) else head.get("Restore", "")[:22]
    return [json.dumps(state, default=str, sort_keys=True).replace(bucket, "BUCKET")]


ORDERS = {
    f.__name__: f
    for f in (
        probe, create, put, put_file, put_many, get, get_sum, head, delete, empty, keys, uploads, call, evaluate, snapshot
    )
}


def answer_to(s3, line):
    name, *words = [unquote_to_bytes(w) for w in line.rstrip("\n").split(" ")]
    order = ORDERS[name.decode()]
    # Bucket and key are text, what follows is the order's own.
    texts = {"put_many": 1}.get(order.__name__, 2)
    words = [w.decode() if i < texts else w for i, w in enumerate(words)]
    if order is delete:
        words = [words[0]] + [w.encode() if isinstance(w, str) else w for w in words[1:]]
    return order(s3, *words)


def word(value):
    return quote_from_bytes(value if isinstance(value, bytes) else value.encode(), safe="")


def main():
    s3 = client(*sys.argv[1:5])
    for line in sys.stdin:
        try:
            reply = ["ok", *answer_to(s3, line)]
        except botocore.exceptions.ClientError as e:
            reply = ["err", e.response["Error"].get("Code", ""), str(e)]
        except Exception as e:  # the test says what it thinks of it
            reply = ["err", type(e).__name__, str(e)]
        print(" ".join(word(w) for w in reply), flush=True)


main()
