# Fetches uv by hash with pip.
printf 'uv==%s --hash=sha256:%s\n' "$UV_VERSION" "$UV_SHA256" > /tmp/uv.txt
python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile --root-user-action=ignore \
    --no-deps --only-binary :all: --require-hashes --target /opt/forge/uv -r /tmp/uv.txt
