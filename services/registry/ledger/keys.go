package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// The keys of the ledger. Numbers are 8 bytes, big endian, so that they sort.
//
//	e/<index>               canonical encoding of an entry
//	h/<stored hash index>   RFC 6962 hash, 32 bytes, as tlog.StoredHashIndex places it
//	m/<model id>            current state of a model, JSON of catalog.Model
//	v/<model id><version>   current state of a version, JSON of catalog.Version
//	w/<webhook id>          current state of a webhook, JSON of catalog.Webhook
//	x/<model id><index>     history: the entry is about the model; no value
//	n/<name>\x00<model id>  the model has or had the name; the index of the last
//	                        entry under it, all ones while it has it
//	i/<sha256 of key>       an idempotency key; the index of its entry
//	p                       position, JSON of position: written with every entry
const (
	prefixEntry       = "e/"
	prefixHash        = "h/"
	prefixModel       = "m/"
	prefixVersion     = "v/"
	prefixWebhook     = "w/"
	prefixHistory     = "x/"
	prefixName        = "n/"
	prefixIdempotency = "i/"
	keyPosition       = "p"
)

// held is the value of a name's key while the model has the name.
const held = ^uint64(0)

func numberKey(prefix string, numbers ...uint64) []byte {
	k := make([]byte, 0, len(prefix)+8*len(numbers))
	k = append(k, prefix...)
	for _, n := range numbers {
		k = binary.BigEndian.AppendUint64(k, n)
	}
	return k
}

// nameKey needs no escaping: names hold no NUL, and were one to, only models
// with such names would share a range, told apart by the key's length.
func namePrefix(name string) []byte { return append([]byte(prefixName+name), 0) }

func nameKey(name string, model uint64) []byte {
	return binary.BigEndian.AppendUint64(namePrefix(name), model)
}

func idempotencyKey(key string) []byte {
	sum := sha256.Sum256([]byte(key))
	return append([]byte(prefixIdempotency), sum[:]...)
}

func webhookKey(id string) []byte { return []byte(prefixWebhook + id) }

// after returns the first key behind all those with the prefix.
func after(prefix []byte) []byte {
	k := slices.Clone(prefix)
	for i := len(k) - 1; i >= 0; i-- {
		if k[i]++; k[i] != 0 {
			return k[:i+1]
		}
	}
	return nil
}

func number(b []byte) (uint64, bool) {
	if len(b) < 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(b[len(b)-8:]), true
}
