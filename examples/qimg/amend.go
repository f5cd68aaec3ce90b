package main

import (
	"errors"
	"slices"
	"time"

	"github.com/virtfmt/virtfmt/examples/internal/imgopen"
	"github.com/virtfmt/virtfmt/qcow2"
)

// amendOptions returns what amend can change of a qcow2 image, as far as it is
// not an option of create.
func amendOptions() []createOption {
	names := []string{
		"backing_file", "backing_fmt", "compat", "data_file", "data_file_raw", "encrypt.iter-time", "lazy_refcounts", "refcount_bits", "size",
	}
	all := slices.DeleteFunc(createOptions("qcow2"), func(o createOption) bool { return !slices.Contains(names, o.name) })
	for i := range all {
		all[i].standard = ""
	}
	return append(all,
		createOption{name: "encrypt.keyslot", kind: isNumber, help: "Select a single keyslot to modify explicitly"},
		createOption{name: "encrypt.new-secret", help: "New secret to set in the matching keyslots. Empty string to erase"},
		createOption{name: "encrypt.old-secret", help: "Select all keyslots that match this password"},
		createOption{name: "encrypt.state", help: "Select new state of affected keyslots (active/inactive)"})
}

// amend runs "qimg amend".
func (c *command) amend(args []string) error {
	var s settings
	var lists []string
	force := false
	opts, operands, err := parse(args, "o:t:f:pq", "object: image-opts force")
	if err != nil {
		return err
	}
	for _, o := range opts {
		if ok, err := s.set(o); err != nil {
			return err
		} else if ok {
			continue
		}
		switch o.name {
		case "o":
			if err := optionList(o.value); err != nil {
				return err
			}
			lists = append(lists, o.value)
		case "force":
			force = true
		}
	}
	if len(lists) == 0 {
		return usageError("Must specify options (-o)")
	}
	help := wantsHelp(lists)
	if help && s.format != "" {
		return c.amendHelp(s.format)
	}
	if len(operands) != 1 {
		return message("Expecting one image file name")
	}
	if err := s.check(); err != nil {
		return err
	}
	return c.amendImage(operands[0], &s, lists, help, force)
}

// amendHelp prints the options that amend takes.
func (c *command) amendHelp(format string) error {
	switch {
	case createOptions(format) == nil:
		return unknownFormat(format)
	case format != "qcow2":
		return messagef("Format driver '%s' does not support option amendment", format)
	}
	c.say(&settings{}, "Amend options for '%s':\n", format)
	c.listOptions(amendOptions())
	return nil
}

func (c *command) amendImage(name string, s *settings, lists []string, help, force bool) (err error) {
	o := c.writing(s)
	img, err := c.open(name, o)
	if err != nil {
		return err
	}
	defer closing(img, &err)
	if help || img.Qcow2 == nil {
		return c.amendHelp(img.Format)
	}
	v, err := parseOptions("qcow2", amendOptions(), lists)
	if err != nil {
		if _, cerr := parseCreate("qcow2", lists); cerr == nil {
			return messagef("%v\nThis option is only supported for image creation", err)
		}
		return err
	}
	return c.applyAmend(img, v, s, force)
}

// applyAmend changes an image as v says.
func (c *command) applyAmend(img *imgopen.Image, v *createValues, s *settings, force bool) error {
	has := func(name string) bool { _, ok := v.value[name]; return ok }
	if has("backing_file") || has("backing_fmt") {
		return message("Cannot amend the backing file\nYou can use 'qimg rebase' instead.")
	}
	format, err := formatOptions(img.Qcow2.Header(), v)
	if err != nil {
		return err
	}
	p := c.newProgress(s)
	if has("encrypt.state") || has("encrypt.keyslot") || has("encrypt.new-secret") || has("encrypt.old-secret") || has("encrypt.iter-time") {
		if err := c.amendKeys(img, v, s, force); err != nil {
			return err
		}
	}
	if err := img.Qcow2.Amend(c.ctx, format); err != nil {
		return err
	}
	if has("size") {
		if err := img.Qcow2.Resize(c.ctx, v.number("size"), &qcow2.ResizeOptions{Shrink: true}); err != nil {
			return err
		}
	}
	p.finish()
	return nil
}

