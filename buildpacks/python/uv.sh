# Fetches uv by hash with pip.
{
    printf 'uv==%s' "$UV_VERSION"
    for hash in $UV_SHA256; do printf ' --hash=sha256:%s' "$hash"; done
    echo
} > /tmp/uv.txt
python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile --root-user-action=ignore \
    --no-deps --only-binary :all: --require-hashes --target /opt/forge/uv -r /tmp/uv.txt
