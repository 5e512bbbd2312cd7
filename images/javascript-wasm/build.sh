#!/bin/sh
# Compiles the guest to the file named by the first argument. Keeps its target directory in $GUEST_TARGET_DIR.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
toolchain=$("$here/../toolchain.sh")
eval "$toolchain"
export CARGO_TARGET_DIR="${GUEST_TARGET_DIR:-$here/target}"
export RQUICKJS_SYS_NO_WASI_SDK=1   # else rquickjs-sys fetches a C library from the network
# cargo does not know of the header; with its checksum among the flags a change of it builds QuickJS anew.
prefix="$here/quickjs-prefix.h"
export CFLAGS_wasm32_wasip1="$CFLAGS_wasm32_wasip1 -include $prefix -DPREFIX_SUM=$(cksum < "$prefix" | cut -d' ' -f1)"
"$CARGO" build --release --locked --manifest-path "$here/Cargo.toml"
cp "$CARGO_TARGET_DIR/wasm32-wasip1/release/anchorhold_javascript.wasm" "$1"
