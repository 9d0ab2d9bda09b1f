# Makes the virtual environment at its final path, without network. Sources
# compile here; what that needs was fetched.
uv --no-progress venv --quiet --python /usr/bin/python3 /layers/venv
grep '^[^-]' /opt/forge/lock/locked.txt > /tmp/locked.txt || true
uv --no-progress pip install --python /layers/venv/bin/python --no-index --find-links /opt/forge/wheels \
    --no-deps --require-hashes --compile-bytecode --link-mode copy -r /tmp/locked.txt
# Not part of the environment, and different each time.
rm -f /layers/venv/.lock /layers/venv/.gitignore /layers/venv/CACHEDIR.TAG
# uv notes when it saw a wheel; nothing reads that in an image.
find /layers/venv -name uv_cache.json -delete
find /layers/venv -path '*.dist-info/RECORD' -exec sed -i '/\/uv_cache\.json,/d' {} +
