# Installs the gems at their final path, without network; native ones compile.
MAKEFLAGS="-j$(nproc)" bundle install --local --jobs "$(nproc)"
cd /layers/gems
# Different each time, and of use to nobody in an image.
find . -name gem_make.out -delete
find . -name mkmf.log -delete
find . -path '*/ext/*' \( -name '*.o' -o -name Makefile \) -delete
rm -rf ruby/*/cache ruby/*/build_info ruby/*/doc