// formatOptions returns what v says of the format of the image.
func formatOptions(h *qcow2.Header, v *createValues) (*qcow2.AmendOptions, error) {
	o := &qcow2.AmendOptions{}
	if text, ok := v.value["compat"]; ok {
		if o.Version, ok = map[string]int{"0.10": 2, "v2": 2, "1.1": 3, "v3": 3}[text]; !ok {
			return nil, messagef("Unknown compatibility level %s", text)
		}
	}
	if _, ok := v.value["lazy_refcounts"]; ok {
		on := v.on("lazy_refcounts")
		if on && (o.Version == 2 || o.Version == 0 && h.Version == 2) {
			return nil, message("Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)")
		}
		o.LazyRefcounts = &on
	}
	if _, ok := v.value["refcount_bits"]; ok {
		if o.RefcountBits = int(min(v.number("refcount_bits"), 128)); o.RefcountBits == 0 {
			return nil, message("Refcount width must be a power of two and may not exceed 64 bits")
		}
	}
	external := h.IncompatibleFeatures&qcow2.IncompatExternalData != 0
	if name, ok := v.value["data_file"]; ok {
		if !external {
			return nil, message("data-file can only be set for images that use an external data file")
		}
		o.DataFile = &name
	}
	if _, ok := v.value["data_file_raw"]; ok {
		on := v.on("data_file_raw")
		if on && h.AutoclearFeatures&qcow2.AutoclearRawExternal == 0 {
			return nil, message("data-file-raw cannot be set on existing images")
		}
		o.DataFileRaw = &on
	}
	return o, nil
}

// amendKeys changes the passphrases of an encrypted image.
func (c *command) amendKeys(img *imgopen.Image, v *createValues, s *settings, force bool) error {
	e, err := img.Qcow2.Encryption()
	if err != nil {
		return err
	}
	if e.Method != qcow2.CryptLUKS {
		return message("Can't amend encryption options - encryption not present")
	}
	slot := qcow2.AnySlot
	if _, ok := v.value["encrypt.keyslot"]; ok {
		slot = int(min(v.number("encrypt.keyslot"), qcow2.KeySlots))
		if slot < 0 || slot >= qcow2.KeySlots {
			return messagef("Invalid keyslot %d specified, must be between 0 and %d", slot, qcow2.KeySlots-1)
		}
	}
	switch v.get("encrypt.state") {
	case "active":
		return c.addKey(img, v, s, e, slot)
	case "inactive":
		return c.eraseKeys(img, v, s, e, slot, force)
	case "":
		return message("Parameter 'encrypt.state' is missing")
	}
	return messagef("Parameter 'state' does not accept value '%s'", v.get("encrypt.state"))
}

// addKey puts a new passphrase into a slot.
func (c *command) addKey(img *imgopen.Image, v *createValues, s *settings, e *qcow2.Encryption, slot int) error {
	id := v.get("encrypt.new-secret")
	switch {
	case id == "":
		return message("'new-secret' is required to activate a keyslot")
	case v.get("encrypt.old-secret") != "":
		return message("'old-secret' must not be given when activating keyslots")
	case slot >= 0 && e.Slots[slot].Active:
		return messagef("Refusing to overwrite active keyslot %d - please erase it first", slot)
	}
	added, err := s.secrets.Get(id)
	if err != nil {
		return err
	}
	existing, err := s.secrets.Get(img.Key)
	if err != nil {
		return err
	}
	_, err = img.Qcow2.AddPassphrase(c.ctx, existing, added, slot, &qcow2.KeyOptions{
		IterTime: time.Duration(v.number("encrypt.iter-time")) * time.Millisecond,
	})
	return err
}

// eraseKeys erases a slot, or those of a passphrase.
func (c *command) eraseKeys(img *imgopen.Image, v *createValues, s *settings, e *qcow2.Encryption, slot int, force bool) error {
	id := v.get("encrypt.old-secret")
	switch {
	case v.get("encrypt.new-secret") != "":
		return message("'new-secret' must not be given when erasing keyslots")
	case slot >= 0 && id != "":
		return message("Give either the keyslot or the old secret")
	case slot >= 0 && !e.Slots[slot].Active:
		return messagef("Given keyslot %d is already erased (inactive) ", slot)
	case slot >= 0:
		return refuseLast(img.Qcow2.EraseSlot(slot, force))
	case id == "":
		return message("To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given")
	}
	old, err := s.secrets.Get(id)
	if err != nil {
		return err
	}
	_, err = img.Qcow2.RemovePassphrase(c.ctx, old)
	switch {
	case errors.Is(err, qcow2.ErrLastPassphrase) && force: // they all match
		for i, k := range e.Slots {
			if k.Active {
				if err := img.Qcow2.EraseSlot(i, true); err != nil {
					return err
				}
			}
		}
		return nil
	case errors.Is(err, qcow2.ErrPassphrase):
		return message("No keyslots match given (old) password for erase operation")
	}
	return refuseLast(err)
}

func refuseLast(err error) error {
	if errors.Is(err, qcow2.ErrLastPassphrase) {
		return message("All the active keyslots match the (old) password that was given and erasing them will erase all the data in the image " +
			"irreversibly - refusing operation")
	}
	return err
}
