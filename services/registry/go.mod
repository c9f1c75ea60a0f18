module github.com/runledger/runledger/services/registry

go 1.26.0

require github.com/runledger/runledger/pkg v0.0.0

require (
	github.com/benbjohnson/immutable v0.4.3
	golang.org/x/exp v0.0.0-20261011100332-faecfb24eb49 // indirect
)

replace github.com/runledger/runledger/pkg => ../../pkg
