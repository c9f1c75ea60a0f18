package chconn

import (
	"fmt"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// Parameters returns the values of the place holders of a statement, in the words
// of the protocol. A value is a string, a number, or a slice of either.
//
// Its text is read twice: as a quoted string, and that as a value of tab-separated
// text, where a string in a list is quoted again. See
// https://clickhouse.com/docs/sql-reference/syntax#defining-and-using-query-parameters
func Parameters(values map[string]any) []proto.Parameter {
	escaped := strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\x00", `\0`)
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	out := make([]proto.Parameter, 0, len(values))
	for name, value := range values {
		var text string
		switch v := value.(type) {
		case string:
			text = escaped.Replace(v)
		case []string:
			list := make([]string, len(v))
			for i, e := range v {
				list[i] = "'" + quoted.Replace(e) + "'"
			}
			text = "[" + strings.Join(list, ",") + "]"
		default:
			// A slice of numbers but for its commas.
			text = strings.ReplaceAll(fmt.Sprint(v), " ", ",")
		}
		out = append(out, proto.Parameter{Key: name, Value: "'" + quoted.Replace(text) + "'"})
	}
	return out
}
