package mlflow

// MLflow's limits on what a request may hold. Lengths count characters, not
// bytes.
const (
	// MaxBatchBytes is the size of a log-batch body, in bytes.
	MaxBatchBytes = 1_000_000
	// MaxPartsBytes is the size of a body that lists the parts of an upload, in bytes.
	MaxPartsBytes = 16 << 20
	// MaxBodyBytes is the size of any other JSON body, in bytes.
	MaxBodyBytes = 4 << 20

	MaxBatchMetrics  = 1000
	MaxBatchParams   = 100
	MaxBatchTags     = 100
	MaxBatchEntities = 1000

	MaxKeyLength                = 250
	MaxParamValueLength         = 6000
	MaxTagValueLength           = 8000
	MaxExperimentNameLength     = 500
	MaxExperimentTagValueLength = 20_000
	MaxRegistryTagValueLength   = 100_000
	MaxAliasLength              = 255
	MaxArtifactLocationLength   = 2048
	MaxLoggedModelIDLength      = 36
	MaxLoggedModelNameLength    = 500
	MaxLoggedModelsTagLength    = 100_000 // bytes
	MaxDatasetNameLength        = 500
	MaxDatasetDigestLength      = 36
	MaxDatasetSourceLength      = 65_535
	MaxDatasetSchemaLength      = 1_048_575
	MaxDatasetProfileLength     = 16_777_215
	MaxInputTagKeyLength        = 255
	MaxInputTagValueLength      = 500
)

// MLflow's page sizes.
const (
	DefaultSearchRuns = 1000
	// MaxSearchResults bounds a page of runs or of experiments.
	MaxSearchResults          = 50_000
	DefaultSearchLoggedModels = 50
	// SearchLoggedModelsForZero is the size of a page of logged models for those
	// who ask for one of 0.
	SearchLoggedModelsForZero = 100
	// MaxSearchDatasets bounds the data sets that a search returns, and
	// MaxDatasetExperiments the experiments that it may name.
	MaxSearchDatasets     = 1000
	MaxDatasetExperiments = 20
	DefaultSearchModels   = 100
	MaxSearchModels       = 1000
	DefaultSearchVersions = MaxSearchVersions
	MaxSearchVersions     = 200_000
)

// MLflow's limits on the histories of several runs in one answer.
const (
	MaxHistoryRuns   = 100
	MaxHistoryBulk   = 25_000 // points of all runs together
	MaxHistorySample = 2500   // points of each run
)
