#!/bin/sh
# Builds every image whose recipe changed: what `make images` calls.
#
#     images/build.sh              all folders that hold an image.toml
#     images/build.sh python-wasm  only these
#
# Arguments after `--` go to `anchorhold-image` (for instance `-- --store DIR`).
# With nothing changed it takes a fraction of a second.
set -eu
cd "$(dirname "$0")"

names=
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
    names="$names $1"
    shift
done
[ $# -eq 0 ] || shift
if [ -z "$names" ]; then
    for recipe in */image.toml; do
        names="$names $(dirname "$recipe")"
    done
fi

cache="${XDG_CACHE_HOME:-$HOME/.cache}/anchorhold"
# Where no guest was compiled yet, all of them are compiled beside the builder: both have long stretches that use one core,
# so the one with the most crates goes first. The builder finds them compiled, in the directory that it would use.
if [ ! -d "$cache/target/guests" ]; then
    for lock in $(ls -S */Cargo.lock); do
        name=$(dirname "$lock")
        case " $names " in *" $name "*) ;; *) continue ;; esac
        GUEST_TARGET_DIR="$cache/target/guests" sh "$name/build.sh" /dev/null || exit
    done </dev/null &
    guests=$!
fi
builder=$(./builder.sh)
# Meanwhile those that are not compiled.
for name in $names; do
    [ -e "$name/Cargo.lock" ] || "$builder" build "$name" "$@"
done
[ -z "${guests:-}" ] || wait "$guests"
for name in $names; do
    [ ! -e "$name/Cargo.lock" ] || "$builder" build "$name" "$@"
done
