"""Real programs, each run the same way in a directory on a mount and in one on a local disk, whose trees must then be
the same. For tests/mount_programs.rs: programs.py WHAT ON_THE_MOUNT ON_A_LOCAL_DISK SIZE ATTRIBUTES
With SIZE 0 nothing is run, and what an earlier run left is compared.
"""

import hashlib, os, random, shutil, sqlite3, stat, subprocess, sys, tarfile, time, zipfile

GIT = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "pack.threads", "GIT_CONFIG_VALUE_0": "1",
       "GIT_CONFIG_KEY_1": "core.fsync", "GIT_CONFIG_VALUE_1": "all"}
for who in "AUTHOR", "COMMITTER":
    GIT |= {f"GIT_{who}_NAME": "a", f"GIT_{who}_EMAIL": "a@b", f"GIT_{who}_DATE": "2026-01-01T00:00:00Z"}


def run(*args, **more):
    """A program that must succeed and complain of nothing."""
    said = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    assert said.returncode == 0, f"{args} in {os.getcwd()}: {said.returncode}\n{said.stdout}"
    return said.stdout


def some_bytes(seed, size):
    return random.Random(seed).randbytes(size)


def write(path, data):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)


def tree(dir, attributes):
    """By path: kind, size and a digest; and mode and time, where they are kept."""
    seen = {}
    for at, dirs, files in os.walk(dir):
        for name in dirs + files:
            path = os.path.join(at, name)
            told = os.lstat(path)
            what = [stat.S_IFMT(told.st_mode)]
            if stat.S_ISREG(told.st_mode):
                with open(path, "rb") as f:
                    what += [told.st_size, hashlib.sha256(f.read()).hexdigest()]
            elif stat.S_ISLNK(told.st_mode):
                what += [os.readlink(path)]
            if attributes == "kept":
                what += [oct(told.st_mode)]
            seen[os.path.relpath(path, dir)] = what
    return seen


# Each of these runs in an empty directory; `other` is one on a local disk, the same for both.


def git(size, other):
    """Clone, commit, gc and fsck. A clone over git's own protocol writes a pack, reads it back and changes its header."""
    os.environ |= GIT | {"HOME": other}
    source = os.path.join(other, "source")
    if not os.path.exists(source):
        run("git", "init", "-q", source)
        for n in range(size):
            write(f"{source}/d{n % 17}/f{n}", some_bytes(n, 100 + n))
        run("git", "add", ".", cwd=source)
        run("git", "commit", "-qm", "one", cwd=source)
    run("git", "clone", "-q", f"file://{source}", "clone")
    os.chdir("clone")
    for n in range(0, size, 10):
        write(f"d{n % 17}/f{n}", b"changed")
    os.rename("d1", "e1")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "two")
    run("git", "checkout", "-q", "HEAD~1")
    run("git", "checkout", "-q", "-")
    run("git", "gc", "-q", "--prune=now")
    run("git", "fsck", "--strict")
    assert run("git", "log", "--oneline").count("\n") == 2
    assert run("git", "status", "--porcelain") == ""
    os.remove(".git/index")  # inode numbers and times


