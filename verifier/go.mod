module github.com/runledger/runledger/verifier

go 1.26.0
