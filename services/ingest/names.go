package ingest

import (
	"math/rand/v2"
	"strconv"
	"strings"
)

const (
	// maxRandomName is the length of a random name at most, in bytes.
	maxRandomName = 20
	// randomNames is how often a name that is too long is drawn again before it is
	// cut.
	randomNames = 10
)

// randomName returns a name for what has none, such as "quick-owl-417", drawn as
// MLflow draws it.
func randomName() string {
	var name string
	for range randomNames {
		name = draw(predicates) + "-" + draw(nouns) + "-" + strconv.Itoa(rand.IntN(1001))
		if len(name) <= maxRandomName {
			return name
		}
	}
	return name[:maxRandomName]
}

// draw returns one of the words of a list.
func draw(list string) string {
	words := strings.Fields(list)
	return words[rand.IntN(len(words))]
}

// The words are those of MLflow 3.17.2 (mlflow/utils/name_utils.py), which is
// Copyright 2018 Databricks, Inc., under the Apache License, Version 2.0
// (https://www.apache.org/licenses/LICENSE-2.0).
const (
	nouns = `
	ant ape asp auk bass bat bear bee bird boar bug calf carp cat chimp cod colt conch cow crab crane croc crow cub deer
	doe dog dolphin donkey dove duck eel elk fawn finch fish flea fly foal fowl fox frog gnat gnu goat goose grouse grub
	gull hare hawk hen hog horse hound jay kit kite koi lamb lark loon lynx mare midge mink mole moose moth mouse mule
	newt owl ox panda penguin perch pig pug quail ram rat ray robin roo rook seal shad shark sheep shoat shrew shrike
	shrimp skink skunk sloth slug smelt snail snake snipe sow sponge squid squirrel stag steed stoat stork swan tern
	toad trout turtle vole wasp whale wolf worm wren yak zebra
`
	predicates = `
	abundant able abrasive adorable adaptable adventurous aged agreeable ambitious amazing amusing angry auspicious
	awesome bald beautiful bemused bedecked big bittersweet blushing bold bouncy brawny bright burly bustling calm
	capable carefree capricious caring casual charming chill classy clean clumsy colorful crawling dapper debonair
	dashing defiant delicate delightful dazzling efficient enchanting entertaining enthused exultant fearless flawless
	fortunate fun funny gaudy gentle gifted glamorous grandiose gregarious handsome hilarious honorable illustrious
	incongruous indecisive industrious intelligent inquisitive intrigued invincible judicious kindly languid learned
	legendary likeable loud luminous luxuriant lyrical magnificent marvelous masked melodic merciful mercurial
	monumental mysterious nebulous nervous nimble nosy omniscient orderly overjoyed peaceful painted persistent placid
	polite popular powerful puzzled rambunctious rare rebellious respected resilient righteous receptive redolent
	resilient rogue rumbling salty sassy secretive selective sedate serious shivering skillful sincere skittish silent
	smiling sneaky sophisticated spiffy stately suave stylish tasteful thoughtful thundering traveling treasured
	trusting unequaled upset unique unleashed useful upbeat unruly valuable vaunted victorious welcoming whimsical
	wistful wise worried youthful zealous
`
)
