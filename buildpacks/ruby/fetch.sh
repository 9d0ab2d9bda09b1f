# Downloads the .gem files of the lock, and the git sources, for this platform.
BUNDLE_CACHE_ALL=true bundle cache --no-install
mkdir -p /opt/forge/gems
ruby /forge/checksums.rb
count=$(find /opt/forge/gems -maxdepth 1 -name '*.gem' | wc -l)
echo "$count gems"
