#!/bin/sh
# Compiles the guest to the file named by the first argument. Keeps its target directory in $GUEST_TARGET_DIR.
#
# Three crates of Boa are built from patched copies, which this script makes in `patched/`: from the very archives
# that crates.io serves (checked by hash) and the files in `patches/`.
set -eu
cd "$(dirname "$0")"
out=${1:?"usage: build.sh OUT.wasm"}

VERSION=0.22.0
SHA256_ast=9221b0a090572b4a118b46c5874c0781fe4bc9546b85f0a615b8bfb609ca4ed7
SHA256_engine=5d6aaf7fdc4299df68adb67e1a5440a51d34630a1f5271b9698fd74bc97b60d9
SHA256_parser=641e81b3c8cbb7a2140547fb3ea534e9edf210b4e8c920b5fa864a919e11fbcf

toolchain=$(../toolchain.sh)
eval "$toolchain"
export CARGO_TARGET_DIR="${GUEST_TARGET_DIR:-$PWD/target}"

# Let cargo fetch the archives: a package of no code that depends on the three crates.
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
boa_ast = "=$VERSION"
boa_engine = { version = "=$VERSION", default-features = false }
boa_parser = "=$VERSION"
[workspace]
EOT
    "$CARGO" fetch --quiet --manifest-path patched/fetch/Cargo.toml
}

unpack_patched() {
    crate=boa_$1
    archive=$(ls "${CARGO_HOME:-$HOME/.cargo}"/registry/cache/*/"$crate-$VERSION.crate" | head -n 1)
    echo "$2  $archive" | sha256sum --check --quiet
    tar -xzf "$archive" -C patched
    mv "patched/$crate-$VERSION" "patched/$crate"
    patch --quiet -d patched -p1 < "patches/$crate-$VERSION.patch"
}

stamp=$(cat build.sh patches/*.patch | sha256sum)
if [ "$(cat patched/stamp 2>/dev/null)" != "$stamp" ]; then
    rm -rf patched
    fetch_archives
    unpack_patched ast "$SHA256_ast"
    unpack_patched engine "$SHA256_engine"
    unpack_patched parser "$SHA256_parser"
    printf '%s\n' "$stamp" > patched/stamp
fi

"$CARGO" build --release --locked
cp "$CARGO_TARGET_DIR/wasm32-wasip1/release/anchorhold_boa.wasm" "$out"
