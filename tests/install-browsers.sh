#!/bin/sh
# The browsers that look at the report in tests: Debian's chromium and firefox-esr. Where they cannot be installed, the
# tests that need them are skipped and say so; this script never fails.
missing=""
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
command -v firefox-esr >/dev/null 2>&1 || missing="$missing firefox-esr"
[ -z "$missing" ] && exit 0

as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo -n"
if ! command -v apt-get >/dev/null 2>&1 || ! $as_root true >/dev/null 2>&1; then
  echo "no browsers for the report's tests ($missing ): they need apt-get and root; these tests will be skipped"
  exit 0
fi
echo "installing$missing for the report's tests (once)"
log=$(mktemp)
# shellcheck disable=SC2086  # one word a package
if ! { $as_root apt-get update && $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends $missing; } >"$log" 2>&1 </dev/null; then
  echo "they could not be installed; the tests that need them will be skipped:"
  tail -n 3 "$log"
fi
rm -f "$log"
exit 0
