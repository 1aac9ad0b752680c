# What the scripts share: installing what is missing, and a local S3 server to talk to.
# Sourced, never run. Everything comes from Debian's, PyPI's and crates.io's registries.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${PAILFS_TEST_VENV:-$root/.venv}

say() { printf '\n=== %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }
die() {
    printf '%s: %s\n' "scripts/$(basename "$0")" "$*" >&2
    exit 1
}

# python3 may be a shim of pyenv without a Python behind it, or Debian's without venv.
python_with_venv() {
    local python
    for python in python3 /usr/bin/python3; do
        if "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
            echo "$python"
            return 0
        fi
    done
    return 1
}

# Debian packages: what mounting, building and testing need.
ensure_packages() {
    local missing=()
    have fusermount3 || missing+=(fuse3)
    have cc || missing+=(build-essential)
    have getfattr || missing+=(attr)
    have curl || missing+=(curl)
    have git || missing+=(git)
    have fio || missing+=(fio)
    have rsync || missing+=(rsync)
    have vim || missing+=(vim)
    have patch || missing+=(patch)
    have make || missing+=(make)
    if [[ -z ${PAILFS_TEST_VENV:-} ]] && ! python_with_venv >/dev/null; then
        missing+=(python3 python3-venv)
    fi
    if ! have cargo && [[ ! -x $HOME/.cargo/bin/cargo ]]; then
        missing+=(rustup)
    fi
    if ((${#missing[@]} == 0)); then
        return 0
    fi
    if ((EUID != 0)) || ! have apt-get; then
        die "missing: ${missing[*]}. Install them (Debian: sudo apt-get install ${missing[*]}) and start again."
    fi
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        die "cannot install ${missing[*]}; where Debian has no package rustup, see https://rustup.rs"
}

ensure_fuse() {
    [[ -e /dev/fuse ]] || die "/dev/fuse is missing: mounting needs it. Load the module \
(modprobe fuse), or start the container with --device /dev/fuse --cap-add SYS_ADMIN."
    [[ -r /dev/fuse && -w /dev/fuse ]] || die "/dev/fuse may not be opened by $(id -un): run as root, \
or let this user use it."
}

# The compiler that Cargo.toml asks for, and the given components of it.
ensure_rust() {
    have cargo || PATH="$HOME/.cargo/bin:$PATH"
    local wanted found component
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    if ! rustc --version >/dev/null 2>&1 && have rustup; then
        rustup toolchain install "$wanted" --profile minimal && rustup default "$wanted"
    fi
    have cargo || die "cargo is missing: install Rust $wanted or later, see https://rustup.rs"
    found=$(rustc --version | cut -d' ' -f2)
    if [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1) != "$wanted" ]]; then
        die "rustc $found is too old: $wanted or later is needed (rustup update stable)"
    fi
    for component in "$@"; do
        cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component" ||
            die "the Rust component $component is missing and rustup cannot add it"
    done
}

# The Python packages that bring the test servers and clients, in versions that do not change. The stamp
# tells which list the environment was made from.
ensure_venv() {
    if [[ -n ${PAILFS_TEST_VENV:-} ]]; then
        [[ -x $venv/bin/weed ]] || die "PAILFS_TEST_VENV=$venv has no bin/weed"
        return 0
    fi
    local list=$root/scripts/requirements.txt stamp=$venv/requirements.installed python
    if cmp -s "$list" "$stamp" && "$venv/bin/python3" -c '' 2>/dev/null; then
        return 0
    fi
    python=$(python_with_venv) || die "no python3 with venv and ensurepip (Debian: apt-get install python3-venv)"
    say "installing test servers and clients into $venv"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check --retries 5 -r "$list"
    cp "$list" "$stamp"
}

# ensure_crate NAME VERSION: a program that exercises file systems, in .tools.
ensure_crate() {
    [[ $("$root/.tools/bin/$1" --version 2>/dev/null) == "$1 $2" ]] && return 0
    say "installing $1 into $root/.tools"
    cargo install --quiet --locked --version "$2" --root "$root/.tools" "$1"
}

# start_seaweedfs DIR: starts a server with its data in DIR on free ports of 127.0.0.1; sets
# $endpoint, $server_pid and the AWS environment.
start_seaweedfs() {
    local data=$1 master volume filer s3
    export AWS_ACCESS_KEY_ID=demo AWS_SECRET_ACCESS_KEY=demo-secret AWS_REGION=us-east-1
    export AWS_EC2_METADATA_DISABLED=true
    cat >"$data/s3.json" <<JSON
{"identities":[{"name":"demo","credentials":[{"accessKey":"$AWS_ACCESS_KEY_ID","secretKey":"$AWS_SECRET_ACCESS_KEY"}],
 "actions":["Admin","Read","Write","List","Tagging"]}]}
JSON
    read -r master volume filer s3 < <("$venv/bin/python3" "$root/scripts/free_ports.py" 4)
    # Telemetry off; the Iceberg and Lance ports off and the sockets here, for they are fixed otherwise
    # and a second server would not start.
    # By default it refuses every write on a disk with less than a hundredth free.
    nohup "$venv/bin/weed" -logtostderr=true server -dir="$data" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
        -master.port="$master" -volume.port="$volume" -filer.port="$filer" \
        -master.volumeSizeLimitMB=1024 -volume.max=100 -volume.minFreeSpace=64MiB -master.telemetry=false \
        -s3 -s3.port="$s3" -s3.config="$data/s3.json" -s3.port.iceberg=0 -s3.port.lance=0 \
        -filer.localSocket="$data/filer.sock" -s3.localSocket="$data/s3.sock" >"$data/weed.log" 2>&1 &
    server_pid=$!
    endpoint=http://127.0.0.1:$s3
    for _ in $(seq 100); do
        "$venv/bin/aws" --endpoint-url "$endpoint" s3api list-buckets >/dev/null 2>&1 && return
        kill -0 "$server_pid" 2>/dev/null || break
        sleep 0.2
    done
    tail -n 20 "$data/weed.log" >&2
    die "SeaweedFS does not answer at $endpoint; above, the end of its log"
}
