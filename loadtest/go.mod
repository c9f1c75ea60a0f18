module github.com/runledger/runledger/loadtest

go 1.26.0

require (
	github.com/HdrHistogram/hdrhistogram-go v1.4.0
	github.com/runledger/runledger/pkg v0.0.0
)

replace github.com/runledger/runledger/pkg => ../pkg
