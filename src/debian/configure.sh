# Finishes the installation of unpacked packages. Made by forge; see src/debian/rootfs.rs.
set -eu
umask 022
cd /
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root
LC_ALL=C
TZ=UTC
DEBIAN_FRONTEND=noninteractive
DEBCONF_NONINTERACTIVE_SEEN=true
# Python then compiles to bytecode that is checked by hash, not by time, and
# writes none on the side, which would be checked by time all the same.
SOURCE_DATE_EPOCH=1
FORCE_SOURCE_DATE=1
PYTHONDONTWRITEBYTECODE=1
PYTHONHASHSEED=0
PERL_HASH_SEED=0
export PATH HOME LC_ALL TZ DEBIAN_FRONTEND DEBCONF_NONINTERACTIVE_SEEN
export SOURCE_DATE_EPOCH FORCE_SOURCE_DATE PYTHONDONTWRITEBYTECODE PYTHONHASHSEED PERL_HASH_SEED
packages='@PACKAGES@'

# No service is started while packages are configured.
policy=/usr/sbin/policy-rc.d
saved=$policy.forge-saved
restore() {
  rm -f "$policy"
  if [ -e "$saved" ]; then mv "$saved" "$policy"; fi
}
trap restore EXIT
trap 'exit 130' INT TERM
if [ -e "$policy" ]; then mv "$policy" "$saved"; fi
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

# What dpkg does before it unpacks.
info=/var/lib/dpkg/info
for package in $packages; do
  for script in "$info/$package.preinst" "$info/$package":*.preinst; do
    [ -x "$script" ] || continue
    old=$(dpkg-query -W -f '${Config-Version}' "$package")
    new=$(dpkg-query -W -f '${Version}' "$package")
    if [ -n "$old" ]; then set -- upgrade "$old" "$new"; else set -- install; fi
    if ! DPKG_MAINTSCRIPT_PACKAGE="$package" DPKG_MAINTSCRIPT_NAME=preinst \
      DPKG_MAINTSCRIPT_ARCH="$(dpkg --print-architecture)" DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 \
      DPKG_ROOT='' DPKG_ADMINDIR=/var/lib/dpkg "$script" "$@"; then
      echo "the preinst script of $package failed" >&2
      exit 1
    fi
  done
done

dpkg --force-confnew --force-unsafe-io --force-overwrite --configure --pending
problems=$(dpkg --audit)
if [ -n "$problems" ]; then
  echo "$problems" >&2
  exit 1
fi

# What differs between two runs.
ldconfig
for folder in /var/log /tmp /var/tmp /run /var/cache/ldconfig /var/cache/man; do
  if [ -d "$folder" ]; then find "$folder" ! -type d -delete; fi
done
if [ -d /var/lib/texmf ]; then find /var/lib/texmf -name '*.log' -delete; fi
rm -f /var/cache/debconf/*-old
rm -f /var/lib/dpkg/*-old /var/lib/dpkg/lock /var/lib/dpkg/lock-frontend /var/lib/dpkg/triggers/Lock
rm -f /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid- /etc/.pwd.lock
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed
if [ -f /etc/machine-id ]; then : >/etc/machine-id; fi
# The day of the last change of a password; 0 would ask for a new one.
if [ -f /etc/shadow ]; then sed -i 's/^\([^:]*:[^:]*\):[0-9][0-9]*:/\1:1:/' /etc/shadow; fi
