#!/usr/bin/env python3
"""Real QEMU 7.2 as ivshmem client(s) against any external ivshmem server.

  iv_ext.py SOCK two                      two QEMUs: ids, cross doorbells, shared memory, leave, third joins   -> PASS/FAIL
  iv_ext.py SOCK one [PEER:VEC] [SECONDS] one QEMU: prints IVPosition, optionally rings PEER:VEC again and again until
                                          another client rings it, then reports which of its own MSI-X vectors fired;
                                          it waits no longer than SECONDS
env: QEMU=qemu-system-x86_64  VECTORS=2
"""
import os, sys, time
sock, mode = sys.argv[1], sys.argv[2]; rest = sys.argv[3:]
sys.argv = ["iv_ext", os.environ.get("QEMU", "qemu-system-x86_64")]
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from qtest_ivshmem import *
NV = int(os.environ.get("VECTORS", "2"))
def mk(n):
    d = D(n, "ivshmem-doorbell,chardev=c,vectors=%d" % NV, ["-chardev", "socket,path=%s,id=c" % sock]); time.sleep(.3); d.config(); d.msix_setup(NV); return d
fails = 0
def ck(what, got, want):
    global fails
    ok = got == want; fails += not ok; print("%s %s: %r%s" % ("ok  " if ok else "FAIL", what, got, "" if ok else " want %r" % (want,)))
def vec(l): return sorted(x["vector"] for x in l)
def ring(a, peer, v, d):
    """A rings; what D has seen a while later. A ring before the peer is known is lost, so on a busy machine it takes more than one."""
    end = time.time() + 180
    while time.time() < end:
        a.w(12, peer << 16 | v)
        for _ in range(10):
            got = vec(d.msix(NV))
            if got: return got
    return []
if mode == "two":
    a = mk("A"); ia = a.r(8); b = mk("B"); ib = b.r(8)
    ck("distinct ids", ia != ib, True)
    for v in range(NV):
        ck("A rings B vec %d" % v, ring(a, ib, v, b), [v]); ck("A itself quiet", vec(a.msix(NV)), [])
        ck("B rings A vec %d" % v, ring(b, ia, v, a), [v])
    a.w(12, ib << 16 | NV); ck("vector out of range ignored", vec(b.msix(NV)), [])
    ck("A rings itself", ring(a, ia, 0, a), [0])
    a.vm.write(B2 + 0x80, b"shared!"); ck("shared memory", b.vm.read(B2 + 0x80, 7), b"shared!")
    b.vm.close(); time.sleep(.4); a.w(12, ib << 16); ck("A survives ringing a gone peer", a.r(8), ia)
    c = mk("C"); ic = c.r(8); ck("new id not reused", ic in (ia, ib), False)
    ck("A rings C", ring(a, ic, NV - 1, c), [NV - 1]); ck("C sees memory", c.vm.read(B2 + 0x80, 7), b"shared!")
    c.vm.close(); a.vm.close(); print("PASS" if not fails else "FAIL %d" % fails); sys.exit(bool(fails))
else:
    a = mk("A"); print("IVPosition", a.r(8), flush=True)
    ring = [x for x in rest if ":" in x]; secs = float(next((x for x in rest if ":" not in x), 3))
    rings = [tuple(map(int, x.split(":"))) for x in ring]
    for p, v in rings: a.w(12, p << 16 | v); print("rang", p, v, flush=True)
    end = time.time() + secs; got = set()
    while time.time() < end and not got:
        got |= set(vec(a.msix(NV)))
        for p, v in rings: a.w(12, p << 16 | v)  # again: the first may have come before the peer was known
    print("fired", sorted(got)); a.vm.close()
