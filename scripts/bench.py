"""Measures pailfs and its peers side by side on one S3 server. Started by scripts/bench.

Every round takes each program in turn on a fresh mount with cold caches; the table shows medians and,
for the peers, the ratio to pailfs. Figures depend on the machine: compare ratios, not seconds.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from botocore.config import Config

BUCKET = "bench"
MIB = 1 << 20


class Peer:
    """One program that mounts: how it is started, and what is known of its process."""

    def __init__(self, name, command):
        self.name = name
        self.command = command
        self.daemon = None

    def mount(self, directory):
        directory.mkdir(exist_ok=True)
        # rclone refuses to start with a CA bundle from the environment; the server here speaks plain HTTP.
        env = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}
        command = self.command(directory)
        self.daemon = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        until = time.monotonic() + 30
        while not os.path.ismount(directory):
            if self.daemon.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{self.name} does not mount: {self.daemon.stderr.read().decode()}")
            time.sleep(0.02)

    def umount(self, directory):
        subprocess.run(["sync"], check=True)
        for _ in range(50):
            if subprocess.run(["umount", directory], stderr=subprocess.DEVNULL).returncode == 0:
                break
            time.sleep(0.1)
        self.daemon.wait(30)

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self):
        for line in Path(f"/proc/{self.daemon.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("no VmHWM in /proc")


def peers(args):
    """pailfs, and those of its peers that are on PATH, each with its own defaults."""

    def pailfs(directory):
        return [args.pailfs, "mount", "--foreground", "--endpoint-url", args.endpoint, "--log-level", "error", BUCKET, directory]

    def s3fs(directory):
        passwd = args.work / "passwd-s3fs"
        passwd.write_text(f"{os.environ['AWS_ACCESS_KEY_ID']}:{os.environ['AWS_SECRET_ACCESS_KEY']}\n")
        passwd.chmod(0o600)
        return ["s3fs", BUCKET, directory, "-f", "-o", f"url={args.endpoint},use_path_request_style,passwd_file={passwd}"]

    def rclone(directory):
        remote = f":s3,provider=Other,env_auth=true,endpoint='{args.endpoint}':{BUCKET}"
        return ["rclone", "mount", remote, directory, "--vfs-cache-mode", "writes"]

    yield Peer("pailfs", pailfs)
    for name, command in (("s3fs", s3fs), ("rclone", rclone)):
        if shutil.which(name):
            yield Peer(name, command)


def run(command):
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def drop_caches():
    if os.geteuid() == 0:
        subprocess.run(["sync"], check=True)
        Path("/proc/sys/vm/drop_caches").write_text("1\n")


def one_round(peer, args, round_number):
    """{row: value} of one peer in one round."""
    directory = args.work / f"mount-{peer.name}"
    results = {}

    def measure(row, command, mib=None):
        drop_caches()
        peer.mount(directory)
        before = peer.cpu_seconds()
        seconds = run(command)
        if mib is None:
            results[f"{row}, s"] = seconds
        else:
            results[f"{row}, MB/s"] = mib * MIB / 1e6 / seconds
            results[f"{row}, daemon's CPU s/GiB"] = (peer.cpu_seconds() - before) / (mib / 1024)
            results[f"{row}, daemon's peak MiB"] = peer.peak_mib()
        peer.umount(directory)

    measure("sequential read", ["dd", f"if={directory}/large", "of=/dev/null", "bs=1M"], args.mib)
    target = f"{directory}/written-{peer.name}-{round_number}"
    measure("sequential write", ["dd", "if=/dev/zero", f"of={target}", "bs=1M", f"count={args.mib}"], args.mib)
    measure(f"ls of {args.files} files", ["ls", f"{directory}/many"])
    return results


def fill(args):
    s3 = boto3.client("s3", endpoint_url=args.endpoint, config=Config(max_pool_connections=32))
    s3.create_bucket(Bucket=BUCKET)
    large = args.work / "large"
    with open(large, "wb") as f:
        for _ in range(args.mib):
            f.write(os.urandom(MIB))
    s3.upload_file(str(large), BUCKET, "large")
    large.unlink()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: s3.put_object(Bucket=BUCKET, Key=f"many/{n:06}", Body=b"x"), range(args.files)))


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians are shown (default 5)")
    parser.add_argument("--mib", type=int, default=1024, help="size of the file read and written (default 1024)")
    parser.add_argument("--files", type=int, default=10_000, help="files listed (default 10000)")
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    parser.add_argument("--pailfs", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    fill(args)
    programs = list(peers(args))
    rounds = {peer.name: [] for peer in programs}
    for number in range(args.rounds):
        for peer in programs:
            rounds[peer.name].append(one_round(peer, args, number))
    print("| |" + "|".join(f" {peer.name} " for peer in programs) + "|")
    print("| --- |" + " --- |" * len(programs))
    for row in rounds["pailfs"][0]:
        medians = [statistics.median(r[row] for r in rounds[peer.name]) for peer in programs]
        cells = [f" {value:.2f} ({value / medians[0]:.2f}x) " for value in medians]
        print(f"| {row} |" + "|".join(cells) + "|")


main()
