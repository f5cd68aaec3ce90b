#!/usr/bin/env bash
# make.sh: makes the images of this folder with qemu-img and qemu-io 7.2 from
# the .ops files. The first line of one holds the options of qemu-img create,
# size last; the second, after "base", the size of a raw backing file that is
# filled with 0xba, or "none"; the others are qemu-io commands.
set -euo pipefail
cd "$(dirname "$0")"
for ops in *.ops; do
  name=${ops%.ops}
  rm -f "$name".qcow2 base.raw data.raw
  { read -r create; read -r _ base; } <"$ops"
  if [ "$base" != none ]; then
    qemu-img create -q -f raw base.raw "$base"
    qemu-io -f raw -c "write -P 0xba 0 $base" base.raw >/dev/null
    create="-b base.raw -F raw $create"
  fi
  # shellcheck disable=SC2086
  qemu-img create -q -f qcow2 ${create% *} "$name.qcow2" "${create##* }"
  tail -n +3 "$ops" | while read -r line; do
    qemu-io -f qcow2 -d unmap -c "$line" "$name.qcow2" >/dev/null
  done
  zstd -q -19 -f --rm "$name.qcow2"
  [ ! -f data.raw ] || zstd -q -19 -f data.raw -o "$name.data.zst"
  rm -f base.raw data.raw
done
