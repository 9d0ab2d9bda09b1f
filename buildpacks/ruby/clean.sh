# Removes what differs each time, and is of use to nobody in an image.
cd /layers/gems
find . -name gem_make.out -delete
find . -name mkmf.log -delete
find . -path '*/ext/*' \( -name '*.o' -o -name Makefile \) -delete
# Bundler's threads share one umask, and change it: now and then a folder of a gem
# is made that everybody may write into.
chmod -R u+w,go-w .
rm -rf ruby/*/cache ruby/*/build_info ruby/*/doc
