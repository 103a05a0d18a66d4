#!/usr/bin/env bash
# Makes the virtual environments of the peers: setup.sh FOLDER [NAME ...], by default all of them.
set -euo pipefail
folder=${1:?name a folder for the environments}
shift
here=$(cd "$(dirname "$0")/environments" && pwd)
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    names=(rectools recbole authors cornac implicit lenskit)
fi
for name in "${names[@]}"; do
    echo "== $name"
    "${PYTHON:-python3.11}" -m venv "$folder/$name"
    "$folder/$name/bin/python" -m pip install --quiet -r "$here/$name.txt"
done
