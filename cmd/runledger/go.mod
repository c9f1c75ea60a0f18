module github.com/runledger/runledger/cmd/runledger

go 1.26

require (
	github.com/runledger/runledger/pkg v0.0.0
	github.com/runledger/runledger/services/ingest v0.0.0
	github.com/runledger/runledger/services/projector v0.0.0
	github.com/runledger/runledger/services/query v0.0.0
	github.com/runledger/runledger/services/registry v0.0.0
)

replace github.com/runledger/runledger/pkg => ../../pkg

replace github.com/runledger/runledger/services/ingest => ../../services/ingest

replace github.com/runledger/runledger/services/projector => ../../services/projector

replace github.com/runledger/runledger/services/query => ../../services/query

replace github.com/runledger/runledger/services/registry => ../../services/registry
