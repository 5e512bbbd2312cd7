#!/bin/sh
# Installs what this project needs from Debian, if it is missing. The guest toolchain has its own: images/toolchain.sh.
set -eu

fail() { echo "setup: $*" >&2; exit 1; }

[ "$(uname -s)-$(uname -m)" = "Linux-x86_64" ] || fail "anchorhold runs on Linux on x86-64"
[ "$(id -u)" = 0 ] || fail "run as root: cells are made of namespaces and control groups"
command -v cargo >/dev/null || fail "install Rust first (rustup.rs); rust-toolchain.toml names the version"

missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need cc gcc
need curl curl
need git git
need python3 python3
need ip iproute2
/usr/bin/python3 -c "import ensurepip" 2>/dev/null || missing="$missing python3-venv"
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
[ -z "$missing" ] && exit 0

command -v apt-get >/dev/null || fail "install by hand:$missing"
echo "setup: installing$missing"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
