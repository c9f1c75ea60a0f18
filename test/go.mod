module github.com/runledger/runledger/test

go 1.26

require github.com/runledger/runledger/pkg v0.0.0

replace github.com/runledger/runledger/pkg => ../pkg
