package luks

// The S-boxes of Serpent and their inverses as Boolean formulas over the bits
// a (lowest) to d of an index, thirty-two of them at once: the algebraic
// normal form of each output bit, common terms taken once. TestSerpentBoxes
// holds them against the tables of the cipher's definition.

func sBox0(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ab := b & a
	ac := c & a
	bc := c & b
	ad := d & a
	bd := d & b
	abc := bc & a
	acd := ad & c
	bcd := bd & c
	t0 := abc ^ ac
	t1 := bcd ^ t0
	t2 := a ^ acd
	t3 := ab ^ d
	t4 := bc ^ t1
	t5 := t2 ^ t4
	return ^(c ^ t3 ^ t5),
		^(bd ^ t5),
		b ^ bd ^ t1 ^ t3,
		a ^ ad ^ b ^ c ^ d
}

func sBox1(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ab := b & a
	ac := c & a
	bc := c & b
	ad := d & a
	bd := d & b
	cd := d & c
	abd := bd & a
	acd := cd & a
	bcd := cd & b
	t0 := acd ^ bcd
	t1 := a ^ t0
	t2 := ad ^ b
	t3 := ab ^ c
	t4 := abd ^ ac
	t5 := d ^ t3
	return ^(bc ^ cd ^ t1 ^ t2),
		^(bd ^ t1 ^ t4 ^ t5),
		^(b ^ t5),
		^(d ^ t0 ^ t2 ^ t4)
}

func sBox2(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ac := c & a
	bc := c & b
	ad := d & a
	bd := d & b
	cd := d & c
	abc := bc & a
	abd := bd & a
	acd := cd & a
	t0 := b ^ c
	t1 := a ^ abc
	t2 := abd ^ acd
	t3 := bc ^ cd
	t4 := t0 ^ t1
	t5 := t2 ^ t3
	return ac ^ d ^ t0,
		ad ^ t4 ^ t5,
		a ^ b ^ bd ^ d ^ t5,
		^(bd ^ t4)
}

func sBox3(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ab := b & a
	ac := c & a
	bc := c & b
	ad := d & a
	bd := d & b
	cd := d & c
	abc := bc & a
	abd := bd & a
	acd := cd & a
	bcd := cd & b
	t0 := a ^ acd
	t1 := b ^ cd
	t2 := t0 ^ t1
	t3 := ad ^ t2
	t4 := ab ^ abc
	t5 := c ^ d
	t6 := t4 ^ t5
	return bc ^ bcd ^ d ^ t3,
		abd ^ ac ^ t3,
		a ^ abd ^ bd ^ t6,
		ac ^ t2 ^ t6
}

func sBox4(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ab := b & a
	ac := c & a
	bc := c & b
	ad := d & a
	bd := d & b
	cd := d & c
	abc := bc & a
	abd := bd & a
	acd := cd & a
	bcd := cd & b
	t0 := bd ^ c
	t1 := a ^ bc
	t2 := ab ^ t0
	t3 := ad ^ b
	t4 := bcd ^ cd
	t5 := t1 ^ t4
	return ^(d ^ t2 ^ t3),
		ac ^ acd ^ bd ^ d ^ t5,
		abc ^ abd ^ t2 ^ t5,
		abd ^ t0 ^ t1 ^ t3
}

func sBox5(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ab := b & a
	ac := c & a
	ad := d & a
	bd := d & b
	cd := d & c
	abc := ac & b
	abd := bd & a
	acd := cd & a
	bcd := cd & b
	t0 := b ^ d
	t1 := ab ^ bd
	t2 := ad ^ c
	t3 := t0 ^ t2
	t4 := abd ^ cd
	return ^(t1 ^ t3),
		^(a ^ c ^ d ^ t1 ^ t4),
		^(ac ^ acd ^ bcd ^ t0 ^ t4),
		^(a ^ abc ^ acd ^ t3)
}

func sBox6(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ab := b & a
	ac := c & a
	bc := c & b
	ad := d & a
	bd := d & b
	cd := d & c
	abc := bc & a
	abd := bd & a
	bcd := cd & b
	t0 := abc ^ bcd
	t1 := b ^ c
	t2 := a ^ abd
	t3 := ac ^ d
	t4 := bc ^ t0
	t5 := t1 ^ t3
	t6 := t2 ^ t4
	t7 := ab ^ cd
	return ^(t5 ^ t6),
		^(ad ^ t1),
		^(bd ^ c ^ t6 ^ t7),
		t0 ^ t5 ^ t7
}

func sBox7(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ab := b & a
	ac := c & a
	bc := c & b
	ad := d & a
	bd := d & b
	cd := d & c
	abc := bc & a
	abd := bd & a
	acd := cd & a
	bcd := cd & b
	t0 := ad ^ c
	t1 := b ^ t0
	t2 := ab ^ acd
	t3 := bcd ^ bd
	t4 := abd ^ d
	t5 := ac ^ t1
	t6 := a ^ abc
	return ^(cd ^ t0 ^ t2 ^ t3),
		bc ^ t2 ^ t4 ^ t5,
		t1 ^ t3 ^ t4 ^ t6,
		t5 ^ t6
}

