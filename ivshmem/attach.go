package ivshmem

import (
	"context"
	"fmt"
	"sync"
)

// Attach wires a device to the client, so that the device's guest shares memory
// with those of the client's peers and rings them: it sets the device's ID,
// Ready, SharedSize, Memory and Ring. The interrupts come in through
// [Client.Run]. It fails where the shared memory is of a size that the device
// cannot have. The device must not be used after [Client.Close].
func (c *Client) Attach(d *Device) error {
	config := d.Config
	config.SharedSize = uint64(c.size)
	if err := config.Validate(); err != nil {
		return err
	}
	if err := checkSharedSize(c.size); err != nil {
		return fmt.Errorf("ivshmem: %w", err)
	}
	memory, err := c.Map()
	if err != nil {
		return err
	}
	d.Config, d.Memory, d.ID, d.Ready = config, memory, c.id, true
	d.Ring = func(peer, vector uint16) {
		// The device ignores peers and vectors that are not connected.
		_ = c.Ring(peer, vector)
	}
	return nil
}

// Run calls [Client.Next] until ctx ends or the client is closed, and hands the
// interrupts to the device: one for each vector that was rung, however often,
// as in QEMU. It holds lock, the VMM's device lock, while it does. each, unless
// nil, is told every event, without the lock. Run returns the error of Next.
func (c *Client) Run(ctx context.Context, d *Device, lock sync.Locker, each func(Event)) error {
	for {
		e, err := c.Next(ctx)
		if err != nil {
			return err
		}
		if e.Kind == Interrupted {
			lock.Lock()
			d.Interrupt(e.Vector)
			lock.Unlock()
		}
		if each != nil {
			each(e)
		}
	}
}
