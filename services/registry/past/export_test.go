package past

// SetSpacing lets a test keep states closer together than firstSpacing.
func (p *Past) SetSpacing(n uint64) { p.spacing = n }

// Kept returns how many states are kept, and how many entries are between two.
func (p *Past) Kept() (states int, spacing uint64) { return len(p.kept), p.spacing }

// MaxKept bounds the number of kept states.
const MaxKept = maxKept
