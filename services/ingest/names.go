package ingest

import (
	"fmt"
	"math/rand/v2"
)

var (
	adjectives = []string{
		"able", "amber", "bold", "brisk", "calm", "clever", "crisp", "daring", "eager", "early", "fair", "fleet", "gentle",
		"golden", "grand", "happy", "hardy", "honest", "keen", "kind", "lively", "lucky", "mellow", "merry", "noble", "proud",
		"quick", "quiet", "rapid", "royal", "silent", "sleek", "smart", "steady", "sunny", "swift", "tidy", "trusty", "vivid",
		"warm", "wise", "witty",
	}
	nouns = []string{
		"ant", "bat", "bear", "bee", "bird", "bison", "boar", "calf", "carp", "cat", "colt", "crab", "crane", "crow", "deer",
		"dove", "duck", "eagle", "elk", "finch", "fish", "fox", "frog", "gnat", "goat", "goose", "gull", "hare", "hawk", "hen",
		"horse", "jay", "koi", "lamb", "lark", "lynx", "mole", "moose", "moth", "mouse", "newt", "owl", "pug", "quail", "ram",
		"seal", "shark", "shrew", "skunk", "sloth", "snail", "stork", "swan", "toad", "trout", "vole", "whale", "wolf", "wren",
		"yak", "zebra",
	}
)

// randomName returns a name for a run that has none, such as "quick-owl-417".
func randomName() string {
	return fmt.Sprintf("%s-%s-%d", adjectives[rand.IntN(len(adjectives))], nouns[rand.IntN(len(nouns))], rand.IntN(1000))
}
