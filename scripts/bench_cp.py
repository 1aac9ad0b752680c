"""Measures `pailfs s3 cp` side by side with boto3's upload_file and download_file. Started by scripts/bench-cp.

Both copy one file, with their own defaults, to and from a model of S3 that stores nothing; files lie in memory. First it
has the latency of S3 (20 ms to the first byte, 30 ms a write, 90 MB/s a connection), then it answers at once. What a row shows is the time of the copy itself for boto3, that of the whole process for pailfs. `bar` is
pailfs on a terminal, where it draws its progress. Medians; on a machine that does other things, too, compare the CPU
seconds.
"""

import argparse
import os
import pty
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchlib import programs
from benchlib.model import BUCKET, LATENCY, NO_LATENCY, Model, write_content

RELEASE = Path(__file__).resolve().parent.parent / "target/release"
BOTO = """
import resource, sys, time
import boto3
s3 = boto3.client("s3", endpoint_url=sys.argv[1])
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
before, begun = cpu(), time.monotonic()
getattr(s3, sys.argv[2])(**dict(zip(("Filename", "Bucket", "Key"), sys.argv[3:])))
print(time.monotonic() - begun, cpu() - before)
"""


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench-cp", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="2GiB", help="of the file (default 2GiB)")
    parser.add_argument("--rounds", type=int, default=3, help="medians are shown (default 3)")
    parser.add_argument("--pailfs", default=RELEASE / "pailfs", help="the binary to measure")
    return parser.parse_args()


def boto3(url, up, file):
    """Seconds, and seconds of CPU."""
    method, key = ("upload_file", "up-boto3") if up else ("download_file", "big")
    command = [sys.executable, "-c", BOTO, url, method, str(file), BUCKET, key]
    said = subprocess.run(command, env=programs.environment(), check=True, capture_output=True, text=True)
    return tuple(float(word) for word in said.stdout.split())


def pailfs(program, url, up, file, bar):
    """As boto3()."""
    place = f"s3://{BUCKET}/" + ("up-pailfs" if up else "big")
    ends = [str(file), place] if up else [place, str(file)]
    command = [program, "s3", "cp", "--endpoint-url", url, *ends, *([] if bar else ["--quiet"])]
    terminal, end = pty.openpty()
    reading = threading.Thread(target=drain, args=(terminal,))
    reading.start()
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, env=programs.environment() | {"TERM": "xterm", "HOME": str(file.parent)}, check=True, stderr=end)
    seconds = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    os.close(end)
    reading.join()
    return seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def drain(terminal):
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        pass  # how a terminal says that its other end is closed
    os.close(terminal)


def main():
    args = arguments()
    work = Path(tempfile.mkdtemp(prefix="pailfs-bench-cp.", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    model_program = str(RELEASE / "examples/model_s3")
    ways = {
        "boto3": boto3,
        "pailfs": lambda url, up, file: pailfs(args.pailfs, url, up, file, False),
        "bar": lambda url, up, file: pailfs(args.pailfs, url, up, file, True),
    }
    print(f"{args.size}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} before; medians of {args.rounds}\n")
    print("| | " + " | ".join(f"{name}: s | CPU s" for name in ways) + " | boto3 : pailfs | CPU | bar, of CPU |")
    print("| --- " * (2 * len(ways) + 4) + "|")
    try:
        for delays, answers in (LATENCY, "as S3"), (NO_LATENCY, "at once"):
            server = Model(model_program, delays, [f"--object=big={args.size}"])
            try:
                for up in (True, False):
                    file = work / "file"
                    if up:
                        write_content(model_program, "up-pailfs", args.size, file)
                    row(f"{'up' if up else 'down'}, answers {answers}", args.rounds, {
                        name: lambda way=way, up=up: way(server.url, up, file) for name, way in ways.items()
                    })
                    file.unlink()
            finally:
                server.stop()
    finally:
        shutil.rmtree(work, ignore_errors=True)


def row(title, rounds, ways):
    """Each way in turn, `rounds` times; prints the medians."""
    found = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
            print(f"{title}: {name} {found[name][-1]}", file=sys.stderr)
    medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in found.items()}
    figures = " | ".join(f"{seconds:.2f} | {cpu:.2f}" for seconds, cpu in medians.values())
    (theirs, theirs_cpu), (ours, ours_cpu), (_, bar_cpu) = medians.values()
    print(f"| {title} | {figures} | {theirs / ours:.1f} | {theirs_cpu / ours_cpu:.1f} | {bar_cpu / ours_cpu - 1:+.1%} |", flush=True)


main()
