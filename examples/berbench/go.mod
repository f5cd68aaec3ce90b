module github.com/virtfmt/virtfmt/examples/berbench

go 1.26.0

require (
	github.com/go-asn1-ber/asn1-ber v1.5.8
	github.com/virtfmt/virtfmt v0.0.0
)

require golang.org/x/exp v0.0.0-20260908205506-85c1c2202aba // indirect

replace github.com/virtfmt/virtfmt => ../..
