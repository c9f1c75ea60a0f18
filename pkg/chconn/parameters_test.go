package chconn_test

import (
	"math"
	"slices"
	"testing"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"

	"github.com/runledger/runledger/pkg/chconn"
	"github.com/runledger/runledger/pkg/chdb/chdbtest"
)

func TestMain(m *testing.M) { chdbtest.Main(m) }

// What a statement is given is what the server has, whatever is in it.
func TestParametersArriveAsTheyAre(t *testing.T) {
	_, opts := chdbtest.Open(t)
	client, err := chconn.Dial(t.Context(), opts, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	texts := []string{"", "loss", "it's", `a\b`, `\'`, `\\N`, `\N`, "tab\tnew\nline\rnull\x00.", "a, b] [c", "{x:String}", "é 日本 🙂", `"`, "NULL", " "}
	numbers := []int64{0, -1, math.MinInt64, math.MaxInt64}
	for _, text := range texts {
		var one proto.ColStr
		var many proto.ColArr[string] = *proto.NewArray(new(proto.ColStr))
		var integers proto.ColArr[int64] = *proto.NewArray(new(proto.ColInt64))
		var integer proto.ColInt64
		var unsigned proto.ColUInt64
		err := client.Do(t.Context(), ch.Query{
			Body: "SELECT {text:String} AS text, {texts:Array(String)} AS texts, {numbers:Array(Int64)} AS numbers, {number:Int64} AS number, {unsigned:UInt64} AS unsigned",
			Parameters: chconn.Parameters(map[string]any{
				"text": text, "texts": append(slices.Clone(texts), text), "numbers": numbers, "number": int64(math.MinInt64), "unsigned": uint64(math.MaxUint64),
			}),
			Result: proto.Results{
				{Name: "text", Data: &one},
				{Name: "texts", Data: &many},
				{Name: "numbers", Data: &integers},
				{Name: "number", Data: &integer},
				{Name: "unsigned", Data: &unsigned},
			},
		})
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if got := one.Row(0); got != text {
			t.Errorf("%q arrived as %q", text, got)
		}
		if got := many.Row(0); !slices.Equal(got, append(slices.Clone(texts), text)) {
			t.Errorf("%q arrived as %q", texts, got)
		}
		if got := integers.Row(0); !slices.Equal(got, numbers) {
			t.Errorf("%v arrived as %v", numbers, got)
		}
		if integer.Row(0) != math.MinInt64 || unsigned.Row(0) != math.MaxUint64 {
			t.Errorf("%d and %d", integer.Row(0), unsigned.Row(0))
		}
	}
}
