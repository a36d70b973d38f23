#!/usr/bin/env bash
# Makes .venv with the pinned requirements of the Python scripts: scripts/setup_python.sh [pip options]
# PYTHON names the interpreter (default python3, 3.11 or newer). For a machine without a GPU, the small CPU build of torch:
#   scripts/setup_python.sh --extra-index-url https://download.pytorch.org/whl/cpu
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "setup_python.sh: $python is older than Python 3.11; name a newer one: PYTHON=python3.12 $0" >&2; exit 1; }
"$python" -m venv .venv
.venv/bin/python -m pip install --quiet --upgrade pip
.venv/bin/python -m pip install --quiet -r scripts/requirements.txt "$@"
.venv/bin/python -c 'import torch, transformers; print("ready: .venv, torch", torch.__version__, "transformers", transformers.__version__)'
