# Removes what differs each time, and is of use to nobody in an image.
cd /layers/gems
find . -name gem_make.out -delete
find . -name mkmf.log -delete
find . -path '*/ext/*' \( -name '*.o' -o -name Makefile \) -delete
rm -rf ruby/*/cache ruby/*/build_info ruby/*/doc