def sqlite(size, other):
    """Transactions with a rollback journal."""
    for mode in "delete", "truncate", "persist":
        db = sqlite3.connect("db")
        db.execute(f"pragma journal_mode = {mode}")
        db.execute("create table if not exists t (n integer primary key, text)")
        for n in range(size // 3):
            db.execute("insert into t (text) values (?)", (f"{mode} {n} " * 30,))
            db.commit()
        db.execute("update t set text = 'rolled back'")
        db.rollback()
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        db.close()
    db = sqlite3.connect("db")
    assert db.execute("select count(*) from t").fetchone() == (size // 3 * 3,)
    db.execute("delete from t where n % 2 = 0")
    db.commit()
    db.execute("vacuum")
    db.close()


def make(size, other):
    """A program of many files, built by many at a time, changed and built again."""
    write("Makefile", b"OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\nCFLAGS := -O0 -MMD\n"
          b"prog: $(OBJECTS)\n\t$(CC) -o $@ $^\nlib.a: $(OBJECTS)\n\t$(AR) rcD $@ $^\n-include *.d\n")
    for n in range(size):
        write(f"f{n}.h", b"int f%d(void);\n" % n)
        write(f"f{n}.c", b'#include "f%d.h"\nint f%d(void) { return %d; }\n' % (n, n, n))
    calls = b" + ".join(b"f%d()" % n for n in range(size))
    includes = b"".join(b'#include "f%d.h"\n' % n for n in range(size))
    write("main.c", includes + b"#include <stdio.h>\nint main(void) { printf(\"%d\\n\", " + calls + b"); }\n")
    run("make", "-s", "-j8", "prog", "lib.a")
    assert run("./prog") == f"{sum(range(size))}\n"
    time.sleep(1.1)  # a file's time is in whole seconds once S3 tells it
    write("f0.c", b'#include "f0.h"\nint f0(void) { return 1000; }\n')
    assert "f0" in run("make", "-j8", "prog")
    assert run("./prog") == f"{sum(range(size)) + 1000}\n"
    assert run("make", "-s", "-q", "prog") == ""


def edit(size, other):
    """What editors and small tools do to a file: in its place, beside it and over it, at its end."""
    write("text", b"".join(b"line %d\n" % n for n in range(size)))
    run("sed", "-i", "s/line 7/LINE 7/", "text")
    shutil.copy("text", "vimmed")
    for command in "backup", "nobackup", "backupcopy=yes", "backupcopy=no":
        run("vim", "-es", "-u", "NONE", "-i", "NONE", "-c", f"set {command}", "-c", "normal ggOnew", "-c", "wq", "vimmed")
    assert open("vimmed").read().startswith("new\n" * 4)
    with open("text.tmp", "w") as f:
        f.write("replaced")
        f.flush()
        os.fsync(f.fileno())
    os.replace("text.tmp", "replaced")
    os.replace("replaced", "text")
    write("image", some_bytes(1, 3_000_000))
    run("dd", "if=text", "of=image", "conv=notrunc", "bs=4k", "seek=300", "status=none")
    run("dd", "if=image", "of=image.2", "bs=64k", "conv=sparse", "status=none")
    run("truncate", "-s", "1500000", "image.2")
    run("truncate", "-s", "+10000", "image.2")
    for n in range(3):
        with zipfile.ZipFile("z.zip", "a") as z:
            z.writestr(zipfile.ZipInfo(f"f{n}"), some_bytes(n, 100_000))
    with zipfile.ZipFile("z.zip") as z:
        assert z.testzip() is None and len(z.namelist()) == 3
    run("sh", "-c", "for n in 1 2 3; do echo $n >>log; done; sort -r -o log log; tac log | tee -a log >/dev/null")
    run("sh", "-c", "mkdir -p a/b && cp text a/b/ && mv a c && cp -r c d && rm -r c")
    run("split", "-b", "1000000", "image", "part.")
    run("sh", "-c", "cat part.* | cmp - image && gzip -n part.aa && gzip -t part.aa.gz && gunzip part.aa.gz")
    run("patch", "-s", "text", input="--- text\n+++ text\n@@ -1 +1 @@\n-replaced\n\\ No newline at end of file\n+patched\n")


def source_tree(other, size):
    """A tree with modes, times and links."""
    source = os.path.join(other, "tree")
    if not os.path.exists(source):
        for n in range(size):
            path = f"{source}/d{n % 5}/e{n % 7}/f{n}"
            write(path, some_bytes(n, n * 31))
            os.chmod(path, 0o640 if n % 2 else 0o755)
            os.utime(path, ns=(1_600_000_000_123_456_789 + n, 1_600_000_000_123_456_789 + n))
        os.symlink("f0", f"{source}/d0/e0/link")
        os.utime(f"{source}/d0/e0/link", ns=(1, 1_550_000_000_000_000_001), follow_symlinks=False)
        os.mkdir(f"{source}/empty", 0o700)
        for at, dirs, _ in os.walk(source, topdown=False):
            os.utime(at, ns=(1_500_000_000_000_000_000, 1_500_000_000_000_000_000))
    return source


def same_times(a, b):
    for at, dirs, files in os.walk(a):
        for name in dirs + files:
            path = os.path.join(at, name)
            there = os.lstat(os.path.join(b, os.path.relpath(path, a)))
            assert os.lstat(path).st_mtime_ns == there.st_mtime_ns, path


def copies(size, other):
    """Trees in and out: rsync -a, whose second run finds nothing to do; tar; cp -a."""
    source = source_tree(other, size)
    run("rsync", "-a", f"{source}/", "synced/")
    assert run("rsync", "-ai", f"{source}/", "synced/") == "", "the second run transfers nothing"
    same_times(source, "synced")
    run("rsync", "-a", "--checksum", "--inplace", "--delete", f"{source}/d0/", "synced/")
    pax = "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"
    run("tar", "cf", f"{other}/in.tar", "--sort=name", "--format=posix", pax, "-C", source, ".")
    os.mkdir("untarred")
    run("tar", "xf", f"{other}/in.tar", "-C", "untarred")
    same_times(source, "untarred")
    run("tar", "cf", "out.tar", "--sort=name", "--format=posix", pax, "-C", "untarred", ".")
    with open("out.tar", "rb") as mine, open(f"{other}/in.tar", "rb") as theirs:
        assert mine.read() == theirs.read()
    run("cp", "-a", "untarred", "copied")
    same_times(source, "copied")


def contents(size, other):
    """As `copies`, where attributes are not kept."""
    source = source_tree(other, size)
    rsync = ["rsync", "-ri", "--size-only", "--chmod=D755,F644"]
    assert run(*rsync, f"{source}/", "synced/").count(">f") == size
    assert ">f" not in run(*rsync, f"{source}/", "synced/"), "the second run transfers nothing"
    run("rsync", "-r", "--chmod=D755,F644", "--checksum", "--inplace", "--delete", f"{source}/d0/", "synced/")
    run("tar", "cf", f"{other}/in.tar", "--sort=name", "--exclude=link", "-C", source, ".")
    os.mkdir("untarred")
    run("tar", "xf", f"{other}/in.tar", "-C", "untarred", "--touch", "--no-same-permissions", "--no-same-owner")
    run("tar", "cf", "out.tar", "--sort=name", "--mtime=@0", "--mode=0600", "--owner=0", "--group=0", "-C", "untarred", ".")
    run("cp", "-r", "untarred", "copied")


def main():
    what, mounted, local, size, attributes = sys.argv[1:]
    os.umask(0o022)
    trees = []
    for place in mounted, local:
        dir = os.path.join(place, what)
        if int(size):
            os.mkdir(dir)
            os.chdir(dir)
            begun = time.monotonic()
            globals()[what](int(size), local)
            print(f"{what} in {place}: {time.monotonic() - begun:.1f} s")
            os.chdir("/")
        trees.append(tree(dir, attributes))
    mine, theirs = trees
    differs = sorted(path for path in mine | theirs if mine.get(path) != theirs.get(path))
    assert not differs, "\n".join(f"{path}: {mine.get(path)}, on a local disk {theirs.get(path)}" for path in differs)


main()
