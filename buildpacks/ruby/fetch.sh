# Downloads the .gem files of the lock, and the git sources, for this platform.
bundle cache --all --no-install 2>/dev/null || bundle cache --no-install
mkdir -p /opt/forge/gems
ruby /forge/checksums.rb
count=$(find /opt/forge/gems -maxdepth 1 -name '*.gem' | wc -l)
echo "$count gems"
