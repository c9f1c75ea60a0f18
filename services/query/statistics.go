package query

import (
	"cmp"
	"math"
	"slices"
)

// leastCorrelated is of how many runs a correlation says anything.
const leastCorrelated = 3

// pearson returns the correlation of x and y, and whether there is one: of three
// pairs or more, of which neither side is constant.
func pearson(x, y []float64) (r float64, ok bool) {
	if len(x) < leastCorrelated {
		return 0, false
	}
	x, y = centred(x), centred(y)
	var xx, yy, xy float64
	for i := range x {
		xx += x[i] * x[i]
		yy += y[i] * y[i]
		xy += x[i] * y[i]
	}
	if xx == 0 || yy == 0 {
		return 0, false
	}
	r = xy / (math.Sqrt(xx) * math.Sqrt(yy))
	return max(-1, min(1, r)), true
}

// centred returns values less their mean, scaled so that none is outside of -2
// to 2: squares of what doubles can hold are not doubles.
func centred(values []float64) []float64 {
	least, most := slices.Min(values), slices.Max(values)
	// Halves, so that the difference of two doubles is one.
	middle, reach := least/2+most/2, most/2-least/2
	if reach == 0 {
		return make([]float64, len(values))
	}
	scaled := make([]float64, len(values))
	mean := 0.0
	for i, v := range values {
		scaled[i] = (v/2 - middle/2) / reach * 2
		mean += scaled[i] / float64(len(values))
	}
	for i := range scaled {
		scaled[i] -= mean
	}
	return scaled
}

// ranks returns the place of each value in their order, from 1; equal values
// share the mean of their places.
func ranks(values []float64) []float64 {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(values[a], values[b]) })
	ranks := make([]float64, len(values))
	for from := 0; from < len(order); {
		to := from + 1
		for to < len(order) && values[order[to]] == values[order[from]] {
			to++
		}
		for _, i := range order[from:to] {
			ranks[i] = float64(from+to+1) / 2
		}
		from = to
	}
	return ranks
}

const (
	// mostBins bounds the levels that the numbers of a parameter are divided into,
	// runsPerBin says how many runs each has at least, as a rule.
	mostBins   = 8
	runsPerBin = 5
)

// levels returns the level of each value of a parameter, as the analysis of
// variance has it: the values themselves, and one level for what is missing.
// Where all values are numbers, and there are more different ones than bins,
// the levels are bins of equally many runs; runs of one value stay together.
func levels(values []*string) []int {
	var numbers []float64
	distinct := make(map[string]int)
	for _, v := range values {
		if v == nil {
			continue
		}
		if _, ok := distinct[*v]; !ok {
			distinct[*v] = len(distinct) + 1
		}
		if f, ok := parseNumber(*v); ok {
			numbers = append(numbers, f)
		}
	}
	there := 0
	for _, v := range values {
		there += map[bool]int{true: 1}[v != nil]
	}
	bins := max(2, min(mostBins, there/runsPerBin))
	binned := len(numbers) == there && len(distinct) > bins
	places := ranks(numbers)
	level := make([]int, len(values)) // 0 is missing
	next := 0
	for i, v := range values {
		switch {
		case v == nil:
		case binned:
			level[i] = 1 + int((places[next]-0.5)*float64(bins)/float64(there))
			next++
		default:
			level[i] = distinct[*v]
		}
	}
	return level
}

// epsilonSquared returns which part of the variance of y the levels explain,
// corrected for what as many levels would explain by chance (Kelley 1935): 1 -
// (within/(n-k)) / (total/(n-1)) of n values in k levels, and 0 where that is
// negative. It is false where it says nothing: y is constant, there is one level,
// or each value has a level of its own.
func epsilonSquared(level []int, y []float64) (v float64, ok bool) {
	if len(y) == 0 {
		return 0, false
	}
	y = centred(y)
	sums, counts := make(map[int]float64), make(map[int]float64)
	total := 0.0
	for i, l := range level {
		sums[l] += y[i]
		counts[l]++
		total += y[i] * y[i]
	}
	n, k := float64(len(y)), float64(len(counts))
	if total == 0 || k < 2 || n <= k {
		return 0, false
	}
	within := 0.0
	for i, l := range level {
		d := y[i] - sums[l]/counts[l]
		within += d * d
	}
	return max(0, 1-within/(n-k)/(total/(n-1))), true
}
