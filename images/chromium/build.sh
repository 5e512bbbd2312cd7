#!/bin/sh
# Makes the root of browser cells: build.sh DIRECTORY
# What Chromium does not read is taken out again.
set -eu
root=$1
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../debian-root/functions.sh"

unpack "$root" "$here/packages"
undocument "$root"
mountpoints "$root"
# A browser starts before it has a workspace. This is mounted over the directory that the link names, and Landlock allows
# the one above it.
mkdir -p "$root/session/workspace"
rmdir "$root/workspace"
ln -s session/workspace "$root/workspace"
(
    cd "$root"
    # Not read by Chromium. Its own programs, the libraries, the fonts and their configuration stay.
    rm -rf usr/share/perl5 var usr/sbin sbin
    # Drivers of graphics cards, which no cell has, and the compiler that they bring; a second style of the largest
    # fonts.
    rm -rf usr/lib/x86_64-linux-gnu/dri usr/lib/x86_64-linux-gnu/libLLVM* usr/lib/x86_64-linux-gnu/libz3* \
        usr/lib/chromium/libVk* usr/share/fonts/opentype/noto/NotoSerif*
)
fonts "$root"
rm -rf "$root/bin" "$root/usr/bin"
chromium=usr/lib/chromium/chromium-headless-shell
[ -x "$root/$chromium" ] || { echo "build.sh: no $chromium" >&2; exit 1; }
finish "$root"
