"""The rows: what is run on a mount, and our budget for it.

A scenario is what happens on one fresh mount, step after step; each step is a row. Of `{m}` comes the mount,
of `{w}` the local directory with what is copied in, of `{python}` and `{here}` this interpreter and directory.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    id: str
    title: str
    command: str
    # Seconds, or GB/s if `gib` is given.
    budget: float | None
    # How much is read or written, if the row is about bandwidth.
    gib: float | None = None
    # Budgets of the daemon: CPU seconds a GiB, MiB.
    cpu_budget: float | None = None
    memory_budget: float | None = None
    # Statuses that are a success.
    statuses: tuple = (0,)
    # It prints its seconds, and its start is none of the row's.
    own_clock: bool = False


@dataclass(frozen=True)
class Scenario:
    steps: list[Step]
    quick: bool = False
    # Rows of pailfs with these options, and of those peers alone that do so anyway.
    pailfs_options: tuple = ()
    beside: tuple = ()
    # Local sources it copies in: name, key and size of content.
    sources: list[tuple] = field(default_factory=list)
    # And a local archive, `{w}/tree.tar`, of that many files of some 6.6 KB in that many directories; whether one
    # directory comes after the other.
    archive: tuple[int, int, bool] | None = None
    # Compared with the content of a key when all is done, once: path on the mount, key.
    checks: list[tuple] = field(default_factory=list)


def dd(file, more=""):
    return f"dd if={file} bs=1M status=none {more}"


TREE_IN = [(f"in/f{n:03}", f"in-{n}", "20KB") for n in range(200)]
READ_RANDOM = "{python} {here}/random_reads.py {m}/big"

WITH_LATENCY = [
    Scenario(quick=True, checks=[("small/f123", "small/f123")], steps=[
        Step("cat", "`cat` 200 files of 100 KB, in order, one process", "cat {m}/small/*", 0.6),
    ]),
    Scenario(quick=True, steps=[
        Step("find", "`find` in 100 directories of 20 files", "find {m}/walk", 0.4),
        Step("du", "`du` right after", "du -s {m}/walk", 0.05),
    ]),
    Scenario([
        Step("grep", "`grep -r` over those 2,000 files", "grep -rF 'no such words' {m}/walk", 2.5, statuses=(1,)),
    ]),
    Scenario(quick=True, steps=[
        Step("ls", "`ls` 10,000 files", "ls {m}/many", 0.3),
        Step("ls-l", "`ls -l` the same again", "ls -l {m}/many", 0.05),
    ]),
    Scenario([Step("ls-100k", "`ls -f` 100,000 files", "ls -f {m}/flat100k", 1)]),
    Scenario([Step("ls-1m", "`ls -f` 1,000,000 files", "ls -f {m}/flat1m", 8)]),
    Scenario(sources=TREE_IN, steps=[
        Step("cp", "`cp -r` 200 files of 20 KB in, durable at each close", "cp -r {w}/in {m}/in", 8),
        Step("rm", "`rm -r` them", "rm -r {m}/in", 0.3),
    ]),
    Scenario(sources=TREE_IN, pailfs_options=("write-back",), beside=("rclone",), steps=[
        Step("cp-back", "`cp -r` 200 files of 20 KB in, `--write-back`", "cp -r {w}/in {m}/in", 0.3),
    ]),
    Scenario(sources=TREE_IN, pailfs_options=("write-back",), steps=[
        Step("cp-sync", "… until S3 has them all", "cp -r {w}/in {m}/in && sync {m}", 1.5),
    ]),
    Scenario(archive=(5000, 292, True), pailfs_options=("write-back", "attrs=meta"), beside=("rclone",), steps=[
        Step("untar", "`tar xf` of 5,000 files in 292 directories, `--write-back --attrs meta`", "tar xf {w}/tree.tar -C {m}", None),
    ]),
    Scenario(archive=(20_000, 1000, False), pailfs_options=("write-back", "attrs=meta"), steps=[
        Step("untar-mixed", "… of 20,000 files in 1,000 directories, in no order", "tar xf {w}/tree.tar -C {m}", None),
    ]),
    Scenario([Step("rm-10k", "`rm -r` 10,000 files", "rm -r {m}/many", 3)]),
    Scenario(sources=[("half", "written", "512MiB")], steps=[
        Step("write", "write 512 MiB, sequential", dd("{w}/half", "of={m}/written"), 1.5),
        Step("edit", "1 KiB edit inside that file",
             "dd if={w}/half of={m}/written bs=1K count=1 seek=262144 conv=notrunc status=none", 0.3),
        Step("mv", "`mv` of that file", "mv {m}/written {m}/moved", 0.2),
    ]),
    Scenario(quick=True, steps=[Step("read", "read 1 GiB, sequential", dd("{m}/big", "of=/dev/null"), 1.1)]),
    Scenario(quick=True, steps=[
        Step("random", "100 random 4 KiB reads of 1 GiB", READ_RANDOM, 2.3, own_clock=True),
    ]),
]
WITHOUT_LATENCY = [
    Scenario(quick=True, steps=[
        Step("read-fast", "sequential read, one stream", dd("{m}/big", "of=/dev/null"), 1.4, gib=1,
             cpu_budget=0.8, memory_budget=160),
    ]),
    Scenario(quick=True, sources=[("whole", "written", "1GiB")], checks=[("written", "written")], steps=[
        Step("write-fast", "sequential write, one stream", dd("{w}/whole", "of={m}/written"), 0.8, gib=1,
             cpu_budget=1.8),
    ]),
    Scenario(sources=[("whole", "written", "1GiB")], pailfs_options=("unsigned-payload",), steps=[
        Step("write-unsigned", "… with `--unsigned-payload`, as over TLS", dd("{w}/whole", "of={m}/written"), 1.0, gib=1,
             cpu_budget=1.1),
    ]),
    Scenario(checks=[("readers/f07", "readers/f07")], steps=[
        Step("readers", "32 readers at once of 64 MiB each",
             "ls {m}/readers | xargs -P 32 -I NAME dd if={m}/readers/NAME of=/dev/null bs=1M status=none", 1.4, gib=2),
    ]),
]
# What the commands are made of: run once before measuring, since dropping caches drops programs too.
TOOLS = ["cat", "find", "du", "grep", "ls", "cp", "rm", "dd", "mv", "xargs", "sync", "tar"]
