package query

// HistoryToken is the token of the page of a history after a point.
func HistoryToken(runID, key string, timestamp, step int64, value float64) string {
	token, err := encodeToken(digest("history", runID, key), historyKeys, []any{timestamp, step, int64(0), value})
	if err != nil {
		panic(err)
	}
	return token
}
