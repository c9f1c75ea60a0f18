// Package natsfiles reads the files of an embedded NATS server that is stopped,
// and changes nothing: the server itself cuts off what it cannot read. It can also
// drop what is not to be trusted: the indexes after a failed write, and the end of a
// stream that is not to be had back.
package natsfiles

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/minio/highwayhash"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// How nats-server 2.15 keeps a stream (server/filestore.go): messages one after
// the other in blocks, msgs/<n>.blk, and in msgs/index.db a summary, which is
// written now and then and when the server stops. When the summary does not fit
// the last block, the server reads every block, and cuts one off where a record
// is not what was written.
//
// A record is its length (of which the highest bit says that there are headers),
// sequence, time, length of the subject, subject, length of the headers, headers,
// data, and a hash of all that but the lengths, keyed by stream and block.
const (
	streamsDir  = "jetstream/$G/streams"
	messagesDir = "msgs"
	indexFile   = "index.db"
	blockSuffix = ".blk"

	recordHeader  = 22
	recordHash    = 8
	recordMax     = 32 << 20
	hasHeaders    = 1 << 31 // in the length
	isTombstone   = 1 << 62 // in the sequence: the message was deleted, or skipped
	isErased      = 1 << 63 // in the sequence: its data were overwritten
	indexMagic    = 11
	sequenceLimit = 1 << 40        // beyond any that was given out
	indexTrailing = 2 * recordHash // last record's hash, and that of the whole
)

// Message is a message in the files of a stream.
type Message struct {
	Seq     uint64
	Subject string
	Header  []byte // as on the wire, nil for none
	Data    []byte
}

// Span is the sequences from First to Last.
type Span struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Len returns the number of sequences.
func (s Span) Len() uint64 { return s.Last - s.First + 1 }

func (s Span) String() string {
	if s.First == s.Last {
		return strconv.FormatUint(s.First, 10)
	}
	return fmt.Sprintf("%d to %d", s.First, s.Last)
}

// Files is what Read found of a stream.
type Files struct {
	// Messages that are whole, and the sequence of the last one.
	Messages, Last uint64
	// Whole is the last sequence up to which nothing is missing or damaged, and no
	// atomic batch is cut in two.
	Whole uint64
	// Index is the last sequence that the stream's index knows of; 0 for none.
	Index uint64
	// Missing has the sequences between 1 and the greater of Last and Index of
	// which there is no whole message.
	Missing []Span
	// Damage says where in the files what is not a whole message is, in order.
	Damage []string
	// Torn is the number of bytes behind the last whole message: what a crash
	// leaves of a write that was not acknowledged.
	Torn int64
}

// Streams returns the names of the streams whose files are in the directory
// of a server, sorted.
func Streams(dataDir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dataDir, streamsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the streams: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// StoppedCleanly reports whether a stream's index fits its files, as it does when
// the server was stopped in order: the next start reads the index alone.
func StoppedCleanly(dataDir, stream string) (bool, error) {
	s, err := openFiles(dataDir, stream)
	if err != nil {
		return false, err
	}
	index, ok, err := s.index()
	if err != nil || !ok || len(s.blocks) == 0 {
		return false, err
	}
	if index.first != 1 || index.messages != index.last {
		return index.messages == 0, nil
	}
	last, err := tail(s.blockFile(s.blocks[len(s.blocks)-1]), recordHash)
	return err == nil && bytes.Equal(last, index.lastHash), err
}

// Read reads the files of a stream of a server that is stopped, calls visit,
// unless it is nil, with every whole message in order, and changes nothing. A
// message is good only until visit returns. An error of visit ends it.
func Read(dataDir, stream string, visit func(Message) error) (Files, error) {
	s, err := openFiles(dataDir, stream)
	if err != nil {
		return Files{}, err
	}
	var f Files
	for i, block := range s.blocks {
		if err := s.readBlock(block, i == len(s.blocks)-1, &f, visit); err != nil {
			return f, fmt.Errorf("read stream %s: %w", stream, err)
		}
	}
	index, ok, err := s.index()
	if err != nil {
		return f, err
	}
	if ok {
		f.Index = index.last
	}
	if f.Index > f.Last {
		f.Missing = append(f.Missing, Span{f.Last + 1, f.Index})
	}
	return f, nil
}

// DropIndexes removes the indexes of all streams of a server that is stopped, so
// that its next start reads the messages. After a failed write they may have
// messages that were never on disk, and for which nobody got an answer.
func DropIndexes(dataDir string) error {
	streams, err := Streams(dataDir)
	if err != nil {
		return err
	}
	for _, stream := range streams {
		err := os.Remove(filepath.Join(dataDir, streamsDir, stream, messagesDir, indexFile))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the index of stream %s: %w", stream, err)
		}
	}
	return nil
}

