package query

import (
	"encoding/hex"
	"slices"
	"strconv"

	"github.com/google/uuid"
)

// parseRunID returns the id that the tables have for a run's, which is 32
// lower-case hexadecimal digits on the wire. There is no run with another id.
func parseRunID(s string) (id uuid.UUID, ok bool) {
	if len(s) != 2*len(id) {
		return id, false
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, false
	}
	return id, formatRunID(id) == s
}

func formatRunID(id uuid.UUID) string { return hex.EncodeToString(id[:]) }

func formatExperimentID(id uint64) string { return strconv.FormatUint(id, 10) }

// parseExperimentIDs returns the ids that experiments can have, each once.
func parseExperimentIDs(ids []string) []uint64 {
	var known []uint64
	for _, s := range ids {
		if id, err := strconv.ParseUint(s, 10, 64); err == nil && formatExperimentID(id) == s {
			known = append(known, id)
		}
	}
	slices.Sort(known)
	return slices.Compact(known)
}
