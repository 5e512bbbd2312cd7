#!/bin/sh
# Sets up the toolchain that compiles guests to wasm32-wasip1, and prints the environment to use it.
#
#     eval "$(images/toolchain.sh)"        # progress on stderr, shell assignments on stdout
#     "$CARGO" build --release --locked    # target and -Zbuild-std come from the environment
#     ls "$CARGO_TARGET_DIR/wasm32-wasip1/release"   # if the recipe set CARGO_TARGET_DIR
#
# `toolchain.sh --env-file` prints the path of the same text as a file, and
# `toolchain.sh --key` the key of the toolchain (a hash; nothing is set up).
#
# What is exported:
#   CARGO RUSTC RUSTDOC RUSTC_BOOTSTRAP   Debian's, called by path: rustup's may come first in PATH
#   CARGO_BUILD_TARGET CARGO_UNSTABLE_BUILD_STD CARGO_TARGET_WASM32_WASIP1_{LINKER,RUSTFLAGS}
#   CC_wasm32_wasip1 AR_wasm32_wasip1     `zig cc`/`zig ar` wrappers, in the names that the cc crate reads
#   GUEST_CC GUEST_AR GUEST_SYSROOT       the same wrappers and the C library, for recipes without cargo
#
# Where the parts come from, and why not `rustup target add`: builds must work where only the Debian
# archive, PyPI and crates.io are reachable. Debian has a recent compiler and the source of std; its
# wasi-libc is too old (no pthread stubs, no __errno_location), so the C library and the linker are zig's.
#
# The second run costs a few milliseconds. Everything lives under the cache directory; delete it freely.
set -eu

ZIG_VERSION=0.17.1
ZIG_WHEEL_SHA256=ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54
PACKAGES="rustc-web cargo-web rust-web-src python3-venv patch"
RUST_MINIMUM=1.96   # RustPython's parser crates need it; std is built from the same version

say() { printf 'toolchain: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

[ "$(uname -sm)" = "Linux x86_64" ] || die "only Linux on x86-64 is supported"

installed() { dpkg-query -W -f '${Status} ${Version}\n' "$1" 2>/dev/null | sed -n 's/^install ok installed //p'; }

# What apt would install; empty or `(none)` where it knows of nothing.
candidate() { LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p'; }

recent() { [ -n "$1" ] && [ "$1" != "(none)" ] && dpkg --compare-versions "$1" ge "$RUST_MINIMUM"; }

packages_stand() {
    for package in $PACKAGES; do
        [ -n "$(installed "$package")" ] || return 1
    done
    recent "$(installed rustc-web)"
}

install_packages() {
    ! packages_stand || return 0
    command -v apt-get >/dev/null || die "needs these Debian packages: $PACKAGES (rustc-web $RUST_MINIMUM or newer)"
    [ "$(id -u)" = 0 ] || die "needs root once: apt-get install --no-install-recommends $PACKAGES"
    # The lists of a fresh machine may be missing, or as old as its image and name an older compiler.
    recent "$(candidate rustc-web)" || apt-get update -q >&2
    say "installing $PACKAGES"
    # shellcheck disable=SC2086  # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $PACKAGES >&2 || {
        apt-get update -q >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $PACKAGES >&2
    }
}

# The binary of a package, by its file list: the name in /usr/bin has differed between Debian releases.
binary_of() {
    dpkg -L "$1" | grep -E "^/usr/bin/$2(-web)?\$" | head -n 1
}

check_rust() {
    cargo=$(binary_of cargo-web cargo); rustc=$(binary_of rustc-web rustc); rustdoc=$(binary_of rustc-web rustdoc)
    [ -x "$cargo" ] && [ -x "$rustc" ] || die "cargo-web or rustc-web holds no binary in /usr/bin"
    version=$("$rustc" --version | cut -d' ' -f2)
    [ "$(printf '%s\n%s\n' "$RUST_MINIMUM" "$version" | sort -V | head -n 1)" = "$RUST_MINIMUM" ] ||
        die "$rustc is $version, needs at least $RUST_MINIMUM (enable bookworm-security, then apt-get update)"
}

install_zig() {
    say "fetching zig $ZIG_VERSION from PyPI"
    # Debian's own interpreter, by path: another python3 may come first in PATH and lack venv.
    /usr/bin/python3 -m venv "$dir/venv"
    printf 'ziglang==%s --hash=sha256:%s\n' "$ZIG_VERSION" "$ZIG_WHEEL_SHA256" > "$dir/requirements.txt"
    "$dir/venv/bin/pip" install -q --disable-pip-version-check --no-compile --require-hashes \
        --only-binary :all: --target "$dir/zig" -r "$dir/requirements.txt" >&2
    rm -rf "$dir/venv"
}

# zig compiles its C library on demand into its cache: link an empty reactor, then take the archives.
make_sysroot() {
    say "building the C library"
    mkdir -p "$dir/sysroot" "$dir/empty"
    : > "$dir/empty/empty.c"
    (cd "$dir/empty" && "$dir/bin/guest-cc" -O3 -g0 -mexec-model=reactor -o empty.wasm empty.c)
    for part in libc.a libzigc.a libcompiler_rt.a crt1-reactor.o; do
        found=$(find "$dir/zig-cache" -name "$part" -type f | head -n 1)   # copies, if any, are equal
        [ -n "$found" ] || die "zig made no $part"
        cp "$found" "$dir/sysroot/$part"
    done
    rm -rf "$dir/empty"
}

wrapper() {
    cat > "$dir/bin/$1"
    chmod 755 "$dir/bin/$1"
}

make_wrappers() {
    mkdir -p "$dir/bin"
    zig="$dir/zig/ziglang/zig"
    caches="export ZIG_GLOBAL_CACHE_DIR='$dir/zig-cache' ZIG_LOCAL_CACHE_DIR='$dir/zig-cache'"
    # rustc says `-flavor wasm` first, which zig does not take.
    wrapper guest-ld <<EOT
#!/bin/sh
[ "\$1" = "-flavor" ] && shift 2
$caches
exec '$zig' wasm-ld "\$@"
EOT
    # The cc crate passes clang's name of the target, which zig spells differently: drop it.
    wrapper guest-cc <<EOT
#!/bin/sh
for arg do
    shift
    case "\$arg" in --target=*) ;; *) set -- "\$@" "\$arg" ;; esac
