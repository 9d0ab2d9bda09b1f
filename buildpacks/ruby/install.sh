# Installs the gems at their final path, without network; those that are there
# already are left alone, and native ones compile.
MAKEFLAGS="-j$(nproc)" bundle install --local --jobs "$(nproc)"
# A place for commands that is the same for every Ruby.
mkdir -p /layers/gems/ruby
ln -s "ruby/$(ruby -e 'print Gem.ruby_api_version')/bin" /layers/gems/bin
sh -eu /forge/clean.sh
