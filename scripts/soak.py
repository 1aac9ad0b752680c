"""Mounts one bucket twice, and lets four processes walk all of it and change a part of it each. Started by scripts/soak.

Each process keeps a model of its own part, and compares with it as it goes. At the end both mounts, once after the
time-to-live and once more after `pailfs refresh`, and the server's own listing must show what the models say. It
fails as well on any error that is not another host's doing, and where a daemon's memory has grown.
"""

import argparse
import collections
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree
from pathlib import Path

from benchlib import programs
from benchlib.model import BUCKET, Model

ROOT = Path(__file__).resolve().parent.parent
RELEASE = ROOT / "target/release"
WORKERS = 4
FILES_A_DIRECTORY = 100
FILE_BYTES = 4096
TTL_SECONDS = 2
# Long enough that answers cross with changes, short enough for many of them.
DELAYS = ["--first-byte-ms=5", "--list-ms=10", "--write-ms=5", "--mb-per-second=0"]
# A process changes its part for so long between two walks over all.
CHANGES_SECONDS = 5
# Of what is wrong, so much is told.
TOLD_MAX = 20


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--files", type=int, default=100_000, help="objects in the bucket at the start (default 100000)")
    parser.add_argument("--growth-mib", type=float, default=32, help="memory a daemon may gain after the first third (default 32)")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--pailfs", default=RELEASE / "pailfs", help="the binary to soak (default: the one just built)")
    parser.add_argument("--pailfs-option", action="append", default=[], metavar="NAME=VALUE", help="given to `pailfs mount -o`; may be repeated")
    return parser.parse_args()