func invBox0(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ab := b & a
	ac := c & a
	bc := c & b
	ad := d & a
	bd := d & b
	cd := d & c
	abd := bd & a
	acd := cd & a
	bcd := cd & b
	t0 := acd ^ bcd
	t1 := ab ^ c
	t2 := abd ^ bc
	t3 := bd ^ t0
	t4 := cd ^ t2
	t5 := a ^ b
	return ^(ad ^ t1 ^ t3 ^ t4),
		ac ^ c ^ t3 ^ t5,
		^(d ^ t1 ^ t5),
		^(a ^ d ^ t0 ^ t4)
}

func invBox1(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ab := b & a
	ac := c & a
	bc := c & b
	ad := d & a
	bd := d & b
	abc := bc & a
	acd := ad & c
	bcd := bd & c
	t0 := abc ^ acd
	t1 := b ^ t0
	t2 := a ^ bd
	t3 := bcd ^ t1
	t4 := c ^ d
	return ^(ab ^ t2 ^ t3),
		ad ^ bd ^ t3 ^ t4,
		^(a ^ ac ^ bc ^ d ^ t1),
		t2 ^ t4
}

func invBox2(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ab := b & a
	bc := c & b
	ad := d & a
	bd := d & b
	cd := d & c
	abc := bc & a
	abd := bd & a
	acd := cd & a
	t0 := ab ^ acd
	t1 := a ^ bd
	t2 := b ^ c
	t3 := abd ^ ad
	t4 := t0 ^ t3
	return bc ^ t1 ^ t2,
		cd ^ t2 ^ t4,
		^(c ^ d ^ t1 ^ t4),
		^(abc ^ bc ^ d ^ t0)
}

func invBox3(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ab := b & a
	ac := c & a
	bc := c & b
	ad := d & a
	bd := d & b
	cd := d & c
	abc := bc & a
	abd := bd & a
	acd := cd & a
	bcd := cd & b
	t0 := ad ^ bc
	t1 := a ^ c
	t2 := bcd ^ d
	t3 := bd ^ t0
	t4 := abc ^ b
	t5 := abd ^ ac
	t6 := cd ^ t5
	return t1 ^ t2 ^ t3,
		acd ^ c ^ t0 ^ t2 ^ t4,
		ab ^ acd ^ t3 ^ t6,
		ad ^ t1 ^ t4 ^ t6
}

func invBox4(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ab := b & a
	ac := c & a
	ad := d & a
	bd := d & b
	cd := d & c
	abc := ac & b
	abd := bd & a
	acd := cd & a
	t0 := abd ^ b
	t1 := ad ^ c
	t2 := a ^ d
	t3 := acd ^ t1
	t4 := cd ^ t0
	t5 := ab ^ ac
	return ^(t2 ^ t3 ^ t4),
		d ^ t3 ^ t5,
		^(abc ^ bd ^ c ^ t0 ^ t2 ^ t5),
		ab ^ t1 ^ t4
}

func invBox5(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ab := b & a
	ac := c & a
	bc := c & b
	ad := d & a
	bd := d & b
	abc := bc & a
	abd := bd & a
	acd := ad & c
	t0 := a ^ abd
	t1 := bc ^ d
	t2 := t0 ^ t1
	t3 := abc ^ ad
	t4 := b ^ t3
	t5 := ab ^ c
	return t2,
		ac ^ t2 ^ t4,
		acd ^ bd ^ t0 ^ t5,
		^(t4 ^ t5)
}

func invBox6(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ab := b & a
	ac := c & a
	bc := c & b
	ad := d & a
	bd := d & b
	cd := d & c
	abc := bc & a
	abd := bd & a
	bcd := cd & b
	t0 := abd ^ bc
	t1 := bcd ^ t0
	t2 := a ^ t1
	t3 := ab ^ abc
	t4 := ac ^ d
	t5 := b ^ c
	return ^(t2 ^ t3 ^ t4),
		^(t4 ^ t5),
		^(b ^ bd ^ cd ^ t2),
		^(ad ^ cd ^ d ^ t1 ^ t3 ^ t5)
}

func invBox7(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	ab := b & a
	ac := c & a
	bc := c & b
	ad := d & a
	bd := d & b
	cd := d & c
	abc := bc & a
	abd := bd & a
	acd := cd & a
	bcd := cd & b
	t0 := a ^ bc
	t1 := abd ^ b
	t2 := bcd ^ bd
	t3 := cd ^ t1
	t4 := t0 ^ t2
	t5 := acd ^ d
	t6 := ad ^ c
	return ^(t3 ^ t4),
		^(t4 ^ t5 ^ t6),
		ac ^ t3 ^ t5,
		ab ^ abc ^ abd ^ bd ^ t6
}
