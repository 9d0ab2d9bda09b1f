# Makes the virtual environment at its final path, with nothing in it.
export PATH=/opt/forge/uv/bin:/usr/local/bin:/usr/bin:/bin
export UV_OFFLINE=1 UV_NO_CONFIG=1 UV_PYTHON_DOWNLOADS=never UV_CACHE_DIR=/tmp/uv
uv --no-progress venv --quiet --python /usr/bin/python3 /layers/venv
# Not part of the environment, and different each time.
rm -f /layers/venv/.lock /layers/venv/.gitignore /layers/venv/CACHEDIR.TAG
