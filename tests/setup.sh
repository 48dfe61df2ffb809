# Looks for what pictures and data need, and fetches what is missing. Nothing here is fatal: each line says what goes on
# without it. What could not be had is tried again after a day, after make clean, or with SETUP=again: a note of the try
# stays in build/, so that a machine without a network does not wait for one at every make.
find_stb() {
    for at in build/stb_image_write.h /usr/include/stb/stb_image_write.h /usr/local/include/stb/stb_image_write.h \
              /usr/include/stb_image_write.h /usr/local/include/stb_image_write.h; do
        [ -s "$at" ] && return 0
    done
    echo '#include <stb/stb_image_write.h>' | ${CC:-cc} -E -x c - > /dev/null 2>&1
}

install() {                                     # as root, or with a sudo that does not ask
    command -v apt-get > /dev/null || return 1
    run=
    [ "$(id -u)" = 0 ] || { command -v sudo > /dev/null && sudo -n true 2> /dev/null && run=sudo; } || return 1
    $run apt-get install -y -q "$@" > build/apt.log 2>&1 ||
        { $run apt-get update -q > build/apt.log 2>&1 && $run apt-get install -y -q "$@" >> build/apt.log 2>&1; }
}

# tried NAME SENTENCE: true, and the sentence is said, if it could not be had within the last day
tried() {
    [ "$SETUP" != again ] && [ -n "$(find "build/tried_$1" -mtime -1 2> /dev/null)" ] || return 1
    echo "setup: $2 It was looked for within the last day; 'make setup SETUP=again' looks again."
}

mkdir -p build
if ! find_stb && ! tried stb "stb_image_write.h is missing, so lessons write csv files and no pictures."; then
    echo "setup: stb_image_write.h is missing (it writes the pictures); installing libstb-dev"
    install libstb-dev || curl -fsL --max-time 30 -o build/stb_image_write.h \
        https://raw.githubusercontent.com/nothings/stb/master/stb_image_write.h || rm -f build/stb_image_write.h
    find_stb || {
        : > build/tried_stb
        echo "setup: it could not be had. Lessons write csv files only; 'apt-get install libstb-dev' brings it."
    }
fi

if [ ! -s examples/data/tinyshakespeare.txt ] &&
    ! tried data "Tiny Shakespeare is missing, so lessons run on the small built-in text."; then
    command -v curl > /dev/null || command -v wget > /dev/null || [ -s ../shared/data/tinyshakespeare.txt ] ||
        install curl ca-certificates
    sh examples/data/get.sh tinyshakespeare.txt || {
        : > build/tried_data
        echo "setup: lessons run on the small built-in text"
    }
fi
# PyTorch is the oracle of one test, which is skipped without it. Only `make test` asks for it.
has_torch() { for p in python3 /usr/bin/python3; do $p -c 'import torch' 2> /dev/null && return 0; done; return 1; }
if [ "$1" = tests ] && ! has_torch && ! tried torch "python3-torch is missing, so one test is skipped."; then
    echo "setup: installing python3-torch, which one test compares with (a minute)"
    install python3-torch || { : > build/tried_torch; echo "setup: it could not be had; that test will be skipped"; }
fi
find_stb && rm -f build/tried_stb
[ -s examples/data/tinyshakespeare.txt ] && rm -f build/tried_data
exit 0
