// Command verifier checks an export of Runledger's registry offline. It uses the
// standard library alone, and shares no code with the server, so that it can be
// read in a quarter of an hour:
//
//	go run . -key VERIFIER-KEY [-against HEAD-FILE]... EXPORT.jsonl
//
// It checks that the key signed the tree head of the export, and that every entry
// is proved to be in that tree. When the export has the first entry and all that
// follow it, it recomputes the whole tree, and can compare it with tree heads that
// were kept before. Exit status 0 means that all of that holds.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// maxLine bounds a line of an export, in bytes.
const maxLine = 64 << 20

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "verifier:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("verifier", flag.ContinueOnError)
	keyText := flags.String("key", "", "verifier key, from somewhere else than the export")
	var against []string
	flags.Func("against", "file with a tree head that was kept before; may be repeated", func(name string) error {
		against = append(against, name)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 || *keyText == "" {
		return errors.New("want -key VERIFIER-KEY and one EXPORT.jsonl")
	}
	key, err := parseKey(*keyText)
	if err != nil {
		return err
	}
	var kept []head
	for _, name := range against {
		signed, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		h, err := openHead(signed, key)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		kept = append(kept, h)
	}
	f, err := os.Open(flags.Arg(0))
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := verify(f, key, kept)
	if err != nil {
		return fmt.Errorf("%s: %w", flags.Arg(0), err)
	}
	fmt.Fprintf(stdout, "%d entries are in the tree of %d entries that %s signed", r.entries, r.head.size, r.head.origin)
	if r.head.time != "" {
		fmt.Fprintf(stdout, " at %s", r.head.time)
	}
	fmt.Fprintln(stdout, ".")
	if r.complete {
		fmt.Fprintln(stdout, "They are all of its entries.")
	} else {
		fmt.Fprintln(stdout, "They are not all of its entries: what is left out does not show.")
	}
	if len(kept) > 0 {
		fmt.Fprintf(stdout, "The tree contains those of %d tree heads that were kept.\n", len(kept))
	}
	return nil
}

// result is what was found right.
type result struct {
	head     head
	entries  uint64
	complete bool // all entries of the tree were there
}

// line is any line of an export: the head, an entry, or the end.
type line struct {
	TreeHead    *string `json:"tree_head"`
	VerifierKey string  `json:"verifier_key"`
	Model       string  `json:"model"`

	Index    *uint64  `json:"index"`
	LeafHash digest   `json:"leaf_hash"`
	Entry    string   `json:"entry"`
	Proof    []digest `json:"proof"`

	Entries *uint64 `json:"entries"`
}

// verify checks an export. kept are tree heads that its tree must contain, which
// needs all entries up to their sizes.
func verify(export io.Reader, key key, kept []head) (result, error) {
	lines := bufio.NewScanner(export)
	lines.Buffer(nil, maxLine)
	number := 0
	next := func() (line, error) {
		number++
		if !lines.Scan() {
			return line{}, errors.Join(lines.Err(), errors.New("the export is cut off: it has no last line"))
		}
		var l line
		d := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		d.DisallowUnknownFields()
		if err := d.Decode(&l); err != nil {
			return line{}, err
		}
		if _, err := d.Token(); err != io.EOF {
			return line{}, errors.New("more than one value")
		}
		return l, nil
	}
	v := verification{kept: kept}
	slices.SortFunc(v.kept, func(a, b head) int { return int(min(max(int64(a.size)-int64(b.size), -1), 1)) })
	for {
		l, err := next()
		if err == nil {
			err = v.take(l, number, key)
		}
		if err != nil {
			return result{}, fmt.Errorf("line %d: %w", number, err)
		}
		if l.Entries != nil {
			break
		}
	}
	if lines.Scan() {
		return result{}, fmt.Errorf("line %d: it follows the last line", number+1)
	}
	return v.finish()
}

// verification is how far an export was checked.
type verification struct {
	result
	kept []head
	last uint64 // index of the last entry
	tree tree   // of the entries, as long as none is left out
}

func (v *verification) take(l line, number int, key key) error {
	switch {
	case number == 1:
		if l.TreeHead == nil {
			return errors.New("the first line has no tree head")
		}
		h, err := openHead([]byte(*l.TreeHead), key)
		v.head = h
		return errors.Join(err, v.compareKept())
	case l.Index != nil:
		return v.entry(l)
	case l.Entries != nil:
		if *l.Entries != v.entries {
			return fmt.Errorf("%d entries were to come, %d did", *l.Entries, v.entries)
		}
		return nil
	}
	return errors.New("neither an entry nor the end")
}

func (v *verification) entry(l line) error {
	index := *l.Index
	if v.entries > 0 && index <= v.last {
		return fmt.Errorf("entry %d after entry %d", index, v.last)
	}
	leaf := leafHash([]byte(l.Entry))
	if !bytes.Equal(leaf[:], l.LeafHash) {
		return fmt.Errorf("entry %d: its hash is %x, it says %x", index, leaf, l.LeafHash)
	}
	root, err := rootFrom(leaf, index, v.head.size, l.Proof)
	if err != nil {
		return fmt.Errorf("entry %d: %w", index, err)
	}
	if root != v.head.root {
		return fmt.Errorf("entry %d is not in the tree of the tree head", index)
	}
	var says struct {
		Index *uint64 `json:"index"`
	}
	if err := json.Unmarshal([]byte(l.Entry), &says); err != nil || says.Index == nil || *says.Index != index {
		return fmt.Errorf("entry %d does not say that it is", index)
	}
	if v.tree.size == index && v.entries == index {
		v.tree.add(leaf)
	}
	v.entries, v.last = v.entries+1, index
	return v.compareKept()
}

// compareKept compares the tree with the kept heads that it has come to.
func (v *verification) compareKept() error {
	for len(v.kept) > 0 && v.kept[0].size == v.tree.size {
		if root := v.tree.root(); root != v.kept[0].root {
			return fmt.Errorf("the first %d entries are not those of the tree head that was kept: the root is %x, it was %x",
				v.tree.size, root, v.kept[0].root)
		}
		v.kept = v.kept[1:]
	}
	return nil
}

func (v *verification) finish() (result, error) {
	v.complete = v.tree.size == v.head.size
	if v.complete && v.tree.root() != v.head.root {
		return result{}, errors.New("the entries are not those of the tree head")
	}
	if len(v.kept) > 0 {
		if v.kept[0].size > v.head.size {
			return result{}, fmt.Errorf("the tree has %d entries, a tree head that was kept has %d", v.head.size, v.kept[0].size)
		}
		return result{}, fmt.Errorf("cannot compare with a tree head of %d entries: the export must have all of these, and has the first %d",
			v.kept[0].size, v.tree.size)
	}
	return v.result, nil
}

// firstLine is for messages.
func firstLine(text []byte) string {
	before, _, _ := strings.Cut(string(text[:min(len(text), 100)]), "\n")
	return before
}
