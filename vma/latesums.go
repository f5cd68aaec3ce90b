package vma

// lateSums has what was read of a zstdReader checked later, by whoever uses
// it, and still in the order of the stream. Decoding is what an extraction
// waits for; this takes a tenth of it elsewhere.
type lateSums struct {
	z      *zstdReader
	from   int           // what a buffer holds from there on was not handed out
	frames []frameEnding // in it
	turn   chan struct{} // closed once all that was handed out was checked
}

// A frameEnding is the end of a frame.
type frameEnding struct {
	at int // in the buffer
	frameSum
}

// maxEndings bounds how many frames end in a buffer without being checked.
// They may be empty.
const maxEndings = 1024

// newLateSums begins where a buffer of n bytes ends, that z checked.
func newLateSums(z *zstdReader, n int) *lateSums {
	l := &lateSums{z: z, from: n, turn: make(chan struct{})}
	close(l.turn)
	return l
}

// read reads into p, which follows buf.
func (l *lateSums) read(p, buf []byte) (int, error) {
	for {
		n, sum, ended, err := l.z.decode(p)
		if ended {
			l.frames = append(l.frames, frameEnding{len(buf) + n, sum})
		}
		if err == nil && len(l.frames) == maxEndings {
			err = l.handOut(buf[:len(buf)+n])()
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// handOut hands out what was read into buf to the function that it returns,
// which checks it as soon as all before it was checked. That function must be
// called, by any goroutine, and buf must not change before.
func (l *lateSums) handOut(buf []byte) (check func() error) {
	from, frames, before, after := l.from, l.frames, l.turn, make(chan struct{})
	l.from, l.frames, l.turn = len(buf), nil, after
	return func() error {
		<-before
		defer close(after)
		for _, f := range frames {
			l.z.add(buf[from:f.at])
			from = f.at
			if err := l.z.end(f.frameSum); err != nil {
				return err
			}
		}
		l.z.add(buf[from:])
		return l.z.wrong
	}
}
