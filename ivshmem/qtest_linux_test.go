package ivshmem_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/virtfmt/virtfmt/internal/difftest"
	"github.com/virtfmt/virtfmt/internal/qtest"
	"github.com/virtfmt/virtfmt/ivshmem"
)

// A machine is a QEMU with an ivshmem-doorbell device that the test accesses
// as a guest would.
type machine struct {
	*qtest.VM
	t *testing.T
}

// pciSlot is where the device sits.
const pciSlot = 4

// startMachine starts a QEMU whose device has that many vectors and connects to
// the server at path; without vectors it is an ivshmem-plain device.
func startMachine(t *testing.T, path string, vectors int) *machine {
	t.Helper()
	bin := difftest.Tool(t, "qemu-system-x86_64", "7.2")
	backend, device := []string{"-chardev", "socket,path=" + path + ",id=c"}, fmt.Sprintf("ivshmem-doorbell,chardev=c,vectors=%d", vectors)
	if vectors == 0 {
		backend, device = []string{"-object", "memory-backend-memfd,id=m,size=1M"}, "ivshmem-plain,memdev=m"
	}
	args := append([]string{"-M", "pc-i440fx-7.2", "-m", "64"}, backend...)
	return &machine{qtest.Start(t, bin, append(args, "-device", fmt.Sprintf("%s,addr=%d.0", device, pciSlot))...), t}
}

// bars returns where QEMU has mapped the device's BARs.
func (m *machine) bars() (bars [3]ivshmem.BAR) {
	m.t.Helper()
	b, err := m.QMP("query-pci", nil)
	if err != nil {
		m.t.Fatal(err)
	}
	var buses []struct {
		Devices []struct {
			Slot    int
			Regions []struct {
				BAR     int
				Address int64 // -1 where it is not mapped
				Size    uint64
			}
		}
	}
	if err := json.Unmarshal(b, &buses); err != nil {
		m.t.Fatal(err)
	}
	for _, d := range buses[0].Devices {
		if d.Slot != pciSlot {
			continue
		}
		for _, r := range d.Regions {
			bars[r.BAR] = ivshmem.BAR{Size: r.Size}
			if r.Address != -1 {
				bars[r.BAR].Address, bars[r.BAR].Mapped = uint64(r.Address), true
			}
		}
	}
	return bars
}

// reset resets the machine.
func (m *machine) reset() {
	m.t.Helper()
	if _, err := m.QMP("system_reset", nil); err != nil {
		m.t.Fatal(err)
	}
	m.Await("RESET")
}

func (m *machine) configAddress(off uint64) {
	m.t.Helper()
	m.Out(0xcf8, 4, uint32(1<<31|pciSlot<<11|off&^3))
}

func (m *machine) readConfig(off uint64, size int) uint64 {
	m.t.Helper()
	m.configAddress(off)
	return uint64(m.In(uint16(0xcfc+off&3), size))
}

func (m *machine) writeConfig(off, v uint64, size int) {
	m.t.Helper()
	m.configAddress(off)
	m.Out(uint16(0xcfc+off&3), size, uint32(v))
}

// aim places the BARs, makes each vector a write of 0xa0 plus its number to its
// own word of memory, and enables MSI-X.
func (m *machine) aim(vectors int) {
	m.t.Helper()
	m.writeConfig(0x10, bar0Addr, 4)
	m.writeConfig(0x14, bar1Addr, 4)
	m.writeConfig(0x18, bar2Addr, 4)
	m.writeConfig(0x1c, 0, 4)
	m.writeConfig(4, 6, 2)
	for i := range uint64(vectors) {
		m.Store(bar1Addr+16*i, 8, msiAddr+4*i)
		m.Store(bar1Addr+16*i+8, 8, 0xa0+i)
	}
	m.writeConfig(0x42, 0x8000, 2)
}

// fired returns which vectors have fired since it was last asked.
func (m *machine) fired(vectors int) []int {
	m.t.Helper()
	var got []int
	for i := range vectors {
		addr := msiAddr + 4*uint64(i)
		if v := m.Load(addr, 4); v != 0 {
			if v != 0xa0+uint64(i) {
				m.t.Errorf("vector %d wrote %#x", i, v)
			}
			m.Store(addr, 4, 0)
			got = append(got, i)
		}
	}
	return got
}