done
$caches
exec '$zig' cc -target wasm32-wasi "\$@"
EOT
    wrapper guest-ar <<EOT
#!/bin/sh
$caches
exec '$zig' ar "\$@"
EOT
}

# 8 MiB of shadow stack: interpreters recurse. The stack pointer is exported because the host calls
# `interrupt` in the middle of `execute` and must move it to a free part first (see README.md).
# std is built for SIMD too: memchr, hashing and copying in the guests gain, and every host has it. It is built without
# its features: a guest neither unwinds nor reads debug information.
# Macros and build scripts run once: what profiles say of a crate by its name is meant for the guest.
write_env() {
    flags="-C link-self-contained=no -C linker-flavor=wasm-ld -C target-feature=+simd128"
    for arg in "-L$dir/sysroot" "$dir/sysroot/crt1-reactor.o" -lc -lzigc -lcompiler_rt \
        -zstack-size=8388608 --export=__stack_pointer; do
        flags="$flags -C link-arg=$arg"
    done
    flags="$flags --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    cat > "$dir/toolchain.env" <<EOT
unset RUSTUP_TOOLCHAIN RUSTUP_HOME RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS
export GUEST_TOOLCHAIN='$key'
export CARGO='$cargo' RUSTC='$rustc' RUSTDOC='$rustdoc' RUSTC_BOOTSTRAP=1
export CARGO_BUILD_TARGET=wasm32-wasip1 CARGO_UNSTABLE_BUILD_STD=std,panic_abort CARGO_UNSTABLE_BUILD_STD_FEATURES=
export CARGO_UNSTABLE_TARGET_APPLIES_TO_HOST=true CARGO_UNSTABLE_HOST_CONFIG=true
export CARGO_TARGET_APPLIES_TO_HOST=false CARGO_HOST_RUSTFLAGS='-C opt-level=0'
export CARGO_TARGET_WASM32_WASIP1_LINKER='$dir/bin/guest-ld'
export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS='$flags'
export CC_wasm32_wasip1='$dir/bin/guest-cc' AR_wasm32_wasip1='$dir/bin/guest-ar'
export CFLAGS_wasm32_wasip1='-O3 -msimd128 -fno-sanitize=undefined'
export GUEST_CC='$dir/bin/guest-cc' GUEST_AR='$dir/bin/guest-ar' GUEST_SYSROOT='$dir/sysroot'
EOT
}

toolchain_key() {
    { cat "$0"; printf 'rustc-web %s\n' "$(installed rustc-web)"; } | sha256sum | cut -c1-16
}

set_up() {
    exec 9> "$base/lock"
    flock 9   # two recipes may start at the same time
    [ ! -e "$dir/ready" ] || return 0
    rm -rf "$dir"
    mkdir -p "$dir"
    install_zig
    make_wrappers
    make_sysroot
    write_env
    : > "$dir/ready"
    say "ready: $dir"
}

install_packages
base="${XDG_CACHE_HOME:-$HOME/.cache}/anchorhold/toolchain"
key=$(toolchain_key)
dir="$base/$key"
[ "${1:-}" != "--key" ] || { echo "$key"; exit 0; }
if [ ! -e "$dir/ready" ]; then
    check_rust
    mkdir -p "$base"
    set_up
fi
case "${1:-}" in
    "") cat "$dir/toolchain.env" ;;
    --env-file) echo "$dir/toolchain.env" ;;
    *) die "unknown argument $1: see the top of this file" ;;
esac