class Worker:
    """One process. `model`: by path, a file's size, or None for a directory; of its own part."""

    def __init__(self, number, mount, directories, seed):
        self.random = random.Random(f"{seed}-{number}")
        self.mount, self.part = str(mount), f"w{number}"
        self.model = {self.part: None}
        for at in range(directories):
            directory = f"{self.part}/d{at:0{len(str(directories - 1))}}"
            self.model[directory] = None
            for file in range(FILES_A_DIRECTORY):
                self.model[f"{directory}/f{file:02}"] = FILE_BYTES
        self.contents = {}
        self.nominal = len(self.model)
        self.made = 0
        self.counts = collections.Counter()
        self.wrong = []

    def run(self, until, report):
        while time.time() < until:
            pause = min(until, time.time() + CHANGES_SECONDS)
            while time.time() < pause:
                self.attempt(self.change)
            if time.time() < until:
                self.attempt(self.walk)
        Path(report).write_text(json.dumps({"model": self.model, "counts": self.counts, "wrong": self.wrong}))

    def attempt(self, what):
        try:
            what()
        except OSError as e:
            self.complain(f"{what.__name__}: {e}")

    def complain(self, text):
        self.wrong.append(f"{time.strftime('%H:%M:%S')} {self.part}: {text}")

    def at(self, path):
        return f"{self.mount}/{path}"

    def pick(self, is_file):
        paths = self.files if is_file else self.directories
        return self.random.choice(paths) if paths else None

    def change(self):
        self.files = [path for path, size in self.model.items() if size is not None]
        self.directories = [path for path, size in self.model.items() if size is None]
        # A few on one view of the model: to sort it anew for each takes longer than the change.
        for _ in range(50):
            small = len(self.model) < self.nominal
            kinds = [self.create, self.delete, self.rename, self.replace, self.append, self.read, self.make_directory]
            weights = [40 if small else 20, 20 if small else 40, 15, 10, 5, 20, 3]
            self.random.choices(kinds, weights)[0]()
        self.random.choice([self.empty, self.remove_tree, self.check_directory, self.check_directory])()

    def new_name(self):
        self.made += 1
        # Each the beginning of another now and then, and with what sorts before and after `/`.
        return self.random.choice(["n", "n-", "n!", "n.", "f00-", "ü"]) + str(self.made)

    def write(self, path, mode):
        data = (f"{path} {self.made} " * self.random.randrange(1, 40)).encode()
        with open(self.at(path), mode) as file:
            file.write(data)
        before = self.contents.get(path, b"") if "a" in mode else b""
        self.contents[path] = before + data
        self.model[path] = len(before) + len(data)

    def create(self):
        directory = self.pick(is_file=False)
        if directory in self.model:
            self.counts["create"] += 1
            self.write(f"{directory}/{self.new_name()}", "xb")

    def replace(self):
        path = self.pick(is_file=True)
        if self.model.get(path) is not None:
            self.counts["replace"] += 1
            self.write(path, "wb")

    def append(self):
        path = self.pick(is_file=True)
        if path in self.contents and self.model[path] < 16 * FILE_BYTES:
            self.counts["append"] += 1
            self.write(path, "ab")

    def read(self):
        path = self.pick(is_file=True)
        if self.model.get(path) is None:
            return
        self.counts["read"] += 1
        with open(self.at(path), "rb") as file:
            data = file.read()
        if len(data) != self.model[path] or data != self.contents.get(path, data):
            self.complain(f"read {path}: {len(data)} bytes, others than the {self.model[path]} written")

    def delete(self):
        path = self.pick(is_file=True)
        if self.model.get(path) is not None:
            self.counts["delete"] += 1
            os.unlink(self.at(path))
            self.forget(path)

    def forget(self, path):
        del self.model[path]
        self.contents.pop(path, None)

    def rename(self):
        path, directory = self.pick(is_file=True), self.pick(is_file=False)
        if self.model.get(path) is None or directory not in self.model:
            return
        self.counts["rename"] += 1
        # Over a file now and then.
        over = self.pick(is_file=True) if self.random.random() < 0.2 else None
        to = over if over != path and self.model.get(over) is not None else f"{directory}/{self.new_name()}"
        os.rename(self.at(path), self.at(to))
        size, content = self.model[path], self.contents.get(path)
        self.forget(path)
        self.model[to] = size
        self.contents.pop(to, None)
        if content is not None:
            self.contents[to] = content

    def make_directory(self):
        above = self.pick(is_file=False)
        if above in self.model and above.count("/") < 4:
            self.counts["mkdir"] += 1
            path = f"{above}/{self.new_name()}"
            os.mkdir(self.at(path))
            self.model[path] = None

    def below(self, directory):
        return [path for path in self.model if path.startswith(f"{directory}/")]

    def empty(self):
        """Removes all files of a directory in a burst, and makes some of the same names at once."""
        directory = self.pick(is_file=False)
        if directory not in self.model or directory == self.part:
            return
        self.counts["empty"] += 1
        files = [path for path in self.below(directory) if self.model[path] is not None and path.rpartition("/")[0] == directory]
        for path in files:
            os.unlink(self.at(path))
            self.forget(path)
        for path in files[:: self.random.randrange(1, 9)]:
            self.write(path, "xb")
        self.compare(directory)

    def remove_tree(self):
        directory = self.pick(is_file=False)
        if directory not in self.model or directory == self.part:
            return
        self.counts["rm -r"] += 1
        shutil.rmtree(self.at(directory))
        for path in [directory, *self.below(directory)]:
            self.forget(path)
        # Not one directory less for each of these.
        os.mkdir(self.at(directory))
        self.model[directory] = None
        self.compare(directory)

    def check_directory(self):
        directory = self.pick(is_file=False)
        if directory in self.model:
            self.counts["list"] += 1
            self.compare(directory)

    def compare(self, directory):
        want = {path.rpartition("/")[2]: self.model[path] for path in self.below(directory) if path.rpartition("/")[0] == directory}
        with os.scandir(self.at(directory)) as entries:
            found = {entry.name: None if entry.is_dir() else entry.stat().st_size for entry in entries}
        for told in differences(want, found):
            self.complain(f"{directory}: {told}")

    def walk(self):
        """Over all; what is its own must be as it was made, of the rest what others change meanwhile may fail."""
        self.counts["walk"] += 1
        found, failed = {}, []
        for _ in walk(self.mount, found, failed):
            self.counts["seen"] += 1
        own = {path: node for path, node in found.items() if path.split("/", 1)[0] == self.part}
        for told in differences(self.model, own):
            self.complain(f"walk: {told}")
        for path, e in failed:
            if path.split("/", 1)[0] == self.part or not isinstance(e, FileNotFoundError):
                self.complain(f"walk: {path}: {e}")


def walk(top, found, failed):
    """Every path below with its size, or None for a directory, into `found`; each once more as it is met."""
    stack = [""]
    while stack:
        directory = stack.pop()
        try:
            with os.scandir(os.path.join(top, directory)) as entries:
                for entry in entries:
                    path = f"{directory}/{entry.name}" if directory else entry.name
                    if path in found:
                        failed.append((path, OSError("it came twice")))
                    try:
                        found[path] = None if entry.is_dir(follow_symlinks=False) else entry.stat(follow_symlinks=False).st_size
                        if found[path] is None:
                            stack.append(path)
                    except OSError as e:
                        failed.append((path, e))
                    yield path
        except OSError as e:
            failed.append((directory, e))


def differences(want, found):
    for path in sorted(want.keys() | found.keys()):
        if path not in found:
            yield f"{path} is missing"
        elif path not in want:
            yield f"{path} should not be there"
        elif want[path] != found[path]:
            yield f"{path}: {found[path]} for {want[path]}"


def listed(url):
    """What the server has, as a mount should show it."""
    found, token = {}, ""
    namespace = "{http://s3.amazonaws.com/doc/2006-03-01/}"
    while token is not None:
        query = {"list-type": "2", "encoding-type": "url", **({"continuation-token": token} if token else {})}
        with urllib.request.urlopen(f"{url}/{BUCKET}?{urllib.parse.urlencode(query)}") as answer:
            page = xml.etree.ElementTree.parse(answer).getroot()
        space = namespace if page.tag.startswith(namespace) else ""
        for item in page.iter(f"{space}Contents"):
            key = urllib.parse.unquote_plus(item.findtext(f"{space}Key"))
            above, _, name = key.rpartition("/")
            while above:
                found[above] = None
                above = above.rpartition("/")[0]
            if name:
                found[key] = int(item.findtext(f"{space}Size"))
        token = page.findtext(f"{space}NextContinuationToken")
    return found


