"""One program, one scenario, one round: what each step took and what it cost."""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchlib import programs, rows
from benchlib.model import Model, write_content

CHECK_SECONDS_MAX = 60
# How programs and kernels say that they do not do this at all.
REFUSALS = ["not supported", "not permitted", "not implemented", "Invalid argument", "Read-only"]


@dataclass
class Result:
    """Of one step. `failure`: it has no figures, and this is what its cell says."""

    failure: str | None = None
    seconds: float = 0
    counts: dict = field(default_factory=dict)
    cpu_seconds: float = 0
    peak_mib: float = 0


@dataclass
class Setting:
    model_program: str
    pailfs: str
    options: list
    work: Path
    timeout: float


def prepare_sources(scenario, setting):
    """The local files that the scenario copies in, in memory, so that no disk is measured."""
    shutil.rmtree(setting.work / "sources", ignore_errors=True)
    for name, key, size in scenario.sources:
        file = setting.work / "sources" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_content(setting.model_program, key, size, file)
    if scenario.archive:
        (setting.work / "sources").mkdir(exist_ok=True)
        write_archive(setting.work / "sources/tree.tar", *scenario.archive)


def write_archive(to, files, dirs, in_order):
    """A tar of small files, as of source code: the same each time."""
    dice = random.Random(1)
    below = ["src"]
    with tarfile.open(to, "w") as tar:
        def add(path, kind, content=b""):
            entry = tarfile.TarInfo(path)
            entry.type, entry.size, entry.mtime = kind, len(content), 1_700_000_000
            entry.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
            tar.addfile(entry, io.BytesIO(content))

        add("src", tarfile.DIRTYPE)
        for number in range(1, dirs):
            below.append(f"{dice.choice(below)}/d{number}")
            add(below[-1], tarfile.DIRTYPE)
        places = [(dice.choice(below), number) for number in range(files)]
        for place, number in sorted(places) if in_order else places:
            add(f"{place}/f{number}.c", tarfile.REGTYPE, dice.randbytes(min(int(dice.expovariate(1 / 6600)), 200_000)))


def drop_caches():
    if os.geteuid() == 0:
        subprocess.run(["sync"], check=True)
        Path("/proc/sys/vm/drop_caches").write_text("1\n")
    for tool in rows.TOOLS:
        subprocess.run([tool, "--version"], stdout=subprocess.DEVNULL, check=True)


def run_scenario(name, scenario, delays, setting, check):
    """{step id: Result}, of a fresh mount on a fresh server. `check`: whether the bytes are compared after it."""
    options = list(setting.options)
    if name == "pailfs":
        options += scenario.pailfs_options
    elif scenario.pailfs_options and name not in scenario.beside:
        return {step.id: Result("-") for step in scenario.steps}
    directory = setting.work / "mount"
    model = Model(setting.model_program, delays)
    results = {}
    try:
        drop_caches()
        command = programs.command_of(name, model.url, directory, setting.work, setting.pailfs, options)
        try:
            mount = programs.Mount(command, directory, setting.work / "daemon.log")
        except programs.MountFailed as failure:
            print(f"{name} does not mount: {failure}", file=sys.stderr)
            known = any(option in str(failure) for option in scenario.pailfs_options)
            return {step.id: Result("refused" if known else "does not mount") for step in scenario.steps}
        try:
            for step in scenario.steps:
                results[step.id] = run_step(step, mount, model, setting)
                if (results[step.id].failure or "").startswith("over"):
                    break
            else:
                differs = compare(scenario, mount, setting) if check else None
                if differs:
                    results[scenario.steps[-1].id] = Result(differs)
        finally:
            mount.umount()
    finally:
        model.stop()
    return {step.id: results.get(step.id, Result("not reached")) for step in scenario.steps}


def compare(scenario, mount, setting):
    """What a cell says if the files do not hold what they must."""
    for path, key in scenario.checks:
        command = [setting.model_program, "check", mount.directory / path, "--key", key]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, complaint = process.communicate(timeout=CHECK_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            mount.abandon()
            process.kill()
            process.communicate()
            return "not compared"
        if process.returncode != 0:
            print(f"{path}: {complaint.strip()}", file=sys.stderr)
            return "wrong bytes"
    return None


def run_step(step, mount, model, setting):
    words = {"m": mount.directory, "w": setting.work / "sources", "python": sys.executable, "here": Path(__file__).parent}
    command = step.command.format(**words)
    model.reset()
    mount.reset_peak()
    cpu_before = mount.cpu_seconds()
    begun = time.monotonic()
    # In a session of its own, so that all of it can be ended.
    process = subprocess.Popen(
        ["sh", "-c", command], stdout=subprocess.PIPE if step.own_clock else subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )
    try:
        said, complaint = process.communicate(timeout=setting.timeout)
    except subprocess.TimeoutExpired:
        # The mount first: what waits for it cannot be killed.
        mount.abandon()
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Result(f"over {setting.timeout:.0f} s")
    seconds = time.monotonic() - begun
    if mount.daemon.poll() is not None:
        print(f"{step.id}: the daemon ended: {mount.log.read_text(errors='replace')[-300:]}", file=sys.stderr)
        return Result("crashed")
    if process.returncode not in step.statuses:
        print(f"{step.id}: status {process.returncode}: {complaint.strip()[-300:]}", file=sys.stderr)
        return Result("refused" if any(word in complaint for word in REFUSALS) else "failed")
    return Result(
        seconds=float(said) if step.own_clock else seconds,
        counts=model.counts(),
        cpu_seconds=mount.cpu_seconds() - cpu_before,
        peak_mib=mount.peak_mib(),
    )
