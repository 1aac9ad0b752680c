"""Measures pailfs and its peers side by side on a model of S3. Started by scripts/bench.

Every round takes each program in turn; each scenario has a fresh server, a fresh mount and cold caches. The
tables show medians. Figures depend on the machine: compare ratios, not seconds.
"""

import argparse
import dataclasses
import itertools
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchlib import model, programs, report, rows
from benchlib.measure import Result, Setting, prepare_sources, run_scenario

ROOT = Path(__file__).resolve().parent.parent
RELEASE = ROOT / "target/release"
# Of --quick: of a row, and of all until peers are left out of what remains.
QUICK_ROW_SECONDS_MAX = 5
QUICK_PEERS_UNTIL_SECONDS = 120
TABLES = [
    ("With latency: 20 ms to the first byte, 40 ms a LIST, 30 ms a write, 90 MB/s a connection", rows.WITH_LATENCY, model.LATENCY),
    ("Without latency", rows.WITHOUT_LATENCY, model.NO_LATENCY),
]


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ids = [step.id for _, scenarios, _ in TABLES for scenario in scenarios for step in scenario.steps]
    parser.add_argument("--rounds", type=int, default=3, help="medians are shown (default 3; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help=f"the most telling rows, one round, at most {QUICK_ROW_SECONDS_MAX} s a row: under three minutes")
    parser.add_argument("--only", action="append", metavar="ROW", choices=ids, help=f"this row and those before it on its mount; may be repeated: {', '.join(ids)}")
    parser.add_argument("--peers", help=f"separated by commas, `none` for pailfs alone (default: those on PATH of {', '.join(programs.PEERS)})")
    parser.add_argument("--pailfs", default=RELEASE / "pailfs", help="the binary to measure (default: the one just built)")
    parser.add_argument("--pailfs-option", action="append", default=[], metavar="NAME=VALUE", help="given to `pailfs mount -o`; may be repeated")
    parser.add_argument("--timeout", type=float, default=60, help="seconds a row may take (default 60)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/PERFORMANCE.md")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.timeout = 1, QUICK_ROW_SECONDS_MAX
    return args


def chosen(scenarios, args):
    """The scenarios to run, each cut off after the last row that was asked for."""
    for scenario in scenarios:
        steps = scenario.steps
        if args.only:
            last = max((at for at, step in enumerate(steps) if step.id in args.only), default=-1)
            steps = steps[:last + 1]
        elif args.quick and not scenario.quick:
            steps = []
        if steps:
            yield dataclasses.replace(scenario, steps=steps)


def once_more(scenario, name, found):
    """The scenario without what would only use up its time again."""
    def hopeless(step):
        return any((r.failure or "").startswith(("over", "not reached", "does not")) for r in found.get((step.id, name), []))
    return dataclasses.replace(scenario, steps=list(itertools.takewhile(lambda step: not hopeless(step), scenario.steps)))


def measure(scenarios, names, delays, args, setting, begun):
    """{(step id, program): Cell}."""
    found = {}
    for scenario in scenarios:
        prepare_sources(scenario, setting)
        for number in range(args.rounds):
            for name in names:
                again = once_more(scenario, name, found)
                if not again.steps:
                    continue
                late = args.quick and name != "pailfs" and time.monotonic() - begun > QUICK_PEERS_UNTIL_SECONDS
                if late:
                    results = {step.id: Result("no time") for step in again.steps}
                else:
                    results = run_scenario(name, again, delays, setting, check=number == 0 and not args.quick)
                for step_id, result in results.items():
                    found.setdefault((step_id, name), []).append(result)
                    told = result.failure or f"{result.seconds:.2f} s"
                    print(f"{step_id:12} {name:10} {told}", file=sys.stderr)
    steps = {step.id: step for scenario in scenarios for step in scenario.steps}
    return {(step_id, name): report.Cell(steps[step_id], results) for (step_id, name), results in found.items()}


def machine(names, args):
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    versions = [programs.version(name, args.pailfs) for name in names]
    return (f"{time.strftime('%Y-%m-%d')}, {len(os.sched_getaffinity(0))} cores, {memory_gib:.0f} GiB, kernel "
            f"{platform.release()}, server and client on the same machine; commit {commit or '?'}; {'; '.join(versions)}. "
            f"Medians of {args.rounds}.")


def main():
    args = arguments()
    wanted = programs.PEERS if args.peers is None else [p for p in args.peers.split(",") if p not in ("", "none")]
    missing = [name for name in wanted if not programs.installed(name)]
    names = ["pailfs"] + [name for name in wanted if name not in missing and name != "pailfs"]
    begun = time.monotonic()
    # In memory where there is room: what is copied in must not come from a disk.
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    work = Path(tempfile.mkdtemp(prefix="pailfs-bench.", dir=shm))
    setting = Setting(str(RELEASE / "examples/model_s3"), str(args.pailfs), args.pailfs_option, work, args.timeout)
    shown = ["scripts/bench", *sys.argv[1:]]
    out = [f"`{shlex.join(word for word in shown if word != '--write')}`, {machine(names, args)}"]
    if missing:
        out.append(f"Not on PATH, so not measured: {', '.join(missing)}.")
    try:
        for title, scenarios, delays in TABLES:
            scenarios = list(chosen(scenarios, args))
            if not scenarios:
                continue
            cells = measure(scenarios, names, delays, args, setting, begun)
            steps = [step for scenario in scenarios for step in scenario.steps]
            out += [f"\n### {title}\n", *report.table(steps, names, cells)]
            out += ["\nEvery figure:\n", *report.details(steps, names, cells)]
    finally:
        # Never through a mount that could not be ended.
        if not os.path.ismount(work / "mount"):
            shutil.rmtree(work, ignore_errors=True)
    text = "\n".join(out)
    print(text)
    print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)
    if args.write:
        document = ROOT / "docs/PERFORMANCE.md"
        document.write_text(report.rewrite(document.read_text(), text))


main()
