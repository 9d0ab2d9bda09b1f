#!/bin/bash
# Lays out Redmine, ready for `forge build`, with a server of all its gems:
#
#   redmine.sh [-c CACHE] OUT
#
#   OUT/app     Redmine, as Debian 13 has it in its sources (6.0.5)
#   OUT/gems    the gems; serve it, and name it in BUNDLE_MIRROR__ALL
#   CACHE       as make-gem-server has it (OUT/cache)
#
# Of Debian's patches only the one that allows its versions of gems is applied:
# the others move files to Debian's places.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=''
while getopts c: option; do
  case $option in c) cache=$OPTARG ;; *) sed -n '4p' "$0" >&2; exit 2 ;; esac
done
shift $((OPTIND - 1))
[ $# = 1 ] || { sed -n '4p' "$0" >&2; exit 2; }
mkdir -p "$1"
out=$(realpath "$1")
cache=$(realpath -m "${cache:-$out/cache}")
make=("$here/make-gem-server" -l "$here/redmine.list" -c "$cache")

"${make[@]}" "$out/gems"

# The server's root knows Debian's sources, and apt there checks what it fetches.
fetched=$cache/root/gem-server/redmine
mkdir -p "$fetched"
chroot "$cache/root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c \
  'cd /gem-server/redmine && apt-get -qq -o APT::Sandbox::User=root source --download-only redmine/trixie'
rm -rf "$out/app"
mkdir "$out/app"
tar -xf "$fetched"/redmine_*.orig.tar.* -C "$out/app" --strip-components=1 --no-same-owner
tar -xf "$fetched"/redmine_*.debian.tar.* -C "$fetched" --no-same-owner debian/patches
cd "$out/app"
patch -s -p1 <"$fetched/debian/patches/gemfile-deps-adjustment.patch"
sed -i "s|^source .*|source 'https://gems.example'|" Gemfile

# Redmine has the database's gem from here, and further gems from Gemfile.local.
cat >config/database.yml <<'YML'
production:
  adapter: postgresql
  encoding: unicode
  url: <%= ENV["DATABASE_URL"] %>
YML
echo 'gem "puma"' >Gemfile.local

# Redmine's .gitignore leaves out what each installation writes for itself.
cat >forge.toml <<'TOML'
[source]
include = ["/Gemfile.local", "/Gemfile.lock", "/config/database.yml"]
TOML

"${make[@]}" -a . "$out/gems"
