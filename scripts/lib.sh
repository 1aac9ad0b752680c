# What the scripts share: installing what is missing, and a local S3 server to talk to.
# Sourced, never run. Everything is installed from Debian's, PyPI's and crates.io's registries.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${PAILFS_TEST_VENV:-$root/.venv}

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# apt_install COMMAND PACKAGE...: installs the packages where the command is missing.
apt_install() {
    local command=$1
    shift
    command -v "$command" >/dev/null && return
    [ "$(id -u)" = 0 ] || die "'$command' is missing: run 'sudo apt-get install $*' and try again"
    say "installing $*"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# What building and mounting need.
ensure_system() {
    apt_install fusermount3 fuse3
    apt_install cc gcc libc6-dev
    apt_install curl curl ca-certificates
    [ -e /dev/fuse ] || die "/dev/fuse is missing: run 'modprobe fuse', or give the container --device /dev/fuse --cap-add SYS_ADMIN"
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH=$HOME/.cargo/bin:$PATH
    fi
    command -v cargo >/dev/null || install_rust
}

install_rust() {
    apt_install rustup rustup 2>/dev/null || true
    command -v rustup >/dev/null || die "Rust is missing: install it from https://rustup.rs and try again"
    rustup toolchain install 1.95 --profile minimal --component clippy,rustfmt
}

# The Python packages that bring the test servers and clients, in versions that do not change.
ensure_venv() {
    local wanted=$root/scripts/requirements.txt
    if ! cmp -s "$wanted" "$venv/installed.txt"; then
        apt_install python3 python3 python3-venv
        python3 -m venv --help >/dev/null 2>&1 && python3 -c 'import ensurepip' 2>/dev/null ||
            { apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null; }
        say "installing test servers into $venv"
        [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
        "$venv/bin/pip" install -q --disable-pip-version-check -r "$wanted"
        cp "$wanted" "$venv/installed.txt"
    fi
}

# start_seaweedfs DIR: starts a server with its data in DIR on free ports of 127.0.0.1; sets
# $endpoint, $server_pid and the AWS environment.
start_seaweedfs() {
    local data=$1
    export AWS_ACCESS_KEY_ID=demo AWS_SECRET_ACCESS_KEY=demo-secret AWS_REGION=us-east-1
    cat >"$data/s3.json" <<JSON
{"identities":[{"name":"demo","credentials":[{"accessKey":"$AWS_ACCESS_KEY_ID","secretKey":"$AWS_SECRET_ACCESS_KEY"}],
 "actions":["Admin","Read","Write","List","Tagging"]}]}
JSON
    local master volume filer s3
    read -r master volume filer s3 < <("$venv/bin/python" "$root/scripts/free_ports.py" 4)
    nohup "$venv/bin/weed" server -dir="$data" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
        -master.port="$master" -volume.port="$volume" -filer.port="$filer" \
        -master.volumeSizeLimitMB=1024 -volume.max=100 \
        -s3 -s3.port="$s3" -s3.config="$data/s3.json" >"$data/weed.log" 2>&1 &
    server_pid=$!
    endpoint=http://127.0.0.1:$s3
    for _ in $(seq 300); do
        "$venv/bin/aws" --endpoint-url "$endpoint" s3api list-buckets >/dev/null 2>&1 && return
        kill -0 "$server_pid" 2>/dev/null || die "the server ended: see $data/weed.log"
        sleep 0.2
    done
    die "the server does not answer at $endpoint: see $data/weed.log"
}
