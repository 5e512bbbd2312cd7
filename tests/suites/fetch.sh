#!/bin/sh
# Gets what images leave out: the tests of CPython and of packages.
#
#     tests/suites/fetch.sh DIRECTORY
set -eu

here=$(cd "$(dirname "$0")" && pwd)
to=$1

# The source of Debian's CPython, without Debian's changes: those come several times a year, this stays. Its package of
# tests has none of sqlite3.
name=python3.11_3.11.2.orig.tar.gz
sum=2411c74bda5bbcfcddaf4531f66d1adc73f247f529aee981b029513aefdbf849

echo "suites: fetching the tests of CPython and of packages"
rm -rf "$to"
mkdir -p "$to/wheels" "$to/apt/lists/partial"
(
    cd "$to/apt"
    # Few machines have sources among their lists, and none needs them for this.
    apt-get indextargets 'Created-By: Packages' 'Codename: bookworm' 'Component: main' --format \
        'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(REPO_URI) $(RELEASE) $(COMPONENT)' |
        head -n 1 > sources.list
    own="-o APT::Sandbox::User=root -o Dir::Etc::SourceList=$PWD/sources.list -o Dir::Etc::SourceParts=/dev/null"
    own="$own -o Dir::State::Lists=$PWD/lists -o Acquire::Languages=none"
    apt-get -qq $own update
    apt-get -qq $own source --tar-only --download-only python3.11
    echo "$sum  $name" | sha256sum --check --quiet
    mv "$name" "$to/cpython.tar.gz"
)
rm -rf "$to/apt"

# The wheels that the image is made of, pinned where the image pins them.
grep -E '^(numpy|pandas|scikit-learn|matplotlib)==' "$here/../../images/code/requirements.txt" > "$to/wheels.txt"
cat "$here/requirements.txt" >> "$to/wheels.txt"
/usr/bin/python3 -m venv "$to/venv"
"$to/venv/bin/python" -m pip download -q --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
    -d "$to/wheels" -r "$to/wheels.txt"
rm -rf "$to/venv"
