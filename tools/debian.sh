#!/bin/sh
# debian.sh COMMAND:PACKAGE... : installs each Debian package whose command is missing ('-' is always missing).
# As root, or through sudo where it asks nothing. Otherwise it says what to install, and exits with 1.
set -eu

missing=
for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root="env"
elif sudo -n true 2>/dev/null; then
    as_root="sudo -n env"
else
    as_root=
fi

if [ -n "$as_root" ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing Debian packages:$missing"
    # shellcheck disable=SC2086 # one word each
    if { $as_root apt-get update -qq &&
        $as_root DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing; } \
        </dev/null >/dev/null; then
        exit 0
    fi
    echo "!!! apt-get could not install:$missing" >&2
fi

cat >&2 <<MESSAGE
!!! ------------------------------------------------------------------
!!! These packages are missing:$missing
!!! Install them and try again:  sudo apt-get install$missing
!!! What needs them cannot run.
!!! ------------------------------------------------------------------
MESSAGE
exit 1
