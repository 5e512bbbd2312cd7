#!/bin/sh
# Compiles the guest: `build.sh OUT.wasm`. Called by `anchorhold-image build`.
#
# Three crates are built from patched copies, which this script makes in `patched/`:
# from the very archives that crates.io serves (checked by hash) and the files in `patches/`.
set -eu
cd "$(dirname "$0")"
out=${1:?"usage: build.sh OUT.wasm"}

VERSION=0.6.0
XZ=0.4.6-rc.0
SHA256_xz=114e3a14e5bb2d46513305741650595041b7e7e1677aa5c9715a09b7a8da08fd
SHA256_vm=0f5e6290260601ddbba6cbe917df9d24725aa6664f61c5bdc1ba24db9c81f346
TZDATA=2026.6
SHA256_tzdata=0a10eec6e13ef16b627fabed9a5f2ba61a62b1c67f327305f4e7e412a70b4aec
SHA256_codegen=e49dd431654f74e825e6a99f523f6f18dc18e2812106b29d37e018395a38770b

toolchain=$(../toolchain.sh)
eval "$toolchain"
export CARGO_TARGET_DIR="${GUEST_TARGET_DIR:-$PWD/target}"

# Let cargo fetch the archives: a package of no code that depends on the crates.
fetch_archives() {
    mkdir -p patched/fetch
    : > patched/fetch/lib.rs
    cat > patched/fetch/Cargo.toml <<EOT
[package]
name = "fetch"
version = "0.0.0"
[lib]
path = "lib.rs"
[dependencies]
rustpython-vm = { version = "=$VERSION", default-features = false }
rustpython-codegen = "=$VERSION"
xz-sys = "=$XZ"
[workspace]
EOT
    "$CARGO" fetch --quiet --manifest-path patched/fetch/Cargo.toml
}

# unpack_patched CRATE VERSION SHA256
unpack_patched() {
    archive=$(ls "${CARGO_HOME:-$HOME/.cargo}"/registry/cache/*/"$1-$2.crate" | head -n 1)
    echo "$3  $archive" | sha256sum --check --quiet
    tar -xzf "$archive" -C patched
    mv "patched/$1-$2" "patched/$1"
    patch --quiet -d patched -p1 < "patches/$1-$2.patch"
}

# The time zones, as PyPI's tzdata wheel, which is a zip file: the guest embeds it as it is.
fetch_tzdata() {
    /usr/bin/python3 -m venv patched/venv
    printf 'tzdata==%s --hash=sha256:%s\n' "$TZDATA" "$SHA256_tzdata" > patched/requirements.txt
    patched/venv/bin/pip download -q --disable-pip-version-check --no-deps --require-hashes \
        -d patched/wheels -r patched/requirements.txt
    mv patched/wheels/tzdata-*.whl patched/tzdata.zip
    rm -rf patched/venv patched/wheels
}

stamp=$(cat build.sh patches/*.patch | sha256sum)
if [ "$(cat patched/stamp 2>/dev/null)" != "$stamp" ]; then
    rm -rf patched
    fetch_archives
    unpack_patched rustpython-vm "$VERSION" "$SHA256_vm"
    unpack_patched rustpython-codegen "$VERSION" "$SHA256_codegen"
    unpack_patched xz-sys "$XZ" "$SHA256_xz"
    fetch_tzdata
    printf '%s\n' "$stamp" > patched/stamp
fi

"$CARGO" build --release --locked
cp "$CARGO_TARGET_DIR/wasm32-wasip1/release/python_wasm.wasm" "$out"
