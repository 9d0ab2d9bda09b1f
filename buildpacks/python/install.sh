# Installs the packages that the step was given into the virtual environment at its final
# path, without network. Sources compile here; what that needs was fetched.
export PATH=/opt/forge/uv/bin:/usr/local/bin:/usr/bin:/bin PYTHONHASHSEED=0
export UV_OFFLINE=1 UV_NO_CONFIG=1 UV_PYTHON_DOWNLOADS=never
# Beside the environment and not in it: wheels are unpacked there, and their files linked.
export UV_CACHE_DIR=/layers/uv UV_LINK_MODE=hardlink
# Of a file that two packages have, the one that is installed last stays: one after the other.
export UV_CONCURRENT_INSTALLS=1
# Compiled modules are checked against nothing at import: the files of an image do not
# change, and their times are all the same.
export PYC_INVALIDATION_MODE=UNCHECKED_HASH
# Debug information holds the names of temporary folders.
export CFLAGS=-g0 CXXFLAGS=-g0

for folder in /opt/forge/wheels/*; do
    # No package of the app is in this part, or none comes as source.
    [ -e "$folder/locked.txt" ] || continue
    case $folder in
    */source*)
        find "$folder" -type f ! -name locked.txt -print0 | sort -z |
            xargs -0 -n 1 -P "$(nproc)" python3 /forge/build.py
        # The archives were compared with the lock when they came.
        sed 's/ --hash=.*//' "$folder/locked.txt" > /tmp/built/locked.txt
        set -- --find-links /tmp/built -r /tmp/built/locked.txt
        ;;
    *) set -- --find-links "$folder" --require-hashes -r "$folder/locked.txt" ;;
    esac
    uv --no-progress pip install --python /layers/venv/bin/python --no-index --no-deps --compile-bytecode "$@"
done
# Not part of the environment, and different each time.
rm -f /layers/venv/.lock
# uv notes when it saw a wheel; nothing reads that in an image.
find /layers/venv -name uv_cache.json -delete
find /layers/venv -path '*.dist-info/RECORD' -exec sed -i '/\/uv_cache\.json,/d' {} +
