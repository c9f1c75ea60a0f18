package query

import (
	"math"
	"math/bits"
)

// coordinate is the type of the places on an axis.
type coordinate interface{ int64 | float64 }

// grid divides a range of an axis into columns of one width. A column includes
// its lower end; of a float axis, the last one its upper end too.
type grid[X coordinate] struct {
	from, to X // included
	columns  int
	width    uint64 // of an integral axis
}

func newGrid[X coordinate](from, to X, columns int) grid[X] {
	g := grid[X]{from: from, to: to, columns: columns}
	if low, ok := any(from).(int64); ok {
		high, _ := any(to).(int64)
		// All integers of 64 bits are one more than the greatest.
		if g.width = (uint64(high)-uint64(low))/uint64(columns) + 1; g.width == 0 {
			g.width = math.MaxUint64
		}
	}
	return g
}

// column returns the column of a place.
func (g grid[X]) column(x X) uint32 {
	if g.columns == 1 || g.from == g.to {
		return 0
	}
	if g.width > 0 {
		return uint32((uint64(int64(x)) - uint64(int64(g.from))) / g.width)
	}
	// Halves, so that the difference of two doubles is one.
	low, high := float64(g.from)/2, float64(g.to)/2
	return uint32(min(float64(g.columns-1), math.Floor((float64(x)/2-low)/(high-low)*float64(g.columns))))
}

// leading returns how many of the places, which are in order, are in the column
// of the first.
func (g grid[X]) leading(x []X) int {
	column := g.column(x[0])
	if last := len(x) - 1; g.column(x[last]) == column {
		return len(x)
	}
	n := 1
	if g.width == 0 {
		for g.column(x[n]) == column {
			n++
		}
		return n
	}
	// No division for each place.
	behind, ends := bits.Mul64(uint64(column)+1, g.width)
	if behind > 0 || ends > uint64(int64(g.to))-uint64(int64(g.from)) {
		return len(x)
	}
	for end := X(int64(uint64(int64(g.from)) + ends)); x[n] < end; {
		n++
	}
	return n
}
