module github.com/virtfmt/virtfmt/examples

go 1.26.0

require (
	github.com/klauspost/compress v1.20.3
	github.com/virtfmt/virtfmt v0.1.0
)
