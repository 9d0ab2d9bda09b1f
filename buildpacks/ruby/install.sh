# Installs the gems at their final path, without network; those that are there
# already are left alone, and native ones compile.
MAKEFLAGS="-j$(nproc)" bundle install --local --jobs "$(nproc)"
# So that there is an output when all gems were there.
mkdir -p /layers/gems/ruby
sh -eu /forge/clean.sh
