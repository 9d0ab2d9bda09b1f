#!/bin/sh
# Installs what the tests need (as root, with apt), then runs all of them; fails
# when anything is missing. `cargo test` alone runs what this machine can.
set -eu
cd "$(dirname "$0")/.."

need="docker.io runc skopeo umoci docker-registry openssl postgresql faketime apache2-utils util-linux mount procps
mmdebstrap debian-archive-keyring redis-server mariadb-server nginx-light python3"
missing=""
for package in $need; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "tests/run.sh: run as root once, to install:$missing" >&2
        exit 1
    fi
    echo "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
# From Debian 13 on, Docker's client is a package of its own.
command -v docker >/dev/null || apt-get install -y -qq --no-install-recommends docker-cli >/dev/null

# On a file system that an ordinary user reaches too: tests run forge as one.
FORGE_TEST_FOLDER=$(mktemp -d "${TMPDIR:-/tmp}/forge-it.XXXXXX")
export FORGE_TEST_FOLDER FORGE_TEST_ALL=1
trap 'wait; chmod -R u+rwX "$FORGE_TEST_FOLDER" 2>/dev/null; rm -rf "$FORGE_TEST_FOLDER"' EXIT
chmod 755 "$FORGE_TEST_FOLDER"

# The gems of the Rails tests are made while cargo compiles.
gems=""
if [ -z "${FORGE_TEST_GEMS:-}" ] && [ "$(id -u)" = 0 ]; then
    export FORGE_TEST_GEMS="$FORGE_TEST_FOLDER/gems"
    tests/gem-server/for-tests "$FORGE_TEST_GEMS" "$FORGE_TEST_FOLDER/gem-cache" >"$FORGE_TEST_FOLDER/gems.log" 2>&1 &
    gems=$!
fi
cargo test --workspace --locked --no-run
if [ -n "$gems" ] && ! wait "$gems"; then
    cat "$FORGE_TEST_FOLDER/gems.log" >&2
    exit 1
fi
cargo test --workspace --locked "$@"