def rss_mib(mount):
    kib = 0
    for pid in mount.pids():
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        kib += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return kib / 1024


def refresh(args, mount):
    subprocess.run(["timeout", "60", args.pailfs, "refresh", mount.directory], check=True)


def soak(args, work, model, mounts, seed):
    """What is wrong at the end, and the figures."""
    directories = max(1, args.files // WORKERS // FILES_A_DIRECTORY)
    begun = time.time()
    until = begun + 60 * args.minutes
    reports = [work / f"worker-{number}.json" for number in range(WORKERS)]
    processes = []
    for number, report in enumerate(reports):
        worker = Worker(number, mounts[number % len(mounts)].directory, directories, seed)
        processes.append(multiprocessing.Process(target=worker.run, args=(until, report), daemon=True))
        processes[-1].start()
    samples = []
    while any(process.is_alive() for process in processes):
        samples.append([rss_mib(mount) for mount in mounts])
        time.sleep(1)
        if time.time() > until + 120:
            for process in processes:
                process.kill()
            return ["a process hangs"], samples, collections.Counter()
    wrong, want, counts = [], {}, collections.Counter()
    for report in reports:
        if not report.exists():
            return [f"{report.name} is missing: a process failed"], samples, counts
        told = json.loads(report.read_text())
        wrong += told["wrong"]
        want |= told["model"]
        counts.update(told["counts"])
    time.sleep(TTL_SECONDS + 1)
    for after in ["the time-to-live", "refresh"]:
        for number, mount in enumerate(mounts):
            if after == "refresh":
                refresh(args, mount)
            found, failed = {}, []
            for _ in walk(str(mount.directory), found, failed):
                pass
            wrong += [f"mount {number} after {after}: {told}" for told in differences(want, found)]
            wrong += [f"mount {number} after {after}: {path}: {e}" for path, e in failed]
    wrong += [f"the server: {told}" for told in differences(want, listed(model.url))]
    counts["paths at the end"] = len(want)
    return wrong, samples, counts


def grown(samples, args):
    """Lines on the memory of each daemon, and what is wrong with it."""
    third = max(1, len(samples) // 3)
    lines, wrong = [], []
    for number in range(len(samples[0])):
        of = [sample[number] for sample in samples]
        first, end = max(of[:third]), max(of[-max(1, third // 3):])
        lines.append(f"mount {number}: at most {first:.0f} MiB in the first third, {max(of):.0f} MiB at all, {end:.0f} MiB at the end")
        if end > first + args.growth_mib:
            wrong.append(f"mount {number} grew by {end - first:.0f} MiB after the first third, {args.growth_mib:.0f} are allowed")
    return lines, wrong


def main():
    args = arguments()
    seed = args.seed if args.seed is not None else random.randrange(1 << 32)
    print(f"--seed {seed}", flush=True)
    work = Path(tempfile.mkdtemp(prefix="pailfs-soak."))
    directories = max(1, args.files // WORKERS // FILES_A_DIRECTORY)
    content = [f"--tree=w{number}:dirs={directories},files={FILES_A_DIRECTORY},size={FILE_BYTES}B" for number in range(WORKERS)]
    model = Model(RELEASE / "examples/model_s3", DELAYS, content)
    mounts, wrong = [], ["not finished"]
    try:
        options = [f"metadata-ttl={TTL_SECONDS}s", *args.pailfs_option]
        for name in ["a", "b"]:
            directory = work / name
            command = programs.command_of("pailfs", model.url, directory, work, args.pailfs, options)
            mounts.append(programs.Mount(command, directory, work / f"{name}.log"))
        wrong, samples, counts = soak(args, work, model, mounts, seed)
        print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
        print(", ".join(f"{name} {count}" for name, count in sorted(model.counts().items())))
        lines, too_much = grown(samples, args)
        print("\n".join(lines))
        wrong += too_much
    finally:
        for mount in mounts:
            mount.umount()
        model.stop()
        logs = [line for name in ["a", "b"] if (work / f"{name}.log").exists() for line in (work / f"{name}.log").read_text().splitlines()]
        wrong += [f"log: {line}" for line in logs]
        print("\n".join(wrong[:TOLD_MAX]))
        if len(wrong) > TOLD_MAX:
            print(f"and {len(wrong) - TOLD_MAX} more")
        if not wrong and not any(os.path.ismount(mount.directory) for mount in mounts):
            shutil.rmtree(work, ignore_errors=True)
        else:
            print(f"kept: {work}")
    print("it disagrees" if wrong else "all agree")
    sys.exit(1 if wrong else 0)


main()
