// Command init is the only program of a Linux guest: it prints which PCI
// devices there are whenever that changes.
package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := os.MkdirAll("/sys", 0o755); err != nil {
		fmt.Println(err)
	}
	if err := syscall.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		fmt.Println(err)
	}
	for last := ""; ; time.Sleep(100 * time.Millisecond) {
		entries, err := os.ReadDir("/sys/bus/pci/devices")
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if now := strings.Join(names, " "); now != last {
			fmt.Println("devices:", now, err)
			last = now
		}
	}
}
