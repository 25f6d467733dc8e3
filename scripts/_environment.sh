# Sourced by quickstart.sh and test.sh. Creates .venv in the checkout and installs a requirements file into it once.

say() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

# Prints the first suitable interpreter: $PYTHON if set, else python3, else python3.13 or older.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    elif [ "$candidate" = "${PYTHON:-}" ]; then
      fail "PYTHON=$PYTHON is not a working Python 3.11, 3.12 or 3.13."
    fi
  done
  fail "Python 3.11, 3.12 or 3.13 is needed; found $(python3 --version 2>&1 || echo none). Set PYTHON=/path/to/python3."
}

is_same_version() { [ "$("$1" --version)" = "$("$2" --version)" ]; }

# prepare_environment REQUIREMENTS.txt: installs the requirements unless they are installed already; sets $python.
prepare_environment() {
  local base stamp=".venv/installed-$1"
  python="$PWD/.venv/bin/python"
  if ! "$python" -m pip --version >/dev/null 2>&1 || ! is_same_version "$python" "${PYTHON:-$python}"; then
    base=$(find_python)
    say "Creating .venv with $("$base" --version)."
    "$base" -m venv --clear .venv || fail "$base cannot create a virtual environment. On Debian and Ubuntu: apt install python3-venv."
  fi
  if ! cat requirements.txt "$1" | cmp -s - "$stamp"; then
    say "Installing $1: about 1.1 GB, a minute or two."
    # Python compiles a module when it is first imported; compiling all of them takes as long as the rest of the
    # installation.
    "$python" -m pip install --quiet --no-compile --disable-pip-version-check -r "$1" || fail "pip could not install $1; see above."
    cat requirements.txt "$1" >"$stamp"
  fi
}
