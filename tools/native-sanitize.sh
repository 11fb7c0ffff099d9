#!/bin/bash
# native-sanitize.sh: the addon with AddressSanitizer and UndefinedBehaviorSanitizer, and its tests under them. Needs g++ and its sanitizer
# libraries. Run `npm run build:test` first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
node native/build.mjs --sanitize

library() { readlink -f "$("${CXX:-c++}" -print-file-name="$1")"; }
# Node itself is not built for it, so the library comes first by force; leaks are the tests' own business (they count what is mapped and open)
export LD_PRELOAD="$(library libasan.so):$(library libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:handle_segv=0:detect_odr_violation=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export NVMEFERRY_NATIVE="$PWD/native/build/Debug/nvmeferry.node" NVMEFERRY_REQUIRE_NATIVE=1 NVMEFERRY_WORKERS=8
exec node node_modules/mocha/bin/mocha.js --no-config --require dist-test/test/support/hooks.js --timeout 120000 \
  --spec 'dist-test/test/unit/native/*.test.js' --spec 'dist-test/test/unit/backend/engine.test.js' "$@"