// Cut shortens the files of a stream of a server that is stopped so that it ends
// with sequence last. It calls setAside with the path of each file that is to go
// or to change, which must move it away.
func Cut(dataDir, stream string, last uint64, setAside func(path string) error) error {
	s, err := openFiles(dataDir, stream)
	if err != nil {
		return err
	}
	type place struct {
		block int
		end   int64
	}
	var at *place
	for i, block := range s.blocks {
		data, err := os.ReadFile(s.blockFile(block))
		if err != nil {
			return fmt.Errorf("cut stream %s: %w", stream, err)
		}
		h, err := s.hash(block)
		if err != nil {
			return err
		}
		for offset := 0; offset < len(data); {
			r, ok := parse(h, data[offset:])
			if !ok {
				offset++
				continue
			}
			offset += r.length
			if r.Seq == last && r.flags == 0 {
				at = &place{i, int64(offset)}
			}
		}
		if at != nil {
			break
		}
	}
	if at == nil && last > 0 {
		return fmt.Errorf("cut stream %s: it has no event %d", stream, last)
	}
	if at == nil {
		at = &place{block: -1}
	}
	paths := []string{filepath.Join(s.dir, messagesDir, indexFile)}
	for i, block := range s.blocks {
		if i >= at.block {
			paths = append(paths, s.blockFile(block))
		}
	}
	for i, path := range paths {
		keep := []byte(nil)
		if i == 1 && at.block >= 0 {
			data, err := os.ReadFile(path)
			if err != nil {
				return fmt.Errorf("cut stream %s: %w", stream, err)
			}
			keep = data[:at.end]
		}
		if keep != nil {
			if err := writeSynced(path+".cut", keep); err != nil {
				return fmt.Errorf("cut stream %s: %w", stream, err)
			}
		}
		if err := setAside(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cut stream %s: %w", stream, err)
		}
		if keep != nil {
			if err := os.Rename(path+".cut", path); err != nil {
				return fmt.Errorf("cut stream %s: %w", stream, err)
			}
		}
	}
	return nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

type streamFiles struct {
	dir, name string
	blocks    []int // numbers, in order
}

func openFiles(dataDir, stream string) (*streamFiles, error) {
	s := &streamFiles{dir: filepath.Join(dataDir, streamsDir, stream), name: stream}
	entries, err := os.ReadDir(filepath.Join(s.dir, messagesDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("files of stream %s: %w", stream, err)
	}
	for _, e := range entries {
		if text, ok := strings.CutSuffix(e.Name(), blockSuffix); ok {
			if n, err := strconv.Atoi(text); err == nil {
				s.blocks = append(s.blocks, n)
			}
		}
	}
	slices.Sort(s.blocks)
	return s, nil
}

func (s *streamFiles) blockFile(n int) string {
	return filepath.Join(s.dir, messagesDir, strconv.Itoa(n)+blockSuffix)
}

func (s *streamFiles) hash(block int) (*highwayhash.Digest64, error) {
	return newHash(fmt.Sprintf("%s-%d", s.name, block))
}

func newHash(of string) (*highwayhash.Digest64, error) {
	key := sha256.Sum256([]byte(of))
	return highwayhash.NewDigest64(key[:])
}

// record is a message and how long it is in its block.
type record struct {
	Message
	flags  uint64
	length int
}

// parse reads the record that data begin with, and returns false if it is not
// one that was written.
func parse(h *highwayhash.Digest64, data []byte) (r record, ok bool) {
	if len(data) < recordHeader+recordHash {
		return r, false
	}
	length := binary.LittleEndian.Uint32(data)
	subjectLen := int(binary.LittleEndian.Uint16(data[20:]))
	withHeaders := length&hasHeaders != 0
	r.length = int(length &^ hasHeaders)
	begin := recordHeader + subjectLen
	if withHeaders {
		begin += 4
	}
	end := r.length - recordHash
	if r.length > recordMax || r.length > len(data) || begin > end {
		return r, false
	}
	seq := binary.LittleEndian.Uint64(data[4:])
	r.flags = seq & (isTombstone | isErased)
	r.Seq = seq &^ r.flags
	if r.Seq >= sequenceLimit {
		return r, false
	}
	h.Reset()
	_, _ = h.Write(data[4:20])
	_, _ = h.Write(data[recordHeader : recordHeader+subjectLen])
	_, _ = h.Write(data[begin:end])
	if !bytes.Equal(h.Sum(nil), data[end:r.length]) {
		return r, false
	}
	r.Subject, r.Data = string(data[recordHeader:recordHeader+subjectLen]), data[begin:end]
	if withHeaders {
		n := binary.LittleEndian.Uint32(data[begin-4:])
		if int(n) > len(r.Data) {
			return r, false
		}
		r.Header, r.Data = r.Data[:n], r.Data[n:]
	}
	return r, true
}

// readBlock reads a block. Behind bytes that are no record it looks for the next
// one.
func (s *streamFiles) readBlock(block int, last bool, f *Files, visit func(Message) error) error {
	data, err := os.ReadFile(s.blockFile(block))
	if err != nil {
		return err
	}
	h, err := s.hash(block)
	if err != nil {
		return err
	}
	bad := -1 // where the bytes begin that are no record
	for offset := 0; offset < len(data); {
		r, ok := parse(h, data[offset:])
		if !ok {
			if bad < 0 {
				bad = offset
			}
			offset++
			continue
		}
		if bad >= 0 {
			f.Damage = append(f.Damage, fmt.Sprintf("%d%s, bytes %d to %d", block, blockSuffix, bad, offset-1))
			bad = -1
		}
		offset += r.length
		switch {
		case r.flags != 0:
			// The server has noticed a loss before: nobody else deletes.
			f.Damage = append(f.Damage, fmt.Sprintf("%d%s, byte %d: deleted %d", block, blockSuffix, offset-r.length, r.Seq))
			if r.Seq > f.Last {
				f.Missing = append(f.Missing, Span{f.Last + 1, r.Seq})
				f.Last = r.Seq
			}
			continue
		case r.Seq <= f.Last:
			f.Damage = append(f.Damage, fmt.Sprintf("%d%s, byte %d: %d after %d", block, blockSuffix, offset-r.length, r.Seq, f.Last))
			continue
		case r.Seq > f.Last+1:
			f.Missing = append(f.Missing, Span{f.Last + 1, r.Seq - 1})
		}
		f.Last = r.Seq
		f.Messages++
		if len(f.Missing) == 0 && len(f.Damage) == 0 && !withinBatch(r.Header) {
			f.Whole = r.Seq
		}
		if visit != nil {
			if err := visit(r.Message); err != nil {
				return err
			}
		}
	}
	switch {
	case bad < 0:
	case last:
		f.Torn = int64(len(data) - bad)
	default:
		f.Damage = append(f.Damage, fmt.Sprintf("%d%s, bytes %d to %d", block, blockSuffix, bad, len(data)-1))
	}
	return nil
}

// withinBatch tells whether the next message was committed together with this one.
func withinBatch(header []byte) bool {
	return bytes.Contains(header, []byte("\r\n"+jetstreamext.BatchIDHeader+":")) &&
		!bytes.Contains(header, []byte("\r\n"+jetstreamext.BatchCommitHeader+":"))
}

// index is the summary of a stream.
type index struct {
	messages, first, last uint64
	lastHash              []byte // of the last record in the last block
}

// index reads the summary; ok is false when there is none, or it is damaged: the
// server does without it then.
func (s *streamFiles) index() (x index, ok bool, err error) {
	data, err := os.ReadFile(filepath.Join(s.dir, messagesDir, indexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return x, false, nil
	}
	if err != nil {
		return x, false, fmt.Errorf("index of stream %s: %w", s.name, err)
	}
	if len(data) < 2+indexTrailing || data[0] != indexMagic {
		return x, false, nil
	}
	h, err := newHash(s.name)
	if err != nil {
		return x, false, err
	}
	body := data[:len(data)-recordHash]
	_, _ = h.Write(body)
	if !bytes.Equal(h.Sum(nil), data[len(body):]) {
		return x, false, nil
	}
	x.lastHash = body[len(body)-recordHash:]
	fields := bytes.NewReader(body[2:])
	var read [5]uint64 // messages, bytes, first sequence, its time, last sequence
	for i := range read {
		if read[i], err = binary.ReadUvarint(fields); err != nil {
			return x, false, nil
		}
	}
	x.messages, x.first, x.last = read[0], read[2], read[4]
	return x, true, nil
}

// tail returns the last n bytes of a file, fewer if it is shorter.
func tail(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	n = min(n, info.Size())
	data := make([]byte, n)
	_, err = f.ReadAt(data, info.Size()-n)
	return data, err
}
