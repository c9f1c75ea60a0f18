package events

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Streams beside the run shards.
const (
	StreamExperiments = "EXPERIMENTS"
	StreamRegistry    = "REGISTRY"
)

const (
	runsPrefix      = "RUNS_"
	metadataShards  = "runledger-shards"
	maxMessageBytes = 1 << 20
	duplicateWindow = 2 * time.Minute
)

// MaxShards bounds the number of run shards.
const MaxShards = 64

// RunsStream returns the name of the stream of a run shard.
func RunsStream(shard int) string { return runsPrefix + strconv.Itoa(shard) }

// ShardOfStream returns the shard of a RUNS stream, and false for any other.
func ShardOfStream(stream string) (int, bool) {
	rest, ok := strings.CutPrefix(stream, runsPrefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(rest)
	return n, err == nil && n >= 0 && n < MaxShards
}

// Shard returns the shard of a run or a logged model among count: FNV-1a of its
// id, modulo count.
func Shard(id string, count int) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return int(h.Sum32() % uint32(count))
}

// Kind is the last token of a run's subjects.
type Kind string

// A run has one subject for everything but metrics, and one for metrics, so
// that a fold of its state does not read its metrics.
const (
	KindMeta   Kind = "meta"
	KindMetric Kind = "metric"
	KindAny    Kind = "*"
)

// Any stands for any token of a subject.
const Any = "*"

// RunSubject returns run.<shard>.<experiment>.<run>.<kind>. Experiment and run
// may be Any, for a filter.
func RunSubject(shard int, experimentID, runID string, kind Kind) string {
	return fmt.Sprintf("run.%d.%s.%s.%s", shard, experimentID, runID, kind)
}

// ExperimentOfRunSubject returns the experiment token of a run's subject, ""
// when subject is not one.
func ExperimentOfRunSubject(subject string) string { return runToken(subject, 2) }

// RunOfSubject returns the run token of a run's subject, "" when subject is not
// one.
func RunOfSubject(subject string) string { return runToken(subject, 3) }

func runToken(subject string, i int) string {
	tokens := strings.Split(subject, ".")
	if len(tokens) != 5 || tokens[0] != "run" {
		return ""
	}
	return tokens[i]
}

// LoggedModelSubject returns model.<shard>.<experiment>.<model>. Experiment and
// model may be Any, for a filter. The shard is that of the model's id.
func LoggedModelSubject(shard int, experimentID, modelID string) string {
	return fmt.Sprintf("model.%d.%s.%s", shard, experimentID, modelID)
}

// ExperimentOfLoggedModelSubject returns the experiment token of a logged
// model's subject, "" when subject is not one.
func ExperimentOfLoggedModelSubject(subject string) string {
	tokens := strings.Split(subject, ".")
	if len(tokens) != 4 || tokens[0] != "model" {
		return ""
	}
	return tokens[2]
}

// ArtifactSubject returns artifact.<shard>.<experiment>.<owner>: the owner is a
// run or a logged model, in whose shard its artifacts are. Experiment and owner
// may be Any, for a filter, and NoOwner.
func ArtifactSubject(shard int, experimentID, owner string) string {
	return fmt.Sprintf("artifact.%d.%s.%s", shard, experimentID, owner)
}

// NoOwner stands for an experiment or an owner of artifacts that is not known.
const NoOwner = "-"

// ExperimentOfArtifactSubject returns the experiment token of a subject of
// artifacts, "" when subject is not one or the experiment is not known.
func ExperimentOfArtifactSubject(subject string) string {
	tokens := strings.Split(subject, ".")
	if len(tokens) != 4 || tokens[0] != "artifact" || tokens[2] == NoOwner {
		return ""
	}
	return tokens[2]
}

// ValidLoggedModelID reports whether id has the form of a logged model's id:
// "m-" and 32 lower-case hexadecimal digits.
func ValidLoggedModelID(id string) bool {
	digits, ok := strings.CutPrefix(id, "m-")
	return ok && ValidRunID(digits)
}

// ValidRunID reports whether id has the form of a run's id: 32 lower-case
// hexadecimal digits, as uuid4().hex in Python.
func ValidRunID(id string) bool {
	return len(id) == 32 && strings.Trim(id, "0123456789abcdef") == ""
}

// ExperimentSubject returns experiment.<id>.
func ExperimentSubject(experimentID string) string { return "experiment." + experimentID }

// ModelSubject returns the subject of a registered model: a digest of its
// name, since a name may hold anything.
func ModelSubject(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "registry." + hex.EncodeToString(sum[:16])
}

// WebhookSubject returns the subject of a webhook, registry.webhook-<id>.
func WebhookSubject(id string) string { return "registry.webhook-" + id }

// StreamOptions are what differs between deployments.
type StreamOptions struct {
	Shards   int   // number of run shards, 1 to MaxShards; fixed once created
	Replicas int   // of each stream, 1 in an embedded server
	MaxBytes int64 // of each stream; at the limit writes are refused. -1: none
}

// StreamConfigs returns the configuration of every stream: append-only, never
// rolled up, refusing new messages when full.
func StreamConfigs(o StreamOptions) []jetstream.StreamConfig {
	base := func(name string, subjects ...string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name:               name,
			Subjects:           subjects,
			Retention:          jetstream.LimitsPolicy,
			Storage:            jetstream.FileStorage,
			Discard:            jetstream.DiscardNew,
			MaxBytes:           o.MaxBytes,
			MaxMsgSize:         maxMessageBytes,
			Replicas:           o.Replicas,
			Duplicates:         duplicateWindow,
			DenyDelete:         true,
			DenyPurge:          true,
			AllowDirect:        true,
			AllowAtomicPublish: true,
			Metadata:           map[string]string{},
		}
	}
	configs := []jetstream.StreamConfig{
		base(StreamExperiments, "experiment.*"),
		base(StreamRegistry, "registry.*"),
	}
	for i := range o.Shards {
		c := base(RunsStream(i), fmt.Sprintf("run.%d.>", i), fmt.Sprintf("model.%d.>", i), fmt.Sprintf("artifact.%d.>", i))
		c.Metadata[metadataShards] = strconv.Itoa(o.Shards)
		configs = append(configs, c)
	}
	return configs
}

// ShardsOf returns the shard count recorded in a RUNS stream's metadata, 0
// when there is none.
func ShardsOf(c jetstream.StreamConfig) int {
	n, err := strconv.Atoi(c.Metadata[metadataShards])
	if err != nil || n < 1 || n > MaxShards {
		return 0
	}
	return n
}
