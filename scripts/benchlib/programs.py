"""The programs that mount: how each is started and ended, and what its processes cost.

Each runs with its own defaults. Only what it needs to find the server, and to be allowed all rows, is set.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

from benchlib.model import BUCKET

PEERS = ["mount-s3", "s3fs", "rclone", "goofys", "geesefs"]
KEY, SECRET = "bench", "bench-secret"


class MountFailed(Exception):
    """The program does not mount; the text is what it said."""


def command_of(name, url, directory, work, pailfs, options):
    """The command line that mounts in the foreground."""
    if name == "pailfs":
        extra = [word for option in options for word in ("-o", option)]
        local = ["--log-level", "error", "--staging", work / "staging"]
        return [pailfs, "mount", "--foreground", *local, "--endpoint-url", url, *extra, BUCKET, directory]
    if name == "mount-s3":
        rights = ["--allow-delete", "--allow-overwrite"]
        return [name, "--foreground", "--force-path-style", "--region", "us-east-1", "--endpoint-url", url, *rights, BUCKET, directory]
    if name == "s3fs":
        passwd = work / "passwd-s3fs"
        passwd.write_text(f"{KEY}:{SECRET}\n")
        passwd.chmod(0o600)
        return [name, BUCKET, directory, "-f", "-o", f"url={url},use_path_request_style,passwd_file={passwd}"]
    if name == "rclone":
        remote = f":s3,provider=Other,env_auth=true,endpoint='{url}':{BUCKET}"
        return [name, "mount", remote, directory, "--vfs-cache-mode", "writes", "--cache-dir", work / "rclone-cache"]
    if name == "goofys":
        return [name, "-f", "--endpoint", url, "--region", "us-east-1", BUCKET, directory]
    if name == "geesefs":
        return [name, "-f", "--endpoint", url, "--region", "us-east-1", BUCKET, directory]
    raise SystemExit(f"no such program: {name}; expected pailfs, {', '.join(PEERS)}")


def installed(name):
    return name == "pailfs" or shutil.which(name) is not None


def version(name, pailfs):
    program = pailfs if name == "pailfs" else name
    # rclone's own word is `version`, but it knows the option as well.
    said = subprocess.run([program, "--version"], capture_output=True, text=True)
    lines = (said.stdout + said.stderr).strip().splitlines() or ["?"]
    return lines[0].split(" (")[0]


def environment():
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    # Without AWS_CA_BUNDLE, with which rclone refuses to start; the server here speaks plain HTTP.
    env.update(AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET, AWS_REGION="us-east-1")
    env.update(AWS_EC2_METADATA_DISABLED="true", AWS_CONFIG_FILE="/dev/null", AWS_SHARED_CREDENTIALS_FILE="/dev/null")
    return env


class Mount:
    """One mount of one program, and the processes behind it."""

    def __init__(self, command, directory, log):
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.log = log
        with open(log, "wb") as output:
            self.daemon = subprocess.Popen(command, env=environment(), stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while not os.path.ismount(directory):
            if self.daemon.poll() is not None or time.monotonic() > until:
                self.abandon()
                raise MountFailed(log.read_text(errors="replace").strip()[-300:])
            time.sleep(0.01)

    def pids(self):
        """The daemon and its descendants."""
        children = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(") ", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        found = [self.daemon.pid]
        for pid in found:
            found.extend(children.get(pid, []))
        return found

    def cpu_seconds(self):
        """Of all its processes, and of those that have ended."""
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
            ticks += sum(int(field) for field in fields[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

    def reset_peak(self):
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_mib(self):
        kib = 0
        for pid in self.pids():
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            kib += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        return kib / 1024

    def umount(self):
        """Waits for what is still being sent."""
        until = time.monotonic() + 20
        while os.path.ismount(self.directory) and time.monotonic() < until:
            if subprocess.run(["umount", self.directory], stderr=subprocess.DEVNULL).returncode != 0:
                time.sleep(0.1)
        try:
            self.daemon.wait(max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self.abandon()

    def abandon(self):
        """Ends it whatever it is doing."""
        subprocess.run(["umount", "-l", self.directory], stderr=subprocess.DEVNULL)
        for pid in self.pids() if self.daemon.poll() is None else []:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
        self.daemon.wait()
